/**
 * Virtual addresses on the link: asks whether somebody else has one before it is taken (RFC 5227 2.1), and tells
 * the neighbours where it is afterwards. One that is taken is asked for again and again, and never fought over.
 */
import * as libc from '../../bfd/libc.ts';
import { SystemError } from '../../bfd/libc.ts';
import { type Address, address as canonical, type Family, familyOf } from '../../routing/prefix.ts';
import { ARP_REPLY, ARP_REQUEST, decodeArp, encodeArp } from './arp.ts';
import { MAC_BROADCAST, multicastMac } from './mac.ts';
import {
  ALL_NODES,
  decodeAdvertisement,
  encodeAdvertisement,
  encodeSolicitation,
  solicitedNode,
} from './ndp.ts';
import {
  ADVERTISEMENTS,
  ANY_ARP,
  EAGAIN,
  ETH_P_ARP,
  ETH_P_IPV6,
  linkAddress,
  type Origin,
  packetSocket,
} from './probe.ts';

/** So many questions without an answer, so far apart (ms), mean that an address is free. */
const QUESTIONS = 3;
const QUESTION_INTERVAL = 100;
/** How often the holder of an address is asked whether it still has it, ms. */
const TAKEN_INTERVAL = 250;
/** When an address is announced, ms after it was taken: neighbours may miss one, a switch port may come up late. */
const ANNOUNCEMENTS = [0, 100, 300, 1000, 2000, 4000];

const NO_MAC = '00:00:00:00:00:00';
const NO_ADDRESS = canonical('0.0.0.0');
const BUFFER = 2048;

interface Claim {
  origin: Origin;
  state: 'asking' | 'free' | 'taken';
  /** Who has it. */
  holder: string | undefined;
  /** Questions since the last answer. */
  unanswered: number;
  /** When the next question is due, ms. */
  nextAt: number;
  /** Why it cannot be asked for. */
  problem: string | undefined;
}

/** One socket for a link and a family. */
interface Ear {
  fd: number;
  origin: Origin;
}

const keyOf = (family: Family, { ifindex, mac }: Origin): string => `${family} ${ifindex} ${mac}`;

export class Claims {
  readonly #claims = new Map<Address, Claim>();
  readonly #ears = new Map<string, Ear>();
  readonly #announcements = new Map<Address, NodeJS.Timeout[]>();
  readonly #buffer = Buffer.alloc(BUFFER);
  #timer: NodeJS.Timeout | undefined;
  #onDecision: (address: Address) => void = () => {};
  #waiting: (() => void)[] = [];

  /** Calls back whenever it has become clear that an address is free, or that it is not. */
  listen(onDecision: (address: Address) => void): void {
    this.#onDecision = onDecision;
  }

