/**
 * Watches the way out of the gateway: link and addresses of the external interface, whether each external gateway and
 * the extra targets answer probes, room in the connection tracking table. health.ts and watched.ts decide; here are the
 * timers, and the sockets in use.
 *
 * Up promises that the gateway answers and that packets to it go where its answers come from (next-hop.ts).
 *
 * A failure of the watching itself (a socket that cannot be opened) is noted and counts as nothing.
 */

import type { FamilyReadiness } from '../../bfd/intent.ts';
import { onArrival } from '../../lib/arrivals.ts';
import { type Clock, systemClock, type Timer } from '../../lib/clock.ts';
import { SystemError } from '../../lib/libc.ts';
import type { Log } from '../../lib/log.ts';
import { LogOnChange } from '../../lib/log-on-change.ts';
import type { NetlinkMessage, NetlinkSocket } from '../../lib/netlink.ts';
import { type Address, FAMILIES, type Family, familyOf } from '../../lib/prefix.ts';
import { addressDump, linkDump, MessageType, parseInterfaceAddress, parseLink } from '../../routing/parse.ts';
import type { InterfaceAddress, Link } from '../../routing/state.ts';
import { type ConntrackHealth, type ConntrackObservation, conntrackHealth } from './conntrack-health.ts';
import {
  answered,
  applyVerdict,
  createFamily,
  expire,
  familyDeadline,
  notSent,
  sent,
  TOGETHER,
} from './health.ts';
import { type NeighbourListener, openNeighbourListener } from './neighbour-listener.ts';
import {
  DELETE_NEIGHBOUR,
  GET_NEIGHBOURS,
  type Neighbour,
  neighbourDump,
  parseNeighbour,
} from './neighbours.ts';
import { NextHop, permanentEntries, removeEntries } from './next-hop.ts';
import { type Answer, type Method, NO_ADDRESS, type Origin, openProber, type Prober } from './probe.ts';
import { familyView, probeNotes, probeViews, type UplinkView } from './uplink-view.ts';
import { hurry, isDue, isFirst, judge, newProbe, type Probe, resetProbes, type Watched } from './watched.ts';
import { linkState, probeTargets, type WayOut } from './way-out.ts';

/** The sockets of the uplink. Each raises SIGURG when something arrives. */
export interface UplinkSockets {
  openProber(method: Method, origin: Origin, gateway: Address): Prober;
  listenNeighbours(
    gateways: readonly Address[],
    onMessage: (message: NetlinkMessage) => void,
  ): NeighbourListener;
  /** Calls this when something may have arrived. Returns what ends that. */
  onArrival(run: () => void): () => void;
}

const systemSockets: UplinkSockets = {
  openProber,
  listenNeighbours: openNeighbourListener,
  onArrival,
};

export interface UplinkParts {
  /** A socket of its own: it is read at any time. */
  netlink: Pick<NetlinkSocket, 'dump' | 'ask' | 'change'>;
  logger: Log;
  conntrack(): ConntrackObservation | undefined;
  /** Called when a family's readiness may have changed. */
  onChange(): void;
  /** Called with the number of claims by others to the address of a gateway. */
  onConflict(claims: number): void;
  /** Called when what a family depends on, the gateway or else a target, has answered a probe after so many ms. */
  onRoundTrip(family: Family, ms: number): void;
  /** Default: the system's. */
  sockets?: UplinkSockets;
  clock?: Clock;
}

/** How often the connection tracking table is read, ms. */
const TABLE_PERIOD = 1000;
/**
 * How often links, addresses and the neighbour entries of the gateways are read, ms: while every way out works and the
 * kernel announces their changes, and otherwise.
 */
const LINKS_PERIOD = { announced: 5000, otherwise: 1000 } as const;

/** errno of a send that the network is to blame for: ENETDOWN, ENETUNREACH, EHOSTDOWN, EHOSTUNREACH. */
const UNREACHABLE: ReadonlySet<number> = new Set([100, 101, 112, 113]);

/** The source of an interface without an address: an ARP probe (RFC 5227 1.1). IPv6 has a link-local one. */
const UNSPECIFIED: Partial<Record<Family, Address>> = { 4: NO_ADDRESS };

