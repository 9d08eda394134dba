/**
 * The metrics of docs/metrics.md. The agent counts reconciles, repairs and conflicts here. Counts of the BFD process and
 * the kernel are read at each scrape from their source, so that nothing is counted twice.
 */
import { Counter, Histogram, Registry } from 'prom-client';
import type { EngineReport } from '../../bfd/intent.ts';
import { unending } from '../../lib/counter.ts';
import { FAMILIES, type Family } from '../../lib/prefix.ts';
import { addScraped, type Sample, type ScrapedMetric, single } from '../../lib/scraped.ts';
import { CHAIN_LIMIT, CHAIN_REFUSED } from '../../nat/rules.ts';
import type { Trigger } from '../cadence.ts';
import type { ConntrackPressure } from '../flows/conntrack-table.ts';
import type { PolicyCounters } from '../flows/policy-counters.ts';
import type { Translations } from '../flows/translations.ts';
import { addTranslationMetrics } from '../flows/translations-metrics.ts';
import { addKubeOvnMetrics } from '../kube-ovn/observer-metrics.ts';
import { countFailed } from '../reconcile/failures.ts';
import type { Drops } from './drops.ts';
import type { AgentView } from './status.ts';

/** What the metrics read at scrape time. */
export interface MetricsSources {
  view(): AgentView;
  /** Entries and limit of this namespace's conntrack table; undefined where the kernel does not report them. */
  conntrack(): { entries: number; limit: number } | undefined;
  /** Flows whose first packet could not enter that table. */
  insertFailures(): number | undefined;
  /** Flows that a full table refused or evicted. */
  pressure(): ConntrackPressure | undefined;
  drops: Pick<Drops, 'refresh' | 'of'>;
  translations: Pick<Translations, 'snapshot' | 'identity'>;
  counters: Pick<PolicyCounters, 'refresh' | 'volumes'>;
}

/** RFC 5880 6.8.1 bfd.SessionState as numbered in 4.1. */
const STATE_NUMBER = { AdminDown: 0, Down: 1, Init: 2, Up: 3 } as const;

/** Kinds of objects that can drift. */
const DRIFTING = [
  'rule',
  'route',
  'address',
  'link',
  'chain',
  'set',
  'sysctl',
  'qdisc',
  'class',
  'classifier',
];

const LATENESS = 'veg_bfd_transmit_lateness_seconds';

const bit = (condition: boolean): Sample[] => single(Number(condition));

/** The agent, its policy and what it keeps in the kernel. */
const agentMetrics = (view: () => AgentView): ScrapedMetric[] => [
  {
    ...{ type: 'gauge', name: 'veg_agent_build_info', labels: ['version', 'node'] },
    help: 'Version and node of the agent, in the labels; the value is 1.',
    read: () => [{ labels: { version: view().version, node: view().node ?? '' }, value: 1 }],
  },
  {
    ...{ type: 'gauge', name: 'veg_agent_policy_valid' },
    help: 'Whether the newest policy input is valid and in force.',
    read: () => bit(view().policy.valid),
  },
  {
    ...{ type: 'gauge', name: 'veg_agent_policy_generation' },
    help: 'Number of policies applied since the start.',
    read: () => single(view().policy.generation),
  },
  {
    ...{ type: 'gauge', name: 'veg_agent_policy_last_change_timestamp_seconds' },
    help: 'Time when the policy in force was applied, Unix time; 0 before the first.',
    read: () => single((view().policy.lastChange ?? 0) / 1000),
  },
  {
    ...{ type: 'gauge', name: 'veg_agent_kernel_in_sync' },
    help: 'Whether the last observation found the kernel as the policy wants it.',
    read: () => bit(view().kernel.inSync),
  },
  {
    ...{ type: 'gauge', name: 'veg_agent_objects_failed', labels: ['object', 'reason'] },
    help: 'Objects that are not in the kernel as the policy wants them, by kind and reason.',
    read: () =>
      countFailed(view().kernel.failed).map(({ object, reason, count }) => ({
        ...{ labels: { object, reason }, value: count },
      })),
  },
  {
    ...{ type: 'gauge', name: 'veg_agent_uplink_up', labels: ['gateway'] },
    help: 'Whether the uplink through this external gateway works.',
    read: () =>
      (view().uplink?.families ?? []).map(({ gateway, state }) => ({
        ...{ labels: { gateway }, value: Number(state === 'up') },
      })),
  },
  {
    ...{ type: 'gauge', name: 'veg_agent_draining' },
    help: 'Whether the gateway is draining.',
    read: () => bit(view().draining),
  },
];

