/**
 * What the rules cost the packets: new connections a second, packets of an established one, and its round trip, through
 * gateways that the agent and the init script's way have programmed, side by side.
 */
import { COUNTER_TABLE } from '../../../nat/counters/table.ts';
import { desiredNat } from '../../../nat/desired.ts';
import { diffNat } from '../../../nat/diff.ts';
import { GATE } from '../../../nat/gate.ts';
import { isRuleStep, rulesInput } from '../../../nat/render.ts';
import { CHAIN_STRAY } from '../../../nat/rules.ts';
import { emptyState } from '../../../nat/state.ts';
import { AGENT, PolicyDirectory } from '../../support/agent.ts';
import { must, type Namespace, NODE, type Scope, veth } from '../../support/netns.ts';
import { block, blocks } from '../blocks.ts';
import { type Context, inScope, type Part } from '../context.ts';
import { Packets } from '../packets.ts';
import type { Cell } from '../report.ts';
import { median, quantile } from '../stats.ts';

const SOURCE = '10.17.0.9';
const NEW_MS = 200;
const FLOW_MS = 80;
const PINGS = 300;

export type Kind =
  | 'blocks'
  | 'policies'
  | 'linear'
  | 'blocks uncounted'
  | 'policies uncounted'
  | 'blocks chained'
  | 'blocks chained uncounted';

const KINDS: Record<Kind, string> = {
  blocks: 'veg-agent, forwarded blocks',
  policies: 'veg-agent, policies',
  'blocks uncounted': 'the same as blocks, without counters',
  'policies uncounted': 'the same as policies, without counters',
  'blocks chained': 'the same as blocks, VEG-NEW instead of the gate',
  'blocks chained uncounted': 'the same, without counters',
  linear: 'two RETURN rules a block',
};

/** A gateway between the client and the server, and what was measured through it. */
export interface Gateway {
  kind: Kind;
  size: number;
  ns: Namespace;
  i: number;
  /** Connections a second; packets a second; microseconds. */
  fresh: number[];
  flow: number[];
  roundTrips: number[];
  /** The share of the packets of new connections that found a place in the table. */
  tracked: number[];
}

/** The i-th gateway's cables and addresses. */
export function wire(scope: Scope, client: Namespace, server: Namespace, i: number): Namespace {
  const ns = scope.namespace(`gw${i}`);
  veth(client, `g${i}`, ns, 'eth0', 1400);
  veth(server, `g${i}`, ns, 'net1');
  ns.ip(`
    addr add 10.100.${i}.12/24 dev eth0
    addr add 172.20.${i}.11/24 dev net1
    route add default via 172.20.${i}.1 dev net1`);
  client.ip(`
    addr add 10.100.${i}.1/24 dev g${i}
    route add 198.18.${i}.0/24 via 10.100.${i}.12 src ${SOURCE}
    route add 172.20.${i}.0/24 via 10.100.${i}.12 src ${SOURCE}`);
  server.ip(`
    addr add 172.20.${i}.1/24 dev g${i}
    route add 10.200.${i}.0/24 via 172.20.${i}.11`);
  return ns;
}

/** Lets `veg-agent apply` program a gateway. */
function programByAgent(scope: Scope, { kind, size, ns, i }: Gateway): void {
  const forwarded = { name: 'direct', snat: false, ipBlocks: blocks(size) };
  // Each with a destination and an address of its own, so that no two are the same to the kernel; the client is in
  // the last.
  const policies = Array.from({ length: size }, (_, n) => ({
    ...{ name: `p${n}`, ipBlocks: [n === size - 1 ? `${SOURCE}/32` : block(n)] },
    // The upper half of the internet has the client's destinations.
    destinationCIDRs: ['128.0.0.0/1', `10.0.${n >> 8}.${n & 0xff}/32`],
    egressIP: { address: [`10.200.${i}.${1 + (n % 250)}`], announce: false },
  }));
  const policy = new PolicyDirectory(scope);
  const document = {
    ...{
      apiVersion: 'veg-agent.io/v1alpha1',
      kind: 'GatewayPolicy',
      metadata: { name: 'gateway1', namespace: 'default' },
    },
    spec: {
      internal: { gateways: [`10.100.${i}.1`] },
      external: { gateways: [`172.20.${i}.1`] },
      policies: kind.startsWith('policies') ? policies : size > 0 ? [forwarded] : [],
    },
  };
  policy.write({ 'gateway.json': JSON.stringify(document) });
  const applied = ns.run(
    NODE,
    [AGENT, 'apply', '--policy-dir', policy.dir, '--state-dir', scope.directory('state')],
    { timeoutMs: 120_000 },
  );
  if (applied.code !== 0) throw new Error(`apply of ${size} ${kind}: ${applied.stderr.slice(-2000)}`);
  if (kind.startsWith('blocks chained')) chain(ns);
  if (!kind.endsWith('uncounted')) return;
  for (const family of ['ip', 'ip6']) ns.run('nft', ['delete', 'table', family, COUNTER_TABLE.name]);
}

