/** The translation log of a running agent: records, counters, lookups, restarts, known flows. Needs root. */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import type { TranslationsDocument } from '../../agent/flows/translations-query.ts';
import { Agent, DIRECT, type GatewaySpec, gatewayPolicy, PolicyDirectory, WEB } from '../support/agent.ts';
import { until } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { answerEverything, PACKET, PAYLOAD, send, sendMeanwhile } from './conntrack-load.ts';

const scope = scopeOf(t);
const { client, client2, gateway, server } = topology(scope);
const policy = new PolicyDirectory(scope);
const stateDir = scope.directory('state');
const recordFile = join(scope.directory('log'), 'records.log');

const log = (more: object = {}) => ({
  enabled: true,
  rateLimit: { recordsPerSecond: 100_000, burst: 100_000 },
  ...more,
});

function setPolicy(translationLog: object, policies = [DIRECT, WEB]): void {
  const spec: GatewaySpec & { translationLog: object } = { policies, translationLog };
  policy.write({ 'gateway.yaml': gatewayPolicy(spec) });
}

const start = () =>
  new Agent(gateway, {
    policyDir: policy.dir,
    stateDir,
    args: ['--translation-log', recordFile],
    env: { POD_NAME: 'gateway1-0', POD_NAMESPACE: 'default', NODE_NAME: 'worker-1' },
  });
setPolicy(log());
let agent = start();
await agent.synced();
await answerEverything(server);

function up(): boolean {
  const text = agent.http('/metrics').body;
  return /collector_up\{[^}]*collector="conntrack"\} 1/.test(text);
}

interface Line {
  schemaVersion: string;
  event: 'start' | 'end';
  conntrackID: number;
  timestamp: string;
  addressFamily: string;
  protocol: string;
  policy: string;
  verdict: string;
  natType: string[];
  original: { sourceIP: string; sourcePort?: number; destinationPort?: number; icmpID?: number };
  translated: { sourceIP: string; sourcePort?: number; icmpID?: number };
  counters?: { originalPackets: number; originalBytes: number; replyPackets: number; replyBytes: number };
  icmpID?: number;
  startTime: string;
  duration?: number;
  namespace: string;
  name: string;
  pod: string;
  node: string;
}

/** The records until now; before the first one there is no file. */
const records = (): Line[] =>
  (existsSync(recordFile) ? readFileSync(recordFile, 'utf8') : '')
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Line);

/** Records of flows to ports from `port` on. */
const recordsTo = (port: number, event: 'start' | 'end'): Line[] =>
  records().filter((line) => line.event === event && (line.original.destinationPort ?? 0) >= port);

const flush = (): void => void gateway.run('conntrack', ['-F']);

/** A counter that all label values of one policy and family make together. */
function counter(name: string, policyName = 'web', family = 'ipv4'): number {
  const pattern = new RegExp(`^${name}\\{policy="${policyName}",family="${family}"[^}]*\\} (\\d+)$`, 'gm');
  return [...agent.http('/metrics').body.matchAll(pattern)].reduce(
    (sum, [, value]) => sum + Number(value),
    0,
  );
}

/** What the kernel has counted on the flows that `conntrack -L` shows. */
function kernelSums(
  family: 'ipv4' | 'ipv6',
  source: string,
): { packets: number; bytes: number; flows: number } {
  const { stdout } = gateway.run('conntrack', ['-L', '-f', family, '-s', source]);
  const all = { packets: 0, bytes: 0, flows: 0 };
  for (const line of stdout.split('\n').filter(Boolean)) {
    all.flows++;
    for (const [, value] of line.matchAll(/packets=(\d+)/g)) all.packets += Number(value);
    for (const [, value] of line.matchAll(/bytes=(\d+)/g)) all.bytes += Number(value);
  }
  return all;
}

function lookup(...args: string[]): { code: number; stderr: string; document: TranslationsDocument } {
  const { code, stdout, stderr } = agent.cli('translations', '--json', ...args);
  return { code, stderr, document: JSON.parse(stdout || '{}') as TranslationsDocument };
}

