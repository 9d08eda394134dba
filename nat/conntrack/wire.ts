/**
 * Conntrack messages on NETLINK_NETFILTER (linux/netfilter/nfnetlink_conntrack.h): what the kernel tells of a
 * flow, and the requests that read the table and delete one entry of it. Pure.
 *
 * Decoding runs for every new and every ended flow and for every entry of a dump. It walks the attributes once
 * and copies nothing: addresses are views of the receive buffer, good until the next receive.
 */
import {
  AF_INET,
  AF_INET6,
  AF_UNSPEC,
  NFGEN_HEADER,
  NLA_F_NESTED,
  NLA_HEADER,
  NLA_TYPE_MASK,
  NLM_F_DUMP,
  NLM_F_REQUEST,
  NLMSG_HEADER,
} from '../../lib/linux.ts';
import type { Family } from '../../lib/prefix.ts';

// linux/netlink.h
export const NLMSG_ERROR = 2;
export const NLMSG_DONE = 3;

// enum cntl_msg_types below NFNL_SUBSYS_CTNETLINK
const SUBSYSTEM = 1 << 8;
export const CT_NEW = SUBSYSTEM | 0;
export const CT_GET = SUBSYSTEM | 1;
export const CT_DELETE = SUBSYSTEM | 2;

/** Multicast groups (enum nfnetlink_groups). */
export const NFNLGRP_CONNTRACK_NEW = 1;
export const NFNLGRP_CONNTRACK_DESTROY = 3;

/** The entry has been taken out of the table or is about to be (enum ip_conntrack_status). */
export const IPS_DYING = 1 << 9;

// enum ctattr_type
const CTA_TUPLE_ORIG = 1;
const CTA_TUPLE_REPLY = 2;
const CTA_STATUS = 3;
const CTA_PROTOINFO = 4;
const CTA_COUNTERS_ORIG = 9;
const CTA_COUNTERS_REPLY = 10;
const CTA_ID = 12;
const CTA_ZONE = 18;
const CTA_TIMESTAMP = 20;
const CTA_TIMESTAMP_EVENT = 27;
// enum ctattr_tuple, ctattr_ip, ctattr_l4proto
const CTA_TUPLE_IP = 1;
const CTA_TUPLE_PROTO = 2;
const CTA_IP_V4_SRC = 1;
const CTA_IP_V4_DST = 2;
const CTA_IP_V6_SRC = 3;
const CTA_IP_V6_DST = 4;
const CTA_PROTO_NUM = 1;
const CTA_PROTO_SRC_PORT = 2;
const CTA_PROTO_DST_PORT = 3;
const CTA_PROTO_ICMP_ID = 4;
const CTA_PROTO_ICMP_TYPE = 5;
const CTA_PROTO_ICMP_CODE = 6;
const CTA_PROTO_ICMPV6_ID = 7;
const CTA_PROTO_ICMPV6_TYPE = 8;
const CTA_PROTO_ICMPV6_CODE = 9;
// enum ctattr_counters, ctattr_timestamp, ctattr_protoinfo, ctattr_protoinfo_tcp
const CTA_COUNTERS_PACKETS = 1;
const CTA_COUNTERS_BYTES = 2;
const CTA_TIMESTAMP_START = 1;
const CTA_TIMESTAMP_STOP = 2;
const CTA_PROTOINFO_TCP = 1;
const CTA_PROTOINFO_TCP_STATE = 1;

/** IP protocol numbers (IANA) that conntrack tells apart. */
export const PROTOCOL = { icmp: 1, tcp: 6, udp: 17, gre: 47, icmpv6: 58, sctp: 132 } as const;

export const isIcmp = (protocol: number): boolean =>
  protocol === PROTOCOL.icmp || protocol === PROTOCOL.icmpv6;

/** One direction of a flow, as its packets look before translation. */
export interface Tuple {
  /** 4 or 16 octets in network order. */
  source: Uint8Array;
  destination: Uint8Array;
  /** Port or GRE key; of ICMP the identifier, in both; 0 for protocols that have none. */
  sourcePort: number;
  destinationPort: number;
  icmpType?: number;
  icmpCode?: number;
}

/** What the kernel has counted on a flow, each direction; octets include the IP header. */
export interface Counters {
  originalPackets: number;
  originalBytes: number;
  replyPackets: number;
  replyBytes: number;
}

export interface ConntrackEntry {
  family: Family;
  /** IP protocol number. */
  protocol: number;
  /** The kernel's hash of the entry. Not unique: with 65 000 flows some share one. */
  id: number;
  zone: number;
  /** enum ip_conntrack_status. */
  status: number;
  original: Tuple;
  reply: Tuple;
  /** In dumps and at the end, with nf_conntrack_acct. */
  counters?: Counters;
  /** Unix time in ms of begin and end, in dumps and at the end, with nf_conntrack_timestamp. */
  startTime?: number;
  stopTime?: number;
  /** Unix time in ms of what this message tells, since Linux 6.14 with nf_conntrack_timestamp. */
  eventTime?: number;
  /** enum tcp_conntrack. */
  tcpState?: number;
}

