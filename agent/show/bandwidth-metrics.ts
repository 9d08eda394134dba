/** The metrics of bandwidth limits: `veg_bandwidth_*`. */
import type { Registry } from 'prom-client';
import { addScraped, type Sample, type ScrapedMetric } from '../../lib/scraped.ts';
import type { BandwidthRow, BandwidthUse } from './bandwidth.ts';

/** Registers `veg_bandwidth_*`. */
export function addBandwidthMetrics(registry: Registry, use: Pick<BandwidthUse, 'rows'>): void {
  const metric = (
    type: 'counter' | 'gauge',
    name: string,
    help: string,
    amount: (row: BandwidthRow) => number,
  ): ScrapedMetric => ({
    ...{ type, name: `veg_bandwidth_${name}`, help, labels: ['policy', 'direction'] },
    read: (): Sample[] =>
      use.rows
        .filter(({ active }) => active)
        .map((row) => ({
          labels: { policy: row.policy, direction: row.direction },
          value: amount(row),
        })),
  });
  for (const one of [
    metric('gauge', 'limit_bits', 'Bandwidth limit in the kernel, bits per second.', (row) => row.limitBits),
    metric(
      'counter',
      'passed_packets_total',
      'Packets that a bandwidth limit let pass.',
      (row) => row.passedPackets,
    ),
    metric(
      'counter',
      'passed_bytes_total',
      'Octets of frames that a bandwidth limit let pass.',
      (row) => row.passedBytes,
    ),
    metric(
      'counter',
      'dropped_packets_total',
      'Packets dropped from the queue of a bandwidth limit.',
      (row) => row.droppedPackets,
    ),
    metric(
      'counter',
      'delays_total',
      'Times that packets began to wait for a bandwidth limit.',
      (row) => row.delays,
    ),
    metric('gauge', 'queue_bytes', 'Octets that wait for a bandwidth limit.', (row) => row.queueBytes),
  ]) {
    addScraped(registry, one);
  }
}
