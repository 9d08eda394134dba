/**
 * From a change of the policy directory to the kernel, for 1 to 100 000 forwarded blocks; beside a shell loop of one
 * `iptables` call a rule, as Kube-OVN's init script writes them, and `iptables-restore` and `ipset restore` alone,
 * below which nothing can be.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, PolicyDirectory } from '../../support/agent.ts';
import { forwardedBlocks } from '../../support/kernel.ts';
import { PATIENCE } from '../../support/machine.ts';
import { must, type Namespace, type Scope, until } from '../../support/netns.ts';
import { topology } from '../../support/topology.ts';
import { block, blocks } from '../blocks.ts';
import { type Context, inScope, type Part } from '../context.ts';
import { treeCpu } from '../processes.ts';
import { median, type Summary, summary } from '../stats.ts';

/** The shell loop goes up to so many blocks; beyond that it is reckoned from what the last of them cost. */
const LOOP_BLOCKS = 2000;
const LAST_BLOCKS = 250;
/** A change has so long, ms. */
/** Before each change of one block the agent has so long to look at what the one before came to, ms. */
const REST = 300;
/** So often it is asked whether it has done its work, ms: each answer takes some of its time. */
const ASK_EVERY = 8;
/** Two rules a block. */
const CALLS = 2;

export interface Run {
  agent: Agent;
  policy: PolicyDirectory;
}

/** JSON, as controllers write it: YAML costs the same in the kernel and more to read. */
function write({ policy }: Run, ipBlocks: string[]): void {
  policy.write({
    'gateway.json': JSON.stringify({
      apiVersion: 'veg-agent.io/v1alpha1',
      kind: 'GatewayPolicy',
      metadata: { name: 'gateway1', namespace: 'default' },
      spec: {
        internal: { gateways: ['10.16.0.1'] },
        external: { gateways: ['172.17.0.1'] },
        policies: [{ name: 'direct', snat: false, ipBlocks }],
      },
    }),
  });
}

/** Puts a list of blocks into force. Returns the milliseconds from the file's change until the agent says that the kernel has it. */
export async function change(run: Run, list: string[]): Promise<number> {
  const { policy: before } = await until(() => run.agent.status(), {
    what: 'an answer',
  });
  const { generation } = before;
  const began = performance.now();
  write(run, list);
  for (;;) {
    // An agent that works out a great change may be too busy to answer.
    const status = await run.agent.status().catch(() => undefined);
    const last = status?.kernel.lastReconcile;
    const applied = last?.ok && status?.kernel.inSync && last.at >= (status.policy.lastChange ?? '');
    if (applied && status.policy.generation > generation) return performance.now() - began;
    if (performance.now() - began > PATIENCE) {
      throw new Error(`not in the kernel: ${status?.policy.errors[0] ?? last?.error ?? 'no answer'}`);
    }
    await sleep(ASK_EVERY);
  }
}

/** Throws unless the kernel forwards exactly these blocks unchanged. */
function verify(ns: Namespace, list: string[]): void {
  const found = forwardedBlocks(ns, 4);
  const wanted = list.toSorted();
  if (found.join() !== wanted.join())
    throw new Error(`the kernel forwards ${found.length} blocks, wanted are ${wanted.length}`);
}

const timed = (act: () => void): number => {
  const began = performance.now();
  act();
  return performance.now() - began;
};

const MASQUERADE = [
  '-N VEG-MASQUERADE',
  '-A PREROUTING -i eth0 -j MARK --set-xmark 0x4000/0x4000',
  '-A POSTROUTING -j VEG-MASQUERADE',
  '-A VEG-MASQUERADE -j MARK --set-xmark 0x0/0xffffffff',
  '-A VEG-MASQUERADE -j MASQUERADE --random-fully',
];

const SHELL_LOOP = `for block in $BLOCKS; do
  iptables -t nat -I POSTROUTING -s $block -j RETURN
  iptables -t nat -I POSTROUTING -d $block -j RETURN
done`;

/** What the init script does: a program call a rule. Returns ms, and those of a call among the last. */
function shellLoop(ns: Namespace, list: string[]): { all: number; lastCall: number } {
  const run = (script: string, some: string[]) =>
    timed(() =>
      must('ip', ['netns', 'exec', ns.name, 'sh', '-ec', script], {
        env: { BLOCKS: some.join(' ') },
      }),
    );
  const before = Math.max(0, list.length - LAST_BLOCKS);
  const start = run(MASQUERADE.map((rule) => `iptables -t nat ${rule}`).join('\n'), []);
  const first = run(SHELL_LOOP, list.slice(0, before));
  const last = run(SHELL_LOOP, list.slice(before));
  return { all: start + first + last, lastCall: last / (CALLS * (list.length - before)) };
}

