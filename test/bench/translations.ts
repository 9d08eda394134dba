/**
 * The figures of the translation log (docs/design/0004-conntrack.md). As root: node test/bench/translations.ts [PART…]
 *
 *     flows     50 000 flows at up to 5000 a second through an agent, with `conntrack -E -o xml` beside it
 *     usual     the same with the usual rate limit
 *     small     the same with the usual rate limit and the flags that the image gives Node in 64 MiB
 *     lookups   lookups among 1 000 000 stored flows
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Lookup } from '../../nat/conntrack/lookup.ts';
import { TranslationStore } from '../../nat/conntrack/store.ts';
import { Flow } from '../../nat/conntrack/table.ts';
import { answerEverything, sendMeanwhile } from '../live/conntrack-load.ts';
import {
  Agent,
  BFD,
  DIRECT,
  type GatewaySpec,
  gatewayPolicy,
  PolicyDirectory,
  WEB,
} from '../support/agent.ts';
import { type Namespace, Scope, until } from '../support/netns.ts';
import { startVegBfdd } from '../support/peers.ts';
import { ADDRESS, topology } from '../support/topology.ts';

const FLOWS = 50_000;
const RATE = 5000;
const STORED = 1_000_000;
const LOOKUPS = 2000;

/** Of images/gateway/rootfs/usr/libexec/veg-agent/launch. */
const SMALL = [
  ...['--lite-mode', '--max-old-space-size=24', '--max-semi-space-size=1'],
  ...['--single-threaded-gc', '--v8-pool-size=1'],
];

const say = (text: string): void => void process.stdout.write(`${text}\n`);

/** CPU seconds and resident memory in MiB of a process. */
function usage(pid: number): { cpu: number; rss: number; anon: number } {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const mib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)![1]) / 1024;
  return { cpu: (Number(fields[11]) + Number(fields[12])) / 100, rss: mib('VmRSS'), anon: mib('RssAnon') };
}

const childOf = (pid: number): number =>
  Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')[0]);

/** The BFD lateness histogram: count, sum, and the buckets. */
function lateness(agent: Agent): string {
  const text = agent.http('/metrics').body;
  const value = (name: string) =>
    Number(new RegExp(`^${name.replace(/[{}"+]/g, '\\$&')} (\\S+)`, 'm').exec(text)?.[1] ?? 0);
  const name = 'veg_bfd_transmit_lateness_seconds';
  const count = value(`${name}_count`);
  const buckets = [...text.matchAll(/lateness_seconds_bucket\{le="([^"]+)"\} (\d+)/g)].map(
    ([, le, n]) => `${le}:${n}`,
  );
  return `${count} packets, mean ${((value(`${name}_sum`) / count) * 1000).toFixed(2)} ms, ${buckets.join(' ')}`;
}

