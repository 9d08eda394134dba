/**
 * BFD daemons side by side: processor time, memory, when packets leave, and how soon a silent peer is noticed. The other
 * side is veg-bfdd for all of them. Each run starts a daemon anew; the daemons take turns.
 */
import { cpus } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { BfdCapture, type CapturedPacket } from '../../support/capture.ts';
import { type Daemon, type Namespace, type Scope, until, veth } from '../../support/netns.ts';
import { Counterpart, daemons, type Timers } from '../bfd-daemons.ts';
import { type Context, inScope, type Part } from '../context.ts';
import { memory, ownCpu } from '../processes.ts';
import type { Cell, Findings } from '../report.ts';
import { median, quantile } from '../stats.ts';

export const LOCAL = '10.99.0.1';
export const peerAddress = (i: number): string => `10.99.${1 + (i >> 8)}.${i & 0xff}`;
const MOST = 256;

interface Setting extends Timers {
  sessions: number;
  /** How often the peer falls silent in a round. */
  silences: number;
}

const SETTINGS: Setting[] = [
  { sessions: 1, interval: 100, multiplier: 5, silences: 2 },
  { sessions: 1, interval: 10, multiplier: 3, silences: 3 },
  { sessions: 64, interval: 100, multiplier: 5, silences: 1 },
  { sessions: 256, interval: 100, multiplier: 5, silences: 1 },
];

const nameOf = ({ sessions, interval }: Setting): string => `${sessions} × ${interval} ms`;

/** What was measured of one daemon in one setting, over all rounds. */
interface Measured {
  daemon: string;
  setting: Setting;
  /** Percent of a core, a round each. */
  cpu: number[];
  /** MiB. */
  anonymous: number[];
  /** Gaps between the packets of a session, in intervals. */
  gaps: number[];
  /** From the peer's last packet to ours that says Down, ms. */
  detection: number[];
  /** Runs in which sessions did not come Up, or fell while nothing was wrong. */
  failures: string[];
}

interface Lab {
  gateway: Namespace;
  peer: Namespace;
}

/** A daemon's namespace and that of its peers, which has all their addresses. */
export function labOf(scope: Scope, name: string): Lab {
  const [gateway, peer] = [scope.namespace(`${name}-gw`), scope.namespace(`${name}-peer`)];
  veth(gateway, 'eth0', peer, 'eth0');
  gateway.ip(`addr add ${LOCAL}/16 dev eth0`);
  peer.ip(Array.from({ length: MOST }, (_, i) => `addr add ${peerAddress(i)}/16 dev eth0`).join('\n'));
  return { gateway, peer };
}

/** Takes gaps and detection times from what was captured, since the moments when the peer fell silent. */
function evaluate(packets: CapturedPacket[], settled: number, silentAt: number[], into: Measured): void {
  const { interval } = into.setting;
  const ours = Map.groupBy(
    packets.filter(({ from }) => from === LOCAL),
    ({ to }) => to,
  );
  const theirs = Map.groupBy(
    packets.filter(({ to }) => to === LOCAL),
    ({ from }) => from,
  );
  for (const [remote, sent] of ours) {
    // Periodic ones, until the first silence; a Final goes at once.
    const periodic = sent.filter(
      ({ at, final, state }) => at > settled && at < silentAt[0]! && !final && state === 'Up',
    );
    into.gaps.push(...periodic.slice(1).map(({ at }, i) => (at - periodic[i]!.at) / interval));
    for (const silent of silentAt) {
      const down = sent.find(({ at, state }) => at > silent && state === 'Down');
      const last = theirs.get(remote)?.findLast(({ at }) => at < (down?.at ?? 0));
      if (down !== undefined && last !== undefined) into.detection.push(down.at - last.at);
    }
  }
}

async function measure(
  context: Context,
  scope: Scope,
  { gateway, peer }: Lab,
  start: () => Promise<Daemon> | Daemon,
  into: Measured,
): Promise<void> {
  const { setting } = into;
  const remotes = Array.from({ length: setting.sessions }, (_, i) => peerAddress(i));
  const running: Daemon[] = [];
  let capture: BfdCapture | undefined;
  try {
    const daemon = await start();
    running.push(daemon);
    capture = await BfdCapture.start(scope, gateway, 'eth0');
    const other = new Counterpart(scope, peer, remotes, LOCAL, setting);
    running.push(other.daemon);
    const allUp = () =>
      until(() => other.up() === setting.sessions, {
        what: `${setting.sessions} sessions Up with ${into.daemon}`,
        everyMs: 100,
      });
    await allUp();
    await sleep(1500);
    const settled = performance.timeOrigin + performance.now();
    const [before, began] = [ownCpu(daemon.pid), performance.now()];
    await sleep(context.pick(5000, 2000));
    into.cpu.push(((ownCpu(daemon.pid) - before) / (performance.now() - began)) * 100_000);
    into.anonymous.push(memory([daemon.pid]).anonymous);
    const silentAt: number[] = [];
    for (let i = 0; i < context.pick(setting.silences, 1); i++) {
      if (i > 0) {
        await allUp();
        await sleep(500);
      }
      silentAt.push(performance.timeOrigin + performance.now());
      other.daemon.signal('SIGSTOP');
      await sleep(setting.interval * setting.multiplier * 1.5 + 400);
      other.daemon.signal('SIGCONT');
    }
    evaluate(capture.packets(), settled, silentAt, into);
  } catch (error) {
    into.failures.push((error as Error).message);
    context.say((error as Error).message);
  } finally {
    await Promise.all(running.map((each) => each.stop('SIGKILL')));
    await capture?.stop();
  }
}

