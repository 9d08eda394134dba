/**
 * Watches the way out of the gateway: link and addresses of the external interface, whether each external gateway
 * and the extra targets answer probes, room in the connection tracking table. health.ts decides; here are the
 * clock, the sockets and what the kernel tells.
 *
 * A failure of the watching itself (a socket that cannot be had) is told as a note and counts as nothing.
 */

import type { FamilyReadiness } from '../../bfd/intent.ts';
import { SystemError } from '../../bfd/libc.ts';
import { addressDump, linkDump, MessageType, parseInterfaceAddress, parseLink } from '../../routing/parse.ts';
import { type Address, FAMILIES, type Family, familyOf } from '../../routing/prefix.ts';
import type { InterfaceAddress, Link } from '../../routing/state.ts';
import type { Logger } from '../log.ts';
import type { NetlinkSocket } from '../netlink.ts';
import { localAddress, obstacle, usableAddresses } from '../plan.ts';
import type { UplinkPolicy } from '../policy/model.ts';
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
import { GET_NEIGHBOURS, type Neighbour, neighbourDump, parseNeighbour } from './neighbours.ts';
import { type Method, type Origin, openProber, type Prober } from './probe.ts';

/** What is watched. */
export interface UplinkSetup {
  interface: string;
  /** The external gateways, at most one a family. A family without one is not watched. */
  gateways: readonly Address[];
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
  /** `kernel`: what its own neighbour detection, which is too slow to act on, has come to; null: nothing now. */
  probes: { address: Address; method: Method; state: Path['state']; kernel: 'reachable' | 'failed' | null }[];
  notes: string[];
}

export interface UplinkParts {
  /** A socket of its own: its dumps come at any time. */
  netlink: Pick<NetlinkSocket, 'dump'>;
  conntrack(): ConntrackLook | undefined;
  logger: Logger;
  /** Called when a family's readiness may have changed. */
  onChange(): void;
}

/** How often is looked at what nobody announces, ms. */
const LOOK_PERIOD = 1000;

/** What is due within this share of its period is done together with what is due now: fewer things wake the process. */
const TOGETHER = 1 / 8;

/** errno of a send that the network is to blame for: ENETDOWN, ENETUNREACH, EHOSTDOWN, EHOSTUNREACH. */
const UNREACHABLE: ReadonlySet<number> = new Set([100, 101, 112, 113]);

/** Something that is probed. */
interface Probe {
  method: Method;
  address: Address;
  path: Path;
  /** Where it answered from last. */
  mac: string | undefined;
  /** Why it cannot be probed from here. */
  problem: string | undefined;
}

interface Watched {
  family: Family;
  gateway: Address;
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
  #setup: UplinkSetup | undefined;
  #setupText = '';
  #watched: Watched[] = [];
  #conntrack: ConntrackHealth | undefined;
  #timer: NodeJS.Timeout | undefined;
  #lookedAt = Number.NEGATIVE_INFINITY;
  #closed = false;
  readonly #told = new Set<string>();
  readonly #onSignal = (): void => this.#step();

