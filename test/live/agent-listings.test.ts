/** What `apply`, `plan` and `cleanup` leave in the kernel: the listings of Kube-OVN's pods, line for line. */
import t, { type Test } from 'tap';
import { AGENT, type AgentOptions, cli, type GatewaySpec, PolicyDirectory } from '../support/agent.ts';
import { type Backend, forwardedBlocks, kernelState } from '../support/kernel.ts';
import { must, type Namespace, NODE } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { type Topology, type TopologyOptions, topology } from '../support/topology.ts';

interface Pod {
  net: Topology;
  gateway: Namespace;
  policy: PolicyDirectory;
  veg: (...args: string[]) => ReturnType<typeof cli>;
}

function pod(t: Test, options?: TopologyOptions): Pod {
  const scope = scopeOf(t);
  const net = topology(scope, options);
  const policy = new PolicyDirectory(scope);
  const agent: AgentOptions = { policyDir: policy.dir, stateDir: scope.directory('state') };
  return { net, gateway: net.gateway, policy, veg: (...args) => cli(net.gateway, agent, ...args) };
}

/** A listing with its blanks made single, as reference/kube-ovn.md prints it. */
const listing = (ns: Namespace, command: string): string =>
  ns
    .sh(command)
    .split('\n')
    .map((line) => line.trim().replace(/\s+/g, ' '))
    .filter(Boolean)
    .join('\n');

const lines = (text: string): string =>
  text
    .split('\n')
    .map((line) => line.trim())
    .filter(Boolean)
    .join('\n');

const SEEDS_4 = {
  'ip rule show': `
    0: from all lookup local
    1001: from all iif eth0 lookup default
    1002: from all iif net1 lookup 1000
    1003: from 10.16.0.12 iif lo lookup 1000
    1004: from 172.17.0.11 iif lo lookup default
    32766: from all lookup main
    32767: from all lookup default`,
  'ip route show': `
    default via 172.17.0.1 dev net1
    10.16.0.0/16 dev eth0 proto kernel scope link src 10.16.0.12
    10.17.0.0/16 via 10.16.0.1 dev eth0
    10.18.0.0/16 via 10.16.0.1 dev eth0
    172.17.0.0/16 dev net1 proto kernel scope link src 172.17.0.11`,
  'ip route show table 1000': 'default via 10.16.0.1 dev eth0',
  'iptables -t nat -S': `
    -P PREROUTING ACCEPT
    -P INPUT ACCEPT
    -P OUTPUT ACCEPT
    -P POSTROUTING ACCEPT
    -N VEG-MASQUERADE
    -A PREROUTING -i eth0 -j MARK --set-xmark 0x4000/0x4000
    -A POSTROUTING -d 10.18.0.0/16 -j RETURN
    -A POSTROUTING -s 10.18.0.0/16 -j RETURN
    -A POSTROUTING -j VEG-MASQUERADE
    -A VEG-MASQUERADE -j MARK --set-xmark 0x0/0xffffffff
    -A VEG-MASQUERADE -j MASQUERADE --random-fully`,
};

const SEEDS_6 = {
  'ip -6 rule show': `
    0: from all lookup local
    1001: from all iif eth0 lookup default
    1002: from all iif net1 lookup 1000
    1003: from fd00:10:16::12 iif lo lookup 1000
    1004: from fd00:172:17::11 iif lo lookup default
    32766: from all lookup main`,
  'ip -6 route show': `
    fd00:10:16::/64 dev eth0 proto kernel metric 256 pref medium
    fd00:10:17::/64 via fd00:10:16::1 dev eth0 metric 1024 pref medium
    fd00:10:18::/64 via fd00:10:16::1 dev eth0 metric 1024 pref medium
    fd00:172:17::/64 dev net1 proto kernel metric 256 pref medium
    fe80::/64 dev eth0 proto kernel metric 256 pref medium
    fe80::/64 dev net1 proto kernel metric 256 pref medium
    default via fd00:172:17::1 dev net1 metric 1024 pref medium`,
  'ip -6 route show table 1000': 'default via fd00:10:16::1 dev eth0 metric 1024 pref medium',
  'ip6tables -t nat -S': SEEDS_4['iptables -t nat -S'].replaceAll('10.18.0.0/16', 'fd00:10:18::/64'),
};

