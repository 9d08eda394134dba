import t from 'tap';
import { Metrics } from '../../../agent/show/metrics.ts';
import type { AgentView } from '../../../agent/show/status.ts';

const view: AgentView = {
  version: '1.2.3',
  node: 'worker-1',
  startedAt: 0,
  policy: {
    source: '/p',
    valid: true,
    generation: 2,
    lastChange: 1_700_000_000_500,
    errors: [],
    warnings: [],
  },
  kernel: { inSync: true, families: [], notes: [], failed: [], driftRepaired: {} },
  bfdEnabled: true,
  bfd: {
    sessions: [
      {
        id: 1,
        local: '10.16.0.12',
        remote: '10.255.255.255',
        role: 'passive',
        state: 'Init',
        remoteState: 'Down',
        localDiagnostic: 0,
        remoteDiagnostic: 0,
        localDiscriminator: 1,
        remoteDiscriminator: 2,
        since: 0,
        transmitInterval: 100_000,
        detectionTime: 500_000,
        packetsIn: 12,
        packetsOut: 34,
        transitions: [{ from: 'Down', to: 'Init', diagnostic: 0, count: 5 }],
      },
    ],
    discards: { version: 3, ttl: 4 },
    lateness: { bounds: [0.001, 0.01], buckets: [7, 9], count: 10, sum: 0.5 },
    draining: false,
  },
  draining: false,
};
let conntrack: { entries: number; limit: number } | undefined = { entries: 5, limit: 1000 };
let insertFailures = 7;
const translations = { snapshot: undefined, identity: { namespace: '', name: '', pod: '', node: '' } };
const metrics = new Metrics({
  view: () => view,
  counters: { refresh: async () => {}, volumes: () => undefined },
  conntrack: () => conntrack,
  insertFailures: () => conntrack && insertFailures,
  pressure: () => conntrack && { refused: 4, evicted: 9 },
  drops: {
    refresh: async () => {},
    of: (chain) => (chain === 'VEG-REFUSED' ? [{ family: 4, packets: 3 }] : []),
  },
  translations,
});

const has = async (line: string, why = line) => {
  const { body } = await metrics.text();
  t.ok(body.split('\n').includes(line), why);
};

await has('veg_agent_build_info{version="1.2.3",node="worker-1"} 1');
await has('veg_conntrack_dropped_total 4');
await has('veg_conntrack_evicted_total 9');
await has('veg_inbound_dropped_packets_total{family="ipv4"} 3');
await has('veg_agent_policy_valid 1');
await has('veg_agent_policy_generation 2');
await has('veg_agent_policy_last_change_timestamp_seconds 1700000000.5');
await has('veg_agent_kernel_in_sync 1');
await has('veg_bfd_session_state{local="10.16.0.12",remote="10.255.255.255"} 2', 'RFC 5880 4.1: Init is 2');
await has('veg_bfd_session_uptime_seconds{local="10.16.0.12",remote="10.255.255.255"} 0');
await has('veg_bfd_detection_time_seconds{local="10.16.0.12",remote="10.255.255.255"} 0.5');
await has('veg_bfd_packets_total{local="10.16.0.12",remote="10.255.255.255",direction="out"} 34');
await has(
  'veg_bfd_session_transitions_total{local="10.16.0.12",remote="10.255.255.255",from="Down",to="Init",diag="0"} 5',
);
await has('veg_bfd_packets_discarded_total{reason="ttl"} 4');
await has('veg_bfd_transmit_lateness_seconds_bucket{le="0.01"} 9');
await has('veg_bfd_transmit_lateness_seconds_bucket{le="+Inf"} 10');
await has('veg_bfd_transmit_lateness_seconds_count 10');
await has('veg_conntrack_limit 1000');
await has('veg_conntrack_insert_failed_total 7');
await has('veg_bfd_packets_discarded_total{reason="ttl"} 4', 'a second scrape counts nothing twice');

view.bfd!.sessions[0]!.detectionTime = 255 * 3_600_000_000;
view.bfd!.sessions[0]!.transmitInterval = 3_600_000_000;
await has('veg_bfd_detection_time_seconds{local="10.16.0.12",remote="10.255.255.255"} 918000');
await has('veg_bfd_transmit_interval_seconds{local="10.16.0.12",remote="10.255.255.255"} 3600');

metrics.reconciled({ ok: true, trigger: 'policy', durationMs: 30 });
metrics.reconciled({ ok: false, trigger: 'retry', durationMs: 30 });
metrics.repaired('rule', 2);
await has('veg_agent_reconcile_total{result="ok",trigger="policy"} 1');
await has('veg_agent_reconcile_total{result="failed",trigger="retry"} 1');
await has('veg_agent_drift_repairs_total{object="rule"} 2');
await has(
  'veg_agent_drift_repairs_total{object="chain"} 0',
  'there before the first, so that an increase is seen',
);
await has('veg_agent_reconcile_duration_seconds_count 2');

insertFailures = 2 ** 32 - 1;
await has('veg_conntrack_insert_failed_total 4294967295');
insertFailures = 4;
await has('veg_conntrack_insert_failed_total 4294967300', 'a counter of 32 bits goes on past its end');

conntrack = undefined;
const { body } = await metrics.text();
t.notMatch(
  body,
  /^veg_conntrack_(entries|insert_failed_total) /m,
  'what the kernel does not tell is absent, not 0',
);
