/**
 * What real OVN makes of the agent, measured: `node test/bench/ovn.ts WHAT… [--json FILE]`, as root, with the
 * packages of `setup.sh ovn` and the build. WHAT is
 *
 *     start [N]        from the start of the agent to Up, a lone gateway on a quiet chassis
 *     failover [N]     what a client loses, beside FRR's bfdd in the same OVN
 *     restarts [N]     kill -9 and SIGUSR2, as OVN sees them
 *     soak [MINUTES]   a policy that changes each second
 *     group [N]        what happens to a group of gateways that share an address, under 200 connections (docs/group.md)
 *     rolling [N]      every gateway replaced by a new pod, one after the other, of two and of three
 *
 * Each makes an OVN of its own, of the release in the directory VEG_OVN_ROOT if that is set (ovn.ts). The figures of a release are in docs/design/0003-ovn.md.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type AgentPod, type GatewayPod, stopForwarding } from '../support/agent-pod.ts';
import { type Failover, failover, now, Streams } from '../support/failover.ts';
import { GatewayGroup, OvnPlace, WHOLE } from '../support/gateway-group.ts';
import { type Scope, until } from '../support/netns.ts';
import { Ovn, type OvnOptions, SERVER_ADDRESSES, startFrrGateway } from '../support/ovn.ts';
import { peerUp } from '../support/peers.ts';
import { startEchoServer, Traffic } from '../support/traffic.ts';
import { inScope } from './context.ts';
import { print, runNamed } from './program.ts';

type Row = Record<string, string | number | undefined>;

const round = (value: number) => Math.round(value * 10) / 10;
/** `min/median/max`. */
function spread(values: number[]): string {
  const sorted = values.toSorted((a, b) => a - b);
  return [sorted[0], sorted[Math.floor(sorted.length / 2)], sorted.at(-1)]
    .map((v) => round(v ?? Number.NaN))
    .join('/');
}

const withOvn = (options: OvnOptions, act: (ovn: Ovn, scope: Scope) => Promise<void>): Promise<void> =>
  inScope(async (scope) => act(await Ovn.start(scope, options), scope));

// Start ----------------------------------------------------------------------------------------------------

const logTime = (log: string, pattern: RegExp): number | undefined => {
  const line = log.split('\n').find((candidate) => pattern.test(candidate));
  return line === undefined ? undefined : Date.parse((JSON.parse(line) as { time: string }).time);
};

const OVN_NOTICES = 1500;

async function start(count: number): Promise<void> {
  await withOvn({}, async (ovn) => {
    const pod = ovn.agentPod(ovn.gateways[0]);
    const before: Record<string, () => Promise<unknown>> = {
      'new pod': async () => {},
      'killed just now': () => pod.kill(),
      'killed, OVN gave it up': () => pod.kill().then(() => sleep(OVN_NOTICES)),
      'after AdminDown for 1.5 s': async () => {
        await pod.agent.ask('POST', '/v1/drain?timeout=0');
        await sleep(OVN_NOTICES);
        await pod.kill();
      },
      'stopped, 65 s ago': () => pod.agent.stop().then(() => sleep(65_000)),
    };
    for (const [name, prepare] of Object.entries(before)) {
      const listening: number[] = [];
      const up: number[] = [];
      const runs = name === 'new pod' || name.startsWith('stopped') ? 1 : count;
      for (let i = 0; i < runs; i++) {
        await prepare();
        const began = now();
        pod.startFresh();
        const log = () => pod.agent.daemon.log();
        const upAt = await until(() => logTime(log(), /"to":"Up"/), {
          what: 'Up',
          everyMs: 50,
        });
        up.push(upAt - began);
        listening.push(logTime(log(), /listening for BFD/)! - began);
        await sleep(2000);
      }
      print('start', { predecessor: name, runs, 'listening ms': spread(listening), 'Up ms': spread(up) });
    }
  });
}

// Failover -------------------------------------------------------------------------------------------------

/** After so long without a change OVN acts at once on what it hears of a session; sooner, up to 5 s later, ms. */
const REST = 12_000;

const failoverRow = (f: Failover): Row => ({
  lost: f.lost,
  'longest gap ms': f.longestGapMs,
  'moved ms': f.movedMs,
  'last Up ms': f.lastUpMs,
  'OVN noticed ms': f.ovnNoticedMs,
  'row ms': f.statusMs,
  'others lost': f.othersLost,
  'sender stall ms': f.senderStallMs,
});

