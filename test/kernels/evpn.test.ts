/**
 * EVPN mode in a kernel that has VRFs (`npm run test:kernels`; a kernel without is tested in test/live/evpn.test.ts): what
 * Kube-OVN's end-to-end test asserts, both families, drift of every part, a drain, and the way back to translation.
 */
import t, { type Test } from 'tap';
import { Agent, type AgentOptions, cli, DIRECT, PolicyDirectory, WEB } from '../support/agent.ts';
import { Frr } from '../support/bgp.ts';
import { type Namespace, type Scope, until } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { type Topology, topology } from '../support/topology.ts';

const VNI = 1016;
const ASN = { gateway: 65_002, peer: 65_001 } as const;
/** What is behind the other end of the tunnel. */
const BACKEND = { 4: '10.99.0.1', 6: 'fd00:99::1' } as const;
const SPEC = {
  policies: [DIRECT],
  bgp: { localASN: ASN.gateway, neighbours: [{ address: '172.17.0.1', asn: ASN.peer }] },
  evpn: { vni: VNI, routeTargets: ['65000:1016'] },
};
const SLOWLY = { everyMs: 200 };

/** Another program takes a part of the tunnel away: packets pass again. */
const TUNNEL_DRIFT = [
  'ip link del vxlan-vpn',
  'ip link set vxlan-vpn nomaster',
  'ip link set vxlan-vpn down',
];
/**
 * Or what is announced: the kernel and the other side have all of it again. No packet is asked for: when eth0 came back within a
 * second, none passed for four minutes although both sides had every route (FRR 8.4 on both); when it came back after
 * some seconds, they passed.
 */
const ROUTING_DRIFT = [
  'ip link set eth0 nomaster',
  'ip link del br-vpn',
  'ip link del vrf-vpn',
  'ip route flush table 2000 proto 178',
  'ip -6 route flush table 2000 proto 178',
  'ip rule del priority 1000',
  'ip rule del priority 1002',
];

/** FRR as upstream's test has it on the other side; upstream's sidecar has the same with its own AS number. */
const upstreamConfig = (asn: number, id: string, neighbour: string, neighbourASN: number): string => `
frr defaults traditional
vrf vrf-vpn
  vni ${VNI}
exit-vrf
router bgp ${asn}
  no bgp ebgp-requires-policy
  no bgp network import-check
  no bgp default ipv4-unicast
  bgp router-id ${id}
  neighbor ${neighbour} remote-as ${neighbourASN}
  neighbor ${neighbour} timers connect 5
  address-family l2vpn evpn
    neighbor ${neighbour} activate
    advertise-all-vni
    advertise-svi-ip
  exit-address-family
exit
router bgp ${asn} vrf vrf-vpn
  no bgp ebgp-requires-policy
  no bgp network import-check
  no bgp default ipv4-unicast
  address-family ipv4 unicast
    redistribute connected
    redistribute kernel
  exit-address-family
  address-family ipv6 unicast
    redistribute connected
    redistribute kernel
  exit-address-family
  address-family l2vpn evpn
    advertise ipv4 unicast
    advertise ipv6 unicast
    rd ${asn}:${VNI}
    route-target import 65000:1016
    route-target export 65000:1016
  exit-address-family
exit
`;

/** The other end of the tunnel. */
async function farEnd(scope: Scope, server: Namespace): Promise<Frr> {
  server.sysctl({ 'net.ipv4.ip_forward': 1, 'net.ipv6.conf.all.forwarding': 1 });
  server.ip(`
    route del 10.18.0.0/16
    route del fd00:10:18::/64
    link add vrf-vpn type vrf table 2000
    link set vrf-vpn up
    link add br-vpn type bridge
    link set br-vpn master vrf-vpn
    link set br-vpn up
    link add vxlan-vpn type vxlan id ${VNI} dstport 4789 local 172.17.0.1
    link set vxlan-vpn master br-vpn
    link set vxlan-vpn up
    addr add ${BACKEND[4]}/24 dev vrf-vpn
    addr add ${BACKEND[6]}/64 dev vrf-vpn nodad`);
  const frr = await Frr.start(scope, server, 'peer');
  const loaded = frr.load(upstreamConfig(ASN.peer, '172.17.0.1', '172.17.0.11', ASN.gateway));
  if (loaded.code !== 0) throw new Error(`${loaded.stdout}${loaded.stderr}`);
  return frr;
}

interface Lab extends Topology {
  scope: Scope;
  peer: Frr;
  frr: Frr;
  policies: PolicyDirectory;
  options: AgentOptions;
}

