import t from 'tap';
import type { Agent } from '../support/agent.ts';
import { atMost, read, since } from './group-measure.ts';

const METRICS = `# HELP veg_group_updates_total Changes
veg_group_updates_total{direction="out"} 30
veg_group_updates_total{direction="in"} 12
veg_group_rejected_total{reason="member_slow"} 5
veg_group_replication_lag_seconds_bucket{le="0.001"} 1
veg_group_replication_lag_seconds_bucket{le="0.01"} 9
veg_group_replication_lag_seconds_bucket{le="+Inf"} 10
veg_group_replication_lag_seconds_sum 0.3
veg_group_replication_lag_seconds_count 10
veg_bfd_session_transitions_total{local="10.17.0.11",remote="10.17.0.12",from="Down",to="Init",diag="0"} 1
veg_bfd_session_transitions_total{local="10.17.0.11",remote="10.17.0.12",from="Init",to="Up",diag="0"} 1
`;

t.test(
  'a reading holds what the metrics show, and the difference of two what happened between them',
  async (t) => {
    const agent = { daemon: { pid: process.pid }, http: () => ({ status: 200, body: METRICS }) };
    const reading = read(agent as unknown as Agent);
    t.match(reading, { sent: 30, received: 12, rejected: { member_slow: 5 }, transitions: 2 });
    t.same(reading.lag, { bounds: [0.001, 0.01], counts: [1, 9, 10], sum: 0.3 });
    t.match(since(reading, reading), { sent: 0, rejected: {}, transitions: 0, lag: { counts: [0, 0, 0] } });
    const silent = { ...agent, http: () => ({ status: 0, body: '' }) };
    t.throws(() => read(silent as unknown as Agent), /no metrics/);
  },
);

t.test('a share of a histogram is at most a bound, or beyond all of them', async (t) => {
  const histogram = { bounds: [1, 2, 5], counts: [50, 90, 99, 100], sum: 150 };
  t.same(
    [0, 0.5, 0.9, 0.99, 1].map((share) => atMost(histogram, share)),
    [1, 1, 2, 5, Number.POSITIVE_INFINITY],
  );
});
