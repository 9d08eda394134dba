import { Registry } from 'prom-client';
import t from 'tap';
import type { Snapshot } from '../../../agent/flows/translations-messages.ts';
import { addTranslationMetrics } from '../../../agent/flows/translations-metrics.ts';
import { addKubeOvnMetrics, interfaceCounters } from '../../../agent/kube-ovn/observer-metrics.ts';
import type { Total } from '../../../nat/conntrack/tracker.ts';

const total = (more: Partial<Total>): Total => ({
  verdict: 'translated',
  policy: 'web',
  family: 4,
  protocol: 6,
  snat: true,
  dnat: false,
  inbound: false,
  started: 3,
  ended: 2,
  counters: [10, 1000, 20, 2000],
  ...more,
});

const SNAPSHOT: Snapshot = {
  began: 0,
  totals: [
    total({}),
    total({ protocol: 17, started: 1, ended: 1, counters: [1, 100, 2, 200] }),
    total({ verdict: 'forwarded', policy: 'direct', snat: false, inbound: true, family: 6 }),
    total({ dnat: true, snat: false, inbound: true }),
    total({ verdict: 'local', policy: '' }),
    total({ verdict: 'replica', started: 0, ended: 0, counters: [5, 500, 0, 0] }),
  ],
  active: [{ family: 4, protocol: 6, snat: true, dnat: true, count: 4 }],
  open: [],
  ports: [
    { externalIP: '172.17.0.11', protocol: 'tcp', used: 321, of: 64_512, lacking: 0 },
    { externalIP: '172.17.0.11', protocol: 'udp', used: 424, of: 64_512, lacking: 9 },
  ],
  flows: { known: 13, capacity: 65_536, untracked: 5 },
  events: { new: 30, destroy: 20 },
  accounting: true,
  records: { start: 7, end: 6 },
  lost: { rate_limit: 2, overrun: 1 },
};

const NET_DEV = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:    2948      42    3    4    0     0          0         0     3066      35    5    6    0     0       0          0
net1:9034 139 0 0 0 0 0 0 8772 130 0 0 0 0 0 0
`;

let snapshot: Snapshot | undefined = SNAPSHOT;
const registry = new Registry();
const counters = { refresh: async () => {}, volumes: () => undefined };
addTranslationMetrics(registry, () => snapshot, counters);
addKubeOvnMetrics(registry, {
  snapshot: () => snapshot,
  identity: () => ({ namespace: 'default', name: 'gw', pod: 'gw-0', node: 'n1' }),
  interfaces: () => ({ internal: 'eth0', external: 'net1' }),
  netDev: () => NET_DEV,
});
const lines = async () => (await registry.metrics()).split('\n');
const has = async (...wanted: string[]) => {
  const there = await lines();
  for (const line of wanted) t.ok(there.includes(line), line);
};

await has(
  'veg_snat_packets_total{policy="web",family="ipv4",direction="out"} 16',
  'veg_snat_packets_total{policy="web",family="ipv4",direction="in"} 22',
  'veg_snat_bytes_total{policy="web",family="ipv4",direction="out"} 1600',
  'veg_snat_bytes_total{policy="web",family="ipv4",direction="in"} 2200',
  'veg_snat_connections_total{policy="web",family="ipv4"} 4',
  // Opened from outside: the original direction is inward.
  'veg_forward_packets_total{policy="direct",family="ipv6",direction="in"} 10',
  'veg_forward_bytes_total{policy="direct",family="ipv6",direction="out"} 2000',
  'veg_forward_connections_total{policy="direct",family="ipv6"} 3',
  'veg_snat_ports_in_use{external_ip="172.17.0.11",protocol="tcp"} 321',
  'veg_snat_port_exhaustion_total{external_ip="172.17.0.11",protocol="tcp"} 0',
  'veg_snat_port_exhaustion_total{external_ip="172.17.0.11",protocol="udp"} 9',
  'veg_translation_records_total{event="start"} 7',
  'veg_translation_records_lost_total{reason="overrun"} 1',
  'veg_translation_flows_untracked_total 5',
);
const WHO = 'namespace="default",name="gw",pod="gw-0",node="n1"';
const FLOW = `${WHO},address_family="ipv4",protocol="tcp"`;
await has(
  `kube_ovn_vpc_egress_gateway_observability_collector_up{${WHO},collector="conntrack"} 1`,
  `kube_ovn_vpc_egress_gateway_observability_conntrack_events_total{${WHO},event="end"} 20`,
  `kube_ovn_vpc_egress_gateway_observability_conntrack_cache_entries{${WHO}} 13`,
  `kube_ovn_vpc_egress_gateway_observability_conntrack_cache_capacity{${WHO}} 65536`,
  `kube_ovn_vpc_egress_gateway_observability_log_records_total{${WHO},event="start"} 7`,
  `kube_ovn_vpc_egress_gateway_observability_log_drops_total{${WHO},reason="rate_limit"} 2`,
  `kube_ovn_vpc_egress_gateway_observability_conntrack_accounting_available{${WHO}} 1`,
  `kube_ovn_vpc_egress_gateway_conntrack_nat_flows_active{${FLOW},nat_type="snat_dnat"} 4`,
  `kube_ovn_vpc_egress_gateway_conntrack_nat_flows_started_total{${FLOW},nat_type="snat"} 3`,
  `kube_ovn_vpc_egress_gateway_conntrack_nat_flows_ended_total{${FLOW},nat_type="dnat"} 2`,
  `kube_ovn_vpc_egress_gateway_conntrack_nat_packets_total{${FLOW},nat_type="snat",direction="original"} 15`,
  `kube_ovn_vpc_egress_gateway_conntrack_nat_bytes_total{${FLOW},nat_type="snat",direction="reply"} 2000`,
  `kube_ovn_vpc_egress_gateway_interface_rx_bytes_total{${WHO},interface="eth0",type="internal"} 2948`,
  `kube_ovn_vpc_egress_gateway_interface_tx_packets_total{${WHO},interface="net1",type="external"} 130`,
  `kube_ovn_vpc_egress_gateway_interface_drops_total{${WHO},interface="eth0",type="internal",direction="tx"} 6`,
  `kube_ovn_vpc_egress_gateway_interface_errors_total{${WHO},interface="eth0",type="internal",direction="rx"} 3`,
);
t.same(await lines(), await lines(), 'a second scrape counts nothing twice');
t.notOk(
  (await lines()).some((line) => line.includes('local')),
  "the pod's own flows are not there",
);
t.equal(interfaceCounters(NET_DEV, 'eth'), undefined, 'a name is a whole name');

snapshot = undefined;
const without = (await lines()).filter((line) => /^(veg_snat|veg_forward|kube_ovn.*nat_)/.test(line));
t.same(without, [], 'without a log there are no values, not zeros');
await has(`kube_ovn_vpc_egress_gateway_observability_collector_up{${WHO},collector="conntrack"} 0`);
