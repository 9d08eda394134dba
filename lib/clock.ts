/** Time and timers, passed to code that waits: tests pass a clock that they advance. */

export interface Timer {
  cancel(): void;
  /** Does not keep the process alive. */
  unref(): unknown;
}

export interface Clock {
  /** Milliseconds of a monotonic clock. */
  now(): number;
  /** Runs once, after this many milliseconds. */
  after(ms: number, run: () => void): Timer;
  /** Runs at this interval, milliseconds. */
  every(ms: number, run: () => void): Timer;
}

export const systemClock: Clock = {
  now: () => performance.now(),
  after(ms, run) {
    const timer = setTimeout(run, ms);
    return { cancel: () => clearTimeout(timer), unref: () => timer.unref() };
  },
  every(ms, run) {
    const timer = setInterval(run, ms);
    return { cancel: () => clearInterval(timer), unref: () => timer.unref() };
  },
};
