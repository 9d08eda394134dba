/**
 * Neighbor Solicitation and Advertisement (RFC 4861 4.3, 4.4), as whole IPv6 packets for packet sockets and as bare
 * ICMPv6 messages for raw sockets, whose headers and checksums are the kernel's. Pure.
 */
import { checksum } from './checksum.ts';
import { IPPROTO_ICMPV6 } from './linux.ts';
import { macBytes, macText } from './mac.ts';
import { type Address, addressBytes, addressFromBytes } from './prefix.ts';

const IPV6_HEADER = 40;
/** The Hop Limit of every message: one that a router has forwarded has less (RFC 4861 7.1). */
export const ND_HOP_LIMIT = 255;
export const SOLICITATION = 135;
export const ADVERTISEMENT = 136;
/** Both messages up to their options. */
const FIXED = 24;
const FLAG_ROUTER = 0x80;
const FLAG_SOLICITED = 0x40;
const FLAG_OVERRIDE = 0x20;
const OPTION_SOURCE_MAC = 1;
const OPTION_TARGET_MAC = 2;

const UNSPECIFIED = addressFromBytes(new Uint8Array(16));

/** Where all nodes of the link listen. */
export const ALL_NODES = addressFromBytes(Uint8Array.of(0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1));

/** The multicast address at which the owner of an address is asked (RFC 4291 2.7.1). */
export function solicitedNode(target: Address): Address {
  const prefix = [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
  return addressFromBytes(Uint8Array.of(...prefix, ...addressBytes(target).subarray(13)));
}

// Messages -----------------------------------------------------------------------------------------------

interface Message {
  type: number;
  flags: number;
  target: Address;
  /** The one option, an Ethernet address. */
  option?: { type: number; mac: string };
}

/** An ICMPv6 message without its checksum. */
function encodeMessage({ type, flags, target, option }: Message): Buffer {
  const bytes = Buffer.alloc(FIXED + (option === undefined ? 0 : 8));
  bytes.writeUInt8(type, 0);
  bytes.writeUInt8(flags, 4);
  bytes.set(addressBytes(target), 8);
  if (option !== undefined) {
    bytes.writeUInt8(option.type, FIXED);
    bytes.writeUInt8(1, FIXED + 1);
    bytes.set(macBytes(option.mac), FIXED + 2);
  }
  return bytes;
}

/** A solicitation for raw ICMPv6 sockets: the message, without its checksum. */
export const solicitationMessage = (target: Address, sourceMac: string): Buffer =>
  encodeMessage({
    type: SOLICITATION,
    flags: 0,
    target,
    option: { type: OPTION_SOURCE_MAC, mac: sourceMac },
  });

/** The target and the options' Ethernet addresses, by type. Undefined when RFC 4861 7.1 discards the message. */
function decodeMessage(
  type: number,
  message: Buffer,
): { target: Address; options: ReadonlyMap<number, string> } | undefined {
  const valid =
    message.length >= FIXED &&
    message.readUInt8(0) === type &&
    message.readUInt8(1) === 0 &&
    message.readUInt8(8) !== 0xff;
  if (!valid) return undefined;
  const options = new Map<number, string>();
  for (let at = FIXED; at + 8 <= message.length; ) {
    const length = message.readUInt8(at + 1) * 8;
    if (length === 0) return undefined;
    options.set(message.readUInt8(at), macText(message.subarray(at + 2, at + 8)));
    at += length;
  }
  return { target: addressFromBytes(message.subarray(8, FIXED)), options };
}

export interface AdvertisementMessage {
  /** Whose neighbour cache entry it is about. */
  target: Address;
  /** It answers a solicitation. */
  solicited: boolean;
  /** The target's address on the link, when the option is there. */
  targetMac?: string;
}

/** Reads an advertisement as a raw ICMPv6 socket gives it, its checksum verified. Undefined when it is invalid. */
export function decodeAdvertisementMessage(message: Buffer): AdvertisementMessage | undefined {
  const decoded = decodeMessage(ADVERTISEMENT, message);
  if (decoded === undefined) return undefined;
  const targetMac = decoded.options.get(OPTION_TARGET_MAC);
  return {
    target: decoded.target,
    solicited: (message.readUInt8(4) & FLAG_SOLICITED) !== 0,
    ...(targetMac !== undefined && { targetMac }),
  };
}

// Packets ------------------------------------------------------------------------------------------------

/** What the checksum covers (RFC 8200 8.1): a pseudo-header and the message. */
function covered(packet: Buffer): [pseudoHeader: Buffer, message: Buffer] {
  const tail = Buffer.alloc(8);
  tail.writeUInt32BE(packet.length - IPV6_HEADER, 0);
  tail.writeUInt8(IPPROTO_ICMPV6, 7);
  return [Buffer.concat([packet.subarray(8, IPV6_HEADER), tail]), packet.subarray(IPV6_HEADER)];
}

/** A message with its IPv6 header and checksum. */
function encodePacket(source: Address, destination: Address, message: Buffer): Buffer {
  const bytes = Buffer.concat([Buffer.alloc(IPV6_HEADER), message]);
  bytes.writeUInt8(0x60, 0);
  bytes.writeUInt16BE(message.length, 4);
  bytes.writeUInt8(IPPROTO_ICMPV6, 6);
  bytes.writeUInt8(ND_HOP_LIMIT, 7);
  bytes.set(addressBytes(source), 8);
  bytes.set(addressBytes(destination), 24);
  bytes.writeUInt16BE(checksum(...covered(bytes)), IPV6_HEADER + 2);
  return bytes;
}

/** A solicitation: the whole IPv6 packet. `destination`: the target itself, or its solicited-node address. */
export const encodeSolicitation = ({
  source,
  sourceMac,
  destination,
  target,
}: {
  source: Address;
  sourceMac: string;
  destination: Address;
  target: Address;
}): Buffer => encodePacket(source, destination, solicitationMessage(target, sourceMac));

/** The question whether an address is in use (RFC 4862 5.4.2), which comes from the unspecified address. */
export const encodeDuplicateQuestion = (target: Address): Buffer =>
  encodePacket(UNSPECIFIED, solicitedNode(target), encodeMessage({ type: SOLICITATION, flags: 0, target }));

/** An unsolicited advertisement (RFC 4861 7.2.6) of an address of our own: the whole IPv6 packet. */
export const encodeAdvertisement = (target: Address, targetMac: string): Buffer =>
  encodePacket(
    target,
    ALL_NODES,
    encodeMessage({
      type: ADVERTISEMENT,
      flags: FLAG_ROUTER | FLAG_OVERRIDE,
      target,
      option: { type: OPTION_TARGET_MAC, mac: targetMac },
    }),
  );

/** The ICMPv6 message of an IPv6 packet. Undefined when RFC 4861 7.1 discards it for its header or checksum. */
function messageOf(bytes: Buffer): { packet: Buffer; message: Buffer } | undefined {
  if (bytes.length < IPV6_HEADER + FIXED || bytes.readUInt8(6) !== IPPROTO_ICMPV6) return undefined;
  const packet = bytes.subarray(0, IPV6_HEADER + bytes.readUInt16BE(4));
  const valid = packet.readUInt8(7) === ND_HOP_LIMIT && checksum(...covered(packet)) === 0;
  return valid ? { packet, message: packet.subarray(IPV6_HEADER) } : undefined;
}

export interface Advertisement extends AdvertisementMessage {
  destination: Address;
}

/** Reads an IPv6 packet. Undefined unless it is an advertisement that is valid by RFC 4861 7.1.2. */
export function decodeAdvertisement(bytes: Buffer): Advertisement | undefined {
  const { packet, message } = messageOf(bytes) ?? {};
  const decoded = message && decodeAdvertisementMessage(message);
  if (packet === undefined || decoded === undefined) return undefined;
  const multicast = packet.readUInt8(24) === 0xff;
  if (multicast && decoded.solicited) return undefined;
  return { destination: addressFromBytes(packet.subarray(24, 40)), ...decoded };
}

export interface Solicitation {
  /** Unspecified (`::`) when the question is whether the target is in use. */
  source: Address;
  target: Address;
}

/** Reads an IPv6 packet. Undefined unless it is a solicitation that is valid by RFC 4861 7.1.1. */
export function decodeSolicitation(bytes: Buffer): Solicitation | undefined {
  const { packet, message } = messageOf(bytes) ?? {};
  const decoded = message && decodeMessage(SOLICITATION, message);
  if (packet === undefined || decoded === undefined) return undefined;
  const source = addressFromBytes(packet.subarray(8, 24));
  const { target, options } = decoded;
  const fromUnspecified = source === UNSPECIFIED;
  const toGroup = addressFromBytes(packet.subarray(24, 40)) === solicitedNode(target);
  if (fromUnspecified && (!toGroup || options.has(OPTION_SOURCE_MAC))) return undefined;
  return { source, target };
}
