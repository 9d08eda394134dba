/**
 * The metrics of Kube-OVN's own gateway observer, under its names and labels, where they mean the same here: its
 * dashboards and alerts keep working.
 */
import { readFileSync } from 'node:fs';
import type { Registry } from 'prom-client';
import { addScraped } from '../../lib/scraped.ts';
import { protocolName } from '../../nat/conntrack/flow.ts';
import { familyLabel, type Identity } from '../../nat/conntrack/records.ts';
import type { Active, Snapshot } from '../flows/translations-messages.ts';

const PREFIX = 'kube_ovn_vpc_egress_gateway_';
const IDENTITY = ['namespace', 'name', 'pod', 'node'];

export interface KubeOvnSources {
  snapshot(): Snapshot | undefined;
  identity(): Identity;
  /** The gateway's interfaces; undefined until they are known. */
  interfaces(): { internal: string; external: string } | undefined;
  /** The content of /proc/net/dev. */
  netDev?(): string;
}

type Labels = Record<string, string>;
type Value = [labels: Labels, value: number];

/** A metric by its name without the prefix; the labels of the gateway come in addition. */
interface ObserverMetric {
  type: 'gauge' | 'counter';
  name: string;
  help: string;
  labels?: string[];
  read(): Value[];
}

/** Counters of an interface, as /proc/net/dev has them. */
export interface InterfaceCounters {
  rx: { bytes: number; packets: number; errors: number; drops: number };
  tx: { bytes: number; packets: number; errors: number; drops: number };
}

/** The counters of one interface in the text of /proc/net/dev; undefined when it is not there. */
export function interfaceCounters(text: string, name: string): InterfaceCounters | undefined {
  const line = text.split('\n').find((candidate) => candidate.trimStart().startsWith(`${name}:`));
  if (line === undefined) return undefined;
  const numbers = line
    .slice(line.indexOf(':') + 1)
    .trim()
    .split(/\s+/)
    .map(Number);
  const side = (at: number) => {
    const [bytes = 0, packets = 0, errors = 0, drops = 0] = numbers.slice(at);
    return { bytes, packets, errors, drops };
  };
  return { rx: side(0), tx: side(8) };
}

type Kind = Pick<Active, 'family' | 'protocol' | 'snat' | 'dnat'>;

const flowLabels = ({ family, protocol, snat, dnat }: Kind): Labels => ({
  address_family: familyLabel(family),
  protocol: protocolName(protocol),
  nat_type: snat && dnat ? 'snat_dnat' : snat ? 'snat' : 'dnat',
});

const FLOW = ['address_family', 'protocol', 'nat_type'];
const INTERFACE = ['interface', 'type'];

const unlabelled = (value: number | undefined): Value[] => (value === undefined ? [] : [[{}, value]]);

const byLabel = (values: Record<string, number> | undefined, label: string): Value[] =>
  Object.entries(values ?? {}).map(([name, value]) => [{ [label]: name }, value]);

/** The observer itself. */
const observerMetrics = ({ snapshot, interfaces }: KubeOvnSources): ObserverMetric[] => [
  {
    ...{ type: 'gauge', name: 'observability_collector_up', labels: ['collector'] },
    help: 'Whether a collector works.',
    read: () => [
      [{ collector: 'conntrack' }, Number(snapshot() !== undefined)],
      [{ collector: 'interface' }, Number(interfaces() !== undefined)],
    ],
  },
  {
    ...{ type: 'counter', name: 'observability_conntrack_events_total', labels: ['event'] },
    help: 'Conntrack events received.',
    read() {
      const events = snapshot()?.events;
      return byLabel(events && { new: events.new, end: events.destroy }, 'event');
    },
  },
  {
    ...{ type: 'gauge', name: 'observability_conntrack_cache_entries' },
    help: 'Open flows that are known.',
    read: () => unlabelled(snapshot()?.flows.known),
  },
  {
    ...{ type: 'gauge', name: 'observability_conntrack_cache_capacity' },
    help: 'Maximum number of known flows.',
    read: () => unlabelled(snapshot()?.flows.capacity),
  },
  {
    ...{ type: 'counter', name: 'observability_conntrack_cache_evictions_total' },
    help: 'Always 0: a known flow stays until it ends.',
    read: () => unlabelled(snapshot() && 0),
  },
  {
    ...{ type: 'counter', name: 'observability_log_records_total', labels: ['event'] },
    help: 'Flow records written.',
    read: () => byLabel(snapshot()?.records, 'event'),
  },
  {
    ...{ type: 'counter', name: 'observability_log_drops_total', labels: ['reason'] },
    help: 'Flow records lost.',
    read: () => byLabel(snapshot()?.lost, 'reason'),
  },
  {
    ...{ type: 'gauge', name: 'observability_conntrack_accounting_available' },
    help: 'Whether the kernel counts packets.',
    read() {
      const accounting = snapshot()?.accounting;
      return unlabelled(accounting === undefined ? undefined : Number(accounting));
    },
  },
];

