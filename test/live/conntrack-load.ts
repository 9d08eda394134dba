/**
 * Flows with known counts, from a client through a gateway to a server:
 *
 *     node conntrack-load.ts echo PORT                              UDP and TCP echo, both families
 *     node conntrack-load.ts udp HOST PORT COUNT PACKETS RATE       COUNT flows, to ports from PORT on
 *     node conntrack-load.ts tcp HOST PORT COUNT                    COUNT connections, one message each
 *     node conntrack-load.ts icmp HOST ID COUNT PACKETS             COUNT echo identifiers, from ID on
 *     node conntrack-load.ts bound HOST PORT FROM COUNT ADDRESS…    a packet from each of COUNT ports of each address
 *
 * A UDP flow is a destination port, so that one socket makes as many as are wanted; the server sends all ports to
 * its echo. RATE is in flows a second. The client prints what it has sent and received as one JSON line.
 */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { createConnection, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { checksum } from '../../lib/checksum.ts';
import * as libc from '../../lib/libc.ts';
import { addressFamily, IPPROTO_ICMP, IPPROTO_ICMPV6, SOCK_RAW } from '../../lib/linux.ts';
import type { Daemon, Namespace } from '../support/netns.ts';
import { NODE, ROOT, URGENTLY, until } from '../support/netns.ts';
import { roomySocket } from '../support/udp.ts';

/** Octets of a message. */
export const PAYLOAD = 100;
/** Octets of a UDP packet of either family, as the kernel counts it. */
export const PACKET = { 4: 20 + 8 + PAYLOAD, 6: 40 + 8 + PAYLOAD };
const ECHO_PORT = 8000;
/** How long answers are waited for, ms. */
const PATIENCE = 10_000;
const STEP = 10;

export interface Sent {
  sent: number;
  received: number;
}

async function paced(count: number, rate: number, act: (i: number) => void): Promise<void> {
  const began = performance.now();
  for (let i = 0; i < count; ) {
    const due = Math.min(count, Math.ceil(((performance.now() - began) / 1000) * rate) + 1);
    while (i < due) act(i++);
    if (i < count) await sleep(STEP);
  }
}

async function udp(host: string, port: number, count: number, packets: number, rate: number): Promise<Sent> {
  const socket = roomySocket(host.includes(':') ? 6 : 4);
  socket.on('error', () => {});
  const seen: Sent = { sent: 0, received: 0 };
  socket.on('message', () => seen.received++);
  const message = Buffer.alloc(PAYLOAD, 'x');
  // One packet of each flow, then the next of each: the second finds a flow that is there.
  for (let round = 0; round < packets; round++) {
    await paced(count, rate, (i) => {
      socket.send(message, port + i, host);
      seen.sent++;
    });
  }
  const end = performance.now() + PATIENCE;
  while (seen.received < seen.sent && performance.now() < end) await sleep(STEP);
  socket.close();
  return seen;
}

async function bound(
  host: string,
  port: number,
  from: number,
  count: number,
  addresses: string[],
): Promise<Sent> {
  const seen: Sent = { sent: 0, received: 0 };
  const sockets: Socket[] = [];
  for (const address of addresses) {
    for (let i = 0; i < count; i++) {
      const socket = createSocket('udp4');
      sockets.push(socket);
      socket.on('message', () => seen.received++);
      const listening = once(socket, 'listening');
      socket.bind({ address, port: from + i });
      await listening;
      socket.send('x', port, host);
      seen.sent++;
    }
  }
  // Until no more answers come.
  for (let before = -1; before !== seen.received; ) {
    before = seen.received;
    await sleep(1000);
  }
  for (const socket of sockets) socket.close();
  return seen;
}

async function tcp(host: string, port: number, count: number): Promise<Sent> {
  const seen: Sent = { sent: 0, received: 0 };
  for (let i = 0; i < count; i++) {
    const socket = createConnection({ host, port });
    socket.write(Buffer.alloc(PAYLOAD, 'x'));
    seen.sent++;
    await once(socket, 'data');
    seen.received++;
    socket.end();
    await once(socket, 'close');
  }
  return seen;
}

async function icmp(host: string, id: number, count: number, packets: number): Promise<Sent> {
  const v6 = host.includes(':');
  const fd = libc.socket(addressFamily(v6 ? 6 : 4), SOCK_RAW, v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
  const address = libc.sockaddr(host, 0);
  const seen: Sent = { sent: 0, received: 0 };
  for (let round = 0; round < packets; round++) {
    for (let i = 0; i < count; i++) {
      const message = Buffer.alloc(8 + PAYLOAD);
      message[0] = v6 ? 128 : 8;
      message.writeUInt16BE(id + i, 4);
      message.writeUInt16BE(round, 6);
      if (!v6) message.writeUInt16BE(checksum(message), 2);
      if (libc.sendto(fd, message, address) > 0) seen.sent++;
    }
    await sleep(STEP);
  }
  // The kernel answers within the send.
  await sleep(100);
  const buffer = Buffer.alloc(2048);
  for (let length = libc.recv(fd, buffer); length > 0; length = libc.recv(fd, buffer)) {
    const type = buffer[v6 ? 0 : (buffer[0]! & 0xf) * 4]!;
    if (type === (v6 ? 129 : 0)) seen.received++;
  }
  libc.close(fd);
  return seen;
}

function echo(port: number): void {
  const socket = roomySocket(6, port);
  socket.on('message', (message, from) => socket.send(message, from.port, from.address, () => {}));
  createServer((connection) => {
    connection.on('error', () => connection.destroy());
    connection.pipe(connection);
  }).listen(port, '::');
}

// In tests ---------------------------------------------------------------------------------------------

const PROGRAM = `${ROOT}/test/live/conntrack-load.ts`;

/** Makes a server answer on every UDP port. */
export async function answerEverything(server: Namespace, device = 'eth0'): Promise<void> {
  for (const program of ['iptables', 'ip6tables']) {
    server.sh(`${program} -t nat -A PREROUTING -i ${device} -p udp -j REDIRECT --to-ports ${ECHO_PORT}`);
  }
  const [file, ...args] = [...URGENTLY, NODE, PROGRAM, 'echo', `${ECHO_PORT}`];
  server.spawn(file!, args, { name: 'echo' });
  await until(() => server.sh('ss -Hltn').includes(`:${ECHO_PORT}`), { what: 'the echo server listens' });
}

/** Sends from a namespace, to the end. Throws when an answer is missing. */
export function send(from: Namespace, ...args: (string | number)[]): Sent {
  const { stdout, stderr, code } = from.run(NODE, [PROGRAM, ...args.map(String)]);
  if (code !== 0) throw new Error(`${args.join(' ')}: ${stderr}`);
  const seen = JSON.parse(stdout) as Sent;
  if (seen.sent !== seen.received) throw new Error(`${args.join(' ')}: ${stdout}`);
  return seen;
}

/** Sends from a namespace while the test goes on. */
export const sendMeanwhile = (from: Namespace, ...args: (string | number)[]): Daemon =>
  from.spawn(NODE, [PROGRAM, ...args.map(String)], { name: 'load' });

if (import.meta.main) {
  const [mode, host = '', ...rest] = process.argv.slice(2);
  const [first = 0, count = 0, packets = 1, rate = 2000] = rest.map(Number);
  if (mode === 'echo') echo(Number(host));
  else {
    const seen =
      mode === 'udp'
        ? await udp(host, first, count, packets, rate)
        : mode === 'tcp'
          ? await tcp(host, first, count)
          : mode === 'bound'
            ? await bound(host, first, count, packets, rest.slice(3))
            : await icmp(host, first, count, packets);
    process.stdout.write(`${JSON.stringify(seen)}\n`);
  }
}
