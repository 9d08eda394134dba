/**
 * A client that means harm to the HTTP port, in a namespace of its own:
 *
 *     node http-attack.ts HOST
 *
 * Silent connections, requests a character at a time, pipelined requests and one request after the other whose answers
 * nobody reads, and connections that come and go. Whatever is closed is opened again. Says `attacking` when the first
 * of all of them are there, and goes on until it is killed.
 */
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const PORT = 10_669;
const GET = 'GET /metrics HTTP/1.1\r\nHost: gateway\r\n\r\n';
const [host = ''] = process.argv.slice(2);
let opened = 0;

/** Opens a connection that reads nothing, again and again. */
function keep(begin: (socket: Socket) => void): void {
  const socket = connect(PORT, host, () => {
    opened++;
    begin(socket);
  });
  socket.pause();
  socket.on('error', () => {});
  socket.on('close', () => setTimeout(() => keep(begin), 200));
}

async function drip(socket: Socket): Promise<void> {
  for (const character of GET.replace('\r\n\r\n', `\r\nX: ${'x'.repeat(1000)}`)) {
    if (socket.destroyed) return;
    socket.write(character);
    await sleep(200);
  }
}

async function ask(socket: Socket): Promise<void> {
  while (!socket.destroyed) {
    socket.write(GET);
    await sleep(20);
  }
}

const kinds: [count: number, begin: (socket: Socket) => void][] = [
  [70, () => {}],
  [20, (socket) => void drip(socket)],
  [50, (socket) => socket.write(GET.repeat(8))],
  [20, (socket) => socket.write(GET.repeat(1000))],
  [20, (socket) => void ask(socket)],
  [50, (socket) => socket.end()],
  [50, (socket) => socket.resetAndDestroy()],
];
let wanted = 0;
for (const [count, begin] of kinds) {
  wanted += count;
  for (let i = 0; i < count; i++) keep(begin);
}
while (opened < wanted) await sleep(20);
process.stdout.write('attacking\n');