/** Translated flows. */
function flowMetrics({ snapshot }: KubeOvnSources): ObserverMetric[] {
  const totals = () =>
    (snapshot()?.totals ?? []).filter(({ verdict }) => verdict === 'translated' || verdict === 'replica');
  const byDirection = (original: 0 | 1, reply: 2 | 3): Value[] =>
    totals().flatMap((total): Value[] => [
      [{ ...flowLabels(total), direction: 'original' }, total.counters[original]],
      [{ ...flowLabels(total), direction: 'reply' }, total.counters[reply]],
    ]);
  return [
    {
      ...{ type: 'gauge', name: 'conntrack_nat_flows_active', labels: FLOW },
      help: 'Open translated flows.',
      read: () => (snapshot()?.active ?? []).map((kind) => [flowLabels(kind), kind.count]),
    },
    {
      ...{ type: 'counter', name: 'conntrack_nat_flows_started_total', labels: FLOW },
      help: 'Translated flows that began.',
      read: () => totals().map((total) => [flowLabels(total), total.started]),
    },
    {
      ...{ type: 'counter', name: 'conntrack_nat_flows_ended_total', labels: FLOW },
      help: 'Translated flows that ended.',
      read: () => totals().map((total) => [flowLabels(total), total.ended]),
    },
    {
      ...{ type: 'counter', name: 'conntrack_nat_packets_total', labels: [...FLOW, 'direction'] },
      help: 'Packets of translated flows.',
      read: () => byDirection(0, 2),
    },
    {
      ...{ type: 'counter', name: 'conntrack_nat_bytes_total', labels: [...FLOW, 'direction'] },
      help: 'Bytes of translated flows.',
      read: () => byDirection(1, 3),
    },
  ];
}

/** The counters of the gateway's interfaces. */
function interfaceMetrics({ interfaces, netDev = readNetDev }: KubeOvnSources): ObserverMetric[] {
  const perInterface = (read: (counters: InterfaceCounters) => Value[]): Value[] => {
    const names = interfaces();
    if (names === undefined) return [];
    const text = netDev();
    return (['internal', 'external'] as const).flatMap((type) => {
      const counters = interfaceCounters(text, names[type]);
      const labels = { interface: names[type], type };
      return counters === undefined
        ? []
        : read(counters).map(([own, value]): Value => [{ ...labels, ...own }, value]);
    });
  };
  const traffic = (direction: 'rx' | 'tx', unit: 'bytes' | 'packets', help: string): ObserverMetric => ({
    ...{ type: 'counter', name: `interface_${direction}_${unit}_total`, help, labels: INTERFACE },
    read: () => perInterface((counters) => unlabelled(counters[direction][unit])),
  });
  const faults = (what: 'drops' | 'errors', help: string): ObserverMetric => ({
    ...{ type: 'counter', name: `interface_${what}_total`, help, labels: [...INTERFACE, 'direction'] },
    read: () =>
      perInterface(({ rx, tx }) => [
        [{ direction: 'rx' }, rx[what]],
        [{ direction: 'tx' }, tx[what]],
      ]),
  });
  return [
    traffic('rx', 'bytes', 'Bytes received.'),
    traffic('rx', 'packets', 'Packets received.'),
    traffic('tx', 'bytes', 'Bytes sent.'),
    traffic('tx', 'packets', 'Packets sent.'),
    faults('drops', 'Packets dropped.'),
    faults('errors', 'Packets with errors.'),
  ];
}

const readNetDev = (): string => readFileSync('/proc/net/dev', 'utf8');

/** Adds the metrics to a registry. */
export function addKubeOvnMetrics(registry: Registry, sources: KubeOvnSources): void {
  const metrics = [...observerMetrics(sources), ...flowMetrics(sources), ...interfaceMetrics(sources)];
  for (const { type, name, help, labels = [], read } of metrics) {
    addScraped(registry, {
      ...{ type, name: `${PREFIX}${name}`, help, labels: [...IDENTITY, ...labels] },
      read: () => read().map(([own, value]) => ({ labels: { ...sources.identity(), ...own }, value })),
    });
  }
}
