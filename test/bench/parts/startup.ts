/**
 * From the start of the process to rules, to the first BFD packet, to Up; and what the agent takes of memory, idle and
 * with all it can have to do. Beside it today's way: a script of one program call a rule, then FRR's bfdd.
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { answerEverything, sendMeanwhile } from '../../live/conntrack-load.ts';
import {
  Agent,
  type AgentOptions,
  BFD,
  cli,
  gatewayPolicy,
  PolicyDirectory,
  WEB,
} from '../../support/agent.ts';
import { BfdCapture } from '../../support/capture.ts';
import { type Daemon, must, type Scope, until } from '../../support/netns.ts';
import { startFrr } from '../../support/peers.ts';
import { ADDRESS, type Topology, topology } from '../../support/topology.ts';
import { imageOptions, makeBundle } from '../as-in-image.ts';
import { Counterpart } from '../bfd-daemons.ts';
import { blocks } from '../blocks.ts';
import { type Context, inScope, type Part } from '../context.ts';
import { ControlGroup, type Memory, memory, tree } from '../processes.ts';
import type { Cell } from '../report.ts';
import { median, quantile } from '../stats.ts';

const TIMERS = { interval: 100, multiplier: 5 };
const LOCAL = ADDRESS.gatewayInternal[4];
const REMOTE = ADDRESS.bfdPort[4];
const now = (): number => performance.timeOrigin + performance.now();

/** The lines that the init script runs for the policy of the docs, the sysctls last. */
const INIT_SCRIPT = `set -e
ip rule add priority 1001 iif eth0 lookup default
ip rule add priority 1002 iif net1 lookup 1000
ip rule add priority 1003 from 10.16.0.12 iif lo lookup 1000
ip rule add priority 1004 from 172.17.0.11 iif lo lookup default
ip route add default via 10.16.0.1 dev eth0 table 1000
iptables -t nat -N VEG-MASQUERADE
iptables -t nat -A PREROUTING -i eth0 -j MARK --set-xmark 0x4000/0x4000
iptables -t nat -A POSTROUTING -d 10.18.0.0/16 -j RETURN
iptables -t nat -A POSTROUTING -s 10.18.0.0/16 -j RETURN
iptables -t nat -A POSTROUTING -j VEG-MASQUERADE
iptables -t nat -A VEG-MASQUERADE -j MARK --set-xmark 0x0/0xffffffff
iptables -t nat -A VEG-MASQUERADE -j MASQUERADE --random-fully
sysctl -qw net.ipv4.conf.eth0.rp_filter=0 net.ipv4.ip_forward=1`;

/** Says when forwarding was turned on: the last thing that either does. */
const WATCH_FORWARDING =
  'while read -r on < /proc/sys/net/ipv4/ip_forward; [ "$on" = 0 ]; do sleep 0.002; done; date +%s%N';

const POLICY = gatewayPolicy({
  internal: { gateways: [ADDRESS.router[4]] },
  external: { gateways: [ADDRESS.server[4]] },
  bfd: { ...BFD, peers: [REMOTE] },
  policies: [
    { name: 'direct', snat: false, ipBlocks: ['10.18.0.0/16'] },
    { name: 'web', snat: true, ipBlocks: ['10.17.0.0/16'] },
  ],
});

interface Start {
  name: string;
  /** Milliseconds after the start of the process, a sample each. */
  rules: number[];
  packet: number[];
  up: number[];
  /** Starts it; what it returns ends it and leaves the pod as new. */
  run(): Promise<() => Promise<void>>;
}