/** Calls `visit` with type and content of each attribute in [start, end). Stops at one that is cut off. */
function walk(
  buffer: Buffer,
  start: number,
  end: number,
  visit: (type: number, start: number, end: number) => void,
): void {
  for (let at = start; at + NLA_HEADER <= end; ) {
    const length = buffer.readUInt16LE(at);
    if (length < NLA_HEADER || at + length > end) return;
    visit(buffer.readUInt16LE(at + 2) & NLA_TYPE_MASK, at + NLA_HEADER, at + length);
    at += (length + 3) & ~3;
  }
}

/** A 64-bit number; exact up to 2^53. */
const readU64 = (buffer: Buffer, at: number): number =>
  buffer.readUInt32BE(at) * 2 ** 32 + buffer.readUInt32BE(at + 4);

/** Nanoseconds as milliseconds; exact to a microsecond. */
const readTime = (buffer: Buffer, at: number): number => readU64(buffer, at) / 1e6;

interface DecodedTuple extends Tuple {
  protocol: number;
}

function decodeTuple(buffer: Buffer, start: number, end: number): DecodedTuple | undefined {
  let source: Uint8Array | undefined;
  let destination: Uint8Array | undefined;
  const tuple: Omit<DecodedTuple, 'source' | 'destination'> = {
    protocol: 0,
    sourcePort: 0,
    destinationPort: 0,
  };
  walk(buffer, start, end, (part, from, to) => {
    if (part === CTA_TUPLE_IP) {
      walk(buffer, from, to, (type, at, stop) => {
        if (type === CTA_IP_V4_SRC || type === CTA_IP_V6_SRC) source = buffer.subarray(at, stop);
        else if (type === CTA_IP_V4_DST || type === CTA_IP_V6_DST) destination = buffer.subarray(at, stop);
      });
    } else if (part === CTA_TUPLE_PROTO) {
      walk(buffer, from, to, (type, at) => {
        switch (type) {
          case CTA_PROTO_NUM:
            tuple.protocol = buffer.readUInt8(at);
            break;
          case CTA_PROTO_SRC_PORT:
            tuple.sourcePort = buffer.readUInt16BE(at);
            break;
          case CTA_PROTO_DST_PORT:
            tuple.destinationPort = buffer.readUInt16BE(at);
            break;
          case CTA_PROTO_ICMP_ID:
          case CTA_PROTO_ICMPV6_ID:
            tuple.sourcePort = buffer.readUInt16BE(at);
            tuple.destinationPort = tuple.sourcePort;
            break;
          case CTA_PROTO_ICMP_TYPE:
          case CTA_PROTO_ICMPV6_TYPE:
            tuple.icmpType = buffer.readUInt8(at);
            break;
          case CTA_PROTO_ICMP_CODE:
          case CTA_PROTO_ICMPV6_CODE:
            tuple.icmpCode = buffer.readUInt8(at);
            break;
        }
      });
    }
  });
  return source && destination && { ...tuple, source, destination };
}

/**
 * The entry in the payload [start, end) of a message, from its nfgenmsg header on; undefined when it has not
 * both tuples of IPv4 or IPv6, or no id.
 */
export function decodeEntry(buffer: Buffer, start: number, end: number): ConntrackEntry | undefined {
  const family = buffer[start] === AF_INET ? 4 : buffer[start] === AF_INET6 ? 6 : undefined;
  let id: number | undefined;
  let zone = 0;
  let status = 0;
  let original: DecodedTuple | undefined;
  let reply: DecodedTuple | undefined;
  const counters: Counters = { originalPackets: 0, originalBytes: 0, replyPackets: 0, replyBytes: 0 };
  const rest: Pick<ConntrackEntry, 'counters' | 'startTime' | 'stopTime' | 'eventTime' | 'tcpState'> = {};
  walk(buffer, start + NFGEN_HEADER, end, (attribute, from, to) => {
    switch (attribute) {
      case CTA_TUPLE_ORIG:
        original = decodeTuple(buffer, from, to);
        break;
      case CTA_TUPLE_REPLY:
        reply = decodeTuple(buffer, from, to);
        break;
      case CTA_STATUS:
        status = buffer.readUInt32BE(from);
        break;
      case CTA_ID:
        id = buffer.readUInt32BE(from);
        break;
      case CTA_ZONE:
        zone = buffer.readUInt16BE(from);
        break;
      case CTA_COUNTERS_ORIG:
      case CTA_COUNTERS_REPLY:
        rest.counters = counters;
        walk(buffer, from, to, (type, at) => {
          const value = readU64(buffer, at);
          if (type === CTA_COUNTERS_PACKETS) {
            if (attribute === CTA_COUNTERS_ORIG) counters.originalPackets = value;
            else counters.replyPackets = value;
          } else if (type === CTA_COUNTERS_BYTES) {
            if (attribute === CTA_COUNTERS_ORIG) counters.originalBytes = value;
            else counters.replyBytes = value;
          }
        });
        break;
      case CTA_TIMESTAMP:
        walk(buffer, from, to, (type, at) => {
          if (type === CTA_TIMESTAMP_START) rest.startTime = readTime(buffer, at);
          else if (type === CTA_TIMESTAMP_STOP) rest.stopTime = readTime(buffer, at);
        });
        break;
      case CTA_TIMESTAMP_EVENT:
        rest.eventTime = readTime(buffer, from);
        break;
      case CTA_PROTOINFO:
        walk(buffer, from, to, (protocol, inner, innerEnd) => {
          if (protocol !== CTA_PROTOINFO_TCP) return;
          walk(buffer, inner, innerEnd, (type, at) => {
            if (type === CTA_PROTOINFO_TCP_STATE) rest.tcpState = buffer.readUInt8(at);
          });
        });
        break;
    }
  });
  if (family === undefined || id === undefined || original === undefined || reply === undefined) {
    return undefined;
  }
  return { family, protocol: original.protocol, id, zone, status, original, reply, ...rest };
}