export class Uplink {
  readonly #parts: UplinkParts;
  readonly #sockets: UplinkSockets;
  readonly #clock: Clock;
  readonly #stopArrivals: () => void;
  #configured = false;
  #waysText = '';
  #watched: Watched[] = [];
  #conntrack: ConntrackHealth | undefined;
  #timer: Timer | undefined;
  /** When the connection tracking table was last read, and links and addresses, or that was tried. */
  #tableAt = Number.NEGATIVE_INFINITY;
  #triedAt = Number.NEGATIVE_INFINITY;
  #observedAt: number | undefined;
  #closed = false;
  readonly #logged = new LogOnChange();
  #neighbourListener: NeighbourListener | undefined;

  constructor(parts: UplinkParts) {
    this.#parts = parts;
    this.#sockets = parts.sockets ?? systemSockets;
    this.#clock = parts.clock ?? systemClock;
    this.#stopArrivals = this.#sockets.onArrival(() => this.#step());
  }

  /**
   * Watches these from now on, at most one a family; a family without one is not watched. What is known of a gateway
   * that stays is kept.
   */
  configure(ways: readonly WayOut[]): void {
    const text = JSON.stringify(ways);
    if (text === this.#waysText) return;
    this.#waysText = text;
    this.#configured = true;
    const before = this.#watched;
    const now = this.#clock.now();
    this.#watched = FAMILIES.flatMap((family) => {
      const way = ways.find(({ gateway }) => familyOf(gateway) === family);
      const known = before.find((watched) => watched.family === family);
      return way === undefined ? [] : [this.#watch(way, known, now)];
    });
    for (const { family, sockets } of before) {
      if (!this.#watched.some((watched) => watched.family === family)) closeAll(sockets);
    }
    this.#listenNeighbours();
    this.observe();
    this.#releaseOthers();
  }

  /** Reads links and addresses now: they have changed, or may have. */
  observe(): void {
    this.#triedAt = Number.NEGATIVE_INFINITY;
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

  /**
   * When links and addresses were last read while each family's way out was known to work or not, on the monotonic
   * clock; undefined: never, or not known yet.
   */
  get watchedAt(): number | undefined {
    return this.#watched.some(({ health }) => health.state === 'undecided') ? undefined : this.#observedAt;
  }

  view(): UplinkView {
    const now = this.#clock.now();
    return {
      families: this.#watched.map((watched) => familyView(watched, now)),
      probes: this.#watched.flatMap((watched) => probeViews(watched, this.#kernelNeighbours(watched.origin))),
      notes: [
        ...new Set([
          ...probeNotes(this.#watched),
          ...this.#conntrackNotes(),
          ...this.#watched.flatMap(({ hop }) => hop.notes(now)),
        ]),
      ],
    };
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
    this.#stopArrivals();
    this.#neighbourListener?.close();
    for (const { sockets, hop } of this.#watched) {
      closeAll(sockets);
      hop.release();
    }
    this.#watched = [];
  }

  #watch(way: WayOut, known: Watched | undefined, now: number): Watched {
    const { gateway, gatewayMacs } = way;
    const probes = probeTargets(way).map(
      (target) =>
        known?.probes.find(
          ({ method, address, aside }) =>
            method === target.method && address === target.address && aside === target.aside,
        ) ?? newProbe(target, now),
    );
    const same = known?.gateway === gateway && known.hop.pins.join() === gatewayMacs.join();
    const kept = known ?? {
      family: familyOf(gateway),
      health: createFamily(now),
      sockets: new Map<Method, Prober>(),
      origin: undefined,
      linkProblem: undefined,
    };
    if (!same) closeAll(kept.sockets);
    const hop = same ? known.hop : new NextHop(gateway, gatewayMacs, this.#parts);
    return { ...kept, gateway, way, hop, probes };
  }

  /** Receives what has arrived, does what is due, judges. Runs at every answer and whenever something is due. */
  #step(): void {
    if (this.#closed || !this.#configured) return;
    const now = this.#clock.now();
    if (now - this.#tableAt >= TABLE_PERIOD * (1 - TOGETHER)) this.#readTable(now);
    if (now - this.#triedAt >= this.#linksPeriod * (1 - TOGETHER)) this.#observe(now);
    let changed = false;
    for (const watched of this.#watched) {
      const { policy } = watched.way;
      this.#receive(watched, now);
      if (watched.linkProblem === undefined) {
        for (const probe of watched.probes)
          if (isDue(probe.path, policy, now)) this.#probe(watched, probe, now);
      }
      const before = watched.health.state;
      applyVerdict(watched.health, judge(watched, this.#conntrack), policy.recovery, now);
      if (watched.health.state !== before) {
        changed = true;
        this.#logState(watched);
      }
    }
    this.#arm();
    if (changed) this.#parts.onChange();
  }

  get #linksPeriod(): number {
    const announced =
      this.#neighbourListener !== undefined && this.#watched.every(({ health }) => health.state === 'up');
    return announced ? LINKS_PERIOD.announced : LINKS_PERIOD.otherwise;
  }

  #readTable(now: number): void {
    this.#tableAt = now;
    const use = this.#parts.conntrack();
    if (use !== undefined) this.#takeConntrack(conntrackHealth(this.#conntrack, use));
  }

  /** Reads links, addresses and neighbour entries. */
  #observe(now: number): void {
    this.#triedAt = now;
    let facts: { links: Link[]; addresses: InterfaceAddress[] };
    try {
      const { netlink } = this.#parts;
      facts = {
        links: netlink.dump(MessageType.GETLINK, linkDump(), parseLink),
        addresses: netlink.dump(MessageType.GETADDR, addressDump(), parseInterfaceAddress),
      };
    } catch (error) {
      this.#logNote(`cannot read links and addresses: ${(error as Error).message}`);
      return;
    }
    this.#observedAt = now;
    for (const watched of this.#watched) {
      const state = linkState(watched.way, facts, UNSPECIFIED[watched.family]);
      if ('problem' in state) {
        // The results of earlier probes prove nothing about the time after.
        if (watched.linkProblem === undefined) resetProbes(watched, now);
        watched.linkProblem = state.problem;
        continue;
      }
      watched.linkProblem = undefined;
      if (JSON.stringify(state.origin) !== JSON.stringify(watched.origin)) {
        closeAll(watched.sockets);
        watched.origin = state.origin;
      }
      if (watched.hop.observe(state.origin.ifindex, now)) hurry(watched, now);
    }
  }

  /** The kernel's own neighbour entries on the link that probes leave by. */
  #kernelNeighbours(origin: Origin | undefined): ReadonlyMap<Address, Neighbour['state']> {
    if (origin === undefined) return new Map();
    try {
      const found = this.#parts.netlink.dump(GET_NEIGHBOURS, neighbourDump(origin.ifindex), parseNeighbour);
      return new Map(found.map(({ address, state }) => [address, state]));
    } catch {
      return new Map();
    }
  }

  /** Listens for changes of the kernel's neighbour entries of the gateways. */
  #listenNeighbours(): void {
    this.#neighbourListener?.close();
    this.#neighbourListener = undefined;
    if (this.#watched.length === 0) return;
    const gateways = this.#watched.map(({ gateway }) => gateway);
    try {
      this.#neighbourListener = this.#sockets.listenNeighbours(gateways, (message) =>
        this.#takeNeighbour(message),
      );
    } catch (error) {
      this.#logNote(`changes of neighbour entries are seen a second late: ${(error as Error).message}`);
    }
  }

  #takeNeighbour({ type, data }: NetlinkMessage): void {
    const entry = parseNeighbour(data);
    const watched = this.#watched.find(
      ({ gateway, origin }) => gateway === entry?.address && origin?.ifindex === entry.ifindex,
    );
    if (watched === undefined) return;
    if (!watched.hop.update(type === DELETE_NEIGHBOUR ? undefined : entry)) return;
    hurry(watched, this.#clock.now());
    this.#step();
  }

  /** Removes the permanent entries of former gateways. */
  #releaseOthers(): void {
    const { netlink } = this.#parts;
    const isWatched = ({ address, ifindex }: Neighbour): boolean =>
      this.#watched.some(({ gateway, origin }) => gateway === address && origin?.ifindex === ifindex);
    try {
      const former = permanentEntries(netlink).filter((entry) => !isWatched(entry));
      removeEntries(netlink, former);
    } catch (error) {
      this.#logNote(`cannot remove permanent neighbour entries: ${(error as Error).message}`);
    }
  }

