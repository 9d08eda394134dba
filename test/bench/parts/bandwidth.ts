/**
 * Bandwidth limits: what passes at 10, 100 and 1000 Mbit/s in both directions and families, how long a thin flow waits
 * beside a full connection, what a limit costs the processor, and what turning the first limit on and off loses.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, DIRECT, type GatewaySpec, PolicyDirectory, WEB } from '../../support/agent.ts';
import { bulk, rateOf } from '../../support/bulk.ts';
import type { Namespace } from '../../support/netns.ts';
import { ADDRESS, type Topology, topology } from '../../support/topology.ts';
import { type Context, inScope, type Part } from '../context.ts';
import { Packets } from '../packets.ts';
import { type Summary, summary } from '../stats.ts';

const MEGABIT = 1e6;
const RATES = [10, 100, 1000];
/** Payload octets of a full TCP segment with timestamps in an IP packet of the path's MTU, 1400. */
const MTU = 1400;
const PAYLOAD = { 4: MTU - 52, 6: MTU - 72 } as const;

interface Lab extends Topology {
  set(bandwidth: object | undefined, more?: object): Promise<void>;
}

async function lab<T>(act: (lab: Lab) => Promise<T>): Promise<T> {
  return inScope(async (scope) => {
    const parts = topology(scope);
    parts.client.ip('addr add 10.17.0.10/16 dev eth0');
    const policy = new PolicyDirectory(scope);
    policy.set();
    const agent = new Agent(parts.gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
    await agent.synced();
    const set = async (bandwidth: object | undefined, more: object = {}): Promise<void> => {
      const { generation } = (await agent.status()).policy;
      const web = { ...WEB, ...(bandwidth && { bandwidth }) };
      policy.set({ policies: [DIRECT, web], ...more } as GatewaySpec);
      await agent.statusUntil('the limit', (s) => s.policy.generation > generation);
      await agent.ask('POST', '/v1/reconcile');
      await agent.synced();
    };
    return act({ ...parts, set });
  });
}

interface Passed {
  limit: number | undefined;
  what: string;
  /** Mbit/s of payload, and of IP packets. */
  payload: number;
  packets: number;
  /** Processor time of both ends for a gigabit, with what the kernel does for them, ms. */
  cpu: number;
}

async function passed({ client, client2, server, set }: Lab, context: Context): Promise<Passed[]> {
  const found: Passed[] = [];
  const ms = context.pick(5000, 1000);
  const measure = async (
    limit: number | undefined,
    what: string,
    [from, family, back]: [Namespace, 4 | 6, boolean],
  ): Promise<void> => {
    context.say(`${limit ?? 'no limit'}, ${what}`);
    const result = await bulk(from, server, { host: ADDRESS.server[family], ms, back });
    const payload = rateOf(result) / MEGABIT;
    const packets = (payload * MTU) / PAYLOAD[family];
    found.push({ limit, what, payload, packets, cpu: result.cpuMs / ((result.octets * 8) / 1e9) });
  };
  for (const limit of [...RATES, undefined]) {
    await set(limit === undefined ? undefined : { egress: limit, ingress: limit });
    for (const family of [4, 6] as const) {
      for (const back of [false, true]) {
        await measure(limit, `IPv${family} ${back ? 'ingress' : 'egress'}`, [client, family, back]);
      }
    }
  }
  await set({ egress: 10, ingress: 10 });
  for (const back of [false, true]) {
    const what = `IPv4 ${back ? 'ingress' : 'egress'}, a policy beside one of 10 Mbit/s`;
    await measure(undefined, what, [client2, 4, back]);
  }
  return found;
}

/** What two addresses get at the same time, each with the limit by itself, Mbit/s of IP packets. */
async function bySource({ client, server, set }: Lab, context: Context): Promise<number[]> {
  context.say('by source');
  await set({ egress: 50, perSource: true });
  const ms = context.pick(5000, 1000);
  const both = ['10.17.0.9', '10.17.0.10'].map((source) =>
    bulk(client, server, { host: ADDRESS.server[4], ms, source }),
  );
  return (await Promise.all(both)).map((one) => (rateOf(one) * MTU) / PAYLOAD[4] / MEGABIT);
}

interface Waited {
  what: string;
  /** Round trips, ms. */
  roundTrips: Summary;
}

async function thinFlows({ client, client2, server, set }: Lab, context: Context): Promise<Waited[]> {
  const pings = async (ns: Namespace, source: string): Promise<Summary> => {
    const packets = new Packets(ns, source);
    const count = context.pick(40, 10);
    const times: number[] = [];
    for (let i = 0; i < count; i++) {
      const { roundTrips = [] } = await packets.send({ kind: 'ping', host: ADDRESS.server[4], count: 1 });
      times.push(...roundTrips.map((us) => us / 1000));
    }
    packets.end();
    return summary(times);
  };
  const found: Waited[] = [];
  for (const limit of RATES) {
    await set({ egress: limit, ingress: limit });
    found.push({ what: `${limit} Mbit/s, nothing else`, roundTrips: await pings(client, ADDRESS.client[4]) });
    for (const [what, ns, source] of [
      ['of the same limit', client, ADDRESS.client[4]],
      ['without a limit', client2, ADDRESS.client2[4]],
    ] as const) {
      context.say(`${limit}, a thin flow ${what}`);
      const full = bulk(client, server, { host: ADDRESS.server[4], ms: context.pick(4000, 1500) });
      await sleep(context.pick(1500, 500));
      found.push({
        what: `${limit} Mbit/s, beside a full connection, ${what}`,
        roundTrips: await pings(ns, source),
      });
      await full;
    }
  }
  return found;
}

/** Packets of 1000 a second that are lost while the first limit comes and the last one goes, and while rates change. */
async function edits({ client, set }: Lab, context: Context): Promise<[string, number, number][]> {
  const found: [string, number, number][] = [];
  const times = context.pick(10, 2);
  for (const [what, specs] of [
    ['the first limit comes, the last one goes', [{ egress: 100 }, undefined]],
    ['a rate changes', [{ egress: 100 }, { egress: 200 }]],
  ] as const) {
    context.say(what);
    await set(specs[1]);
    const ping = client.spawn('ping', ['-i', '0.001', '-q', ADDRESS.server[4]], { name: 'ping' });
    for (let i = 0; i < times; i++) for (const spec of specs) await set(spec);
    await sleep(200);
    ping.signal('SIGINT');
    await ping.ended();
    const [, sent = '', received = ''] = /(\d+) packets transmitted, (\d+) received/.exec(ping.log()) ?? [];
    found.push([what, 2 * times, Number(sent) - Number(received)]);
  }
  return found;
}

export const part: Part = async (context) =>
  lab(async (net) => {
    const rates = await passed(net, context);
    const sources = await bySource(net, context);
    const waits = await thinFlows(net, context);
    const lost = await edits(net, context);
    return {
      tables: [
        {
          title: 'What one TCP connection gets in five seconds, Mbit/s',
          columns: [
            'limit',
            '',
            'payload',
            'IP packets',
            'of the limit, %',
            'processor time, ms for a gigabit',
          ],
          rows: rates.map(({ limit, what, payload, packets, cpu }) => [
            limit ?? 'none',
            what,
            payload,
            packets,
            limit === undefined ? undefined : (100 * packets) / limit,
            cpu,
          ]),
          note: 'MTU 1400. Processor time of the two ends, with the way through the gateway, which runs in them; compare the rows.',
        },
        {
          title: 'Two addresses at the same time with 50 Mbit/s by source, Mbit/s of IP packets',
          columns: ['the first', 'the second'],
          rows: [sources],
        },
        {
          title: 'Round trip of a thin flow (ICMP), ms',
          columns: ['', 'times', 'median', 'p99', 'worst'],
          rows: waits.map(({ what, roundTrips: { n, p50, p99, max } }) => [what, n, p50, p99, max]),
          note: 'A kernel without fq_codel, such as this one where the samples say so, has one short queue for a limit: the thin flow of the same limit waits as long as that is full.',
        },
        {
          title: 'Packets lost of a thousand a second',
          columns: ['', 'times', 'lost'],
          rows: lost,
        },
      ],
      panels: [],
      samples: { rates, sources, waits, lost },
    };
  });
