/**
 * UDP flows that are cheap to make, so that what is measured is the gateway: each is a destination address of its own, and
 * the server answers all of them from one socket.
 *
 *     node flow-load.ts answer                        in the server, which has `NETWORK` as local addresses
 *     node flow-load.ts send SOURCE RATE SECONDS      RATE new flows a second, a packet each; prints a JSON line of `Sent`
 */
import { setTimeout as sleep } from 'node:timers/promises';
import koffi from 'koffi';
import * as libc from '../../lib/libc.ts';
import { AF_INET, SO_RCVBUFFORCE, SOCK_DGRAM, SOL_SOCKET } from '../../lib/linux.ts';
import { type Daemon, type Namespace, NODE, ROOT, URGENTLY, until } from '../support/netns.ts';

/** The destinations (RFC 2544). */
export const NETWORK = '198.18.0.0/15';
const PORT = 9000;

export interface Sent {
  sent: number;
  seconds: number;
}

const PROGRAM = `${ROOT}/test/bench/flow-load.ts`;

/** Makes a server answer every flow. */
export async function answerFlows(server: Namespace): Promise<void> {
  server.ip(`route add local ${NETWORK} dev lo`);
  const [file, ...args] = [...URGENTLY, NODE, PROGRAM, 'answer'];
  server.spawn(file!, args, { name: 'answer' });
  await until(() => server.sh('ss -Hlun').includes(`:${PORT} `), { what: 'the server answers' });
}

/** Sends from an address of a namespace while the caller goes on; `sentBy` waits for the end. */
export function sendFlows(client: Namespace, source: string, rate: number, seconds: number): Daemon {
  const [file, ...args] = [...URGENTLY, NODE, PROGRAM, 'send', source, `${rate}`, `${seconds}`];
  return client.spawn(file!, args, { name: 'flows' });
}

export async function sentBy(load: Daemon): Promise<Sent> {
  await load.ended();
  return JSON.parse(load.log()) as Sent;
}

// The program --------------------------------------------------------------------------------------------

const BATCH = 64;
// Octets of struct mmsghdr, struct iovec and struct sockaddr_in; where in msghdr things are (x86-64, arm64).
const MMSGHDR = 64;
const IOVEC = 16;
const SOCKADDR = 16;
/** struct cmsghdr with struct in_pktinfo, aligned. */
const CONTROL = 32;
const PAYLOAD = 32;
const AT = { name: 0, nameLength: 8, vector: 16, vectorLength: 24, control: 32, controlLength: 40 };
const IP_PKTINFO = 8;
const MSG_DONTWAIT = 0x40;
/**
 * Source ports, of which each batch has another one: the kernel looks through all flows of a source when a translation is
 * put into its table, and a port with a hundred thousand flows is no usual one.
 */
const SOCKETS = 2048;
const DESTINATIONS = 1 << 17;
/** Between two batches, ms. */
const STEP = 5;
/** What a pause kept from being sent is sent afterwards, up to so many ms' worth. */
const LONGEST_BURST = 50;

const sendmmsg = libc.libc.func('int sendmmsg(int fd, void *messages, unsigned int count, int flags)');
const recvmmsg = libc.libc.func(
  'int recvmmsg(int fd, void *messages, unsigned int count, int flags, void *timeout)',
);

/** What the kernel has the address of must not be freed. */
const kept: Buffer[] = [];