async function lab(t: Test): Promise<Lab> {
  const scope = scopeOf(t);
  const made = topology(scope);
  const peer = await farEnd(scope, made.server);
  const frr = await Frr.start(scope, made.gateway, 'frr');
  const policies = new PolicyDirectory(scope);
  const options = { policyDir: policies.dir, stateDir: scope.directory('state') };
  return { ...made, scope, peer, frr, policies, options };
}

const pings = (from: Namespace, to: string): boolean => from.run('ping', ['-c1', '-W1', to]).code === 0;
const routes = (frr: Frr, family: 4 | 6 = 4): string =>
  frr.vtysh(`show ${family === 4 ? 'ip' : 'ipv6'} route vrf vrf-vpn`);
const links = (ns: Namespace): string => ns.sh('ip -d link show');

/** The client of the policy reaches what is behind the tunnel, in both families. */
async function pingsThrough({ client2, gateway, frr, peer }: Lab, what: string): Promise<void> {
  for (const family of [4, 6] as const) {
    try {
      await until(() => pings(client2, BACKEND[family]), { what: `${what}: IPv${family}`, ...SLOWLY });
    } catch (error) {
      const state = [
        ...[
          gateway.sh('ip -br link'),
          gateway.sh(`ip -${family} route show table 2000`),
          gateway.sh('ip rule'),
        ],
        ...[gateway.sh('ip neigh'), routes(frr, family), routes(peer, family)],
        ...['show evpn rmac vni all', 'show evpn vni', 'show bgp l2vpn evpn'].map((command) =>
          frr.vtysh(command),
        ),
      ];
      throw new Error(`${(error as Error).message}\n${state.join('\n')}`);
    }
  }
}

/** Waits until the kernel is as the policy says. */
const nothingToDo = (agent: Agent, what: string): Promise<boolean> =>
  until(
    () => {
      const { code, stdout } = agent.cli('plan');
      if (code !== 0) throw new Error(stdout);
      return true;
    },
    { what: `${what}: repaired`, ...SLOWLY },
  );

/** What Kube-OVN's end-to-end test asserts of the pod and of the other end. */
async function asUpstream(t: Test, { gateway, frr, peer }: Lab): Promise<void> {
  t.match(gateway.sh('ip link show vrf-vpn'), /vrf-vpn/);
  t.match(gateway.sh('ip -d link show vxlan-vpn'), new RegExp(`vxlan id ${VNI} `));
  t.match(gateway.sh('ip link show eth0'), /master vrf-vpn/);
  await until(() => frr.vtysh('show bgp l2vpn evpn').includes('[5]:[0]:[24]:[10.99.0.0]'), {
    ...{ what: 'a type-5 route is learned', ...SLOWLY },
  });
  await until(() => /^B.*10\.99\.0\.0\/24/m.test(routes(frr)), { what: 'it is in the VRF', ...SLOWLY });
  await until(() => routes(peer).includes('10.18.0.0/16'), {
    what: 'the peer learns the block',
    ...SLOWLY,
  });
}

