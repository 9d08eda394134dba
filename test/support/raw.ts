/**
 * Two ends of protocols that Node has no sockets for, over raw sockets: SCTP (the chunks of an association whose tags are always
 * the same, so that each runs by itself), and protocols without ports, whose packets come back as they are.
 *
 *     node raw.ts server FAMILY PROTOCOL                 prints the source of each packet, `address port`
 *     node raw.ts client FAMILY PROTOCOL HOST [CHUNK]    prints the type of the chunk, or `answered`; exit code 1 without an answer
 */
import * as libc from '../../lib/libc.ts';
import { addressFamily, IPPROTO_SCTP, SOCK_RAW } from '../../lib/linux.ts';
import { addressFromBytes } from '../../lib/prefix.ts';

/** Types of chunks (RFC 9260, 3.2), each with its answer. */
export const CHUNK = { data: 0, init: 1, initAck: 2, sack: 3, cookieEcho: 10, cookieAck: 11 } as const;
const ANSWERS: Record<number, number> = {
  [CHUNK.init]: CHUNK.initAck,
  [CHUNK.cookieEcho]: CHUNK.cookieAck,
  [CHUNK.data]: CHUNK.sack,
};

const TAG = { client: 0x1111_1111, server: 0x2222_2222 };
const PORT = { client: 5000, server: 5001 };
const HEADER = 12;
const TIMEOUT = 2000;

/** CRC-32C (RFC 9260, appendix A). */
function crc32c(data: Uint8Array): number {
  let crc = 0xffff_ffff;
  for (const octet of data) {
    crc ^= octet;
    for (let i = 0; i < 8; i++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f6_3b78 : 0);
  }
  return ~crc >>> 0;
}

/** An SCTP packet with one chunk. */
function sctpPacket(from: number, to: number, end: 'client' | 'server', chunk: number): Buffer {
  const isInit = chunk === CHUNK.init || chunk === CHUNK.initAck;
  const body = Buffer.alloc(16, 1);
  // Initiate tag, window, streams, first number.
  if (isInit) body.writeUInt32BE(TAG[end]);
  const packet = Buffer.alloc(HEADER + 4 + body.length);
  packet.writeUInt16BE(from);
  packet.writeUInt16BE(to, 2);
  packet.writeUInt32BE(chunk === CHUNK.init ? 0 : TAG[end === 'client' ? 'server' : 'client'], 4);
  packet.writeUInt8(chunk, HEADER);
  packet.writeUInt8(chunk === CHUNK.data ? 3 : 0, HEADER + 1);
  packet.writeUInt16BE(4 + body.length, HEADER + 2);
  body.copy(packet, HEADER + 4);
  packet.writeUInt32LE(crc32c(packet), 8);
  return packet;
}

async function receive(fd: number, family: 4 | 6): Promise<{ from: string; payload: Buffer } | undefined> {
  if (!(await libc.readable(fd, TIMEOUT))) return undefined;
  const [data, address] = [Buffer.alloc(4096), Buffer.alloc(28)];
  const length = libc.recvfrom(fd, data, address);
  if (length < 0) return undefined;
  const from = addressFromBytes(family === 4 ? address.subarray(4, 8) : address.subarray(8, 24));
  // IPv4 gives the IP header too.
  return { from, payload: data.subarray(family === 4 ? (data[0]! & 15) * 4 : 0, length) };
}

async function serve(fd: number, family: 4 | 6, protocol: number): Promise<never> {
  for (;;) {
    const packet = await receive(fd, family);
    if (packet === undefined) continue;
    const { from, payload } = packet;
    const isSctp = protocol === IPPROTO_SCTP;
    const answer = isSctp ? ANSWERS[payload[HEADER]!] : 0;
    if (answer === undefined) continue;
    console.log(`${from} ${isSctp ? payload.readUInt16BE() : 0}`);
    const reply = isSctp ? sctpPacket(PORT.server, payload.readUInt16BE(), 'server', answer) : payload;
    libc.sendto(fd, reply, libc.sockaddr(from, 0));
  }
}

async function ask(fd: number, family: 4 | 6, protocol: number, host: string, chunk: number): Promise<void> {
  const isSctp = protocol === IPPROTO_SCTP;
  const request = isSctp ? sctpPacket(PORT.client, PORT.server, 'client', chunk) : Buffer.alloc(32);
  libc.sendto(fd, request, libc.sockaddr(host, 0));
  const packet = await receive(fd, family);
  if (packet === undefined) process.exit(1);
  console.log(isSctp ? packet.payload[HEADER] : 'answered');
  process.exit(0);
}

if (import.meta.main) {
  const [end, family, protocol, host = '', chunk = '1'] = process.argv.slice(2);
  const version = family === '4' ? 4 : 6;
  const fd = libc.socket(addressFamily(version), SOCK_RAW, Number(protocol));
  if (end === 'server') await serve(fd, version, Number(protocol));
  else await ask(fd, version, Number(protocol), host, Number(chunk));
}
