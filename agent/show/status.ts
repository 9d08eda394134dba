/**
 * What the agent knows about itself, and how it is told: the JSON of `GET /v1/status`
 * (docs/status.schema.json), the text of `veg-agent status`, and the reasons why it is not ready. Pure.
 */
import type { EngineReport, SessionReport } from '../../bfd/intent.ts';
import { duration, scaled } from '../../lib/units.ts';
import { PORTS, PORTS_WARN, type PortStatus } from '../../nat/conntrack/ports.ts';
import { sumVolumes } from '../../nat/conntrack/totals.ts';
import type { BusySource } from '../flows/busiest.ts';
import type { ConntrackUse } from '../flows/conntrack-table.ts';
import type { PolicyTraffic } from '../flows/traffic.ts';
import type { FamilyStatus } from '../plan/plan.ts';
import { formatError } from '../policy/error-text.ts';
import type { EgressRule, Limits, PolicyError } from '../policy/model.ts';
import type { FailedObject } from '../reconcile/failures.ts';
import type { ReconcileResult } from '../reconcile/reconciler.ts';
import type { UplinkView } from '../uplink/uplink.ts';
import type { StateChange } from './history.ts';

/** Where the policy came from and whether it can be obeyed. */
export interface PolicyView {
  /** The policy directory, or `environment`. */
  source: string;
  /** False while the newest input cannot be used; an older one may still be in force. */
  valid: boolean;
  /** `namespace/name` of the policy in force; absent before the first. */
  name?: string;
  /** Counts the policies that came into force, from 1. */
  generation: number;
  /** When the one in force came, Unix milliseconds. */
  lastChange?: number;
  errors: PolicyError[];
  warnings: string[];
  /** The rules of the one in force. */
  rules?: Pick<EgressRule, 'name' | 'snat' | 'ipBlocks' | 'portBlockSize'>[];
  limits?: Limits | undefined;
}

/** What the last reconciles found and did. */
export interface KernelView {
  /** True when the last look at the kernel ended with what the policy says. */
  inSync: boolean;
  families: FamilyStatus[];
  interfaces?: { internal: string; external: string };
  /** The iptables backend: `nft` or `legacy`. */
  backend?: string;
  /** Things that work less well than they could: a sysctl that cannot be set, a family left out. */
  notes: string[];
  /** What is not in the kernel as the policy says, or could not be looked at. */
  failed: FailedObject[];
  last?: ReconcileResult;
  /** Things put back that somebody else had changed, by kind. */
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
  /** The last word of the BFD process; absent before the first. */
  bfd?: EngineReport | undefined;
  /** The state changes of a session, the newest last. */
  historyOf?(session: SessionReport): readonly StateChange[];
  /** Whether the policy asks for the translation log, which counts traffic; and what it has counted. */
  translationLog?: boolean;
  traffic?: readonly PolicyTraffic[] | undefined;
  /** The ports that translations hold. */
  ports?: readonly PortStatus[] | undefined;
  /** Absent where the kernel does not tell. */
  conntrack?: (ConntrackUse & { busiest: readonly BusySource[] }) | undefined;
  /** Why nobody has been looking after the gateway for too long; absent while somebody does. */
  unwatched?: string | undefined;
  /** Absent before the first policy. */
  uplink?: UplinkView;
  draining: boolean;
}

/** At most so many failed objects are named among the reasons; `kernel.failed` has them all. */
const NAMED_FAILURES = 10;

const iso = (time: number): string => new Date(time).toISOString();

/** Why the gateway should get no traffic. Empty when it is ready. */
export function notReady(view: AgentView): string[] {
  const reasons: string[] = [];
  const { policy, kernel } = view;
  if (view.draining) reasons.push('draining');
  if (view.unwatched !== undefined) reasons.push(view.unwatched);
  if (!policy.valid) {
    const since = policy.lastChange === undefined ? '' : `, since ${iso(policy.lastChange)}`;
    reasons.push(
      `policy invalid: ${policy.errors.length} error(s); ${policy.name ? `the last good policy stays in force: ${policy.name}${since}` : 'nothing is programmed'}`,
    );
    reasons.push(...policy.errors.slice(0, 10).map((error) => `  ${formatError(error)}`));
  }
  if (policy.name !== undefined) {
    const blocked = kernel.families.filter(({ state }) => state === 'blocked');
    for (const { family, reason } of blocked) reasons.push(`IPv${family}: ${reason}`);
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
    reasons.push('BFD: no session is Up');
  }
  return reasons;
}

