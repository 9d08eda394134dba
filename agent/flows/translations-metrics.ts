/** What the translation log counts, as metrics: `veg_snat_*`, `veg_forward_*` and `veg_translation_*`. */
import { Counter, Gauge, type Registry } from 'prom-client';
import { familyLabel } from '../../nat/conntrack/records.ts';
import { policyVolumes, type Treatment } from '../../nat/conntrack/totals.ts';
import type { Snapshot } from './translations-worker.ts';

/** What a policy's flows are called in metric names. */
const KINDS: { prefix: string; what: string; treatment: Treatment }[] = [
  { prefix: 'veg_snat', what: 'whose source is translated', treatment: 'snat' },
  { prefix: 'veg_forward', what: 'that are forwarded unchanged', treatment: 'forward' },
];

/** Adds the metrics. `snapshot` gives undefined while the log is off: then they have no values. */
export function addTranslationMetrics(registry: Registry, snapshot: () => Snapshot | undefined): void {
  const registers = [registry];
  for (const { prefix, what, treatment } of KINDS) {
    const policies = () => policyVolumes(snapshot()?.totals ?? [], treatment);
    for (const unit of ['packets', 'bytes'] as const) {
      new Counter({
        name: `${prefix}_${unit}_total`,
        help: `${unit === 'packets' ? 'Packets' : 'Bytes'} of flows ${what}, by policy, as the kernel counts them; out is away from the VPC.`,
        labelNames: ['policy', 'family', 'direction'],
        registers,
        collect() {
          this.reset();
          for (const { policy, family, [unit]: counted } of policies()) {
            const labels = { policy, family: familyLabel(family) };
            this.inc({ ...labels, direction: 'out' }, counted.out);
            this.inc({ ...labels, direction: 'in' }, counted.in);
          }
        },
      });
    }
    new Counter({
      name: `${prefix}_connections_total`,
      help: `Flows ${what} that began, by policy.`,
      labelNames: ['policy', 'family'],
      registers,
      collect() {
        this.reset();
        for (const { policy, family, connections } of policies()) {
          this.inc({ policy, family: familyLabel(family) }, connections);
        }
      },
    });
  }
  new Gauge({
    name: 'veg_snat_ports_in_use',
    help: 'Ports of an external address (of ICMP identifiers) that translations hold.',
    labelNames: ['external_ip', 'protocol'],
    registers,
    collect() {
      this.reset();
      for (const { externalIP, protocol, used } of snapshot()?.ports ?? []) {
        this.set({ external_ip: externalIP, protocol }, used);
      }
    },
  });
  new Counter({
    name: 'veg_snat_port_exhaustion_total',
    help: 'New connections that were dropped because no port of the external address was left for them.',
    labelNames: ['external_ip', 'protocol'],
    registers,
    collect() {
      this.reset();
      for (const { externalIP, protocol, lacking } of snapshot()?.ports ?? []) {
        this.inc({ external_ip: externalIP, protocol }, lacking);
      }
    },
  });
  new Counter({
    name: 'veg_translation_records_total',
    help: 'Translation records handed to the log, by event.',
    labelNames: ['event'],
    registers,
    collect() {
      this.reset();
      for (const [event, count] of Object.entries(snapshot()?.records ?? {})) this.inc({ event }, count);
    },
  });
  new Counter({
    name: 'veg_translation_records_lost_total',
    help: 'Translation records that were lost, by reason.',
    labelNames: ['reason'],
    registers,
    collect() {
      this.reset();
      for (const [reason, count] of Object.entries(snapshot()?.lost ?? {})) this.inc({ reason }, count);
    },
  });
  new Counter({
    name: 'veg_translation_flows_untracked_total',
    help: 'Flows that began while as many as can be held were known: they cannot be looked up while they live.',
    registers,
    collect() {
      this.reset();
      this.inc(snapshot()?.flows.untracked ?? 0);
    },
  });
}
