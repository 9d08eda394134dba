/**
 * What the demonstrations of a group put through it: open TCP connections, UDP flows and new connections all the while; and
 * what an event costs them.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Namespace, until } from './netns.ts';
import { type Report, Traffic } from './traffic.ts';

/** Heartbeats of an open TCP connection, of a UDP flow, and new connections, each so often, ms. */
const TCP_BEAT = 100;
const UDP_BEAT = 2;
const DIAL_BEAT = 20;
/** What has no answer by then is lost, ms: longer than a report waits for it. */
const SETTLE = 1500;
/** A connection goes on when so many heartbeats were answered since. */
const GOES_ON = 5;

/** Server addresses of open connections, of UDP flows and of new connections. */
export type Targets = Record<'hosts' | 'flows' | 'dials', readonly string[]>;

/** What an event cost. */
export interface Cost {
  /** TCP connections that were open before it, and how many of them broke or changed their source. */
  open: number;
  broken: number;
  /** The longest wait for an answer on one of them, ms. */
  stallMs: number;
  udpSent: number;
  udpLost: number;
  /** Connections begun meanwhile; those that needed a second SYN, and those that failed. */
  begun: number;
  late: number;
  failed: number;
  /** From the event to the last connection that was begun and was late or failed, ms; 0: none. */
  lateForMs: number;
  /** Every source that the server saw meanwhile. */
  sources: string[];
}

export class GroupLoad {
  readonly #traffic: Traffic;
  /** What each open connection looked like to the server at the start. */
  readonly #seen: string[];

  private constructor(traffic: Traffic, seen: string[]) {
    this.#traffic = traffic;
    this.#seen = seen;
  }

  /**
   * Opens so many connections, the hosts in turn; a UDP flow to each of `flows`, and new connections to each of
   * `dials`. Resolves when all of them have had an answer and are older than a second.
   */
  static async open(
    client: Namespace,
    { hosts, flows, dials }: Targets,
    connections: number,
  ): Promise<GroupLoad> {
    const traffic = await Traffic.open(client, [
      ...Array.from({ length: connections }, (_, i) => `tcp:${hosts[i % hosts.length]}@${TCP_BEAT}`),
      ...flows.map((host) => `udp:${host}@${UDP_BEAT}`),
      ...dials.map((host) => `dial:${host}@${DIAL_BEAT * dials.length}`),
    ]);
    await sleep(SETTLE);
    const reports = await traffic.restart();
    return new GroupLoad(
      traffic,
      reports.filter(isTcp).map(({ seen }) => seen),
    );
  }

  /** Lets something happen, waits until every open connection has gone on or is broken, and returns what it cost. */
  async during(event: () => unknown): Promise<Cost> {
    await this.#traffic.restart();
    const began = performance.timeOrigin + performance.now();
    await event();
    const before = (await this.#traffic.report()).filter(isTcp);
    const after = await until(
      async () => {
        const now = (await this.#traffic.report()).filter(isTcp);
        const done = now.every(
          (r, i) => r.broken !== undefined || r.received > before[i]!.received + GOES_ON,
        );
        return done && now;
      },
      { what: 'every open connection goes on', everyMs: 100 },
    );
    const broken = after.filter((r, i) => r.broken !== undefined || r.seen !== this.#seen[i]).length;
    await sleep(SETTLE);
    const all = await this.#traffic.report();
    const udp = all.filter(({ path }) => path.startsWith('udp:'));
    const dials = all.filter(({ path }) => path.startsWith('dial:'));
    const late = dials.flatMap((report) => report.late ?? []).filter(({ at }) => at >= began);
    const sum = (reports: Report[], key: 'sent' | 'lost') =>
      reports.reduce((n, report) => n + report[key], 0);
    return {
      open: after.length,
      broken,
      stallMs: Math.max(0, ...after.map(({ stallMs }) => stallMs)),
      udpSent: sum(udp, 'sent'),
      udpLost: sum(udp, 'lost'),
      begun: sum(dials, 'sent'),
      late: late.filter(({ tookMs }) => tookMs !== undefined).length,
      failed: late.filter(({ tookMs }) => tookMs === undefined).length,
      lateForMs: Math.round(Math.max(0, ...late.map(({ at }) => at - began))),
      sources: [...new Set(all.flatMap(({ sources }) => sources))].sort(),
    };
  }

  async close(): Promise<void> {
    await this.#traffic.close();
  }
}

const isTcp = ({ path }: Report): boolean => path.startsWith('tcp:');

/** `Cost` in words, by what it is about. */
export function costParts(cost: Cost): Record<'connections' | 'packets' | 'dials', string> {
  const until = cost.lateForMs > 0 ? `, the last of them begun ${cost.lateForMs} ms after the event` : '';
  return {
    connections: `${cost.broken} of ${cost.open} open connections broken, longest wait ${cost.stallMs} ms`,
    packets: `${cost.udpLost} of ${cost.udpSent} UDP packets lost`,
    dials: `new connections: ${cost.begun} begun, ${cost.late} late, ${cost.failed} failed${until}`,
  };
}

/** `Cost` as one line. */
export const costLine = (cost: Cost): string =>
  [...Object.values(costParts(cost)), `seen as ${cost.sources.join(' and ')}`].join('; ');