/** At most so many blocks of a rule are named. */
const NAMED_BLOCKS = 4;

/** The rules in their order, then the flows that no rule names. */
function policiesOf({ policy: { rules = [] }, traffic = [] }: AgentView) {
  const keyOf = (name: string, snat: boolean) => `${snat} ${name}`;
  const counts = new Map(traffic.map((one) => [keyOf(one.policy, one.treatment === 'snat'), one]));
  const row = ({ policy: _, treatment: __, open, rates, ...total }: PolicyTraffic) => ({
    ...total,
    open,
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
  const others = [...counts].flatMap(([key, counted]) => (configured.has(key) ? [] : [counted]));
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

/** All that is translated, and the ports that it takes; null while nothing is counted. */
function snatOf({ traffic, ports = [] }: AgentView) {
  if (traffic === undefined) return null;
  const translated = traffic.filter(({ treatment }) => treatment === 'snat');
  return {
    ...sumVolumes(translated),
    open: translated.reduce((sum, { open }) => sum + open, 0),
    ports: ports.map((port) => ({ ...port, of: PORTS, runningOut: port.used >= PORTS_WARN })),
  };
}

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
      notes: kernel.notes,
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
    conntrack: view.conntrack ?? null,
    translationLog: view.translationLog ?? false,
    snat: snatOf(view),
    policies: policiesOf(view),
  };
}

export type StatusDocument = ReturnType<typeof statusDocument>;

function sessionLine(session: SessionReport, now: number): string {
  const { state, local, remote, since, transmitInterval, detectionTime } = session;
  const timers =
    state === 'Up' ? `, every ${transmitInterval / 1000} ms, detection ${detectionTime / 1000} ms` : '';
  return `  ${state.padEnd(9)} ${local} → ${remote}, for ${duration((now - since) / 1000)}${timers}`;
}

const PROBE_WORDS = {
  unknown: 'has not yet answered',
  answers: 'answers',
  silent: 'does not answer',
  blind: 'cannot be probed with',
} as const;

type Painter = ReturnType<typeof painter>;

/** What a terminal may show: plain when `colours` is false. */
function painter(colours: boolean) {
  const paint = (code: number) => (text: string) => (colours ? `\x1b[${code}m${text}\x1b[0m` : text);
  return { good: paint(32), bad: paint(31), faint: paint(2), strong: paint(1) };
}

/** `uplink   IPv4 up, IPv6 down`, why, and what the probes found. */
function uplinkLines({ families, probes, notes }: UplinkView, { good, bad, strong }: Painter): string[] {
  const states = families.map(({ family, state }) =>
    state === 'up' ? good(`IPv${family} up`) : bad(`IPv${family} ${state}`),
  );
  const lines = [`${strong('uplink')}   ${states.join(', ') || 'not watched'}`];
  for (const { family, reason } of families)
    if (reason !== null) lines.push(`  ${bad(`IPv${family}: ${reason}`)}`);
  for (const { address, method, state, kernel } of probes) {
    const asked = method === 'icmp' ? 'ICMP echo' : address.includes(':') ? 'Neighbor Discovery' : 'ARP';
    lines.push(`  ${address} ${PROBE_WORDS[state]} ${asked}${kernel === null ? '' : ` (kernel: ${kernel})`}`);
  }
  for (const note of notes) lines.push(`  note: ${note}`);
  return lines;
}

/** What is said where nothing is counted. */
export const NO_LOG = 'not counted: the policy has no translationLog';

/** What a policy is called; its own traffic the gateway sends without one. */
export const policyLabel = (name: string): string => name || 'the gateway itself';

/** `12 connections open, 340 altogether, 1.20 MB out, 3.40 MB in`. */
function trafficText({
  open,
  connections,
  bytes,
}: Pick<PolicyTraffic, 'open' | 'connections' | 'bytes'>): string {
  const moved = `${scaled(bytes.out, 'B')} out, ${scaled(bytes.in, 'B')} in`;
  return `${open} connections open, ${connections} altogether, ${moved}`;
}

/** SNAT altogether, each policy, and the ports of each external address. */
function trafficLines(status: StatusDocument, { strong, faint, bad }: Painter): string[] {
  const { translationLog, snat, policies } = status;
  const title = strong('traffic');
  if (!translationLog) return [`${title}  ${faint(NO_LOG)}`];
  return [
    `${title}  SNAT: ${snat === null ? 'not read yet' : trafficText(snat)}`,
    ...policies.map(({ name, snat, traffic }) => {
      const what = `  ${policyLabel(name)} (${snat ? 'translated' : 'forwarded'}): `;
      return what + (traffic === null ? 'nothing yet' : trafficText(traffic));
    }),
    ...(snat?.ports ?? []).map(({ externalIP, protocol, used, of, runningOut, lacking }) => {
      const use = `${used} of ${of} ports in use`;
      const dropped = lacking > 0 ? bad(`, ${lacking} connections got none`) : '';
      return `  ${externalIP} ${protocol}: ${runningOut ? bad(`${use}: they run out`) : use}${dropped}`;
    }),
  ];
}

/** The text of `veg-agent status`, ending with a newline. */
export function statusText(status: StatusDocument, now: number, colours: boolean): string {
  const { good, bad, faint, strong } = painter(colours);
  const { policy, kernel, uplink, bfd } = status;
  const lines: string[] = [];
  const where = [status.pod, status.node].filter(Boolean).join(' on ');
  lines.push(
    `${strong(status.ready ? good('ready') : bad('not ready'))}  ${faint(`veg-agent ${status.version}${where && `, ${where}`}, up ${duration(status.uptimeSeconds)}`)}`,
  );
  for (const reason of status.reasons) lines.push(`  ${bad(reason)}`);
  lines.push(
    `${strong('policy')}   ${policy.name ?? 'none'}, generation ${policy.generation}, from ${policy.source}${policy.valid ? '' : bad(' (newest input is invalid)')}`,
  );
  for (const { name, portBlockSize } of status.policies) {
    if (portBlockSize > 0) lines.push(`  ${name}: ${portBlockSize} ports for each source`);
  }
  for (const warning of policy.warnings) lines.push(`  warning: ${warning}`);
  const families = kernel.families
    .map(({ family, state, source }) => `IPv${family} ${state}${source ? ` as ${source}` : ''}`)
    .join(', ');
  const repaired = Object.entries(kernel.driftRepaired).map(([object, count]) => `${count} ${object}`);
  lines.push(
    `${strong('kernel')}   ${kernel.inSync ? good('in sync') : bad('not in sync')}${families && `, ${families}`}${kernel.interfaces === null ? '' : `, ${kernel.interfaces.internal} → ${kernel.interfaces.external}`}${kernel.backend === null ? '' : `, iptables ${kernel.backend}`}`,
  );
  for (const { object, name, reason, since } of kernel.failed) {
    const time = duration((now - Date.parse(since)) / 1000);
    lines.push(`  ${bad(`${object} ${name}: ${reason}`)}, for ${time}`);
  }
  for (const note of kernel.notes) lines.push(`  note: ${note}`);
  const last = kernel.lastReconcile;
  if (last !== null) {
    lines.push(
      `  last reconcile ${duration((now - Date.parse(last.at)) / 1000)} ago (${last.trigger}): ${last.ok ? `${last.changes} changes` : bad('failed')} in ${Math.round(last.durationSeconds * 1000)} ms`,
    );
  }
  lines.push(`  drift repaired: ${repaired.join(', ') || 'none'}`);
  if (uplink !== null) lines.push(...uplinkLines(uplink, painter(colours)));
  const most = (status.conntrack?.busiest ?? []).map(({ source, connections }) => `${source} ${connections}`);
  if (most.length > 0) lines.push(`${strong('crowded')}  most connections: ${most.join(', ')}`);
  lines.push(...trafficLines(status, painter(colours)));
  lines.push(`${strong('bfd')}      ${bfd.enabled ? `${bfd.sessions.length} session(s)` : 'not used'}`);
  for (const session of bfd.sessions) lines.push(sessionLine(session, now));
  return `${lines.join('\n')}\n`;
}