  /**
   * The addresses that are wanted and not there, each with where it shall be. Returns those that nobody has; the
   * others are asked for from now on.
   */
  ask(wanted: ReadonlyMap<Address, Origin>): Set<Address> {
    for (const [address, { origin }] of this.#claims) {
      const now = wanted.get(address);
      if (now === undefined || JSON.stringify(now) !== JSON.stringify(origin)) this.#claims.delete(address);
    }
    for (const [address, origin] of wanted) {
      if (this.#claims.has(address)) continue;
      const rest = { holder: undefined, unanswered: 0, nextAt: performance.now(), problem: undefined };
      this.#claims.set(address, { origin, state: 'asking', ...rest });
    }
    this.#step();
    return new Set([...this.#claims].filter(([, { state }]) => state === 'free').map(([address]) => address));
  }

  /** What keeps addresses from being taken. */
  notes(): string[] {
    return [...this.#claims].flatMap(([address, { state, holder, problem }]) => {
      if (problem !== undefined) return [`${address} is not taken: it cannot be asked for: ${problem}`];
      return state === 'taken' ? [`${address} is not taken: ${holder} has it`] : [];
    });
  }

  /** Resolves when nothing is undecided any more. */
  settled(): Promise<void> {
    if (this.#undecided().length === 0) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push(resolve);
    return promise;
  }

  /** Tells the link that an address is here now, and again for some seconds. */
  announce(address: Address, origin: Origin): void {
    this.withdraw(address);
    const [, ...later] = ANNOUNCEMENTS;
    const timers = later.map((delay) => setTimeout(() => this.#tell(address, origin), delay).unref());
    this.#announcements.set(address, timers);
    this.#tell(address, origin);
  }

  /** No more announcements. */
  withdraw(address: Address): void {
    for (const timer of this.#announcements.get(address) ?? []) clearTimeout(timer);
    this.#announcements.delete(address);
  }

  close(): void {
    clearTimeout(this.#timer);
    for (const address of [...this.#announcements.keys()]) this.withdraw(address);
    this.#claims.clear();
    this.#closeEars();
  }

  #undecided(): Claim[] {
    return [...this.#claims.values()].filter(
      ({ state, problem }) => state === 'asking' && problem === undefined,
    );
  }

  /** Hears what has come, asks what is due, decides. */
  #step(): void {
    clearTimeout(this.#timer);
    const now = performance.now();
    for (const ear of this.#ears.values()) this.#hear(ear, now);
    for (const [address, claim] of this.#claims) {
      if (claim.state === 'free' || claim.nextAt > now) continue;
      if (claim.unanswered >= QUESTIONS) {
        claim.state = 'free';
        this.#onDecision(address);
      } else this.#question(address, claim, now);
    }
    if (this.#undecided().length === 0) for (const resolve of this.#waiting.splice(0)) resolve();
    const times = [...this.#claims.values()].filter(({ state }) => state !== 'free');
    if (times.length === 0) {
      this.#closeEars();
      return;
    }
    const at = Math.min(...times.map(({ nextAt }) => nextAt));
    this.#timer = setTimeout(() => this.#step(), Math.max(1, Math.ceil(at - performance.now())));
  }

  #hear(ear: Ear, now: number): void {
    for (;;) {
      const length = libc.recv(ear.fd, this.#buffer);
      if (length === -EAGAIN) return;
      if (length <= 0) continue;
      const packet = this.#buffer.subarray(0, length);
      const said = decodeArp(packet) ?? decodeAdvertisement(packet);
      if (said === undefined) continue;
      const [address, mac] =
        'senderMac' in said ? [said.senderAddress, said.senderMac] : [said.target, said.targetMac];
      const claim = this.#claims.get(address);
      if (claim === undefined || mac === ear.origin.mac || claim.origin.ifindex !== ear.origin.ifindex) {
        continue;
      }
      const news = claim.state !== 'taken';
      const holder = mac ?? 'somebody';
      Object.assign(claim, { state: 'taken', holder, unanswered: 0, nextAt: now + TAKEN_INTERVAL });
      if (news) this.#onDecision(address);
    }
  }

  #question(address: Address, claim: Claim, now: number): void {
    claim.nextAt = now + QUESTION_INTERVAL;
    try {
      this.#send(address, claim.origin, ARP_REQUEST);
      claim.unanswered++;
      claim.problem = undefined;
    } catch (error) {
      claim.nextAt = now + TAKEN_INTERVAL;
      if (claim.problem === undefined) {
        claim.problem = (error as Error).message;
        this.#onDecision(address);
      }
    }
  }

  #tell(address: Address, origin: Origin): void {
    try {
      this.#send(address, origin, 'announcement');
    } catch {
      // The link is gone, and the address with it.
    }
    if (this.#claims.size === 0) this.#closeEars();
  }

  /** Sends a question, or the announcement. Throws `SystemError`, `TypeError` without an Ethernet address. */
  #send(address: Address, origin: Origin, what: typeof ARP_REQUEST | 'announcement'): void {
    const family = familyOf(address);
    const { ifindex, mac, source } = origin;
    const { fd } = this.#ear(family, origin);
    const send = (packet: Buffer, protocol: number, to: string): void => {
      const result = libc.sendto(fd, packet, linkAddress(protocol, ifindex, to));
      if (result < 0) throw new SystemError('send', -result);
    };
    if (family === 6) {
      const destination = what === 'announcement' ? ALL_NODES : solicitedNode(address);
      const packet =
        what === 'announcement'
          ? encodeAdvertisement(address, mac)
          : encodeSolicitation({ source, sourceMac: mac, destination, target: address });
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
      arp(ARP_REQUEST, address, NO_MAC);
      arp(ARP_REPLY, address, MAC_BROADCAST);
    } else arp(ARP_REQUEST, NO_ADDRESS, NO_MAC);
  }

  #ear(family: Family, origin: Origin): Ear {
    const key = keyOf(family, origin);
    const known = this.#ears.get(key);
    if (known !== undefined) return known;
    const [protocol, filter] =
      family === 4 ? ([ETH_P_ARP, ANY_ARP] as const) : ([ETH_P_IPV6, ADVERTISEMENTS] as const);
    const ear = { fd: packetSocket(protocol, origin.ifindex, filter), origin };
    this.#ears.set(key, ear);
    return ear;
  }

  #closeEars(): void {
    for (const { fd } of this.#ears.values()) libc.close(fd);
    this.#ears.clear();
  }
}
