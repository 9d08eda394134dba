/** Metrics of what policies carry, `veg_snat_*` and `veg_forward_*`, and of the translation log, `veg_translation_*`. */
import type { Registry } from 'prom-client';
import { addScraped, type ScrapedMetric, single } from '../../lib/scraped.ts';
import { familyLabel } from '../../nat/conntrack/records.ts';
import { type PolicyVolume, policyVolumes, type Treatment } from '../../nat/conntrack/totals.ts';
import type { PolicyCounters } from './policy-counters.ts';
import type { Snapshot } from './translations-messages.ts';

/** The flows of a policy by their treatment, in names and help. */
const KINDS: { prefix: string; what: string; treatment: Treatment }[] = [
  { prefix: 'veg_snat', what: 'with a translated source', treatment: 'snat' },
  { prefix: 'veg_forward', what: 'forwarded unchanged', treatment: 'forward' },
];

/** Packets, bytes and connections of each policy. */
function policyMetrics(volumes: (treatment: Treatment) => Promise<readonly PolicyVolume[]>): ScrapedMetric[] {
  return KINDS.flatMap(({ prefix, what, treatment }): ScrapedMetric[] => {
    const policies = () => volumes(treatment);
    const volume = (unit: 'packets' | 'bytes'): ScrapedMetric => ({
      ...{ type: 'counter', name: `${prefix}_${unit}_total`, labels: ['policy', 'family', 'direction'] },
      help: `${unit === 'packets' ? 'Packets' : 'Bytes'} of flows ${what}, by policy, as the kernel counts them; out is away from the VPC.`,
      read: async () =>
        (await policies()).flatMap(({ policy, family, [unit]: counted }) =>
          (['out', 'in'] as const).map((direction) => ({
            labels: { policy, family: familyLabel(family), direction },
            value: counted[direction],
          })),
        ),
    });
    return [
      volume('packets'),
      volume('bytes'),
      {
        ...{ type: 'counter', name: `${prefix}_connections_total`, labels: ['policy', 'family'] },
        help: `Flows ${what} that began, by policy.`,
        read: async () =>
          (await policies()).map(({ policy, family, connections }) => ({
            ...{ labels: { policy, family: familyLabel(family) }, value: connections },
          })),
      },
    ];
  });
}

/** Ports of each external address. */
const portMetrics = (snapshot: () => Snapshot | undefined): ScrapedMetric[] => [
  {
    ...{ type: 'gauge', name: 'veg_snat_ports_in_use', labels: ['external_ip', 'protocol'] },
    help: 'Ports (of ICMP: identifiers) of an external address that translations use.',
    read: () =>
      (snapshot()?.ports ?? []).map(({ externalIP, protocol, used }) => ({
        ...{ labels: { external_ip: externalIP, protocol }, value: used },
      })),
  },
  {
    ...{ type: 'counter', name: 'veg_snat_port_exhaustion_total', labels: ['external_ip', 'protocol'] },
    help: 'New connections that were dropped because the external address had no port left for them.',
    read: () =>
      (snapshot()?.ports ?? []).map(({ externalIP, protocol, lacking }) => ({
        ...{ labels: { external_ip: externalIP, protocol }, value: lacking },
      })),
  },
];

/** The log itself. */
const recordMetrics = (snapshot: () => Snapshot | undefined): ScrapedMetric[] => [
  {
    ...{ type: 'counter', name: 'veg_translation_records_total', labels: ['event'] },
    help: 'Translation records written to the log, by event.',
    read: () =>
      Object.entries(snapshot()?.records ?? {}).map(([event, value]) => ({ labels: { event }, value })),
  },
  {
    ...{ type: 'counter', name: 'veg_translation_records_lost_total', labels: ['reason'] },
    help: 'Translation records that were lost, by reason.',
    read: () =>
      Object.entries(snapshot()?.lost ?? {}).map(([reason, value]) => ({ labels: { reason }, value })),
  },
  {
    ...{ type: 'counter', name: 'veg_translation_flows_untracked_total' },
    help: 'Flows that began while the table of known flows was full; they cannot be looked up while they live.',
    read: () => single(snapshot()?.flows.untracked ?? 0),
  },
];

/**
 * Adds the metrics. `snapshot` returns undefined while the log is off: then its metrics have no values.
 * @param counters what the kernel has counted; where it does not, the totals of the log count
 */
export function addTranslationMetrics(
  registry: Registry,
  snapshot: () => Snapshot | undefined,
  counters: Pick<PolicyCounters, 'refresh' | 'volumes'>,
): void {
  const volumes = async (treatment: Treatment) => {
    await counters.refresh();
    return counters.volumes(treatment) ?? policyVolumes(snapshot()?.totals ?? [], treatment);
  };
  const metrics = [...policyMetrics(volumes), ...portMetrics(snapshot), ...recordMetrics(snapshot)];
  for (const metric of metrics) addScraped(registry, metric);
}