/** mangle VEG-NEW, without forwarded blocks. */
const CHAINS = rulesInput(
  diffNat(
    emptyState(),
    desiredNat([{ family: 4, internalInterface: 'eth0', forward: [], notrackBfd: false, dropInvalid: true }]),
  )
    .filter(isRuleStep)
    .filter(({ table, chain }) => table === 'mangle' && chain !== 'INPUT' && chain !== CHAIN_STRAY),
);

/** Lets iptables do what the gate does. */
function chain(ns: Namespace): void {
  ns.run('iptables-restore', ['--noflush'], { input: CHAINS });
  ns.run('nft', ['delete', 'table', 'ip', GATE.name]);
}

/** Programs a gateway as the init script does: what its calls would leave in the kernel, a pair of rules a block. */
export function programLinear({ size, ns, i }: Pick<Gateway, 'size' | 'ns' | 'i'>): void {
  ns.sysctl({ 'net.ipv4.ip_forward': 1 });
  ns.ip(
    `
    rule add priority 1001 iif eth0 lookup default
    rule add priority 1002 iif net1 lookup 1000
    rule add priority 1003 from 10.100.${i}.12 iif lo lookup 1000
    rule add priority 1004 from 172.20.${i}.11 iif lo lookup default
    route add default via 10.100.${i}.1 dev eth0 table 1000`,
    4,
  );
  const rules = [
    ...['*nat', '-N VEG-MASQUERADE', '-A PREROUTING -i eth0 -j MARK --set-xmark 0x4000/0x4000'],
    ...blocks(size).flatMap((each) => [
      `-A POSTROUTING -d ${each} -j RETURN`,
      `-A POSTROUTING -s ${each} -j RETURN`,
    ]),
    ...['-A POSTROUTING -j VEG-MASQUERADE', '-A VEG-MASQUERADE -j MARK --set-xmark 0x0/0xffffffff'],
    ...['-A VEG-MASQUERADE -j MASQUERADE --random-fully', 'COMMIT', ''],
  ];
  const input = rules.join('\n');
  must('ip', ['netns', 'exec', ns.name, 'iptables-restore', '--noflush'], { input });
}

const tracked = (ns: Namespace): number => Number(ns.sh('cat /proc/sys/net/netfilter/nf_conntrack_count'));

async function measure(packets: Packets, gateway: Gateway): Promise<void> {
  const { ns, i } = gateway;
  ns.run('conntrack', ['-F']);
  const fresh = await packets.send({ kind: 'new', network: `198.18.${i}`, ms: NEW_MS });
  gateway.fresh.push(fresh.packets / fresh.seconds);
  gateway.tracked.push(tracked(ns) / fresh.packets);
  ns.run('conntrack', ['-F']);
  const flow = await packets.send({ kind: 'flow', host: `172.20.${i}.1`, ms: FLOW_MS });
  gateway.flow.push(flow.packets / flow.seconds);
  const { roundTrips } = await packets.send({ kind: 'ping', host: `172.20.${i}.1`, count: PINGS });
  if (roundTrips!.length < PINGS * 0.9)
    throw new Error(`${PINGS - roundTrips!.length} of ${PINGS} pings lost through ${ns.name}`);
  gateway.roundTrips.push(...roundTrips!);
}

/** Makes a gateway for each of what is wanted, and measures through all of them in turn, at most so many rounds. */
export async function measureGateways(
  context: Context,
  wanted: [Kind, number][],
  most: number,
  reserveMs: number,
): Promise<Gateway[]> {
  const { say } = context;
  return inScope(async (scope) => {
    const [client, server] = [scope.namespace('client'), scope.namespace('server')];
    client.ip(`addr add ${SOURCE}/32 dev lo`);
    const gateways: Gateway[] = [];
    for (const [i, [kind, size]] of wanted.entries()) {
      say(`programming ${size}: ${KINDS[kind]}`);
      const ns = wire(scope, client, server, i);
      const gateway = { kind, size, ns, i, fresh: [], flow: [], roundTrips: [], tracked: [] };
      if (kind === 'linear') programLinear(gateway);
      else programByAgent(scope, gateway);
      gateways.push(gateway);
    }
    const packets = new Packets(client, SOURCE);
    const rounds = await context.rounds(most, reserveMs, async (round) => {
      if (round % 5 === 0) say(`round ${round + 1}`);
      // Turned by one each time: nobody is always the one after the slowest.
      for (let n = 0; n < gateways.length; n++)
        await measure(packets, gateways[(n + round) % gateways.length]!);
    });
    packets.end();
    say(`${rounds} rounds`);
    return gateways;
  });
}

