/**
 * Conntrack entries of flows that are translated to a shared address, as `GroupFlow`s, and the messages that insert,
 * change and delete them (linux/netfilter/nfnetlink_conntrack.h). Pure.
 *
 * A replica has a value of its own in the upper octet of its mark. The octet's lowest bit alternates between the processes of
 * a gateway, so that a process knows the replicas that a former one has left. The octet is never part of
 * `GroupFlow.mark`.
 */
import { AF_INET, AF_INET6, NFGEN_HEADER } from '../../../lib/linux.ts';
import { Attributes, attribute, nest, nfgenHeader, u8, u16Be, u32Be } from '../../../lib/netlink-codec.ts';
import type { Family } from '../../../lib/prefix.ts';
import {
  CT_NEW,
  CTA_MARK,
  CTA_TUPLE_ORIG,
  CTA_TUPLE_REPLY,
  decodeEntry,
  encodeTuple,
  IPS_DYING,
  isIcmp,
  isReplica,
  PROTOCOL,
  REPLICA_MARK,
  SCTP_COOKIE_WAIT,
  SCTP_ESTABLISHED,
  SCTP_SHUTDOWN_ACK_SENT,
  TCP_ESTABLISHED,
  TCP_SYN_RECV,
  TCP_TIME_WAIT,
  type Tuple,
} from '../../../nat/conntrack/wire.ts';
import type { GroupFlow, SctpInfo, TcpInfo } from '../model.ts';

// enum ctattr_type
const CTA_STATUS = 3;
const CTA_PROTOINFO = 4;
const CTA_NAT_SRC = 6;
const CTA_TIMEOUT = 7;
// enum ctattr_nat, ctattr_protonat
const CTA_NAT_V4_MINIP = 1;
const CTA_NAT_V4_MAXIP = 2;
const CTA_NAT_PROTO = 3;
const CTA_NAT_V6_MINIP = 4;
const CTA_NAT_V6_MAXIP = 5;
const CTA_PROTONAT_PORT_MIN = 1;
const CTA_PROTONAT_PORT_MAX = 2;
// enum ctattr_protoinfo, ctattr_protoinfo_tcp
const CTA_PROTOINFO_TCP = 1;
const CTA_PROTOINFO_TCP_STATE = 1;
const CTA_PROTOINFO_TCP_WSCALE_ORIGINAL = 2;
const CTA_PROTOINFO_TCP_WSCALE_REPLY = 3;
const CTA_PROTOINFO_TCP_FLAGS_ORIGINAL = 4;
const CTA_PROTOINFO_TCP_FLAGS_REPLY = 5;

const CTA_PROTOINFO_SCTP = 3;
// enum ctattr_protoinfo_sctp
const CTA_PROTOINFO_SCTP_STATE = 1;
const CTA_PROTOINFO_SCTP_VTAG_ORIGINAL = 2;
const CTA_PROTOINFO_SCTP_VTAG_REPLY = 3;

// enum ip_conntrack_status
const IPS_SEEN_REPLY = 1 << 1;
const IPS_ASSURED = 1 << 2;
const IPS_CONFIRMED = 1 << 3;
const IPS_SRC_NAT = 1 << 4;

// linux/netfilter/nf_conntrack_tcp.h
const IP_CT_TCP_FLAG_WINDOW_SCALE = 0x01;
const IP_CT_TCP_FLAG_SACK_PERM = 0x02;
const IP_CT_TCP_FLAG_BE_LIBERAL = 0x08;
/** The flags of a replica that its owner decides. */
const TCP_FLAGS = IP_CT_TCP_FLAG_WINDOW_SCALE | IP_CT_TCP_FLAG_SACK_PERM | IP_CT_TCP_FLAG_BE_LIBERAL;

const GENERATION = 0x0100_0000;
/** The bits that are not part of a flow's mark. */
const OWNER_BITS = 0xff00_0000;

/** Which process of the gateway has inserted a replica. */
export type Generation = 0 | 1;

/** An entry of a flow that is translated to a shared address. */
export interface GroupEntry {
  flow: GroupFlow;
  /** Of a replica: which process inserted it. */
  replica?: Generation;
  /** Packets in both directions were seen, and the flow has not ended. Of TCP and SCTP the handshake may be under way. */
  answered: boolean;
  /** It is deleted, and in the table for a moment still: what is inserted or changed now is lost with it. */
  dying: boolean;
}

const isSame = (a: Uint8Array, b: Uint8Array): boolean => {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
};

type ProtocolInfo = Pick<GroupFlow, 'tcp' | 'sctp'>;

