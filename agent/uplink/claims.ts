/**
 * The gateway's addresses on their links: those that it has are announced and defended, virtual ones are asked for
 * before they are taken. claim.ts decides; here are the sockets and the clock.
 *
 * Announced and defended promises: when an address, its link or its Ethernet address is new, the neighbours are told
 * within a second; when somebody else claims it, they are told again at once and then ever more slowly, once a second at
 * least, and it is logged, noted and counted. Both need a packet socket; without one a note says so.
 */

import { ARP_REPLY, ARP_REQUEST, decodeArp, encodeArp } from '../../lib/arp.ts';
import * as libc from '../../lib/libc.ts';
import { SystemError } from '../../lib/libc.ts';
import {
  AF_INET6,
  EAGAIN,
  ETH_P_ARP,
  ETH_P_IPV6,
  IPV6_ADD_MEMBERSHIP,
  SOCK_DGRAM,
  SOL_IPV6,
} from '../../lib/linux.ts';
import type { Logger } from '../../lib/log.ts';
import { MAC_BROADCAST, MAC_ZERO, macText, multicastMac } from '../../lib/mac.ts';
import {
  ALL_NODES,
  decodeAdvertisement,
  decodeSolicitation,
  encodeAdvertisement,
  encodeDuplicateQuestion,
  solicitedNode,
} from '../../lib/ndp.ts';
import { type Address, address as canonical, type Family, familyOf } from '../../lib/prefix.ts';
import {
  announced,
  asked,
  type Claim,
  createClaim,
  deadline,
  hear,
  hold,
  next,
  notAsked,
  refuse,
  setFree,
  type Word,
} from './claim.ts';
import { recentRivals, rivalsToTell } from './conflicts.ts';
import { claimsFilter } from './filters.ts';
import { packetSocket } from './probe.ts';

/** Where an address is or shall be. One that is elsewhere is another one to its neighbours. */
export interface Place {
  ifindex: number;
  /** The Ethernet address of the interface. */
  mac: string;
  /** How often the link has lost or got its carrier. */
  carrierChanges: number;
}

export interface ClaimsParts {
  logger?: Logger;
  /** Called whenever there is news of an address: it is free, or it is not, or others claim it. */
  onNews(address: Address): void;
  /** Called when others have claimed an address that is held, so many times. */
  onConflict(claims: number): void;
}

/** So many announcements at once, and the pause before the next, ms. */
const BURST = 20;
const BURST_PAUSE = 10;

/** Packets that one call of `#hear` takes from one socket. */
const READ_AT_MOST = 256;

const NO_ADDRESS = { 4: canonical('0.0.0.0'), 6: canonical('::') } as const;
const BUFFER = 2048;
/** Octets of struct sockaddr_ll. */
const LINK_ADDRESS = 20;

interface Entry {
  place: Place;
  claim: Claim;
  /** Why it cannot be asked for. */
  problem: string | undefined;
}

/** One socket for a link and a family. */
interface Ear {
  fd: number;
  /** The addresses that its filter lets through. */
  heard: string;
}

const samePlace = (one: Place, other: Place): boolean =>
  one.ifindex === other.ifindex && one.mac === other.mac && one.carrierChanges === other.carrierChanges;

const earKey = (family: Family, ifindex: number): string => `${family} ${ifindex}`;

export class Claims {
  #parts: ClaimsParts = { onNews: () => {}, onConflict: () => {} };
  readonly #entries = new Map<Address, Entry>();
  readonly #ears = new Map<string, Ear>();
  readonly #buffer = Buffer.alloc(BUFFER);
  readonly #from = Buffer.alloc(LINK_ADDRESS);
  /** Where the multicast groups are joined that others ask in. */
  #groups: number | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** Why addresses are neither announced nor defended. */
  #deaf: string | undefined;
  #waiting: (() => void)[] = [];
  readonly #onSignal = (): void => {
    if (this.#hear(performance.now())) this.#step();
  };

