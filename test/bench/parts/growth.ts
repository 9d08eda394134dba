/**
 * What grows with what: each cost against its size, the law that it follows, and what that comes to at a size that no
 * test machine has.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, gatewayPolicy, PolicyDirectory, WEB } from '../../support/agent.ts';
import { until, veth } from '../../support/netns.ts';
import { topology } from '../../support/topology.ts';
import { Counterpart, daemons } from '../bfd-daemons.ts';
import { blocks } from '../blocks.ts';
import { type Context, inScope, type Part } from '../context.ts';
import { Packets } from '../packets.ts';
import { memory, ownCpu, tree } from '../processes.ts';
import type { Cell } from '../report.ts';
import { figure, type Line, line, median, powerLaw } from '../stats.ts';
import { measureGateways } from './connections.ts';
import { change } from './reconcile.ts';

/** One cost: its values, smallest size first. */
interface Cost {
  what: string;
  size: string;
  unit: string;
  points: [size: number, value: number][];
}

const POD_BLOCK = 256; // addresses of a /24
const PODS = 1_000_000;
const FLOWS = 1_000_000;
const GATEWAYS = 1000;
/** The log knows so many living flows one by one; those beyond are counted when they end. */
const KNOWN = 65_536;
/** Seconds that a flow lives. */
const LIFETIME = 60;

/** A change of every block, of one, and the memory that the agent process and the kernel's sets take. */
async function ofBlocks(context: Context): Promise<Cost[]> {
  const all: Cost = { what: 'all blocks exchanged', size: 'blocks', unit: 'ms', points: [] };
  const one: Cost = { what: 'one block exchanged', size: 'blocks', unit: 'ms', points: [] };
  const cpu: Cost = { what: 'one block exchanged, processor time', size: 'blocks', unit: 'ms', points: [] };
  const heap: Cost = { what: 'agent process, anonymous memory', size: 'blocks', unit: 'MiB', points: [] };
  const kernel: Cost = { what: 'sets in the kernel', size: 'blocks', unit: 'KiB', points: [] };
  await inScope(async (scope) => {
    const { gateway } = topology(scope);
    const policy = new PolicyDirectory(scope);
    policy.set();
    const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
    await agent.synced();
    const pid = tree(agent.daemon.pid)[1]!;
    for (const n of context.pick([1, 10, 100, 1000, 10_000, 100_000], [1, 100, 1000])) {
      context.say(`${n} blocks`);
      const times: number[] = [];
      // An odd number: the last are those of generation 0.
      for (let i = 0; i < (n > 10_000 ? 1 : 3); i++)
        times.push(await change({ agent, policy }, blocks(n, i % 2)));
      all.points.push([n, median(times)]);
      const present = blocks(n, 0);
      const single: number[] = [];
      const before = ownCpu(pid);
      const changes = n > 10_000 ? 2 : 8;
      for (let i = 0; i < changes; i++) {
        single.push(
          await change({ agent, policy }, [...present.slice(1), i % 2 === 0 ? '11.0.0.0/28' : present[0]!]),
        );
      }
      one.points.push([n, median(single)]);
      cpu.points.push([n, ((ownCpu(pid) - before) * 1000) / changes]);
      heap.points.push([n, memory([pid]).anonymous]);
      const sets = [...gateway.run('ipset', ['list', '-t']).stdout.matchAll(/Size in memory: (\d+)/g)];
      const octets = sets.reduce((sum, [, size]) => sum + Number(size), 0);
      if (octets > 0) kernel.points.push([n, octets / 1024]);
    }
  });
  return [all, one, cpu, heap, kernel];
}

