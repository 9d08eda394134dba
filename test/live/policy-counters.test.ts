/**
 * What the kernel counts by policy, against a server that counts what it receives and sends: both families and both
 * backends, over edits, a flush of nat, the loss of the tables, and the death of each process.
 */
import { chmodSync, existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Agent, cli, DIRECT, PolicyDirectory } from '../support/agent.ts';
import { type Carried, carriedBy, countAt, type Family, NOTHING, scrape } from '../support/carried.ts';
import { type Namespace, until } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { startEchoServer, Traffic } from '../support/traffic.ts';

const FAMILIES = [4, 6] as const;

const pathsOf = (kinds: readonly string[]): string[] =>
  FAMILIES.flatMap((family) => kinds.map((kind) => `${kind}:${ADDRESS.server[family]}`));

const PINGS = 20;
const ping = (ns: Namespace, family: Family): void => {
  ns.sh(`ping -n -q -i 0.01 -c ${PINGS} ${ADDRESS.server[family]}`);
};

for (const backend of ['nft', 'legacy'] as const) {
  t.test(`a gateway without policies counts what the server counts: ${backend}`, async (t) => {
    const scope = scopeOf(t);
    const { client, gateway, server } = topology(scope);
    const onBoth = (command: string) => {
      for (const program of ['iptables', 'ip6tables']) gateway.sh(`${program}-${backend} ${command}`);
    };
    if (backend === 'legacy') onBoth('-t nat -N OPERATOR');
    const seen = countAt(server, ADDRESS.gatewayExternal);
    await startEchoServer(server);
    const policy = new PolicyDirectory(scope);
    policy.set({ policies: [] });
    const options = { policyDir: policy.dir, stateDir: scope.directory('state') };
    let agent = new Agent(gateway, options);
    const { kernel } = await agent.synced();
    t.equal(kernel.backend, backend);
    const zeros = scrape(agent);
    for (const family of FAMILIES) {
      for (const kind of ['snat', 'forward'] as const) {
        t.same(carriedBy(zeros, kind, 'default', family), NOTHING, `veg_${kind}_* of IPv${family}`);
      }
    }
    const agrees = (what: string) => {
      const values = scrape(agent);
      for (const family of FAMILIES) {
        t.same(carriedBy(values, 'snat', 'default', family), seen(family), `IPv${family} after ${what}`);
      }
    };

    // New connections while the policy is edited.
    const opening = await Traffic.open(client, pathsOf(['new', 'dial', 'udp', 'tcp']));
    const other = { name: 'other', ipBlocks: ['10.99.0.0/16', 'fd00:10:99::/64'] };
    for (let edit = 0; edit < 30; edit++) {
      const policies = [[other], [DIRECT, other], [other, DIRECT], []][edit % 4]!;
      const { generation } = (await agent.status()).policy;
      policy.set({ policies });
      await agent.statusUntil('an edit', (s) => s.policy.generation > generation && s.kernel.inSync);
    }
    await opening.close();
    for (const family of FAMILIES) ping(client, family);
    agrees('30 edits');

    // Open connections over everything that may befall rules and processes.
    const open = await Traffic.open(client, pathsOf(['udp', 'tcp']));
    onBoth('-t nat -F');
    await agent.statusUntil('a repair', (s) => (s.kernel.driftRepaired.chain ?? 0) > 0 && s.kernel.inSync);
    const [child = ''] = gateway.run('pgrep', ['-P', `${agent.daemon.pid}`]).stdout.split('\n');
    process.kill(Number(child), 'SIGKILL');
    await agent.statusUntil('another agent process', (s) => s.uptimeSeconds < 5 && s.kernel.inSync);
    await agent.stop('SIGKILL');
    agent = new Agent(gateway, options);
    await agent.synced();
    for (const { path, sent, received } of await open.close()) t.equal(received, sent, path);
    agrees('a flush of nat and the death of each process');

    // The tables are deleted while nothing is under way: what was read before stays.
    for (const ip of ['ip', 'ip6']) gateway.sh(`nft delete table ${ip} VEG-COUNTERS`);
    await until(
      () => gateway.run('nft', ['list', 'chain', 'ip6', 'VEG-COUNTERS', 'postrouting']).code === 0,
      {
        what: 'the tables are there again',
      },
    );
    const after = await Traffic.open(client, pathsOf(['udp', 'tcp']));
    await after.close();
    agrees('the loss of the tables');

    t.equal(agent.cli('plan').code, 0, 'nothing to do');
    await agent.stop();
    t.equal(agent.cli('cleanup').code, 0);
    t.equal(gateway.sh('nft list tables').includes('VEG-'), false, 'cleanup removes the tables');
  });
}

