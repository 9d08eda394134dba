/**
 * A gateway on a kernel that may lack IPv6, ip_set, nf_tables, flowtables or legacy iptables (npm run test:kernels): what the
 * kernel can do is done, what it cannot is named, and nothing else suffers.
 */
import t from 'tap';
import type { FlowRecord } from '../../nat/conntrack/records.ts';
import { Agent, BFD, DIRECT, PolicyDirectory, WEB } from '../support/agent.ts';
import { IPV6 } from '../support/machine.ts';
import { type Namespace, until } from '../support/netns.ts';
import { peerUp, startFrr } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { ECHO_PORT, startEchoServer, Traffic } from '../support/traffic.ts';

const FAMILIES = IPV6 ? ([4, 6] as const) : ([4] as const);

/** Modules that this kernel is to do without; none but in the machines of kernels.ts. */
const LACKS = (process.env.VEG_KERNEL_LACKS ?? '').split(' ');

/** What the kernel can do, asked in a namespace whose tables nobody else uses. */
function abilities(ns: Namespace): { sets: boolean; nft: boolean; flowtables: boolean; legacy: boolean } {
  const works = (line: string) => ns.run('sh', ['-c', line]).code === 0;
  return {
    sets: works('ipset create probe hash:net && iptables -I INPUT -m set --match-set probe src'),
    nft: works('nft list tables'),
    flowtables: works(
      "nft 'table inet probe { flowtable f { hook ingress priority 0; devices = { lo }; }; chain c { type filter hook forward priority 0; flow add @f; }; }'",
    ),
    legacy: works('iptables-legacy -t nat -S'),
  };
}

t.test('a gateway does what this kernel can, and names what it cannot', async (t) => {
  const scope = scopeOf(t);
  const can = abilities(scope.namespace('probe'));
  const has = (module: string) => !LACKS.includes(module);
  const { flowtables, ...asked } = can;
  t.same(
    { ...asked, ipv6: IPV6 },
    { sets: has('ip_set'), nft: has('nf_tables'), legacy: has('ip_tables'), ipv6: has('ipv6') },
    'the kernel is the one that was asked for',
  );
  const { client, client2, router, gateway, server } = topology(scope);
  await startEchoServer(server);
  const policy = new PolicyDirectory(scope);
  const policies = [DIRECT, WEB];
  policy.set({ bfd: BFD, policies, fastPath: true, translationLog: { enabled: true } });
  const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
  const sessions = FAMILIES.map((family) => ({
    local: ADDRESS.bfdPort[family],
    remote: ADDRESS.gatewayInternal[family],
  }));
  const frr = await startFrr(scope, router, { sessions });
  await peerUp(frr);
  const { kernel } = await agent.statusUntil(
    'ready, with the fast path or a note about it',
    ({ ready, kernel: { fastPath, notes } }) =>
      ready && fastPath === flowtables && (flowtables || notes.some((note) => /^the fast path /.test(note))),
  );
  t.equal(kernel.backend, can.nft ? 'nft' : 'legacy');
  const noted = [
    ...(IPV6 ? [] : [/^BFD peer fd00:ffff::1 is left out: /, /^IPv6 is left out: this kernel has no IPv6/]),
    ...(flowtables
      ? []
      : [
          /^the fast path is not in force, the rest is: nf_tables: .*; load nf_flow_table, nf_flow_table_inet and nft_/,
        ]),
    ...(can.nft
      ? []
      : [
          /^traffic of policies is not counted .*: nf_tables: .*; load nf_tables and nft_ct on the node$/,
          /^what belongs to no connection is dropped by iptables .*: nf_tables: .*; load nf_tables and nft_ct on the node$/,
        ]),
  ];
  t.match(kernel.notes.toSorted(), noted);
  t.equal(kernel.notes.length, noted.length, 'nothing else is noted');

  // Open to the end: whatever the kernel refuses, connections go on.
  const paths = FAMILIES.map((family) => `tcp:${ADDRESS.server[family]}`);
  const translated = await Traffic.open(client, paths);
  const unchanged = await Traffic.open(client2, paths);
  // Where the kernel does not count, the translation log does.
  const counted = () =>
    FAMILIES.every(
      (family) => agent.metric(`veg_snat_connections_total{policy="web",family="ipv${family}"}`) === 1,
    );
  await until(counted, { what: 'a connection of each family is counted' });
  const records = () =>
    [...agent.daemon.log().matchAll(/^\{"schemaVersion".*"event":"start".*\}$/gm)].map(
      ([line]) => JSON.parse(line) as FlowRecord,
    );
  for (const family of FAMILIES) {
    const record = await until(
      () => records().find(({ original }) => original.sourceIP === ADDRESS.client[family]),
      { what: `the record of the translated connection of IPv${family}` },
    );
    t.match(record, {
      ...{ addressFamily: `ipv${family}`, protocol: 'tcp', natType: ['snat'] },
      original: { destinationIP: ADDRESS.server[family], destinationPort: ECHO_PORT },
      translated: { sourceIP: ADDRESS.gatewayExternal[family], destinationPort: ECHO_PORT },
    });
  }

  const many = {
    name: 'many',
    snat: false,
    ipBlocks: Array.from({ length: 40 }, (_, i) => `10.100.${i}.0/24`),
  };
  policy.set({ bfd: BFD, policies: [...policies, many], fastPath: true, translationLog: { enabled: true } });
  const lacking = async (what: string) => {
    const { kernel } = await agent.statusUntil(
      `what the kernel lacks: ${what}`,
      ({ kernel }) => kernel.failed.length > 0,
    );
    t.same(
      [...new Set(kernel.failed.map(({ reason }) => reason))],
      ['unsupported'],
      JSON.stringify(kernel.failed),
    );
    t.notOk(kernel.inSync);
  };
  if (can.sets) {
    await until(() => gateway.sh('ipset list -n').includes('VEG-FORWARD-4'), { what: 'the set' });
    await agent.synced();
  } else await lacking('sets');
  t.ok(frr.sessions().every(({ state }) => state === 'Up'));

  const limited = policies.map((each) => ({ ...each, bandwidth: { egress: 100, ingress: 100 } }));
  policy.set({ bfd: BFD, policies: limited, fastPath: true, translationLog: { enabled: true } });
  if (can.nft) {
    await until(() => gateway.sh('tc qdisc show dev net1').includes('htb'), { what: 'the limits' });
    await agent.synced();
  } else await lacking('nf_tables');
  for (const [i, family] of FAMILIES.entries()) {
    for (const [traffic, source] of [
      [translated, ADDRESS.gatewayExternal],
      [unchanged, ADDRESS.client2],
    ] as const) {
      const { sources, sent, received, broken } = (await traffic.report())[i]!;
      t.same(sources, [source[family]], `IPv${family}: the server has seen ${source[family]} alone`);
      t.ok(
        received > 0 && received <= sent && broken === undefined,
        `IPv${family}: and the connection goes on`,
      );
    }
  }
  await translated.close();
  await unchanged.close();
  t.notMatch(
    agent.daemon.log(),
    'cannot read or save the counters of policies',
    'what is noted is no warning',
  );
  t.equal(await agent.stop(), 0);
  t.equal(agent.cli('cleanup').code, 0);
});
