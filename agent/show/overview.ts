/**
 * What a person is shown of a gateway: the phrases and their severity, worked out once from the documents of the agent.
 * Three places draw it, each in its own layout: `veg-agent status` (text.ts), `status --watch` (terminal.ts) and the page
 * (page/). Times are Unix milliseconds; `now` is the clock of the agent. Pure.
 */
import { DIAGNOSTICS } from '../../bfd/constants.ts';
import type { SessionStateName } from '../../bfd/intent.ts';
import { duration, endpoint, scaled } from '../../lib/units.ts';
import { DEFAULT_POLICY } from '../../nat/conntrack/names.ts';
import type { SourcesDocument } from '../flows/translations.ts';
import type { TranslationRecord } from '../flows/translations-query.ts';
import { explained } from './help.ts';
import type { StatusDocument } from './status.ts';

/** `idle`: neither good nor bad, such as a session that was taken down on purpose. */
export type Severity = 'good' | 'warn' | 'bad' | 'idle';

/** A phrase, lower case, with its severity. */
export interface State {
  severity: Severity;
  text: string;
}

/** Shape of a severity: a state can be read without its colour. */
export const MARKS: Record<Severity, string> = { good: '●', warn: '◐', bad: '▲', idle: '○' };

const state = (severity: Severity, text: string): State => ({ severity, text });

/** Shown where traffic is not counted. */
export const NOT_COUNTED = 'not counted yet, or not by this kernel: see the notes';

/** Shown where there is no value. */
export const NONE = '–';

/** The name of a policy; the gateway's own connections belong to none. */
export const policyLabel = (name: string): string => name || 'the gateway itself';

/** Whether what is counted is of a policy that was removed, or treated its sources otherwise then. */
export const isRemoved = ({ name, configured }: StatusDocument['policies'][number]): boolean =>
  !configured && name !== '' && name !== DEFAULT_POLICY;

/** `1,234,567`. */
export const grouped = (count: number): string => String(count).replace(/\B(?=(\d{3})+$)/g, ',');

/** `1 session`, `2 sessions`. */
export const plural = (count: number, one: string, many = `${one}s`): string =>
  `${grouped(count)} ${count === 1 ? one : many}`;

/** `14:03:00`, in UTC as in the log. */
export const timeOfDay = (time: number): string => new Date(time).toISOString().slice(11, 19);

/** The time of day, after the day unless it is today. */
export function dayAndTime(time: number, now: number): string {
  const [day = ''] = new Date(time).toISOString().split('T');
  return `${new Date(now).toISOString().startsWith(day) ? '' : `${day} `}${timeOfDay(time)}`;
}

const ago = (time: number, now: number): string => `${duration((now - time) / 1000)} ago`;

/** Shares of the conntrack table in use, %, from which on it is a warning, and bad. */
const CONNTRACK_WARN = 80;
const CONNTRACK_BAD = 90;

function policyOverview({ policy }: StatusDocument, now: number) {
  return {
    state: policy.valid ? state('good', 'valid') : state('bad', 'invalid'),
    name: policy.name ?? 'none',
    generation: `generation ${policy.generation}`,
    changed:
      policy.lastChange === null ? 'none in force' : `changed ${ago(Date.parse(policy.lastChange), now)}`,
    source: `from ${policy.source}`,
  };
}

