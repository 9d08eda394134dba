/**
 * Watches the way out of the gateway: link and addresses of the external interface, whether each external gateway
 * and the extra targets answer probes, room in the connection tracking table. health.ts decides; here are the
 * clock, the sockets and what the kernel tells.
 *
 * Up promises that the gateway answers and that packets to it go where its answers come from (next-hop.ts).
 *
 * A failure of the watching itself (a socket that cannot be had) is told as a note and counts as nothing.
 */

import type { FamilyReadiness } from '../../bfd/intent.ts';
import { SystemError } from '../../lib/libc.ts';
import { LogOnChange } from '../../lib/log-on-change.ts';
import { NetlinkListener, type NetlinkMessage, type NetlinkSocket, Protocol } from '../../lib/netlink.ts';
import { type Address, FAMILIES, type Family, familyOf } from '../../lib/prefix.ts';
import { addressDump, linkDump, MessageType, parseInterfaceAddress, parseLink } from '../../routing/parse.ts';
import type { InterfaceAddress, Link } from '../../routing/state.ts';
import { linkObstacle } from '../pod/interfaces.ts';
import { noAddress, ownAddresses, questionSource } from '../pod/own-address.ts';
import type { UplinkPolicy } from '../policy/model.ts';
import { neighbourNotices } from './filters.ts';
import {
  answered,
  type ConntrackHealth,
  type ConntrackLook,
  conntrackHealth,
  createFamily,
  createPath,
  downReason,
  due,
  type FamilyHealth,
  type Finding,
  familyDeadline,
  gather,
  notSent,
  type Path,
  sent,
} from './health.ts';
import {
  DELETE_NEIGHBOUR,
  GET_NEIGHBOURS,
  NEIGHBOUR_GROUP,
  type Neighbour,
  neighbourDump,
  parseNeighbour,
} from './neighbours.ts';
import { heldEntries, NextHop, type NextHopParts, removeEntries } from './next-hop.ts';
import { type Answer, type Method, NO_ADDRESS, type Origin, openProber, type Prober } from './probe.ts';

/** The way out of a family, which is what is watched. */
export interface WayOut {
  /** The external gateway; its family is that of the way. */
  gateway: Address;
  interface: string;
  /** The Ethernet addresses that it may answer from; empty: any. */
  gatewayMacs: readonly string[];
  /** Something is masqueraded: that needs an address of the gateway's own. */
  masquerades: boolean;
  policy: UplinkPolicy;
}

export interface UplinkView {
  families: {
    family: Family;
    gateway: Address;
    state: FamilyHealth['state'];
    /** Why it is down; null unless it is. */
    reason: string | null;
    /** How long it has been in its state, seconds. */
    seconds: number;
  }[];
  /**
   * `mac`: where it answers from, where that is asked for. `kernel`: what its own neighbour detection, which is too
   * slow to act on, has come to; null: nothing now.
   */
  probes: {
    address: Address;
    method: Method;
    state: Path['state'];
    mac: string | null;
    kernel: 'reachable' | 'failed' | null;
  }[];
  notes: string[];
}

export interface UplinkParts extends NextHopParts {
  /** A socket of its own: its dumps come at any time. */
  netlink: Pick<NetlinkSocket, 'dump' | 'ask' | 'change'>;
  conntrack(): ConntrackLook | undefined;
  /** Called when a family's readiness may have changed. */
  onChange(): void;
}

/** How often is looked at what nobody announces, ms. */
const LOOK_PERIOD = 1000;

/** What is due within this share of its period is done together with what is due now: fewer things wake the process. */
const TOGETHER = 1 / 8;

/** The share of the interval after which a gateway is asked again whose place somebody has taken. */
const HURRY = 1 / 8;

/** errno of a send that the network is to blame for: ENETDOWN, ENETUNREACH, EHOSTDOWN, EHOSTUNREACH. */
const UNREACHABLE: ReadonlySet<number> = new Set([100, 101, 112, 113]);

/** What an interface without an address asks from: an ARP probe (RFC 5227 1.1). In IPv6 it has a link-local one. */
const UNSPECIFIED: Partial<Record<Family, Address>> = { 4: NO_ADDRESS };

/** Something that is probed. */
interface Probe {
  method: Method;
  address: Address;
  /** It is asked to know where packets to it have to go; whether it answers means nothing. */
  aside: boolean;
  path: Path;
  /** The question that waits for its answer went to all of the link. */
  askedAll: boolean;
  /** When the last question was sent. */
  askedAt: number;
  /** Why it cannot be probed from here. */
  problem: string | undefined;
}

