/** The metrics of a group. */
import { Registry } from 'prom-client';
import t from 'tap';
import { type ExchangeCounts, LAG_BOUNDS } from '../../../agent/group/counts.ts';
import { addGroupMetrics, type GroupMetricsSource } from '../../../agent/group/group-metrics.ts';
import type { GroupView } from '../../../agent/group/model.ts';
import { portSlice } from '../../../agent/group/slices.ts';
import { address, type Family } from '../../../lib/prefix.ts';

const VIEW: GroupView = {
  ...{ family: 4, self: address('10.16.0.12'), state: 'live', slice: portSlice(12), ready: true },
  peers: [
    {
      ...{ member: address('10.16.0.13'), slice: portSlice(13), path: true, exchange: true },
      ...{ reachability: 'live', replicas: 7, inSync: true },
    },
  ],
  holders: [
    { address: address('172.17.0.50'), holder: address('10.16.0.12') },
    { address: address('172.17.0.51'), holder: address('10.16.0.13') },
  ],
  ...{ held: [address('172.17.0.50')], forward: [], flows: 3, replicas: 7 },
};

const textOf = (source: GroupMetricsSource): Promise<string> => {
  const registry = new Registry();
  addGroupMetrics(registry, source);
  return registry.metrics();
};

t.test('members, holders, replicas, updates, refusals and lag', async (t) => {
  const buckets = [2, 1, ...Array<number>(LAG_BOUNDS.length - 1).fill(0)];
  const counts = { sent: 5, received: 6, rejected: { key: 2 }, lag: { buckets, sum: 4 } };
  const text = await textOf({ views: [VIEW], counts: (family) => (family === 4 ? counts : undefined) });
  for (const line of [
    'veg_group_member_state{member="10.16.0.13"} 2',
    'veg_group_holder{address="172.17.0.50"} 1',
    'veg_group_holder{address="172.17.0.51"} 0',
    'veg_group_replicas 7',
    'veg_group_updates_total{direction="out"} 5',
    'veg_group_updates_total{direction="in"} 6',
    'veg_group_rejected_total{reason="key"} 2',
    'veg_group_replication_lag_seconds_bucket{le="0.001"} 2',
    'veg_group_replication_lag_seconds_bucket{le="0.002"} 3',
    'veg_group_replication_lag_seconds_bucket{le="+Inf"} 3',
    'veg_group_replication_lag_seconds_sum 0.004',
    'veg_group_replication_lag_seconds_count 3',
  ]) {
    t.ok(text.includes(`${line}\n`), line);
  }
});

t.test('without a group no series is there', async (t) => {
  // An object with methods, as the agent's group is.
  class NoGroup {
    #counts = new Map<Family, ExchangeCounts>();
    views: GroupView[] = [];
    counts(family: Family): ExchangeCounts | undefined {
      return this.#counts.get(family);
    }
  }
  const text = await textOf(new NoGroup());
  t.notMatch(text, /^veg_group/m);
});