function restoreRules(ns: Namespace, list: string[]): number {
  const pairs = list.flatMap((each) => [
    `-A POSTROUTING -d ${each} -j RETURN`,
    `-A POSTROUTING -s ${each} -j RETURN`,
  ]);
  const input = `${['*nat', MASQUERADE[0], MASQUERADE[1], ...pairs, ...MASQUERADE.slice(2), 'COMMIT'].join('\n')}\n`;
  return timed(() => must('ip', ['netns', 'exec', ns.name, 'iptables-restore', '--noflush'], { input }));
}

function restoreSet(ns: Namespace, list: string[]): number {
  const size = Math.max(1 << 16, 2 * list.length);
  const input = `create BLOCKS hash:net maxelem ${size}\n${list.map((each) => `add BLOCKS ${each}\n`).join('')}`;
  const rules = [
    ...['*nat', MASQUERADE[0], MASQUERADE[1]],
    '-A POSTROUTING -m set --match-set BLOCKS dst -j RETURN',
    '-A POSTROUTING -m set --match-set BLOCKS src -j RETURN',
    ...MASQUERADE.slice(2),
    'COMMIT\n',
  ].join('\n');
  return timed(() => {
    must('ip', ['netns', 'exec', ns.name, 'ipset', 'restore'], { input });
    must('ip', ['netns', 'exec', ns.name, 'iptables-restore', '--noflush'], { input: rules });
  });
}

/** What the rest of the part takes, ms. */
const RESERVE = 25_000;

interface Size {
  blocks: number;
  /** Milliseconds each. */
  all: number[];
  one: number[];
  rules: number[];
  set: number[];
  loop: number[];
  /** A call at the end of the loop. */
  lastCall: number[];
}

async function measureSize(
  context: Context,
  scope: Scope,
  run: Run,
  gateway: Namespace,
  size: Size,
): Promise<void> {
  const { pick } = context;
  const n = size.blocks;
  const rounds = await context.rounds(pick(n >= 100_000 ? 2 : 5, 1), RESERVE, async (round) => {
    const wanted = blocks(n, round % 2);
    size.all.push(await change(run, wanted));
    verify(gateway, wanted);
    const fresh = (kind: string) => scope.namespace(`${kind}${n}-${round}`);
    size.set.push(restoreSet(fresh('s'), blocks(n)));
    if (n <= 10_000) size.rules.push(restoreRules(fresh('r'), blocks(n)));
    if (n <= 100 || round === 0) {
      const { all, lastCall } = shellLoop(fresh('l'), blocks(Math.min(n, pick(LOOP_BLOCKS, 200))));
      size.loop.push(all);
      size.lastCall.push(lastCall);
    }
  });
  const base = blocks(n, (rounds - 1) % 2);
  const changes = pick(n >= 100_000 ? 8 : n >= 10_000 ? 60 : 40, 4);
  await context.rounds(changes, RESERVE, async (i) => {
    // One block is exchanged for another, each time.
    const list = [
      ...base.slice(1),
      block(i % 2 === 0 ? 200_000 : 0, (rounds - 1) % 2).replace('10.', i % 2 === 0 ? '11.' : '10.'),
    ];
    await sleep(REST);
    size.one.push(await change(run, list));
    if (i === 0) verify(gateway, list);
  });
}

const spread = (values: number[]): string | undefined => {
  if (values.length === 0) return undefined;
  const { min, p50, max } = summary(values);
  return `${Math.round(p50)} (${Math.round(min)} – ${Math.round(max)})`;
};