interface Watched {
  family: Family;
  gateway: Address;
  way: WayOut;
  hop: NextHop;
  health: FamilyHealth;
  /** The gateway (unless the policy says none) and the targets. */
  probes: Probe[];
  sockets: Map<Method, Prober>;
  /** Where the sockets were opened for; they are opened anew for another. */
  origin: Origin | undefined;
  /** What is wrong with the link or its addresses. */
  linkProblem: string | undefined;
}

export class Uplink {
  readonly #parts: UplinkParts;
  #configured = false;
  #waysText = '';
  #watched: Watched[] = [];
  #conntrack: ConntrackHealth | undefined;
  #timer: NodeJS.Timeout | undefined;
  #lookedAt = Number.NEGATIVE_INFINITY;
  /** When links and addresses were last found out, on the clock of `performance.now`. */
  #observedAt: number | undefined;
  #closed = false;
  readonly #logged = new LogOnChange();
  /** Hears what becomes of the kernel's neighbour entries of the gateways. */
  #notices: NetlinkListener | undefined;
  readonly #onSignal = (): void => this.#step();

  constructor(parts: UplinkParts) {
    this.#parts = parts;
    process.on('SIGURG', this.#onSignal);
  }

  /**
   * Watches these from now on, at most one a family; a family without one is not watched. What was known of a gateway
   * that stays is kept.
   */
  configure(ways: readonly WayOut[]): void {
    const text = JSON.stringify(ways);
    if (text === this.#waysText) return;
    this.#waysText = text;
    const before = this.#watched;
    this.#configured = true;
    const now = performance.now();
    this.#watched = FAMILIES.flatMap((family) => {
      const way = ways.find(({ gateway }) => familyOf(gateway) === family);
      if (way === undefined) return [];
      const { gateway, gatewayMacs, policy } = way;
      const known = before.find((watched) => watched.family === family);
      const wanted = wantedProbes(gateway, policy);
      const probes = wanted.map(
        ({ method, address, aside }) =>
          known?.probes.find(
            (probe) => probe.method === method && probe.address === address && probe.aside === aside,
          ) ?? newProbe({ method, address, aside }, now),
      );
      const same = known?.gateway === gateway && known.hop.pins.join() === gatewayMacs.join();
      const kept = known ?? {
        family,
        health: createFamily(now),
        sockets: new Map<Method, Prober>(),
        origin: undefined,
        linkProblem: undefined,
      };
      if (!same) closeAll(kept.sockets);
      const hop = same ? known.hop : new NextHop(gateway, gatewayMacs, this.#parts);
      return [{ ...kept, gateway, way, hop, probes }];
    });
    for (const { family, sockets } of before) {
      if (!this.#watched.some((watched) => watched.family === family)) closeAll(sockets);
    }
    this.#listen();
    this.look();
    this.#releaseOthers();
  }

  /** Something about links or addresses has changed, or may have. */
  look(): void {
    this.#lookedAt = Number.NEGATIVE_INFINITY;
    this.#step();
  }

  /** Whether sessions of a family may carry traffic as far as the way out goes; undefined: not known yet. */
  readiness(family: Family): FamilyReadiness | undefined {
    const health = this.#watched.find((watched) => watched.family === family)?.health;
    if (health?.state === 'undecided') return undefined;
    if (health?.state !== 'down') return { ready: true };
    // RFC 5880 6.8.17: the path behind this hop is not there.
    return { ready: false, diagnostic: 6, reason: health.reason ?? '' };
  }

  /** When it last looked, and each family's way out was known to work or not; undefined: never, or not known yet. */
  get watchedAt(): number | undefined {
    return this.#watched.some(({ health }) => health.state === 'undecided') ? undefined : this.#observedAt;
  }

  view(): UplinkView {
    const now = performance.now();
    return {
      families: this.#watched.map(({ family, gateway, health }) => ({
        family,
        gateway,
        state: health.state,
        reason: downReason(health, now) ?? null,
        seconds: Math.floor((now - health.since) / 1000),
      })),
      probes: this.#watched.flatMap(({ probes, origin, hop }) => {
        const neighbours = this.#neighbours(origin);
        const shown = probes.filter(({ aside, path }) => !aside || path.state === 'answers');
        return shown.map(({ address, method, path: { state } }) => {
          const found = neighbours.get(address);
          const mac = (method === 'neighbour' && state === 'answers' && hop.mac) || null;
          return {
            address,
            method,
            state,
            mac,
            kernel: found === 'failed' || found === 'reachable' ? found : null,
          };
        });
      }),
      notes: [
        ...new Set([
          ...this.#probeNotes(),
          ...this.#conntrackNotes(),
          ...this.#watched.flatMap(({ hop }) => hop.notes(now)),
        ]),
      ],
    };
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    process.off('SIGURG', this.#onSignal);
    this.#notices?.close();
    for (const { sockets, hop } of this.#watched) {
      closeAll(sockets);
      hop.release();
    }
    this.#watched = [];
  }

  /** Takes in what has come, does what is due, judges. Runs at every answer and whenever something is due. */
  #step(): void {
    if (this.#closed || !this.#configured) return;
    const now = performance.now();
    if (now - this.#lookedAt >= LOOK_PERIOD * (1 - TOGETHER)) this.#observe(now);
    let changed = false;
    for (const watched of this.#watched) {
      const { policy } = watched.way;
      this.#read(watched, now);
      if (watched.linkProblem === undefined) {
        for (const probe of watched.probes)
          if (isDue(probe.path, policy, now)) this.#probe(watched, probe, now);
      }
      const before = watched.health.state;
      gather(watched.health, this.#find(watched), policy.recovery, now);
      if (watched.health.state !== before) {
        changed = true;
        this.#tell(watched);
      }
    }
    this.#arm();
    if (changed) this.#parts.onChange();
  }

  /** Reads links, addresses and the connection tracking table. */
  #observe(now: number): void {
    this.#lookedAt = now;
    const use = this.#parts.conntrack();
    if (use !== undefined) this.#takeConntrack(conntrackHealth(this.#conntrack, use));
    let facts: { links: Link[]; addresses: InterfaceAddress[] };
    try {
      const { netlink } = this.#parts;
      facts = {
        links: netlink.dump(MessageType.GETLINK, linkDump(), parseLink),
        addresses: netlink.dump(MessageType.GETADDR, addressDump(), parseInterfaceAddress),
      };
    } catch (error) {
      this.#note(`links and addresses cannot be read: ${(error as Error).message}`);
      return;
    }
    this.#observedAt = now;
    for (const watched of this.#watched) {
      const { family, gateway } = watched;
      const { interface: name, masquerades, policy } = watched.way;
      const link = facts.links.find((candidate) => candidate.name === name);
      const lacking = masquerades && ownAddresses(facts, name, { family, gateway }).length === 0;
      const source = questionSource(facts, name, family, gateway) ?? UNSPECIFIED[family];
      const problem =
        linkObstacle(facts, name, 'external') ??
        (lacking || source === undefined ? noAddress(facts, name, family, 'external') : undefined) ??
        (link?.carrier ? undefined : `the external interface ${name} has no carrier`);
      if (problem !== undefined || link === undefined || source === undefined) {
        // What was heard before says nothing about the time after.
        if (watched.linkProblem === undefined) reset(watched, now);
        watched.linkProblem = problem;
        continue;
      }
      watched.linkProblem = undefined;
      const origin: Origin = { ifindex: link.index, interface: name, mac: link.mac, source };
      if (JSON.stringify(origin) !== JSON.stringify(watched.origin)) {
        closeAll(watched.sockets);
        watched.origin = origin;
      }
      if (watched.hop.look(link.index, now)) hurry(watched, policy, now);
    }
  }

  /** What the kernel has found of the neighbours on the link where probes come from. */
  #neighbours(origin: Origin | undefined): ReadonlyMap<Address, Neighbour['state']> {
    if (origin === undefined) return new Map();
    try {
      const found = this.#parts.netlink.dump(GET_NEIGHBOURS, neighbourDump(origin.ifindex), parseNeighbour);
      return new Map(found.map(({ address, state }) => [address, state]));
    } catch {
      return new Map();
    }
  }

  /** Hears from now on what becomes of the kernel's neighbour entries of the gateways. */
  #listen(): void {
    this.#notices?.close();
    this.#notices = undefined;
    if (this.#watched.length === 0) return;
    const handlers = {
      onMessage: (message: NetlinkMessage) => this.#takeNotice(message),
      // They are read every second anyway.
      onOverrun: () => {},
    };
    const only = neighbourNotices(this.#watched.map(({ gateway }) => gateway));
    try {
      this.#notices = new NetlinkListener(Protocol.ROUTE, [NEIGHBOUR_GROUP], handlers, { only });
    } catch (error) {
      this.#note(`changes of neighbour entries are seen a second late: ${(error as Error).message}`);
    }
  }

  #takeNotice({ type, data }: NetlinkMessage): void {
    const entry = parseNeighbour(data);
    const watched = this.#watched.find(
      ({ gateway, origin }) => gateway === entry?.address && origin?.ifindex === entry.ifindex,
    );
    if (watched === undefined) return;
    if (!watched.hop.notice(type === DELETE_NEIGHBOUR ? undefined : entry)) return;
    hurry(watched, watched.way.policy, performance.now());
    this.#step();
  }

  /** Removes the entries that were held for gateways which are none any more. */
  #releaseOthers(): void {
    const { netlink } = this.#parts;
    try {
      const isWatched = ({ address, ifindex }: Neighbour): boolean =>
        this.#watched.some(({ gateway, origin }) => gateway === address && origin?.ifindex === ifindex);
      removeEntries(
        netlink,
        heldEntries(netlink).filter((entry) => !isWatched(entry)),
      );
    } catch (error) {
      this.#note(`neighbour entries that were held cannot be released: ${(error as Error).message}`);
    }
  }

  #read(watched: Watched, now: number): void {
    const { policy } = watched.way;
    for (const [method, socket] of watched.sockets) {
      for (const answer of socket.read()) {
        const probe = watched.probes.find(
          (known) => known.method === method && known.address === answer.from,
        );
        if (probe === undefined) continue;
        if (method === 'icmp' || this.#hear(watched, probe, answer, now)) answered(probe.path, policy, now);
      }
    }
  }

  /** Takes what was heard of a gateway. Returns whether it answers. */
  #hear({ hop, sockets }: Watched, { path, askedAll }: Probe, answer: Answer, now: number): boolean {
    const before = hop.mac;
    const open = path.waitingSince === undefined ? undefined : askedAll ? 'all' : 'one';
    const answers = hop.heard(answer, open, path.state === 'silent', now);
    if (answers && (path.state !== 'answers' || hop.mac !== before))
      sockets.get('neighbour')?.trust(hop.mac!);
    return answers;
  }

  /** A probe is due: the last one is lost if it still waits, and the next one is sent. */
  #probe(watched: Watched, probe: Probe, now: number): void {
    const { policy } = watched.way;
    const { path } = probe;
    const { hop } = watched;
    const isHop = probe.method === 'neighbour';
    const failures = path.state === 'unknown' ? 1 : policy.failures;
    const replaced = isHop && path.waitingSince !== undefined && hop.lost(path.unanswered + 1, failures, now);
    if (replaced) answered(path, policy, now);
    else due(path, policy);
    try {
      const socket =
        watched.sockets.get(probe.method) ?? openProber(probe.method, watched.origin!, watched.gateway);
      watched.sockets.set(probe.method, socket);
      if (replaced) socket.trust(hop.mac!);
      // One that answers is asked alone, as long as there are probes left to ask everybody.
      const alone = path.state === 'answers' && path.unanswered === 0 && policy.failures > 1;
      probe.askedAll = !alone || hop.mac === undefined || (isHop && hop.asksAll(now));
      probe.askedAt = now;
      const result = socket.send(probe.address, probe.askedAll ? undefined : hop.mac);
      if (result < 0 && !UNREACHABLE.has(-result)) throw new SystemError('send', -result);
      probe.problem = undefined;
      sent(path, policy, now);
    } catch (error) {
      probe.problem = (error as Error).message;
      notSent(path, policy, now);
      for (const note of this.#probeNotes()) this.#note(note);
    }
  }

  /** What stands in a family's way. */
  #find({ family, gateway, hop, probes, linkProblem }: Watched): Finding {
    if (linkProblem !== undefined) return { obstacle: linkProblem };
    if (hop.diversion !== undefined) return { obstacle: hop.diversion };
    if (this.#conntrack?.level === 'full') {
      return {
        obstacle: `the connection tracking table is ${this.#conntrack.percent} % full and new connections fail`,
      };
    }
    const counted = probes.filter(({ aside }) => !aside);
    const [first, ...others] = counted;
    const gatewayProbe = first?.address === gateway ? first : undefined;
    if (gatewayProbe?.path.state === 'silent') {
      const question =
        gatewayProbe.method === 'icmp' ? 'ICMP echo' : family === 4 ? 'ARP' : 'Neighbor Discovery';
      const { pins, claimants } = hop;
      const from = pins.length === 0 || gatewayProbe.method === 'icmp' ? '' : ` from ${pins.join(' or ')}`;
      const but = claimants.length === 0 ? '' : `, but ${claimants.join(', ')} claims to be it`;
      return { obstacle: `the external gateway ${gateway} does not answer ${question}${from}${but}` };
    }
    const targets = gatewayProbe === undefined ? counted : others;
    if (targets.length > 0 && targets.every(({ path }) => path.state === 'silent')) {
      const names = targets.map(({ address }) => address).join(', ');
      return { obstacle: `no target answers ICMP echo (${names})` };
    }
    const known = ({ path }: Probe) => path.state === 'answers' || path.state === 'blind';
    const decided =
      (gatewayProbe === undefined || known(gatewayProbe)) && (targets.length === 0 || targets.some(known));
    return decided ? { obstacle: undefined } : 'undecided';
  }

  #arm(): void {
    clearTimeout(this.#timer);
    const times = this.#watched.flatMap(({ health, probes, linkProblem }) => [
      familyDeadline(health) ?? Number.POSITIVE_INFINITY,
      ...(linkProblem === undefined ? probes.map(({ path }) => path.nextAt) : []),
    ]);
    const at = Math.min(this.#lookedAt + LOOK_PERIOD, ...times);
    // Timers count whole milliseconds and must not fire just before the time.
    this.#timer = setTimeout(() => this.#step(), Math.max(1, Math.ceil(at - performance.now())));
  }

  #takeConntrack(health: ConntrackHealth): void {
    const before = this.#conntrack?.level ?? 'normal';
    this.#conntrack = health;
    if (health.level === before) return;
    const [note] = this.#conntrackNotes();
    if (note === undefined) this.#parts.logger.info('the connection tracking table has room again');
    else this.#parts.logger.warn({ percent: health.percent }, note);
  }

  #conntrackNotes(): string[] {
    if (this.#conntrack === undefined || this.#conntrack.level === 'normal') return [];
    return [
      `the connection tracking table is ${this.#conntrack.percent} % full: raise net.netfilter.nf_conntrack_max on the node, or shorten its timeouts`,
    ];
  }

  #probeNotes(): string[] {
    return this.#watched.flatMap(({ probes }) =>
      probes
        .filter(({ problem }) => problem !== undefined)
        .map(
          ({ address, problem }) =>
            `${address} cannot be probed, so its failure will not be seen: ${problem}`,
        ),
    );
  }

  /** Logs a note the first time. */
  #note(note: string): void {
    if (!this.#logged.isNew(note, note)) return;
    this.#parts.logger.warn({ reason: note }, 'the uplink is not watched as the policy asks');
  }

  #tell({ family, gateway, health }: Watched): void {
    const fields = { family, gateway };
    if (health.state === 'up') this.#parts.logger.info(fields, 'the uplink works');
    else
      this.#parts.logger.warn(
        { ...fields, reason: health.reason, holdMs: health.hold },
        'the uplink is down',
      );
  }
}

