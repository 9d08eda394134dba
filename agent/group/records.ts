/**
 * A flow as octets, in the table and between members. Pure.
 *
 *     protocol 1 | ICMP type 1 | ICMP code 1 | source A | destination A | shared address A
 *     source port 2 | destination port 2 | shared port 2            the key ends here
 *     mark 4 | timeout 4 | state 1 | window scales 1 | TCP flags 2 | SCTP tags 8
 *
 * A is 4 or 16. Numbers are in network order. State is that of TCP or SCTP; what a protocol does not have is zero.
 */
import { IPPROTO_SCTP, IPPROTO_TCP } from '../../lib/linux.ts';
import type { Family } from '../../lib/prefix.ts';
import { SCTP_ESTABLISHED, TCP_ESTABLISHED } from '../../nat/conntrack/wire.ts';
import type { GroupFlow } from './model.ts';

/** The largest of enum tcp_conntrack and enum sctp_conntrack that an entry can have, and of a window scale (RFC 7323). */
const MAX_STATE = 9;
const MAX_SCALE = 14;
/** Octets behind the key, and those of the state in them. */
const STATE = 12;
const VALUE = 8 + STATE;
/** The state in which a handshake is complete, by protocol. */
const ESTABLISHED: Readonly<Record<number, number>> = {
  [IPPROTO_TCP]: TCP_ESTABLISHED,
  [IPPROTO_SCTP]: SCTP_ESTABLISHED,
};
/** The longest timeout that is taken over, seconds: conntrack's own for established TCP is 5 days. */
export const MAX_TIMEOUT = 30 * 86_400;

export const addressSize = (family: Family): 4 | 16 => (family === 4 ? 4 : 16);
export const keySize = (family: Family): number => 9 + 3 * addressSize(family);
export const recordSize = (family: Family): number => keySize(family) + VALUE;

/** The octets of a flow; the key is their beginning. */
export function encodeFlow(flow: GroupFlow): Buffer {
  const size = flow.source.length;
  const record = Buffer.alloc(9 + 3 * size + VALUE);
  record[0] = flow.protocol;
  record[1] = flow.icmpType;
  record[2] = flow.icmpCode;
  record.set(flow.source, 3);
  record.set(flow.destination, 3 + size);
  record.set(flow.shared, 3 + 2 * size);
  let at = 3 + 3 * size;
  at = record.writeUInt16BE(flow.sourcePort, at);
  at = record.writeUInt16BE(flow.destinationPort, at);
  at = record.writeUInt16BE(flow.sharedPort, at);
  at = record.writeUInt32BE(flow.mark >>> 0, at);
  at = record.writeUInt32BE(Math.min(flow.timeout, MAX_TIMEOUT), at);
  const { tcp, sctp } = flow;
  if (tcp !== undefined) {
    record[at] = tcp.state;
    record[at + 1] = (tcp.originalScale << 4) | tcp.replyScale;
    record[at + 2] = tcp.originalFlags;
    record[at + 3] = tcp.replyFlags;
  } else if (sctp !== undefined) {
    record[at] = sctp.state;
    record.writeUInt32BE(sctp.originalTag, at + 4);
    record.writeUInt32BE(sctp.replyTag, at + 8);
  }
  return record;
}

/** The flow of a record that `isRecord` accepts; its addresses are views of the record. */
export function decodeFlow(record: Buffer): GroupFlow {
  const size = (record.length - 9 - VALUE) / 3;
  const ports = 3 + 3 * size;
  const protocol = record[0]!;
  const at = ports + 14;
  return {
    protocol,
    icmpType: record[1]!,
    icmpCode: record[2]!,
    source: record.subarray(3, 3 + size),
    destination: record.subarray(3 + size, 3 + 2 * size),
    shared: record.subarray(3 + 2 * size, ports),
    sourcePort: record.readUInt16BE(ports),
    destinationPort: record.readUInt16BE(ports + 2),
    sharedPort: record.readUInt16BE(ports + 4),
    mark: record.readUInt32BE(ports + 6),
    timeout: record.readUInt32BE(ports + 10),
    ...(protocol === IPPROTO_TCP && {
      tcp: {
        state: record[at]!,
        originalScale: record[at + 1]! >> 4,
        replyScale: record[at + 1]! & 15,
        originalFlags: record[at + 2]!,
        replyFlags: record[at + 3]!,
      },
    }),
    ...(protocol === IPPROTO_SCTP && {
      sctp: {
        state: record[at]!,
        originalTag: record.readUInt32BE(at + 4),
        replyTag: record.readUInt32BE(at + 8),
      },
    }),
  };
}

/** Whether octets of the right number are a flow that the kernel may be given. */
export function isRecord(record: Buffer): boolean {
  const at = record.length - STATE;
  if (record[0] === 0 || record.readUInt32BE(at - 4) > MAX_TIMEOUT) return false;
  const [state, scales] = [record[at]!, record[at + 1]!];
  const isTcp = record[0] === IPPROTO_TCP;
  const isSctp = record[0] === IPPROTO_SCTP;
  if (!isTcp && (scales !== 0 || record.readUInt16BE(at + 2) !== 0)) return false;
  if (!isSctp && (record.readUInt32BE(at + 4) !== 0 || record.readUInt32BE(at + 8) !== 0)) return false;
  if (!isTcp && !isSctp) return state === 0;
  return state <= MAX_STATE && scales >> 4 <= MAX_SCALE && (scales & 15) <= MAX_SCALE;
}

/**
 * Whether the replica of a record will do for a later record of the same flow: mark and state are the same, or what is new is that
 * the handshake is complete, which the replica's first packet tells the kernel too. The timeout differs by nature.
 */
export function willDo(former: Buffer, record: Buffer): boolean {
  const end = record.length;
  const state = end - STATE;
  const established = ESTABLISHED[record[0]!];
  const isOpened = record[state] === established && former[state]! < record[state]!;
  return (
    (isOpened || former[state] === record[state]) &&
    former.compare(record, state + 1, end, state + 1, end) === 0 &&
    former.readUInt32BE(end - VALUE) === record.readUInt32BE(end - VALUE)
  );
}

/** The port of the shared address. */
export const sharedPortOf = (key: Buffer, family: Family): number => key.readUInt16BE(keySize(family) - 2);

/** Whether the protocol has ports that SNAT can take from a range: TCP, UDP, SCTP, DCCP. */
export const hasPorts = (key: Buffer): boolean => [6, 17, 33, 132].includes(key[0]!);

/** A hash of some octets (murmur3, 32 bits). */
export function hashOf(octets: Uint8Array, start: number, end: number, seed: number): number {
  let hash = seed;
  for (let i = start; i < end; i++) {
    hash = Math.imul(hash ^ octets[i]!, 0x5bd1e995);
    hash ^= hash >>> 15;
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