async function flows({ all = false, flags = [] as string[] }): Promise<void> {
  const scope = new Scope();
  const { client, router, gateway, server } = topology(scope);
  const policy = new PolicyDirectory(scope);
  const records = join(scope.directory('log'), 'records.log');
  const spec: GatewaySpec & { translationLog: object } = {
    policies: [DIRECT, WEB],
    bfd: BFD,
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
    args: ['--translation-log', records],
    ...(flags.length > 0 && {
      // In place of the plain node that the agent is started with.
      wrapper: ['sh', '-c', `node=$1; shift; exec $node ${flags.join(' ')} "$@"`, 'sh'],
      env: { UV_THREADPOOL_SIZE: '1', MALLOC_ARENA_MAX: '1' },
    }),
  });
  await agent.synced();
  await until(() => /collector="conntrack"\} 1/.test(agent.http('/metrics').body), {
    what: 'the translation log',
  });
  await answerEverything(server);
  const events = gateway.spawn(
    'sh',
    ['-c', `exec conntrack -E -e NEW,DESTROY -o xml > ${scope.dir}/events.xml`],
    { name: 'conntrack' },
  );
  await sleep(3000);

  const pid = childOf(agent.daemon.pid);
  const other = childOf(events.pid) || events.pid;
  const totals = () => {
    const text = agent.http('/metrics').body;
    const sum = (name: string) =>
      [...text.matchAll(new RegExp(`^${name}[^ ]* (\\d+)`, 'gm'))].reduce((all, [, n]) => all + Number(n), 0);
    return {
      connections: sum('veg_snat_connections_total\\{policy="web",family="ipv4"\\}'),
      packets: sum('veg_snat_packets_total\\{policy="web",family="ipv4"'),
      bytes: sum('veg_snat_bytes_total\\{policy="web",family="ipv4"'),
      starts: sum('veg_translation_records_total\\{event="start"\\}'),
      ends: sum('veg_translation_records_total\\{event="end"\\}'),
      lost: [...text.matchAll(/^veg_translation_records_lost_total\{reason="(\w+)"\} (\d+)/gm)].map(
        ([, r, n]) => `${r} ${n}`,
      ),
    };
  };
  say(`lateness before: ${lateness(agent)}`);
  const idle = usage(pid);
  await sleep(5000);
  const idleEnd = usage(pid);
  say(
    `idle: ${(((idleEnd.cpu - idle.cpu) / 5) * 100).toFixed(1)} % CPU, ${idleEnd.rss.toFixed(0)} MiB RSS, ${idleEnd.anon.toFixed(0)} MiB anonymous`,
  );

  const measure = async (what: string, work: () => Promise<void>) => {
    const [a, b] = [usage(pid), usage(other)];
    const began = performance.now();
    await work();
    const seconds = (performance.now() - began) / 1000;
    const [c, d] = [usage(pid), usage(other)];
    say(
      `${what}: ${seconds.toFixed(1)} s; agent ${(c.cpu - a.cpu).toFixed(2)} s CPU (${(((c.cpu - a.cpu) / FLOWS) * 1e6).toFixed(0)} µs an event), ${c.rss.toFixed(0)} MiB RSS, ${c.anon.toFixed(0)} MiB anonymous; conntrack -E ${(d.cpu - b.cpu).toFixed(2)} s CPU (${(((d.cpu - b.cpu) / FLOWS) * 1e6).toFixed(0)} µs an event), ${d.rss.toFixed(0)} MiB RSS`,
    );
  };
  await measure(`${FLOWS} flows begin`, async () => {
    const load = sendMeanwhile(client, 'udp', ADDRESS.server[4], 10_000, FLOWS, 1, RATE);
    await load.ended(60_000);
    say(`load: ${load.log().trim()}`);
  });
  await until(() => totals().connections >= FLOWS, { what: 'all flows', timeoutMs: 60_000, everyMs: 500 });
  const kernel = sums(gateway);
  await until(() => totals().bytes === kernel.bytes, {
    what: 'the kernel’s bytes',
    timeoutMs: 60_000,
    everyMs: 500,
  }).catch(() => {});
  say(`live: kernel ${JSON.stringify(kernel)} agent ${JSON.stringify(totals())}`);
  await measure(`${FLOWS} flows end, all at once`, async () => {
    gateway.run('conntrack', ['-F']);
    await until(() => sums(gateway).flows < 100, { what: 'the flush', timeoutMs: 60_000 });
    await until(
      () => {
        const { starts, ends, lost } = totals();
        return starts + ends + lost.reduce((all, one) => all + Number(one.split(' ')[1]), 0) >= 2 * FLOWS;
      },
      { what: 'all ends', timeoutMs: 60_000, everyMs: 500 },
    ).catch((error) => say(error.message));
  });
  say(`ended: ${JSON.stringify(totals())}`);
  say(`lateness during: ${lateness(agent)}`);
  say(
    agent.daemon
      .log()
      .split('\n')
      .filter((line) => /"level":"(warn|error)"|conntrack/.test(line))
      .join('\n'),
  );
  await agent.stop('SIGTERM', 20_000);
  scope.dispose();
}