/** One netlink message in a datagram: `start` is where its payload begins. */
export type VisitMessage = (
  type: number,
  flags: number,
  sequence: number,
  start: number,
  end: number,
) => void;

/** Calls `visit` for each message in the first `length` octets. */
export function forEachMessage(buffer: Buffer, length: number, visit: VisitMessage): void {
  for (let at = 0; at + NLMSG_HEADER <= length; ) {
    const size = buffer.readUInt32LE(at);
    if (size < NLMSG_HEADER || at + size > length) return;
    visit(
      buffer.readUInt16LE(at + 4),
      buffer.readUInt16LE(at + 6),
      buffer.readUInt32LE(at + 8),
      at + NLMSG_HEADER,
      at + size,
    );
    at += (size + 3) & ~3;
  }
}

/** A request that dumps the table of both families, as a whole message. */
export function dumpRequest(sequence: number): Buffer {
  const message = Buffer.alloc(NLMSG_HEADER + NFGEN_HEADER);
  message.writeUInt32LE(message.length, 0);
  message.writeUInt16LE(CT_GET, 4);
  message.writeUInt16LE(NLM_F_REQUEST | NLM_F_DUMP, 6);
  message.writeUInt32LE(sequence, 8);
  message.writeUInt8(AF_UNSPEC, NLMSG_HEADER);
  return message;
}

function attribute(type: number, ...content: Uint8Array[]): Buffer {
  const length = NLA_HEADER + content.reduce((sum, { length }) => sum + length, 0);
  const header = Buffer.alloc(NLA_HEADER);
  header.writeUInt16LE(length, 0);
  header.writeUInt16LE(type, 2);
  return Buffer.concat([header, ...content], (length + 3) & ~3);
}

const u8 = (value: number): Buffer => Buffer.of(value);
const u16 = (value: number): Buffer => Buffer.of(value >> 8, value & 0xff);

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function encodeTuple(type: number, family: Family, protocol: number, tuple: Tuple): Buffer {
  const [source, destination] =
    family === 4 ? [CTA_IP_V4_SRC, CTA_IP_V4_DST] : [CTA_IP_V6_SRC, CTA_IP_V6_DST];
  const { icmpType = 0, icmpCode = 0 } = tuple;
  const ports =
    protocol === PROTOCOL.icmp
      ? [
          attribute(CTA_PROTO_ICMP_ID, u16(tuple.sourcePort)),
          attribute(CTA_PROTO_ICMP_TYPE, u8(icmpType)),
          attribute(CTA_PROTO_ICMP_CODE, u8(icmpCode)),
        ]
      : protocol === PROTOCOL.icmpv6
        ? [
            attribute(CTA_PROTO_ICMPV6_ID, u16(tuple.sourcePort)),
            attribute(CTA_PROTO_ICMPV6_TYPE, u8(icmpType)),
            attribute(CTA_PROTO_ICMPV6_CODE, u8(icmpCode)),
          ]
        : [
            attribute(CTA_PROTO_SRC_PORT, u16(tuple.sourcePort)),
            attribute(CTA_PROTO_DST_PORT, u16(tuple.destinationPort)),
          ];
  return attribute(
    type | NLA_F_NESTED,
    attribute(
      CTA_TUPLE_IP | NLA_F_NESTED,
      attribute(source, tuple.source),
      attribute(destination, tuple.destination),
    ),
    attribute(CTA_TUPLE_PROTO | NLA_F_NESTED, attribute(CTA_PROTO_NUM, u8(protocol)), ...ports),
  );
}

/**
 * A request that deletes exactly this entry: the kernel compares the id too, so a flow that began anew with the
 * same addresses and ports stays (ENOENT). Type and payload, for a transport that makes the header.
 */
export function deleteRequest(
  entry: Pick<ConntrackEntry, 'family' | 'protocol' | 'id' | 'zone' | 'original'>,
): { type: number; data: Uint8Array } {
  const { family, protocol, id, zone, original } = entry;
  const data = Buffer.concat([
    Buffer.of(family === 4 ? AF_INET : AF_INET6, 0, 0, 0),
    encodeTuple(CTA_TUPLE_ORIG, family, protocol, original),
    attribute(CTA_ID, u32(id)),
    ...(zone === 0 ? [] : [attribute(CTA_ZONE, u16(zone))]),
  ]);
  return { type: CT_DELETE, data };
}