t.test('tables that are deleted between observation and edit are made again', async (t) => {
  const scope = scopeOf(t);
  const { gateway } = topology(scope);
  const policy = new PolicyDirectory(scope);
  policy.set({ policies: [] });
  const tools = scope.directory('tools');
  const tool = join(tools, 'iptables-nft-restore');
  writeFileSync(
    tool,
    `#!/bin/sh
if rm ${tools}/delete 2>/dev/null; then for ip in ip ip6; do nft delete table $ip VEG-COUNTERS; done; fi
exec /usr/sbin/iptables-nft-restore "$@"
`,
  );
  chmodSync(tool, 0o755);
  const agent = new Agent(gateway, {
    ...{ policyDir: policy.dir, stateDir: scope.directory('state') },
    env: { PATH: `${tools}:${process.env.PATH}` },
  });
  await agent.synced();
  writeFileSync(join(tools, 'delete'), '');
  policy.set({ policies: [DIRECT, { name: 'other', ipBlocks: ['10.99.0.0/16', 'fd00:10:99::/64'] }] });
  const { kernel } = await agent.statusUntil(
    'the edit',
    (status) => status.policy.generation > 1 && status.kernel.inSync,
  );
  t.equal(existsSync(join(tools, 'delete')), false, 'they were deleted in the meantime');
  t.same([kernel.notes, kernel.failed], [[], []]);
  for (const ip of ['ip', 'ip6'])
    t.match(gateway.sh(`nft list table ${ip} VEG-COUNTERS`), 'hook postrouting');
  t.equal(agent.cli('plan').code, 0, 'nothing to do');
});

interface LogRecord {
  policy: string;
  verdict: string;
  natType: string[];
  original: { sourceIP: string };
  counters?: { originalPackets: number; originalBytes: number; replyPackets: number; replyBytes: number };
}

/** What the translation log has of a policy: the sums over its flows. */
function logged(records: readonly LogRecord[], kind: 'snat' | 'forward', policy: string): Carried {
  const verdict = kind === 'snat' ? 'translated' : 'forwarded';
  const sum = structuredClone(NOTHING);
  for (const record of records.filter((one) => one.policy === policy && one.verdict === verdict)) {
    const {
      originalPackets = 0,
      originalBytes = 0,
      replyPackets = 0,
      replyBytes = 0,
    } = record.counters ?? {};
    const inbound = record.original.sourceIP.startsWith('172.17.');
    const [there, back] = inbound ? (['in', 'out'] as const) : (['out', 'in'] as const);
    sum.connections++;
    sum.packets[there] += originalPackets;
    sum.bytes[there] += originalBytes;
    sum.packets[back] += replyPackets;
    sum.bytes[back] += replyBytes;
  }
  return sum;
}

t.test('several policies, an EIP and forwarded blocks count what the translation log counts', async (t) => {
  const scope = scopeOf(t);
  const { client, client2, gateway, server } = topology(scope);
  server.ip('addr add 172.17.0.2/16 dev eth0');
  client.ip('addr add 10.17.0.20/16 dev eth0');
  const policy = new PolicyDirectory(scope);
  const spec = {
    policies: [
      { name: 'web', ipBlocks: ['10.17.0.0/16'], destinationCIDRs: ['172.17.0.2/32'] },
      { name: 'direct', snat: false, ipBlocks: ['10.18.0.0/16'] },
      { name: 'other', ipBlocks: ['10.19.0.0/16'] },
    ],
    eips: [{ externalIP: '172.17.0.60', internalIP: '10.17.0.20' }],
    translationLog: { enabled: true },
  };
  policy.set(spec);
  const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
  await agent.synced();
  for (const ns of [server, client, client2]) await startEchoServer(ns);
  const both = (host: string) => [`udp:${host}`, `tcp:${host}`, `dial:${host}`];
  const open = await Promise.all([
    // Echo servers answer UDP from the first address of their namespace.
    Traffic.open(client, ['tcp:172.17.0.2', 'dial:172.17.0.2', ...both('172.17.0.1')]),
    Traffic.open(client2, both('172.17.0.1')),
    Traffic.open(server, ['tcp:172.17.0.60', 'dial:172.17.0.60', ...both('10.18.0.9')]),
  ]);
  // At once: a lookup returns 2000 records at most, and they dial all the while.
  for (const report of await Promise.all(open.map((traffic) => traffic.close()))) {
    for (const { path, received, broken } of report) {
      t.ok(received > 0 && broken === undefined, `${path} has had answers`);
    }
  }
  const KINDS = [
    ['snat', 'web'],
    ['snat', 'default'],
    ['forward', 'direct'],
  ] as const;
  let found = { counted: {}, logged: {} };
  await until(
    async () => {
      const values = scrape(agent);
      const { body } = await agent.ask('GET', '/v1/translations?limit=2000');
      const records = (JSON.parse(body) as { translations: LogRecord[] }).translations;
      const of = (each: (kind: 'snat' | 'forward', name: string) => Carried) =>
        Object.fromEntries(KINDS.map(([kind, name]) => [name, each(kind, name)]));
      found = {
        counted: of((kind, name) => carriedBy(values, kind, name, 4)),
        logged: of((kind, name) => logged(records, kind, name)),
      };
      return JSON.stringify(found.counted) === JSON.stringify(found.logged);
    },
    { what: 'both ways of counting agree' },
  ).catch(() => {});
  t.same(found.counted, found.logged);
  const { default: rest, web, direct } = found.counted as Record<string, Carried>;
  for (const carried of [rest, web, direct]) t.ok(carried!.connections > 1 && carried!.packets.in > 5);
  t.match(carriedBy(scrape(agent), 'snat', 'other', 4), NOTHING);

  // Connections that the tables have not seen begin are counted on for their policy, and do not begin again.
  const going = await Traffic.open(client, ['tcp:172.17.0.2']);
  const before = await until(
    () => [carriedBy(scrape(agent), 'snat', 'web', 4)].find((now) => now.connections > web!.connections),
    { what: 'the connection is counted' },
  );
  gateway.sh('nft delete table ip VEG-COUNTERS');
  const script = 'table ip clear { chain marks { type filter hook prerouting priority 0; ct mark set 0; }; }';
  t.match(gateway.run('nft', [script]), { code: 0 });
  await until(() => carriedBy(scrape(agent), 'snat', 'web', 4).packets.in > before.packets.in + 20, {
    what: 'packets are counted again',
  });
  t.equal(carriedBy(scrape(agent), 'snat', 'web', 4).connections, before.connections);
  gateway.sh('nft delete table ip clear');
  policy.set({ ...spec, policies: [] });
  await agent.statusUntil('an edit', (s) => s.policy.generation === 2 && s.kernel.inSync);
  const edited = carriedBy(scrape(agent), 'snat', 'web', 4);
  await until(() => carriedBy(scrape(agent), 'snat', 'web', 4).packets.out > edited.packets.out + 20, {
    what: 'a policy that is removed counts its open connections on',
  });
  await going.close();
});

