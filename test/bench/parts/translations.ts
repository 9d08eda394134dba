/**
 * The translation log: what a flow costs the agent that records its begin and its end, beside `conntrack -E`, whether the
 * counts are the kernel's, whether BFD notices, and how soon a lookup among a million flows is answered.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as files from '../../../lib/files.ts';
import type { Lookup } from '../../../nat/conntrack/lookup.ts';
import { TranslationStore } from '../../../nat/conntrack/store.ts';
import { Flow } from '../../../nat/conntrack/table.ts';
import { answerEverything, sendMeanwhile } from '../../live/conntrack-load.ts';
import { Agent, BFD, DIRECT, gatewayPolicy, PolicyDirectory, WEB } from '../../support/agent.ts';
import { type Namespace, until } from '../../support/netns.ts';
import { startVegBfdd } from '../../support/peers.ts';
import { ADDRESS, topology } from '../../support/topology.ts';
import { SMALL_FLAGS } from '../as-in-image.ts';
import { type Context, inScope, type Part } from '../context.ts';
import { memory, ownCpu, tree } from '../processes.ts';
import type { Cell } from '../report.ts';
import { figure, quantile } from '../stats.ts';

interface Kind {
  name: string;
  /** Every record is written, not a hundred a second. */
  all?: boolean;
  flags?: string;
}

const KINDS: Kind[] = [
  { name: 'all records', all: true },
  { name: '100 records/s (default)' },
  { name: 'the same, in 64 MiB', flags: SMALL_FLAGS },
];

/** The agent process, `conntrack -E -o xml`, µs of processor time for each flow; MiB. */
interface Cost {
  kind: string;
  agentBegin: number;
  agentEnd: number;
  conntrackBegin: number;
  conntrackEnd: number;
  /** At most so many flows began in a second. */
  rate: number;
  /** Anonymous MiB of the agent process, before and with all flows, and of `conntrack`. */
  idle: number;
  loaded: number;
  conntrackMemory: number;
  /** How late BFD packets left, before any flow and while they began and ended. */
  late: { before: Lateness; during: Lateness };
  flows: number;
  connections: number;
  /** Start and end records, and the lost ones by the agent's own count. */
  records: number;
  lost: number;
  exact: boolean;
}

/** `veg_bfd_transmit_lateness_seconds`: packets, the sum of their delays, and how many left within 2 ms. */
interface Lateness {
  packets: number;
  seconds: number;
  prompt: number;
}

function lateness(agent: Agent): Lateness {
  const value = (suffix: string) => agent.metric(`veg_bfd_transmit_lateness_seconds_${suffix}`) ?? 0;
  return { packets: value('count'), seconds: value('sum'), prompt: value('bucket{le="0.002"}') };
}

const since = (now: Lateness, then: Lateness): Lateness => ({
  packets: now.packets - then.packets,
  seconds: now.seconds - then.seconds,
  prompt: now.prompt - then.prompt,
});

const latenessText = ({ packets, seconds, prompt }: Lateness): string =>
  `${figure((seconds / packets) * 1000)} ms, ${figure((prompt / packets) * 100)} %`;

/** What the kernel has counted on UDP flows. */
function kernelCounts(ns: Namespace): { flows: number; packets: number; bytes: number } {
  const { stdout } = ns.run('conntrack', ['-L', '-p', 'udp']);
  const all = (name: string) =>
    [...stdout.matchAll(new RegExp(`${name}=(\\d+)`, 'g'))].reduce((total, [, n]) => total + Number(n), 0);
  return { flows: stdout.split('\n').filter(Boolean).length, packets: all('packets'), bytes: all('bytes') };
}

