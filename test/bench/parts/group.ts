/**
 * Gateways of a group: how soon a flow of one member is known to another and what that costs, beside conntrackd; and what
 * connections through real OVN suffer when members die, come back and are replaced.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { GatewayGroup, OvnPlace, WHOLE } from '../../support/gateway-group.ts';
import type { Cost } from '../../support/group-load.ts';
import type { Daemon, Namespace, Scope } from '../../support/netns.ts';
import { startConntrackd } from '../conntrackd.ts';
import { type Context, inScope, type Part } from '../context.ts';
import { answerFlows, sendFlows, sentBy } from '../flow-load.ts';
import { type GroupLab, groupLab, SHARED } from '../group-lab.ts';
import { ownCpu, threadCpu, tree } from '../processes.ts';
import type { Cell, Table } from '../report.ts';
import { type Summary, summary } from '../stats.ts';

/** New flows a second. */
const RATE = 2000;

// Replication ----------------------------------------------------------------------------------------------

const AGENT = 'veg-agent';
const CONNTRACKD = 'conntrackd';

interface Replicated {
  who: string;
  flows: number;
  missing: number;
  /** ms */
  lag: Summary;
  /** Processor time of sender and receiver for each flow, µs: what replicates, and the whole agent process. */
  cost: [number, number];
  process: [number, number];
}

/** What replicates in each of two gateways, and the processes that it is part of. */
interface Rival {
  /** The event that makes a flow known to the others; the replica's is NEW. */
  event: 'NEW' | 'UPDATES';
  start(scope: Scope, lab: GroupLab): Promise<(() => { part: number; whole: number })[]>;
}

const RIVALS: Record<string, Rival> = {
  [AGENT]: {
    event: 'UPDATES',
    start: async (_scope, lab) =>
      (await lab.start()).map((agent) => {
        const [, pid] = tree(agent.daemon.pid) as [number, number];
        return () => ({ part: threadCpu(pid, 'group'), whole: ownCpu(pid) });
      }),
  },
  [CONNTRACKD]: {
    event: 'NEW',
    async start(scope, { gateways, server }) {
      for (const { ns } of gateways) {
        ns.sysctl({ 'net.ipv4.ip_forward': 1 });
        const snat = `-j SNAT --to-source ${SHARED}:1024-65535 --random-fully`;
        ns.sh(`iptables -t nat -A POSTROUTING -o net1 -s 10.18.0.0/16 -p udp ${snat}`);
        ns.ip(`route add ${SHARED}/32 dev lo`);
      }
      const [first, second] = gateways as [(typeof gateways)[0], (typeof gateways)[0]];
      const [link] = JSON.parse(first.ns.sh('ip -j link show net1')) as [{ address: string }];
      server.ip(`neigh replace ${SHARED} lladdr ${link.address} dev eth0 nud permanent`);
      const node = (self: typeof first, other: typeof first) =>
        startConntrackd(scope, self.ns, { device: 'eth0', local: self.inside, remote: other.inside });
      const daemons = [await node(first, second), await node(second, first)];
      return daemons.map(({ pid }) => () => ({ part: ownCpu(pid), whole: ownCpu(pid) }));
    },
  },
};

/** Prints events of UDP flows with the time at which they were read. */
const watch = (ns: Namespace, events: string): Daemon =>
  ns.spawn('conntrack', ['-E', '-b', '16777216', '-e', events, '-p', 'udp', '-o', 'timestamp'], {
    name: 'events',
  });

/** The first event of each flow, ms by flow. */
function firstEvents(log: string): Map<string, number> {
  const found = new Map<string, number>();
  for (const [, at, flow] of log.matchAll(/^\[(\d+\.\d+)\].*? src=\S+ (dst=198\S+ sport=\d+) /gm)) {
    if (!found.has(flow!)) found.set(flow!, Number(at) * 1000);
  }
  return found;
}

function replicate(context: Context, who: string): Promise<Replicated> {
  return inScope(async (scope) => {
    context.say(`replication: ${who}`);
    const { event, start } = RIVALS[who]!;
    const lab = groupLab(scope, 2);
    const [first, second] = lab.gateways as [GroupLab['gateways'][0], GroupLab['gateways'][0]];
    const costs = await start(scope, lab);
    await answerFlows(lab.server);
    // A program that has just started is slower.
    await sentBy(sendFlows(lab.client, first.source, RATE, context.pick(5, 3)));
    await sleep(2000);
    const events = [watch(first.ns, event), watch(second.ns, 'NEW')];
    await sleep(1000);
    const before = costs.map((cost) => cost());
    const load = sendFlows(lab.client, first.source, RATE, context.pick(12, 4));
    const { sent } = await sentBy(load);
    await sleep(1000);
    const used = costs.map((cost, i) => {
      const { part, whole } = cost();
      return { part: part - before[i]!.part, whole: whole - before[i]!.whole };
    });
    const [here, there] = events.map((daemon) => firstEvents(daemon.log())) as [
      Map<string, number>,
      Map<string, number>,
    ];
    const lags = [...here].flatMap(([flow, at]) => {
      const known = there.get(flow);
      return known === undefined ? [] : [Math.max(0, known - at)];
    });
    const each = (key: 'part' | 'whole') => used.map((one) => (one[key] / sent) * 1e6) as [number, number];
    return {
      ...{ who, flows: sent, missing: here.size - lags.length, lag: summary(lags) },
      ...{ cost: each('part'), process: each('whole') },
    };
  });
}

