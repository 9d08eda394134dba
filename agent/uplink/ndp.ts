/** Neighbor Solicitation and Advertisement (RFC 4861 4.3, 4.4) with their IPv6 header. Pure. */

import { macBytes, macText } from '../../lib/mac.ts';
import { type Address, addressBytes, addressFromBytes } from '../../lib/prefix.ts';
import { checksum } from './icmp.ts';

const IPV6_HEADER = 40;
const NEXT_HEADER_ICMPV6 = 58;
/** What no router can have forwarded (RFC 4861 7.1). */
const HOP_LIMIT = 255;
export const SOLICITATION = 135;
export const ADVERTISEMENT = 136;
/** Both messages up to their options. */
const FIXED = 24;
const FLAG_ROUTER = 0x80;
const FLAG_SOLICITED = 0x40;
const FLAG_OVERRIDE = 0x20;
const OPTION_SOURCE_MAC = 1;
const OPTION_TARGET_MAC = 2;

/** The multicast address on which a neighbour is asked for (RFC 4291 2.7.1). */
export function solicitedNode(target: Address): Address {
  const prefix = [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
  return addressFromBytes(Uint8Array.of(...prefix, ...addressBytes(target).subarray(13)));
}

/** The part of a packet that its checksum covers (RFC 8200 8.1): a pseudo-header and the message. */
function covered(packet: Buffer): [pseudoHeader: Buffer, message: Buffer] {
  const tail = Buffer.alloc(8);
  tail.writeUInt32BE(packet.length - IPV6_HEADER, 0);
  tail.writeUInt8(NEXT_HEADER_ICMPV6, 7);
  return [Buffer.concat([packet.subarray(8, IPV6_HEADER), tail]), packet.subarray(IPV6_HEADER)];
}

interface Message {
  type: number;
  flags: number;
  source: Address;
  destination: Address;
  target: Address;
  /** The one option, an Ethernet address. */
  option?: { type: number; mac: string };
}

/** A message with its IPv6 header. */
function encode({ type, flags, source, destination, target, option }: Message): Buffer {
  const bytes = Buffer.alloc(IPV6_HEADER + FIXED + (option === undefined ? 0 : 8));
  bytes.writeUInt8(0x60, 0);
  bytes.writeUInt16BE(bytes.length - IPV6_HEADER, 4);
  bytes.writeUInt8(NEXT_HEADER_ICMPV6, 6);
  bytes.writeUInt8(HOP_LIMIT, 7);
  bytes.set(addressBytes(source), 8);
  bytes.set(addressBytes(destination), 24);
  bytes.writeUInt8(type, IPV6_HEADER);
  bytes.writeUInt8(flags, IPV6_HEADER + 4);
  bytes.set(addressBytes(target), IPV6_HEADER + 8);
  if (option !== undefined) {
    bytes.writeUInt8(option.type, IPV6_HEADER + FIXED);
    bytes.writeUInt8(1, IPV6_HEADER + FIXED + 1);
    bytes.set(macBytes(option.mac), IPV6_HEADER + FIXED + 2);
  }
  bytes.writeUInt16BE(checksum(...covered(bytes)), IPV6_HEADER + 2);
  return bytes;
}

/** A solicitation: the whole IPv6 packet. `destination`: the target itself, or its solicited-node address. */
export const encodeSolicitation = ({
  sourceMac,
  ...addresses
}: {
  source: Address;
  sourceMac: string;
  destination: Address;
  target: Address;
}): Buffer =>
  encode({ ...addresses, type: SOLICITATION, flags: 0, option: { type: OPTION_SOURCE_MAC, mac: sourceMac } });

/** The question whether somebody has an address (RFC 4862 5.4.2), which comes from no address. */
export const encodeDuplicateQuestion = (target: Address): Buffer =>
  encode({ type: SOLICITATION, flags: 0, source: UNSPECIFIED, destination: solicitedNode(target), target });

const UNSPECIFIED = addressFromBytes(new Uint8Array(16));

/** Where all nodes of the link listen. */
export const ALL_NODES = addressFromBytes(Uint8Array.of(0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1));

/** An unsolicited advertisement (RFC 4861 7.2.6) of an address of our own: the whole IPv6 packet. */
export const encodeAdvertisement = (target: Address, targetMac: string): Buffer =>
  encode({
    type: ADVERTISEMENT,
    flags: FLAG_ROUTER | FLAG_OVERRIDE,
    source: target,
    destination: ALL_NODES,
    target,
    option: { type: OPTION_TARGET_MAC, mac: targetMac },
  });

export interface Advertisement {
  destination: Address;
  /** Whose neighbour cache entry it is about. */
  target: Address;
  /** It answers a solicitation. */
  solicited: boolean;
  /** The target's address on the link, when it says so. */
  targetMac?: string;
}

/** The message of a type in an IPv6 packet. Undefined unless it is valid by what RFC 4861 7.1 asks of both. */
function decode(type: number, bytes: Buffer): { packet: Buffer; message: Buffer } | undefined {
  if (bytes.length < IPV6_HEADER + FIXED || bytes.readUInt8(6) !== NEXT_HEADER_ICMPV6) return undefined;
  const packet = bytes.subarray(0, IPV6_HEADER + bytes.readUInt16BE(4));
  const message = packet.subarray(IPV6_HEADER);
  const valid =
    message.length >= FIXED &&
    packet.readUInt8(7) === HOP_LIMIT &&
    message.readUInt8(0) === type &&
    message.readUInt8(1) === 0 &&
    message.readUInt8(8) !== 0xff &&
    checksum(...covered(packet)) === 0;
  return valid ? { packet, message } : undefined;
}

/** The Ethernet addresses in the options of a message, by type. Undefined when an option has no length. */
function optionsOf(message: Buffer): Map<number, string> | undefined {
  const options = new Map<number, string>();
  for (let at = FIXED; at + 8 <= message.length; ) {
    const length = message.readUInt8(at + 1) * 8;
    if (length === 0) return undefined;
    options.set(message.readUInt8(at), macText(message.subarray(at + 2, at + 8)));
    at += length;
  }
  return options;
}

/** Reads an IPv6 packet. Undefined unless it is an advertisement that is valid by RFC 4861 7.1.2. */
export function decodeAdvertisement(bytes: Buffer): Advertisement | undefined {
  const { packet, message } = decode(ADVERTISEMENT, bytes) ?? {};
  if (packet === undefined || message === undefined) return undefined;
  const multicast = packet.readUInt8(24) === 0xff;
  const solicited = (message.readUInt8(4) & FLAG_SOLICITED) !== 0;
  const options = optionsOf(message);
  if ((multicast && solicited) || options === undefined) return undefined;
  const targetMac = options.get(OPTION_TARGET_MAC);
  return {
    destination: addressFromBytes(packet.subarray(24, 40)),
    target: addressFromBytes(message.subarray(8, FIXED)),
    solicited,
    ...(targetMac !== undefined && { targetMac }),
  };
}

export interface Solicitation {
  /** Unspecified (`::`) when the question is whether the target is free. */
  source: Address;
  target: Address;
}

/** Reads an IPv6 packet. Undefined unless it is a solicitation that is valid by RFC 4861 7.1.1. */
export function decodeSolicitation(bytes: Buffer): Solicitation | undefined {
  const { packet, message } = decode(SOLICITATION, bytes) ?? {};
  if (packet === undefined || message === undefined) return undefined;
  const source = addressFromBytes(packet.subarray(8, 24));
  const target = addressFromBytes(message.subarray(8, FIXED));
  const options = optionsOf(message);
  if (options === undefined) return undefined;
  const fromNowhere = source === UNSPECIFIED;
  const toGroup = addressFromBytes(packet.subarray(24, 40)) === solicitedNode(target);
  if (fromNowhere && (!toGroup || options.has(OPTION_SOURCE_MAC))) return undefined;
  return { source, target };
}
