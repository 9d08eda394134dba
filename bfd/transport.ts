/**
 * UDP for BFD: one receiving socket per local address, one sending socket per session.
 *
 * Sockets are made with koffi, because the kernel must drop packets with a low TTL or Hop Limit (GTSM, RFC 5881
 * 5: Node cannot read the TTL of what it receives) and bind to a device. The receiving one is then handed to
 * dgram; sending goes straight through sendto(2). A socket that cannot be opened yet, because its address or
 * interface is missing, is tried again until it can.
 */
import { createSocket, type Socket } from 'node:dgram';
import { isDeepStrictEqual } from 'node:util';
import {
  ACCEPT,
  type Bpf,
  DROP,
  JEQ_K,
  JGE_K,
  LD_B_ABS,
  LD_H_ABS,
  LD_W_ABS,
  RET_K,
  SKF_LL_OFF,
  SKF_NET_OFF,
} from '../lib/bpf.ts';
import {
  attachFilter,
  bind,
  bindToDevice,
  close,
  getsockopt,
  ifNametoindex,
  SystemError,
  sendto,
  setReceiveBuffer,
  setsockopt,
  sockaddr,
  socket,
} from '../lib/libc.ts';
import {
  addressFamily,
  IP_TOS,
  IP_TTL,
  IPV6_TCLASS,
  IPV6_UNICAST_HOPS,
  IPV6_V6ONLY,
  SO_MEMINFO,
  SO_PRIORITY,
  SOCK_DGRAM,
  SOL_IP,
  SOL_IPV6,
  SOL_SOCKET,
} from '../lib/linux.ts';
import type { Log } from '../lib/log.ts';
import { LogOnChange } from '../lib/log-on-change.ts';
import { PORT_MULTIHOP, PORT_SINGLE_HOP, SENT_TTL, SOURCE_PORTS } from './constants.ts';

/** Where SO_MEMINFO has the packets that were dropped (linux/sock_diag.h). */
const SK_MEMINFO_DROPS = 8;

/** Internetwork control, CS6: what routing protocols use. */
const CONTROL_TRAFFIC_CLASS = 0xc0;
const CONTROL_PRIORITY = 6;
/** Room for the packets of 256 sessions during a long pause of the event loop. */
const RECEIVE_BUFFER = 1 << 20;

/** How often sockets that could not be opened, or whose interface was made anew, are opened again, ms. */
const TEND_PERIOD = 250;

const IPV4_TTL_OFFSET = 8;
const IPV4_SOURCE_OFFSET = 12;
const IPV6_HOP_LIMIT_OFFSET = 7;
const IPV6_SOURCE_OFFSET = 8;
const MAC_SOURCE_OFFSET = 6;
const UDP_HEADER = 8;
const DROP_ALL: Bpf = [DROP];

/** What is left of a packet of a guarded peer from a strange Ethernet address, octets: no BFD packet is so short. */
export const STRANGE_LENGTH = 1;

/** Peers whose packets are taken from some Ethernet addresses only. */
export interface Guard {
  remotes: readonly string[];
  macs: readonly string[];
}

/**
 * Drops what has a low TTL or Hop Limit, and cuts down to `STRANGE_LENGTH` what comes from a guarded peer and a
 * strange Ethernet address: it is to be counted and to be asked about. A packet of the right address is through
 * after two comparisons more, however many peers there are.
 */
function receiveFilter({ local, minTTL, guard: { remotes, macs } }: Endpoint): Bpf {
  const v6 = local.includes(':');
  const gtsm: Bpf = [
    [LD_B_ABS, 0, 0, SKF_NET_OFF + (v6 ? IPV6_HOP_LIMIT_OFFSET : IPV4_TTL_OFFSET)],
    [JGE_K, 1, 0, minTTL],
    DROP,
  ];
  if (macs.length === 0) return [...gtsm, ACCEPT];
  const ownMacs = macs.flatMap((mac): Bpf => {
    const octets = Buffer.from(mac.replaceAll(':', ''), 'hex');
    return [
      [LD_W_ABS, 0, 0, SKF_LL_OFF + MAC_SOURCE_OFFSET + 2],
      [JEQ_K, 0, 3, octets.readInt32BE(2)],
      [LD_H_ABS, 0, 0, SKF_LL_OFF + MAC_SOURCE_OFFSET],
      [JEQ_K, 0, 1, octets.readUInt16BE(0)],
      ACCEPT,
    ];
  });
  const strangers = remotes.flatMap((remote): Bpf => {
    const packed = Buffer.from(sockaddr(remote, 0));
    const words = v6 ? [8, 12, 16, 20] : [4];
    return [
      ...words.flatMap((at, i): Bpf => {
        const source = SKF_NET_OFF + (v6 ? IPV6_SOURCE_OFFSET : IPV4_SOURCE_OFFSET) + 4 * i;
        return [
          [LD_W_ABS, 0, 0, source],
          [JEQ_K, 0, 2 * (words.length - i) - 1, packed.readInt32BE(at)],
        ];
      }),
      [RET_K, 0, 0, UDP_HEADER + STRANGE_LENGTH],
    ];
  });
  return [...gtsm, ...ownMacs, ...strangers, ACCEPT];
}