/** An agent that runs with the log as it is usually set, and no flow. */
async function usual(): Promise<void> {
  if (agent.daemon.exitCode !== undefined) agent = start();
  setPolicy(log());
  await agent.statusUntil('the usual log', ({ policy }) => policy.valid);
  await agent.ask('POST', '/v1/reconcile');
  await until(up, { what: 'the translation log' });
  flush();
  // Records are written in the order of the events: those of earlier flows come before those of this one.
  const port = MARKERS + marked++;
  send(client, 'udp', ADDRESS.server[4], port, 1, 1, 10);
  flush();
  const ended = ({ event, original }: Line) => event === 'end' && original.destinationPort === port;
  await until(() => records().some(ended), { what: 'the end of every flow' });
}

/** Destination ports of flows that only mark an end; below all others. */
const MARKERS = 5000;
let marked = 0;

/** What tells a flow from all others. */
const keyOf = ({ conntrackID, startTime }: Line): string => `${conntrackID} ${startTime}`;

const NOBODY = { code: 6, stderr: '', document: { translations: [] } };

t.test('it turns on what it needs in the kernel', async (t) => {
  await usual();
  for (const name of ['acct', 'timestamp', 'events']) {
    t.equal(gateway.sh(`sysctl -n net.netfilter.nf_conntrack_${name}`).trim(), '1', name);
  }
});

