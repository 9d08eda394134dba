/**
 * Kube-OVN as a secondary CNI (Harvester): eth0 of the gateway is another CNI's, net1 is inside, net2 outside. The node
 * stands for the kubelet, Prometheus, the API server and the name servers.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { FAMILIES } from '../../lib/prefix.ts';
import { Agent, BFD, cli, PolicyDirectory } from '../support/agent.ts';
import { kernelState } from '../support/kernel.ts';
import { until, veth } from '../support/netns.ts';
import { peerUp, startFrr, startVegBfdd } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { sourceSeen, startEchoServer, Traffic } from '../support/traffic.ts';

/** What the other CNI gave the pod, and what the node has: its address, the API server's, one of a name server. */
const POD = { 4: '10.52.0.189', 6: 'fd00:52::bd' } as const;
const NODE = { 4: '192.0.2.10', 6: 'fd00:192::10' } as const;
const SERVICE = { 4: '10.53.0.1', 6: 'fd00:53::1' } as const;
const SESSIONS = FAMILIES.map((family) => ({
  local: ADDRESS.bfdPort[family],
  remote: ADDRESS.gatewayInternal[family],
}));
const NETWORK_STATUS = [
  { name: 'k8s-pod-network', interface: 'eth0', ips: Object.values(POD), default: true },
  { name: 'default/vswitchinternal2', interface: 'net1', ips: ['10.16.0.12'] },
  { name: 'default/vswitchexternal2', interface: 'net2', ips: ['172.17.0.11'] },
];

/** The topology with the gateway's links renamed and a third one to the node, as Calico makes it. */
function harvester(t: Test) {
  const scope = scopeOf(t);
  const net = topology(scope);
  const { gateway } = net;
  gateway.ip(`
    link set net1 down
    link set net1 name net2
    link set net2 up
    link set eth0 down
    link set eth0 name net1
    link set net1 up
    addr flush dev net1
    addr flush dev net2
    addr add 10.16.0.12/16 dev net1
    addr add fd00:10:16::12/64 dev net1 nodad
    addr add 172.17.0.11/16 dev net2
    addr add fd00:172:17::11/64 dev net2 nodad`);
  const node = scope.namespace('node');
  veth(node, 'pod', gateway, 'eth0');
  node.ip(`
    addr add fe80::1/64 dev pod nodad
    addr add ${NODE[4]}/32 dev lo
    addr add ${NODE[6]}/128 dev lo nodad
    addr add ${SERVICE[4]}/32 dev lo
    addr add ${SERVICE[6]}/128 dev lo nodad
    route add ${POD[4]} dev pod scope link
    route add ${POD[6]} dev pod`);
  node.sysctl({ 'net.ipv4.conf.pod.proxy_arp': 1 });
  gateway.ip(`
    addr add ${POD[4]}/32 dev eth0
    addr add ${POD[6]}/128 dev eth0 nodad
    route add 169.254.1.1 dev eth0 scope link
    route add default via 169.254.1.1 dev eth0 onlink
    route add default via fe80::1 dev eth0`);
  node.ip('addr add 169.254.1.1/32 dev pod');
  gateway.sysctl({ 'net.ipv4.conf.eth0.rp_filter': 1 });
  const policy = new PolicyDirectory(scope);
  policy.set({ bfd: BFD });
  const options = {
    policyDir: policy.dir,
    stateDir: scope.directory('state'),
    env: { POD_IPS: Object.values(POD).join(','), KUBERNETES_SERVICE_HOST: SERVICE[4] },
  };
  const probe = (family: 4 | 6, path: string) => {
    const host = family === 4 ? POD[4] : `[${POD[6]}]`;
    const args = ['-s', '-m', '2', '-o', '/dev/null', '-w', '%{http_code}', '--interface', NODE[family]];
    return node.run('curl', [...args, `http://${host}:10669${path}`]).stdout;
  };
  return { ...net, scope, node, options, probe };
}

type Lab = ReturnType<typeof harvester>;

const answered = ({ probe }: Lab): Promise<boolean> =>
  until(() => FAMILIES.every((family) => probe(family, '/livez') === '200'), {
    what: 'the kubelet gets answers',
  });

/** What the gateway's own listings have of the primary network. */
const primaryRules = ({ gateway }: Lab): string[] =>
  FAMILIES.flatMap((family) =>
    gateway
      .sh(`ip -${family} rule`)
      .split('\n')
      .filter((line) => /^100[56]:/.test(line))
      .map((line) => line.replace(/\s+/g, ' ').trim()),
  );

