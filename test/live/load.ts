/**
 * The load under which failures are measured: a UDP stream of 1000 packets a second that is echoed, and 200 TCP
 * connections that say something twice a second, from one namespace through a gateway to an echo server.
 *
 *     node load.ts HOST PORT
 *
 * Each line on stdin is answered with one JSON line, a `LoadReport` of what has happened since the last one.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createConnection } from 'node:net';
import { createInterface, type Interface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { PATIENCE } from '../support/machine.ts';
import { type Namespace, NODE, URGENTLY } from '../support/netns.ts';
import { ECHO_PORT } from '../support/traffic.ts';
import { roomySocket } from '../support/udp.ts';

export const PACKETS_PER_SECOND = 1000;
export const CONNECTIONS = 200;

export interface LoadReport {
  /** Packets of the UDP stream, and those whose echo never came. */
  sent: number;
  lost: number;
  /** The longest time without an echo, ms. */
  gapMs: number;
  /** TCP connections that are there, and those that ended since the last report. */
  open: number;
  broken: number;
  /** The longest that a word on a TCP connection waits or waited for its echo, ms. */
  stallMs: number;
}

/** A report as one line. */
export const loadLine = ({ sent, lost, gapMs, open, broken, stallMs }: LoadReport): string =>
  `lost ${lost} of ${sent}, longest gap ${gapMs} ms; ${broken} of ${open + broken} connections broken, longest wait ${stallMs} ms`;

/** The load as a child process. */
export class Load {
  readonly #child: ChildProcess;
  readonly #lines: Interface;

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.#lines = createInterface({ input: child.stdout! });
  }

  /** Starts it and waits until all connections are there. */
  static async start(ns: Namespace, host: string): Promise<Load> {
    const program = [...URGENTLY, NODE, fileURLToPath(import.meta.url), host, `${ECHO_PORT}`];
    const load = new Load(
      spawn('ip', ['netns', 'exec', ns.name, ...program], { stdio: ['pipe', 'pipe', 'inherit'] }),
    );
    for (;;) {
      if ((await load.report()).open === CONNECTIONS) return load;
    }
  }

  /** What has happened since the last report. */
  async report(): Promise<LoadReport> {
    const next = once(this.#lines, 'line', { signal: AbortSignal.timeout(PATIENCE) }) as Promise<[string]>;
    this.#child.stdin!.write('\n');
    return JSON.parse((await next)[0]) as LoadReport;
  }

  stop(): void {
    this.#child.kill('SIGKILL');
  }
}

/** What is under way is waited for so long before it counts as lost, ms. */
const SETTLE = 250;

async function client(host: string, port: number): Promise<void> {
  const udp = roomySocket(host.includes(':') ? 6 : 4);
  udp.on('error', () => {});
  const began = performance.now();
  let sequence = 0;
  let waiting = new Set<number>();
  let sent = 0;
  let gap = 0;
  let heard = began;
  setInterval(() => {
    // At most 50 ms' worth at once: what a pause of this process kept back is not sent.
    const due = Math.floor(((performance.now() - began) * PACKETS_PER_SECOND) / 1000);
    sequence = Math.max(sequence, due - 50);
    for (; sequence < due; sequence++, sent++) {
      const packet = Buffer.alloc(8);
      packet.writeDoubleBE(sequence);
      waiting.add(sequence);
      udp.send(packet, port, host, () => {});
    }
  }, 1);
  udp.on('message', (echo) => {
    const now = performance.now();
    gap = Math.max(gap, now - heard);
    heard = now;
    waiting.delete(echo.readDoubleBE());
  });

  let open = 0;
  let broken = 0;
  let stall = 0;
  const words = new Set<{ at: number }>();
  for (let i = 0; i < CONNECTIONS; i++) {
    const socket = createConnection({ host, port, noDelay: true });
    const word = { at: 0 };
    let greeted = false;
    socket.on('error', () => {});
    socket.on('close', () => {
      if (greeted) open--;
      broken++;
      words.delete(word);
    });
    socket.on('data', () => {
      if (!greeted) open++;
      greeted = true;
      if (word.at > 0) stall = Math.max(stall, performance.now() - word.at);
      word.at = 0;
      words.delete(word);
    });
    await sleep(1);
    setInterval(() => {
      if (!greeted || word.at > 0 || socket.destroyed) return;
      word.at = performance.now();
      words.add(word);
      socket.write('x');
    }, 500);
  }

  for await (const _ of createInterface({ input: process.stdin })) {
    const counted = waiting;
    waiting = new Set();
    const sentUntilNow = sent;
    sent = 0;
    // What comes late is taken out of what was counted.
    const late = (echo: Buffer) => counted.delete(echo.readDoubleBE());
    udp.on('message', late);
    await sleep(SETTLE);
    udp.off('message', late);
    const now = performance.now();
    const report: LoadReport = {
      sent: sentUntilNow,
      lost: counted.size,
      gapMs: Math.round(Math.max(gap, now - heard)),
      open,
      broken,
      stallMs: Math.round(Math.max(stall, ...[...words].map(({ at }) => now - at))),
    };
    [gap, stall, broken, heard] = [0, 0, 0, now];
    process.stdout.write(`${JSON.stringify(report)}\n`);
  }
  process.exit();
}

if (import.meta.main) {
  const [host, port] = process.argv.slice(2);
  if (port === undefined) throw new Error('usage: load.ts HOST PORT');
  await client(host!, Number(port));
}