async function ofPolicies(context: Context): Promise<Cost[]> {
  const cost: Cost = { what: 'one policy changed', size: 'policies', unit: 'ms', points: [] };
  await inScope(async (scope) => {
    const { gateway } = topology(scope);
    const policy = new PolicyDirectory(scope);
    policy.set();
    const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
    await agent.synced();
    for (const n of context.pick([10, 100, 1000], [10, 100])) {
      context.say(`${n} policies`);
      const times: number[] = [];
      for (let i = 0; i < 5; i++) {
        const policies = blocks(n).map((each, k) => ({
          ...{ name: `p${k}`, snat: true, ipBlocks: [each] },
          destinationCIDRs: [`203.0.${k >> 8}.${k & 0xff}/32`, ...(k === 0 ? [`198.51.100.${i}/32`] : [])],
        }));
        const { generation } = (await agent.status()).policy;
        const began = performance.now();
        policy.set({ policies });
        await agent.statusUntil(
          `${n} policies in the kernel`,
          ({ policy: p, kernel: { inSync, lastReconcile: last } }) =>
            p.generation > generation && inSync && last !== null && last.at >= p.lastChange!,
        );
        if (i > 0) times.push(performance.now() - began);
      }
      cost.points.push([n, median(times)]);
    }
  });
  return [cost];
}

async function ofSessions(context: Context): Promise<Cost[]> {
  const cpu: Cost = {
    what: 'BFD sessions at 100 ms, processor time',
    size: 'sessions',
    unit: '% of a core',
    points: [],
  };
  const heap: Cost = { what: 'BFD sessions, anonymous memory', size: 'sessions', unit: 'MiB', points: [] };
  for (const n of context.pick([1, 4, 16, 64, 256], [1, 16])) {
    context.say(`${n} BFD sessions`);
    await inScope(async (scope) => {
      const [gateway, peer] = [scope.namespace('gw'), scope.namespace('peer')];
      veth(gateway, 'eth0', peer, 'eth0');
      const remotes = Array.from({ length: n }, (_, i) => `10.99.1.${i}`);
      gateway.ip('addr add 10.99.0.1/16 dev eth0');
      peer.ip(remotes.map((address) => `addr add ${address}/16 dev eth0`).join('\n'));
      const timers = { interval: 100, multiplier: 5 };
      const daemon = await daemons()['veg-bfdd']!(scope, gateway, '10.99.0.1', remotes, timers);
      const other = new Counterpart(scope, peer, remotes, '10.99.0.1', timers);
      await until(() => other.up() === n, { what: `${n} sessions Up`, everyMs: 200 });
      await sleep(2000);
      const [before, began] = [ownCpu(daemon.pid), performance.now()];
      await sleep(context.pick(6000, 2000));
      cpu.points.push([n, ((ownCpu(daemon.pid) - before) / (performance.now() - began)) * 100_000]);
      heap.points.push([n, memory([daemon.pid]).anonymous]);
    });
  }
  return [cpu, heap];
}

/** KiB of kernel memory in slabs. */
const slab = (): number => Number(/^Slab:\s+(\d+)/m.exec(readFileSync('/proc/meminfo', 'utf8'))![1]);

