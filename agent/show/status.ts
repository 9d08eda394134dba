/**
 * The status of the agent: the JSON of `GET /v1/status` (docs/status.schema.json), and the reasons why it is not ready.
 *
 * Ready means: the newest policy is valid, every family that it asks for is programmed as it says, the uplink of each
 * works, and with BFD at least one session is Up. Pure.
 */
import type { EngineReport, SessionReport } from '../../bfd/intent.ts';
import { isRunningOut, type PortStatus } from '../../nat/conntrack/ports.ts';
import { sumVolumes } from '../../nat/conntrack/totals.ts';
import { type BgpSession, isEstablished } from '../bgp/sessions.ts';
import type { BusySource } from '../flows/busiest-sources.ts';
import type { ConntrackUse } from '../flows/conntrack-table.ts';
import type { PolicyTraffic } from '../flows/traffic.ts';
import type { GroupView } from '../group/model.ts';
import type { AnnouncedPrefix } from '../plan/bgp.ts';
import type { FamilyStatus } from '../plan/plan.ts';
import { formatError } from '../policy/error-text.ts';
import type { EgressRule, Limits, PolicyError } from '../policy/model.ts';
import type { FailedObject } from '../reconcile/failures.ts';
import type { ReconcileResult } from '../reconcile/reconciler.ts';
import type { UplinkView } from '../uplink/uplink-view.ts';
import type { BandwidthRow } from './bandwidth.ts';
import type { StateChange } from './history.ts';
import { plural } from './overview.ts';

/** Where the policy comes from and whether it is valid. */
export interface PolicyView {
  /** The policy directory, or `environment`. */
  source: string;
  /** False while the newest input cannot be used; an older one may still be in force. */
  valid: boolean;
  /** `namespace/name` of the policy in force; absent before the first. */
  name?: string;
  /** Number of policies applied since the start, from 1. */
  generation: number;
  /** When the policy in force was applied, Unix milliseconds. */
  lastChange?: number;
  errors: PolicyError[];
  warnings: string[];
  /** The rules of the one in force. */
  rules?: Pick<EgressRule, 'name' | 'snat' | 'ipBlocks' | 'portBlockSize'>[];
  limits?: Limits | undefined;
  /** Absent: no BGP. */
  bgp?: { required: boolean } | undefined;
}

/** What became of one address family. */
export interface KernelFamily extends Omit<FamilyStatus, 'state'> {
  /** `failed`: planned, and in the kernel as no good policy says; the failures say why. */
  state: FamilyStatus['state'] | 'failed';
}

/** What the last reconciles found and did. */
export interface KernelView {
  /** The last observation found the kernel as the policy wants it. */
  inSync: boolean;
  families: KernelFamily[];
  interfaces?: { internal: string; external: string };
  /** The iptables backend: `nft` or `legacy`. */
  backend?: string;
  /** Whether the fast path is in force; undefined: the policy has none. */
  fastPath?: boolean | undefined;
  /** Degradations: a sysctl that cannot be set, a family left out. */
  notes: string[];
  /** Objects that are not in the kernel as the policy wants them, or cannot be observed. */
  failed: FailedObject[];
  last?: ReconcileResult;
  /** Drift repaired, by kind of object. */
  driftRepaired: Record<string, number>;
}

export interface AgentView {
  version: string;
  node?: string;
  pod?: string;
  /** Unix milliseconds. */
  startedAt: number;
  policy: PolicyView;
  kernel: KernelView;
  bfdEnabled: boolean;
  /** The last report of the BFD process; absent before the first. */
  bfd?: EngineReport | undefined;
  /** The state changes of a session, the newest last. */
  historyOf?(session: SessionReport): readonly StateChange[];
  /** Why metrics and probes are not served, for each address where that is so. */
  unserved?: readonly string[];
  /** Whether the policy enables the translation log, which knows open connections and their ports. */
  translationLog?: boolean;
  /** What policies carry; absent while nobody counts. */
  traffic?: readonly PolicyTraffic[] | undefined;
  /** Source ports in use by translations. */
  ports?: readonly PortStatus[] | undefined;
  /** The bandwidth limits, with what they have passed and dropped. */
  bandwidth?: readonly BandwidthRow[];
  /** Absent where the kernel does not report it. */
  conntrack?: (ConntrackUse & { busiest: readonly BusySource[] }) | undefined;
  /** The groups that this gateway is a member of, one a family at most. */
  group?: readonly GroupView[];
  /** What is announced by BGP; absent: the policy has none. */
  bgp?: BgpView | undefined;
  /** Why no reconcile has ended for too long; absent while they do. */
  unwatched?: string | undefined;
  /** Absent before the first policy. */
  uplink?: UplinkView;
  draining: boolean;
}

