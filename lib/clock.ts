/** Time and timers, passed to code that waits: tests pass a clock that they advance. */
import { readFileSync } from 'node:fs';

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

/** How much earlier than due work may run, ms: a timer may be this much early or late, and each waking costs. */
const EARLY = { once: 1, periodic: 2 } as const;

interface Due {
  at: number;
  /** The interval of periodic work, ms; undefined: it runs once. */
  interval: number | undefined;
  run(): void;
  /** It keeps the process alive. */
  referenced: boolean;
}

/** The first multiple of the interval after `now`. */
const nextMultiple = (now: number, interval: number): number => (Math.floor(now / interval) + 1) * interval;

/**
 * Timers that wake the process as seldom as they can. Periodic work runs at the multiples of its interval, on one clock:
 * what is done five times a second and what is done once a second share their wakings, which cost an idle process more
 * than the work does. So the first run comes within an interval, not after one.
 */
export class Wakings implements Clock {
  readonly #all = new Set<Due>();
  /** How many of them keep the process alive. */
  #referenced = 0;
  /** The one timer, set to what is due first, or to what was when it was cancelled. */
  #timer: NodeJS.Timeout | undefined;
  #wakeAt = Number.POSITIVE_INFINITY;

  now(): number {
    return performance.now();
  }

  after(ms: number, run: () => void): Timer {
    return this.#add({ at: this.now() + ms, interval: undefined, run, referenced: true });
  }

  every(ms: number, run: () => void): Timer {
    return this.#add({ at: nextMultiple(this.now(), ms), interval: ms, run, referenced: true });
  }

  #add(due: Due): Timer {
    this.#all.add(due);
    this.#hold(1);
    this.#wakeBy(due.at);
    return {
      // The timer stays: Node wakes up for one that is cleared as well.
      cancel: () => {
        if (this.#all.delete(due)) this.#release(due);
      },
      unref: () => {
        if (this.#all.has(due)) this.#release(due);
      },
    };
  }

  /** It no longer keeps the process alive. */
  #release(due: Due): void {
    if (due.referenced) this.#hold(-1);
    due.referenced = false;
  }

  #hold(more: 1 | -1): void {
    this.#referenced += more;
    if (this.#referenced === 0) this.#timer?.unref();
    else if (this.#referenced === more) this.#timer?.ref();
  }

  /** Sets the timer to this time, unless it comes earlier. */
  #wakeBy(at: number): void {
    if (at >= this.#wakeAt) return;
    clearTimeout(this.#timer);
    this.#wakeAt = at;
    this.#timer = setTimeout(this.#wake, Math.max(1, Math.ceil(at - this.now())));
    if (this.#referenced === 0) this.#timer.unref();
  }

  readonly #wake = (): void => {
    const now = this.now();
    // What is added meanwhile is looked at in the end.
    this.#wakeAt = Number.NEGATIVE_INFINITY;
    try {
      for (const due of [...this.#all]) {
        const early = due.interval === undefined ? EARLY.once : EARLY.periodic;
        // What ran before it may have cancelled it.
        if (due.at > now + early || !this.#all.has(due)) continue;
        if (due.interval !== undefined) due.at = nextMultiple(Math.max(now, due.at), due.interval);
        else if (this.#all.delete(due)) this.#release(due);
        due.run();
      }
    } finally {
      this.#wakeAt = Number.POSITIVE_INFINITY;
      let first = Number.POSITIVE_INFINITY;
      for (const { at } of this.#all) if (at < first) first = at;
      this.#wakeBy(first);
    }
  };
}

export const systemClock: Clock = new Wakings();

/** Milliseconds since the machine started: a monotonic clock that continues over restarts of the process. */
export const uptime = (): number => Number(process.hrtime.bigint() / 1000n) / 1000;

/** Which boot of the machine `uptime` belongs to. Throws when it cannot be read. */
export const bootId = (): string => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