type Session = EngineReport['sessions'][number];

/** The BFD sessions, as the BFD process reports them. */
function bfdMetrics(view: () => AgentView): ScrapedMetric[] {
  const sessions = (): Session[] => view().bfd?.sessions ?? [];
  const gauge = (name: string, help: string, valueIn: (session: Session) => number): ScrapedMetric => ({
    ...{ type: 'gauge', name, help, labels: ['local', 'remote'] },
    read: () =>
      sessions().map((session) => ({
        labels: { local: session.local, remote: session.remote },
        value: valueIn(session),
      })),
  });
  return [
    gauge(
      'veg_bfd_session_state',
      'bfd.SessionState: 0 AdminDown, 1 Down, 2 Init, 3 Up.',
      ({ state }) => STATE_NUMBER[state],
    ),
    gauge('veg_bfd_session_uptime_seconds', 'Time in Up; 0 in another state.', ({ state, since }) =>
      state === 'Up' ? (Date.now() - since) / 1000 : 0,
    ),
    gauge(
      'veg_bfd_detection_time_seconds',
      'Detection Time (RFC 5880 6.8.4).',
      ({ detectionTime }) => detectionTime / 1e6,
    ),
    gauge(
      'veg_bfd_transmit_interval_seconds',
      'Transmit interval before jitter (RFC 5880 6.8.7); 0 while nothing is sent periodically.',
      ({ transmitInterval }) => transmitInterval / 1e6,
    ),
    {
      ...{ type: 'counter', name: 'veg_bfd_session_transitions_total' },
      help: 'State changes by state left, state entered and local diagnostic.',
      labels: ['local', 'remote', 'from', 'to', 'diag'],
      read: () =>
        sessions().flatMap(({ local, remote, transitions }) =>
          transitions.map(({ from, to, diagnostic: diag, count }) => ({
            ...{ labels: { local, remote, from, to, diag }, value: count },
          })),
        ),
    },
    {
      ...{ type: 'counter', name: 'veg_bfd_packets_total', labels: ['local', 'remote', 'direction'] },
      help: 'BFD control packets accepted (in) and sent (out).',
      read: () =>
        sessions().flatMap(({ local, remote, packetsIn, packetsOut }) => [
          { labels: { local, remote, direction: 'in' }, value: packetsIn },
          { labels: { local, remote, direction: 'out' }, value: packetsOut },
        ]),
    },
    {
      ...{ type: 'counter', name: 'veg_bfd_packets_discarded_total', labels: ['reason'] },
      help: 'Packets to the BFD port that were discarded, by reason (RFC 5880 6.8.6).',
      read: () =>
        Object.entries(view().bfd?.discards ?? {}).map(([reason, value]) => ({ labels: { reason }, value })),
    },
  ];
}

/** The conntrack table of this network namespace. */
function conntrackMetrics({
  conntrack,
  insertFailures,
  pressure,
}: Pick<MetricsSources, 'conntrack' | 'insertFailures' | 'pressure'>): ScrapedMetric[] {
  // A sum that goes back would count as one that begins anew.
  const failures = unending(insertFailures);
  const refused = unending(() => pressure()?.refused);
  const evicted = unending(() => pressure()?.evicted);
  return [
    {
      ...{ type: 'gauge', name: 'veg_conntrack_entries' },
      help: 'Entries in the conntrack table.',
      read: () => single(conntrack()?.entries),
    },
    {
      ...{ type: 'gauge', name: 'veg_conntrack_limit' },
      help: 'Maximum number of entries in the conntrack table.',
      read: () => single(conntrack()?.limit),
    },
    {
      ...{ type: 'counter', name: 'veg_conntrack_insert_failed_total' },
      help: 'New connections whose first packet was dropped because they could not enter the conntrack table.',
      read: () => single(failures()),
    },
    {
      ...{ type: 'counter', name: 'veg_conntrack_dropped_total' },
      help: 'New connections whose first packet was dropped because the conntrack table was full.',
      read: () => single(refused()),
    },
    {
      ...{ type: 'counter', name: 'veg_conntrack_evicted_total' },
      help: 'Unanswered flows that the kernel removed to make room in a full conntrack table.',
      read: () => single(evicted()),
    },
  ];
}