t.test('probes, BFD, translation and the pod’s own traffic each use their own interface', async (t) => {
  const lab = harvester(t);
  const { gateway, router, server, client, node, scope, options, probe } = lab;
  const status = join(scope.directory('podinfo'), 'network-status');
  writeFileSync(status, JSON.stringify(NETWORK_STATUS));
  const agent = new Agent(gateway, { ...options, args: ['--network-status', status] });
  await agent.synced();
  await peerUp(await startFrr(scope, router, { sessions: SESSIONS }));
  const seen = await agent.statusUntil('ready', ({ ready }) => ready);
  t.match(seen.kernel.interfaces, { internal: 'net1', external: 'net2' });
  t.same(
    seen.bfd?.sessions.map(({ local }) => local),
    SESSIONS.map(({ remote }) => remote),
    'BFD has the internal addresses, not those of POD_IPS',
  );

  for (const family of FAMILIES) {
    for (const path of ['/livez', '/readyz', '/metrics'])
      t.equal(probe(family, path), '200', `IPv${family} ${path}`);
  }
  t.match(
    gateway.sh('ip -4 route show default'),
    /^default via 172\.17\.0\.1 dev net2/,
    'although main leads outside',
  );

  await startEchoServer(server);
  await startEchoServer(node);
  for (const family of FAMILIES) {
    const at = (await sourceSeen(client, ADDRESS.server[family])).split(' ')[0];
    t.equal(at, ADDRESS.gatewayExternal[family]);
  }
  t.match(await sourceSeen(gateway, SERVICE[4]), new RegExp(`^${POD[4]} `), 'the API server');
  const counted = gateway.sh('iptables -t nat -vnxL VEG-PRIMARY');
  t.match(counted, /^ *[1-9]\d* .*ACCEPT/m, 'past the masquerade');

  // A network of the cluster is none of the VPC's.
  gateway.ip(`route add 192.0.2.0/24 via 169.254.1.1 dev eth0 onlink`);
  await t.rejects(
    until(() => Traffic.open(client, [`tcp:${NODE[4]}`]), { what: 'a connection', timeoutMs: 1500 }),
    'a pod of the VPC does not get into it',
  );
  t.match(gateway.sh('iptables -t mangle -vnxL VEG-PRIMARY'), /^ *[1-9]\d* .*DROP/m);
});

for (const backend of ['nft', 'legacy'] as const) {
  t.test(`rules, routes and chains of the primary network are kept (${backend})`, async (t) => {
    const lab = harvester(t);
    const { gateway, router, scope, options } = lab;
    gateway.ip(
      `
    rule add priority 1005 from 203.0.113.0/24 lookup 77
    rule add priority 1006 to 203.0.113.1 iif lo lookup 77
    route add 203.0.113.0/24 via 169.254.1.1 dev eth0 onlink table 1001`,
      4,
    );
    // What the backend is known by.
    for (const tool of ['iptables', 'ip6tables']) gateway.sh(`${tool}-${backend} -t nat -N FOREIGN`);
    // No event tells of a change by the legacy programs.
    const args = ['--resync', '300ms'];
    const agent = new Agent(gateway, { ...options, args });
    await agent.synced();
    await peerUp(await startVegBfdd(scope, router, { sessions: SESSIONS }));
    await answered(lab);
    const theirs = ['1005: from 203.0.113.0/24 lookup 77', '1006: from all to 203.0.113.1 iif lo lookup 77'];
    const ours = [
      `1005: from ${POD[4]} iif lo lookup 1001 proto 178`,
      `1006: from all to ${SERVICE[4]} iif lo lookup 1001 proto 178`,
      `1005: from ${POD[6]} iif lo lookup 1001 proto 178`,
    ];
    t.same(
      primaryRules(lab)
        .filter((line) => [...theirs, ...ours].includes(line))
        .sort(),
      [...theirs, ...ours].sort(),
    );
    const before = kernelState(gateway, backend);

    const faults = [
      ...FAMILIES.map((family) => `ip -${family} route flush table 1001 proto 178`),
      ...FAMILIES.map(
        (family) => `ip -${family} rule del priority 1005 from ${POD[family]} iif lo lookup 1001`,
      ),
      `iptables-${backend} -t nat -F VEG-PRIMARY`,
      `ip6tables-${backend} -t mangle -F VEG-PRIMARY`,
    ];
    for (const fault of faults) {
      gateway.sh(fault);
      await until(() => agent.cli('plan').stdout === '', { what: `${fault} is repaired` });
      await answered(lab);
    }
    t.same(kernelState(gateway, backend), before);

    // Multus' default-route takes the other CNI's away.
    gateway.ip('route del default via 169.254.1.1 dev eth0');
    await until(() => agent.cli('plan').stdout === '', { what: 'the change is seen' });
    t.match(
      gateway.sh('ip route show table 1001'),
      /^default via 169\.254\.1\.1 dev eth0/,
      'inferred from the link',
    );
    await answered(lab);

    const left = kernelState(gateway, backend);
    t.equal(await agent.stop('SIGUSR2'), 0);
    const next = new Agent(gateway, { ...options, args });
    await next.synced();
    await answered(lab);
    await next.statusUntil('ready', ({ ready }) => ready);
    t.same(kernelState(gateway, backend), left, 'the next agent finds all as it was left');

    t.equal(await next.stop(), 0);
    t.equal(cli(gateway, options, 'cleanup').code, 0);
    t.same(
      primaryRules(lab).filter((line) => line.includes('1001') || theirs.includes(line)),
      theirs,
      'cleanup takes ours away, and nobody else’s',
    );
    t.match(
      gateway.sh('ip route show table 1001'),
      /^203\.0\.113\.0\/24 via 169\.254\.1\.1 dev eth0 onlink\s*$/,
    );
    t.equal(gateway.sh('ip -6 route show table 1001').trim(), '');
  });
}
