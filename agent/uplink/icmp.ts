/** ICMP echo of both families (RFC 792, RFC 4443 4), and the checksum that goes with it. Pure. */
import type { Family } from '../../lib/prefix.ts';

const ECHO_REQUEST = { 4: 8, 6: 128 } as const;
export const ECHO_REPLY = { 4: 0, 6: 129 } as const;
const HEADER = 8;
const IPV4_PROTOCOL_ICMP = 1;

export interface Echo {
  identifier: number;
  sequence: number;
  data: Uint8Array;
}

/** The ones' complement of the ones' complement sum of 16-bit words (RFC 1071); 0 over a valid message. */
export function checksum(...parts: Uint8Array[]): number {
  const bytes = Buffer.concat(parts);
  let sum = 0;
  for (let i = 0; i + 1 < bytes.length; i += 2) sum += bytes.readUInt16BE(i);
  if (bytes.length % 2 === 1) sum += bytes.readUInt8(bytes.length - 1) << 8;
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

/** An echo request. The checksum of IPv6 is the kernel's to fill in: it covers the addresses. */
export function encodeEcho(family: Family, { identifier, sequence, data }: Echo): Buffer {
  const bytes = Buffer.alloc(HEADER + data.length);
  bytes.writeUInt8(ECHO_REQUEST[family], 0);
  bytes.writeUInt16BE(identifier, 4);
  bytes.writeUInt16BE(sequence, 6);
  bytes.set(data, HEADER);
  if (family === 4) bytes.writeUInt16BE(checksum(bytes), 2);
  return bytes;
}

/** Reads an echo reply as a raw socket gives it: in IPv4 with the IP header. Undefined for anything else. */
export function decodeEcho(family: Family, packet: Buffer): Echo | undefined {
  let bytes = packet;
  if (family === 4) {
    if (packet.length < 20 || packet.readUInt8(9) !== IPV4_PROTOCOL_ICMP) return undefined;
    bytes = packet.subarray((packet.readUInt8(0) & 0x0f) * 4);
  }
  if (bytes.length < HEADER || bytes.readUInt8(0) !== ECHO_REPLY[family] || bytes.readUInt8(1) !== 0) {
    return undefined;
  }
  return {
    identifier: bytes.readUInt16BE(4),
    sequence: bytes.readUInt16BE(6),
    data: bytes.subarray(HEADER),
  };
}
