/**
 * Conntrack messages on NETLINK_NETFILTER (linux/netfilter/nfnetlink_conntrack.h): what the kernel reports about a
 * flow, and the requests that read the table and delete one entry of it. Pure.
 *
 * Decoding runs for every new and every ended flow and for every entry of a dump. It copies nothing: addresses are
 * views of the receive buffer, good until the next receive.
 */
import { AF_INET, AF_INET6, AF_UNSPEC, NFGEN_HEADER, NLM_F_DUMP, NLM_F_REQUEST } from '../../lib/linux.ts';
import {
  Attributes,
  attribute,
  formatDatagram,
  nest,
  nfgenHeader,
  u8,
  u16Be,
  u32Be,
} from '../../lib/netlink-codec.ts';
import type { Family } from '../../lib/prefix.ts';

// enum cntl_msg_types below NFNL_SUBSYS_CTNETLINK
const SUBSYSTEM = 1 << 8;
export const CT_NEW = SUBSYSTEM | 0;
export const CT_GET = SUBSYSTEM | 1;
/** IPCTNL_MSG_CT_GET_STATS: how many entries there are. */
const CT_GET_STATS = SUBSYSTEM | 5;
export const CT_DELETE = SUBSYSTEM | 2;

/** Multicast groups (enum nfnetlink_groups). */
export const NFNLGRP_CONNTRACK_NEW = 1;
export const NFNLGRP_CONNTRACK_DESTROY = 3;

/** The entry has been taken out of the table or is about to be (enum ip_conntrack_status). */
export const IPS_DYING = 1 << 9;
/** The flow is in a flowtable: the kernel reports neither its state nor its timeout. Of TCP it is established. */
export const IPS_OFFLOAD = 1 << 14;

/** enum tcp_conntrack: the other end has agreed, its handshake is complete, both ends have closed it. */
export const TCP_SYN_RECV = 2;
export const TCP_ESTABLISHED = 3;
export const TCP_TIME_WAIT = 7;
/** enum sctp_conntrack: INIT was seen, the handshake is complete, and the last state before the end. */
export const SCTP_COOKIE_WAIT = 2;
export const SCTP_ESTABLISHED = 4;
export const SCTP_SHUTDOWN_ACK_SENT = 7;

// enum ctattr_type
export const CTA_TUPLE_ORIG = 1;
export const CTA_TUPLE_REPLY = 2;
const CTA_STATUS = 3;
const CTA_PROTOINFO = 4;
export const CTA_MARK = 8;
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

/**
 * The upper octet of the mark of a replica, but for its lowest bit: the flow goes through another gateway of the group. A
 * value that marks of others rarely have.
 */
export const REPLICA_MARK = 0xa600_0000;
export const REPLICA_MASK = 0xfe00_0000;

/** IP protocol numbers (IANA) that conntrack distinguishes. */
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
  /** The mark of the connection; absent: 0. */
  mark?: number;
  original: Tuple;
  reply: Tuple;
  /** In dumps and at the end, with nf_conntrack_acct. */
  counters?: Counters;
  /** Unix time in ms of begin and end, in dumps and at the end, with nf_conntrack_timestamp. */
  startTime?: number;
  stopTime?: number;
  /** Unix time in ms of the event of this message, since Linux 6.14 with nf_conntrack_timestamp. */
  eventTime?: number;
  /** enum tcp_conntrack. */
  tcpState?: number;
}

/** Whether the flow is another gateway's, which counts and records it. */
export const isReplica = ({ mark = 0 }: Pick<ConntrackEntry, 'mark'>): boolean =>
  (mark & REPLICA_MASK) >>> 0 === REPLICA_MARK;

/** Nanoseconds as milliseconds; exact to a microsecond. */
const timeOf = (attributes: Attributes): number => attributes.u64Be / 1e6;

interface DecodedTuple extends Tuple {
  protocol: number;
}

const NO_ADDRESS = Buffer.alloc(0);

