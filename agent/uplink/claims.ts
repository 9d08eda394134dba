/**
 * The gateway's addresses on their links: assigned ones are announced and defended, virtual ones are probed for before
 * they are assigned. claim.ts decides; here are the timers, claim-sockets.ts has the sockets.
 *
 * Announced and defended promises: when an address, its link or its Ethernet address is new, it is announced
 * within a second; when another host claims it, it is announced again at once and then with a growing pause, once a
 * second at least, and the conflict is logged, noted and counted, unless it is contested; a host that probes for it is
 * answered. Both need a packet socket; without one a note says so.
 */
import { type Clock, systemClock, type Timer } from '../../lib/clock.ts';
import type { Log } from '../../lib/log.ts';
import { type Address, familyOf } from '../../lib/prefix.ts';
import {
  announced,
  assign,
  type Claim,
  createClaim,
  deadline,
  nextAction,
  probed,
  probeFailed,
  receive,
  refuse,
  setFree,
} from './claim.ts';
import { announcementPackets, answerPacket, probePacket } from './claim-packets.ts';
import { type ClaimSockets, PacketClaimSockets, type ReceivedClaim } from './claim-sockets.ts';
import { conflictsToLog, recentConflicts } from './conflicts.ts';

/** The link that an address is on, as its neighbours know it: the address on another link is a new one to them. */
export interface LinkIdentity {
  ifindex: number;
  /** The Ethernet address of the interface. */
  mac: string;
  /** How often the link has lost or got its carrier. */
  carrierChanges: number;
  /** The kernel answers for the address by a proxy entry, and so answers no probe for one of IPv4. */
  proxied?: true;
  /** Another gateway of the group may hold the address too: claims by others are ignored. */
  contested?: true;
}

export interface ClaimListener {
  logger?: Log;
  /** Called when the state of an address has changed, or others claim it. */
  onChange(address: Address): void;
  /** Called with the number of claims by others to an assigned address. */
  onConflict(claims: number): void;
}

/** What tests replace. */
export interface ClaimEffects {
  sockets: ClaimSockets;
  clock: Clock;
  /** From 0 to 1. */
  random(): number;
}

/** The number of announcements at once, and the pause before the next, ms. */
const BURST = 20;
const BURST_PAUSE = 10;

interface Entry {
  link: LinkIdentity;
  claim: Claim;
  /** Why it cannot be probed for. */
  problem: string | undefined;
}

const sameLink = (one: LinkIdentity, other: LinkIdentity): boolean =>
  one.ifindex === other.ifindex && one.mac === other.mac && one.carrierChanges === other.carrierChanges;

export class Claims {
  readonly #sockets: ClaimSockets;
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #stopArrivals: () => void;
  #listener: ClaimListener = { onChange: () => {}, onConflict: () => {} };
  readonly #entries = new Map<Address, Entry>();
  #timer: Timer | undefined;
  /** Why addresses are neither announced nor defended. */
  #socketProblem: string | undefined;
  #waiting: (() => void)[] = [];