t.test('known flows: a start and an end each, and sums that are the kernel’s', async (t) => {
  await usual();
  const first = records().length;
  /** What a counter has beyond the flows that ended before this test, as their records say. */
  const grown = (name: string, policyName = 'web', family = 'ipv4') => {
    const sums = records()
      .slice(0, first)
      .filter((l) => l.event === 'end' && l.policy === policyName && l.addressFamily === family)
      .map(({ counters: c }) => ({
        packets: c!.originalPackets + c!.replyPackets,
        bytes: c!.originalBytes + c!.replyBytes,
        connections: 1,
      }));
    const kind = /_(packets|bytes|connections)_total$/.exec(name)![1] as keyof (typeof sums)[number];
    return counter(name, policyName, family) - sums.reduce((sum, one) => sum + one[kind], 0);
  };
  const endsBefore = agent.metric('veg_translation_records_total{event="end"}') ?? 0;
  const sent = {
    v4: send(client, 'udp', ADDRESS.server[4], 10_000, 1200, 3, 3000),
    v6: send(client, 'udp', ADDRESS.server[6], 10_000, 400, 2, 2000),
    icmp4: send(client, 'icmp', ADDRESS.server[4], 1000, 20, 2),
    icmp6: send(client, 'icmp', ADDRESS.server[6], 2000, 20, 2),
    tcp: send(client, 'tcp', ADDRESS.server[4], 8000, 10),
    direct: send(client2, 'udp', ADDRESS.server[4], 10_000, 100, 1, 1000),
  };
  const v4 = kernelSums('ipv4', ADDRESS.client[4]);
  const v6 = kernelSums('ipv6', ADDRESS.client[6]);
  const direct = kernelSums('ipv4', ADDRESS.client2[4]);
  t.same([v4.flows, v6.flows, direct.flows], [1200 + 20 + 10, 400 + 20, 100], 'the kernel has them');
  t.equal(direct.bytes, sent.direct.sent * 2 * PACKET[4]);
  await until(() => grown('veg_snat_bytes_total') === v4.bytes, { what: 'live flows are counted' });
  await until(() => grown('veg_snat_bytes_total', 'web', 'ipv6') === v6.bytes, { what: 'live IPv6 flows' });
  const forwarded = () => grown('veg_forward_bytes_total', 'direct');
  await until(() => forwarded() === direct.bytes, { what: 'forwarded flows too' });
  t.equal(grown('veg_snat_packets_total'), v4.packets);
  t.equal(grown('veg_snat_packets_total', 'web', 'ipv6'), v6.packets);
  t.equal(grown('veg_snat_connections_total'), v4.flows);
  t.equal(grown('veg_forward_packets_total', 'direct'), direct.packets);
  const external = ADDRESS.gatewayExternal[4];
  const inUse = (protocol: string): number =>
    agent.metric(`veg_snat_ports_in_use{external_ip="${external}",protocol="${protocol}"}`) ?? 0;
  // Ports are counted a while after the flows.
  await until(() => inUse('icmp') === 20 && inUse('udp') > 1100, { what: 'the ports in use' });
  t.ok(inUse('udp') <= 1200, `${inUse('udp')} ports of 1200 flows`);

  flush();
  const flows = v4.flows + v6.flows + direct.flows;
  await until(() => records().length >= first + 2 * flows, { what: 'all records' });
  const lines = records().slice(first);
  const [starts, ends] = (['start', 'end'] as const).map((event) =>
    lines.filter((line) => line.event === event),
  );
  const key = ({ conntrackID, original, protocol }: Line) =>
    [
      conntrackID,
      protocol,
      original.sourceIP,
      original.sourcePort ?? original.icmpID,
      original.destinationPort,
    ].join();
  t.equal(new Set(starts!.map(key)).size, flows, 'one start for each flow');
  t.same(new Set(ends!.map(key)), new Set(starts!.map(key)), 'and one end');
  t.equal(lines.length, 2 * flows, 'and nothing else');
  const bytes = ends!.reduce((sum, { counters }) => sum + counters!.originalBytes + counters!.replyBytes, 0);
  t.equal(bytes, v4.bytes + v6.bytes + direct.bytes, 'the records’ sums are the kernel’s');

  t.match(
    ends!.find(
      ({ policy, addressFamily, protocol }) =>
        policy === 'web' && addressFamily === 'ipv4' && protocol === 'udp',
    ),
    {
      ...{ schemaVersion: 'v1', namespace: 'default', name: 'gateway1', pod: 'gateway1-0', node: 'worker-1' },
      ...{ policy: 'web', verdict: 'translated', natType: ['snat'] },
      original: { sourceIP: ADDRESS.client[4] },
      translated: { sourceIP: external },
      counters: {
        originalPackets: 3,
        originalBytes: 3 * PACKET[4],
        replyPackets: 3,
        replyBytes: 3 * PACKET[4],
      },
    },
  );
  t.same(
    ends!
      .filter(({ protocol }) => protocol === 'icmp')
      .map(({ icmpID }) => icmpID)
      .sort(),
    Array.from({ length: 20 }, (_, i) => 1000 + i),
    'ICMP identifiers as the client sent them',
  );
  t.match(
    ends!.find(({ protocol }) => protocol === 'icmpv6'),
    {
      counters: { originalPackets: 2, originalBytes: 2 * (40 + 8 + PAYLOAD) },
      translated: { sourceIP: ADDRESS.gatewayExternal[6] },
    },
  );
  t.match(
    ends!.find(({ policy }) => policy === 'direct'),
    { verdict: 'forwarded', natType: [] },
  );
  t.ok(ends!.every(({ duration }) => duration! > 0 && duration! < 60));

  await until(() => grown('veg_snat_packets_total') >= v4.packets, { what: 'the end' });
  t.equal(grown('veg_snat_bytes_total'), v4.bytes, 'their end adds nothing');
  const metrics = agent.http('/metrics').body;
  t.notMatch(metrics, /veg_translation_records_lost_total\{[^}]*\} [1-9]/, 'nothing was lost');
  t.notMatch(metrics, ADDRESS.client[4], 'metrics carry no addresses of pods');
  await until(() => (agent.metric('veg_translation_records_total{event="end"}') ?? 0) >= endsBefore + flows, {
    what: 'the count of records',
  });
});