async function measureStart(scope: Scope, { router, gateway }: Topology, start: Start): Promise<void> {
  const capture = await BfdCapture.start(scope, gateway, 'eth0');
  const peer = new Counterpart(scope, router, [REMOTE], LOCAL, TIMERS);
  const watch = gateway.spawn('sh', ['-c', WATCH_FORWARDING], { name: 'forwarding' });
  // Somewhere in the second in which the peer sends once.
  await sleep(500 + Math.random() * 1000);
  const began = now();
  const end = await start.run();
  const sent = () => capture.packets().filter(({ from }) => from === LOCAL);
  const up = await until(() => sent().find(({ state }) => state === 'Up'), {
    what: `${start.name}: Up`,
  });
  await watch.ended();
  start.rules.push(Number(watch.log()) / 1e6 - began);
  start.packet.push(sent()[0]!.at - began);
  start.up.push(up.at - began);
  await end();
  await peer.daemon.stop('SIGKILL');
  await capture.stop();
  gateway.sysctl({ 'net.ipv4.ip_forward': 0 });
}

async function starts(context: Context, bundle: string): Promise<Start[]> {
  return inScope(async (scope) => {
    const lab = topology(scope, { externalV6: false });
    const { gateway } = lab;
    const policy = new PolicyDirectory(scope);
    policy.write({ 'gateway.yaml': POLICY });
    const agent = (name: string, more: Partial<AgentOptions>): Start => ({
      ...{ name, rules: [], packet: [], up: [] },
      async run() {
        const options = { policyDir: policy.dir, stateDir: scope.directory('state'), ...more };
        const running = new Agent(gateway, options);
        return async () => {
          process.kill(-running.daemon.pid, 'SIGKILL');
          await running.daemon.ended();
          const { code, stderr } = cli(
            gateway,
            { policyDir: policy.dir, stateDir: options.stateDir },
            'cleanup',
          );
          if (code !== 0) throw new Error(`cleanup: ${stderr}`);
        };
      },
    });
    const { before } = context;
    const all: Start[] = [
      agent('veg-agent, as built', {}),
      agent('veg-agent, as in the image', imageOptions(bundle)),
      ...(before === undefined
        ? []
        : [
            agent(`commit ${before.commit}, as built`, {
              wrapper: ['sh', '-c', `node=$1; shift 2; exec "$node" ${before.dist}/agent/main.js "$@"`, 'sh'],
            }),
            agent(`commit ${before.commit}, as in the image`, imageOptions(before.bundle, 64, before.flags)),
          ]),
      {
        ...{ name: 'init script, then FRR bfdd', rules: [], packet: [], up: [] },
        async run() {
          must('ip', ['netns', 'exec', gateway.name, 'sh', '-c', INIT_SCRIPT]);
          const frr = await startFrr(scope, gateway, { sessions: [{ local: LOCAL, remote: REMOTE }] });
          return async () => {
            await frr.daemon.stop('SIGKILL');
            for (const priority of [1001, 1002, 1003, 1004]) gateway.sh(`ip rule del priority ${priority}`);
            gateway.sh('ip route flush table 1000');
            gateway.sh('iptables -t nat -F');
            gateway.sh('iptables -t nat -X');
          };
        },
      },
    ];
    await context.rounds(context.pick(12, 2), context.pick(140_000, 40_000), async (round) => {
      context.say(`start, round ${round + 1}`);
      for (const start of all) await measureStart(scope, lab, start);
    });
    return all;
  });
}

interface Restart {
  name: string;
  /** From the start of the process to its first packet, ms each. */
  packet: number[];
  /** Between two packets of the session, over the restart, ms each. */
  gap: number[];
}