// Failures -------------------------------------------------------------------------------------------------

const CONNECTIONS = 200;
/** After so long without a change OVN acts at once on what it hears of a session; sooner, up to 5 s later, ms. */
const REST = 6000;
/** Deaths, what follows them, and rolling replacements. */
const EVENTS = /^(?:the pod of|rolling|from 3 members to 2$)/;

interface Happened extends Cost {
  event: string;
}

function failures(context: Context): Promise<Happened[]> {
  return inScope(async (scope) => {
    context.say('starting OVN');
    const place = await OvnPlace.start(scope, { gateways: 3, wake: true });
    const group = new GatewayGroup(scope, place, { connections: CONNECTIONS, streams: 2 });
    await group.start();
    await group.load();
    const seen: Happened[] = [];
    const steps = WHOLE.filter(({ what }) => EVENTS.test(what));
    for (const { what: event, act } of steps.slice(0, context.pick(steps.length, 2))) {
      await sleep(context.pick(REST, 1000));
      context.say(event);
      seen.push({ event, ...(await group.during(() => act(group))) });
    }
    await group.close();
    return seen;
  });
}

// Tables ---------------------------------------------------------------------------------------------------

const replicationTable = (all: Replicated[]): Table => ({
  title: `Flows that are known to another gateway, ${RATE} new ones a second`,
  columns: [
    '',
    'flows',
    'not known there',
    'known after, ms: median',
    'p99',
    'worst',
    'processor time a flow, µs: sender',
    'receiver',
    'whole process: sender',
    'receiver',
  ],
  rows: all.map(({ who, flows, missing, lag, cost, process }): Cell[] => [
    ...[who, flows, missing, lag.p50, lag.p99, lag.max],
    ...[...cost, ...process],
  ]),
  note: 'Two gateways. From the event in one kernel that the program acts on (conntrackd: a new flow; veg-agent: an answered one) to the entry in the other kernel, as `conntrack -E` reads both. veg-agent: processor time of the exchange’s thread with TLS, and of the whole agent process, which counts and watches meanwhile.',
});

const failureTable = (all: Happened[]): Table => ({
  title: `${CONNECTIONS} open TCP connections and 1000 UDP packets a second, three gateways behind OVN at 100 ms × 5, members at 100 ms × 3`,
  columns: [
    'event',
    'egress addresses seen',
    'connections broken',
    'longest wait, ms',
    'packets lost',
    'new connections',
    'late',
    'failed',
  ],
  rows: all.map(({ event, sources, broken, stallMs, udpLost, begun, late, failed }): Cell[] => [
    ...[event, sources.length, broken, stallMs, udpLost, begun, late, failed],
  ]),
  note: 'Replaced: drained, removed, and made anew with an empty kernel. Late: answered after the first SYN was sent again. Without a group a gateway that goes takes all connections through it along (Failover behind OVN).',
});

export const part: Part = async (context) => {
  const replicated: Replicated[] = [];
  for (const who of [AGENT, CONNTRACKD]) replicated.push(await replicate(context, who));
  const happened = await failures(context);
  return {
    tables: [replicationTable(replicated), failureTable(happened)],
    panels: [
      {
        kind: 'bars',
        title: 'Known to another gateway after',
        y: { label: 'ms', log: true },
        categories: ['median', 'p99'],
        series: replicated.map(({ who, lag }) => ({ name: who, values: [lag.p50, lag.p99] })),
      },
      {
        kind: 'bars',
        title: 'Processor time for a flow',
        y: { label: 'µs' },
        categories: ['sender', 'receiver'],
        series: replicated.map(({ who, cost }) => ({ name: who, values: cost })),
      },
      {
        kind: 'bars',
        title: 'Packets lost at 1000 a second',
        y: { label: 'packets' },
        categories: happened.map(({ event }) => event),
        series: [{ name: AGENT, values: happened.map(({ udpLost }) => udpLost) }],
      },
    ],
    samples: { replicated, happened },
  };
};
