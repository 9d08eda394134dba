/**
 * What a client behind OVN loses while gateways come and go: a stream of UDP packets from the client through each
 * gateway, counted at the server, which sees by the source address which gateway they came through.
 *
 *     node failover.ts receive PORT               notes what arrives
 *     node failover.ts send PORT PPS HOST…        sends to each host, for at most two minutes
 *
 * Both answer the end of stdin with one JSON line and end. Times are Unix milliseconds with fractions.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import type { GatewayPod } from './agent-pod.ts';
import { type Namespace, NODE, ROOT, URGENTLY, until } from './netns.ts';
import { type Ovn, SERVER_ADDRESSES } from './ovn.ts';
import { roomySocket } from './udp.ts';

/** Packets a second of each stream. */
export const RATE = 1000;

/** What became of one stream. */
export interface StreamReport {
  /** Packets sent at or after the event that did not arrive. */
  lost: number;
  /** Packets lost before the event: not the event's doing. */
  lostBefore: number;
  /** The longest time without a packet after the event, ms, and when it began, ms after the event. */
  longestGapMs: number;
  gapBeganMs: number;
  /** When the first packet came through another gateway than before the event, ms after it. */
  movedMs: number | undefined;
}

export interface FailoverReport {
  /** The streams by the gateway that each went through before the event. */
  streams: Record<string, StreamReport>;
  /** The longest time that this machine kept the sender from sending: gaps within it are not the network's. */
  senderStallMs: number;
}

/** The host's index, the packet's number within its stream, and when it was sent or came in. */
interface Sent {
  at: number;
}
interface Arrival extends Sent {
  host: number;
  sequence: number;
  from: string;
}

const PORT = 9001;
const PROGRAM = `${ROOT}/test/support/failover.ts`;
/** A sender stops by itself after this time, ms. */
const LONGEST = 120_000;
/** At most so much is sent at once after a pause, ms' worth. */
const LONGEST_BURST = 50;
/** What is under way arrives within this time, ms. */
const SETTLE = 200;
/** OVN notices within its Detection Time, and may hold that back for five seconds, ms. */
const NOTICED = 8000;

export const now = (): number => performance.timeOrigin + performance.now();

/** One end as a child process in a namespace. */
class End {
  readonly #child: ChildProcess;

  constructor(ns: Namespace, args: string[]) {
    const command = [...URGENTLY, NODE, PROGRAM, ...args];
    this.#child = spawn('ip', ['netns', 'exec', ns.name, ...command], { stdio: ['pipe', 'pipe', 'inherit'] });
  }

  /** Ends it and returns its report. */
  async finish<T>(): Promise<T> {
    let text = '';
    this.#child.stdout!.setEncoding('utf8').on('data', (part) => {
      text += part;
    });
    const closed = once(this.#child, 'close');
    this.#child.stdin!.end();
    await closed;
    return JSON.parse(text) as T;
  }
}

/** Streams that run, one through each gateway. */
export class Streams {
  readonly #ovn: Ovn;
  readonly #receiver: End;
  readonly #sender: End;

  private constructor(ovn: Ovn, receiver: End, sender: End) {
    this.#ovn = ovn;
    this.#receiver = receiver;
    this.#sender = sender;
  }

  /** Finds a server address behind each gateway and starts to send. All gateways must carry traffic. */
  static async open(ovn: Ovn, family: 4 | 6 = 4): Promise<Streams> {
    const hosts = await until(() => findHosts(ovn, family), {
      what: 'a path through each gateway',
    });
    const receiver = await receive(ovn);
    const sender = new End(ovn.client, ['send', `${PORT}`, `${RATE}`, ...hosts]);
    await sleep(500);
    return new Streams(ovn, receiver, sender);
  }

  /** Stops and reports what the event at `eventAt` cost. */
  async close(eventAt: number): Promise<FailoverReport> {
    const sent = await this.#sender.finish<Sent[]>();
    await sleep(SETTLE);
    const arrivals = await this.#receiver.finish<Arrival[]>();
    const streams = this.#ovn.gateways.map(({ name, external }, i) => {
      const own = arrivals.filter(({ host }) => host === i);
      return [name, streamReport(sent, own, Object.values(external), eventAt)] as const;
    });
    return {
      streams: Object.fromEntries(streams),
      senderStallMs: round(Math.max(0, ...sent.slice(1).map(({ at }, i) => at - sent[i]!.at))),
    };
  }
}

async function receive(ovn: Ovn): Promise<End> {
  const end = new End(ovn.server, ['receive', `${PORT}`]);
  await until(() => ovn.server.sh('ss -Hlnu').includes(`:${PORT} `), { what: 'the server listens' });
  return end;
}

/** A server address behind each gateway, in their order. Throws when one has none. */
async function findHosts(ovn: Ovn, family: 4 | 6): Promise<string[]> {
  const hosts = SERVER_ADDRESSES[family];
  const receiver = await receive(ovn);
  const sender = new End(ovn.client, ['send', `${PORT}`, '50', ...hosts]);
  await sleep(400);
  await sender.finish();
  await sleep(SETTLE);
  const arrivals = await receiver.finish<Arrival[]>();
  const sources = hosts.map((_, i) => arrivals.findLast(({ host }) => host === i)?.from);
  return ovn.gateways.map(({ name, external }) => {
    const found = hosts[sources.indexOf(external[family])];
    if (found === undefined) throw new Error(`none through ${name}, seen are ${sources.join(' ')}`);
    return found;
  });
}