export interface BgpView {
  required: boolean;
  prefixes: readonly AnnouncedPrefix[];
  /** Undefined: FRR does not answer. */
  sessions: readonly BgpSession[] | undefined;
}

/** Failed objects among the reasons; `kernel.failed` has all. */
const NAMED_FAILURES = 10;

const iso = (time: number): string => new Date(time).toISOString();

/** Why the gateway must get no traffic. Empty when it is ready. */
export function notReady(view: AgentView): string[] {
  const reasons: string[] = [];
  const { policy, kernel } = view;
  if (view.draining) reasons.push('draining');
  if (view.unwatched !== undefined) reasons.push(view.unwatched);
  if (!policy.valid) {
    const since = policy.lastChange === undefined ? '' : `, since ${iso(policy.lastChange)}`;
    reasons.push(
      `policy invalid: ${plural(policy.errors.length, 'error')}; ${policy.name ? `the last good policy stays in force: ${policy.name}${since}` : 'nothing is programmed'}`,
    );
    reasons.push(...policy.errors.slice(0, 10).map((error) => `  ${formatError(error)}`));
  }
  if (policy.name !== undefined) {
    const blocked = kernel.families.filter(({ state }) => state === 'blocked');
    for (const { family, reason } of blocked) reasons.push(`IPv${family}: ${reason}`);
    for (const { family, pending } of kernel.families) {
      if (pending === undefined) continue;
      reasons.push(`IPv${family}: ${pending}`);
      const problem = view.group?.find((group) => group.family === family)?.problem;
      if (problem !== undefined) reasons.push(`IPv${family}: ${problem}`);
    }
    if (kernel.last === undefined) reasons.push('kernel not in sync: not reconciled yet');
    for (const { message } of kernel.failed.slice(0, NAMED_FAILURES)) {
      reasons.push(`kernel not in sync: ${message}`);
    }
    const more = kernel.failed.length - NAMED_FAILURES;
    if (more > 0) reasons.push(`kernel not in sync: ${more} more objects have failed`);
    for (const { family, state, reason } of view.uplink?.families ?? []) {
      if (state === 'up' || blocked.some((other) => other.family === family)) continue;
      reasons.push(`IPv${family} uplink: ${reason ?? 'not probed yet'}`);
    }
  }
  if (view.bfdEnabled && !view.bfd?.sessions.some((session) => session.state === 'Up')) {
    reasons.push('BFD: no session is Up', ...(view.bfd?.problems ?? []));
  }
  if (view.bgp?.required && !view.bgp.sessions?.some(isEstablished)) {
    reasons.push(
      view.bgp.sessions === undefined
        ? 'BGP: FRR does not answer, and the policy requires a session'
        : 'BGP: no session is established, and the policy requires one',
    );
  }
  return reasons;
}

/** Blocks of a rule in the document. */
const NAMED_BLOCKS = 4;

/** The rules in their order, then traffic without a rule. */
function policiesOf({ policy: { rules = [] }, traffic = [], translationLog = false }: AgentView) {
  const keyOf = (name: string, snat: boolean) => `${snat} ${name}`;
  const counts = new Map(traffic.map((one) => [keyOf(one.policy, one.treatment === 'snat'), one]));
  const row = ({ policy: _, treatment: __, open, rates, ...total }: PolicyTraffic) => ({
    ...total,
    open: translationLog ? open : null,
    rates: rates ?? null,
  });
  const named = rules.map(({ name, snat, ipBlocks, portBlockSize }) => {
    const counted = counts.get(keyOf(name, snat));
    return {
      name,
      snat,
      configured: true,
      ipBlocks: ipBlocks.slice(0, NAMED_BLOCKS) as string[],
      blocks: ipBlocks.length,
      portBlockSize: portBlockSize ?? 0,
      traffic: counted === undefined ? null : row(counted),
    };
  });
  const configured = new Set(rules.map(({ name, snat }) => keyOf(name, snat)));
  const others = [...counts].flatMap(([key, counted]) =>
    configured.has(key) || counted.connections + counted.packets.out + counted.packets.in === 0
      ? []
      : [counted],
  );
  return [
    ...named,
    ...others.map((counted) => ({
      name: counted.policy,
      snat: counted.treatment === 'snat',
      configured: false,
      ipBlocks: [],
      blocks: 0,
      portBlockSize: 0,
      traffic: row(counted),
    })),
  ];
}