t.test('the resources of the seeds give the listings of the seeds', async (t) => {
  const { gateway, policy, veg } = pod(t, { cniRoutes: true });
  const before = { rules: listing(gateway, 'ip -6 rule show'), nat: listing(gateway, 'ip6tables -t nat -S') };
  policy.copy('alauda');
  const applied = veg('apply');
  t.equal(applied.code, 0, applied.stderr);
  for (const [command, expected] of Object.entries(SEEDS_4)) {
    t.equal(listing(gateway, command), lines(expected), command);
  }
  t.equal(listing(gateway, 'ip -6 rule show'), before.rules, 'nothing in IPv6, of which they do not speak');
  t.equal(listing(gateway, 'ip6tables -t nat -S'), before.nat);
});

t.test('the listings are alike in both families, and a second apply and plan find nothing', async (t) => {
  const { gateway, policy, veg } = pod(t, { cniRoutes: true });
  policy.set();
  const planned = veg('plan');
  t.equal(planned.code, 4, planned.stderr);
  const applied = veg('apply');
  t.equal(applied.code, 0, applied.stderr);
  for (const [command, expected] of Object.entries({ ...SEEDS_4, ...SEEDS_6 })) {
    t.equal(listing(gateway, command), lines(expected), command);
  }
  t.match(veg('plan'), { code: 0, stdout: '' });
  const again = veg('apply');
  t.match(again, { code: 0, stdout: '' }, 'the second apply changes nothing');
});

t.test('sysctls that forwarding needs are set', async (t) => {
  const { gateway, policy, veg } = pod(t);
  policy.set();
  t.equal(veg('apply').code, 0);
  t.equal(
    gateway.sh('sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv4.conf.eth0.rp_filter'),
    '1\n1\n0\n',
  );
});

t.test('routes that no CNI made are made, marked as the agent’s, and go with their block', async (t) => {
  const { gateway, policy, veg } = pod(t);
  policy.set();
  t.equal(veg('apply').code, 0);
  const routes = () =>
    `${listing(gateway, 'ip -4 route show proto 178')}\n${listing(gateway, 'ip -6 route show proto 178')}`;
  t.equal(
    routes(),
    lines(`
      10.17.0.0/16 via 10.16.0.1 dev eth0
      10.18.0.0/16 via 10.16.0.1 dev eth0
      fd00:10:17::/64 via fd00:10:16::1 dev eth0 metric 1024 pref medium
      fd00:10:18::/64 via fd00:10:16::1 dev eth0 metric 1024 pref medium`),
  );
  policy.set({ policies: [{ name: 'web', snat: true, ipBlocks: ['10.17.0.0/16'] }] });
  t.equal(veg('apply').code, 0);
  t.equal(routes().trim(), '10.17.0.0/16 via 10.16.0.1 dev eth0');
  t.same(forwardedBlocks(gateway, 4), []);
});

t.test('a block inside the internal subnet needs no route and is no error', async (t) => {
  const { gateway, policy, veg } = pod(t);
  policy.set({
    policies: [{ name: 'near', snat: false, ipBlocks: ['10.16.5.0/24', 'fd00:10:16::500/120'] }],
  });
  const applied = veg('apply');
  t.equal(applied.code, 0, applied.stderr);
  t.notMatch(gateway.sh('ip -4 route show'), '10.16.5.0');
  t.notMatch(gateway.sh('ip -6 route show'), 'fd00:10:16::500');
  t.same(forwardedBlocks(gateway, 4), ['10.16.5.0/24']);
  t.same(forwardedBlocks(gateway, 6), ['fd00:10:16::500/120']);
});

t.test('an external network of IPv4 alone works for IPv4, and IPv6 is left out with a word', async (t) => {
  const { gateway, policy, veg } = pod(t, { cniRoutes: true, externalV6: false });
  policy.set({ external: { gateways: ['172.17.0.1'] } });
  const applied = veg('apply');
  t.equal(applied.code, 0, applied.stderr);
  t.match(`${applied.stdout}${applied.stderr}`, /IPv6/);
  t.equal(listing(gateway, 'iptables -t nat -S'), lines(SEEDS_4['iptables -t nat -S']));
  t.notMatch(gateway.sh('ip -6 rule show'), '1001:');
  t.notMatch(gateway.sh('ip6tables -t nat -S'), 'VEG');
});

const blocks = (count: number) => Array.from({ length: count }, (_, i) => `10.100.${i}.0/24`);