function decodeProtocol(protocols: Attributes): ProtocolInfo {
  while (protocols.next()) {
    if (protocols.type === CTA_PROTOINFO_TCP) return { tcp: decodeTcp(protocols.nested) };
    if (protocols.type === CTA_PROTOINFO_SCTP) return { sctp: decodeSctp(protocols.nested) };
  }
  return {};
}

function decodeTcp(tcp: Attributes): TcpInfo {
  const info: TcpInfo = { state: 0, originalScale: 0, replyScale: 0, originalFlags: 0, replyFlags: 0 };
  while (tcp.next()) {
    switch (tcp.type) {
      case CTA_PROTOINFO_TCP_STATE:
        info.state = tcp.u8;
        break;
      case CTA_PROTOINFO_TCP_WSCALE_ORIGINAL:
        info.originalScale = tcp.u8;
        break;
      case CTA_PROTOINFO_TCP_WSCALE_REPLY:
        info.replyScale = tcp.u8;
        break;
      case CTA_PROTOINFO_TCP_FLAGS_ORIGINAL:
        info.originalFlags = tcp.u8 & TCP_FLAGS;
        break;
      case CTA_PROTOINFO_TCP_FLAGS_REPLY:
        info.replyFlags = tcp.u8 & TCP_FLAGS;
        break;
    }
  }
  return info;
}

function decodeSctp(sctp: Attributes): SctpInfo {
  const info: SctpInfo = { state: 0, originalTag: 0, replyTag: 0 };
  while (sctp.next()) {
    if (sctp.type === CTA_PROTOINFO_SCTP_STATE) info.state = sctp.u8;
    else if (sctp.type === CTA_PROTOINFO_SCTP_VTAG_ORIGINAL) info.originalTag = sctp.u32Be;
    else if (sctp.type === CTA_PROTOINFO_SCTP_VTAG_REPLY) info.replyTag = sctp.u32Be;
  }
  return info;
}

/** An answer was seen, and TCP or SCTP has not ended. */
function isAnswered(status: number, { tcp, sctp }: ProtocolInfo): boolean {
  if (tcp !== undefined) return tcp.state >= TCP_SYN_RECV && tcp.state < TCP_TIME_WAIT;
  const isThere =
    sctp === undefined || (sctp.state >= SCTP_COOKIE_WAIT && sctp.state <= SCTP_SHUTDOWN_ACK_SENT);
  return isThere && (status & IPS_SEEN_REPLY) !== 0;
}

/** The handshake was answered and is not complete. The packet that completes it may come to another member. */
export const isOpening = ({ tcp, sctp }: ProtocolInfo): boolean =>
  (tcp !== undefined && tcp.state < TCP_ESTABLISHED) || (sctp !== undefined && sctp.state < SCTP_ESTABLISHED);

/** The handshake is complete, and neither end has begun to close. */
export const isOpen = ({ tcp, sctp }: ProtocolInfo): boolean =>
  tcp?.state === TCP_ESTABLISHED || sctp?.state === SCTP_ESTABLISHED;

/** The flow, with its handshake complete. */
export const opened = (flow: GroupFlow): GroupFlow => ({
  ...flow,
  ...(flow.tcp && { tcp: { ...flow.tcp, state: Math.max(flow.tcp.state, TCP_ESTABLISHED) } }),
  ...(flow.sctp && { sctp: { ...flow.sctp, state: Math.max(flow.sctp.state, SCTP_ESTABLISHED) } }),
});

/**
 * The entry in the payload of a message, from its nfgenmsg header on; undefined if it is not translated to one of the
 * shared addresses, or of a protocol that is not replicated (GRE). Its addresses are views of the payload.
 */
export function decodeGroupEntry(payload: Buffer, shared: readonly Uint8Array[]): GroupEntry | undefined {
  const entry = decodeEntry(payload, 0, payload.length);
  if (entry === undefined) return undefined;
  const { protocol, status, mark = 0, original, reply } = entry;
  // The kernel (to 6.18 at least) lets an inserted entry of GRE expire with its first packet. Without ports none is needed.
  if (protocol === PROTOCOL.gre) return undefined;
  // A connection to a shared address itself has it in its original direction as well.
  if ((status & IPS_SRC_NAT) === 0 || !shared.some((address) => isSame(address, reply.destination))) {
    return undefined;
  }
  let timeout = 0;
  let info: ProtocolInfo = {};
  const attributes = new Attributes(payload, NFGEN_HEADER);
  while (attributes.next()) {
    if (attributes.type === CTA_TIMEOUT) timeout = attributes.u32Be;
    else if (attributes.type === CTA_PROTOINFO) info = decodeProtocol(attributes.nested);
  }
  const { source, sourcePort, destination, destinationPort, icmpType = 0, icmpCode = 0 } = original;
  return {
    flow: {
      ...{ protocol, source, sourcePort, destination, destinationPort, icmpType, icmpCode },
      ...{ shared: reply.destination, sharedPort: reply.destinationPort },
      ...{ mark: (mark & ~OWNER_BITS) >>> 0, timeout },
      ...info,
    },
    answered: isAnswered(status, info),
    dying: (status & IPS_DYING) !== 0,
    ...(isReplica(entry) && { replica: (mark & GENERATION) === 0 ? 0 : 1 }),
  };
}

