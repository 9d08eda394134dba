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
    this.#arm();
    return {
      cancel: () => {
        this.#all.delete(due);
        this.#arm();
      },
      unref: () => {
        due.referenced = false;
        this.#arm();
      },
    };
  }

  /** Sets the one timer to what is due first. */
  #arm(): void {
    const at = Math.min(...[...this.#all].map((due) => due.at));
    if (at !== this.#wakeAt) {
      clearTimeout(this.#timer);
      this.#wakeAt = at;
      const ms = Math.max(1, Math.ceil(at - this.now()));
      this.#timer = at === Number.POSITIVE_INFINITY ? undefined : setTimeout(this.#wake, ms);
    }
    if ([...this.#all].some(({ referenced }) => referenced)) this.#timer?.ref();
    else this.#timer?.unref();
  }

  readonly #wake = (): void => {
    const now = this.now();
    for (const due of [...this.#all]) {
      const early = due.interval === undefined ? EARLY.once : EARLY.periodic;
      // What ran before it may have cancelled it.
      if (due.at > now + early || !this.#all.has(due)) continue;
      if (due.interval === undefined) this.#all.delete(due);
      else due.at = nextMultiple(Math.max(now, due.at), due.interval);
      due.run();
    }
    this.#wakeAt = Number.NaN;
    this.#arm();
  };
}

export const systemClock: Clock = new Wakings();

/** Milliseconds since the machine started: a monotonic clock that continues over restarts of the process. */
export const uptime = (): number => Number(process.hrtime.bigint() / 1000n) / 1000;

/** Which boot of the machine `uptime` belongs to. Throws when it cannot be read. */
export const bootId = (): string => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