function kernelOverview({ kernel }: StatusDocument, now: number) {
  const { families, interfaces, backend, failed, driftRepaired, lastReconcile: last } = kernel;
  const repaired = Object.entries(driftRepaired).map(([object, count]) => `${count} ${object}`);
  return {
    state: kernel.inSync ? state('good', 'in sync') : state('bad', 'not in sync'),
    families: families.map(
      ({ family, state, source, tunnel }) =>
        `IPv${family} ${state === 'failed' ? 'not programmed' : state}${source ? ` as ${source}` : ''}${tunnel ? ` through VNI ${tunnel.vni} from ${tunnel.local}` : ''}`,
    ),
    interfaces: interfaces === null ? [] : [`${interfaces.internal} → ${interfaces.external}`],
    backend: [
      ...(backend === null ? [] : [`iptables ${backend}`]),
      ...(kernel.fastPath ? ['fast path'] : []),
    ],
    failures: failed.map(({ object, name, reason, since }) => ({
      text: `${object} ${name}: ${reason}`,
      age: `for ${duration((now - Date.parse(since)) / 1000)}`,
    })),
    reconcile:
      last === null
        ? undefined
        : {
            when: `${ago(Date.parse(last.at), now)} (${last.trigger})`,
            result: last.ok ? state('good', plural(last.changes, 'change')) : state('bad', 'failed'),
            took: `${Math.round(last.durationSeconds * 1000)} ms`,
          },
    drift: `drift repaired: ${repaired.join(', ') || 'none'}`,
  };
}

const PROBE_WORDS = {
  unknown: (probe: string) => `has not answered ${probe} yet`,
  answers: (probe: string) => `answers ${probe}`,
  silent: (probe: string) => `does not answer ${probe}`,
  blind: (probe: string) => `cannot be probed with ${probe}`,
} as const;

function uplinkOverview({ uplink }: StatusDocument) {
  const families = uplink?.families ?? [];
  const up = families.filter(({ state }) => state === 'up').length;
  return {
    state:
      families.length === 0
        ? state('idle', 'not watched')
        : up === families.length
          ? state('good', 'up')
          : up > 0
            ? state('warn', 'partly up')
            : state('bad', 'down'),
    families: families.map(({ family, gateway, state: word }) => ({
      ...state(word === 'up' ? 'good' : 'bad', `IPv${family} ${word}`),
      gateway,
    })),
    reasons: families.flatMap(({ family, reason }) => (reason === null ? [] : [`IPv${family}: ${reason}`])),
    probes: (uplink?.probes ?? []).map(({ address, method, state: word, kernel }) => {
      const probe = method === 'icmp' ? 'ICMP echo' : address.includes(':') ? 'Neighbor Discovery' : 'ARP';
      return `${address} ${PROBE_WORDS[word](probe)}${kernel === null ? '' : ` (kernel: ${kernel})`}`;
    }),
  };
}

function conntrackOverview({ conntrack }: StatusDocument) {
  if (conntrack === null) return { state: state('idle', 'unknown'), limit: undefined, use: '', busiest: [] };
  const { entries, limit, busiest } = conntrack;
  const used = limit === 0 ? 0 : (100 * entries) / limit;
  const percent = used > 0 && used < 1 ? 'under 1' : String(Math.round(used));
  return {
    state: state(used >= CONNTRACK_BAD ? 'bad' : used >= CONNTRACK_WARN ? 'warn' : 'good', grouped(entries)),
    /** Undefined where the kernel has none. */
    limit: limit === 0 ? undefined : grouped(limit),
    use: limit === 0 ? 'in the conntrack table' : `${percent} % of ${grouped(limit)}`,
    busiest: busiest.map(({ source, connections }) => `${source} ${connections}`),
  };
}

const SESSION_SEVERITY: Record<SessionStateName, Severity> = {
  Up: 'good',
  Init: 'warn',
  Down: 'bad',
  AdminDown: 'idle',
};

const MEMBER_SEVERITY: Record<string, Severity> = {
  ...{ live: 'good', joining: 'warn', draining: 'warn', unreachable: 'bad' },
};

/** The state of a member of a group, by its name. */
const memberState = (name: string): State => state(MEMBER_SEVERITY[name] ?? 'idle', name);

