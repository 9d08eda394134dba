/** The conntrack reader against a kernel that loses events: a small buffer, a reader that pauses. Needs root. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import t from 'tap';
import { PATIENCE } from '../support/machine.ts';
import { type Namespace, NODE, ROOT, until, veth } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import type { Report } from './conntrack-child.ts';
import { answerEverything, PACKET, send } from './conntrack-load.ts';

const scope = scopeOf(t);
const [client, gateway, server] = ['client', 'gateway', 'server'].map((name) => scope.namespace(name)) as [
  Namespace,
  Namespace,
  Namespace,
];
veth(client, 'eth0', gateway, 'eth0');
veth(server, 'eth0', gateway, 'net1');
client.ip('addr add 10.17.0.9/24 dev eth0\nroute add default via 10.17.0.1');
server.ip('addr add 172.17.0.1/24 dev eth0');
gateway.ip('addr add 10.17.0.1/24 dev eth0\naddr add 172.17.0.11/24 dev net1');
gateway.sysctl({
  'net.ipv4.ip_forward': 1,
  'net.netfilter.nf_conntrack_acct': 1,
  'net.netfilter.nf_conntrack_timestamp': 1,
  'net.netfilter.nf_conntrack_events': 1,
});
gateway.sh('iptables -t nat -A POSTROUTING -o net1 -j MASQUERADE --random-fully');
await answerEverything(server);

/** The reader with a receive buffer of so many octets. */
function reader(receiveBuffer: number) {
  const program = `${ROOT}/test/live/conntrack-child.ts`;
  const child = spawn('ip', ['netns', 'exec', gateway.name, NODE, program, `${receiveBuffer}`], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  t.teardown(() => child.stdin.end());
  const lines = createInterface({ input: child.stdout });
  return {
    say: (word: 'pause' | 'resume') => void child.stdin.write(`${word}\n`),
    async report(): Promise<Report> {
      const next = once(lines, 'line', { signal: AbortSignal.timeout(PATIENCE) });
      child.stdin.write('report\n');
      return JSON.parse(((await next) as [string])[0]) as Report;
    },
    end: () => child.stdin.end(),
  };
}

const idsOf = (listing: string): number[] =>
  [...listing.matchAll(/ id=(\d+)/g)].map(([, id]) => Number(id)).sort((a, b) => a - b);
const table = (): string => gateway.run('conntrack', ['-L', '-o', 'id']).stdout;
const flush = (): void => void gateway.run('conntrack', ['-F']);
const fill = (port: number, count: number, packets = 1) =>
  send(client, 'udp', '172.17.0.1', port, count, packets, 4000);

t.test(
  'a reader that pauses behind a small buffer: the gap is told, and the picture is right again',
  async (t) => {
    flush();
    const one = reader(4096);
    await until(async () => (await one.report()).dumps > 0, { what: 'the first dump' });
    fill(10_000, 600, 2);
    await until(async () => (await one.report()).packets === 600 * 4, { what: 'all packets counted' });
    const before = await one.report();
    t.match(before, { started: 600, ended: 0 }, 'all are known, heard of or found');

    const pausedAt = Date.now();
    one.say('pause');
    flush(); // the end of 600
    fill(20_000, 300);
    flush(); // begin and end within the gap
    fill(30_000, 400);
    const resumedAt = Date.now();
    one.say('resume');
    const after = await until(
      async () => {
        const report = await one.report();
        return report.gaps.length > before.gaps.length && !report.repairing && report;
      },
      { what: 'the repair' },
    );
    t.same(after.ids, idsOf(table()), 'it knows what conntrack -L shows');
    const gaps = after.gaps.slice(before.gaps.length);
    const lost = after.gaps.reduce((sum, gap) => sum + gap.lost, 0);
    const events = 600 + 600 + 300 + 300 + 400;
    t.equal(
      after.started + after.ended + lost,
      events,
      `every event is told or counted as lost: ${JSON.stringify(gaps)}`,
    );
    t.ok(lost > 300, `${lost} lost`);
    t.equal(gaps.length, 1);
    t.ok(gaps[0]!.from <= resumedAt && gaps[0]!.to >= pausedAt, 'with its begin and end');
    t.ok(
      after.packets >= before.packets + 400 * 2 && after.packets <= (600 * 2 + 300 + 400) * 2,
      `${after.packets} packets`,
    );
    t.notOk(after.wentBack, 'no counter went back');

    fill(30_000, 400, 2);
    const rest = after.packets + 400 * 4;
    await until(async () => (await one.report()).packets === rest, {
      what: 'what came after the gap is counted once',
    });
    flush();
    const end = await until(
      async () => {
        const report = await one.report();
        return report.ids.length === 0 && !report.repairing && report;
      },
      { what: 'the end of all' },
    );
    t.equal(end.packets, rest);
    t.equal(end.bytes, rest * PACKET[4]);
    one.end();
  },
);

t.test('a large buffer holds 3000 flows while nobody reads', async (t) => {
  flush();
  const one = reader(8 << 20);
  await until(async () => (await one.report()).dumps > 0, { what: 'the first dump' });
  one.say('pause');
  fill(10_000, 1500);
  flush();
  fill(20_000, 1500);
  one.say('resume');
  const report = await until(
    async () => {
      const now = await one.report();
      return now.started === 3000 && now;
    },
    { what: 'all flows' },
  );
  t.match(report, { ended: 1500, estimated: 0, gaps: [] });
  t.equal(report.ids.length, 1500);
  await until(async () => (await one.report()).packets === 6000, { what: 'all packets counted' });
  one.end();
});
