/**
 * Sends packets as fast as one core does, from one address, through veth pairs that carry them to their end within the
 * send: what is measured is what the kernel does with a packet on its way. `node packets.ts SOURCE`; a JSON line of
 * a `Job` on stdin is answered by one of an `Answer`.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface, type Interface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import koffi from 'koffi';
import { bind, libc, recv, sendto, setsockopt, sockaddr, socket } from '../../lib/libc.ts';
import { AF_INET, IPPROTO_ICMP, SO_SNDBUFFORCE, SOCK_DGRAM, SOCK_RAW, SOL_SOCKET } from '../../lib/linux.ts';
import { PATIENCE } from '../support/machine.ts';
import { type Namespace, NODE, ROOT, URGENTLY } from '../support/netns.ts';

export type Job =
  /** UDP packets to ever new ports of the first 250 addresses of a /24 (`a.b.c`): each begins a connection. */
  | { kind: 'new'; network: string; ms: number }
  /** UDP packets of one connection. */
  | { kind: 'udp'; host: string; port: number; ms: number }
  /** One of them, until it is answered. */
  | { kind: 'greeting'; host: string; port: number }
  /** ICMP echo requests of one connection; each and its reply pass, and both are counted. */
  | { kind: 'flow'; host: string; ms: number }
  /** ICMP echo, one after the other. */
  | { kind: 'ping'; host: string; count: number };

export interface Answer {
  packets: number;
  seconds: number;
  /** Of `ping`: each round trip, microseconds; less than `packets` when some were lost. */
  roundTrips?: number[];
}

/** The program as a child process in a namespace. */
export class Packets {
  readonly #child: ChildProcess;
  readonly #lines: Interface;

  constructor(ns: Namespace, source: string) {
    const command = [...URGENTLY, NODE, `${ROOT}/test/bench/packets.ts`, source];
    this.#child = spawn('ip', ['netns', 'exec', ns.name, ...command], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.#lines = createInterface({ input: this.#child.stdout! });
  }

