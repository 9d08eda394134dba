/**
 * A program with two ends that shows what a gateway does to connections.
 *
 *     node echo.ts server PORT            TCP and UDP, both families
 *     node echo.ts client PORT [PATH…]    PATH is tcp:HOST, udp:HOST, new:HOST or dial:HOST, and @MS where it has another beat
 *
 * The client holds one connection a PATH, sends a heartbeat every 10 ms (on a slow machine less often) on each and never reconnects; of
 * `new:` every heartbeat is a UDP flow of its own, from a new port, and of `dial:` a TCP connection of its own. To
 * each line on stdin it answers with one JSON line, a `Report` a PATH, and `restart` begins the counts anew; at the end of
 * stdin it stops sending, waits until everything is answered or has been under way for too long, reports and ends.
 */
import { createSocket } from 'node:dgram';
import { createConnection, createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { IPV6, SLOWNESS } from './machine.ts';
import { roomySocket } from './udp.ts';

/** What one end-to-end path has seen. */
export interface Report {
  path: string;
  /** The source address and port that the server saw last; empty until the first answer. */
  seen: string;
  /** Every source address that it saw. */
  sources: string[];
  sent: number;
  received: number;
  /** The longest time a heartbeat waited for its answer, ms, one that waits now included. */
  stallMs: number;
  /** Heartbeats that were not answered within a second; none of TCP, which repeats them. */
  lost: number;
  /** Why the connection ended, if it did. */
  broken?: string;
  /** Of `dial:`: connections that were not open within `LATE_MS`, those that wait for an answer included. */
  late?: LateConnection[];
}

/** A connection that was opened late, or not at all. */
export interface LateConnection {
  /** When it was begun, Unix ms. */
  at: number;
  /** How long it took, ms; absent: it failed, or waits. */
  tookMs?: number;
}

/** A new connection that is open by then needed no second SYN, which follows after a second. */
const LATE_MS = 700 * SLOWNESS;

const BEAT_MS = 10 * SLOWNESS;
/** What has not been answered so long after the last heartbeat is lost, ms. A busy machine needs its time. */
const UNDER_WAY_MS = 5000 * SLOWNESS;
/** A heartbeat without an answer for so long is lost, ms. */
const LOST_MS = 1000 * SLOWNESS;
const HEARTBEAT = 8; // octets: the time it was sent, a double

function server(port: number): void {
  createServer((socket) => {
    socket.setNoDelay();
    socket.write(`${plain(socket.remoteAddress ?? '')} ${socket.remotePort}\n`);
    socket.on('error', () => socket.destroy());
    socket.pipe(socket);
  }).listen(port, IPV6 ? '::' : '0.0.0.0');
  const udp = roomySocket(IPV6 ? 6 : 4, port);
  udp.on('message', (heartbeat, from) => {
    const head = Buffer.from(`${plain(from.address)} ${from.port}\n`);
    udp.send(Buffer.concat([heartbeat, head]), from.port, from.address, () => {});
  });
}

/** An IPv4 address as itself, not mapped into IPv6. */
const plain = (address: string): string => address.replace(/^::ffff:/, '');

abstract class Path {
  readonly report: Report;
  /** When each heartbeat without an answer was sent, ms. */
  protected readonly waiting = new Set<number>();

  constructor(path: string) {
    this.report = { path, seen: '', sources: [], sent: 0, received: 0, stallMs: 0, lost: 0 };
  }

  beat(): void {
    if (this.report.broken !== undefined) return;
    const now = performance.now();
    const heartbeat = Buffer.alloc(HEARTBEAT);
    heartbeat.writeDoubleBE(now);
    if (!this.send(heartbeat)) return;
    this.waiting.add(now);
    this.report.sent++;
  }

  /** False when nothing was sent. */
  protected abstract send(heartbeat: Buffer): boolean;

  /** What the server saw. */
  protected saw(source: string): void {
    this.report.seen = source;
    const address = source.split(' ', 1)[0]!;
    if (!this.report.sources.includes(address)) this.report.sources.push(address);
  }

  protected answered(sentAt: number): void {
    if (!this.waiting.delete(sentAt)) return;
    this.report.received++;
    this.report.stallMs = Math.max(this.report.stallMs, performance.now() - sentAt);
  }

  /** Counts from now on. What is under way counts as sent now. */
  restart(): void {
    if (this.report.path.startsWith('udp:')) for (const sentAt of this.#lost()) this.waiting.delete(sentAt);
    Object.assign(this.report, { sent: this.waiting.size, received: 0, stallMs: 0 });
  }

  /** What was sent so long ago that no answer comes any more. TCP repeats until it comes. */
  #lost(): number[] {
    if (this.report.path.startsWith('tcp:')) return [];
    const before = performance.now() - LOST_MS;
    return [...this.waiting].filter((sentAt) => sentAt < before);
  }

  /** Whether it waits for an answer that may still come. */
  get open(): boolean {
    return this.report.broken === undefined && this.waiting.size > 0;
  }

  /** The report as of now. What UDP lost counts as lost, not as a stall. */
  now(): Report {
    const [oldest] = this.waiting;
    const waits =
      oldest === undefined || !this.report.path.startsWith('tcp:') ? 0 : performance.now() - oldest;
    return {
      ...this.report,
      stallMs: Math.round(Math.max(this.report.stallMs, waits)),
      lost: this.#lost().length,
    };
  }
}

class TcpPath extends Path {
  readonly #socket;
  #rest = Buffer.alloc(0);

  constructor(path: string, host: string, port: number) {
    super(path);
    this.#socket = createConnection({ host, port, noDelay: true });
    this.#socket.on('data', (data) => this.#read(data));
    this.#socket.on('error', (error) => {
      this.report.broken ??= error.message;
    });
    this.#socket.on('close', () => {
      this.report.broken ??= 'closed by the other end';
    });
  }

  #read(data: Buffer): void {
    this.#rest = Buffer.concat([this.#rest, data]);
    if (this.report.seen === '') {
      const end = this.#rest.indexOf('\n');
      if (end < 0) return;
      this.saw(this.#rest.toString('latin1', 0, end));
      this.#rest = this.#rest.subarray(end + 1);
    }
    for (; this.#rest.length >= HEARTBEAT; this.#rest = this.#rest.subarray(HEARTBEAT)) {
      this.answered(this.#rest.readDoubleBE());
    }
  }

  protected send(heartbeat: Buffer): boolean {
    if (this.report.seen === '') return false;
    this.#socket.write(heartbeat);
    return true;
  }
}