/** Addresses of that many octets and ports of one direction; undefined when an address is missing. */
function decodeTuple(parts: Attributes, octets: number): DecodedTuple | undefined {
  const tuple: DecodedTuple = {
    source: NO_ADDRESS,
    destination: NO_ADDRESS,
    sourcePort: 0,
    destinationPort: 0,
    protocol: 0,
  };
  while (parts.next()) {
    if (parts.type === CTA_TUPLE_IP) decodeAddresses(parts.nested, octets, tuple);
    else if (parts.type === CTA_TUPLE_PROTO) decodePorts(parts.nested, tuple);
  }
  return tuple.source === NO_ADDRESS || tuple.destination === NO_ADDRESS ? undefined : tuple;
}

function decodeAddresses(addresses: Attributes, octets: number, tuple: DecodedTuple): void {
  while (addresses.next()) {
    if (addresses.length !== octets) continue;
    const { type } = addresses;
    if (type === CTA_IP_V4_SRC || type === CTA_IP_V6_SRC) tuple.source = addresses.content;
    else if (type === CTA_IP_V4_DST || type === CTA_IP_V6_DST) tuple.destination = addresses.content;
  }
}

function decodePorts(parts: Attributes, tuple: DecodedTuple): void {
  while (parts.next()) {
    switch (parts.type) {
      case CTA_PROTO_NUM:
        tuple.protocol = parts.u8;
        break;
      case CTA_PROTO_SRC_PORT:
        tuple.sourcePort = parts.u16Be;
        break;
      case CTA_PROTO_DST_PORT:
        tuple.destinationPort = parts.u16Be;
        break;
      case CTA_PROTO_ICMP_ID:
      case CTA_PROTO_ICMPV6_ID:
        tuple.sourcePort = parts.u16Be;
        tuple.destinationPort = tuple.sourcePort;
        break;
      case CTA_PROTO_ICMP_TYPE:
      case CTA_PROTO_ICMPV6_TYPE:
        tuple.icmpType = parts.u8;
        break;
      case CTA_PROTO_ICMP_CODE:
      case CTA_PROTO_ICMPV6_CODE:
        tuple.icmpCode = parts.u8;
        break;
    }
  }
}

/** Reads what was counted in one direction. */
function decodeCounters(parts: Attributes, counters: Counters, isReply: boolean): void {
  while (parts.next()) {
    if (parts.type === CTA_COUNTERS_PACKETS) {
      counters[isReply ? 'replyPackets' : 'originalPackets'] = parts.u64Be;
    } else if (parts.type === CTA_COUNTERS_BYTES) {
      counters[isReply ? 'replyBytes' : 'originalBytes'] = parts.u64Be;
    }
  }
}

/** An entry that is being read. */
type Draft = Omit<ConntrackEntry, 'original' | 'reply'> &
  Record<'original' | 'reply', DecodedTuple | undefined>;

const isWhole = (draft: Draft): draft is Draft & ConntrackEntry =>
  draft.original !== undefined && draft.reply !== undefined;

function decodeTimes(parts: Attributes, draft: Draft): void {
  while (parts.next()) {
    if (parts.type === CTA_TIMESTAMP_START) draft.startTime = timeOf(parts);
    else if (parts.type === CTA_TIMESTAMP_STOP) draft.stopTime = timeOf(parts);
  }
}

function decodeTcpState(protocols: Attributes, draft: Draft): void {
  while (protocols.next()) {
    if (protocols.type !== CTA_PROTOINFO_TCP) continue;
    const tcp = protocols.nested;
    while (tcp.next()) if (tcp.type === CTA_PROTOINFO_TCP_STATE) draft.tcpState = tcp.u8;
  }
}

const noCounters = (): Counters => ({
  originalPackets: 0,
  originalBytes: 0,
  replyPackets: 0,
  replyBytes: 0,
});

/**
 * The entry in the payload [start, end) of a message, from its nfgenmsg header on; undefined when it does not have
 * both tuples of IPv4 or IPv6, or no id.
 */
