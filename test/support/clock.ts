/** A clock that stands still until it is advanced. */
import type { Clock, Timer } from '../../lib/clock.ts';

interface Pending {
  at: number;
  every: number | undefined;
  run: () => void;
}

export class ManualClock implements Clock {
  #now: number;
  readonly #pending = new Set<Pending>();

  constructor(now = 1_000_000) {
    this.#now = now;
  }

  now(): number {
    return this.#now;
  }

  after(ms: number, run: () => void): Timer {
    return this.#add({ at: this.#now + ms, every: undefined, run });
  }

  every(ms: number, run: () => void): Timer {
    return this.#add({ at: this.#now + ms, every: ms, run });
  }

  /** How many timers are armed. */
  get armed(): number {
    return this.#pending.size;
  }

  /** Lets time pass without running what is due meanwhile, as for a process that was stopped. */
  jump(ms: number): void {
    this.#now += ms;
  }

  /** Lets time pass, and runs what is due in order; each time lets promises settle. */
  async advance(ms: number): Promise<void> {
    const end = this.#now + ms;
    await settle();
    for (;;) {
      const due = [...this.#pending].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (due === undefined) break;
      this.#now = Math.max(this.#now, due.at);
      if (due.every === undefined) this.#pending.delete(due);
      // As Node does: the next one counts from now.
      else due.at = this.#now + due.every;
      due.run();
      await settle();
    }
    this.#now = end;
  }

  #add(pending: Pending): Timer {
    this.#pending.add(pending);
    return { cancel: () => void this.#pending.delete(pending), unref() {} };
  }
}

/** Lets promises that are resolved run their course. */
async function settle(): Promise<void> {
  for (let i = 0; i < 3; i++) await new Promise((resolve) => setImmediate(resolve));
}
