/** ICMP echo of both families (RFC 792, RFC 4443 4). Pure. */
import { checksum } from '../../lib/checksum.ts';
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