export function decodeEntry(buffer: Buffer, start: number, end: number): ConntrackEntry | undefined {
  const family = buffer[start] === AF_INET ? 4 : buffer[start] === AF_INET6 ? 6 : undefined;
  if (family === undefined) return undefined;
  const octets = family === 4 ? 4 : 16;
  let hasId = false;
  const draft: Draft = {
    family,
    protocol: 0,
    id: 0,
    zone: 0,
    status: 0,
    mark: 0,
    original: undefined,
    reply: undefined,
  };
  const attributes = new Attributes(buffer, start + NFGEN_HEADER, end);
  while (attributes.next()) {
    switch (attributes.type) {
      case CTA_TUPLE_ORIG:
        draft.original = decodeTuple(attributes.nested, octets);
        break;
      case CTA_TUPLE_REPLY:
        draft.reply = decodeTuple(attributes.nested, octets);
        break;
      case CTA_STATUS:
        draft.status = attributes.u32Be;
        break;
      case CTA_MARK:
        draft.mark = attributes.u32Be;
        break;
      case CTA_ID:
        draft.id = attributes.u32Be;
        hasId = true;
        break;
      case CTA_ZONE:
        draft.zone = attributes.u16Be;
        break;
      case CTA_COUNTERS_ORIG:
      case CTA_COUNTERS_REPLY:
        draft.counters ??= noCounters();
        decodeCounters(attributes.nested, draft.counters, attributes.type === CTA_COUNTERS_REPLY);
        break;
      case CTA_TIMESTAMP:
        decodeTimes(attributes.nested, draft);
        break;
      case CTA_TIMESTAMP_EVENT:
        draft.eventTime = timeOf(attributes);
        break;
      case CTA_PROTOINFO:
        decodeTcpState(attributes.nested, draft);
        break;
    }
  }
  const { original } = draft;
  if (!hasId || original === undefined || !isWhole(draft)) return undefined;
  draft.protocol = original.protocol;
  return draft;
}

/** A request that dumps the table of both families, as a whole message. */
export const dumpRequest = (seq: number): Buffer =>
  formatDatagram([{ type: CT_GET, flags: NLM_F_REQUEST | NLM_F_DUMP, data: nfgenHeader(AF_UNSPEC) }], seq, 0);

/** A request for the number of entries, as a whole message: the least that there is to ask for. */
export const countRequest = (seq: number): Buffer =>
  formatDatagram([{ type: CT_GET_STATS, flags: NLM_F_REQUEST, data: nfgenHeader(AF_UNSPEC) }], seq, 0);

/** A tuple as the attribute `type`. */
export function encodeTuple(type: number, family: Family, protocol: number, tuple: Tuple): Buffer {
  const [source, destination] =
    family === 4 ? [CTA_IP_V4_SRC, CTA_IP_V4_DST] : [CTA_IP_V6_SRC, CTA_IP_V6_DST];
  const { icmpType = 0, icmpCode = 0 } = tuple;
  const ports =
    protocol === PROTOCOL.icmp
      ? [
          attribute(CTA_PROTO_ICMP_ID, u16Be(tuple.sourcePort)),
          attribute(CTA_PROTO_ICMP_TYPE, u8(icmpType)),
          attribute(CTA_PROTO_ICMP_CODE, u8(icmpCode)),
        ]
      : protocol === PROTOCOL.icmpv6
        ? [
            attribute(CTA_PROTO_ICMPV6_ID, u16Be(tuple.sourcePort)),
            attribute(CTA_PROTO_ICMPV6_TYPE, u8(icmpType)),
            attribute(CTA_PROTO_ICMPV6_CODE, u8(icmpCode)),
          ]
        : [
            attribute(CTA_PROTO_SRC_PORT, u16Be(tuple.sourcePort)),
            attribute(CTA_PROTO_DST_PORT, u16Be(tuple.destinationPort)),
          ];
  return nest(
    type,
    nest(CTA_TUPLE_IP, attribute(source, tuple.source), attribute(destination, tuple.destination)),
    nest(CTA_TUPLE_PROTO, attribute(CTA_PROTO_NUM, u8(protocol)), ...ports),
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
    nfgenHeader(family === 4 ? AF_INET : AF_INET6),
    encodeTuple(CTA_TUPLE_ORIG, family, protocol, original),
    attribute(CTA_ID, u32Be(id)),
    ...(zone === 0 ? [] : [attribute(CTA_ZONE, u16Be(zone))]),
  ]);
  return { type: CT_DELETE, data };
}