  constructor(effects: Partial<ClaimEffects> = {}) {
    const { sockets = new PacketClaimSockets(), clock = systemClock, random = Math.random } = effects;
    this.#sockets = sockets;
    this.#clock = clock;
    this.#random = random;
    this.#stopArrivals = sockets.onArrival(() => {
      if (this.#receive(this.#clock.now())) this.#step();
    });
  }

  /** Reports to this listener from now on. */
  listen(listener: ClaimListener): void {
    this.#listener = listener;
  }

  /** The addresses that the kernel has, each with its link: they are announced where that is new, and defended. */
  setAssigned(assigned: ReadonlyMap<Address, LinkIdentity>): void {
    const now = this.#clock.now();
    for (const [address, { claim }] of this.#entries) {
      if (claim.state === 'assigned' && !assigned.has(address)) this.#entries.delete(address);
    }
    for (const [address, link] of assigned) {
      const known = this.#entries.get(address);
      if (known?.claim.state === 'assigned' && sameLink(known.link, link)) {
        known.link = link;
        continue;
      }
      const claim = known?.claim ?? createClaim(now);
      assign(claim, now);
      this.#entries.set(address, { link, claim, problem: undefined });
    }
    this.#listenOnLinks();
    this.#step();
  }

  /**
   * The addresses that are wanted and that the kernel does not have, each with its link. Returns those that are free;
   * the others are probed for from now on.
   */
  probe(wanted: ReadonlyMap<Address, LinkIdentity>): Set<Address> {
    const now = this.#clock.now();
    for (const [address, { link, claim }] of this.#entries) {
      const wantedLink = wanted.get(address);
      if (claim.state !== 'assigned' && (wantedLink === undefined || !sameLink(wantedLink, link))) {
        this.#entries.delete(address);
      }
    }
    for (const [address, link] of wanted) {
      const known = this.#entries.get(address);
      if (known !== undefined && known.claim.state !== 'assigned') continue;
      this.#entries.set(address, { link, claim: createClaim(now), problem: undefined });
    }
    this.#listenOnLinks();
    this.#step();
    return new Set(
      [...this.#entries].flatMap(([address, { claim }]) => (claim.state === 'free' ? [address] : [])),
    );
  }

  /** Whether no other host has claimed an address until now, just before the kernel gets it. */
  isFree(address: Address): boolean {
    if (this.#receive(this.#clock.now())) this.#step();
    const state = this.#entries.get(address)?.claim.state;
    return state === undefined || state === 'free';
  }

  /** The kernel has the address now. */
  assigned(address: Address): void {
    const entry = this.#entries.get(address);
    if (entry === undefined) return;
    assign(entry.claim, this.#clock.now());
    this.#step();
  }

  /** Another host held an assigned address too: it is announced again. */
  announce(address: Address): void {
    const entry = this.#entries.get(address);
    if (entry?.claim.state !== 'assigned') return;
    assign(entry.claim, this.#clock.now());
    this.#step();
  }

  /** The kernel has refused the address. */
  refused(address: Address): void {
    const entry = this.#entries.get(address);
    if (entry !== undefined) refuse(entry.claim);
  }

  /** The kernel no longer has the address. */
  removed(address: Address): void {
    this.#entries.delete(address);
  }

  /** The addresses that another host uses, with its Ethernet address. */
  conflicts(): { address: Address; holder: string }[] {
    return [...this.#entries].flatMap(
      ([
        address,
        {
          claim: { state, holder },
        },
      ]) => (state === 'conflict' ? [{ address, holder: holder! }] : []),
    );
  }

  /** Why addresses are not assigned, or contested, as lines for `status`. */
  notes(): string[] {
    const now = this.#clock.now();
    const notes = [...this.#entries].flatMap(([address, { claim, problem }]) => {
      const { state, holder, conflicts } = claim;
      if (problem !== undefined) return [`${address} is not taken: cannot probe for it: ${problem}`];
      if (state === 'conflict') return [`${address} is not taken: ${holder} has it`];
      const others = state === 'assigned' ? recentConflicts(conflicts, now) : [];
      return others.length === 0
        ? []
        : [
            `${others.join(', ')} claimed ${address} within the last minute, which this gateway holds and defends`,
          ];
    });
    return this.#socketProblem === undefined
      ? notes
      : [...notes, `addresses are neither announced nor defended: ${this.#socketProblem}`];
  }

  /** Resolves when it is decided of every address whether it is free. */
  settled(): Promise<void> {
    if (!this.#isUndecided()) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push(resolve);
    return promise;
  }

  close(): void {
    this.#timer?.cancel();
    this.#stopArrivals();
    this.#entries.clear();
    this.#listenOnLinks();
  }

  #isUndecided(): boolean {
    return [...this.#entries.values()].some(
      ({ claim, problem }) => claim.state === 'probing' && problem === undefined,
    );
  }

  #listenOnLinks(): void {
    this.#socketProblem = this.#sockets.listen(
      [...this.#entries].map(([address, { link, claim }]) => ({
        ...{ address, ifindex: link.ifindex, assigned: claim.state === 'assigned' },
      })),
    );
  }

  /** Receives what has arrived, does what is due. */
  #step(): void {
    this.#timer?.cancel();
    const now = this.#clock.now();
    this.#receive(now);
    let left = BURST;
    let at = Number.POSITIVE_INFINITY;
    for (const [address, entry] of this.#entries) {
      const action = nextAction(entry.claim, now);
      if (action === 'announce' && left > 0) {
        left--;
        this.#announce(address, entry, now);
      } else if (action === 'probe') this.#probe(address, entry, now);
      else if (action === 'free') {
        setFree(entry.claim, now);
        this.#listener.onChange(address);
      }
      at = Math.min(at, deadline(entry.claim));
    }
    if (!this.#isUndecided()) for (const resolve of this.#waiting.splice(0)) resolve();
    if (at === Number.POSITIVE_INFINITY) return;
    const pause = left === 0 ? BURST_PAUSE : 1;
    this.#timer = this.#clock.after(Math.max(pause, Math.ceil(at - this.#clock.now())), () => this.#step());
    // Announcing keeps no command from ending; probing does.
    if (!this.#isUndecided()) this.#timer.unref();
  }

  /** Receives what has arrived. Returns whether something may be due now. */
  #receive(now: number): boolean {
    let any = false;
    for (const received of this.#sockets.receive()) any = this.#take(received, now) || any;
    return any;
  }

  #take({ address, message, ifindex }: ReceivedClaim, now: number): boolean {
    const entry = this.#entries.get(address);
    if (entry === undefined || entry.link.ifindex !== ifindex || entry.link.mac === message.mac) return false;
    const { claim, link } = entry;
    if (claim.state === 'assigned' && link.proxied && message.kind === 'probe') {
      this.#answer(address, link, message.mac);
    }
    if (claim.state === 'assigned' && link.contested) return false;
    const { logger, onChange, onConflict } = this.#listener;
    if (receive(claim, message, link.mac, now, this.#random())) onChange(address);
    if (claim.state === 'assigned' && message.kind === 'claim') {
      onConflict(1);
      const others = conflictsToLog(claim.conflicts, now);
      if (others.length > 0) {
        logger?.warn({ address, mac: link.mac, others }, 'another host claims an address of this gateway');
        onChange(address);
      }
    }
    return true;
  }

  #probe(address: Address, entry: Entry, now: number): void {
    const { link, claim } = entry;
    try {
      this.#sockets.send(address, link.ifindex, probePacket(address, link.mac));
      probed(claim, now);
      entry.problem = undefined;
    } catch (error) {
      probeFailed(claim, now);
      if (entry.problem !== undefined) return;
      entry.problem = (error as Error).message;
      this.#listener.onChange(address);
    }
  }

  /** Answers a probe that the kernel does not answer. */
  #answer(address: Address, { ifindex, mac }: LinkIdentity, prober: string): void {
    if (familyOf(address) === 6) return;
    try {
      this.#sockets.send(address, ifindex, answerPacket(address, mac, prober));
    } catch {
      // The link is gone.
    }
  }

  #announce(address: Address, { link, claim }: Entry, now: number): void {
    const { unprobed } = claim;
    announced(claim, now);
    try {
      for (const packet of announcementPackets(address, link.mac)) {
        this.#sockets.send(address, link.ifindex, packet);
      }
      // Another host that has it too need not have received that.
      if (unprobed) this.#sockets.send(address, link.ifindex, probePacket(address, link.mac));
    } catch {
      // The link is gone, and the address with it; or a note has the reason.
    }
  }
}
