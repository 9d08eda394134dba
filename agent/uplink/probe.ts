/**
 * The sockets of probes: ARP and Neighbor Discovery on packet sockets, which bypass routes, rules and the kernel's own
 * slow neighbour detection, and ICMP echo on raw sockets, which take the path of other packets.
 *
 * An answer raises SIGURG (F_SETSIG), as netlink's do: nothing is polled.
 */
import { ARP_REPLY, ARP_REQUEST, decodeArp, encodeArp } from '../../lib/arp.ts';
import type { Bpf } from '../../lib/bpf.ts';
import * as libc from '../../lib/libc.ts';
import {
  AF_PACKET,
  addressFamily,
  EAGAIN,
  ETH_P_ARP,
  ETH_P_IPV6,
  ICMP_FILTER,
  ICMPV6_FILTER,
  IPPROTO_ICMP,
  IPPROTO_ICMPV6,
  SOCK_DGRAM,
  SOCK_RAW,
  SOL_RAW,
} from '../../lib/linux.ts';
import { MAC_BROADCAST, MAC_ZERO, macBytes, multicastMac } from '../../lib/mac.ts';
import { decodeAdvertisement, encodeSolicitation, solicitedNode } from '../../lib/ndp.ts';
import {
  type Address,
  addressBytes,
  addressFromBytes,
  address as canonical,
  type Family,
  familyOf,
} from '../../lib/prefix.ts';
import { randomOctets } from '../../lib/random.ts';
import { gatewayAdvertisements, gatewayArp } from './filters.ts';
import { decodeEcho, ECHO_REPLY, encodeEcho } from './icmp.ts';

/** An answer to a probe, or an unsolicited packet about the address. */
export interface Answer {
  from: Address;
  /** The Ethernet address behind it, where the packet holds one. */
  mac?: string;
  /** It has the form of an answer to a request of the agent's. */
  solicited: boolean;
}

/** A socket for the probes of one method in one family. */
export interface Prober {
  /** Sends one probe, to `mac` or, undefined, to the whole link. 0 or a negative errno. */
  send(target: Address, mac: string | undefined): number;
  /** The packets since the last call. */
  read(): Answer[];
  /** The gateway is known to be at `mac`: its requests from there are filtered out. */
  trust(mac: string): void;
  close(): void;
}

/** The interface that probes leave by, and their source. */
export interface Origin {
  ifindex: number;
  interface: string;
  mac: string;
  source: Address;
}

export type Method = 'neighbour' | 'icmp';

/** The source on a link without an IPv4 address. */
export const NO_ADDRESS = canonical('0.0.0.0');

/** Packets that one call of `read` takes. */
const READ_AT_MOST = 256;
const BUFFER = 2048;

/** The system calls of probes; tests bring their own. */
export type ProbeSystem = Pick<
  typeof libc,
  | 'attachFilter'
  | 'bind'
  | 'bindToDevice'
  | 'close'
  | 'recv'
  | 'sendto'
  | 'setsockopt'
  | 'signalReadable'
  | 'socket'
>;

/** Opens and prepares a socket. Throws `SystemError`. */
function open(
  system: ProbeSystem,
  [domain, type, protocol]: [domain: number, type: number, protocol: number],
  prepare: (fd: number) => void,
): number {
  const fd = system.socket(domain, type, protocol);
  try {
    prepare(fd);
    system.signalReadable(fd);
    return fd;
  } catch (error) {
    system.close(fd);
    throw error;
  }
}

/** Completes a prober: reads packets with `decode`, closes. */
function prober(
  system: ProbeSystem,
  fd: number,
  decode: (packet: Buffer) => Answer | undefined,
  send: Prober['send'],
  trust: Prober['trust'] = () => {},
): Prober {
  const buffer = Buffer.alloc(BUFFER);
  // A neighbour sends the same answer every time.
  let last: { packet: Buffer; answer: Answer | undefined } | undefined;
  const understand = (packet: Buffer): Answer | undefined => {
    if (!last?.packet.equals(packet)) last = { packet: Buffer.from(packet), answer: decode(packet) };
    return last.answer;
  };
  return {
    send,
    trust,
    read() {
      const answers: Answer[] = [];
      for (let i = 0; i < READ_AT_MOST; i++) {
        const length = system.recv(fd, buffer);
        if (length === -EAGAIN) break;
        // Any other error is an event of the link, reported once.
        const answer = length > 0 ? understand(buffer.subarray(0, length)) : undefined;
        if (answer !== undefined) answers.push(answer);
      }
      return answers;
    },
    close: () => system.close(fd),
  };
}

/** Sends packets, and encodes one only when it differs from the last. */
function sender(
  system: ProbeSystem,
  fd: number,
  make: (target: Address, mac: string | undefined) => { packet: Buffer; to: Uint8Array },
): Prober['send'] {
  let last: { of: string; packet: Buffer; to: Uint8Array } | undefined;
  return (target, mac) => {
    const of = `${target} ${mac}`;
    if (last?.of !== of) last = { of, ...make(target, mac) };
    return system.sendto(fd, last.packet, last.to);
  };
}