/** Totals of translated traffic, and the ports in use; null while nothing is counted. */
function snatOf({ traffic, ports = [], translationLog = false }: AgentView) {
  if (traffic === undefined) return null;
  const translated = traffic.filter(({ treatment }) => treatment === 'snat');
  return {
    ...sumVolumes(translated),
    open: translationLog ? translated.reduce((sum, { open }) => sum + open, 0) : null,
    ports: ports.map((port) => ({ ...port, runningOut: isRunningOut(port.used, port.of) })),
  };
}

/** BGP as `status` shows it. */
const bgpOf = ({ required, prefixes, sessions }: BgpView) => ({
  required,
  announced: prefixes.map(({ prefix, reasons, announced }) => ({ prefix, reasons, announced })),
  sessions: sessions === undefined ? null : sessions.map((session) => ({ ...session })),
});

/** A group as `status` shows it. */
const groupOf = ({
  family,
  self,
  state,
  slice,
  ready,
  peers,
  holders,
  held,
  flows,
  replicas,
  problem,
}: GroupView) => ({
  ...{ family, self, state, ready, flows, replicas, problem: problem ?? null },
  ports: { first: slice.firstPort, last: slice.lastPort },
  members: peers.map(({ member, external, reachability, path, exchange, inSync, replicas: own }) => ({
    ...{ member, external: external ?? null, state: reachability, bfdUp: path, connected: exchange, inSync },
    replicas: own,
  })),
  addresses: holders.map(({ address, holder }) => ({
    ...{ address, holder: holder ?? null, held: held.includes(address) },
  })),
});

/** The body of `GET /v1/status`. */
export function statusDocument(view: AgentView, now: number) {
  const { policy, kernel } = view;
  const reasons = notReady(view);
  const last = kernel.last;
  return {
    schemaVersion: 'v1' as const,
    version: view.version,
    node: view.node ?? null,
    pod: view.pod ?? null,
    uptimeSeconds: Math.floor((now - view.startedAt) / 1000),
    ready: reasons.length === 0,
    reasons,
    draining: view.draining,
    policy: {
      source: policy.source,
      valid: policy.valid,
      name: policy.name ?? null,
      generation: policy.generation,
      lastChange: policy.lastChange === undefined ? null : iso(policy.lastChange),
      errors: policy.errors.map(formatError),
      warnings: policy.warnings,
    },
    kernel: {
      inSync: kernel.inSync,
      families: kernel.families,
      interfaces: kernel.interfaces ?? null,
      backend: kernel.backend ?? null,
      fastPath: kernel.fastPath ?? null,
      notes: [...kernel.notes, ...(view.bfd?.problems ?? []), ...(view.unserved ?? [])],
      failed: kernel.failed.map(({ object, family, name, reason, message, since }) => ({
        ...{ object, family: family ?? null, name, reason, message, since: iso(since) },
      })),
      lastReconcile:
        last === undefined
          ? null
          : {
              at: iso(last.at),
              trigger: last.trigger,
              ok: last.ok,
              changes: last.changes,
              durationSeconds: last.durationMs / 1000,
              error: last.error ?? null,
            },
      driftRepaired: kernel.driftRepaired,
    },
    uplink: view.uplink ?? null,
    bfd: {
      enabled: view.bfdEnabled,
      sessions: (view.bfd?.sessions ?? []).map((session) => ({
        ...session,
        history: view.historyOf?.(session) ?? [],
      })),
      discards: view.bfd?.discards ?? {},
    },
    group: (view.group ?? []).map(groupOf),
    bgp: view.bgp === undefined ? null : bgpOf(view.bgp),
    conntrack: view.conntrack ?? null,
    bandwidth: (view.bandwidth ?? []).map((row) => ({ ...row })),
    translationLog: view.translationLog ?? false,
    snat: snatOf(view),
    policies: policiesOf(view),
  };
}

export type StatusDocument = ReturnType<typeof statusDocument>;