/** A daemon with one session that runs as long as the part does: processor time in each tenth of a minute, % of a core. */
interface Lasting {
  daemon: string;
  cpu: number[];
}

const LASTING: Timers = { interval: 100, multiplier: 5 };
const LASTING_STEP = 6000;

/** Starts one of each daemon and watches them until it is told to stop. */
async function watchLasting(
  scope: Scope,
  starts: [string, ReturnType<typeof daemons>[string]][],
): Promise<() => Lasting[]> {
  const watched: (Lasting & { pid: number; before: number; at: number })[] = [];
  for (const [daemon, start] of starts) {
    const { gateway, peer } = labOf(scope, `lasting${watched.length}`);
    const { pid } = await start(scope, gateway, LOCAL, [peerAddress(0)], LASTING);
    new Counterpart(scope, peer, [peerAddress(0)], LOCAL, LASTING);
    watched.push({ daemon, cpu: [], pid, before: ownCpu(pid), at: performance.now() });
  }
  const timer = setInterval(() => {
    for (const one of watched) {
      const [cpu, now] = [ownCpu(one.pid), performance.now()];
      one.cpu.push(((cpu - one.before) / (now - one.at)) * 100_000);
      Object.assign(one, { before: cpu, at: now });
    }
  }, LASTING_STEP);
  return () => {
    clearInterval(timer);
    return watched.map(({ daemon, cpu }) => ({ daemon, cpu }));
  };
}

/** What they cost at the beginning and at the end. */
function lastingFindings(all: Lasting[]): Findings {
  const first = all[0]!;
  const late = (one: Lasting) => median(one.cpu.slice(-10));
  const seconds = LASTING_STEP / 1000;
  return {
    tables: [
      {
        title: 'One session at 100 ms in a daemon that goes on running: processor time, % of a core',
        columns: [
          '',
          `first ${seconds} s`,
          'first minute',
          'last minute',
          `${first.daemon}'s last minute against it`,
        ],
        rows: all.map((one) => [
          ...[one.daemon, one.cpu[0], median(one.cpu.slice(0, 10)), late(one)],
          `${(late(first) / late(one)).toFixed(2)} ×`,
        ]),
        note: `Watched for ${first.cpu.length * seconds} s, beside what the other tables needed; medians of ${seconds} s each.`,
      },
    ],
    panels: [
      {
        kind: 'lines',
        title: 'One session at 100 ms in a daemon that goes on running',
        x: { label: 'seconds since the start' },
        y: { label: '% of a core' },
        series: all.map(({ daemon, cpu }) => ({
          name: daemon,
          points: cpu.map((y, i) => ({ x: (i + 1) * seconds, y })),
        })),
      },
    ],
  };
}

