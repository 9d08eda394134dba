/**
 * Resolves the Ethernet addresses of the next hops through which BFD peers are reached. Only answers to our own
 * questions count: neither announcements nor the kernel's neighbour table, which follows announcements.
 *
 * What is promised: while the trusted address answers, no other takes its place. When a peer's packets come from
 * another address, the trusted one is asked at once, and then the whole link; that takes at most half of the peer's
 * interval, so that a session survives the change. Before its first answer a next hop has no trusted address.
 */
import { isDeepStrictEqual } from 'node:util';
import { ACCEPT, type Bpf, DROP, JEQ_K, LD_B_ABS, LD_H_ABS, SKF_NET_OFF } from '../lib/bpf.ts';
import {
  attachFilter,
  bind,
  bindToDevice,
  closeLater,
  ifNametoindex,
  linkAddress,
  recv,
  SystemError,
  sendto,
  setsockopt,
  sockaddr,
  socket,
} from '../lib/libc.ts';
import {
  AF_INET6,
  AF_PACKET,
  ETH_P_ARP,
  ICMPV6_FILTER,
  IPPROTO_ICMPV6,
  IPV6_MULTICAST_HOPS,
  IPV6_UNICAST_HOPS,
  SOCK_DGRAM,
  SOCK_RAW,
  SOL_IPV6,
} from '../lib/linux.ts';
import type { Log } from '../lib/log.ts';
import { LogOnChange } from '../lib/log-on-change.ts';
import { MAC_BROADCAST } from '../lib/mac.ts';
import { ADVERTISEMENT, ND_HOP_LIMIT, solicitedNode } from '../lib/ndp.ts';
import { address } from '../lib/prefix.ts';
import { answerTo, encodeQuestion, type Question, trusted } from './next-hop.ts';

/** A next hop on a link, and the addresses that we ask with. */
export interface NextHop {
  interface: string;
  gateway: string;
  /** Our own address and Ethernet address on that link. */
  local: string;
  mac: string;
}

/** How long to wait for answers: when no session waits for them, and at least, ms. */
const LONGEST_ROUND = 50;
const SHORTEST_ROUND = 2;
/** The trusted address is asked first, the whole link second. */
const ROUNDS = 2;
/** Minimum interval between log lines about several answers, ms. */
const LOG_PERIOD = 60_000;
/** Answers read from a socket in one go. */
const MAX_ANSWERS = 256;
/** Unanswered requests after which the log has a line that nothing is filtered. */
const UNANSWERED = 5;

/** ARP replies; the packet begins with the ARP header. */
const ARP_REPLIES: Bpf = [[LD_H_ABS, 0, 0, 6], [JEQ_K, 0, 1, 2], ACCEPT, DROP];
/** What no router has forwarded (RFC 4861 7.1.2). */
const FROM_THE_LINK: Bpf = [[LD_B_ABS, 0, 0, SKF_NET_OFF + 7], [JEQ_K, 0, 1, ND_HOP_LIMIT], ACCEPT, DROP];

/** The name of a next hop, for the maps. */
export const nextHopKey = (hop: NextHop): string => `${hop.interface} ${hop.gateway} ${hop.local} ${hop.mac}`;

/** The socket through which one next hop is asked. */
export interface QuestionSocket {
  ifindex: number;
  /** Asks the host with this Ethernet address, or the whole link; 0 or a negative errno. */
  ask(mac: string | undefined): number;
  /** The Ethernet addresses that have answered since the last call. */
  answers(): string[];
  close(): void;
}

/** Opens the socket of a next hop. Throws `SystemError`. */
export function openQuestionSocket(hop: NextHop, ifindex: number): QuestionSocket {
  const question: Question = { ownMac: hop.mac, own: address(hop.local), target: address(hop.gateway) };
  const v6 = hop.gateway.includes(':');
  const fd = v6 ? socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6) : socket(AF_PACKET, SOCK_DGRAM, 0);
  try {
    attachFilter(fd, v6 ? FROM_THE_LINK : ARP_REPLIES);
    if (v6) {
      // A set bit blocks a type: all but the advertisement.
      const blocked = Buffer.alloc(32, 0xff);
      blocked[ADVERTISEMENT >> 3]! &= ~(1 << (ADVERTISEMENT & 7));
      setsockopt(fd, IPPROTO_ICMPV6, ICMPV6_FILTER, blocked);
      setsockopt(fd, SOL_IPV6, IPV6_UNICAST_HOPS, ND_HOP_LIMIT);
      setsockopt(fd, SOL_IPV6, IPV6_MULTICAST_HOPS, ND_HOP_LIMIT);
      bindToDevice(fd, hop.interface);
      bind(fd, sockaddr(hop.local, 0));
    } else {
      bind(fd, linkAddress(ETH_P_ARP, ifindex));
    }
  } catch (error) {
    closeLater(fd);
    throw error;
  }
  const packet = encodeQuestion(question);
  const destination = (mac: string | undefined): Uint8Array => {
    if (!v6) return linkAddress(ETH_P_ARP, ifindex, mac ?? MAC_BROADCAST);
    const to = mac === undefined ? solicitedNode(question.target) : hop.gateway;
    return sockaddr(`${to}%${hop.interface}`, 0);
  };
  const buffer = Buffer.alloc(2048);
  return {
    ifindex,
    ask: (mac) => Math.min(0, sendto(fd, packet, destination(mac))),
    answers() {
      const found: string[] = [];
      for (let i = 0; i < MAX_ANSWERS; i++) {
        const length = recv(fd, buffer);
        if (length < 0) break;
        const mac = answerTo(question, buffer.subarray(0, length));
        if (mac !== undefined && !found.includes(mac)) found.push(mac);
      }
      return found;
    },
    // Closing a packet socket waits for the kernel, longer than a BFD packet may wait.
    close: () => closeLater(fd),
  };
}