/** Flows that live: what the kernel holds for each, and what the translation log costs with them. */
async function ofFlows(context: Context): Promise<Cost[]> {
  const kernel: Cost = { what: 'kernel memory', size: 'living flows', unit: 'KiB', points: [] };
  const begin: Cost = {
    what: 'translation log, flows that begin in a burst, processor time',
    size: 'living flows',
    unit: 'ms',
    points: [],
  };
  const idle: Cost = {
    what: 'agent process with the translation log, nothing happens',
    size: 'living flows',
    unit: '% of a core',
    points: [],
  };
  const heap: Cost = {
    what: 'agent process with the translation log, anonymous memory',
    size: 'living flows',
    unit: 'MiB',
    points: [],
  };
  for (const ms of context.pick([10, 100, 1000], [10, 100])) {
    await inScope(async (scope) => {
      const { client, gateway } = topology(scope);
      const policy = new PolicyDirectory(scope);
      policy.write({
        'gateway.yaml': gatewayPolicy({ policies: [WEB], ...{ translationLog: { enabled: true } } }),
      });
      const args = ['--translation-log', join(scope.directory('log'), 'records.log')];
      const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state'), args });
      await agent.synced();
      await until(() => agent.http('/metrics').body.includes('collector="conntrack"} 1'), {
        what: 'the translation log',
        everyMs: 200,
      });
      // No flow ends while it is looked at.
      gateway.sysctl({ 'net.netfilter.nf_conntrack_udp_timeout': 600 });
      await sleep(1000);
      const pid = tree(agent.daemon.pid)[1]!;
      const count = () => Number(gateway.sh('cat /proc/sys/net/netfilter/nf_conntrack_count'));
      const packets = new Packets(client, '10.17.0.9');
      const [slabBefore, cpuBefore] = [slab(), ownCpu(pid)];
      await packets.send({ kind: 'new', network: '198.18.0', ms });
      packets.end();
      const n = count();
      context.say(`${n} flows`);
      kernel.points.push([n, Math.max(1, slab() - slabBefore)]);
      const seen = () => {
        const found = agent.http('/metrics').body.matchAll(/^veg_snat_connections_total\{[^}]*\} (\d+)/gm);
        return [...found].reduce((all, [, value]) => all + Number(value), 0);
      };
      await until(() => seen() >= Math.min(n, KNOWN) * 0.99, {
        what: `${n} flows counted`,
        everyMs: 300,
      });
      begin.points.push([n, (ownCpu(pid) - cpuBefore) * 1000]);
      await sleep(2000);
      const [before, began] = [ownCpu(pid), performance.now()];
      await sleep(context.pick(10_000, 3000));
      idle.points.push([n, ((ownCpu(pid) - before) / (performance.now() - began)) * 100_000]);
      heap.points.push([n, memory([pid]).anonymous]);
    });
  }
  return [kernel, begin, idle, heap];
}

async function ofConnections(context: Context): Promise<Cost[]> {
  const sizes = context.pick([1, 10, 100, 1000, 10_000], [1, 1000]);
  const gateways = await measureGateways(
    context,
    [
      ...sizes.map((n): ['blocks', number] => ['blocks', n]),
      ...sizes.map((n): ['linear', number] => ['linear', n]),
    ],
    context.pick(6, 1),
    10_000,
  );
  const cost = (kind: 'blocks' | 'linear', what: string): Cost => ({
    ...{ what, size: 'blocks', unit: 'µs' },
    points: gateways.filter((g) => g.kind === kind).map((g) => [g.size, 1e6 / median(g.fresh)]),
  });
  return [
    cost('blocks', 'a new connection, processor time'),
    cost('linear', 'the same with two RETURN rules a block'),
  ];
}

/** The slope in log-log. */
const slope = (points: Cost['points']): string => powerLaw(points).exponent.toFixed(2);

