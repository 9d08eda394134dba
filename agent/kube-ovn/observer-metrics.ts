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

/** Adds the metrics to a registry. */
export function addKubeOvnMetrics(registry: Registry, sources: KubeOvnSources): void {
  const { snapshot, identity, interfaces, netDev = () => readFileSync('/proc/net/dev', 'utf8') } = sources;
  const add = (
    type: 'gauge' | 'counter',
    name: string,
    help: string,
    labels: string[],
    read: () => Value[],
  ): void => {
    addScraped(registry, {
      ...{ type, name: `${PREFIX}${name}`, help, labels: [...IDENTITY, ...labels] },
      read: () => read().map(([own, value]) => ({ labels: { ...identity(), ...own }, value })),
    });
  };
  const once = (value: number | undefined): Value[] => (value === undefined ? [] : [[{}, value]]);
  const each = (values: Record<string, number> | undefined, label: string): Value[] =>
    Object.entries(values ?? {}).map(([name, value]) => [{ [label]: name }, value]);

  add('gauge', 'observability_collector_up', 'Whether a collector works.', ['collector'], () => [
    [{ collector: 'conntrack' }, Number(snapshot() !== undefined)],
    [{ collector: 'interface' }, Number(interfaces() !== undefined)],
  ]);
  add('counter', 'observability_conntrack_events_total', 'Conntrack events taken.', ['event'], () => {
    const events = snapshot()?.events;
    return each(events && { new: events.new, end: events.destroy }, 'event');
  });
  add('gauge', 'observability_conntrack_cache_entries', 'Flows that are known to live.', [], () =>
    once(snapshot()?.flows.known),
  );
  add('gauge', 'observability_conntrack_cache_capacity', 'Flows that can be held.', [], () =>
    once(snapshot()?.flows.capacity),
  );
  const evictions = 'Always 0: a flow that is known stays until it ends.';
  add('counter', 'observability_conntrack_cache_evictions_total', evictions, [], () => once(snapshot() && 0));
  add('counter', 'observability_log_records_total', 'Flow records made.', ['event'], () =>
    each(snapshot()?.records, 'event'),
  );
  add('counter', 'observability_log_drops_total', 'Flow records lost.', ['reason'], () =>
    each(snapshot()?.lost, 'reason'),
  );
  add(
    'gauge',
    'observability_conntrack_accounting_available',
    'Whether the kernel counts packets.',
    [],
    () => {
      const accounting = snapshot()?.accounting;
      return once(accounting === undefined ? undefined : Number(accounting));
    },
  );

  const active = () => snapshot()?.active ?? [];
  const totals = () =>
    (snapshot()?.totals ?? []).filter(({ verdict }) => verdict === 'translated' || verdict === 'replica');
  add('gauge', 'conntrack_nat_flows_active', 'Translated flows that live.', FLOW, () =>
    active().map((kind) => [flowLabels(kind), kind.count]),
  );
  add('counter', 'conntrack_nat_flows_started_total', 'Translated flows that began.', FLOW, () =>
    totals().map((total) => [flowLabels(total), total.started]),
  );
  add('counter', 'conntrack_nat_flows_ended_total', 'Translated flows that ended.', FLOW, () =>
    totals().map((total) => [flowLabels(total), total.ended]),
  );
  const directions = (first: 0 | 1): Value[] =>
    totals().flatMap((total): Value[] => [
      [{ ...flowLabels(total), direction: 'original' }, total.counters[first]],
      [{ ...flowLabels(total), direction: 'reply' }, total.counters[first === 0 ? 2 : 3]],
    ]);
  add('counter', 'conntrack_nat_packets_total', 'Packets of translated flows.', [...FLOW, 'direction'], () =>
    directions(0),
  );
  add('counter', 'conntrack_nat_bytes_total', 'Bytes of translated flows.', [...FLOW, 'direction'], () =>
    directions(1),
  );

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
  const INTERFACE = ['interface', 'type'];
  for (const direction of ['rx', 'tx'] as const) {
    const verb = direction === 'rx' ? 'received' : 'sent';
    for (const unit of ['bytes', 'packets'] as const) {
      const what = unit === 'bytes' ? 'Bytes' : 'Packets';
      add('counter', `interface_${direction}_${unit}_total`, `${what} ${verb}.`, INTERFACE, () =>
        perInterface((counters) => once(counters[direction][unit])),
      );
    }
  }
  for (const what of ['drops', 'errors'] as const) {
    const help = `Packets ${what === 'drops' ? 'dropped' : 'with errors'}.`;
    add('counter', `interface_${what}_total`, help, [...INTERFACE, 'direction'], () =>
      perInterface(({ rx, tx }) => [
        [{ direction: 'rx' }, rx[what]],
        [{ direction: 'tx' }, tx[what]],
      ]),
    );
  }
}
