// Port blocks with the whole agent: repaired, counted, and removed without a trace.
import t from 'tap';
import { type Namespace, until } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS } from '../support/topology.ts';
import { startEchoServer } from '../support/traffic.ts';
import { rulesIn } from './nat-lab.ts';
import { blockOf, burst, EGRESS, lab, OTHER, SIZE, TENANTS } from './port-lab.ts';

const tables = (ns: Namespace): string => ns.sh('nft list tables');

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
  await until(() => !tables(gateway).includes('VEG'), { what: 'no table of port blocks' });
  t.notMatch(rulesIn(gateway, 'legacy', 4, 'nat').join('\n'), 'VEG-TRANSLATE');
});