async function flows(context: Context, { name: kind, all, flags }: Kind): Promise<Cost> {
  const [count, rate] = context.pick([50_000, 5000], [5000, 2500]);
  return inScope(async (scope) => {
    const { client, router, gateway, server } = topology(scope);
    const policy = new PolicyDirectory(scope);
    const spec = {
      ...{ policies: [DIRECT, WEB], bfd: BFD },
      translationLog: {
        enabled: true,
        ...(all && { rateLimit: { recordsPerSecond: 100_000, burst: 1_000_000 } }),
      },
    };
    policy.write({ 'gateway.yaml': gatewayPolicy(spec) });
    await startVegBfdd(scope, router, {
      sessions: [{ local: ADDRESS.bfdPort[4], remote: ADDRESS.gatewayInternal[4] }],
    });
    const agent = new Agent(gateway, {
      policyDir: policy.dir,
      stateDir: scope.directory('state'),
      args: ['--translation-log', join(scope.directory('log'), 'records.log')],
      ...(flags !== undefined && {
        // In place of the plain node that the agent is started with.
        wrapper: ['sh', '-c', `node=$1; shift; exec $node ${flags} "$@"`, 'sh'],
        env: { UV_THREADPOOL_SIZE: '1', MALLOC_ARENA_MAX: '1' },
      }),
    });
    await agent.synced();
    await until(() => agent.http('/metrics').body.includes('collector="conntrack"} 1'), {
      what: 'the translation log',
      everyMs: 200,
    });
    await answerEverything(server);
    // No flow ends by itself meanwhile.
    gateway.sh('sysctl -qw net.netfilter.nf_conntrack_udp_timeout=600');
    const events = gateway.spawn(
      'sh',
      ['-c', `exec conntrack -E -e NEW,DESTROY -o xml > ${scope.dir}/events.xml`],
      { name: 'conntrack' },
    );
    await sleep(2000);
    const [, pid] = tree(agent.daemon.pid) as [number, number];
    const sum = (name: string) => {
      const found = agent.http('/metrics').body.matchAll(new RegExp(`^${name}[^ ]* (\\d+)`, 'gm'));
      return [...found].reduce((total, [, n]) => total + Number(n), 0);
    };
    const connections = () => sum('veg_snat_connections_total\\{policy="web",family="ipv4"');
    const packets = () => sum('veg_snat_packets_total\\{policy="web",family="ipv4"');
    const bytes = () => sum('veg_snat_bytes_total\\{policy="web",family="ipv4"');
    const records = () => sum('veg_translation_records_total');
    const lost = () => sum('veg_translation_records_lost_total');
    const cost = { agent: [] as number[], conntrack: [] as number[] };
    const measure = async (work: () => Promise<void>) => {
      const before = [ownCpu(pid), ownCpu(events.pid)] as const;
      await work();
      cost.agent.push(((ownCpu(pid) - before[0]) / count) * 1e6);
      cost.conntrack.push(((ownCpu(events.pid) - before[1]) / count) * 1e6);
    };
    const idle = memory([pid]).anonymous;
    const start = lateness(agent);
    await sleep(context.pick(5000, 1000));
    const calm = lateness(agent);
    await measure(() =>
      sendMeanwhile(client, 'udp', ADDRESS.server[4], 10_000, count, 1, rate)
        .ended()
        .then(() => {}),
    );
    await until(() => connections() >= count, { what: 'all flows', everyMs: 500 });
    const loaded = memory([pid]).anonymous;
    const conntrackMemory = memory([events.pid]).anonymous;
    // The last answers may still be on their way.
    await sleep(2000);
    const kernel = kernelCounts(gateway);
    await measure(async () => {
      gateway.run('conntrack', ['-F']);
      await until(() => kernelCounts(gateway).flows < 100, {
        what: 'the flush',
        everyMs: 300,
      });
      await until(() => records() + lost() >= 2 * count, {
        what: 'all ends',
        everyMs: 500,
      });
    });
    // Of flows that live the table is read now and then; their end brings their last counts.
    const exact = await until(() => bytes() === kernel.bytes && packets() === kernel.packets, {
      what: 'the kernel’s counts',
      everyMs: 2000,
    }).catch(() => {
      context.say(
        `${kind}: ${packets()} packets and ${bytes()} octets, the kernel had ${kernel.packets} and ${kernel.bytes}`,
      );
      return false;
    });
    return {
      ...{ kind, agentBegin: cost.agent[0]!, agentEnd: cost.agent[1]! },
      ...{ conntrackBegin: cost.conntrack[0]!, conntrackEnd: cost.conntrack[1]! },
      ...{ rate, idle, loaded, conntrackMemory, flows: count, connections: connections() },
      ...{ records: records(), lost: lost(), exact },
      late: { before: since(calm, start), during: since(lateness(agent), calm) },
    };
  });
}