export const part: Part = async (context) => {
  const costs = [
    ...(await ofBlocks(context)),
    ...(await ofPolicies(context)),
    ...(await ofSessions(context)),
    ...(await ofConnections(context)),
    ...(await ofFlows(context)),
  ];
  const find = (what: string) => costs.find((cost) => cost.what === what)!;
  const fit = (what: string): Line => line(find(what).points);
  const at = (what: string, size: number): number =>
    Math.max(0, fit(what).fixed) + Math.max(0, fit(what).each) * size;
  const share = (µs: number) => (µs * FLOWS) / LIFETIME / 1e4;
  const most = (what: string) => Math.max(...find(what).points.map(([size]) => size));
  const scale = (what: string, of: string, value: number, unit: string): Cell[] => [
    what,
    most(of),
    value,
    unit,
  ];
  const panel = (title: string, unit: string, whats: string[]) => ({
    kind: 'lines' as const,
    title,
    x: { label: find(whats[0]!).size, log: true },
    y: { label: unit, log: true },
    series: whats.map((what) => ({
      name: `${what} (end slope ${slope(find(what).points.slice(-2))})`,
      points: find(what).points.map(([x, y]) => ({ x, y })),
    })),
  });
  return {
    tables: [
      {
        title: 'Costs against sizes',
        columns: [
          'cost',
          'unit',
          'measured',
          'slope in log-log',
          'between the last two',
          'fixed',
          'for each',
          'of',
        ],
        rows: costs.map(({ what, size, unit, points }): Cell[] => {
          const { fixed, each } = line(points);
          const measured = points.map(([x, y]) => `${figure(x)}: ${figure(y)}`).join('; ');
          return [
            what,
            unit,
            measured,
            slope(points),
            slope(points.slice(-2)),
            figure(fixed),
            each.toPrecision(2),
            size,
          ];
        }),
        note: 'Slope 0: it does not grow; 1: it grows with the size. Over all sizes a cost that is fixed at first has less than at its end. Fixed and for each: the line that fits best, with the same relative error at every size.',
      },
      {
        title: `Reckoned from those lines: ${GATEWAYS} gateways, ${PODS / 1e6} M pods, ${FLOWS / 1e6} M flows a gateway`,
        columns: ['', 'measured up to', 'reckoned', 'unit'],
        rows: [
          scale(
            `${GATEWAYS} BFD sessions at 100 ms in one daemon: processor time`,
            'BFD sessions at 100 ms, processor time',
            at('BFD sessions at 100 ms, processor time', GATEWAYS),
            '% of a core',
          ),
          scale(
            `the same: memory`,
            'BFD sessions, anonymous memory',
            at('BFD sessions, anonymous memory', GATEWAYS),
            'MiB',
          ),
          scale(
            `${PODS / 1e6} M pods in /24 blocks: one block changed`,
            'one block exchanged',
            at('one block exchanged', PODS / POD_BLOCK),
            'ms',
          ),
          scale(
            'the same: sets in the kernel',
            'sets in the kernel',
            at('sets in the kernel', PODS / POD_BLOCK) / 1024,
            'MiB',
          ),
          scale(
            `${PODS / 1e6} M pods, each a block of its own: one block changed`,
            'one block exchanged',
            at('one block exchanged', PODS) / 1000,
            's',
          ),
          scale(
            'the same: memory of the agent process',
            'agent process, anonymous memory',
            at('agent process, anonymous memory', PODS),
            'MiB',
          ),
          scale(
            'the same: sets in the kernel',
            'sets in the kernel',
            at('sets in the kernel', PODS) / 1024,
            'MiB',
          ),
          scale(
            `${FLOWS / 1e6} M flows: kernel memory`,
            'kernel memory',
            at('kernel memory', FLOWS) / 1024,
            'MiB',
          ),
          scale(
            `${FLOWS / 1e6} M flows that live ${LIFETIME} s: forwarding their first packets`,
            'a new connection, processor time',
            share(Math.max(...find('a new connection, processor time').points.map(([, y]) => y))),
            '% of a core',
          ),
          scale(
            'the same: recording their begins',
            'translation log, flows that begin in a burst, processor time',
            share(fit('translation log, flows that begin in a burst, processor time').each * 1000),
            '% of a core',
          ),
          scale(
            'the same, while nothing happens: the translation log',
            'agent process with the translation log, nothing happens',
            at('agent process with the translation log, nothing happens', FLOWS),
            '% of a core',
          ),
        ],
      },
    ],
    panels: [
      panel('Blocks: time', 'ms', [
        'all blocks exchanged',
        'one block exchanged',
        'one block exchanged, processor time',
      ]),
      panel('A new connection', 'µs', [
        'a new connection, processor time',
        'the same with two RETURN rules a block',
      ]),
      panel('BFD sessions at 100 ms', '% of a core', ['BFD sessions at 100 ms, processor time']),
      panel('Living flows: kernel memory', 'KiB', ['kernel memory']),
    ],
    samples: costs,
  };
};
