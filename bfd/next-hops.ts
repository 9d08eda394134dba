/**
 * The Ethernet addresses of the next hops through which BFD peers are reached, learned from answers to our own
 * questions and from nothing else: neither what somebody announces nor the kernel's neighbour table, which follows
 * announcements, counts.
 *
 * What is promised: while the one that is believed answers, nobody takes its place. When a peer's packets come from
 * another address, the one that is believed is asked at once, and then everybody; that is over within half of the
 * peer's interval, so that a session outlives the change. Until a next hop has answered for the first time nothing
 * is known of it.
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
import { LogOnChange } from '../lib/log-on-change.ts';
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
import {
  ADVERTISEMENT,
  advertisementAnswer,
  arpAnswer,
  arpRequest,
  believed,
  macOctets,
  type Question,
  solicitation,
  solicitedNodeOf,
} from './next-hop.ts';

/** The part of the log that is used. */
interface Log {
  warn(fields: object, message: string): void;
  info(fields: object, message: string): void;
}

/** A next hop on a link, and what we ask for it with. */
export interface NextHop {
  interface: string;
  gateway: string;
  /** Our own address and Ethernet address on that link. */
  local: string;
  mac: string;
}

/** How long answers are waited for when no session is waiting, and at least, ms. */
const LONGEST_ROUND = 50;
const SHORTEST_ROUND = 2;
/** First the one that is believed is asked, then everybody. */
const ROUNDS = 2;
/** Two answerers are told of so often, ms. */
const LOG_PERIOD = 60_000;
/** Answers that one look takes. */
const READ_AT_MOST = 256;
/** After so many questions without an answer it is said once that nothing is filtered. */
const UNANSWERED = 5;

const HOP_LIMIT = 255;

/** ARP replies; the packet begins with the ARP header. */
const ARP_REPLIES: Bpf = [[LD_H_ABS, 0, 0, 6], [JEQ_K, 0, 1, 2], ACCEPT, DROP];
/** What no router has forwarded (RFC 4861 7.1.2). */
const FROM_THE_LINK: Bpf = [[LD_B_ABS, 0, 0, SKF_NET_OFF + 7], [JEQ_K, 0, 1, HOP_LIMIT], ACCEPT, DROP];

/** The name of a next hop, for the maps. */
export const nextHopKey = (hop: NextHop): string => `${hop.interface} ${hop.gateway} ${hop.local} ${hop.mac}`;

/** The octets of an address. */
function octets(address: string): Uint8Array {
  const packed = sockaddr(address, 0);
  return address.includes(':') ? packed.subarray(8, 24) : packed.subarray(4, 8);
}

/** The socket through which one next hop is asked. */
interface Line {
  ifindex: number;
  /** Asks the one that has this Ethernet address, or everybody; 0 or a negative errno. */
  ask(mac: string | undefined): number;
  /** The Ethernet addresses that have answered since the last call. */
  answers(): string[];
  close(): void;
}

function open(hop: NextHop, ifindex: number): Line {
  const question: Question = {
    ownMac: macOctets(hop.mac),
    own: octets(hop.local),
    target: octets(hop.gateway),
  };
  const v6 = hop.gateway.includes(':');
  const fd = v6 ? socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6) : socket(AF_PACKET, SOCK_DGRAM, 0);
  try {
    attachFilter(fd, v6 ? FROM_THE_LINK : ARP_REPLIES);
    if (v6) {
      // A set bit blocks a type: all but the advertisement.
      const blocked = Buffer.alloc(32, 0xff);
      blocked[ADVERTISEMENT >> 3]! &= ~(1 << (ADVERTISEMENT & 7));
      setsockopt(fd, IPPROTO_ICMPV6, ICMPV6_FILTER, blocked);
      setsockopt(fd, SOL_IPV6, IPV6_UNICAST_HOPS, HOP_LIMIT);
      setsockopt(fd, SOL_IPV6, IPV6_MULTICAST_HOPS, HOP_LIMIT);
      bindToDevice(fd, hop.interface);
      bind(fd, sockaddr(hop.local, 0));
    } else {
      bind(fd, linkAddress(ETH_P_ARP, ifindex));
    }
  } catch (error) {
    closeLater(fd);
    throw error;
  }
  const packet = v6 ? solicitation(question) : arpRequest(question);
  const everybody = v6 ? solicitedNodeOf(question.target) : 'ff:ff:ff:ff:ff:ff';
  const destination = (mac: string | undefined): Uint8Array =>
    v6
      ? sockaddr(`${mac === undefined ? everybody : hop.gateway}%${hop.interface}`, 0)
      : linkAddress(ETH_P_ARP, ifindex, mac ?? everybody);
  const buffer = Buffer.alloc(2048);
  return {
    ifindex,
    ask: (mac) => Math.min(0, sendto(fd, packet, destination(mac))),
    answers() {
      const found: string[] = [];
      for (let i = 0; i < READ_AT_MOST; i++) {
        const length = recv(fd, buffer);
        if (length < 0) break;
        const bytes = buffer.subarray(0, length);
        const mac = v6 ? advertisementAnswer(bytes, question) : arpAnswer(bytes, question);
        if (mac !== undefined && !found.includes(mac)) found.push(mac);
      }
      return found;
    },
    // Closing a packet socket waits for the kernel, longer than a packet of ours may.
    close: () => closeLater(fd),
  };
}