/** A packet socket on a link, with a filter. Throws `SystemError`. */
export const packetSocket = (
  protocol: number,
  ifindex: number,
  filter: Bpf,
  system: ProbeSystem = libc,
): number =>
  open(system, [AF_PACKET, SOCK_DGRAM, 0], (fd) => {
    system.attachFilter(fd, filter);
    system.bind(fd, libc.linkAddress(protocol, ifindex));
  });

function arpProber(system: ProbeSystem, { ifindex, mac: ownMac, source }: Origin, gateway: Address): Prober {
  const fd = packetSocket(ETH_P_ARP, ifindex, gatewayArp(gateway, undefined), system);
  return prober(
    system,
    fd,
    (packet) => {
      const arp = decodeArp(packet);
      if (arp === undefined) return undefined;
      const solicited = arp.operation === ARP_REPLY && arp.targetAddress === source;
      return { from: arp.senderAddress, mac: arp.senderMac, solicited };
    },
    sender(system, fd, (targetAddress, mac) => ({
      packet: encodeArp({
        operation: ARP_REQUEST,
        senderMac: ownMac,
        senderAddress: source,
        targetMac: MAC_ZERO,
        targetAddress,
      }),
      to: libc.linkAddress(ETH_P_ARP, ifindex, mac ?? MAC_BROADCAST),
    })),
    (mac) => system.attachFilter(fd, gatewayArp(gateway, mac)),
  );
}

function ndpProber(system: ProbeSystem, { ifindex, mac: ownMac, source }: Origin, gateway: Address): Prober {
  const fd = packetSocket(ETH_P_IPV6, ifindex, gatewayAdvertisements(gateway), system);
  return prober(
    system,
    fd,
    (packet) => {
      const advertisement = decodeAdvertisement(packet);
      if (advertisement === undefined) return undefined;
      const { target, targetMac, destination } = advertisement;
      const solicited = advertisement.solicited && destination === source;
      return { from: target, ...(targetMac && { mac: targetMac }), solicited };
    },
    sender(system, fd, (target, mac) => {
      const destination = mac === undefined ? solicitedNode(target) : target;
      return {
        packet: encodeSolicitation({ source, sourceMac: ownMac, destination, target }),
        to: libc.linkAddress(ETH_P_IPV6, ifindex, mac ?? multicastMac(destination)),
      };
    }),
  );
}

function icmpProber(system: ProbeSystem, family: Family, origin: Origin): Prober {
  const protocol = family === 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
  const fd = open(system, [addressFamily(family), SOCK_RAW, protocol], (socket) => {
    // A set bit blocks a type: all but the echo reply.
    const blocked = Buffer.alloc(family === 4 ? 4 : 32, 0xff);
    const type = ECHO_REPLY[family];
    blocked[type >> 3]! &= ~(1 << (type & 7));
    if (family === 4) system.setsockopt(socket, SOL_RAW, ICMP_FILTER, blocked);
    else system.setsockopt(socket, IPPROTO_ICMPV6, ICMPV6_FILTER, blocked);
    system.bindToDevice(socket, origin.interface);
    system.bind(socket, libc.sockaddr(origin.source, 0));
  });
  // The data identify the replies to this process, and their target.
  const cookie = randomOctets(8);
  const length = cookie.length + addressBytes(origin.source).length;
  const identifier = cookie.readUInt16BE(0);
  let sequence = 0;
  return prober(
    system,
    fd,
    (packet) => {
      const echo = decodeEcho(family, packet);
      const ours = echo?.data.length === length && cookie.equals(echo.data.subarray(0, 8));
      if (!ours) return undefined;
      return { from: addressFromBytes(echo.data.subarray(8)), solicited: true };
    },
    (target) => {
      sequence = (sequence + 1) & 0xffff;
      const data = Buffer.concat([cookie, addressBytes(target)]);
      return system.sendto(fd, encodeEcho(family, { identifier, sequence, data }), libc.sockaddr(target, 0));
    },
  );
}

/**
 * Opens the socket of a method; the one for neighbours probes the gateway alone. Throws `SystemError`, or `TypeError`
 * for a link without the addresses that the method needs.
 */
export function openProber(
  method: Method,
  origin: Origin,
  gateway: Address,
  system: ProbeSystem = libc,
): Prober {
  const family = familyOf(origin.source);
  if (method === 'icmp' && origin.source === NO_ADDRESS) {
    throw new TypeError(`${origin.interface} has no address to send ICMP echo from`);
  }
  if (method === 'icmp') return icmpProber(system, family, origin);
  macBytes(origin.mac);
  return family === 4 ? arpProber(system, origin, gateway) : ndpProber(system, origin, gateway);
}