  async send(job: Job): Promise<Answer> {
    const line = once(this.#lines, 'line', { signal: AbortSignal.timeout(PATIENCE) }) as Promise<[string]>;
    this.#child.stdin!.write(`${JSON.stringify(job)}\n`);
    return JSON.parse((await line)[0]) as Answer;
  }

  end(): void {
    this.#child.stdin!.end();
  }
}

// The program --------------------------------------------------------------------------------------------

const BATCH = 64;
// Octets of struct mmsghdr, of struct iovec and of struct sockaddr_in, and where in msghdr things are (x86-64, arm64).
const MMSGHDR = 64;
const IOVEC = 16;
const SOCKADDR = 16;
const AT = { name: 0, nameLength: 8, vector: 16, vectorLength: 24 };
const PAYLOAD = Buffer.alloc(18);
/** What a server answers. */
export const GREETING = 'greeting';
const PORT = 9; // discard
const FIRST_PORT = 1024;
const PING_TIMEOUT = 100;

const cSendmmsg = libc.func('int sendmmsg(int fd, void *messages, unsigned int count, int flags)');

/** A batch of datagrams, each with an address of its own. */
function batch(payload: Buffer): { messages: Buffer; addresses: Buffer } {
  const messages = Buffer.alloc(BATCH * MMSGHDR);
  const addresses = Buffer.alloc(BATCH * SOCKADDR);
  const vector = Buffer.alloc(IOVEC);
  vector.writeBigUInt64LE(koffi.address(payload), 0);
  vector.writeBigUInt64LE(BigInt(payload.length), 8);
  for (let i = 0; i < BATCH; i++) {
    messages.writeBigUInt64LE(koffi.address(addresses) + BigInt(i * SOCKADDR), i * MMSGHDR + AT.name);
    messages.writeUInt32LE(SOCKADDR, i * MMSGHDR + AT.nameLength);
    messages.writeBigUInt64LE(koffi.address(vector), i * MMSGHDR + AT.vector);
    messages.writeBigUInt64LE(1n, i * MMSGHDR + AT.vectorLength);
  }
  kept.push(vector, payload);
  return { messages, addresses };
}
/** What the kernel has the address of must not be moved or freed. */
const kept: Buffer[] = [];

/** Where the ports of each network go on: no connection comes twice before the table is emptied. */
const cursors = new Map<string, number>();

function flood(fd: number, job: Job & { kind: 'new' | 'flow' | 'udp' }): Answer {
  const fresh = job.kind === 'new';
  const echo = job.kind === 'flow';
  const { messages, addresses } = batch(echo ? echoRequest(0) : PAYLOAD);
  const base = fresh ? sockaddr(`${job.network}.1`, PORT) : sockaddr(job.host, echo ? 0 : job.port);
  for (let i = 0; i < BATCH; i++) addresses.set(base, i * SOCKADDR);
  let cursor = fresh ? (cursors.get(job.network) ?? 0) : 0;
  let packets = 0;
  const began = performance.now();
  const until = began + job.ms;
  while (performance.now() < until) {
    if (fresh) {
      for (let i = 0; i < BATCH; i++, cursor++) {
        addresses.writeUInt16BE(FIRST_PORT + (cursor % 60_000), i * SOCKADDR + 2);
        addresses[i * SOCKADDR + 7] = 1 + (Math.floor(cursor / 60_000) % 250);
      }
    }
    const sent: number = cSendmmsg(fd, messages, BATCH, 0);
    if (sent < 0) throw new Error(`sendmmsg: errno ${koffi.errno()}`);
    packets += sent;
  }
  if (fresh) cursors.set(job.network, cursor);
  return { packets: echo ? 2 * packets : packets, seconds: (performance.now() - began) / 1000 };
}

/** Sends a datagram again and again until there is an answer, which begins a connection. */
async function greet(fd: number, { host, port }: Job & { kind: 'greeting' }): Promise<Answer> {
  const began = performance.now();
  const answer = Buffer.alloc(128);
  let packets = 0;
  do {
    sendto(fd, Buffer.from(GREETING), sockaddr(host, port));
    packets++;
    await sleep(PING_TIMEOUT);
  } while (recv(fd, answer) < 0);
  return { packets, seconds: (performance.now() - began) / 1000 };
}

/** ICMP echo request: type 8, the checksum, an identifier and the sequence number (RFC 792). */
function echoRequest(sequence: number): Buffer {
  const message = Buffer.alloc(16);
  message[0] = 8;
  message.writeUInt16BE(process.pid & 0xffff, 4);
  message.writeUInt16BE(sequence & 0xffff, 6);
  let sum = 0;
  for (let i = 0; i < message.length; i += 2) sum += message.readUInt16BE(i);
  message.writeUInt16BE(~((sum & 0xffff) + (sum >> 16)) & 0xffff, 2);
  return message;
}

function ping(fd: number, { host, count }: Job & { kind: 'ping' }): Answer {
  const address = sockaddr(host, 0);
  const answer = Buffer.alloc(128);
  const roundTrips: number[] = [];
  const began = performance.now();
  while (recv(fd, answer) >= 0); // nothing of an earlier round
  for (let i = 0; i < count; i++) {
    const request = echoRequest(i);
    const at = performance.now();
    if (sendto(fd, request, address) < 0) continue;
    while (performance.now() < at + PING_TIMEOUT) {
      if (recv(fd, answer) < 0) continue;
      const header = (answer[0]! & 0xf) * 4;
      if (answer[header] !== 0 || answer.readUInt16BE(header + 6) !== (i & 0xffff)) continue;
      roundTrips.push((performance.now() - at) * 1000);
      break;
    }
  }
  return { packets: count, seconds: (performance.now() - began) / 1000, roundTrips };
}

async function answerTo(job: Job, udp: number, icmp: number): Promise<Answer> {
  if (job.kind === 'ping') return ping(icmp, job);
  if (job.kind === 'greeting') return greet(udp, job);
  return flood(job.kind === 'flow' ? icmp : udp, job);
}

async function program(source: string): Promise<void> {
  const udp = socket(AF_INET, SOCK_DGRAM, 0);
  bind(udp, sockaddr(source, 0));
  setsockopt(udp, SOL_SOCKET, SO_SNDBUFFORCE, 8 << 20);
  const icmp = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
  bind(icmp, sockaddr(source, 0));
  for await (const line of createInterface({ input: process.stdin })) {
    const job = JSON.parse(line) as Job;
    await sleep(5);
    const answer = await answerTo(job, udp, icmp);
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  process.exit();
}

if (import.meta.main) await program(process.argv[2]!);