t.test('up to 32 forwarded blocks stand as rules, more as one set', async (t) => {
  const { gateway, policy, veg } = pod(t);
  const natRules = () => gateway.sh('iptables -t nat -S POSTROUTING').trim().split('\n').length;
  for (const count of [32, 33, 32]) {
    policy.set({ policies: [{ name: 'many', snat: false, ipBlocks: blocks(count) }] });
    const applied = veg('apply');
    t.equal(applied.code, 0, applied.stderr);
    t.equal(natRules(), count <= 32 ? 2 + 2 * count : 4, `${count} blocks`);
    t.same(forwardedBlocks(gateway, 4), blocks(count).sort());
    t.match(veg('plan'), { code: 0, stdout: '' });
  }
  t.notMatch(gateway.sh('ipset list -n'), 'VEG-', 'the set went when it was no longer needed');
});

/** Rules, routes, chains and sets of somebody else, in the same places as the agent's. */
function foreign(gateway: Namespace, backend: Backend): void {
  gateway.ip('rule add priority 500 to 10.99.0.0/16 lookup 77\nrule add priority 1005 fwmark 7 lookup 77', 4);
  gateway.ip('rule add priority 500 to fd00:99::/64 lookup 77', 6);
  gateway.ip(`
    route add 10.99.0.0/16 via 10.16.0.1 dev eth0 proto static
    route add default via 10.16.0.1 dev eth0 table 77
    route add fd00:99::/64 via fd00:10:16::1 dev eth0 proto static`);
  gateway.sh('ipset create foreign hash:net');
  gateway.sh('ipset add foreign 10.99.0.0/16');
  for (const [command, block] of [
    [`iptables-${backend}`, '10.99.0.0/16'],
    [`ip6tables-${backend}`, 'fd00:99::/64'],
  ]) {
    gateway.sh(`${command} -t nat -N FOREIGN`);
    gateway.sh(`${command} -t nat -A FOREIGN -s ${block} -j RETURN`);
    gateway.sh(`${command} -t nat -A POSTROUTING -s ${block} -j FOREIGN`);
    gateway.sh(`${command} -t nat -A PREROUTING -i net1 -d ${block} -j MARK --set-xmark 0x7/0x7`);
    gateway.sh(`${command} -t raw -A PREROUTING -s ${block} -j ACCEPT`);
    gateway.sh(`${command} -t filter -A FORWARD -s ${block} -j DROP`);
  }
}

const SYSCTLS = [
  ...['net.ipv4.ip_forward', 'net.ipv4.conf.eth0.rp_filter', 'net.ipv6.conf.all.forwarding'],
  ...['acct', 'timestamp', 'events'].map((name) => `net.netfilter.nf_conntrack_${name}`),
];

for (const backend of ['nft', 'legacy'] as const) {
  t.test(`cleanup leaves the namespace as it was found (${backend})`, async (t) => {
    const { gateway, policy, veg } = pod(t, { cniRoutes: true });
    foreign(gateway, backend);
    const found = kernelState(gateway, backend);
    const details = () =>
      gateway.sh('ip -details route show table all') + gateway.sh(`sysctl ${SYSCTLS.join(' ')}`);
    const foundDetails = details();
    const many: GatewaySpec = {
      translationLog: { enabled: true },
      policies: [
        { name: 'many', snat: false, ipBlocks: blocks(40) },
        { name: 'web', snat: true, ipBlocks: ['10.17.0.0/16', 'fd00:10:17::/64'] },
      ],
    };
    for (const spec of [{}, many]) {
      policy.set(spec);
      const applied = veg('apply');
      t.equal(applied.code, 0, applied.stderr);
      const state = kernelState(gateway, backend);
      t.same(
        found.filter((line) => !state.includes(line)),
        [],
        'everything foreign is still there',
      );
      t.ok(
        state.some((line) => line.includes('VEG-MASQUERADE')),
        'with the backend that the pod uses',
      );
    }
    const cleaned = veg('cleanup');
    t.equal(cleaned.code, 0, cleaned.stderr);
    t.same(kernelState(gateway, backend), found);
    t.equal(details(), foundDetails, 'protocols of routes and sysctls too');
    t.match(veg('cleanup'), { code: 0, stdout: '' }, 'nothing is left for a second one');
  });
}

t.test('nothing leaves the gateway’s namespace', async (t) => {
  // Without the comments, which have the time.
  const host = () =>
    must('sh', ['-ec', "ip rule; ip -6 rule; ip route show table all; iptables-save | sed '/^#/d'"]);
  const before = host();
  const { policy, veg } = pod(t);
  policy.set();
  t.equal(veg('apply').code, 0);
  t.equal(host(), before);
  t.match(must(NODE, [AGENT, '--version']), /^\d+\.\d+\.\d+/);
});