/** The groups that the gateway is a member of, one a family. */
const groupOverview = ({ group }: StatusDocument) =>
  group.map(({ family, self, state: name, ports, flows, replicas, members, addresses }) => ({
    family: `IPv${family}`,
    self,
    state: memberState(name),
    ports: `ports ${ports.first}–${ports.last}`,
    flows: plural(flows, 'flow'),
    replicas: `${grouped(replicas)} of others`,
    members: members.map(({ member, state: word, bfdUp, connected, inSync, replicas: own }) => ({
      member,
      state: memberState(word),
      flows: plural(own, 'flow'),
      troubles: [
        ...(bfdUp ? [] : ['BFD is not Up']),
        ...(connected ? [] : ['not connected']),
        ...(connected && !inSync ? ['not in sync'] : []),
      ],
    })),
    addresses: addresses.map(({ address, holder, held }) => ({
      address,
      holder:
        holder === null
          ? state('bad', 'no holder')
          : state('good', `held by ${held ? 'this gateway' : holder}`),
    })),
  }));

/** What keeps members of groups from connections with others, where it is not among the reasons. */
const groupWarnings = ({ group, reasons }: StatusDocument): string[] =>
  group.flatMap(({ family, problem }) => {
    const text = `IPv${family}: ${problem}`;
    return problem === null || reasons.includes(text) ? [] : [text];
  });

export type GroupRow = ReturnType<typeof groupOverview>[number];

/** What is announced by BGP; undefined without. */
const bgpOverview = ({ bgp }: StatusDocument) =>
  bgp === null
    ? undefined
    : {
        prefixes: bgp.announced.map(({ prefix, reasons, announced }) => ({
          prefix,
          reasons: reasons.join(', '),
          state: announced ? state('good', 'announced') : state('warn', 'withdrawn'),
        })),
        sessions: bgp.sessions?.map(({ neighbour, asn, state: name, seconds, sent }) => ({
          router: `${neighbour} AS ${asn}`,
          state: state(name === 'Established' ? 'good' : 'bad', name),
          age: duration(seconds),
          sent: `${grouped(sent)} ${sent === 1 ? 'prefix' : 'prefixes'}`,
        })),
      };

export type BgpOverview = NonNullable<ReturnType<typeof bgpOverview>>;

/** The state of a BFD session, by its name in RFC 5880. */
export const sessionState = (name: SessionStateName): State => state(SESSION_SEVERITY[name], name);

function bfdOverview({ bfd }: StatusDocument, now: number) {
  const total = bfd.sessions.length;
  const up = bfd.sessions.filter((session) => session.state === 'Up').length;
  return {
    state: !bfd.enabled
      ? state('idle', 'not used')
      : state(up === 0 ? 'bad' : up < total ? 'warn' : 'good', `${up} Up`),
    total,
    sessions: bfd.sessions.map(
      ({ local, remote, state: name, since, history, transmitInterval, detectionTime }) => ({
        ...{ local, remote, history, name },
        state: sessionState(name),
        age: duration((now - since) / 1000),
        /** Milliseconds between packets, and until a silent peer is Down; undefined unless Up. */
        timers:
          name === 'Up' ? { transmit: transmitInterval / 1000, detection: detectionTime / 1000 } : undefined,
      }),
    ),
    /** The newest first. */
    changes: bfd.sessions
      .flatMap(({ remote, history }) => history.map((change) => ({ remote, ...change })))
      // Of changes within one millisecond the later one comes first, too.
      .reverse()
      .sort((a, b) => b.at - a.at)
      .map(({ remote, at, from, to, diagnostic }) => ({
        ...{ remote, at, from: from === null ? 'was' : `${from} →` },
        to: sessionState(to),
        diagnostic: diagnostic === 0 ? '' : (DIAGNOSTICS[diagnostic] ?? `diagnostic ${diagnostic}`),
      })),
  };
}

export type SessionRow = ReturnType<typeof bfdOverview>['sessions'][number];

const octets = (count: number | undefined): string => (count === undefined ? NONE : scaled(count, 'B'));

/** Counts that may grow large. */
const counted = (count: number): string => (count < 1e6 ? grouped(count) : scaled(count));