async function failovers(count: number): Promise<void> {
  for (const [name, options] of Object.entries({
    '100 x5, quiet': {},
    '100 x5, awake': { wake: true },
    '50 x3, awake': { wake: true, minTX: 50, minRX: 50, multiplier: 3 },
  } satisfies Record<string, OvnOptions>)) {
    await withOvn({ ...options, gateways: 3 }, async (ovn, scope) => {
      const pods = ovn.gateways.map((gateway) => ovn.agentPod(gateway));
      const [first, second] = pods as [AgentPod, AgentPod];
      for (const pod of pods) pod.start();
      await ovn.reaches('up');
      const events: Record<string, () => Promise<unknown>> = {
        'drained, then removed': async () => {
          await first.agent.stop();
          stopForwarding(first.pod);
        },
        'every process killed': () => first.kill(),
        'pod dead': () => first.die(),
        "uplink's cable pulled": async () => ovn.cutUplink(first.pod, 'cable'),
        'uplink silent': async () => ovn.cutUplink(first.pod, 'silent'),
      };
      for (const [event, act] of Object.entries(events)) {
        for (let i = 0; i < count; i++) {
          await sleep(REST);
          const result = await failover(ovn, first.pod, act, { afterMs: 4000 });
          print('failover', { agent: 'veg-agent', timers: name, event, ...failoverRow(result) });
          ovn.restoreUplink(first.pod);
          if (first.agent.daemon.exitCode !== undefined) first.start();
          await ovn.reaches('up', ovn.gateways);
        }
      }
      for (const apart of [0, 1000, 4000, 'at worst'] as const)
        await twoDrains(ovn, name, [first, second], apart);

      await first.agent.stop();
      first.apply();
      for (const event of ['every process killed', 'pod dead']) {
        for (let i = 0; i < count; i++) {
          const frr = await startFrrGateway(scope, ovn, first.pod);
          await peerUp(frr);
          await ovn.reaches('up', ovn.gateways);
          await sleep(REST);
          const act = () => {
            if (event === 'pod dead') stopForwarding(first.pod);
            return frr.daemon.stop('SIGKILL');
          };
          const result = await failover(ovn, first.pod, act, { afterMs: 4000 });
          print('failover', { agent: 'FRR bfdd', timers: name, event, ...failoverRow(result) });
          first.apply();
        }
      }
    });
  }
}

/**
 * Two gateways are drained and removed so many ms apart; at worst: the second as soon as OVN has taken the first out,
 * which makes it wait the longest with the second.
 */
async function twoDrains(
  ovn: Ovn,
  timers: string,
  [first, second]: [AgentPod, AgentPod],
  apart: number | 'at worst',
): Promise<void> {
  await sleep(REST);
  const streams = await Streams.open(ovn);
  const began = now();
  const drain = async ({ agent, pod }: AgentPod) => {
    const asked = now();
    await agent.stop();
    stopForwarding(pod);
    return round(now() - asked);
  };
  const took = await Promise.all([
    drain(first),
    (apart === 'at worst' ? ovn.reaches('down', [first.pod]) : sleep(apart)).then(() => drain(second)),
  ]);
  await sleep(1000);
  const { streams: reports, senderStallMs } = await streams.close(began);
  print('two drains', {
    timers,
    'apart ms': apart,
    'lost first': reports.gw1!.lost,
    'lost second': reports.gw2!.lost,
    'others lost': reports.gw3!.lost,
    'first took ms': took[0],
    'second took ms': took[1],
    'second moved': second.agent.daemon.log().includes('"moved":true') ? 'yes' : 'no',
    'sender stall ms': senderStallMs,
  });
  for (const pod of [first, second]) pod.start();
  await ovn.reaches('up');
}

// Restarts and soak ----------------------------------------------------------------------------------------

/** What OVN said to a gateway since a moment, and how the gateway sounded to it. */
async function asOvnSaw(ovn: Ovn, pod: GatewayPod, act: () => Promise<void>): Promise<Row> {
  const capture = await ovn.capture(pod);
  const changes = ovn.statusChanges().length;
  await sleep(1000);
  await act();
  const packets = capture.packets();
  await capture.stop();
  const own = pod.internal[4];
  const gaps = (which: typeof packets) => spread(which.slice(1).map(({ at }, i) => at - which[i]!.at));
  const [ovnSaid, said] = [
    packets.filter(({ to }) => to === own),
    packets.filter(({ from }) => from === own),
  ];
  const downs = ovnSaid.filter(({ state }, i) => state !== 'Up' && ovnSaid[i - 1]?.state === 'Up').length;
  return {
    'session-down at OVN': downs,
    'row changes': ovn.statusChanges().length - changes,
    'states sent': [...new Set(said.map(({ state }) => state))].join(' '),
    'packets to OVN': said.length,
    'gaps to OVN ms': gaps(said),
    'packets from OVN': ovnSaid.length,
    'gaps from OVN ms': gaps(ovnSaid),
  };
}

async function restarts(count: number): Promise<void> {
  await withOvn({}, async (ovn) => {
    const pod = ovn.agentPod(ovn.gateways[0]);
    pod.start();
    await ovn.reaches('up', [pod.pod]);
    for (const [how, stop] of [
      ['kill -9', () => pod.kill()],
      ['SIGUSR2', () => pod.agent.stop('SIGUSR2')],
    ] as const) {
      const seen = await asOvnSaw(ovn, pod.pod, async () => {
        for (let i = 0; i < count; i++) {
          await stop();
          pod.startUrgently();
          await sleep(1500);
        }
      });
      print('restarts', { how, count, ...seen });
    }
  });
}

