/** Discarded packets, counted by reason, and logged at a rate that a flood does not raise. */
import type { Log } from '../lib/log.ts';
import type { DiscardReason } from './constants.ts';

/** Minimum interval between log lines for one discard reason, ms. */
const LOG_PERIOD = 10_000;

export class Discards {
  readonly #log: Log;
  readonly #now: () => number;
  readonly #counts: Record<string, number> = {};
  readonly #logged = new Map<DiscardReason, { at: number; count: number }>();

  /** `now`: milliseconds of a monotonic clock. */
  constructor(log: Log, now = () => performance.now()) {
    this.#log = log;
    this.#now = now;
  }

  /** By reason, since the start of the process. */
  get counts(): Readonly<Record<string, number>> {
    return this.#counts;
  }

  add(reason: DiscardReason, from: string, local: string): void {
    const count = (this.#counts[reason] ?? 0) + 1;
    this.#counts[reason] = count;
    // Knocks, and packets of peers while this end is AdminDown, are what is expected.
    if (reason === 'empty' || reason === 'local-admin-down') return;
    const now = this.#now();
    const logged = this.#logged.get(reason);
    if (logged !== undefined && now - logged.at < LOG_PERIOD) return;
    this.#logged.set(reason, { at: now, count });
    this.#log.warn({ reason, from, local, count: count - (logged?.count ?? 0) }, 'discarded BFD packets');
  }
}
