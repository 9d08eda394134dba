/** BFD packets as a packet socket has them: which it keeps, and what is in them. Pure. */
import { ACCEPT, type Bpf, DROP, JEQ_K, LD_B_ABS, LD_H_ABS } from '../lib/bpf.ts';
import { type Address, addressFromBytes, type Family } from '../lib/prefix.ts';
import { PORT_SINGLE_HOP } from './constants.ts';

/** A single-hop BFD packet, and where it came from and to. */
export interface EarlyPacket {
  local: Address;
  remote: Address;
  /** TTL or Hop Limit. */
  ttl: number;
  /** The interface that it came by. */
  ifindex: number;
  /** What is in the UDP datagram. */
  payload: Buffer;
}

interface Layout {
  protocol: number;
  ttl: number;
  source: number;
  destination: number;
  /** Octets of an address, and of the header. */
  address: number;
  header: number;
}

/** RFC 791 3.1 and RFC 8200 3. */
const LAYOUT: Record<Family, Layout> = {
  4: { protocol: 9, ttl: 8, source: 12, destination: 16, address: 4, header: 20 },
  6: { protocol: 6, ttl: 7, source: 8, destination: 24, address: 16, header: 40 },
};
/** Version and length. */
const IPV4_WITHOUT_OPTIONS = 0x45;
const PROTOCOL_UDP = 17;
/** IPv4: flags and offset of a fragment; Don't Fragment is no sign of one. */
const FRAGMENT = { offset: 6, none: 0, dont: 0x4000 };
const UDP = { destination: 2, length: 4, header: 8 };

/** Keeps UDP datagrams for the single-hop port, without IP options or extension headers, and no fragments; from the IP header on. */
export function earlyFilter(family: Family): Bpf {
  const { protocol, header } = LAYOUT[family];
  const whole: Bpf =
    family === 6
      ? []
      : [
          [LD_B_ABS, 0, 0, 0],
          [JEQ_K, 1, 0, IPV4_WITHOUT_OPTIONS],
          DROP,
          [LD_H_ABS, 0, 0, FRAGMENT.offset],
          [JEQ_K, 2, 0, FRAGMENT.none],
          [JEQ_K, 1, 0, FRAGMENT.dont],
          DROP,
        ];
  return [
    ...whole,
    [LD_B_ABS, 0, 0, protocol],
    [JEQ_K, 1, 0, PROTOCOL_UDP],
    DROP,
    [LD_H_ABS, 0, 0, header + UDP.destination],
    [JEQ_K, 1, 0, PORT_SINGLE_HOP],
    DROP,
    ACCEPT,
  ];
}

/** Decodes what the filter has kept, from its IP header on; undefined: it is cut off. */
export function parseEarly(family: Family, packet: Buffer, ifindex: number): EarlyPacket | undefined {
  const { ttl, source, destination, address, header } = LAYOUT[family];
  const start = header + UDP.header;
  if (packet.length < start) return undefined;
  const end = header + packet.readUInt16BE(header + UDP.length);
  if (end < start || end > packet.length) return undefined;
  const addressAt = (at: number) => addressFromBytes(packet.subarray(at, at + address));
  return {
    ...{ local: addressAt(destination), remote: addressAt(source), ttl: packet[ttl]!, ifindex },
    payload: Buffer.from(packet.subarray(start, end)),
  };
}