const familyCode = (family: Family): number => (family === 4 ? AF_INET : AF_INET6);

function originalTuple({
  source,
  sourcePort,
  destination,
  destinationPort,
  icmpType,
  icmpCode,
}: GroupFlow): Tuple {
  return { source, sourcePort, destination, destinationPort, icmpType, icmpCode };
}

/** The types of ICMP and ICMPv6 that answer each other (nf_conntrack_proto_icmp.c, nf_conntrack_proto_icmpv6.c). */
const ICMP_ANSWERS: Record<number, Record<number, number>> = {
  [PROTOCOL.icmp]: { 8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17 },
  [PROTOCOL.icmpv6]: { 128: 129, 129: 128, 139: 140, 140: 139 },
};

/** The answer's direction before translation, which the kernel then translates. */
function answerTuple({
  protocol,
  source,
  sourcePort,
  destination,
  destinationPort,
  icmpType,
  icmpCode,
}: GroupFlow): Tuple {
  return {
    ...{ source: destination, sourcePort: destinationPort, destination: source, destinationPort: sourcePort },
    ...{ icmpType: ICMP_ANSWERS[protocol]?.[icmpType] ?? 0, icmpCode },
  };
}

/** The translation: the shared address and exactly this port. */
function sourceNat(family: Family, { shared, sharedPort }: GroupFlow): Buffer {
  const [min, max] =
    family === 4 ? [CTA_NAT_V4_MINIP, CTA_NAT_V4_MAXIP] : [CTA_NAT_V6_MINIP, CTA_NAT_V6_MAXIP];
  const port = u16Be(sharedPort);
  return nest(
    CTA_NAT_SRC,
    attribute(min, shared),
    attribute(max, shared),
    nest(CTA_NAT_PROTO, attribute(CTA_PROTONAT_PORT_MIN, port), attribute(CTA_PROTONAT_PORT_MAX, port)),
  );
}

/** struct nf_ct_tcp_flags: flags, and which of them are set. */
const tcpFlags = (flags: number): Buffer => Buffer.of(flags | IP_CT_TCP_FLAG_BE_LIBERAL, TCP_FLAGS);

/** A window that another gateway has tracked is not known here, so the entry is liberal about it. */
function protocolInfo({ tcp, sctp }: GroupFlow): Buffer[] {
  if (tcp !== undefined) {
    const attributes = [
      attribute(CTA_PROTOINFO_TCP_STATE, u8(tcp.state)),
      attribute(CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, u8(tcp.originalScale)),
      attribute(CTA_PROTOINFO_TCP_WSCALE_REPLY, u8(tcp.replyScale)),
      attribute(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, tcpFlags(tcp.originalFlags)),
      attribute(CTA_PROTOINFO_TCP_FLAGS_REPLY, tcpFlags(tcp.replyFlags)),
    ];
    return [nest(CTA_PROTOINFO, nest(CTA_PROTOINFO_TCP, ...attributes))];
  }
  if (sctp === undefined) return [];
  const attributes = [
    attribute(CTA_PROTOINFO_SCTP_STATE, u8(sctp.state)),
    attribute(CTA_PROTOINFO_SCTP_VTAG_ORIGINAL, u32Be(sctp.originalTag)),
    attribute(CTA_PROTOINFO_SCTP_VTAG_REPLY, u32Be(sctp.replyTag)),
  ];
  return [nest(CTA_PROTOINFO, nest(CTA_PROTOINFO_SCTP, ...attributes))];
}

/** The octet of a replica is ours, whatever the flow's mark has in it. */
const markOf = ({ mark }: GroupFlow, replica: Generation | undefined): number => {
  const own = replica === undefined ? 0 : REPLICA_MARK | (replica === 1 ? GENERATION : 0);
  return ((mark & ~OWNER_BITS) | own) >>> 0;
};