t.test('who was behind an address: by external address, port and time, ended or alive', async (t) => {
  await usual();
  const first = records().length;
  send(client, 'udp', ADDRESS.server[4], 12_000, 40, 1, 3000);
  send(client, 'udp', ADDRESS.server[6], 12_000, 40, 1, 3000);
  send(client, 'icmp', ADDRESS.server[4], 1500, 5, 1);
  flush();
  const lines = () => records().slice(first);
  await until(() => lines().length === 2 * 85, { what: 'their records' });
  const ended = lines().filter(({ event, protocol }) => event === 'end' && protocol === 'udp');
  const external = ({ addressFamily, translated: { sourceIP, sourcePort } }: Line): string =>
    addressFamily === 'ipv6' ? `[${sourceIP}]:${sourcePort}` : `${sourceIP}:${sourcePort}`;
  for (const line of [ended[0]!, ended.at(-1)!, ended[40]!]) {
    const { original, startTime } = line;
    const asked = ['--external', external(line), '--proto', 'udp', '--at', startTime];
    const { code, document } = lookup(...asked);
    t.equal(code, 0, asked.join(' '));
    // Flows to other destinations may have the same external port at the same time.
    const found = document.translations.filter(
      ({ original: { destinationPort } }) => destinationPort === original.destinationPort,
    );
    t.match(
      found.map((translation) => translation.original),
      [original],
    );
  }
  const icmp = lines().find(({ protocol }) => protocol === 'icmp')!;
  t.match(
    lookup('--external', `${icmp.translated.sourceIP}:${icmp.translated.icmpID}`, '--proto', 'icmp').document
      .translations,
    [{ icmpID: icmp.icmpID, original: { sourceIP: ADDRESS.client[4] } }],
    'ICMP by its identifier',
  );
  t.match(lookup('--external', '203.0.113.1:5'), NOBODY, 'nobody');
  t.match(
    lookup('--external', external(ended[0]!), '--at', '2020-01-01T00:00:00Z'),
    NOBODY,
    'nobody at that time',
  );
  t.equal(
    lookup('--internal', ADDRESS.client[6], '--dest', `[${ADDRESS.server[6]}]:12007`).document.translations
      .length,
    1,
  );

  send(client, 'udp', ADDRESS.server[4], 20_000, 1, 1, 10);
  const [alive] = lookup('--dest', `${ADDRESS.server[4]}:20000`, '--internal', ADDRESS.client[4]).document
    .translations;
  t.match(alive, { endTime: undefined, translated: { sourceIP: ADDRESS.gatewayExternal[4] } });
  const table = agent.cli('translations', '--dest', `${ADDRESS.server[4]}:20000`);
  t.match(
    table.stdout,
    /START +LASTED.*\n\S+ +alive +udp +10\.17\.0\.9 \d+ +172\.17\.0\.11 \d+ +172\.17\.0\.1 20000 +web/,
  );
  const none = agent.cli('translations', '--dest', '192.0.2.1:1');
  t.match(none, { code: 6, stdout: /^none found: the translation log begins at 20\S+Z\n$/ });
  const early = agent.cli('translations', '--dest', '192.0.2.1:1', '--at', '2020-01-01T00:00:00Z');
  t.match(early, {
    code: 6,
    stdout: /^none found: the translation log begins at \S+, after the time asked for\n$/,
  });
  const { log } = lookup('--dest', '192.0.2.1:1').document;
  t.match(log, { enabled: true, covers: 'part' });
  t.ok(Date.parse(log.since!) <= Date.now());
  t.equal(agent.cli('translations', '--external', 'nonsense').code, 2, 'an invalid query');
  t.match(agent.cli('translations', '--at', 'noon').stderr, /--at must be a time such as/);
  const byHand = await agent.ask('GET', '/v1/translations?external=nonsense');
  t.match(byHand, { status: 400, body: /external must be/ });
  flush();
});

t.test(
  'a kill -9 of the agent process, and a restart: counters never go back, nothing is told twice',
  async (t) => {
    await usual();
    // Ten flows with forty packets each, over eight seconds.
    const traffic = sendMeanwhile(client, 'udp', ADDRESS.server[4], 35_000, 10, 40, 50);
    send(client, 'udp', ADDRESS.server[4], 30_000, 200, 2, 2000);
    await until(() => recordsTo(30_000, 'start').length === 210, { what: 'their starts' });
    // A start that came after the last checkpoint is told again.
    const told = Date.now();
    await until(() => statSync(join(stateDir, 'translations/checkpoint')).mtimeMs > told, {
      what: 'a checkpoint has them',
    });
    const packets = () => counter('veg_snat_packets_total');
    let last = packets();
    const seen: number[] = [];
    const watch = async (looks: number) => {
      for (const enough = seen.length + looks; seen.length < enough; await sleep(200)) {
        const { status } = agent.http('/metrics');
        if (status === 200 && up()) seen.push(packets());
      }
    };
    await watch(5);
    const child = Number(
      gateway
        .run('pgrep', ['-P', `${agent.daemon.pid}`])
        .stdout.trim()
        .split('\n')[0],
    );
    process.kill(child, 'SIGKILL');
    await watch(10);
    for (const value of seen) {
      if (value < last) t.fail(`${value} after ${last}`);
      last = value;
    }
    t.equal(await traffic.ended(), 0);
    const sums = kernelSums('ipv4', ADDRESS.client[4]);
    const ended = records().filter(({ event, policy }) => event === 'end' && policy === 'web');
    const endedPackets = ended
      .filter(({ addressFamily }) => addressFamily === 'ipv4')
      .reduce((sum, { counters }) => sum + counters!.originalPackets + counters!.replyPackets, 0);
    await until(() => packets() === endedPackets + sums.packets, {
      what: `ended flows' ${endedPackets} and living flows' ${sums.packets} packets, counted once`,
    });
    const keys = records()
      .filter(({ event }) => event === 'start')
      .map(keyOf);
    t.equal(new Set(keys).size, keys.length, 'no start is told twice');
    t.equal(
      lookup('--dest', `${ADDRESS.server[4]}:30000`).document.translations.length,
      1,
      'a living flow is still known',
    );
    flush();
    await until(() => recordsTo(30_000, 'end').length === 210, {
      what: 'an end for each flow that began before the kill',
    });
    t.equal(lookup('--dest', `${ADDRESS.server[4]}:30000`).code, 0, 'and one that has ended');
  },
);

