/** Counts of the exchange that never go back although its thread starts again. Pure. */
import type { ExchangeCounts } from './exchange.ts';

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
