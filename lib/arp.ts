/** ARP for IPv4 on Ethernet (RFC 826), without the Ethernet header. Pure. */

import { macBytes, macText } from './mac.ts';
import { type Address, addressBytes, addressFromBytes } from './prefix.ts';

export const ARP_REQUEST = 1;
export const ARP_REPLY = 2;

const HARDWARE_ETHERNET = 1;
const PROTOCOL_IPV4 = 0x0800;
const LENGTH = 28;

export interface ArpPacket {
  /** `ARP_REQUEST`, `ARP_REPLY`. */
  operation: number;
  senderMac: string;
  senderAddress: Address;
  /** Of a request, what is asked for: all zeros. */
  targetMac: string;
  targetAddress: Address;
}

/** The 28 octets of a packet. */
export function encodeArp(packet: ArpPacket): Buffer {
  const bytes = Buffer.alloc(LENGTH);
  bytes.writeUInt16BE(HARDWARE_ETHERNET, 0);
  bytes.writeUInt16BE(PROTOCOL_IPV4, 2);
  bytes.writeUInt8(6, 4);
  bytes.writeUInt8(4, 5);
  bytes.writeUInt16BE(packet.operation, 6);
  bytes.set(macBytes(packet.senderMac), 8);
  bytes.set(addressBytes(packet.senderAddress), 14);
  bytes.set(macBytes(packet.targetMac), 18);
  bytes.set(addressBytes(packet.targetAddress), 24);
  return bytes;
}

/** Reads a packet; what follows it (Ethernet's padding) is ignored. Undefined when it is not ARP for IPv4. */
export function decodeArp(bytes: Buffer): ArpPacket | undefined {
  const known =
    bytes.length >= LENGTH &&
    bytes.readUInt16BE(0) === HARDWARE_ETHERNET &&
    bytes.readUInt16BE(2) === PROTOCOL_IPV4 &&
    bytes.readUInt8(4) === 6 &&
    bytes.readUInt8(5) === 4;
  if (!known) return undefined;
  return {
    operation: bytes.readUInt16BE(6),
    senderMac: macText(bytes.subarray(8, 14)),
    senderAddress: addressFromBytes(bytes.subarray(14, 18)),
    targetMac: macText(bytes.subarray(18, 24)),
    targetAddress: addressFromBytes(bytes.subarray(24, 28)),
  };
}