  constructor(parts: UplinkParts) {
    this.#parts = parts;
    process.on('SIGURG', this.#onSignal);
  }

  /** Watches this from now on. What was known of a gateway that stays is kept. */
  configure(setup: UplinkSetup): void {
    const text = JSON.stringify(setup);
    if (text === this.#setupText) return;
    this.#setupText = text;
    const before = this.#watched;
    this.#setup = setup;
    const now = performance.now();
    this.#watched = FAMILIES.flatMap((family) => {
      const gateway = setup.gateways.find((address) => familyOf(address) === family);
      if (gateway === undefined) return [];
      const known = before.find((watched) => watched.family === family);
      const wanted = wantedProbes(gateway, setup.policy);
      const probes = wanted.map(
        ({ method, address }) =>
          known?.probes.find((probe) => probe.method === method && probe.address === address) ??
          newProbe(method, address, now),
      );
      const kept = known ?? {
        family,
        health: createFamily(now),
        sockets: new Map<Method, Prober>(),
        origin: undefined,
        linkProblem: undefined,
      };
      return [{ ...kept, gateway, probes }];
    });
    for (const { family, sockets } of before) {
      if (!this.#watched.some((watched) => watched.family === family)) closeAll(sockets);
    }
    this.look();
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
      probes: this.#watched.flatMap(({ probes, origin }) => {
        const neighbours = this.#neighbours(origin);
        return probes.map(({ address, method, path: { state } }) => {
          const kernel = neighbours.get(address) ?? 'other';
          return { address, method, state, kernel: kernel === 'other' ? null : kernel };
        });
      }),
      notes: [...new Set([...this.#probeNotes(), ...this.#conntrackNotes()])],
    };
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    process.off('SIGURG', this.#onSignal);
    for (const { sockets } of this.#watched) closeAll(sockets);
    this.#watched = [];
  }

  /** Takes in what has come, does what is due, judges. Runs at every answer and whenever something is due. */
  #step(): void {
    if (this.#closed || this.#setup === undefined) return;
    const { policy } = this.#setup;
    const now = performance.now();
    if (now - this.#lookedAt >= LOOK_PERIOD * (1 - TOGETHER)) this.#observe(now);
    let changed = false;
    for (const watched of this.#watched) {
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
    const name = this.#setup!.interface;
    const link = facts.links.find((candidate) => candidate.name === name);
    for (const watched of this.#watched) {
      const problem =
        obstacle(facts, name, watched.family, 'external') ??
        (link?.carrier ? undefined : `the external interface ${name} has no carrier`);
      if (problem !== undefined || link === undefined) {
        // What was heard before says nothing about the time after.
        if (watched.linkProblem === undefined) reset(watched, now);
        watched.linkProblem = problem;
        continue;
      }
      watched.linkProblem = undefined;
      const source = localAddress(usableAddresses(facts, name, watched.family), watched.gateway);
      const origin: Origin = { ifindex: link.index, interface: name, mac: link.mac, source };
      if (JSON.stringify(origin) !== JSON.stringify(watched.origin)) {
        closeAll(watched.sockets);
        watched.origin = origin;
      }
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

  #read(watched: Watched, now: number): void {
    const { policy } = this.#setup!;
    for (const [method, socket] of watched.sockets) {
      for (const { from, mac } of socket.read()) {
        const probe = watched.probes.find((known) => known.method === method && known.address === from);
        if (probe === undefined) continue;
        probe.mac = mac ?? probe.mac;
        answered(probe.path, policy, now);
      }
    }
  }

  /** A probe is due: the last one is lost if it still waits, and the next one is sent. */
  #probe(watched: Watched, probe: Probe, now: number): void {
    const { policy } = this.#setup!;
    const { path } = probe;
    due(path, policy);
    try {
      const socket = watched.sockets.get(probe.method) ?? openProber(probe.method, watched.origin!);
      watched.sockets.set(probe.method, socket);
      // One that answers is asked alone, as long as there are probes left to ask everybody.
      const alone = path.state === 'answers' && path.unanswered === 0 && policy.failures > 1;
      const result = socket.send(probe.address, alone ? probe.mac : undefined);
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
  #find({ family, gateway, probes, linkProblem }: Watched): Finding {
    if (linkProblem !== undefined) return { obstacle: linkProblem };
    if (this.#conntrack?.level === 'full') {
      return {
        obstacle: `the connection tracking table is ${this.#conntrack.percent} % full and new connections fail`,
      };
    }
    const [first, ...others] = probes;
    const gatewayProbe = first?.address === gateway ? first : undefined;
    if (gatewayProbe?.path.state === 'silent') {
      const question =
        gatewayProbe.method === 'icmp' ? 'ICMP echo' : family === 4 ? 'ARP' : 'Neighbor Discovery';
      return { obstacle: `the external gateway ${gateway} does not answer ${question}` };
    }
    const targets = gatewayProbe === undefined ? probes : others;
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
    if (this.#told.has(note)) return;
    this.#told.add(note);
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

const newProbe = (method: Method, address: Address, now: number): Probe => ({
  method,
  address,
  path: createPath(now),
  mac: undefined,
  problem: undefined,
});

/** Whether to probe now; a probe that still waits for its answer is given all its time. */
const isDue = ({ nextAt, waitingSince }: Path, { interval }: UplinkPolicy, now: number): boolean =>
  nextAt <= (waitingSince === undefined ? now + interval * TOGETHER : now);

/** The gateway first, unless it is not to be probed, then the targets of its family. */
function wantedProbes(
  gateway: Address,
  { probe, targets }: UplinkPolicy,
): Pick<Probe, 'method' | 'address'>[] {
  const icmp = targets.filter((target) => familyOf(target) === familyOf(gateway) && target !== gateway);
  return [
    ...(probe === 'none'
      ? []
      : [{ method: probe === 'icmp' ? 'icmp' : 'neighbour', address: gateway } as const]),
    ...[...new Set(icmp)].map((address) => ({ method: 'icmp', address }) as const),
  ];
}

/** Forgets what probes have found. */
function reset(watched: Watched, now: number): void {
  watched.probes = watched.probes.map(({ method, address }) => newProbe(method, address, now));
}

function closeAll(sockets: Map<Method, Prober>): void {
  for (const socket of sockets.values()) socket.close();
  sockets.clear();
}