/** Names the entry that the flow's answers belong to: the translation is in it. */
function answersKey(family: Family, flow: GroupFlow): Buffer[] {
  const { shared, sharedPort } = flow;
  const answer = answerTuple(flow);
  const port = isIcmp(flow.protocol) ? { sourcePort: sharedPort } : {};
  const tuple = { ...answer, ...port, destination: shared, destinationPort: sharedPort };
  return [nfgenHeader(familyCode(family)), encodeTuple(CTA_TUPLE_REPLY, family, flow.protocol, tuple)];
}

const key = (family: Family, flow: GroupFlow): Buffer[] => [
  nfgenHeader(familyCode(family)),
  encodeTuple(CTA_TUPLE_ORIG, family, flow.protocol, originalTuple(flow)),
];

/** A request: message type, and its payload. */
export interface EntryRequest {
  type: number;
  data: Uint8Array;
}

/**
 * Creates an entry that expires after `timeout` seconds. With NLM_F_CREATE | NLM_F_EXCL. `replica` undefined makes it a flow
 * of our own.
 */
export function insertRequest(
  family: Family,
  flow: GroupFlow,
  replica: Generation | undefined,
  timeout: number,
): EntryRequest {
  const data = Buffer.concat([
    ...key(family, flow),
    encodeTuple(CTA_TUPLE_REPLY, family, flow.protocol, answerTuple(flow)),
    sourceNat(family, flow),
    attribute(CTA_STATUS, u32Be(IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED)),
    attribute(CTA_TIMEOUT, u32Be(timeout)),
    attribute(CTA_MARK, u32Be(markOf(flow, replica))),
    ...protocolInfo(flow),
  ]);
  return { type: CT_NEW, data };
}

/**
 * Changes mark, timeout and state of the entry with this translation; a handshake is complete then, because its last packet may
 * have come here. `replica` undefined makes it a flow of our own.
 */
export function changeRequest(
  family: Family,
  flow: GroupFlow,
  replica: Generation | undefined,
  timeout: number,
): EntryRequest {
  const data = Buffer.concat([
    ...answersKey(family, flow),
    attribute(CTA_TIMEOUT, u32Be(timeout)),
    attribute(CTA_MARK, u32Be(markOf(flow, replica))),
    ...protocolInfo(opened(flow)),
  ]);
  return { type: CT_NEW, data };
}

/** Whether an entry of TCP drops segments outside of the window that it has seen. */
export const isStrict = ({ tcp }: GroupFlow): boolean =>
  tcp !== undefined && (tcp.originalFlags & tcp.replyFlags & IP_CT_TCP_FLAG_BE_LIBERAL) === 0;

/** The flow, with an entry that is liberal. */
export const liberal = (flow: GroupFlow): GroupFlow => ({
  ...flow,
  ...(flow.tcp && {
    tcp: {
      ...flow.tcp,
      originalFlags: flow.tcp.originalFlags | IP_CT_TCP_FLAG_BE_LIBERAL,
      replyFlags: flow.tcp.replyFlags | IP_CT_TCP_FLAG_BE_LIBERAL,
    },
  }),
});

/** Makes an entry of TCP liberal about windows: its packets may go through another member for a while. */
export function liberalRequest(family: Family, flow: GroupFlow): EntryRequest {
  const flags = Buffer.of(IP_CT_TCP_FLAG_BE_LIBERAL, IP_CT_TCP_FLAG_BE_LIBERAL);
  const data = Buffer.concat([
    ...answersKey(family, flow),
    nest(
      CTA_PROTOINFO,
      nest(
        CTA_PROTOINFO_TCP,
        attribute(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, flags),
        attribute(CTA_PROTOINFO_TCP_FLAGS_REPLY, flags),
      ),
    ),
  ]);
  return { type: CT_NEW, data };
}

/** Restarts the timeout of an entry, and changes nothing else. */
export function timeoutRequest(family: Family, flow: GroupFlow, timeout: number): EntryRequest {
  return {
    type: CT_NEW,
    data: Buffer.concat([...answersKey(family, flow), attribute(CTA_TIMEOUT, u32Be(timeout))]),
  };
}

/** A request about the entry with the flow's addresses and ports, whatever it is translated to: `CT_GET` or `CT_DELETE`. */
export const keyRequest = (type: number, family: Family, flow: GroupFlow): EntryRequest => ({
  type,
  data: Buffer.concat(key(family, flow)),
});

/** A request about the entry that the flow's answers belong to: `CT_GET` or `CT_DELETE`. */
export const answersRequest = (type: number, family: Family, flow: GroupFlow): EntryRequest => ({
  type,
  data: Buffer.concat(answersKey(family, flow)),
});