/** Compares what was sent with what arrived of one stream. */
export function streamReport(
  sent: Sent[],
  arrivals: Arrival[],
  through: string[],
  eventAt: number,
): StreamReport {
  const arrived = new Set(arrivals.map(({ sequence }) => sequence));
  const missing = sent.filter((_, sequence) => !arrived.has(sequence));
  const after = missing.filter(({ at }) => at >= eventAt).length;
  let gap = { length: 0, began: eventAt };
  arrivals.slice(1).forEach(({ at }, i) => {
    const began = arrivals[i]!.at;
    if (at > eventAt && at - began > gap.length) gap = { length: at - began, began };
  });
  const moved = arrivals.find(({ at, from }) => at > eventAt && !through.includes(from));
  return {
    lost: after,
    lostBefore: missing.length - after,
    longestGapMs: round(gap.length),
    gapBeganMs: round(gap.began - eventAt),
    movedMs: moved && round(moved.at - eventAt),
  };
}

const round = (ms: number): number => Math.round(ms * 10) / 10;

/** What an event at one gateway cost, in ms after it. */
export interface Failover extends StreamReport {
  /** Packets that streams through the other gateways lost. */
  othersLost: number;
  senderStallMs: number;
  /** When the gateway said Up for the last time. */
  lastUpMs: number | undefined;
  /** When OVN first said something else than Up. */
  ovnNoticedMs: number | undefined;
  /** When the northbound row left `up`, which takes the gateway out of the routes. */
  statusMs: number | undefined;
}

/**
 * Lets something happen to a gateway under traffic, and reports what the client lost in `afterMs` from then, or until
 * OVN has acted where that is later.
 */
export async function failover(
  ovn: Ovn,
  pod: GatewayPod,
  event: () => unknown,
  { afterMs = 3000, family = 4 }: { afterMs?: number; family?: 4 | 6 } = {},
): Promise<Failover> {
  const own = pod.internal[family];
  const capture = await ovn.capture(pod);
  const streams = await Streams.open(ovn, family);
  await sleep(500);
  const eventAt = now();
  await event();
  const leftUp = () =>
    ovn.statusChanges().find(({ at, address, status }) => at > eventAt && address === own && status !== 'up');
  await until(leftUp, { what: 'OVN acts', timeoutMs: NOTICED }).catch(() => undefined);
  await sleep(Math.max(SETTLE, eventAt + afterMs - now()));
  const { streams: reports, senderStallMs } = await streams.close(eventAt);
  const packets = capture.packets();
  await capture.stop();
  const since = (entry: { at: number } | undefined) => entry && round(entry.at - eventAt);
  const others = Object.entries(reports).filter(([name]) => name !== pod.name);
  return {
    ...reports[pod.name]!,
    othersLost: others.reduce((sum, [, { lost }]) => sum + lost, 0),
    senderStallMs,
    lastUpMs: since(packets.findLast(({ from, state }) => from === own && state === 'Up')),
    ovnNoticedMs: since(packets.find(({ at, to, state }) => at > eventAt && to === own && state !== 'Up')),
    statusMs: since(leftUp()),
  };
}

/** `failover` as one line. */
export function failoverLine(f: Failover): string {
  const ms = (value: number | undefined) => (value === undefined ? 'never' : `${value} ms`);
  return [
    `lost ${f.lost} (others ${f.othersLost}, before ${f.lostBefore})`,
    `longest gap ${f.longestGapMs} ms`,
    `moved after ${ms(f.movedMs)}`,
    `last Up ${ms(f.lastUpMs)}, OVN noticed ${ms(f.ovnNoticedMs)}, its row ${ms(f.statusMs)}`,
    `sender stall ${f.senderStallMs} ms`,
  ].join('; ');
}

// The program --------------------------------------------------------------------------------------------

const HEADER = 8; // octets: the host's index and the sequence number

async function stdinEnds(): Promise<void> {
  process.stdin.resume();
  await once(process.stdin, 'end');
}

async function receiver(port: number): Promise<void> {
  const arrivals: Arrival[] = [];
  const socket = roomySocket(6, port);
  socket.on('message', (packet, { address }) => {
    const [host, sequence] = [packet.readUInt32BE(0), packet.readUInt32BE(4)];
    arrivals.push({ at: now(), host, sequence, from: address.replace(/^::ffff:/, '') });
  });
  await stdinEnds();
  process.stdout.write(JSON.stringify(arrivals), () => process.exit());
}

async function sender(port: number, rate: number, hosts: string[]): Promise<void> {
  const sent: Sent[] = [];
  const socket = createSocket(hosts[0]!.includes(':') ? 'udp6' : 'udp4');
  let began = now();
  const send = () => {
    const at = now();
    // What a pause kept from being sent is sent now, but no more than so much of it: no burst fills a queue.
    const late = at - began - ((sent.length + 1) / rate) * 1000;
    if (late > LONGEST_BURST) began += late - LONGEST_BURST;
    const due = Math.floor(((at - began) * rate) / 1000);
    for (; sent.length < due; sent.push({ at })) {
      hosts.forEach((host, i) => {
        const packet = Buffer.alloc(HEADER);
        packet.writeUInt32BE(i, 0);
        packet.writeUInt32BE(sent.length, 4);
        socket.send(packet, port, host, () => {});
      });
    }
  };
  const timer = setInterval(send, 1);
  await Promise.race([stdinEnds(), sleep(LONGEST)]);
  clearInterval(timer);
  process.stdout.write(JSON.stringify(sent), () => process.exit());
}

if (import.meta.main) {
  const [end, port, rate, ...hosts] = process.argv.slice(2);
  if (end === 'receive') await receiver(Number(port));
  else if (end === 'send') await sender(Number(port), Number(rate), hosts);
  else throw new Error('usage: failover.ts receive PORT | send PORT PPS HOST…');
}