/** An agent that is killed while its session is Up, with a peer that waits, and started again at once. */
async function restarts(context: Context, bundle: string): Promise<Restart[]> {
  const { before } = context;
  return inScope(async (scope) => {
    const { router, gateway } = topology(scope);
    const policy = new PolicyDirectory(scope);
    policy.set({ bfd: { ...BFD, peers: [REMOTE] } });
    const files = { policyDir: policy.dir, stateDir: scope.directory('state') };
    const all: (Restart & { more: Partial<AgentOptions> })[] = [
      { name: 'veg-agent, as in the image', packet: [], gap: [], more: imageOptions(bundle) },
    ];
    if (before !== undefined) {
      const more = imageOptions(before.bundle, 64, before.flags);
      all.push({ name: `commit ${before.commit}, as in the image`, packet: [], gap: [], more });
    }
    new Counterpart(scope, router, [REMOTE], LOCAL, { ...TIMERS, multiplier: 50 });
    const started = async (more: Partial<AgentOptions>) => {
      const agent = new Agent(gateway, { ...files, ...more });
      await agent.statusUntil('Up', (s) => s.bfd.sessions.some(({ state }) => state === 'Up'));
      return agent;
    };
    let agent = await started(all[0]!.more);
    await context.rounds(context.pick(25, 2), context.pick(75_000, 20_000), async (round) => {
      context.say(`restart, round ${round + 1}`);
      for (const { more, packet, gap } of all) {
        const capture = await BfdCapture.start(scope, gateway, 'eth0');
        await sleep(300);
        process.kill(-agent.daemon.pid, 'SIGKILL');
        await agent.daemon.ended();
        const began = now();
        agent = await started(more);
        await sleep(100);
        const sent = capture.packets().filter(({ from }) => from === LOCAL);
        packet.push(sent.find(({ at }) => at > began)!.at - began);
        gap.push(Math.max(...sent.slice(1).map(({ at }, i) => at - sent[i]!.at)));
        await capture.stop();
      }
    });
    await agent.stop('SIGKILL');
    return all.map(({ name, packet, gap }) => ({ name, packet, gap }));
  });
}

interface Usage {
  name: string;
  when: string;
  memory: Memory;
  charged: number | undefined;
  workingSet: number | undefined;
}

/** A group of its own for memory, where groups may be made. */
function memoryGroup(): ControlGroup | undefined {
  try {
    return new ControlGroup(`veg-bench-${process.pid}`);
  } catch {
    return undefined;
  }
}

const usage = (name: string, when: string, { pid }: Daemon, group: ControlGroup | undefined): Usage => ({
  ...{ name, when, memory: memory(tree(pid)), charged: group?.charged(), workingSet: group?.workingSet() },
});

const forwarded = (ipBlocks: string[]) => ({ name: 'direct', snat: false, ipBlocks });

/** An agent, idle with one session, and then with 10 000 blocks, a change a second, and new flows that are logged. */
async function agentMemory(context: Context, name: string, more: Partial<AgentOptions>): Promise<Usage[]> {
  const group = memoryGroup();
  const measured = await inScope(async (scope) => {
    const { client, router, gateway, server } = topology(scope);
    const policy = new PolicyDirectory(scope);
    const spec = {
      bfd: { ...BFD, peers: [REMOTE] },
      policies: [forwarded(blocks(1)), WEB],
      translationLog: { enabled: true },
    };
    policy.set(spec);
    const agent = new Agent(gateway, {
      ...{ policyDir: policy.dir, stateDir: scope.directory('state') },
      args: ['--translation-log', join(scope.directory('log'), 'records.log')],
      ...more,
    });
    group?.add(agent.daemon.pid);
    const peer = new Counterpart(scope, router, [REMOTE], LOCAL, TIMERS);
    await agent.statusUntil('Up', (s) => s.bfd.sessions.some(({ state }) => state === 'Up'));
    await sleep(context.pick(8000, 2000));
    const idle = usage(name, 'idle, one session', agent.daemon, group);
    await answerEverything(server);
    const seconds = context.pick(15, 3);
    const load = sendMeanwhile(client, 'udp', ADDRESS.server[4], 10_000, 2000 * seconds, 1, 2000);
    let most = idle;
    for (let i = 0; i < seconds; i++) {
      policy.set({ ...spec, policies: [forwarded(blocks(10_001).slice(i % 2)), WEB] });
      await sleep(1000);
      const present = usage(name, '10 000 blocks, a change and 2000 flows a second', agent.daemon, group);
      if (present.memory.resident > most.memory.resident) most = present;
    }
    await load.ended();
    await agent.synced();
    await agent.stop('SIGTERM');
    await peer.daemon.stop('SIGKILL');
    return [idle, most];
  });
  await group?.remove();
  return measured;
}