function findings(
  all: Measured[],
  names: string[],
  settings: Setting[],
  rounds: number,
  busy: boolean,
): Findings {
  const of = (daemon: string, setting: Setting) =>
    all.find((one) => one.daemon === daemon && one.setting === setting)!;
  const first = names[0]!;
  const table = (title: string, value: (one: Measured, base: Measured) => Cell, note?: string) => ({
    title,
    columns: ['', ...names],
    rows: settings.map((setting) => [
      nameOf(setting),
      ...names.map((name) => value(of(name, setting), of(first, setting))),
    ]),
    ...(note === undefined ? {} : { note }),
  });
  const ms = (value: number) => value.toFixed(1);
  const shares = (values: number[]): Cell =>
    values.length === 0
      ? undefined
      : [0, 0.5, 0.99, 1].map((share) => quantile(values, share).toFixed(3)).join(' ');
  const nominal = ({ interval, multiplier }: Setting) => interval * multiplier;
  const late = (one: Measured, share: number) => quantile(one.detection, share) - nominal(one.setting);
  const failures = all
    .filter(({ failures }) => failures.length > 0)
    .map(
      (one) =>
        `${one.daemon}, ${nameOf(one.setting)}: ${one.failures.length} of ${rounds} rounds failed (${one.failures[0]})`,
    );
  return {
    tables: [
      table(
        `Processor time, % of a core, median of ${rounds} rounds${busy ? '' : `; in brackets ${first}'s share of it`}`,
        (one, base) =>
          one === base || busy
            ? median(one.cpu)
            : `${median(one.cpu).toFixed(2)} (${(median(base.cpu) / median(one.cpu)).toFixed(2)} ×)`,
        failures.length > 0 ? `Not everything could be measured: ${failures.join('; ')}.` : undefined,
      ),
      table(
        'Gap between packets of a session, in intervals: least, median, p99, greatest',
        (one) => shares(one.gaps),
        'RFC 5880 6.8.7 wants 0.75 to 1.',
      ),
      table(
        'From the last packet of a silent peer to ours that says Down, ms: nominal; median, worst',
        (one) =>
          one.detection.length === 0
            ? undefined
            : `${nominal(one.setting)}; ${ms(median(one.detection))}, ${ms(Math.max(...one.detection))} (${one.detection.length} ×)`,
      ),
      table('Anonymous memory, MiB', (one) => median(one.anonymous)),
    ],
    panels: [
      {
        kind: 'lines',
        title: 'Processor time at 100 ms',
        x: { label: 'sessions', log: true },
        y: { label: '% of a core', log: true },
        series: names.map((name) => ({
          name,
          points: settings
            .filter(({ interval }) => interval === 100)
            .map((setting) => ({ x: setting.sessions, y: median(of(name, setting).cpu) })),
        })),
      },
      {
        kind: 'bars',
        title: 'Longest gap between packets (p99)',
        y: { label: 'intervals' },
        categories: settings.map(nameOf),
        series: names.map((name) => ({
          name,
          values: settings.map((s) => quantile(of(name, s).gaps, 0.99)),
        })),
      },
      {
        kind: 'bars',
        title: 'Detection later than nominal (worst)',
        y: { label: 'ms' },
        categories: settings.map(nameOf),
        series: names.map((name) => ({
          name,
          values: settings.map((s) => Math.max(0, late(of(name, s), 1))),
        })),
      },
      {
        kind: 'bars',
        title: 'Anonymous memory',
        y: { label: 'MiB' },
        categories: settings.map(nameOf),
        series: names.map((name) => ({ name, values: settings.map((s) => median(of(name, s).anonymous)) })),
      },
    ],
    samples: all.map(({ gaps, ...rest }) => ({
      ...rest,
      gaps: {
        n: gaps.length,
        quantiles: [0, 0.01, 0.25, 0.5, 0.75, 0.99, 0.999, 1].map((q) => quantile(gaps, q)),
      },
    })),
  };
}

/** The whole comparison; `busy`: with a process on every core that never sleeps. */
export const compare =
  (busy: boolean): Part =>
  (context) =>
    inScope(async (scope) => {
      const starts = Object.entries(daemons());
      const settings = context.pick(SETTINGS, [SETTINGS[0]!, SETTINGS[2]!]);
      const labs = starts.map((_, i) => labOf(scope, `${i}`));
      const all = settings.flatMap((setting) =>
        starts.map(
          ([daemon]): Measured => ({
            daemon,
            setting,
            cpu: [],
            anonymous: [],
            gaps: [],
            detection: [],
            failures: [],
          }),
        ),
      );
      const stopWatching = busy ? undefined : await watchLasting(scope, starts);
      const spinners = busy
        ? cpus().map(() => scope.spawn('sh', ['-c', 'while :; do :; done'], { name: 'spinner' }))
        : [];
      const rounds = await context.rounds(context.pick(3, 1), 10_000, async (round) => {
        for (const setting of settings) {
          for (const [i, [name, start]] of starts.entries()) {
            context.say(`round ${round + 1}, ${nameOf(setting)}, ${name}`);
            const { gateway } = labs[i]!;
            const remotes = Array.from({ length: setting.sessions }, (_, n) => peerAddress(n));
            const into = all.find((one) => one.daemon === name && one.setting === setting)!;
            await measure(
              context,
              scope,
              labs[i]!,
              () => start(scope, gateway, LOCAL, remotes, setting),
              into,
            );
          }
        }
      });
      for (const spinner of spinners) await spinner.stop('SIGKILL');
      const names = starts.map(([name]) => name);
      const found = findings(all, names, settings, rounds, busy);
      const lasting = stopWatching?.();
      if (lasting === undefined) return found;
      const { tables, panels } = lastingFindings(lasting);
      return {
        tables: [...tables, ...found.tables],
        panels: [...found.panels, ...panels],
        samples: { lasting, runs: found.samples },
      };
    });

export const part = compare(false);
