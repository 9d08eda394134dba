/** What the translation log counts besides the tracker's totals, and keeps in its checkpoint. Pure. */
import type { PortsLacking } from '../../nat/conntrack/ports.ts';
import type { Snapshot } from './translations-messages.ts';

/** Why records are lost in the thread. All are there from the start: a counter needs a first value of 0. */
export type LossReason = 'rate_limit' | 'overrun' | 'queue_full' | 'store';

export interface Counts extends Pick<Snapshot, 'records'> {
  lost: Record<LossReason, number>;
  lacking: PortsLacking[];
  /** The kernel's `insert_failed` at the last dump. */
  insertFailures?: number;
  /** Those of the tracker. */
  events: Snapshot['events'];
  untracked: number;
}

export const noCounts = (): Counts => ({
  records: { start: 0, end: 0 },
  lost: { rate_limit: 0, overrun: 0, queue_full: 0, store: 0 },
  lacking: [],
  events: { new: 0, destroy: 0 },
  untracked: 0,
});

const isCount = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0;

const areCounts = (counts: unknown, names: object): counts is Record<string, number> =>
  typeof counts === 'object' &&
  counts !== null &&
  Object.entries(counts).every(([name, count]) => Object.hasOwn(names, name) && isCount(count));

const isLacking = (one: Partial<PortsLacking> | null): boolean =>
  isCount(one?.connections) && typeof one?.externalIP === 'string' && typeof one.protocol === 'string';

/** The counts of a checkpoint; undefined when the thread cannot have written them. Missing ones are 0. */
export function parseCounts(value: unknown): Counts | undefined {
  const none = noCounts();
  const { records, lost, lacking, insertFailures, events, untracked } = {
    ...none,
    ...(value as object),
  } as Counts;
  const wellFormed =
    areCounts(records, none.records) &&
    areCounts(lost, none.lost) &&
    areCounts(events, none.events) &&
    isCount(untracked) &&
    Array.isArray(lacking) &&
    lacking.every(isLacking) &&
    (insertFailures === undefined || isCount(insertFailures));
  if (!wellFormed) return undefined;
  return {
    records: { ...none.records, ...records },
    lost: { ...none.lost, ...lost },
    lacking,
    events: { ...none.events, ...events },
    untracked,
    ...(insertFailures !== undefined && { insertFailures }),
  };
}