interface Watched {
  hop: NextHop;
  /** None before the first answer, several while it is unknown which is the gateway's. */
  macs: readonly string[];
  socket: QuestionSocket | undefined;
  timer: NodeJS.Timeout | undefined;
  answers: string[];
  unanswered: number;
  warned: number;
  failures: LogOnChange;
}

/** What the resolver needs of the system. */
export interface ResolverSystem {
  open(hop: NextHop, ifindex: number): QuestionSocket;
  ifindex(device: string): number;
}

const SYSTEM: ResolverSystem = { open: openQuestionSocket, ifindex: ifNametoindex };

export class NextHopResolver {
  readonly #log: Log;
  readonly #onChange: () => void;
  readonly #system: ResolverSystem;
  readonly #watched = new Map<string, Watched>();

  /** `onChange`: the trusted addresses of a next hop have changed. */
  constructor(log: Log, onChange: () => void, system: ResolverSystem = SYSTEM) {
    this.#log = log;
    this.#onChange = onChange;
    this.#system = system;
  }

  /** Watches exactly these. */
  watch(hops: readonly NextHop[]): void {
    const wanted = new Map(hops.map((hop) => [nextHopKey(hop), hop]));
    for (const [key, watched] of this.#watched) {
      if (wanted.has(key)) continue;
      this.#forget(watched);
      this.#watched.delete(key);
    }
    for (const [key, hop] of wanted) {
      if (this.#watched.has(key)) continue;
      this.#watched.set(key, {
        ...{ hop, macs: [], socket: undefined, timer: undefined, answers: [] },
        ...{ unanswered: 0, warned: -LOG_PERIOD, failures: new LogOnChange() },
      });
      this.ask(key);
    }
  }

  /** The trusted Ethernet addresses of a next hop; none until it has answered. */
  macsOf(key: string): readonly string[] {
    return this.#watched.get(key)?.macs ?? [];
  }

  /** Asks again for every next hop without exactly one trusted address. */
  retry(): void {
    for (const [key, { macs }] of this.#watched) if (macs.length !== 1) this.ask(key);
  }

  /** Asks for a next hop, unless a question is open. `interval`: between packets of its peer, ms. */
  ask(key: string, interval = Number.POSITIVE_INFINITY): void {
    const watched = this.#watched.get(key);
    if (watched === undefined || watched.timer !== undefined) return;
    const round = Math.max(SHORTEST_ROUND, Math.min(LONGEST_ROUND, interval / (2 * ROUNDS)));
    watched.answers = [];
    // Of an earlier question.
    watched.socket?.answers();
    this.#round(watched, round, ROUNDS);
  }

  #round(watched: Watched, wait: number, rounds: number): void {
    const asked = this.#socketOf(watched);
    if (asked === undefined) return;
    const [only, ...others] = watched.macs;
    const error = asked.ask(others.length > 0 || rounds === 1 ? undefined : only);
    if (error < 0) this.#logError(watched, new SystemError('sendto', -error));
    watched.timer = setTimeout(() => {
      watched.timer = undefined;
      for (const mac of asked.answers()) if (!watched.answers.includes(mac)) watched.answers.push(mac);
      const { macs, answers } = watched;
      const settled = macs.length === 0 ? answers.length > 0 : macs.some((mac) => answers.includes(mac));
      if (!settled && rounds > 1) this.#round(watched, wait, rounds - 1);
      else this.#conclude(watched);
    }, wait);
  }

  #conclude(watched: Watched): void {
    const { hop, answers, macs: before } = watched;
    const fields = { interface: hop.interface, gateway: hop.gateway };
    const macs = trusted(before, answers);
    watched.macs = macs;
    watched.unanswered = answers.length > 0 ? 0 : watched.unanswered + 1;
    if (macs.length === 0 && watched.unanswered === UNANSWERED) {
      this.#log.warn(
        fields,
        'the gateway does not answer; accepting packets of the BFD peers behind it from every Ethernet address',
      );
    }
    const now = performance.now();
    if (answers.length > 1 && now - watched.warned > LOG_PERIOD) {
      watched.warned = now;
      this.#log.warn(
        { ...fields, answers, trusted: macs },
        'several Ethernet addresses answer for the gateway of BFD peers; find the one that is not the gateway',
      );
    }
    if (isDeepStrictEqual(macs, before)) return;
    this.#log.info({ ...fields, macs, before }, 'learned the Ethernet address of the gateway of BFD peers');
    this.#onChange();
  }

  /** The open socket, opened again when its interface was recreated. */
  #socketOf(watched: Watched): QuestionSocket | undefined {
    const ifindex = this.#system.ifindex(watched.hop.interface);
    if (watched.socket?.ifindex === ifindex) return watched.socket;
    watched.socket?.close();
    watched.socket = undefined;
    try {
      watched.socket = this.#system.open(watched.hop, ifindex);
      watched.failures.ended();
    } catch (error) {
      this.#logError(watched, error as Error);
    }
    return watched.socket;
  }

  #logError(watched: Watched, error: Error): void {
    if (!watched.failures.isNew(error.message)) return;
    const { interface: device, gateway } = watched.hop;
    this.#log.warn(
      { interface: device, gateway, err: error },
      'cannot ask for the Ethernet address of the gateway of BFD peers, retrying; the filter stays as it is',
    );
  }

  #forget(watched: Watched): void {
    clearTimeout(watched.timer);
    watched.socket?.close();
  }

  close(): void {
    for (const watched of this.#watched.values()) this.#forget(watched);
    this.#watched.clear();
  }
}
