/** The metrics of a group: `veg_group_*`. */
import type { Histogram, Registry } from 'prom-client';
import { FAMILIES, type Family } from '../../lib/prefix.ts';
import { addScraped, type ScrapedMetric, single } from '../../lib/scraped.ts';
import { type ExchangeCounts, LAG_BOUNDS } from './counts.ts';
import type { GroupView } from './model.ts';

/** What the metrics read at scrape time. */
export interface GroupMetricsSource {
  views: readonly GroupView[];
  counts(family: Family): ExchangeCounts | undefined;
}

const STATE_NUMBER = { unreachable: 0, joining: 1, live: 2 } as const;
const LAG = 'veg_group_replication_lag_seconds';

const scraped = (group: GroupMetricsSource): ScrapedMetric[] => {
  const counts = (): ExchangeCounts[] => FAMILIES.flatMap((family) => group.counts(family) ?? []);
  return [
    {
      ...{ type: 'gauge', name: 'veg_group_member_state', labels: ['member'] },
      help: 'Other members of the group as this one sees them: 0 unreachable, 1 joining, 2 live.',
      read: () =>
        group.views.flatMap(({ peers }) =>
          peers.map(({ member, reachability }) => ({
            ...{ labels: { member }, value: STATE_NUMBER[reachability] },
          })),
        ),
    },
    {
      ...{ type: 'gauge', name: 'veg_group_holder', labels: ['address'] },
      help: 'Whether this member answers ARP and Neighbor Discovery for the shared address.',
      read: () =>
        group.views.flatMap(({ holders, held }) =>
          holders.map(({ address }) => ({ labels: { address }, value: Number(held.includes(address)) })),
        ),
    },
    {
      ...{ type: 'gauge', name: 'veg_group_replicas' },
      help: 'Flows of other members in the connection tracking table of this one.',
      read: () =>
        single(
          group.views.length === 0 ? undefined : group.views.reduce((sum, { replicas }) => sum + replicas, 0),
        ),
    },
    {
      ...{ type: 'counter', name: 'veg_group_updates_total', labels: ['direction'] },
      help: 'Changes of flows sent to other members (out) and received from them (in).',
      read: () =>
        counts().flatMap(({ sent, received }) => [
          { labels: { direction: 'out' }, value: sent },
          { labels: { direction: 'in' }, value: received },
        ]),
    },
    {
      ...{ type: 'counter', name: 'veg_group_rejected_total', labels: ['reason'] },
      help: 'Connections, messages and changes of flows that were refused or dropped, by reason.',
      read: () =>
        counts().flatMap(({ rejected }) =>
          Object.entries(rejected).map(([reason, value]) => ({ labels: { reason }, value })),
        ),
    },
  ];
};

/** The lag as a histogram whose counts are kept elsewhere. */
function lagMetric(group: GroupMetricsSource) {
  return {
    name: LAG,
    help: 'Time from the change of a flow to its acknowledgement by another member.',
    type: 'histogram',
    aggregator: 'sum',
    async get() {
      const values: { metricName?: string; labels: Record<string, string | number>; value: number }[] = [];
      const all = FAMILIES.flatMap((family) => group.counts(family) ?? []);
      if (all.length > 0) {
        let total = 0;
        LAG_BOUNDS.forEach((bound, i) => {
          total += all.reduce((sum, { lag }) => sum + lag.buckets[i]!, 0);
          values.push({ metricName: `${LAG}_bucket`, labels: { le: bound / 1000 }, value: total });
        });
        total += all.reduce((sum, { lag }) => sum + lag.buckets[LAG_BOUNDS.length]!, 0);
        values.push({ metricName: `${LAG}_bucket`, labels: { le: '+Inf' }, value: total });
        const milliseconds = all.reduce((sum, { lag }) => sum + lag.sum, 0);
        values.push({ metricName: `${LAG}_sum`, labels: {}, value: milliseconds / 1000 });
        values.push({ metricName: `${LAG}_count`, labels: {}, value: total });
      }
      return { name: LAG, help: this.help, type: this.type, values, aggregator: this.aggregator };
    },
  };
}

/** Adds the metrics; without a group they have no series. */
export function addGroupMetrics(registry: Registry, group: GroupMetricsSource): void {
  for (const metric of scraped(group)) addScraped(registry, metric);
  registry.registerMetric(lagMetric(group) as unknown as Histogram);
}