  #receive(watched: Watched, now: number): void {
    const { policy } = watched.way;
    for (const [method, socket] of watched.sockets) {
      for (const answer of socket.read()) {
        const probe = watched.probes.find(
          (known) => known.method === method && known.address === answer.from,
        );
        if (probe === undefined) continue;
        if (method === 'icmp' || this.#isAnswer(watched, probe, answer, now)) {
          const measured = answer.solicited && probe.path.sentAt !== undefined && isFirst(watched, probe);
          if (measured) this.#parts.onRoundTrip(watched.family, Math.max(0, now - probe.askedAt));
          answered(probe.path, policy, now);
        }
      }
    }
  }

  /** Takes a packet about a gateway. Returns whether the gateway answers. */
  #isAnswer({ hop, sockets }: Watched, { path, askedAll }: Probe, answer: Answer, now: number): boolean {
    const before = hop.mac;
    const open = path.sentAt === undefined ? undefined : askedAll ? 'all' : 'one';
    const answers = hop.receive(answer, open, path.state === 'silent', now);
    if (answers && (path.state !== 'answers' || hop.mac !== before))
      sockets.get('neighbour')?.trust(hop.mac!);
    return answers;
  }

  /** A probe is due: the outstanding one is lost, and the next one is sent. */
  #probe(watched: Watched, probe: Probe, now: number): void {
    const { policy } = watched.way;
    const { path } = probe;
    const { hop } = watched;
    const isHop = probe.method === 'neighbour';
    const failures = path.state === 'unknown' ? 1 : policy.failures;
    const replaced = isHop && path.sentAt !== undefined && hop.lost(path.unanswered + 1, failures, now);
    if (replaced) answered(path, policy, now);
    else expire(path, policy);
    try {
      const socket =
        watched.sockets.get(probe.method) ??
        this.#sockets.openProber(probe.method, watched.origin!, watched.gateway);
      watched.sockets.set(probe.method, socket);
      if (replaced) socket.trust(hop.mac!);
      // Unicast while it answers, as long as there are probes left for the whole link.
      const unicast = path.state === 'answers' && path.unanswered === 0 && policy.failures > 1;
      probe.askedAll = !unicast || hop.mac === undefined || (isHop && hop.asksAll(now));
      // Not `now`: links and addresses may have been read since.
      probe.askedAt = this.#clock.now();
      const result = socket.send(probe.address, probe.askedAll ? undefined : hop.mac);
      if (result < 0 && !UNREACHABLE.has(-result)) throw new SystemError('send', -result);
      probe.problem = undefined;
      sent(path, policy, now);
    } catch (error) {
      probe.problem = (error as Error).message;
      notSent(path, policy, now);
      for (const note of probeNotes(this.#watched)) this.#logNote(note);
    }
  }

  #arm(): void {
    this.#timer?.cancel();
    const times = this.#watched.flatMap(({ health, probes, linkProblem }) => [
      familyDeadline(health) ?? Number.POSITIVE_INFINITY,
      ...(linkProblem === undefined ? probes.map(({ path }) => path.nextAt) : []),
    ]);
    const at = Math.min(this.#tableAt + TABLE_PERIOD, this.#triedAt + this.#linksPeriod, ...times);
    // Timers count whole milliseconds and must not fire just before the time.
    this.#timer = this.#clock.after(Math.max(1, Math.ceil(at - this.#clock.now())), () => this.#step());
  }

  #takeConntrack(health: ConntrackHealth): void {
    const before = this.#conntrack?.level ?? 'normal';
    this.#conntrack = health;
    if (health.level === before) return;
    const [note] = this.#conntrackNotes();
    if (note === undefined) this.#parts.logger.info({}, 'the connection tracking table has room again');
    else this.#parts.logger.warn({ percent: health.percent }, note);
  }

  #conntrackNotes(): string[] {
    if (this.#conntrack === undefined || this.#conntrack.level === 'normal') return [];
    return [
      `the connection tracking table is ${this.#conntrack.percent} % full: raise net.netfilter.nf_conntrack_max on the node, or shorten its timeouts`,
    ];
  }

  /** Logs a note once. */
  #logNote(note: string): void {
    if (!this.#logged.isNew(note, note)) return;
    this.#parts.logger.warn({ reason: note }, 'the uplink cannot be watched as the policy asks');
  }

  #logState({ family, gateway, health: { state, reason, hold } }: Watched): void {
    const { logger } = this.#parts;
    if (state === 'up') logger.info({ family, gateway }, 'the uplink works');
    else logger.warn({ family, gateway, reason, holdMs: hold }, 'the uplink is down');
  }
}

function closeAll(sockets: Map<Method, Prober>): void {
  for (const socket of sockets.values()) socket.close();
  sockets.clear();
}