/** Packets dropped by rules of the agent. */
function dropMetrics(drops: MetricsSources['drops']): ScrapedMetric[] {
  const dropped = (name: string, help: string, chain: string): ScrapedMetric => ({
    ...{ type: 'counter', name, help, labels: ['family'] },
    async read() {
      await drops.refresh();
      return drops.of(chain).map(({ family, packets }) => ({
        ...{ labels: { family: `ipv${family}` }, value: packets },
      }));
    },
  });
  return [
    dropped(
      'veg_inbound_dropped_packets_total',
      'Packets from outside dropped because the policy opens no way to their destination, by family.',
      CHAIN_REFUSED,
    ),
    dropped(
      'veg_connection_limit_dropped_packets_total',
      'Packets from the VPC dropped because their source is at its connection limit, by family.',
      CHAIN_LIMIT,
    ),
  ];
}

/** The lateness of sent packets: a histogram that the BFD process keeps, in prom-client's terms. */
function latenessMetric(report: () => EngineReport | undefined) {
  return {
    name: LATENESS,
    help: 'Delay of sent BFD control packets after the time of the jittered timer.',
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

/** What the agent counts itself. */
function ownCounters(registry: Registry) {
  const registers = [registry];
  const counters = {
    reconciles: new Counter({
      name: 'veg_agent_reconcile_total',
      help: 'Reconciles by result (ok, failed) and trigger.',
      labelNames: ['result', 'trigger'],
      registers,
    }),
    durations: new Histogram({
      name: 'veg_agent_reconcile_duration_seconds',
      help: 'Duration of a reconcile, from observation to last change.',
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
      registers,
    }),
    repairs: new Counter({
      name: 'veg_agent_drift_repairs_total',
      help: 'Objects in the kernel that another program had changed and the agent restored, by kind.',
      labelNames: ['object'],
      registers,
    }),
    conflicts: new Counter({
      name: 'veg_agent_link_conflicts_total',
      help: 'Claims of another host on the link to an address of the external gateway or of this gateway, by whose it is.',
      labelNames: ['object'],
      registers,
    }),
    roundTrips: new Histogram({
      name: 'veg_agent_uplink_round_trip_seconds',
      help: 'Time from a probe of the uplink to its answer, by family.',
      labelNames: ['family'],
      buckets: [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5],
      registers,
    }),
  };
  // A counter that was never 0 has no increase.
  for (const object of DRIFTING) counters.repairs.inc({ object }, 0);
  for (const family of FAMILIES) counters.roundTrips.zero({ family: `ipv${family}` });
  for (const object of ['gateway', 'address'] as const) counters.conflicts.inc({ object }, 0);
  return counters;
}

export class Metrics {
  readonly registry = new Registry();
  readonly #own = ownCounters(this.registry);

  constructor(sources: MetricsSources) {
    const { view, translations, counters } = sources;
    const scraped = [
      ...agentMetrics(view),
      ...bfdMetrics(view),
      ...conntrackMetrics(sources),
      ...dropMetrics(sources.drops),
    ];
    for (const metric of scraped) addScraped(this.registry, metric);
    this.registry.registerMetric(latenessMetric(() => view().bfd) as unknown as Histogram);
    addTranslationMetrics(this.registry, () => translations.snapshot, counters);
    addKubeOvnMetrics(this.registry, {
      snapshot: () => translations.snapshot,
      identity: () => translations.identity,
      interfaces: () => view().kernel.interfaces,
    });
  }

  reconciled(result: { ok: boolean; trigger: Trigger; durationMs: number }): void {
    this.#own.reconciles.inc({ result: result.ok ? 'ok' : 'failed', trigger: result.trigger });
    this.#own.durations.observe(result.durationMs / 1000);
  }

  repaired(object: string, count: number): void {
    this.#own.repairs.inc({ object }, count);
  }

  conflicted(object: 'gateway' | 'address', claims: number): void {
    this.#own.conflicts.inc({ object }, claims);
  }

  /** An external gateway has answered a probe. */
  roundTrip(family: Family, ms: number): void {
    this.#own.roundTrips.observe({ family: `ipv${family}` }, ms / 1000);
  }

  async text(): Promise<{ type: string; body: string }> {
    return { type: this.registry.contentType, body: await this.registry.metrics() };
  }
}