t.test('a connection of a removed policy is in one series, also when the log begins after it', async (t) => {
  const scope = scopeOf(t);
  const { client2, gateway, server } = topology(scope);
  // As an earlier log leaves it: without it the log has no counters of the connection.
  gateway.sysctl({ 'net.netfilter.nf_conntrack_acct': 1 });
  await startEchoServer(server);
  const policy = new PolicyDirectory(scope);
  policy.set({ policies: [{ ...DIRECT, name: 'legacy' }] });
  const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
  await agent.synced();
  const open = await Traffic.open(client2, [`udp:${ADDRESS.server[4]}`]);
  policy.set({ policies: [DIRECT], fastPath: true, translationLog: { enabled: true } });
  await agent.statusUntil('the edit', (s) => s.policy.generation === 2 && s.kernel.inSync);
  // The log has the connection under whichever name.
  const records = async () => {
    const { body } = await agent.ask('GET', '/v1/translations');
    const { translations } = JSON.parse(body) as { translations?: LogRecord[] };
    return translations?.filter(({ original }) => original.sourceIP.startsWith('10.18.')) ?? [];
  };
  const first = await until(async () => [await records()].find((found) => found.length > 0), {
    what: 'the log has read the table',
  });
  const packetsOf = (record: LogRecord | undefined) => record?.counters?.originalPackets ?? 0;
  await until(async () => packetsOf((await records())[0]) > packetsOf(first[0]) + 800, {
    what: 'the log has read it some times more, and its sums are followed',
  });
  t.same(
    first.map((record) => record.policy),
    ['legacy'],
  );
  const values = scrape(agent);
  for (const name of ['default', 'direct']) {
    for (const kind of ['snat', 'forward'] as const) {
      const { packets } = carriedBy(values, kind, name, 4);
      t.notOk(packets.out > 0 || packets.in > 0, `${kind} of ${name}`);
    }
  }
  const [report] = await open.close();
  const counted = carriedBy(scrape(agent), 'forward', 'legacy', 4).packets;
  t.ok(counted.out > 800 && counted.out <= report!.sent, `${counted.out} of ${report!.sent} are counted`);
});

t.test('a table of more policies than a send buffer holds is made whole', async (t) => {
  const scope = scopeOf(t);
  const { gateway } = topology(scope);
  const policy = new PolicyDirectory(scope);
  policy.set({
    policies: Array.from({ length: 1500 }, (_, i) => ({
      ...{ name: `p${i}`, ipBlocks: [`10.${100 + (i >> 8)}.${i & 255}.0/24`] },
      destinationCIDRs: ['128.0.0.0/1', `10.0.${i >> 8}.${i & 255}/32`],
    })),
  });
  const options = { policyDir: policy.dir, stateDir: scope.directory('state') };
  t.equal(cli(gateway, options, 'apply').code, 0);
  t.match(cli(gateway, options, 'plan'), { code: 0, stdout: '' });
  t.match(gateway.sh('nft list chain ip VEG-COUNTERS postrouting'), /vmap @marks/);
});