async function soak(minutes: number): Promise<void> {
  await withOvn({}, async (ovn) => {
    const pod = ovn.agentPod(ovn.gateways[0]);
    pod.start();
    await ovn.reaches('up', [pod.pod]);
    const before = await pod.agent.status();
    const seen = await asOvnSaw(ovn, pod.pod, async () => {
      for (let i = 0; i < minutes * 60; i++) {
        pod.policy.set({ ...ovn.policy(), policies: changingPolicies(i) });
        await sleep(1000);
      }
    });
    const after = await pod.agent.synced();
    const transitions = (status: typeof before) =>
      status.bfd.sessions.flatMap((s) => s.transitions).reduce((sum, { count }) => sum + count, 0);
    const late = (series: string) => pod.agent.metric(`veg_bfd_transmit_lateness_seconds_${series}`);
    print('soak', {
      minutes,
      'policies taken': after.policy.generation - before.policy.generation,
      'transitions at the agent': transitions(after) - transitions(before),
      'sent over 50 ms late': (late('count') ?? 0) - (late('bucket{le="0.05"}') ?? 0),
      ...seen,
    });
  });
}

/** Another policy each time: more and fewer blocks, forwarded and translated. */
const changingPolicies = (i: number) => [
  { name: 'web', snat: true, ipBlocks: ['10.17.0.0/16'] },
  {
    name: 'partners',
    snat: i % 3 === 0,
    ipBlocks: Array.from({ length: 1 + (i % 5) * 20 }, (_, j) => `10.${100 + (i % 7)}.${j}.0/24`),
  },
];

// Rolling replacement --------------------------------------------------------------------------------------

/** images/kubernetes: `minReadySeconds`. */
const MIN_READY = 10_000;
/** TCP connections of a client, kept through the whole replacement. */
const CONNECTIONS = 48;
/** The same of a group. */
const GROUP_CONNECTIONS = 200;

/**
 * Every gateway is replaced as a Deployment with `maxUnavailable: 1` does it: preStop drains, SIGTERM ends, the pod is
 * gone for a second; a new one begins at its addresses with an empty kernel; when OVN has it Up and `MIN_READY` has
 * passed, the next.
 */
async function rolling(count: number): Promise<void> {
  for (const gateways of [2, 3] as const) {
    for (let i = 0; i < count; i++) {
      await withOvn({ gateways }, async (ovn) => {
        const pods = ovn.gateways.map((gateway) => ovn.agentPod(gateway));
        for (const pod of pods) pod.start();
        await ovn.reaches('up');
        await startEchoServer(ovn.server);
        const hosts = Array.from({ length: CONNECTIONS }, (_, n) => SERVER_ADDRESSES[4][n % 16]);
        const traffic = await Traffic.open(
          ovn.client,
          hosts.map((host) => `tcp:${host}`),
        );
        const lost: number[] = [];
        const drains: number[] = [];
        const brokenAfter: number[] = [];
        let stall = 0;
        for (const pod of pods) {
          const streams = await Streams.open(ovn);
          const began = now();
          await pod.agent.ask('POST', '/v1/drain?timeout=20000');
          drains.push(round(now() - began));
          await pod.agent.stop();
          stopForwarding(pod.pod);
          pod.clean();
          await sleep(1000);
          pod.apply();
          pod.startFresh();
          await ovn.reaches('up', [pod.pod]);
          await sleep(MIN_READY);
          const { streams: reports, senderStallMs } = await streams.close(began);
          lost.push(...Object.values(reports).map((report) => report.lost));
          stall = Math.max(stall, senderStallMs);
          brokenAfter.push((await traffic.report()).filter(({ broken }) => broken !== undefined).length);
        }
        await traffic.close();
        print('rolling', {
          gateways,
          'packets lost': lost.join(' '),
          'connections broken': `${brokenAfter.join(' ')} of ${CONNECTIONS}`,
          'drains took ms': drains.join(' '),
          'sender stall ms': stall,
        });
      });
    }
  }
}

// Groups ---------------------------------------------------------------------------------------------------

/** Each step of the whole table, by what it cost. */
async function groups(count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    await inScope(async (scope) => {
      const place = await OvnPlace.start(scope, { gateways: 3 });
      const group = new GatewayGroup(scope, place, {
        connections: GROUP_CONNECTIONS,
        minReadyMs: MIN_READY,
      });
      await group.start();
      await group.load();
      for (const { what, act } of WHOLE) {
        const cost = await group.during(() => act(group));
        print('group', {
          event: what,
          'connections broken': `${cost.broken} of ${cost.open}`,
          'longest wait ms': cost.stallMs,
          'UDP lost': `${cost.udpLost} of ${cost.udpSent}`,
          'new connections late': `${cost.late + cost.failed} of ${cost.begun}`,
          'late until ms': cost.lateForMs,
          'seen as': cost.sources.join(' '),
        });
      }
      await group.close();
    });
  }
}

await runNamed({
  group: { run: groups, n: 1 },
  start: { run: start, n: 10 },
  failover: { run: failovers, n: 5 },
  rolling: { run: rolling, n: 3 },
  restarts: { run: restarts, n: 20 },
  soak: { run: soak, n: 10 },
});