  constructor() {
    process.on('SIGURG', this.#onSignal);
  }

  /** Tells these from now on. */
  listen(parts: ClaimsParts): void {
    this.#parts = parts;
  }

  /** The addresses that are there, each with its place: they are announced where that is new, and defended. */
  hold(held: ReadonlyMap<Address, Place>): void {
    const now = performance.now();
    for (const [address, { claim }] of this.#entries) {
      if (claim.state === 'held' && !held.has(address)) this.#entries.delete(address);
    }
    for (const [address, place] of held) {
      const known = this.#entries.get(address);
      if (known?.claim.state === 'held' && samePlace(known.place, place)) continue;
      const claim = known?.claim ?? createClaim(now);
      hold(claim, now);
      this.#entries.set(address, { place, claim, problem: undefined });
    }
    this.#listenTo();
    this.#step();
  }

  /**
   * The addresses that are wanted and not there, each with where it shall be. Returns those that nobody has; the
   * others are asked for from now on.
   */
  ask(wanted: ReadonlyMap<Address, Place>): Set<Address> {
    const now = performance.now();
    for (const [address, { place, claim }] of this.#entries) {
      const wish = wanted.get(address);
      if (claim.state !== 'held' && (wish === undefined || !samePlace(wish, place))) {
        this.#entries.delete(address);
      }
    }
    for (const [address, place] of wanted) {
      const known = this.#entries.get(address);
      if (known !== undefined && known.claim.state !== 'held') continue;
      this.#entries.set(address, { place, claim: createClaim(now), problem: undefined });
    }
    this.#listenTo();
    this.#step();
    return new Set(
      [...this.#entries].flatMap(([address, { claim }]) => (claim.state === 'free' ? [address] : [])),
    );
  }

  /** Whether nobody has said anything about an address until now, just before the kernel is given it. */
  isFree(address: Address): boolean {
    if (this.#hear(performance.now())) this.#step();
    const state = this.#entries.get(address)?.claim.state;
    return state === undefined || state === 'free';
  }

  /** The kernel has the address now. */
  took(address: Address): void {
    const entry = this.#entries.get(address);
    if (entry === undefined) return;
    hold(entry.claim, performance.now());
    this.#step();
  }

  /** The kernel does not want it. */
  refused(address: Address): void {
    const entry = this.#entries.get(address);
    if (entry !== undefined) refuse(entry.claim);
  }

  /** The address is here no longer. */
  withdraw(address: Address): void {
    this.#entries.delete(address);
  }

  /** The addresses that another one has, and who that is. */
  taken(): { address: Address; holder: string }[] {
    return [...this.#entries].flatMap(
      ([
        address,
        {
          claim: { state, holder },
        },
      ]) => (state === 'taken' ? [{ address, holder: holder! }] : []),
    );
  }

  /** What keeps addresses from being taken, or from being held in peace. */
  notes(): string[] {
    const now = performance.now();
    const notes = [...this.#entries].flatMap(([address, { claim, problem }]) => {
      const { state, holder, rivals } = claim;
      if (problem !== undefined) return [`${address} is not taken: it cannot be asked for: ${problem}`];
      if (state === 'taken') return [`${address} is not taken: ${holder} has it`];
      const others = state === 'held' ? recentRivals(rivals, now) : [];
      return others.length === 0
        ? []
        : [
            `${others.join(', ')} claimed ${address} within the last minute, which this gateway holds and defends`,
          ];
    });
    return this.#deaf === undefined
      ? notes
      : [...notes, `addresses are neither announced nor defended: ${this.#deaf}`];
  }

  /** Resolves when nothing is undecided any more. */
  settled(): Promise<void> {
    if (!this.#isUndecided()) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push(resolve);
    return promise;
  }

  close(): void {
    clearTimeout(this.#timer);
    process.off('SIGURG', this.#onSignal);
    this.#entries.clear();
    this.#listenTo();
  }

  #isUndecided(): boolean {
    return [...this.#entries.values()].some(
      ({ claim, problem }) => claim.state === 'asking' && problem === undefined,
    );
  }

  /** Hears what has come, does what is due. */
  #step(): void {
    clearTimeout(this.#timer);
    const now = performance.now();
    this.#hear(now);
    let left = BURST;
    let at = Number.POSITIVE_INFINITY;
    for (const [address, entry] of this.#entries) {
      const todo = next(entry.claim, now);
      if (todo === 'announce' && left > 0) {
        left--;
        this.#announce(address, entry, now);
      } else if (todo === 'ask') this.#ask(address, entry, now);
      else if (todo === 'free') {
        setFree(entry.claim, now);
        this.#parts.onNews(address);
      }
      at = Math.min(at, deadline(entry.claim));
    }
    if (!this.#isUndecided()) for (const resolve of this.#waiting.splice(0)) resolve();
    if (at === Number.POSITIVE_INFINITY) return;
    const pause = left === 0 ? BURST_PAUSE : 1;
    this.#timer = setTimeout(() => this.#step(), Math.max(pause, Math.ceil(at - performance.now())));
    // What is announced keeps no command from ending; what is asked does.
    if (!this.#isUndecided()) this.#timer.unref();
  }

  /** Takes in what has come. Returns whether something is to be done about it. */
  #hear(now: number): boolean {
    let news = false;
    for (const [key, { fd }] of this.#ears) {
      const ifindex = Number(key.slice(2));
      for (let i = 0; i < READ_AT_MOST; i++) {
        const length = libc.recvfrom(fd, this.#buffer, this.#from);
        if (length === -EAGAIN) break;
        if (length <= 0) continue;
        const sender = macText(this.#from.subarray(libc.LINK_ADDRESS_MAC, libc.LINK_ADDRESS_MAC + 6));
        const said = whatIsSaid(this.#buffer.subarray(0, length), sender);
        for (const { address, word } of said) news = this.#take(address, word, ifindex, now) || news;
      }
    }
    return news;
  }

  #take(address: Address, word: Word, ifindex: number, now: number): boolean {
    const entry = this.#entries.get(address);
    if (entry === undefined || entry.place.ifindex !== ifindex || entry.place.mac === word.mac) return false;
    const { claim, place } = entry;
    if (hear(claim, word, place.mac, now, Math.random())) this.#parts.onNews(address);
    if (claim.state === 'held' && word.kind === 'claim') {
      this.#parts.onConflict(1);
      const rivals = rivalsToTell(claim.rivals, now);
      if (rivals.length > 0) {
        this.#parts.logger?.warn(
          { address, mac: place.mac, rivals },
          'somebody else claims an address of this gateway',
        );
        this.#parts.onNews(address);
      }
    }
    return true;
  }

  #ask(address: Address, entry: Entry, now: number): void {
    try {
      this.#send(address, entry.place, 'question');
      asked(entry.claim, now);
      entry.problem = undefined;
    } catch (error) {
      notAsked(entry.claim, now);
      if (entry.problem !== undefined) return;
      entry.problem = (error as Error).message;
      this.#parts.onNews(address);
    }
  }

  #announce(address: Address, { place, claim }: Entry, now: number): void {
    const { unasked } = claim;
    announced(claim, now);
    try {
      this.#send(address, place, 'announcement');
      // Another one that has it too need not have heard that.
      if (unasked) this.#send(address, place, 'question');
    } catch {
      // The link is gone, and the address with it; or there is a note that says why not.
    }
  }

  /** Sends a question, or the announcement. Throws `SystemError`, `TypeError` without an Ethernet address. */
  #send(address: Address, { ifindex, mac }: Place, what: 'question' | 'announcement'): void {
    const family = familyOf(address);
    const ear = this.#ears.get(earKey(family, ifindex));
    if (ear === undefined) throw new Error(this.#deaf ?? 'there is no socket');
    const send = (packet: Buffer, protocol: number, to: string): void => {
      const result = libc.sendto(ear.fd, packet, libc.linkAddress(protocol, ifindex, to));
      if (result < 0) throw new SystemError('send', -result);
    };
    if (family === 6) {
      const destination = what === 'announcement' ? ALL_NODES : solicitedNode(address);
      const packet =
        what === 'announcement' ? encodeAdvertisement(address, mac) : encodeDuplicateQuestion(address);
      send(packet, ETH_P_IPV6, multicastMac(destination));
      return;
    }
    const arp = (operation: number, senderAddress: Address, targetMac: string) =>
      send(
        encodeArp({ operation, senderMac: mac, senderAddress, targetMac, targetAddress: address }),
        ETH_P_ARP,
        MAC_BROADCAST,
      );
    if (what === 'announcement') {
      // Some neighbours learn from the one, some from the other.
      arp(ARP_REQUEST, address, MAC_ZERO);
      arp(ARP_REPLY, address, MAC_BROADCAST);
    } else arp(ARP_REQUEST, NO_ADDRESS[4], MAC_ZERO);
  }

  /** Opens the sockets that the addresses need, each with a filter for its addresses, and closes the others. */
  #listenTo(): void {
    const wanted = new Map<string, Address[]>();
    for (const [address, { place }] of this.#entries) {
      const key = earKey(familyOf(address), place.ifindex);
      wanted.set(key, [...(wanted.get(key) ?? []), address]);
    }
    for (const [key, { fd }] of this.#ears) {
      if (wanted.has(key)) continue;
      libc.close(fd);
      this.#ears.delete(key);
    }
    this.#deaf = undefined;
    for (const [key, addresses] of wanted) {
      try {
        this.#listenOn(key, addresses);
      } catch (error) {
        this.#deaf = (error as Error).message;
      }
    }
    this.#joinGroups();
  }

  #listenOn(key: string, addresses: Address[]): void {
    const family = familyOf(addresses[0]!);
    const heard = addresses.join();
    const ear = this.#ears.get(key);
    if (ear?.heard === heard) return;
    const filter = claimsFilter(family, addresses);
    if (ear !== undefined) {
      try {
        libc.attachFilter(ear.fd, filter);
        ear.heard = heard;
        return;
      } catch {
        // There is no room for both filters. With the old one it would not hear what is said of new addresses.
        libc.close(ear.fd);
        this.#ears.delete(key);
      }
    }
    const protocol = family === 4 ? ETH_P_ARP : ETH_P_IPV6;
    this.#ears.set(key, { fd: packetSocket(protocol, Number(key.slice(2)), filter), heard });
  }

  /** Where others ask for IPv6 addresses that are not there yet, the kernel does not listen for us. */
  #joinGroups(): void {
    const asking = [...this.#entries].filter(
      ([address, { claim }]) => familyOf(address) === 6 && claim.state !== 'held',
    );
    if (asking.length === 0) {
      if (this.#groups !== undefined) libc.close(this.#groups);
      this.#groups = undefined;
      return;
    }
    for (const [address, { place }] of asking) {
      try {
        this.#groups ??= libc.socket(AF_INET6, SOCK_DGRAM, 0);
        // struct ipv6_mreq
        const request = Buffer.alloc(20);
        request.set(libc.sockaddr(solicitedNode(address), 0).subarray(8, 24));
        request.writeInt32LE(place.ifindex, 16);
        libc.setsockopt(this.#groups, SOL_IPV6, IPV6_ADD_MEMBERSHIP, request);
      } catch {
        // Joined already (EADDRINUSE), or the link is gone. Without it only a switch that snoops keeps questions away.
      }
    }
  }
}

/** What a packet says of addresses; `sender` is the Ethernet address that it came from. */
function whatIsSaid(packet: Buffer, sender: string): { address: Address; word: Word }[] {
  const claim = (address: Address, mac: string) => ({ address, word: { kind: 'claim' as const, mac } });
  const question = (address: Address) => ({ address, word: { kind: 'question' as const, mac: sender } });
  const arp = decodeArp(packet);
  if (arp !== undefined) {
    const { senderAddress, senderMac, targetAddress, operation } = arp;
    if (senderAddress !== NO_ADDRESS[4]) return [claim(senderAddress, senderMac)];
    return operation === ARP_REQUEST ? [question(targetAddress)] : [];
  }
  const advertisement = decodeAdvertisement(packet);
  if (advertisement !== undefined) return [claim(advertisement.target, advertisement.targetMac ?? sender)];
  const solicitation = decodeSolicitation(packet);
  if (solicitation === undefined) return [];
  const { source, target } = solicitation;
  return source === NO_ADDRESS[6] ? [question(target)] : [claim(source, sender)];
}
