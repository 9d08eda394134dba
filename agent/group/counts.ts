/** Counts of the exchange that never go back although its thread starts again. Pure. */

/** Upper bounds of the buckets of the lag, ms. */
export const LAG_BOUNDS: readonly number[] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000];

/** What the metrics show; counts never go back. */
export interface ExchangeCounts {
  sent: number;
  received: number;
  /** What was refused or dropped, by reason. */
  rejected: Record<string, number>;
  /** Flows by lag: one count for each of `LAG_BOUNDS`, and one for what took longer. */
  lag: { buckets: number[]; sum: number };
}

/** The counts of all threads together. */
export function addCounts(a: ExchangeCounts, b: ExchangeCounts): ExchangeCounts {
  const reasons = new Set([...Object.keys(a.rejected), ...Object.keys(b.rejected)]);
  return {
    sent: a.sent + b.sent,
    received: a.received + b.received,
    rejected: Object.fromEntries(
      [...reasons].map((reason) => [reason, (a.rejected[reason] ?? 0) + (b.rejected[reason] ?? 0)]),
    ),
    lag: {
      buckets: a.lag.buckets.map((count, i) => count + b.lag.buckets[i]!),
      sum: a.lag.sum + b.lag.sum,
    },
  };
}
