// Exchanges on addresses of loopback, with kernels that are maps. Namespaces, paths that break and floods are in
// test/live/group.test.ts.
import { once } from 'node:events';
import { chmodSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { Credentials } from '../../../agent/group/credentials.ts';
import { Exchange } from '../../../agent/group/exchange.ts';
import type { GroupReport, GroupView } from '../../../agent/group/model.ts';
import { portSlice } from '../../../agent/group/slices.ts';
import { type Address, address } from '../../../lib/prefix.ts';
import { until } from '../../support/netns.ts';
import { FakeKernel } from './fake-kernel.ts';
import { flowOf, SHARED } from './flows.ts';

/** Different in each process, and none that the kernel hands out by itself. */
const PORT = 20_000 + (process.pid % 10_000);
const on = (host: number): Address => address(`127.0.0.${host}`);

interface Running {
  host: number;
  exchange: Exchange;
  kernel: FakeKernel;
  log: string[];
  reports: GroupReport[];
}

function key(t: Test, name: string, octet: string): string {
  const path = join(t.testdirName, name);
  writeFileSync(path, octet.repeat(40));
  chmodSync(path, 0o600);
  return path;
}

function start(
  t: Test,
  host: number,
  keyFile: string,
  { hosts = [12, 13, 14], resumes = false, grace = 150_000 } = {},
): Running {
  const kernel = new FakeKernel();
  const log: string[] = [];
  const reports: GroupReport[] = [];
  const note = (_: object, message: string) => void log.push(message);
  const exchange = new Exchange({
    config: {
      family: 4,
      self: on(host),
      members: hosts.map(on),
      external: address(`172.17.0.${host}`),
      shared: [SHARED[4]],
    },
    port: PORT,
    credentials: new Credentials({ keyFile }, grace),
    resumes,
    kernel,
    log: { error: note, warn: note, info: note, debug: note },
    report: (report) => void reports.push(report),
    answer: async (query) => ({ status: 200, body: `${host}: ${query}` }),
  });
  for (const other of hosts) if (other !== host) exchange.setPath(on(other), true);
  t.teardown(() => exchange.close());
  return { host, exchange, kernel, log, reports };
}

const settled = (members: readonly Running[], peers = members.length - 1): Promise<unknown> =>
  until(
    () =>
      members.every(({ exchange: { view } }) => {
        return view.ready && view.peers.filter(({ inSync, exchange }) => inSync && exchange).length === peers;
      }),
    { what: 'in sync' },
  );

/** The last view that was reported. */
const lastView = ({ reports }: Running): GroupView | undefined =>
  reports.findLast((report) => report.type === 'view')?.view;

const flows = (host: number, count: number) => {
  const { firstPort } = portSlice(host % 16);
  return Array.from({ length: count }, (_, i) => flowOf(4, host * 100 + i, firstPort + i));
};

t.test('three members replicate, answer lookups, and one that ends says so', async (t) => {
  t.testdir({});
  const path = key(t, 'key', 'k');
  const members = [12, 13, 14].map((host) => start(t, host, path));
  await settled(members);
  const [holder] = members.filter(({ exchange }) => exchange.view.held.length > 0);
  for (const { host, kernel } of members) kernel.open(flows(host, 20));
  await until(() => members.every(({ kernel }) => kernel.count('replica') === 40), { what: 'replicas' });
  const [first, ...others] = members as [Running, ...Running[]];
  t.same(
    (await first.exchange.lookup('q', 5000)).map(({ answer }) => answer?.body),
    ['13: q', '14: q'],
  );
  const { counts } = first.exchange;
  t.same([counts.received, counts.rejected], [40, {}]);
  t.equal(
    counts.lag.buckets.reduce((a, b) => a + b, 0),
    40,
    'each flow was acknowledged by two members',
  );
  first.exchange.drain(5000);
  await until(() => first.reports.some(({ type }) => type === 'handed-over'), { what: 'the handover' });
  await first.exchange.close();
  await until(() => others.reduce((all, { kernel }) => all + kernel.count('own'), 0) === 60, {
    what: 'flows adopted at once',
  });
  t.ok(others.some(({ log }) => log.includes('group flows adopted')));
  if (holder === first) t.ok(others.some(({ exchange }) => exchange.view.held.length > 0));
});

t.test(
  'another list of members ends the connection to who is none of them, and makes it again',
  async (t) => {
    t.testdir({});
    const path = key(t, 'key', 'k');
    const [one, two] = [12, 13].map((host) => start(t, host, path, { hosts: [12, 13] })) as [
      Running,
      Running,
    ];
    await settled([one, two]);
    const { view } = one.exchange;
    const config = {
      family: 4,
      self: on(12),
      external: address('172.17.0.12'),
      shared: [SHARED[4]],
    } as const;
    one.exchange.configure({ ...config, members: [on(12)] }, { keyFile: path });
    t.same([view.peers.length, one.exchange.view.peers.length], [1, 0]);
    await until(() => two.exchange.view.peers[0]!.exchange === false, { what: 'disconnected' });
    one.exchange.configure({ ...config, members: [on(12), on(13)] }, { keyFile: path });
    await settled([one, two]);
    // The key of other files is not there: the former one stays in use.
    one.exchange.configure({ ...config, members: [on(12)] }, { keyFile: '/nowhere' });
    await until(() => two.exchange.view.peers[0]!.exchange === false, { what: 'disconnected again' });
    one.exchange.configure({ ...config, members: [on(12), on(13)] }, { keyFile: '/nowhere' });
    await settled([one, two]);
  },
);

t.test(
  'another key is refused and counted by the one that listens; a stranger is reset; junk is counted',
  async (t) => {
    t.testdir({});
    const good = start(t, 13, key(t, 'good', 'g'), { hosts: [12, 13] });
    const bad = start(t, 12, key(t, 'bad', 'b'), { hosts: [12, 13] });
    const rejected = () => good.exchange.counts.rejected;
    await until(() => rejected().key! > 1, { what: 'keys refused' });
    const speak = (localAddress: string, octets: string, host = on(13)) =>
      new Promise<void>((resolve) => {
        const socket = connect({ host, port: PORT, localAddress }, () => socket.write(octets));
        socket.on('error', () => {}).on('close', () => resolve());
      });
    await speak('127.0.0.99', 'hello');
    t.equal(rejected().not_a_member, 1);
    await speak('127.0.0.14', 'hello');
    t.equal(rejected().not_a_member, 2, 'no member of this group of two');
    await speak('127.0.0.13', 'hello', on(12));
    t.equal(bad.exchange.counts.rejected.wrong_direction, 1, 'a higher member has nothing to connect for');
    await speak('127.0.0.12', 'GET / HTTP/1.1\r\n\r\n'.repeat(10));
    t.ok(rejected().not_tls! + (rejected().handshake_ended ?? 0) >= 1);
    t.equal(good.exchange.view.peers[0]!.exchange, false);
  },
);

t.test(
  'a key that is replaced: both are used for a while, and then the connection is made anew',
  async (t) => {
    t.testdir({});
    const paths = [12, 13].map((host) => key(t, `key-${host}`, 'a'));
    const members = [12, 13].map((host, i) => start(t, host, paths[i]!, { hosts: [12, 13], grace: 1500 }));
    await settled(members);
    for (const [i, { log }] of members.entries()) {
      key(t, `key-${12 + i}`, 'z');
      await until(() => log.filter((line) => line.includes('credentials')).length === 2, {
        what: 'the key read',
      });
    }
    await until(
      () => members.every(({ log }) => log.filter((line) => line === 'group member connected').length === 2),
      {
        what: 'connected again',
      },
    );
    await settled(members);
  },
);

t.test('a member that resumes is ready before it has met anybody', async (t) => {
  t.testdir({});
  const one = start(t, 12, key(t, 'key', 'k'), { resumes: true });
  t.same([one.exchange.view.ready, one.exchange.view.held], [true, []]);
});

t.test(
  'without a key it neither listens nor connects, and the view says why until there is one',
  async (t) => {
    t.testdir({});
    const path = join(t.testdirName, 'key');
    const one = start(t, 12, path);
    const problem = () => lastView(one)?.problem;
    const missing = `cannot read the credentials of the group: ${path} cannot be read: no such file or directory`;
    await until(() => problem() === missing, { what: 'the problem' });
    t.same(one.log, ['cannot read the credentials of the group']);
    key(t, 'key', 'k');
    await until(() => problem() === undefined, { what: 'the key read' });
    chmodSync(path, 0o644);
    await until(() => problem() !== undefined, { what: 'another problem' });
    t.match(problem(), /^cannot read .* has mode 0644: .*; what was read before stays in use$/);
    t.equal(one.log.filter((line) => line.startsWith('cannot read')).length, 2, 'each is logged once');
  },
);

t.test('while another program has the port, the view says so', async (t) => {
  t.testdir({});
  const other = createServer().listen(PORT, on(13));
  await once(other, 'listening');
  const one = start(t, 13, key(t, 'key', 'k'));
  await until(() => lastView(one)?.problem !== undefined, { what: 'the problem' });
  t.equal(
    lastView(one)!.problem,
    `cannot listen for group members on 127.0.0.13 port ${PORT}: bind: address already in use (EADDRINUSE)`,
  );
  other.close();
  await until(() => lastView(one)!.problem === undefined, { what: 'listening' });
  t.ok(one.log.includes('listening for group members'));
});
