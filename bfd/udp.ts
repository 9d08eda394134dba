/**
 * UDP sockets for BFD, through libc: the kernel has to drop packets with a low TTL (Node does not show the TTL of what
 * it receives), and to bind to an interface. A receiving socket is then handed to dgram; sending is sendto(2).
 */
import { createSocket } from 'node:dgram';
import { readFileSync } from 'node:fs';
import { type Bpf, DROP } from '../lib/bpf.ts';
import {
  attachFilter,
  bind,
  bindToDevice,
  close,
  getsockopt,
  ifNametoindex,
  type SystemError,
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
  SO_REUSEADDR,
  SOCK_DGRAM,
  SOL_IP,
  SOL_IPV6,
  SOL_SOCKET,
} from '../lib/linux.ts';
import { address } from '../lib/prefix.ts';
import { PORT_MULTIHOP, PORT_SINGLE_HOP, SENT_TTL } from './constants.ts';
import { type Endpoint, receiveFilter, unguarded } from './receive-filter.ts';
import { countBound } from './udp-table.ts';

/** Where SO_MEMINFO has the number of dropped packets (linux/sock_diag.h). */
const SK_MEMINFO_DROPS = 8;
/** Internetwork control, CS6: what routing protocols use. */
const CONTROL_TRAFFIC_CLASS = 0xc0;
const CONTROL_PRIORITY = 6;
/** Room for the packets of 256 sessions during a long pause of the event loop. */
const RECEIVE_BUFFER = 1 << 20;
const DROP_ALL: Bpf = [DROP];

/** An open receiving socket. */
export interface ReceivingSocket {
  /** The index of the interface that it is bound to, 0 for none. */
  readonly ifindex: number;
  /** Why it accepts packets of guarded peers from every Ethernet address; undefined when it does not. */
  readonly unguarded: Error | undefined;
  /** Why it is not bound to the interface; undefined when it is. */
  readonly unbound: Error | undefined;
  /** Replaces the filter. Throws `SystemError`. */
  filter(endpoint: Endpoint): void;
  /** Packets that the kernel dropped, a counter of 32 bits. */
  drops(): number;
  close(): void;
}

export interface SendingSocket {
  /** Sends a datagram to a packed sockaddr. Octets sent, or a negative errno. */
  send(payload: Uint8Array, destination: Uint8Array): number;
  close(): void;
}

export interface ReceiveHandlers {
  message(payload: Buffer, from: string): void;
  error(error: Error): void;
}

/** What the transport needs of the system. */
export interface Udp {
  /** Opens a receiving socket. Throws `SystemError`, or `PortInUseError`. */
  receive(endpoint: Endpoint, handlers: ReceiveHandlers): ReceivingSocket;
  /** Opens a sending socket with a source port. Throws `SystemError`: EADDRINUSE when the port is not free. */
  send(local: string, port: number): SendingSocket;
  /** 0 when there is no interface of that name. */
  ifindex(device: string): number;
}

/** The BFD port of a local address is another process's. */
export class PortInUseError extends Error {
  override readonly name = 'PortInUseError';
}

export const bfdPort = (multihop: boolean): number => (multihop ? PORT_MULTIHOP : PORT_SINGLE_HOP);

/** A UDP socket that marks what it sends as network control with TTL 255. Throws `SystemError`. */
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

/** Sockets in this network namespace that are bound to exactly this address and port. */
function socketsOn(local: string, port: number): number {
  const table = local.includes(':') ? '/proc/self/net/udp6' : '/proc/self/net/udp';
  return countBound(readFileSync(table, 'latin1'), address(local.split('%')[0]!), port);
}

/**
 * Binds a receiving socket and shares its port with sockets on the wildcard address, as FRR's bfdd has them: the
 * kernel delivers a packet to the socket with the more specific address. Of two sockets on the same address only the
 * newer one would receive, so that is refused; the kernel would allow it between sockets that share.
 */
function bindShared(fd: number, local: string, port: number): void {
  const to = sockaddr(local, port);
  const inUse = new PortInUseError(
    `another process is bound to UDP port ${port} of ${local}; stop that BFD daemon, or give it another address`,
  );
  try {
    bind(fd, to);
  } catch (error) {
    if (!isInUse(error)) throw error;
    if (socketsOn(local, port) > 0) throw inUse;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    try {
      bind(fd, to);
    } catch (refused) {
      if (!isInUse(refused)) throw refused;
      throw new PortInUseError(
        `another process is bound to UDP port ${port} of every address and does not share it (SO_REUSEADDR); stop that BFD daemon, or limit it to addresses other than ${local}`,
      );
    }
    // Another one may have been bound between the check and this bind.
    if (socketsOn(local, port) > 1) throw inUse;
  }
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, 1);
}

const isInUse = (error: unknown): boolean => (error as SystemError).code === 'EADDRINUSE';

/** Attaches the filter with the guard, or without it where the socket has no room: returns why. Throws `SystemError`. */
function attach(fd: number, endpoint: Endpoint): Error | undefined {
  try {
    attachFilter(fd, receiveFilter(endpoint));
    return undefined;
  } catch (error) {
    attachFilter(fd, receiveFilter(unguarded(endpoint)));
    return error as Error;
  }
}

function receive(endpoint: Endpoint, handlers: ReceiveHandlers): ReceivingSocket {
  const { local, multihop, interface: device } = endpoint;
  const v6 = local.includes(':');
  const fd = controlSocket(v6);
  let guardError: Error | undefined;
  let deviceError: Error | undefined;
  const ifindex = device === undefined ? 0 : ifNametoindex(device);
  try {
    guardError = attach(fd, endpoint);
    setReceiveBuffer(fd, RECEIVE_BUFFER);
    try {
      if (device !== undefined) bindToDevice(fd, device);
    } catch (error) {
      if ((error as SystemError).code !== 'EPERM') throw error;
      deviceError = error as Error;
    }
    bindShared(fd, local, bfdPort(multihop));
  } catch (error) {
    close(fd);
    throw error;
  }
  const opened = createSocket(v6 ? 'udp6' : 'udp4');
  opened.on('message', (payload, from) => handlers.message(payload, from.address));
  opened.on('error', handlers.error);
  opened.bind({ fd, exclusive: true });
  return {
    ifindex,
    unguarded: guardError,
    unbound: deviceError,
    filter: (changed) => attachFilter(fd, receiveFilter(changed)),
    drops() {
      const info = Buffer.alloc(4 * (SK_MEMINFO_DROPS + 1));
      getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info);
      return info.readUInt32LE(4 * SK_MEMINFO_DROPS);
    },
    close: () => opened.close(),
  };
}

function send(local: string, port: number): SendingSocket {
  const fd = controlSocket(local.includes(':'));
  try {
    // Nothing is read from it.
    attachFilter(fd, DROP_ALL);
    bind(fd, sockaddr(local, port));
  } catch (error) {
    close(fd);
    throw error;
  }
  return {
    send: (payload, destination) => sendto(fd, payload, destination),
    close: () => close(fd),
  };
}

/** The sockets of this process's network namespace. */
export const systemUdp: Udp = { receive, send, ifindex: ifNametoindex };