interface Answered {
  question: string;
  /** Milliseconds a lookup; processor time, ms. */
  wall: number[];
  cpu: number[];
  found: number;
}

/** Stores flows, the same five thousand a second, and looks some of them up. */
function lookups(context: Context): { store: number; answers: Answered[]; stored: number } {
  const stored = context.pick(1_000_000, 50_000);
  const asks = context.pick(2000, 200);
  const rate = 5000;
  const directory = mkdtempSync(join(tmpdir(), 'veg-bench-'));
  let now = Date.now() - (stored / rate) * 1000;
  const store = new TranslationStore({
    ...{ directory, maxBytes: 1 << 30, maxAge: 7 * 86_400_000 },
    now: () => now,
    onAnew: (text) => context.say(text),
    files,
  });
  const random = (below: number) => Math.floor(Math.random() * below);
  const flow = new Flow();
  const asked: Lookup[] = [];
  const outside = Uint8Array.of(172, 17, 0, 11);
  const began = process.cpuUsage();
  for (let i = 0; i < stored; i++) {
    const source = Uint8Array.of(10, 17, random(16), random(256));
    const destination = Uint8Array.of(93, 184, random(16), random(256));
    const port = 1024 + random(64_512);
    flow.set({
      ...{ family: 4, protocol: 6, id: i, zone: 0, status: 0 },
      original: { source, sourcePort: 1024 + random(64_512), destination, destinationPort: 443 },
      reply: { source: destination, sourcePort: 443, destination: outside, destinationPort: port },
    });
    flow.verdict = 'translated';
    flow.start = now - 120_000;
    flow.counters = { originalPackets: 10, originalBytes: 5000, replyPackets: 12, replyBytes: 90_000 };
    store.add(flow, 'web', now, false);
    if (i % (stored / asks) === 0) {
      const at = Math.floor(now) - 60_000;
      asked.push({ external: { address: outside, port }, protocols: [6], from: at, to: at, limit: 1001 });
    }
    now += 1000 / rate;
    if (i % (rate / 2) === 0) store.commit();
  }
  store.commit();
  const spent = process.cpuUsage(began);
  const answer = (question: string, questions: Lookup[]): Answered => {
    const answered: Answered = { question, wall: [], cpu: [], found: 0 };
    for (const lookup of questions) {
      const [at, before] = [performance.now(), process.cpuUsage()];
      answered.found += store.find(lookup).length / questions.length;
      const { user, system } = process.cpuUsage(before);
      answered.wall.push(performance.now() - at);
      answered.cpu.push((user + system) / 1000);
    }
    return answered;
  };
  asked.sort(() => Math.random() - 0.5);
  const some = asked.slice(0, 200);
  const { limit } = asked[0]!;
  const answers = [
    answer('external address, port, protocol, time', asked),
    answer(
      'external address and port, any time',
      asked.map((one) => ({ ...one, from: 0, to: now })),
    ),
    answer(
      'pod, at a time',
      some.map(({ from, to }) => ({
        internal: { address: Uint8Array.of(10, 17, random(16), random(256)) },
        from,
        to,
        limit,
      })),
    ),
    answer(
      'destination and port, any time',
      some.map(() => ({
        dest: { address: Uint8Array.of(93, 184, random(16), random(256)), port: 443 },
        from: 0,
        to: now,
        limit,
      })),
    ),
    answer(
      'external address alone, at a time',
      some.slice(0, 20).map((one) => ({ ...one, external: { address: outside } })),
    ),
  ];
  store.close();
  rmSync(directory, { recursive: true });
  return { store: (spent.user + spent.system) / stored, answers, stored };
}