function policyRow(policy: StatusDocument['policies'][number]) {
  const { name, snat, configured, ipBlocks, blocks, traffic } = policy;
  const removed = isRemoved(policy);
  const rates = traffic?.rates;
  const rate = (count: number | undefined): string => (count === undefined ? NONE : scaled(count));
  const more = blocks > ipBlocks.length ? ` and ${grouped(blocks - ipBlocks.length)} more` : '';
  return {
    policy: `${policyLabel(name)}${removed ? ' (removed)' : ''}`,
    treatment: snat ? 'translated' : 'forwarded',
    sources: configured
      ? `${ipBlocks.join(', ') || 'any source'}${more}`
      : removed
        ? 'no longer in the policy'
        : name === ''
          ? 'probes, metrics'
          : 'sources without a policy',
    newRate: rate(rates?.connections),
    packetsOutRate: rate(rates?.packets.out),
    packetsInRate: rate(rates?.packets.in),
    bytesOutRate: octets(rates?.bytes.out),
    bytesInRate: octets(rates?.bytes.in),
    open: traffic === null || traffic.open === null ? NONE : grouped(traffic.open),
    connections: traffic === null ? NONE : counted(traffic.connections),
    sent: octets(traffic?.bytes.out),
    received: octets(traffic?.bytes.in),
  };
}

/** The status as it is shown. */
export function overview(status: StatusDocument, now: number) {
  const { ready, draining, policy, kernel, uplink } = status;
  const where = [status.pod, status.node].filter((text) => text !== null).join(' on ');
  return {
    name: policy.name ?? 'veg-agent',
    state: ready ? state('good', 'ready') : draining ? state('warn', 'draining') : state('bad', 'not ready'),
    /** Where it runs, the version, and for how long. */
    about: [where, `veg-agent ${status.version}`, `up ${duration(status.uptimeSeconds)}`].filter(Boolean),
    reasons: explained('reason', status.reasons),
    policy: policyOverview(status, now),
    kernel: kernelOverview(status, now),
    uplink: uplinkOverview(status),
    conntrack: conntrackOverview(status),
    group: groupOverview(status),
    groupWarnings: groupWarnings(status),
    bgp: bgpOverview(status),
    bfd: bfdOverview(status, now),
    policies: status.policies.map(policyRow),
    notes: [
      ...explained('warning', [...policy.warnings, ...groupWarnings(status)]),
      ...explained('note', [...kernel.notes, ...(uplink?.notes ?? [])]),
    ],
  };
}

export type Overview = ReturnType<typeof overview>;
export type PolicyRow = Overview['policies'][number];

/** The sources with most bytes or most connections, at most `limit`. */
export function sourceRows({ sources }: SourcesDocument, order: 'bytes' | 'connections', limit: number) {
  const rank = ({ bytes, connections }: SourcesDocument['sources'][number]): number =>
    order === 'bytes' ? bytes.out + bytes.in : connections;
  return sources
    .toSorted((a, b) => rank(b) - rank(a))
    .slice(0, limit)
    .map(({ address, connections, bytes }) => ({
      ...{ address, open: grouped(connections) },
      ...{ sent: octets(bytes.out), received: octets(bytes.in) },
    }));
}

export type SourceRow = ReturnType<typeof sourceRows>[number];

/** A flow of the translation log. */
export function translationRow(flow: TranslationRecord) {
  const { original, translated, counters } = flow;
  const destination = endpoint(original.destinationIP, original.destinationPort);
  const reached = endpoint(translated.destinationIP, translated.destinationPort);
  return {
    began: Date.parse(flow.startTime),
    lasted: flow.endTime === undefined ? 'open' : duration(flow.duration),
    protocol: flow.protocol === 'other' ? String(flow.protocolNumber) : flow.protocol,
    from: endpoint(original.sourceIP, original.sourcePort ?? original.icmpID),
    seen:
      flow.verdict === 'forwarded'
        ? 'itself'
        : endpoint(translated.sourceIP, translated.sourcePort ?? translated.icmpID),
    to: destination === reached ? destination : `${destination} → ${reached}`,
    policy: policyLabel(flow.policy),
    sent: octets(counters?.originalBytes),
    received: octets(counters?.replyBytes),
  };
}

export type TranslationRow = ReturnType<typeof translationRow>;
