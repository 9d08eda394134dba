/**
 * Decides which flows get a record, and holds the lines until they are sent. At most `MAX_UNWRITTEN` records are made
 * and not yet written: a reader that hangs costs records, not memory. Pure: `now` is milliseconds of a monotonic clock.
 */
import { viewFlow } from '../../nat/conntrack/flow.ts';
import {
  compileFilters,
  type Identity,
  type LogRules,
  type RecordEvent,
  recordLine,
  TokenBucket,
} from '../../nat/conntrack/records.ts';
import type { Flow } from '../../nat/conntrack/table.ts';
import type { Counts } from './translation-counts.ts';

/** About 5 MiB. */
export const MAX_UNWRITTEN = 8192;

/** The end of a flow: when (Unix, ms), and whether it was not seen but inferred. */
export interface FlowEnd {
  at: number;
  estimated: boolean;
}

export class RecordQueue {
  readonly #counts: () => Pick<Counts, 'records' | 'lost'>;
  #log!: LogRules;
  #identity!: Identity;
  #isWanted!: (flow: Flow) => boolean;
  #bucket!: TokenBucket;
  #lines: string[] = [];
  #unwritten = 0;

  /** @param counts where records and losses are counted */
  constructor(counts: () => Pick<Counts, 'records' | 'lost'>) {
    this.#counts = counts;
  }

  /** Follows the policy. The rate limit starts over when it changes. */
  configure(log: LogRules, identity: Identity, now: number): void {
    const limit = JSON.stringify(log.rateLimit);
    if (limit !== JSON.stringify(this.#log?.rateLimit)) this.#bucket = new TokenBucket(log.rateLimit, now);
    this.#log = log;
    this.#identity = identity;
    this.#isWanted = compileFilters(log.filters);
  }

  /** Makes a record of a flow that began, or ended, or counts it as lost. */
  add(event: RecordEvent, flow: Flow, policy: string, now: number, end?: FlowEnd): void {
    if (flow.verdict === 'local' || !this.#log.events.includes(event) || !this.#isWanted(flow)) return;
    const { records, lost } = this.#counts();
    if (!this.#bucket.take(now)) {
      lost.rate_limit++;
      return;
    }
    if (this.#unwritten === MAX_UNWRITTEN) {
      lost.queue_full++;
      return;
    }
    this.#unwritten++;
    const view = viewFlow(flow, policy, end?.at);
    if (end?.estimated) view.endEstimated = true;
    this.#lines.push(recordLine(event, view, this.#identity));
    records[event]++;
  }

  /** The lines that were made since the last call. */
  takeLines(): string[] {
    const lines = this.#lines;
    this.#lines = [];
    return lines;
  }

  /** That many records were written, or lost while writing. */
  written(records: number): void {
    this.#unwritten -= records;
  }
}