/** What the kernel has counted on translated UDP flows. */
function sums(ns: Namespace): { flows: number; packets: number; bytes: number } {
  const all = { flows: 0, packets: 0, bytes: 0 };
  for (const line of ns.run('conntrack', ['-L', '-p', 'udp']).stdout.split('\n').filter(Boolean)) {
    all.flows++;
    for (const [, n] of line.matchAll(/packets=(\d+)/g)) all.packets += Number(n);
    for (const [, n] of line.matchAll(/bytes=(\d+)/g)) all.bytes += Number(n);
  }
  return all;
}

function lookups(): void {
  const directory = mkdtempSync(join(tmpdir(), 'veg-bench-'));
  let now = Date.now() - (STORED / RATE) * 1000;
  const store = new TranslationStore({
    directory,
    maxBytes: 1 << 30,
    maxAge: 7 * 86_400_000,
    now: () => now,
    onAnew: say,
  });
  const random = (below: number) => Math.floor(Math.random() * below);
  const flow = new Flow();
  const asked: Lookup[] = [];
  const outside = Uint8Array.of(172, 17, 0, 11);
  let began = performance.now();
  const cpu = process.cpuUsage();
  for (let i = 0; i < STORED; i++) {
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
    if (i % (STORED / LOOKUPS) === 0) {
      const at = Math.floor(now) - 60_000;
      asked.push({ external: { address: outside, port }, protocols: [6], from: at, to: at, limit: 1001 });
    }
    now += 1000 / RATE;
    if (i % (RATE / 2) === 0) store.commit();
  }
  store.commit();
  const spent = process.cpuUsage(cpu);
  say(
    `stored ${STORED}: ${(performance.now() - began).toFixed(0)} ms, ${((spent.user + spent.system) / STORED).toFixed(1)} µs CPU each`,
  );

  const time = (what: string, questions: Lookup[]) => {
    const times: number[] = [];
    const cpus: number[] = [];
    let found = 0;
    for (const lookup of questions) {
      began = performance.now();
      const before = process.cpuUsage();
      found += store.find(lookup).length;
      const { user, system } = process.cpuUsage(before);
      times.push(performance.now() - began);
      cpus.push((user + system) / 1000);
    }
    const at = (share: number, list = times) =>
      list.sort((a, b) => a - b)[Math.min(list.length - 1, Math.floor(list.length * share))]!.toFixed(2);
    say(
      `${what}: median ${at(0.5)} ms, p99 ${at(0.99)} ms, worst ${at(1)} ms; ` +
        `CPU ${at(0.5, cpus)}, ${at(0.99, cpus)}, ${at(1, cpus)} ms; ${(found / questions.length).toFixed(1)} found each`,
    );
  };
  asked.sort(() => Math.random() - 0.5);
  time('by external address, port, protocol and time', asked);
  time(
    'by external address and port at any time',
    asked.map((one) => ({ ...one, from: 0, to: now })),
  );
  time(
    'by pod, at a time',
    asked.slice(0, 200).map(({ from, to }) => ({
      internal: { address: Uint8Array.of(10, 17, random(16), random(256)) },
      from,
      to,
      limit: 1001,
    })),
  );
  time(
    'by destination and port, at any time',
    asked.slice(0, 200).map(() => ({
      dest: { address: Uint8Array.of(93, 184, random(16), random(256)), port: 443 },
      from: 0,
      to: now,
      limit: 1001,
    })),
  );
  time(
    'by external address alone, at a time',
    asked.slice(0, 20).map((one) => ({ ...one, external: { address: outside } })),
  );
  store.close();
  rmSync(directory, { recursive: true });
}

const parts = process.argv.slice(2);
if (parts.length === 0 || parts.includes('lookups')) lookups();
if (parts.length === 0 || parts.includes('flows')) await flows({ all: true });
if (parts.length === 0 || parts.includes('usual')) await flows({});
if (parts.length === 0 || parts.includes('small')) await flows({ flags: SMALL });
process.exit();