/** A batch of messages, each with an address, a payload and, if wanted, a control message of its own. */
function batch(withControl: boolean) {
  const messages = Buffer.alloc(BATCH * MMSGHDR);
  const addresses = Buffer.alloc(BATCH * SOCKADDR);
  const vectors = Buffer.alloc(BATCH * IOVEC);
  const payloads = Buffer.alloc(BATCH * PAYLOAD, 'x');
  const controls = Buffer.alloc(BATCH * CONTROL);
  const at = (buffer: Buffer, offset: number) => koffi.address(buffer) + BigInt(offset);
  for (let i = 0; i < BATCH; i++) {
    const base = i * MMSGHDR;
    messages.writeBigUInt64LE(at(addresses, i * SOCKADDR), base + AT.name);
    messages.writeUInt32LE(SOCKADDR, base + AT.nameLength);
    messages.writeBigUInt64LE(at(vectors, i * IOVEC), base + AT.vector);
    messages.writeBigUInt64LE(1n, base + AT.vectorLength);
    if (!withControl) continue;
    messages.writeBigUInt64LE(at(controls, i * CONTROL), base + AT.control);
    messages.writeBigUInt64LE(BigInt(CONTROL), base + AT.controlLength);
  }
  for (let i = 0; i < BATCH; i++) {
    vectors.writeBigUInt64LE(at(payloads, i * PAYLOAD), i * IOVEC);
    vectors.writeBigUInt64LE(BigInt(PAYLOAD), i * IOVEC + 8);
  }
  kept.push(messages, addresses, vectors, payloads, controls);
  return { messages, addresses };
}

async function answer(): Promise<void> {
  const fd = libc.socket(AF_INET, SOCK_DGRAM, 0);
  libc.setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20);
  // The control message of what comes in is that of its answer: it names our address.
  libc.setsockopt(fd, 0, IP_PKTINFO, 1);
  libc.bind(fd, libc.sockaddr('0.0.0.0', PORT));
  const { messages } = batch(true);
  const fresh = Buffer.from(messages);
  for (;;) {
    if (!(await libc.readable(fd, 1000))) continue;
    for (;;) {
      messages.set(fresh);
      const received: number = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, null);
      if (received <= 0) break;
      for (let sent = 0; sent < received; ) {
        const more: number = sendmmsg(fd, messages.subarray(sent * MMSGHDR), received - sent, 0);
        // A message that is refused is left out.
        sent += Math.max(more, 1);
      }
    }
  }
}

async function send(source: string, rate: number, seconds: number): Promise<Sent> {
  const sockets = Array.from({ length: SOCKETS }, () => {
    const fd = libc.socket(AF_INET, SOCK_DGRAM, 0);
    libc.bind(fd, libc.sockaddr(source, 0));
    return fd;
  });
  const { messages, addresses } = batch(false);
  const [first] = NETWORK.split('/');
  const base = libc.sockaddr(first!, PORT);
  for (let i = 0; i < BATCH; i++) addresses.set(base, i * SOCKADDR);
  const network = Buffer.from(base).readUInt32BE(4);
  let sent = 0;
  let calls = 0;
  let began = performance.now();
  const start = began;
  for (;;) {
    const now = performance.now();
    if (now - start > seconds * 1000) break;
    let due = Math.floor(((now - began) * rate) / 1000) - sent;
    const most = Math.ceil((rate * LONGEST_BURST) / 1000);
    if (due > most) {
      began += ((due - most) * 1000) / rate;
      due = most;
    }
    while (due > 0) {
      const count = Math.min(due, BATCH);
      for (let i = 0; i < count; i++) {
        addresses.writeUInt32BE(network + ((sent + i) % DESTINATIONS), i * SOCKADDR + 4);
      }
      const done: number = sendmmsg(sockets[calls++ % SOCKETS]!, messages, count, 0);
      if (done < 0) throw new Error(`sendmmsg: errno ${koffi.errno()}`);
      sent += done;
      due -= done;
    }
    await sleep(STEP);
  }
  return { sent, seconds: (performance.now() - start) / 1000 };
}

if (import.meta.main) {
  const [mode, source = '', rate, seconds] = process.argv.slice(2);
  if (mode === 'answer') await answer();
  else {
    const result = await send(source, Number(rate), Number(seconds));
    process.stdout.write(`${JSON.stringify(result)}\n`);
    process.exit();
  }
}
