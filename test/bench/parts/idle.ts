/**
 * What a daemon costs that has one BFD session and nothing to do: processor time by process, and memory. An agent probes its
 * external gateway in both families meanwhile. All run at the same time, each in namespaces of its own, beside FRR's and
 * BIRD's BFD daemons, which have the session alone.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, type AgentOptions, BFD, PolicyDirectory } from '../../support/agent.ts';
import { type Scope, until } from '../../support/netns.ts';
import { ADDRESS, topology } from '../../support/topology.ts';
import { imageOptions, makeBundle } from '../as-in-image.ts';
import { Counterpart, daemons, type Timers } from '../bfd-daemons.ts';
import { type Context, inScope, type Part } from '../context.ts';
import { memory, ownCpu, tree, treeCpu } from '../processes.ts';
import { LOCAL, labOf, peerAddress } from './bfd.ts';

const SESSIONS: Timers[] = [
  { interval: 100, multiplier: 5 },
  { interval: 1000, multiplier: 3 },
];

/** What runs: its processes, the one that speaks BFD first. */
interface Idler {
  name: string;
  timers: Timers;
  bfd: number;
  /** The agent process, with the programs that it starts. */
  agent?: number;
}

/** Seconds of processor time of both processes. */
const cpuOf = ({ bfd, agent }: Idler): [number, number] => [
  ownCpu(bfd),
  agent === undefined ? 0 : treeCpu(agent),
];

/** Starts an agent in a VPC of its own, with one session that is Up. */
async function startAgent(
  scope: Scope,
  place: string,
  name: string,
  timers: Timers,
  more: Partial<AgentOptions>,
): Promise<Idler> {
  const [local, remote] = [ADDRESS.gatewayInternal[4], ADDRESS.bfdPort[4]];
  const { router, gateway } = topology(scope, { place });
  const { interval: ms, multiplier } = timers;
  const policy = new PolicyDirectory(scope);
  policy.set({ bfd: { ...BFD, minTX: ms, minRX: ms, multiplier, peers: [remote] } });
  const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state'), ...more });
  new Counterpart(scope, router, [remote], local, timers);
  await agent.statusUntil('Up', (s) => s.bfd.sessions.some(({ state }) => state === 'Up'));
  const [bfd, child] = tree(agent.daemon.pid) as [number, number];
  return { name, timers, bfd, agent: child };
}

/** Starts another BFD daemon with a session that is Up. */
async function startOther(
  scope: Scope,
  place: string,
  [name, start]: [string, ReturnType<typeof daemons>[string]],
  timers: Timers,
): Promise<Idler> {
  const { gateway, peer } = labOf(scope, place);
  const remote = peerAddress(0);
  const { pid } = await start(scope, gateway, LOCAL, [remote], timers);
  const other = new Counterpart(scope, peer, [remote], LOCAL, timers);
  await until(() => other.up() === 1, { what: `${name} Up`, everyMs: 100 });
  return { name, timers, bfd: pid };
}

async function startAll(scope: Scope, { before, say }: Context, bundle: string): Promise<Idler[]> {
  const agents: [string, Partial<AgentOptions>][] = [
    ['veg-agent, as built', {}],
    ['veg-agent, as in the image', imageOptions(bundle)],
  ];
  if (before !== undefined)
    agents.push([`commit ${before.commit}, as in the image`, imageOptions(before.bundle, 64, before.flags)]);
  const others = Object.entries(daemons()).filter(([name]) => name !== 'veg-bfdd');
  const all: Idler[] = [];
  for (const timers of SESSIONS) {
    for (const [name, more] of agents) {
      say(`starting ${name}, ${timers.interval} ms`);
      all.push(await startAgent(scope, `${all.length}-`, name, timers, more));
    }
    for (const other of others) all.push(await startOther(scope, `${all.length}-`, other, timers));
  }
  return all;
}

export const part: Part = async (context) => {
  const { pick, say, left } = context;
  const bundle = makeBundle();
  return inScope(async (scope) => {
    const all = await startAll(scope, context, bundle);
    // Node gets cheaper in its first minutes.
    const measured = pick(90_000, 5000);
    const settle = pick(Math.max(5000, Math.min(120_000, left() - measured - 10_000)), 1000);
    say(`waiting ${Math.round(settle / 1000)} s`);
    await sleep(settle);
    const [before, began] = [all.map(cpuOf), performance.now()];
    say('measuring');
    await sleep(measured);
    const percent = 100_000 / (performance.now() - began);
    const rows = all.map((idler, i) => {
      const { name, timers, bfd, agent } = idler;
      const cpu = cpuOf(idler).map((seconds, process) => (seconds - before[i]![process]!) * percent);
      const [ofBfd, ofAgent] = cpu as [number, number];
      return {
        name,
        session: `${timers.interval} ms × ${timers.multiplier}`,
        ...{ bfd: ofBfd, agent: agent === undefined ? undefined : ofAgent, together: ofBfd + ofAgent },
        memory: memory(agent === undefined ? [bfd] : [bfd, agent]).anonymous,
      };
    });
    return {
      tables: [
        {
          title: `Processor time, % of a core, over ${measured / 1000} s, and anonymous memory`,
          columns: ['', 'session', 'BFD process', 'agent process', 'together', 'memory, MiB'],
          rows: rows.map(({ name, session, bfd, agent, together, memory: mib }) => [
            ...[name, session, bfd, agent, together, mib],
          ]),
          note: `All at the same time, ${Math.round(settle / 1000)} s after the last one came Up. As in the image: bundled, with the flags for 64 MiB. FRR and BIRD have the session and nothing else: no rules, probes, policies or metrics.`,
        },
      ],
      panels: [
        {
          kind: 'bars',
          title: 'One session and nothing to do',
          y: { label: '% of a core' },
          categories: SESSIONS.map(({ interval, multiplier }) => `${interval} ms × ${multiplier}`),
          series: [...Map.groupBy(rows, ({ name }) => name)].map(([name, list]) => ({
            name,
            values: list.map(({ together }) => together),
          })),
        },
      ],
      samples: rows,
    };
  });
};