export const part: Part = async (context) => {
  context.say('lookups');
  const looked = lookups(context);
  const costs: Cost[] = [];
  for (const kind of context.pick(KINDS, KINDS.slice(0, 1))) {
    context.say(`flows: ${kind.name}`);
    costs.push(await flows(context, kind));
  }
  const columns = ['', ...costs.map(({ kind }) => kind), 'conntrack -E -o xml'];
  const row = (name: string, own: (cost: Cost) => Cell, other?: (cost: Cost) => number): Cell[] => [
    ...[name, ...costs.map(own)],
    other && quantile(costs.map(other), 0.5),
  ];
  const ratio = (agent: number, conntrack: number) => `${(agent / conntrack).toFixed(1)} ×`;
  return {
    tables: [
      {
        title: `${costs[0]!.flows.toLocaleString('en').replaceAll(',', ' ')} UDP flows that begin, and then end all at once`,
        columns,
        rows: [
          row('flows that begin in a second, at most', (c) => c.rate),
          row(
            'processor time, a flow that begins, µs',
            (c) => c.agentBegin,
            (c) => c.conntrackBegin,
          ),
          row('against conntrack -E', (c) => ratio(c.agentBegin, c.conntrackBegin)),
          row(
            'processor time, a flow that ends, µs',
            (c) => c.agentEnd,
            (c) => c.conntrackEnd,
          ),
          row('against conntrack -E', (c) => ratio(c.agentEnd, c.conntrackEnd)),
          row(
            'processor time in a second with 500 begins and 500 ends, ms',
            (c) => (c.agentBegin + c.agentEnd) / 2,
            (c) => (c.conntrackBegin + c.conntrackEnd) / 2,
          ),
          row('anonymous memory, idle, MiB', (c) => c.idle),
          row(
            'with all flows',
            (c) => c.loaded,
            (c) => c.conntrackMemory,
          ),
          row('connections counted', (c) => c.connections),
          row('records, and lost ones by their own count', (c) => `${c.records} + ${c.lost}`),
          row('packets and bytes in the end are the kernel’s', (c) => (c.exact ? 'yes' : 'no')),
          row('BFD packets late by, on average, and within 2 ms: before', ({ late }) =>
            latenessText(late.before),
          ),
          row('while flows begin and end', ({ late }) => latenessText(late.during)),
        ],
        note: 'Both read the events of the same flows at the same time. The agent’s share is that of its whole process, with its idle share; it keeps the flow, counts, writes the record and stores it. Records beyond the rate limit are lost on purpose and counted.',
      },
      {
        title: `Lookups among ${looked.stored.toLocaleString('en').replaceAll(',', ' ')} stored flows, ms`,
        columns: ['by', 'lookups', 'median', 'p99', 'worst', 'processor time, median', 'p99', 'found each'],
        rows: looked.answers.map(({ question, wall, cpu, found }) => [
          ...[question, wall.length, ...[0.5, 0.99, 1].map((share) => quantile(wall, share))],
          ...[quantile(cpu, 0.5), quantile(cpu, 0.99), found],
        ]),
        note: `To store a flow took ${looked.store.toFixed(1)} µs of processor time.`,
      },
    ],
    panels: [
      {
        kind: 'bars',
        title: 'Processor time for a flow',
        y: { label: 'µs' },
        categories: ['begins', 'ends'],
        series: [
          ...costs.map(({ kind, agentBegin, agentEnd }) => ({ name: kind, values: [agentBegin, agentEnd] })),
          {
            name: 'conntrack -E -o xml',
            values: [costs.map((c) => c.conntrackBegin), costs.map((c) => c.conntrackEnd)].map((v) =>
              quantile(v, 0.5),
            ),
          },
        ],
      },
      {
        kind: 'bars',
        title: `Lookups among ${looked.stored.toLocaleString('en').replaceAll(',', ' ')} flows`,
        y: { label: 'ms', log: true },
        categories: looked.answers.map((_, i) => `${i + 1}`),
        series: [
          {
            name: 'median (in the order of the table)',
            values: looked.answers.map(({ wall }) => quantile(wall, 0.5)),
          },
          { name: 'p99', values: looked.answers.map(({ wall }) => quantile(wall, 0.99)) },
        ],
      },
    ],
    samples: {
      costs,
      store: looked.store,
      lookups: looked.answers.map(({ question, wall, cpu }) => ({
        question,
        wall: [0.5, 0.9, 0.99, 1].map((q) => quantile(wall, q)),
        cpu: [0.5, 0.9, 0.99, 1].map((q) => quantile(cpu, q)),
      })),
    },
  };
};