/** A UDP socket of the family of `address` that marks what it sends as network control with TTL 255. */
function controlSocket(v6: boolean): number {
  const fd = socket(addressFamily(v6 ? 6 : 4), SOCK_DGRAM, 0);
  try {
    if (v6) {
      setsockopt(fd, SOL_IPV6, IPV6_V6ONLY, 1);
      setsockopt(fd, SOL_IPV6, IPV6_UNICAST_HOPS, SENT_TTL);
      setsockopt(fd, SOL_IPV6, IPV6_TCLASS, CONTROL_TRAFFIC_CLASS);
    } else {
      setsockopt(fd, SOL_IP, IP_TTL, SENT_TTL);
      setsockopt(fd, SOL_IP, IP_TOS, CONTROL_TRAFFIC_CLASS);
    }
    setsockopt(fd, SOL_SOCKET, SO_PRIORITY, CONTROL_PRIORITY);
    return fd;
  } catch (error) {
    close(fd);
    throw error;
  }
}

/** What a receiving socket listens to. */
export interface Endpoint {
  local: string;
  multihop: boolean;
  /** SO_BINDTODEVICE. */
  interface: string | undefined;
  /** The least TTL or Hop Limit that the kernel lets through. */
  minTTL: number;
  guard: Guard;
}

type Receive = (payload: Buffer, from: string, endpoint: Endpoint) => void;

/** The receiving socket of one local address and port. */
class Receiver {
  endpoint: Endpoint;
  #socket: Socket | undefined;
  #fd = -1;
  #interfaceIndex = 0;
  /** Drops so far, and what the open socket's counter, 32 bits wide, said last. */
  #drops = 0;
  #dropCounter = 0;
  /** The error that was logged last, so that a retry does not log it again. */
  readonly #bindFailures = new LogOnChange();
  readonly #receive: Receive;
  readonly #log: Log;

  constructor(endpoint: Endpoint, receive: Receive, log: Log) {
    this.endpoint = endpoint;
    this.#receive = receive;
    this.#log = log;
  }

  open(): void {
    const { local, multihop, interface: device, minTTL, guard } = this.endpoint;
    const v6 = local.includes(':');
    let fd = -1;
    let unguarded: Error | undefined;
    try {
      fd = controlSocket(v6);
      unguarded = this.#filter(fd);
      setReceiveBuffer(fd, RECEIVE_BUFFER);
      if (device !== undefined) this.#bindToDevice(fd, device);
      bind(fd, sockaddr(local, multihop ? PORT_MULTIHOP : PORT_SINGLE_HOP));
    } catch (error) {
      if (fd >= 0) close(fd);
      this.#complain(error as Error);
      return;
    }
    const opened = createSocket(v6 ? 'udp6' : 'udp4');
    opened.on('message', (payload, from) => this.#receive(payload, from.address, this.endpoint));
    opened.on('error', (error) => {
      this.#complain(error);
      this.close();
    });
    opened.bind({ fd, exclusive: true });
    this.#socket = opened;
    this.#fd = fd;
    this.#bindFailures.ended();
    this.#log.info({ local, multihop, interface: device, minTTL }, 'listening for BFD');
    if (unguarded === undefined) return;
    this.#log.warn(
      { local, peers: guard.remotes.length, err: unguarded },
      'no room for the Ethernet addresses of BFD peers in the filter; packets from all are taken; raise net.core.optmem_max',
    );
  }