class UdpPath extends Path {
  #socket;
  readonly #host: string;
  readonly #port: number;
  readonly #fresh: boolean;

  constructor(path: string, host: string, port: number, fresh: boolean) {
    super(path);
    this.#host = host;
    this.#port = port;
    this.#fresh = fresh;
    this.#socket = this.#open();
  }

  #open() {
    const socket = createSocket(this.#host.includes(':') ? 'udp6' : 'udp4');
    socket.on('message', (answer) => {
      this.saw(answer.toString('latin1', HEARTBEAT).trim());
      this.answered(answer.readDoubleBE());
      if (this.#fresh) socket.close();
    });
    socket.on('error', (error) => {
      this.report.broken ??= error.message;
    });
    return socket;
  }

  protected send(heartbeat: Buffer): boolean {
    const socket = this.#socket;
    if (this.#fresh) this.#socket = this.#open();
    socket.send(heartbeat, this.#port, this.#host, (error) => {
      if (error) this.report.broken ??= error.message;
    });
    return true;
  }
}

/** TCP connections, each opened, answered and closed. */
class DialPath extends Path {
  readonly #host: string;
  readonly #port: number;
  readonly #late: LateConnection[] = [];

  constructor(path: string, host: string, port: number) {
    super(path);
    this.#host = host;
    this.#port = port;
  }

  protected send(heartbeat: Buffer): boolean {
    const begun = heartbeat.readDoubleBE();
    const socket = createConnection({ host: this.#host, port: this.#port });
    const end = (answer?: Buffer) => {
      clearTimeout(limit);
      socket.destroy();
      const tookMs = Math.round(performance.now() - begun);
      const at = Math.round(performance.timeOrigin + begun);
      if (answer === undefined) {
        this.waiting.delete(begun);
        this.#late.push({ at });
        return;
      }
      if (tookMs > LATE_MS) this.#late.push({ at, tookMs });
      this.saw(answer.toString('latin1').trim());
      this.answered(begun);
    };
    const limit = setTimeout(end, UNDER_WAY_MS);
    socket.once('data', end).once('error', () => end());
    return true;
  }

  override restart(): void {
    super.restart();
    this.#late.length = 0;
  }

  override now(): Report {
    const now = performance.now();
    const waiting = [...this.waiting].filter((begun) => begun < now - LATE_MS);
    const unfinished = waiting.map((begun) => ({ at: Math.round(performance.timeOrigin + begun) }));
    return { ...super.now(), late: [...this.#late, ...unfinished] };
  }
}

function pathOf(name: string, port: number): { path: Path; beatMs: number } {
  const [, kind, host = '', beat] = /^(tcp|udp|new|dial):([^@]+)(?:@(\d+))?$/.exec(name) ?? [];
  const beatMs = beat === undefined ? BEAT_MS : Number(beat);
  if (kind === 'tcp') return { path: new TcpPath(name, host, port), beatMs };
  if (kind === 'dial') return { path: new DialPath(name, host, port), beatMs };
  return { path: new UdpPath(name, host, port, kind === 'new'), beatMs };
}

async function client(port: number, names: string[]): Promise<void> {
  const all = names.map((name) => pathOf(name, port));
  const paths = all.map(({ path }) => path);
  const timers = all.map(({ path, beatMs }) => setInterval(() => path.beat(), beatMs));
  const print = () => process.stdout.write(`${JSON.stringify(paths.map((path) => path.now()))}\n`);
  for await (const line of createInterface({ input: process.stdin })) {
    print();
    if (line === 'restart') for (const path of paths) path.restart();
  }
  for (const timer of timers) clearInterval(timer);
  for (const end = performance.now() + UNDER_WAY_MS; paths.some((path) => path.open); await sleep(10)) {
    if (performance.now() > end) break;
  }
  print();
  process.exit();
}

if (import.meta.main) {
  const [end, port, ...paths] = process.argv.slice(2);
  if (end === 'server') server(Number(port));
  else if (end === 'client') await client(Number(port), paths);
  else throw new Error('usage: echo.ts server PORT | client PORT [tcp:HOST|udp:HOST|new:HOST|dial:HOST…]');
}