export const part: Part = async (context) => {
  const { pick, say } = context;
  const sizes: Size[] = pick([1, 100, 1000, 10_000, 100_000], [1, 100, 10_000]).map((n) => ({
    ...{ blocks: n, all: [], one: [], rules: [], set: [], loop: [], lastCall: [] },
  }));
  const noop: { blocks: number; wall: Summary; cpuMs: number }[] = [];
  await inScope(async (scope) => {
    const { gateway } = topology(scope);
    const policy = new PolicyDirectory(scope);
    policy.set();
    const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
    await agent.synced();
    for (const size of sizes) {
      say(`${size.blocks} blocks`);
      await measureSize(context, scope, { agent, policy }, gateway, size);
      await sleep(1000);
      const wall: number[] = [];
      const before = treeCpu(agent.daemon.pid);
      for (let i = 0; i < pick(size.blocks >= 100_000 ? 5 : 20, 3); i++) {
        await sleep(REST / 3);
        const began = performance.now();
        const reply = await agent.ask('POST', '/v1/reconcile');
        if (reply.status !== 200) throw new Error(`reconcile: ${reply.body}`);
        wall.push(performance.now() - began);
      }
      const cpuMs = ((treeCpu(agent.daemon.pid) - before) * 1000) / wall.length;
      noop.push({ blocks: size.blocks, wall: summary(wall), cpuMs });
    }
  });

  const looped = pick(LOOP_BLOCKS, 200);
  /** What the loop takes, or at least takes: its calls get slower with every rule. */
  const loop = ({ blocks: n, loop: times, lastCall }: Size) =>
    median(times) + Math.max(0, n - looped) * CALLS * median(lastCall);
  const p = (values: number[], key: 'p50' | 'p99') => summary(values)[key];
  return {
    tables: [
      {
        title: 'All blocks exchanged, ms: median (least – greatest)',
        columns: [
          'blocks',
          'veg-agent',
          'ipset restore alone',
          'iptables-restore alone',
          'shell loop',
          'loop ÷ veg-agent',
        ],
        rows: sizes.map((s) => [
          s.blocks,
          spread(s.all),
          spread(s.set),
          spread(s.rules),
          s.blocks <= looped ? spread(s.loop) : `at least ${Math.round(loop(s))}`,
          `${loop(s) / median(s.all) > 100 ? Math.round(loop(s) / median(s.all)) : (loop(s) / median(s.all)).toFixed(1)} ×`,
        ]),
        note: `veg-agent: from the swap of the mounted directory to the answer of its control socket that the kernel is as the policy says, with the pauses in which it waits for more changes. After each change the kernel's blocks are read and compared. The others begin with an empty namespace and a list that is ready: the restores stand for the floor, one process that only writes. The shell loop was run up to ${looped} blocks (two rules each); beyond that every call is reckoned to take what the last ones took, though they get slower with every rule.`,
      },
      {
        title: 'One block exchanged, ms',
        columns: ['among', 'changes', 'median', 'p99', 'worst'],
        rows: sizes.map((s) => [
          s.blocks,
          s.one.length,
          p(s.one, 'p50'),
          p(s.one, 'p99'),
          Math.max(...s.one),
        ]),
        note: `Each ${REST} ms after the one before had come to its end.`,
      },
      {
        title: 'A reconcile that finds nothing to do',
        columns: ['blocks', 'median, ms', 'p99, ms', 'processor time, ms'],
        rows: noop.map(({ blocks: n, wall, cpuMs }) => [n, wall.p50, wall.p99, cpuMs]),
        note: 'Asked for through the control socket. Processor time with the programs that it starts.',
      },
    ],
    panels: [
      {
        kind: 'lines',
        title: 'Policy change to kernel',
        x: { label: 'forwarded blocks', log: true },
        y: { label: 'ms (median; whiskers least, greatest)', log: true },
        series: [
          { name: 'veg-agent, all blocks exchanged', values: sizes.map((s) => s.all) },
          { name: 'veg-agent, one block exchanged', values: sizes.map((s) => s.one) },
          { name: 'ipset restore alone', values: sizes.map((s) => s.set) },
          { name: 'iptables-restore alone', values: sizes.map((s) => s.rules) },
        ]
          .map(({ name, values }) => ({
            name,
            points: values.flatMap((list, i) =>
              list.length === 0
                ? []
                : [{ x: sizes[i]!.blocks, y: median(list), low: Math.min(...list), high: Math.max(...list) }],
            ),
          }))
          .concat([
            {
              name: `shell loop (reckoned beyond ${looped})`,
              points: sizes.map((s) => ({ x: s.blocks, y: loop(s), low: loop(s), high: loop(s) })),
            },
          ]),
      },
      {
        kind: 'lines',
        title: 'A reconcile that finds nothing to do',
        x: { label: 'forwarded blocks', log: true },
        y: { label: 'ms', log: true },
        series: [
          { name: 'until done', points: noop.map((one) => ({ x: one.blocks, y: one.wall.p50 })) },
          { name: 'processor time', points: noop.map((one) => ({ x: one.blocks, y: one.cpuMs })) },
        ],
      },
    ],
    samples: { sizes, noop },
  };
};