const newProbe = (which: Pick<Probe, 'method' | 'address' | 'aside'>, now: number): Probe => ({
  ...which,
  path: createPath(now),
  askedAll: false,
  askedAt: Number.NEGATIVE_INFINITY,
  problem: undefined,
});

/** Whether to probe now; a probe that still waits for its answer is given all its time. */
const isDue = ({ nextAt, waitingSince }: Path, { interval }: UplinkPolicy, now: number): boolean =>
  nextAt <= (waitingSince === undefined ? now + interval * TOGETHER : now);

/** Makes the gateway be asked soon, unless an answer is waited for. */
function hurry({ gateway, probes }: Watched, { interval }: UplinkPolicy, now: number): void {
  for (const { method, address, path, askedAt } of probes) {
    if (method !== 'neighbour' || address !== gateway || path.waitingSince !== undefined) continue;
    path.nextAt = Math.min(path.nextAt, Math.max(now, askedAt + interval * HURRY));
  }
}

/**
 * The gateway first, unless it is not to be probed, then the targets of its family. A gateway that is probed with ICMP
 * is asked for its Ethernet address aside.
 */
function wantedProbes(
  gateway: Address,
  { probe, targets }: UplinkPolicy,
): Pick<Probe, 'method' | 'address' | 'aside'>[] {
  const neighbour = { method: 'neighbour', address: gateway, aside: probe === 'icmp' } as const;
  const icmp = targets.filter((target) => familyOf(target) === familyOf(gateway) && target !== gateway);
  if (probe === 'icmp') icmp.unshift(gateway);
  return [
    ...(probe === 'arp' ? [neighbour] : []),
    ...[...new Set(icmp)].map((address) => ({ method: 'icmp', address, aside: false }) as const),
    ...(probe === 'icmp' ? [neighbour] : []),
  ];
}

/** Forgets what probes have found. */
function reset(watched: Watched, now: number): void {
  watched.probes = watched.probes.map(({ method, address, aside }) =>
    newProbe({ method, address, aside }, now),
  );
}

function closeAll(sockets: Map<Method, Prober>): void {
  for (const socket of sockets.values()) socket.close();
  sockets.clear();
}