  /** Filters by the guard too, or without it where that does not fit: returns why. Throws `SystemError`. */
  #filter(fd: number): Error | undefined {
    try {
      attachFilter(fd, receiveFilter(this.endpoint));
      return undefined;
    } catch (error) {
      attachFilter(fd, receiveFilter({ ...this.endpoint, guard: { remotes: [], macs: [] } }));
      return error as Error;
    }
  }

  #bindToDevice(fd: number, device: string): void {
    this.#interfaceIndex = ifNametoindex(device);
    try {
      bindToDevice(fd, device);
    } catch (error) {
      if ((error as SystemError).code !== 'EPERM') throw error;
      this.#log.warn(
        { interface: device },
        'not permitted to bind to the interface; packets of all are taken',
      );
    }
  }

  #complain(error: Error): void {
    if (!this.#bindFailures.isNew(error.message)) return;
    const { local, interface: device } = this.endpoint;
    this.#log.warn({ local, interface: device, err: error }, 'cannot listen for BFD yet; trying on');
  }

  close(): void {
    if (this.#socket === undefined) return;
    this.drops();
    this.#dropCounter = 0;
    this.#fd = -1;
    this.#socket.close();
    this.#socket = undefined;
  }

  /** Takes on another interface, another least TTL or another guard. */
  change(endpoint: Endpoint): void {
    const before = this.endpoint;
    this.endpoint = endpoint;
    if (this.#socket === undefined) return;
    if (isDeepStrictEqual(before, endpoint)) return;
    if (before.interface === endpoint.interface) {
      try {
        attachFilter(this.#fd, receiveFilter(endpoint));
        return;
      } catch {
        // A socket has to have room for both, the filter that goes and the one that comes (net.core.optmem_max).
      }
    }
    this.close();
    this.open();
  }

  /** Opens a socket that could not be opened, or that hears nothing because its interface was made anew. */
  tend(): void {
    const device = this.endpoint.interface;
    if (this.#socket !== undefined) {
      const index = device === undefined ? 0 : ifNametoindex(device);
      // Without an index it is away, or nothing can be opened: the socket that is there is the best there is.
      if (index === 0 || index === this.#interfaceIndex) return;
      this.close();
    }
    this.open();
  }

  /** Packets that the kernel dropped: by the TTL filter, or for want of buffer. */
  drops(): number {
    if (this.#fd >= 0) {
      const info = Buffer.alloc(4 * (SK_MEMINFO_DROPS + 1));
      getsockopt(this.#fd, SOL_SOCKET, SO_MEMINFO, info);
      const counter = info.readUInt32LE(4 * SK_MEMINFO_DROPS);
      this.#drops += (counter - this.#dropCounter) >>> 0;
      this.#dropCounter = counter;
    }
    return this.#drops;
  }
}

/** The sending socket of one session. */
export class Sender {
  readonly local: string;
  readonly remote: string;
  /** The source port, kept for the session's life; 0 before the first success. */
  port: number;
  #fd = -1;
  readonly #destination: Uint8Array;
  readonly #pickPort: () => number;

  /** `port`: the one to use if it is free, 0 for any. */
  constructor(local: string, remote: string, multihop: boolean, port: number, pickPort: () => number) {
    this.local = local;
    this.remote = remote;
    this.port = port;
    this.#destination = sockaddr(remote, multihop ? PORT_MULTIHOP : PORT_SINGLE_HOP);
    this.#pickPort = pickPort;
  }

  /** Sends one datagram. Returns undefined, or the error. */
  send(payload: Uint8Array): SystemError | undefined {
    if (this.#fd < 0) {
      try {
        this.#open();
      } catch (error) {
        return error as SystemError;
      }
    }
    const sent = sendto(this.#fd, payload, this.#destination);
    return sent < 0 ? new SystemError('sendto', -sent) : undefined;
  }

  #open(): void {
    const fd = controlSocket(this.local.includes(':'));
    try {
      // Nothing is read from it.
      attachFilter(fd, DROP_ALL);
      for (let attempt = 0; ; attempt++) {
        const port = attempt === 0 && this.port !== 0 ? this.port : this.#pickPort();
        try {
          bind(fd, sockaddr(this.local, port));
          this.port = port;
          break;
        } catch (error) {
          if ((error as SystemError).code !== 'EADDRINUSE' || attempt === 100) throw error;
        }
      }
    } catch (error) {
      close(fd);
      throw error;
    }
    this.#fd = fd;
  }

  close(): void {
    if (this.#fd >= 0) close(this.#fd);
    this.#fd = -1;
  }
}

/** All receiving sockets, and their retries. */
export class Transport {
  readonly #receivers = new Map<string, Receiver>();
  readonly #receive: Receive;
  readonly #log: Log;
  readonly #random: () => number;
  readonly #tending: NodeJS.Timeout;
  #goneDrops = 0;

  constructor(receive: Receive, log: Log, random: () => number) {
    this.#receive = receive;
    this.#log = log;
    this.#random = random;
    this.#tending = setInterval(() => {
      for (const receiver of this.#receivers.values()) receiver.tend();
    }, TEND_PERIOD);
  }

  /** Listens on exactly these endpoints, at most one for a local address and port. */
  listen(endpoints: readonly Endpoint[]): void {
    const wanted = new Map(endpoints.map((endpoint) => [`${endpoint.local} ${endpoint.multihop}`, endpoint]));
    for (const [key, receiver] of this.#receivers) {
      if (wanted.has(key)) continue;
      this.#goneDrops += receiver.drops();
      receiver.close();
      this.#receivers.delete(key);
    }
    for (const [key, endpoint] of wanted) {
      const receiver = this.#receivers.get(key);
      if (receiver !== undefined) {
        receiver.change(endpoint);
      } else {
        const added = new Receiver(endpoint, this.#receive, this.#log);
        this.#receivers.set(key, added);
        added.open();
      }
    }
  }

  /** The sending socket of a session. It opens itself with the first packet. */
  sender(local: string, remote: string, multihop: boolean, port: number): Sender {
    const { first, last } = SOURCE_PORTS;
    return new Sender(
      local,
      remote,
      multihop,
      port,
      () => first + Math.floor(this.#random() * (last - first + 1)),
    );
  }

  /** Packets that the kernel dropped before we saw them. */
  drops(): number {
    let drops = this.#goneDrops;
    for (const receiver of this.#receivers.values()) drops += receiver.drops();
    return drops;
  }

  close(): void {
    clearInterval(this.#tending);
    for (const receiver of this.#receivers.values()) receiver.close();
  }
}