export const part: Part = async (context) => {
  const wanted: [Kind, number][] = context.pick(
    [
      ...[0, 10, 1000, 10_000].flatMap((n): [Kind, number][] => [
        ['linear', n],
        ['blocks', n],
      ]),
      ...[10, 1000, 5000].map((n): [Kind, number] => ['policies', n]),
      ['blocks uncounted', 0],
      ['blocks chained', 0],
      ['blocks chained uncounted', 0],
      ['policies uncounted', 1000],
    ],
    [
      ['linear', 0],
      ['blocks', 0],
      ['linear', 1000],
      ['blocks', 1000],
      ['policies', 100],
      ['blocks uncounted', 0],
      ['blocks chained', 0],
      ['blocks chained uncounted', 0],
      ['policies uncounted', 100],
    ],
  );
  const gateways = await measureGateways(context, wanted, context.pick(40, 2), 5000);
  const find = (kind: Kind, size: number) => gateways.find((g) => g.kind === kind && g.size === size)!;
  const none = find('blocks', 0);
  /** The median of the ratios of one round, in percent of what there is without any blocks. */
  const change = (values: number[], base: number[]) =>
    (median(values.map((value, i) => value / base[i]!)) - 1) * 100;
  const percent = (value: number) => `${value > 0 ? '+' : ''}${value.toFixed(1)} %`;
  const spread = (values: number[]) =>
    [0.25, 0.75].map((share) => Math.round(quantile(values, share) / 1000)).join(' – ');
  const rows = gateways.map((g): Cell[] => [
    ...[KINDS[g.kind], g.size, median(g.fresh), spread(g.fresh), percent(change(g.fresh, none.fresh))],
    ...[
      median(g.flow),
      percent(change(g.flow, none.flow)),
      quantile(g.roundTrips, 0.5),
      quantile(g.roundTrips, 0.99),
    ],
  ]);
  const line = (kind: Kind, values: (g: Gateway) => number[]) => ({
    name: KINDS[kind],
    points: gateways
      .filter((g) => g.kind === kind || (kind === 'policies' && g === none))
      .map((g) => ({
        x: Math.max(1, g.size),
        y: median(values(g)),
        low: quantile(values(g), 0.25),
        high: quantile(values(g), 0.75),
      })),
  });
  const kinds: Kind[] = ['blocks', 'policies', 'linear'];
  return {
    tables: [
      {
        title: 'Through the gateway, one core',
        columns: [
          'rules for',
          'number',
          'new connections/s',
          'middle half, 1000/s',
          'against none',
          'packets/s, established',
          'against none',
          'round trip, µs, median',
          'p99',
        ],
        rows,
        note: `One core sends single packets and carries them through three namespaces (client, gateway, server); ${none.fresh.length} rounds, each through every gateway in turn; “against none” is the median of the ratios within a round to veg-agent without a block. Every source is translated, so that it passes all the rules. A policy has a block, destinations and one of 250 egress addresses of its own. Without counters: the table VEG-COUNTERS is deleted. VEG-NEW: the table VEG-GATE is deleted, and mangle does its work. At least ${Math.floor(Math.min(...gateways.map((g) => median(g.tracked))) * 100)} % of the connections sent stood in the table afterwards.`,
      },
    ],
    panels: [
      {
        kind: 'lines',
        title: 'New connections',
        x: { label: 'blocks or policies (none at 1)', log: true },
        y: { label: 'connections/s (whiskers: middle half)', log: true },
        series: kinds.map((kind) => line(kind, (g) => g.fresh)),
      },
      {
        kind: 'lines',
        title: 'An established connection',
        x: { label: 'blocks or policies (none at 1)', log: true },
        y: { label: 'packets/s' },
        series: kinds.map((kind) => line(kind, (g) => g.flow)),
      },
    ],
    samples: gateways.map(({ kind, size, fresh, flow, roundTrips, tracked: share }) => ({
      ...{ kind, size, fresh, flow, tracked: share },
      roundTrips: [0.01, 0.25, 0.5, 0.75, 0.99, 1].map((q) => quantile(roundTrips, q)),
    })),
  };
};