async function frrMemory(context: Context): Promise<Usage[]> {
  return inScope(async (scope) => {
    const { router, gateway } = topology(scope);
    must('ip', ['netns', 'exec', gateway.name, 'sh', '-c', INIT_SCRIPT]);
    const frr = await startFrr(scope, gateway, { sessions: [{ local: LOCAL, remote: REMOTE }] });
    const peer = new Counterpart(scope, router, [REMOTE], LOCAL, TIMERS);
    await until(() => peer.up() === 1, { what: 'FRR Up' });
    await sleep(context.pick(3000, 500));
    return [usage('FRR bfdd alone', 'idle, one session', frr.daemon, undefined)];
  });
}

const spread = (values: number[]): string =>
  `${Math.round(median(values))} (${[0, 0.9, 1].map((share) => Math.round(quantile(values, share))).join(', ')})`;

export const part: Part = async (context) => {
  const bundle = makeBundle();
  const all = await starts(context, bundle);
  const again = await restarts(context, bundle);
  context.say('memory');
  const usages = [
    ...(await agentMemory(context, 'veg-agent, as built', {})),
    ...(await agentMemory(context, 'veg-agent, as in the image', imageOptions(bundle))),
    ...(await frrMemory(context)),
  ];
  const memoryRows = usages.map(({ name, when, memory: m, charged, workingSet }): Cell[] => [
    ...[name, when, m.resident, m.proportional, m.anonymous, charged, workingSet],
  ]);
  return {
    tables: [
      {
        title: 'After the start of the process, ms: median (least, 90 %, worst)',
        columns: ['', 'starts', 'everything in the kernel', 'first BFD packet', 'Up'],
        rows: all.map(({ name, rules, packet, up }) => [
          name,
          rules.length,
          spread(rules),
          spread(packet),
          spread(up),
        ]),
        note: 'Up includes the wait for the peer, which sends once a second while it is Down. As in the image: bundled, with the flags for 64 MiB. The other way begins both when its script begins, which waits for no container to be made, and none of the pauses of the probes between them.',
      },
      {
        title: 'Killed and started again at once, ms: median (least, 90 %, worst)',
        columns: ['', 'restarts', 'first BFD packet', 'longest time between two packets'],
        rows: again.map(({ name, packet, gap }) => [name, packet.length, spread(packet), spread(gap)]),
        note: 'A session at 100 ms × 5. From the start of the process, which no container runtime delays here; the time between two packets begins up to 100 ms before.',
      },
      {
        title: 'Memory, MiB',
        columns: ['', 'with', 'resident', 'proportional', 'anonymous', 'charged to its group', 'working set'],
        rows: memoryRows,
        note: 'All processes together; resident counts what they share for each of them, proportional once. Charged: what the control group pays, with what the kernel holds for it and the files that it read first; the working set leaves out what of those can be dropped. Under load the highest of one sample a second, with the translation log on.',
      },
    ],
    panels: [
      {
        kind: 'bars',
        title: 'After the start of the process (median)',
        y: { label: 'ms' },
        categories: ['in the kernel', 'first packet', 'Up'],
        series: all.map(({ name, rules, packet, up }) => ({ name, values: [rules, packet, up].map(median) })),
      },
      {
        kind: 'bars',
        title: 'Memory',
        y: { label: 'MiB' },
        categories: ['resident', 'proportional', 'anonymous', 'working set'],
        series: usages.map(({ name, when, memory: m, workingSet }) => ({
          name: `${name}, ${when.startsWith('idle') ? 'idle' : 'under load'}`,
          values: [m.resident, m.proportional, m.anonymous, workingSet],
        })),
      },
    ],
    samples: {
      starts: all.map(({ name, rules, packet, up }) => ({ name, rules, packet, up })),
      restarts: again,
      memory: usages,
    },
  };
};
