/** A document of the plots for tests: two policies and others, BFD and one gateway, the last minute of five. */
import type { HistoryDocument, Values } from '../../../../agent/show/plots/recorder.ts';
import { RANGES } from '../../../../agent/show/plots/series.ts';

const { step, points } = RANGES['5m'];

/** Gaps, then these values. */
export const values = (...newest: (number | null)[]): Values => [
  ...Array<null>(points - newest.length).fill(null),
  ...newest,
];

const carried = (scale: number) => ({
  out: values(1000 * scale, null, 3000 * scale, 2000 * scale),
  in: values(10 * scale, null, 30 * scale, 20 * scale),
  connections: values(1, null, 3, 2),
  open: values(5, 5, 5, 5 * scale),
});

export const historyDocument = (end: number, more: Partial<HistoryDocument> = {}): HistoryDocument => ({
  ...{ schemaVersion: 'v1', range: '5m', step, end },
  policies: [
    { policy: 'web', treatment: 'snat', ...carried(2) },
    { policy: 'batch', treatment: 'snat', ...carried(1) },
  ],
  others: carried(3),
  connections: values(10, 20, 30, 40),
  lateness: { mean: values(0.0001, 0.0002), worst: values(0.001, 0.002) },
  roundTrips: [{ family: 4, mean: values(0.0004), worst: values(0.0123) }],
  marks: [
    { at: end - 200_000, kind: 'start', text: 'agent started', count: 1 },
    { at: end - 20_000, kind: 'repair', text: 'repaired rule', count: 3 },
  ],
  ...more,
});
