/**
 * The metrics of docs/metrics.md. What the agent counts itself is counted here; what others count (the BFD
 * process, the kernel) is read at scrape time from where it is counted, so that nothing is counted twice.
 */
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { EngineReport } from '../../bfd/intent.ts';
import { CHAIN_LIMIT, CHAIN_REFUSED } from '../../nat/rules.ts';
import type { Trigger } from '../cadence.ts';
import type { ConntrackPressure } from '../flows/conntrack-table.ts';
import type { Translations } from '../flows/translations.ts';
import { addTranslationMetrics } from '../flows/translations-metrics.ts';
import { addKubeOvnMetrics } from '../kube-ovn/observer-metrics.ts';
import { countFailed } from '../reconcile/failures.ts';
import type { Drops } from './drops.ts';
import type { AgentView } from './status.ts';

/** What the metrics read at scrape time. */
export interface MetricsSources {
  view(): AgentView;
  /** Entries and limit of this namespace's conntrack table; undefined where the kernel does not tell. */
  conntrack(): { entries: number; limit: number } | undefined;
  /** First packets of flows that could not enter that table. */
  insertFailures(): number | undefined;
  /** What a full table has cost. */
  pressure(): ConntrackPressure | undefined;
  drops: Pick<Drops, 'refresh' | 'of'>;
  translations: Pick<Translations, 'snapshot' | 'identity'>;
}

/** RFC 5880 6.8.1 bfd.SessionState as numbered in 4.1. */
const STATE_NUMBER = { AdminDown: 0, Down: 1, Init: 2, Up: 3 } as const;

/** What drifts: a counter that was never 0 cannot be seen to begin. */
const DRIFTING = ['rule', 'route', 'address', 'chain', 'set', 'sysctl'];

const LATENESS = 'veg_bfd_transmit_lateness_seconds';

/** A histogram that somebody else keeps, in prom-client's terms. */
function latenessMetric(report: () => EngineReport | undefined) {
  return {
    name: LATENESS,
    help: 'How late BFD control packets were sent, after the moment the jittered timer named.',
    type: 'histogram',
    aggregator: 'sum',
    async get() {
      const values: { metricName?: string; labels: Record<string, string | number>; value: number }[] = [];
      const lateness = report()?.lateness;
      if (lateness !== undefined) {
        const { bounds, buckets, count, sum } = lateness;
        bounds.forEach((le, index) => {
          values.push({ metricName: `${LATENESS}_bucket`, labels: { le }, value: buckets[index] ?? 0 });
        });
        values.push({ metricName: `${LATENESS}_bucket`, labels: { le: '+Inf' }, value: count });
        values.push({ metricName: `${LATENESS}_sum`, labels: {}, value: sum });
        values.push({ metricName: `${LATENESS}_count`, labels: {}, value: count });
      }
      return { name: this.name, help: this.help, type: this.type, values, aggregator: this.aggregator };
    },
  };
}

export class Metrics {
  readonly registry = new Registry();
  readonly #reconciles: Counter<'result' | 'trigger'>;
  readonly #durations: Histogram;
  readonly #repairs: Counter<'object'>;
  readonly #conflicts: Counter<'object'>;