t.test('as spec.evpn says it', async (t) => {
  const made = await lab(t);
  const { gateway, client, client2, peer, frr, policies, options } = made;
  policies.set(SPEC);
  const plan = cli(gateway, options, 'plan');
  t.equal(plan.code, 4);
  for (const line of [
    'ip link add vrf-vpn group 178 up type vrf table 2000',
    'ip link add br-vpn group 178 master vrf-vpn up type bridge',
    `ip link add vxlan-vpn mtu 1450 group 178 master br-vpn up type vxlan id ${VNI} dstport 4789 local 172.17.0.11 nolearning`,
    'ip link set eth0 master vrf-vpn',
    'ip rule add priority 1002 l3mdev unreachable',
  ]) {
    t.ok(plan.stdout.split('\n').includes(line), line);
  }
  // As in a pod: the init container, then FRR and the agent.
  const applied = cli(gateway, options, 'apply');
  t.equal(applied.code, 0, applied.stderr);
  const rendered = cli(gateway, options, 'render', 'frr', '-f', policies.dir);
  t.same([rendered.code, rendered.stderr], [0, '']);
  t.same(frr.load(rendered.stdout).code, 0, 'vtysh -f');
  const agent = new Agent(gateway, { ...options, args: ['--frr-dir', frr.dir] });
  t.teardown(() => agent.stop().catch(() => {}));
  await agent.synced();
  await asUpstream(t, made);
  await pingsThrough(made, 'the client pings through');
  t.match(gateway.sh('ip addr show eth0'), /inet6 fd00:10:16::12/, 'the VRF has taken no address');
  t.match((await agent.status()).kernel.families, [
    { family: 4, state: 'programmed', tunnel: { vni: VNI, local: '172.17.0.11' } },
    { family: 6, state: 'programmed', tunnel: { vni: VNI } },
  ]);
  t.match(client2.run('curl', ['-sm5', 'http://10.16.0.12:10669/livez']), { code: 0 }, 'probes answer');

  await until(() => client2.run('ping', ['-c1', '-W1', '192.0.2.1']).stdout.includes('Unreachable'), {
    ...{ what: 'what the VRF has no route for goes nowhere', ...SLOWLY },
  });
  t.equal(pings(client2, '172.17.0.1'), false, 'the network outside is not part of it');

  await t.test('drift', async (t) => {
    for (const drift of TUNNEL_DRIFT) {
      gateway.sh(drift);
      await agent.synced();
      await nothingToDo(agent, drift);
      await pingsThrough(made, drift);
      t.pass(drift);
    }
    for (const drift of ROUTING_DRIFT) {
      gateway.sh(drift);
      await nothingToDo(agent, drift);
      await until(() => routes(peer).includes('10.18.0.0/16'), { what: `${drift}: announced`, ...SLOWLY });
      t.pass(drift);
    }
    gateway.ip(`
      link del vxlan-vpn
      link add vxlan-vpn group 178 type vxlan id 7 dstport 4789 local 172.17.0.11`);
    await until(() => links(gateway).includes(`vxlan id ${VNI} `), {
      what: 'the VNI is repaired',
      ...SLOWLY,
    });
    t.match((await agent.status()).kernel.driftRepaired, { link: Number, route: Number });
  });

  await t.test('a drain withdraws, and goes on forwarding', async () => {
    agent.cli('drain');
    await until(() => !routes(peer).includes('10.18.0.0/16'), { what: 'withdrawn', ...SLOWLY });
    agent.cli('undrain');
    await until(() => routes(peer).includes('10.18.0.0/16'), { what: 'announced again', ...SLOWLY });
  });

  await t.test('another VNI in the policy', async () => {
    policies.set({ ...SPEC, evpn: { ...SPEC.evpn, vni: 2000 } });
    await until(() => links(gateway).includes('vxlan id 2000 '), { what: 'the new VNI', ...SLOWLY });
    policies.set(SPEC);
    await until(() => links(gateway).includes(`vxlan id ${VNI} `), { what: 'the old VNI', ...SLOWLY });
  });

  await t.test('a policy without evpn translates again', async (t) => {
    policies.set({ policies: [DIRECT, WEB] });
    await until(() => !/v(rf|xlan)-vpn|br-vpn/.test(links(gateway)), {
      what: 'no device is left',
      ...SLOWLY,
    });
    await agent.synced();
    for (const family of [4, 6] as const) {
      const address = family === 4 ? '172.17.0.1' : 'fd00:172:17::1';
      await until(() => pings(client, address), { what: `IPv${family} is translated`, ...SLOWLY });
    }
    t.equal(agent.cli('plan').code, 0);
  });
  await agent.stop();
  t.equal(cli(gateway, options, 'cleanup').code, 0);
});

t.test("as Kube-OVN's init container and FRR sidecar have it", async (t) => {
  const made = await lab(t);
  const { gateway, frr, options } = made;
  t.equal(frr.load(upstreamConfig(ASN.gateway, '172.17.0.11', '172.17.0.1', ASN.peer)).code, 0);
  const env = {
    ...{ ENABLE_BGP: 'true', ENABLE_EVPN: 'true', VNI: `${VNI}` },
    ...{ INTERNAL_GATEWAY_IPV4: '10.16.0.1', INTERNAL_GATEWAY_IPV6: 'fd00:10:16::1' },
    ...{ EXTERNAL_GATEWAY_IPV4: '172.17.0.1', EXTERNAL_GATEWAY_IPV6: 'fd00:172:17::1' },
    ...{ NO_SNAT_SOURCES_IPV4: '10.16.0.0/16,10.18.0.0/16', NO_SNAT_SOURCES_IPV6: 'fd00:10:18::/64' },
  };
  const applied = cli(gateway, { ...options, env }, 'apply');
  t.equal(applied.code, 0, applied.stderr);
  await asUpstream(t, made);
  await pingsThrough(made, 'without an agent');
  t.match(cli(gateway, { ...options, env }, 'apply'), { code: 0, stdout: '' }, 'a second apply');
  t.equal(cli(gateway, { ...options, env }, 'plan').code, 0);
  t.equal(cli(gateway, { ...options, env }, 'cleanup').code, 0);
  t.notMatch(links(gateway), /vpn/);
  for (const family of [4, 6]) t.notMatch(gateway.sh(`ip -${family} rule`), /100[12]/);
  t.match(gateway.sh('ip addr show eth0'), /inet6 fd00:10:16::12/);
});
