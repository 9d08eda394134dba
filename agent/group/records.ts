/**
 * A flow as octets, in the table and between members. Pure.
 *
 *     protocol 1 | ICMP type 1 | ICMP code 1 | source A | destination A | shared address A
 *     source port 2 | destination port 2 | shared port 2            the key ends here
 *     mark 4 | timeout 4 | TCP state 1 | window scales 1 | TCP flags 2
 *
 * A is 4 or 16. Numbers are in network order. The TCP part is zero for other protocols.
 */
import type { Family } from '../../lib/prefix.ts';
import type { GroupFlow } from './model.ts';

const TCP = 6;
/** The largest of enum tcp_conntrack that an entry can have, and of a window scale (RFC 7323). */
const MAX_TCP_STATE = 9;
const MAX_SCALE = 14;
/** The longest timeout that is taken over, seconds: conntrack's own for established TCP is 5 days. */
export const MAX_TIMEOUT = 30 * 86_400;

export const addressSize = (family: Family): 4 | 16 => (family === 4 ? 4 : 16);
export const keySize = (family: Family): number => 9 + 3 * addressSize(family);
export const recordSize = (family: Family): number => keySize(family) + 12;

/** The octets of a flow; the key is their beginning. */
export function encodeFlow(flow: GroupFlow): Buffer {
  const size = flow.source.length;
  const record = Buffer.allocUnsafe(21 + 3 * size);
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
  const { tcp } = flow;
  record[at] = tcp?.state ?? 0;
  record[at + 1] = tcp === undefined ? 0 : (tcp.originalScale << 4) | tcp.replyScale;
  record[at + 2] = tcp?.originalFlags ?? 0;
  record[at + 3] = tcp?.replyFlags ?? 0;
  return record;
}

/** The flow of a record that `isRecord` accepts; its addresses are views of the record. */
export function decodeFlow(record: Buffer): GroupFlow {
  const size = (record.length - 21) / 3;
  const ports = 3 + 3 * size;
  const protocol = record[0]!;
  const tcp = ports + 14;
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
    ...(protocol === TCP && {
      tcp: {
        state: record[tcp]!,
        originalScale: record[tcp + 1]! >> 4,
        replyScale: record[tcp + 1]! & 15,
        originalFlags: record[tcp + 2]!,
        replyFlags: record[tcp + 3]!,
      },
    }),
  };
}

/** Whether octets of the right number are a flow that the kernel may be given. */
export function isRecord(record: Buffer): boolean {
  const at = record.length - 8;
  if (record[0] === 0 || record.readUInt32BE(at) > MAX_TIMEOUT) return false;
  const [state, scales] = [record[at + 4]!, record[at + 5]!];
  if (record[0] !== TCP) return state === 0 && scales === 0 && record.readUInt16BE(at + 6) === 0;
  return state <= MAX_TCP_STATE && scales >> 4 <= MAX_SCALE && (scales & 15) <= MAX_SCALE;
}

/** Whether mark and TCP of two records of one flow are the same; the timeout differs by nature. */
export function isSameState(a: Buffer, b: Buffer): boolean {
  const end = a.length;
  return (
    a.compare(b, end - 4, end, end - 4, end) === 0 && a.readUInt32BE(end - 12) === b.readUInt32BE(end - 12)
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
