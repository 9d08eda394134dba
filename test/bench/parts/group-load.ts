/**
 * Three members of a group, each with many new flows, in control groups with the image's memory and more: how far behind the
 * replicas are, what it takes, what is dropped, how late BFD is, and how long the group needs afterwards until all agree.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Agent } from '../../support/agent.ts';
import { imageOptions, makeBundle } from '../as-in-image.ts';
import { type Context, inScope, type Part } from '../context.ts';
import { answerFlows, sendFlows, sentBy } from '../flow-load.ts';
import { groupLab } from '../group-lab.ts';
import { agreed, atMost, type Reading, read, since } from '../group-measure.ts';
import { ControlGroup, type Limits } from '../processes.ts';
import type { Cell } from '../report.ts';
import { sum } from '../stats.ts';

const MEMBERS = 3;

interface Scenario extends Limits {
  memory: number;
  /** New flows a second on each member, and how long a flow lives after its answer, s. */
  rate: number;
  lives: number;
}

const SCENARIOS: Scenario[] = [
  { memory: 256, rate: 2000, lives: 2 },
  { memory: 64, rate: 2000, lives: 2 },
  { memory: 64, cpu: 300, rate: 2000, lives: 2 },
  { memory: 256, rate: 10_000, lives: 1 },
];

interface Measured extends Scenario {
  /** New flows a second on each member that were sent. */
  sent: number;
  seconds: number;
  /** Of each member, undefined if its agent was killed meanwhile. */
  members: (Reading | undefined)[];
  /** The highest memory of a member's control group, MiB, and processes that the kernel killed for it. */
  peak: number;
  kills: number;
  /** Until all agreed, ms; undefined: not within a minute. */
  healed: number | undefined;
}

const readOf = (agent: Agent): Reading | undefined => {
  try {
    return read(agent);
  } catch {
    return undefined;
  }
};

async function measure(context: Context, bundle: string, scenario: Scenario): Promise<Measured> {
  const { memory, cpu, rate, lives } = scenario;
  const groups = Array.from(
    { length: MEMBERS },
    (_, i) =>
      new ControlGroup(`veg-bench-${process.pid}-${i}`, { memory, ...(cpu !== undefined && { cpu }) }),
  );
  const measured = inScope(async (scope): Promise<Measured> => {
    const lab = groupLab(scope, MEMBERS);
    for (const { ns } of lab.gateways) {
      ns.sh(`sysctl -qw net.netfilter.nf_conntrack_udp_timeout=${lives}`);
    }
    await answerFlows(lab.server);
    const agents = await lab.start((gateway) => ({
      ...imageOptions(bundle, memory),
      group: groups[lab.gateways.indexOf(gateway)]!,
    }));
    await sleep(3000);
    const before = agents.map(readOf);
    const seconds = context.pick(15, 4);
    const loads = lab.gateways.map(({ source }) => sendFlows(lab.client, source, rate, seconds));
    const sent = await Promise.all(loads.map((load) => sentBy(load)));
    const members = agents.map((agent, i) => {
      const [now, then] = [readOf(agent), before[i]];
      // Another process has other counts.
      return now && then && now.sent >= then.sent && now.late.counts.at(-1)! >= then.late.counts.at(-1)!
        ? since(now, then)
        : undefined;
    });
    const healed = await agreed(agents).catch(() => undefined);
    const result: Measured = {
      ...{ ...scenario, seconds, members, healed },
      sent: sum(sent.map((one) => one.sent / one.seconds)) / MEMBERS,
      peak: Math.max(...groups.map((group) => group.peak())),
      kills: sum(groups.map((group) => group.outOfMemoryKills())),
    };
    await Promise.all(agents.map((agent) => agent.stop('SIGKILL')));
    return result;
  });
  return measured.finally(() => Promise.all(groups.map((group) => group.remove())));
}

const containerOf = ({ memory, cpu }: Scenario): string =>
  `${memory} MiB${cpu === undefined ? '' : `, ${cpu}m`}`;

/** The most of all members that were not killed. */
const most = (members: Measured['members'], value: (reading: Reading) => number): Cell => {
  const known = members.filter((one) => one !== undefined);
  return known.length === 0 ? undefined : Math.max(...known.map(value));
};

/** What was dropped, by reason, of all members. */
function dropped(members: Measured['members']): string {
  const all = new Map<string, number>();
  for (const [reason, count] of members.flatMap((one) => Object.entries(one?.rejected ?? {}))) {
    all.set(reason, (all.get(reason) ?? 0) + count);
  }
  return [...all].map(([reason, count]) => `${reason} ${count}`).join(', ') || 'nothing';
}

const row = ({ sent, seconds, members, peak, kills, healed, ...scenario }: Measured): Cell[] => [
  containerOf(scenario),
  ...[scenario.rate, sent],
  most(members, ({ sent: out, received }) => (out + received) / seconds),
  ...[
    most(members, ({ lag }) => 1000 * atMost(lag, 0.5)),
    most(members, ({ lag }) => 1000 * atMost(lag, 0.99)),
  ],
  most(members, (one) => (one.thread / (one.sent + one.received)) * 1e6),
  most(members, (one) => (100 * (one.agent + one.bfd)) / seconds),
  ...[peak, kills],
  ...[
    most(members, ({ late }) => 1000 * atMost(late, 0.99)),
    most(members, ({ late }) => 1000 * atMost(late, 1)),
  ],
  most(members, ({ transitions }) => transitions),
  dropped(members),
  healed === undefined ? 'not in 60 s' : healed / 1000,
];

export const part: Part = async (context) => {
  const bundle = makeBundle();
  const all: Measured[] = [];
  const failures: string[] = [];
  for (const scenario of context.pick(SCENARIOS, SCENARIOS.slice(0, 1))) {
    if (all.length > 0 && context.left() < 90_000) break;
    const name = `${containerOf(scenario)}, ${scenario.rate} flows a second`;
    context.say(name);
    try {
      all.push(await measure(context, bundle, scenario));
    } catch (error) {
      failures.push(`${name}: ${(error as Error).message.split('\n')[0]}`);
    }
  }
  return {
    tables: [
      {
        title: 'Three members under new flows, as in the image; the worst member',
        columns: [
          'container',
          'new flows a second on each: wanted',
          'sent',
          'changes a second, out and in',
          'lag at most, ms: median',
          'p99',
          'processor time a change, µs',
          'agent and BFD, % of a core',
          'memory at most, MiB',
          'killed for memory',
          'BFD late at most, ms: p99',
          'worst',
          'BFD changes',
          'dropped',
          'all agree after, s',
        ],
        rows: all.map(row),
        note: `UDP flows of one packet and its answer, which live one or two seconds. Lag: from the event to the acknowledgement; lag and lateness are the bounds of their histograms. Two cores carry everything: at 10 000 a second the flows themselves take most of them. Dropped is counted in \`veg_group_rejected_total\`, works, and is replicated by the next comparison.${failures.length > 0 ? ` Not everything could be measured: ${failures.join('; ')}.` : ''}`,
      },
    ],
    panels: [
      {
        kind: 'bars',
        title: 'Memory at most',
        y: { label: 'MiB' },
        categories: all.map((scenario) => `${containerOf(scenario)}, ${scenario.rate}/s`),
        series: [{ name: 'veg-agent', values: all.map(({ peak }) => peak) }],
      },
    ],
    samples: all,
  };
};
