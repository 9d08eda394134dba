/** Time and timers, passed to whoever waits: tests bring a clock that they advance by hand. */

export interface Timer {
  cancel(): void;
  /** Does not keep the process alive. */
  unref(): unknown;
}

export interface Clock {
  /** Milliseconds of a monotonic clock. */
  now(): number;
  /** Runs once, in so many milliseconds. */
  after(ms: number, run: () => void): Timer;
  /** Runs every so many milliseconds. */
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