t.test('records over the rate limit are counted, those filtered out are not', async (t) => {
  await usual();
  const { generation } = (await agent.status()).policy;
  setPolicy(
    log({
      rateLimit: { recordsPerSecond: 10, burst: 50 },
      events: ['end'],
      filters: { exclude: [{ protocols: ['icmp'] }] },
    }),
  );
  await agent.statusUntil('the limit', ({ policy }) => policy.generation > generation);
  await agent.ask('POST', '/v1/reconcile');
  const lost = () => agent.metric('veg_translation_records_lost_total{reason="rate_limit"}') ?? 0;
  const before = { lines: records().length, lost: lost() };
  send(client, 'udp', ADDRESS.server[4], 40_000, 300, 1, 3000);
  send(client, 'icmp', ADDRESS.server[4], 3000, 50, 1);
  flush();
  await until(() => records().length - before.lines + lost() - before.lost === 300, {
    what: 'a record or a loss for each',
  });
  const fresh = records().slice(before.lines);
  t.ok(fresh.length >= 50 && fresh.length < 300, `${fresh.length} records`);
  t.same([...new Set(fresh.map(({ event, protocol }) => `${event} ${protocol}`))], ['end udp']);
  t.equal(
    lookup('--dest', `${ADDRESS.server[4]}`, '--proto', 'icmp', '--limit', '2000').document.translations
      .length >= 50,
    true,
  );
});

t.test('switched off and on again while it runs', async (t) => {
  await usual();
  send(client, 'udp', ADDRESS.server[4], 13_000, 1, 1, 10);
  flush();
  await until(() => recordsTo(13_000, 'end').some((line) => line.original.destinationPort === 13_000), {
    what: 'a record',
  });
  setPolicy({ enabled: false });
  await until(() => !up(), { what: 'the log is off' });
  t.match(agent.cli('translations'), { code: 1, stderr: /has no translation log/ });
  send(client, 'udp', ADDRESS.server[4], 50_000, 5, 1, 1000);
  setPolicy(log());
  await until(() => up(), { what: 'the log is on' });
  const found = await until(
    () => {
      const { document } = lookup('--dest', `${ADDRESS.server[4]}:50001`);
      return document.translations?.length === 1 && document;
    },
    { what: 'a flow that began while it was off' },
  );
  t.match(found.translations[0], { original: { sourceIP: ADDRESS.client[4] } });
  t.equal(lookup('--dest', `${ADDRESS.server[4]}:13000`).code, 0, 'what was stored before is there');
});

t.test('SIGTERM writes what waits', async (t) => {
  await usual();
  send(client, 'udp', ADDRESS.server[4], 60_000, 500, 1, 5000);
  flush();
  t.equal(await agent.stop('SIGTERM'), 0);
  const ends = recordsTo(60_000, 'end');
  t.equal(ends.length, 500);
  t.notMatch(
    agent.daemon.log(),
    /"level":"(error|fatal)"(?!.*the agent process ended)/,
    'no errors in the log',
  );
});