interface Watched {
  hop: NextHop;
  /** Believed: none before the first answer, several while it cannot be told which is the gateway. */
  macs: readonly string[];
  line: Line | undefined;
  timer: NodeJS.Timeout | undefined;
  answers: string[];
  unanswered: number;
  warned: number;
  failures: LogOnChange;
}

/** All next hops that are of interest. */
export class NextHops {
  readonly #log: Log;
  readonly #onChange: () => void;
  readonly #watched = new Map<string, Watched>();

  /** `onChange`: what `macsOf` says of one of them is new. */
  constructor(log: Log, onChange: () => void) {
    this.#log = log;
    this.#onChange = onChange;
  }

  /** Follows exactly these. */
  follow(hops: readonly NextHop[]): void {
    const wanted = new Map(hops.map((hop) => [nextHopKey(hop), hop]));
    for (const [key, watched] of this.#watched) {
      if (wanted.has(key)) continue;
      this.#forget(watched);
      this.#watched.delete(key);
    }
    for (const [key, hop] of wanted) {
      if (this.#watched.has(key)) continue;
      this.#watched.set(key, {
        ...{ hop, macs: [], line: undefined, timer: undefined, answers: [] },
        ...{ unanswered: 0, warned: -LOG_PERIOD, failures: new LogOnChange() },
      });
      this.ask(key);
    }
  }

  /** The Ethernet addresses that a next hop is believed to have; none until it has answered. */
  macsOf(key: string): readonly string[] {
    return this.#watched.get(key)?.macs ?? [];
  }

  /** Asks again where it is not known which one it is. */
  tend(): void {
    for (const [key, { macs }] of this.#watched) if (macs.length !== 1) this.ask(key);
  }

  /** Asks who the next hop is, unless that is being asked. `interval`: between packets of its peer, ms. */
  ask(key: string, interval = Number.POSITIVE_INFINITY): void {
    const watched = this.#watched.get(key);
    if (watched === undefined || watched.timer !== undefined) return;
    const round = Math.max(SHORTEST_ROUND, Math.min(LONGEST_ROUND, interval / (2 * ROUNDS)));
    watched.answers = [];
    // Of an earlier question.
    watched.line?.answers();
    this.#round(watched, round, ROUNDS);
  }

  #round(watched: Watched, patience: number, rounds: number): void {
    const line = this.#line(watched);
    if (line === undefined) return;
    const [only, ...others] = watched.macs;
    const error = line.ask(others.length > 0 || rounds === 1 ? undefined : only);
    if (error < 0) this.#complain(watched, new SystemError('sendto', -error));
    watched.timer = setTimeout(() => {
      watched.timer = undefined;
      for (const mac of line.answers()) if (!watched.answers.includes(mac)) watched.answers.push(mac);
      const { macs, answers } = watched;
      const settled = macs.length === 0 ? answers.length > 0 : macs.some((mac) => answers.includes(mac));
      if (!settled && rounds > 1) this.#round(watched, patience, rounds - 1);
      else this.#conclude(watched);
    }, patience);
  }

  #conclude(watched: Watched): void {
    const { hop, answers, macs: before } = watched;
    const fields = { interface: hop.interface, gateway: hop.gateway };
    const macs = believed(before, answers);
    watched.macs = macs;
    watched.unanswered = answers.length > 0 ? 0 : watched.unanswered + 1;
    if (macs.length === 0 && watched.unanswered === UNANSWERED) {
      this.#log.warn(
        fields,
        'the gateway does not answer; packets of BFD peers behind it are taken from every Ethernet address',
      );
    }
    const now = performance.now();
    if (answers.length > 1 && now - watched.warned > LOG_PERIOD) {
      watched.warned = now;
      this.#log.warn(
        { ...fields, answers, believed: macs },
        'several Ethernet addresses answer for the gateway of BFD peers; look for the one that is not it',
      );
    }
    if (isDeepStrictEqual(macs, before)) return;
    this.#log.info({ ...fields, macs, before }, 'learned the Ethernet address of the gateway of BFD peers');
    this.#onChange();
  }

  /** The open socket; made anew with its interface. */
  #line(watched: Watched): Line | undefined {
    const ifindex = ifNametoindex(watched.hop.interface);
    if (watched.line?.ifindex === ifindex) return watched.line;
    watched.line?.close();
    watched.line = undefined;
    try {
      watched.line = open(watched.hop, ifindex);
      watched.failures.ended();
    } catch (error) {
      this.#complain(watched, error as Error);
    }
    return watched.line;
  }

  #complain(watched: Watched, error: Error): void {
    if (!watched.failures.isNew(error.message)) return;
    const { interface: device, gateway } = watched.hop;
    this.#log.warn(
      { interface: device, gateway, err: error },
      'cannot ask for the gateway of BFD peers; until that works their packets are taken as before',
    );
  }

  #forget(watched: Watched): void {
    clearTimeout(watched.timer);
    watched.line?.close();
  }

  close(): void {
    for (const watched of this.#watched.values()) this.#forget(watched);
    this.#watched.clear();
  }
}