  constructor({ view, conntrack, insertFailures, pressure, drops, translations }: MetricsSources) {
    const registers = [this.registry];
    const gauge = (name: string, help: string, read: () => number | undefined) =>
      new Gauge({
        name,
        help,
        registers,
        collect() {
          this.reset();
          const value = read();
          if (value === undefined) this.remove();
          else this.set(value);
        },
      });

    new Gauge({
      name: 'veg_agent_build_info',
      help: 'Always 1; the version and the node are in the labels.',
      labelNames: ['version', 'node'],
      registers,
    }).set({ version: view().version, node: view().node ?? '' }, 1);
    gauge('veg_agent_policy_valid', '1 while the newest policy input is valid and in force.', () =>
      Number(view().policy.valid),
    );
    gauge(
      'veg_agent_policy_generation',
      'Policies that came into force since the start.',
      () => view().policy.generation,
    );
    gauge(
      'veg_agent_policy_last_change_timestamp_seconds',
      'When the policy in force came into force, Unix time; 0 before the first.',
      () => (view().policy.lastChange ?? 0) / 1000,
    );
    gauge('veg_agent_kernel_in_sync', '1 while the kernel was last seen as the policy says.', () =>
      Number(view().kernel.inSync),
    );
    new Gauge({
      name: 'veg_agent_objects_failed',
      help: 'Things that are not in the kernel as the policy says, by kind and by why.',
      labelNames: ['object', 'reason'],
      registers,
      collect() {
        this.reset();
        for (const { object, reason, count } of countFailed(view().kernel.failed)) {
          this.set({ object, reason }, count);
        }
      },
    });
    new Gauge({
      name: 'veg_agent_uplink_up',
      help: '1 while the way out through this external gateway works.',
      labelNames: ['gateway'],
      registers,
      collect() {
        this.reset();
        for (const { gateway: address, state } of view().uplink?.families ?? []) {
          this.set({ gateway: address }, Number(state === 'up'));
        }
      },
    });
    gauge('veg_agent_draining', '1 while the gateway is draining.', () => Number(view().draining));
    this.#reconciles = new Counter({
      name: 'veg_agent_reconcile_total',
      help: 'Reconciles by result (ok, failed) and by what asked for them.',
      labelNames: ['result', 'trigger'],
      registers,
    });
    this.#durations = new Histogram({
      name: 'veg_agent_reconcile_duration_seconds',
      help: 'How long a reconcile took, observation to last change.',
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
      registers,
    });
    this.#repairs = new Counter({
      name: 'veg_agent_drift_repairs_total',
      help: 'Things in the kernel that somebody else had changed and that were put back.',
      labelNames: ['object'],
      registers,
    });
    for (const object of DRIFTING) this.#repairs.inc({ object }, 0);
    this.#conflicts = new Counter({
      name: 'veg_agent_link_conflicts_total',
      help: 'How often somebody else has claimed an address of the external gateway, or of this one, on the link.',
      labelNames: ['object'],
      registers,
    });
    for (const object of ['gateway', 'address'] as const) this.#conflicts.inc({ object }, 0);

    const sessions = () => view().bfd?.sessions ?? [];
    const perSession = (
      name: string,
      help: string,
      read: (session: EngineReport['sessions'][number]) => number,
    ) =>
      new Gauge({
        name,
        help,
        labelNames: ['local', 'remote'],
        registers,
        collect() {
          this.reset();
          for (const session of sessions()) {
            this.set({ local: session.local, remote: session.remote }, read(session));
          }
        },
      });
    perSession(
      'veg_bfd_session_state',
      'bfd.SessionState: 0 AdminDown, 1 Down, 2 Init, 3 Up.',
      ({ state }) => STATE_NUMBER[state],
    );
    perSession('veg_bfd_session_uptime_seconds', 'Time in Up; 0 in another state.', ({ state, since }) =>
      state === 'Up' ? (Date.now() - since) / 1000 : 0,
    );
    perSession(
      'veg_bfd_detection_time_seconds',
      'Detection Time (RFC 5880 6.8.4).',
      ({ detectionTime }) => detectionTime / 1e6,
    );
    perSession(
      'veg_bfd_transmit_interval_seconds',
      'Transmit interval before jitter (RFC 5880 6.8.7); 0 while nothing is sent periodically.',
      ({ transmitInterval }) => transmitInterval / 1e6,
    );
    new Counter({
      name: 'veg_bfd_session_transitions_total',
      help: 'State changes by state left, state entered and local diagnostic.',
      labelNames: ['local', 'remote', 'from', 'to', 'diag'],
      registers,
      collect() {
        this.reset();
        for (const { local, remote, transitions } of sessions()) {
          for (const { from, to, diagnostic, count } of transitions) {
            this.inc({ local, remote, from, to, diag: diagnostic }, count);
          }
        }
      },
    });
    new Counter({
      name: 'veg_bfd_packets_total',
      help: 'BFD control packets accepted (in) and sent (out).',
      labelNames: ['local', 'remote', 'direction'],
      registers,
      collect() {
        this.reset();
        for (const { local, remote, packetsIn, packetsOut } of sessions()) {
          this.inc({ local, remote, direction: 'in' }, packetsIn);
          this.inc({ local, remote, direction: 'out' }, packetsOut);
        }
      },
    });
    new Counter({
      name: 'veg_bfd_packets_discarded_total',
      help: 'Packets at the BFD port that were discarded, by reason (RFC 5880 6.8.6).',
      labelNames: ['reason'],
      registers,
      collect() {
        this.reset();
        for (const [reason, count] of Object.entries(view().bfd?.discards ?? {})) this.inc({ reason }, count);
      },
    });
    this.registry.registerMetric(latenessMetric(() => view().bfd) as unknown as Histogram);

    gauge('veg_conntrack_entries', 'Entries in the conntrack table.', () => conntrack()?.entries);
    gauge('veg_conntrack_limit', 'What the conntrack table holds at most.', () => conntrack()?.limit);
    const kernelCounter = (name: string, help: string, read: () => number | undefined) =>
      new Counter({
        name,
        help,
        registers,
        collect() {
          this.reset();
          const value = read();
          if (value === undefined) this.remove();
          else this.inc(value);
        },
      });
    kernelCounter(
      'veg_conntrack_insert_failed_total',
      'New connections whose first packet was dropped because they could not enter the conntrack table.',
      insertFailures,
    );
    kernelCounter(
      'veg_conntrack_dropped_total',
      'New connections whose first packet was dropped because the conntrack table was full.',
      () => pressure()?.refused,
    );
    kernelCounter(
      'veg_conntrack_evicted_total',
      'Unanswered flows that the kernel ended to make room in a full conntrack table.',
      () => pressure()?.evicted,
    );
    const dropped = (name: string, help: string, chain: string) =>
      new Counter({
        name,
        help,
        labelNames: ['family'],
        registers,
        async collect() {
          await drops.refresh();
          this.reset();
          for (const { family, packets } of drops.of(chain)) this.inc({ family: `ipv${family}` }, packets);
        },
      });
    dropped(
      'veg_inbound_dropped_packets_total',
      'Packets from outside that were dropped because the policy opens no way to where they go.',
      CHAIN_REFUSED,
    );
    dropped(
      'veg_connection_limit_dropped_packets_total',
      'Packets from the VPC that were dropped because their source has as many connections as it may.',
      CHAIN_LIMIT,
    );
    addTranslationMetrics(this.registry, () => translations.snapshot);
    addKubeOvnMetrics(this.registry, {
      snapshot: () => translations.snapshot,
      identity: () => translations.identity,
      interfaces: () => view().kernel.interfaces,
    });
  }

  reconciled(result: { ok: boolean; trigger: Trigger; durationMs: number }): void {
    this.#reconciles.inc({ result: result.ok ? 'ok' : 'failed', trigger: result.trigger });
    this.#durations.observe(result.durationMs / 1000);
  }

  repaired(object: string, count: number): void {
    this.#repairs.inc({ object }, count);
  }

  conflicted(object: 'gateway' | 'address', claims: number): void {
    this.#conflicts.inc({ object }, claims);
  }

  async text(): Promise<{ type: string; body: string }> {
    return { type: this.registry.contentType, body: await this.registry.metrics() };
  }
}
