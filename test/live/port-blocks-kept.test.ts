// Port blocks with the whole agent: repaired, counted, and removed without a trace.
import { writeFileSync } from 'node:fs';
import t from 'tap';
import { type Namespace, until } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS } from '../support/topology.ts';
import { startEchoServer } from '../support/traffic.ts';
import { rulesIn } from './nat-lab.ts';
import { blockOf, burst, EGRESS, lab, OTHER, SIZE, TENANTS } from './port-lab.ts';

const tables = (ns: Namespace, options = ''): string => ns.sh(`nft ${options} list tables`);

t.test(
  'it is kept as it must be, what a full block drops is counted, and cleanup leaves no trace',
  async (t) => {
    const { client, gateway, server, policy, start } = lab(scopeOf(t));
    policy.set({ ...TENANTS, translationLog: { enabled: true } });
    const agent = start();
    await agent.synced();
    await startEchoServer(server);
    const listing = (family: string) => gateway.sh(`nft list table ${family} VEG-PORT-BLOCKS`);
    const whole = [listing('ip'), listing('ip6')];
    t.match(whole[0], ' drop comment', 'a source without a block is dropped, never forwarded as itself');
    const mark = /(0x9[0-9a-f]{7}) \. 10\.17\.0\.9 /.exec(whole[0]!)![1]!;
    const map = 'element ip VEG-PORT-BLOCKS blocks';
    for (const damage of [
      `nft delete ${map} { ${mark} . 10.17.0.9 }`,
      `nft add ${map} { ${mark} . 10.99.0.1 : ${EGRESS[4]} . 1096-1103 }`,
      'nft delete table ip VEG-PORT-BLOCKS',
      'nft flush map ip6 VEG-PORT-BLOCKS blocks',
      'nft flush chain ip VEG-PORT-BLOCKS postrouting',
    ]) {
      gateway.sh(damage);
      await agent.ask('POST', '/v1/reconcile');
      t.same([listing('ip'), listing('ip6')], whole, damage);
    }
    t.same(burst(client, 4, ADDRESS.client[4], SIZE).toSorted(), blockOf(4, 9).toSorted());
    const { code, stdout } = agent.cli('plan');
    t.same([code, stdout], [0, ''], 'nothing is left to do');

    const lost = `veg_snat_port_exhaustion_total{external_ip="${EGRESS[4]}",protocol="udp"}`;
    await until(
      () => {
        burst(client, 4, OTHER[4], 2 * SIZE);
        return (agent.metric(lost) ?? 0) > 0;
      },
      { what: 'what was dropped is counted' },
    );
    t.match(agent.daemon.log(), new RegExp(`"source":"${OTHER[4]}"`), 'and the log says whose it was');
    await agent.stop('SIGUSR2');
    agent.cli('cleanup');
    t.notMatch(tables(gateway), 'VEG');
  },
);

t.test('blocks stay in use while a shared address of a group comes beside them, and goes', async (t) => {
  const scope = scopeOf(t);
  const { client, gateway, server, policy, start } = lab(scope);
  const agent = start();
  await agent.synced();
  await startEchoServer(server);
  const keyFile = `${scope.directory('key')}/group`;
  writeFileSync(keyFile, 'k'.repeat(64), { mode: 0o400 });
  const shared = { name: 'shared', ipBlocks: ['10.19.0.0/16', 'fd00:10:19::/64'] };
  const withGroup = {
    policies: [
      ...TENANTS.policies,
      { ...shared, egressIP: { address: ['172.17.0.60', 'fd00:172:17::60'], shared: true } },
    ],
    group: { members: Object.values(ADDRESS.gatewayInternal), keyFile },
  };
  /** Another handle is another table. */
  const handles = () => tables(gateway, '-j').match(/"VEG-PORT-BLOCKS", "handle": \d+/g);
  const before = handles();
  t.equal(before?.length, 2);
  const changes = gateway.spawn('nft', ['monitor', 'destroy'], { name: 'monitor' });
  for (const [spec, slices] of [
    [withGroup, 1],
    [TENANTS, 0],
    [withGroup, 1],
  ] as const) {
    policy.set(spec);
    for (const family of ['ip', 'ip6']) {
      const map = () => gateway.run('nft', ['list', 'map', family, 'VEG-PORT-BLOCKS', 'slices']).stdout;
      await until(() => (map().match(/0x9\w+ :/g) ?? []).length === slices, {
        what: `${slices} slices of ${family}`,
      });
    }
    t.same(handles(), before, 'the same tables');
    gateway.sh('conntrack -F');
    for (const family of [4, 6] as const) {
      const seen = burst(client, family, ADDRESS.client[family], SIZE);
      t.same(seen.toSorted(), blockOf(family, 9).toSorted(), `IPv${family}: ports of its block`);
    }
  }
  t.notMatch(changes.log(), / blocks \{/, 'no block was removed meanwhile');
});

t.test('beside legacy iptables it does the same, and an edit leaves no trace', async (t) => {
  const { client, gateway, server, policy, start } = lab(scopeOf(t));
  for (const program of ['iptables', 'ip6tables']) gateway.sh(`${program}-legacy -t nat -N OPERATOR`);
  const agent = start();
  await agent.synced();
  await startEchoServer(server);
  for (const family of [4, 6] as const) {
    const seen = burst(client, family, ADDRESS.client[family], SIZE);
    t.same(seen.toSorted(), blockOf(family, 9).toSorted());
  }
  policy.set({ policies: [] });
  await until(() => !tables(gateway).includes('VEG-PORT-BLOCKS'), { what: 'no table of port blocks' });
  t.notMatch(rulesIn(gateway, 'legacy', 4, 'nat').join('\n'), 'VEG-TRANSLATE');
});
