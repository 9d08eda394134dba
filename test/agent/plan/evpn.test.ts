// EVPN mode in the plan: the devices, the routes of the VRF, what is announced, and what keeps a family from it.
import t from 'tap';
import { makePlan, type Plan } from '../../../agent/plan/plan.ts';
import type { Facts } from '../../../agent/pod/interfaces.ts';
import { prefix } from '../../../lib/prefix.ts';
import { desiredRouting, wantedVpn, withdrawal } from '../../../routing/desired.ts';
import { renderRoute, renderRule, renderStep } from '../../../routing/render.ts';
import { GATEWAY, policyOf } from '../policy/support.ts';
import { link, on, POD as SEEDS_POD } from './pod.ts';

const POD: Facts = { ...SEEDS_POD, announcing: { 4: true, 6: true } };
const BLOCKS = '[10.16.0.0/16, 10.18.0.0/16, 10.16.7.0/24, "fd00:10:18::/64"]';
const SPEC = `  policies: [{ snat: false, ipBlocks: ${BLOCKS} }]
  bgp: { localASN: 65002, neighbours: [{ address: 172.17.0.1, asn: 65001 }] }
  evpn: { vni: 1016, routeTargets: ["65000:1016"] }
`;
function planOf(facts: Partial<Facts> = {}, spec = SPEC, gateway = GATEWAY): Plan {
  return makePlan(policyOf({ 'a.yaml': `${gateway}${spec}` }), { ...POD, ...facts }, {});
}
const routes = ({ routing }: Plan): string[] => desiredRouting(routing).routes.map(renderRoute);
const VRF = { ...link(9, 'vrf-vpn'), device: { kind: 'vrf', table: 2000 } } as const;

t.test('both families share the devices; nothing is translated, limited or counted', async (t) => {
  const plan = planOf();
  t.strictSame(plan.families, [
    { family: 4, state: 'programmed', tunnel: { vni: 1016, local: '172.17.0.11' } },
    { family: 6, state: 'programmed', tunnel: { vni: 1016, local: '172.17.0.11' } },
  ]);
  t.strictSame(wantedVpn(plan.routing), { internal: 'eth0', vni: 1016, local: '172.17.0.11', mtu: 1500 });
  t.strictSame([plan.nat, plan.counters, plan.addresses, plan.notes], [[], [], [], []]);
  t.strictSame(desiredRouting(plan.routing).rules.map(renderRule), [
    'priority 1001 l3mdev',
    'priority 1002 l3mdev unreachable',
    'priority 1001 l3mdev',
    'priority 1002 l3mdev unreachable',
  ]);
});

t.test(
  'the blocks are in the VRF, marked while they are announced; a network of the link as halves',
  async (t) => {
    const plan = planOf();
    t.strictSame(routes(plan), [
      'default via 172.17.0.1 dev net1 proto 178',
      '10.16.0.0/17 dev eth0 table 2000 proto 178 metric 178',
      '10.16.128.0/17 dev eth0 table 2000 proto 178 metric 178',
      '10.18.0.0/16 via 10.16.0.1 dev eth0 table 2000 proto 178 metric 178',
      '10.16.7.0/24 dev eth0 table 2000 proto 178 metric 178',
      'default via fd00:172:17::1 dev net1 proto 178',
      'fd00:10:18::/64 via fd00:10:16::1 dev eth0 table 2000 proto 178 metric 178',
    ]);
    t.same(
      plan.announcements.map(({ prefix, announced }) => [prefix, announced]),
      [
        ['10.16.0.0/16', true],
        ['10.18.0.0/16', true],
        ['10.16.7.0/24', true],
        ['fd00:10:18::/64', true],
      ],
    );
    const withdrawn = planOf({ announcing: { 4: false, 6: false } });
    t.strictSame(routes(withdrawn), [
      'default via 172.17.0.1 dev net1 proto 178',
      '10.18.0.0/16 via 10.16.0.1 dev eth0 table 2000 proto 178',
      'default via fd00:172:17::1 dev net1 proto 178',
      'fd00:10:18::/64 via fd00:10:16::1 dev eth0 table 2000 proto 178',
    ]);
    t.same(
      withdrawn.announcements.map(({ announced }) => announced),
      [false, false, false, false],
    );
  },
);

t.test('before it is known whether the gateway is ready, what the kernel has stays', async (t) => {
  const { announcing: _, ...unknown } = POD;
  const policy = policyOf({ 'a.yaml': `${GATEWAY}${SPEC}` });
  const plan = makePlan(policy, { ...unknown, announced: [prefix('10.18.0.0/16')] }, {});
  t.same(
    plan.announcements.filter(({ announced }) => announced).map(({ prefix }) => prefix),
    ['10.18.0.0/16'],
  );
});

t.test('what is announced is withdrawn from the VRF, and the way into the VPC stays', async (t) => {
  const [, ipv6] = planOf().routing;
  t.strictSame(withdrawal(ipv6!).map(renderStep), [
    'ip -6 route add fd00:10:18::/64 via fd00:10:16::1 dev eth0 table 2000 proto 178',
    'ip -6 route del fd00:10:18::/64 via fd00:10:16::1 dev eth0 table 2000 proto 178 metric 178',
  ]);
});

t.test('without FRR of the agent’s (Kube-OVN’s sidecar), nothing is marked', async (t) => {
  const { bgp: _, ...policy } = policyOf({ 'a.yaml': `${GATEWAY}${SPEC}` });
  const plan = makePlan(policy, POD, {});
  t.ok(routes(plan).includes('10.18.0.0/16 via 10.16.0.1 dev eth0 table 2000 proto 178'));
  t.strictSame(plan.announcements, []);
});

t.test('BFD peers of the VPC are reached by the VRF, and keep their sessions', async (t) => {
  const bfd = '  bfd: { enabled: true, peers: [10.255.255.255, "fd00:ffff::1"] }\n';
  const plan = planOf({}, `${bfd}${SPEC}`);
  t.ok(routes(plan).includes('10.255.255.255 via 10.16.0.1 dev eth0 table 2000 proto 178'));
  t.same(
    plan.peers.map(({ remote }) => remote),
    ['10.255.255.255', 'fd00:ffff::1'],
  );
});

t.test('a tunnel of one family carries both', async (t) => {
  const only4 = GATEWAY.replace(', "fd00:172:17::1"]', ']');
  t.match(planOf({}, SPEC, only4).families, [{ state: 'programmed' }, { state: 'programmed' }]);
  t.notOk(routes(planOf({}, SPEC, only4)).some((route) => route.includes('fd00:172:17::1')));
  const addresses = POD.addresses.filter(({ address }) => address !== '172.17.0.11');
  const over6 = planOf({ addresses });
  t.match(over6.families, [{ tunnel: { local: 'fd00:172:17::11' } }, { state: 'programmed' }]);
});

t.test('without an end for the tunnel, or an address inside, a family stays as it is', async (t) => {
  const noOutside = planOf({ addresses: [on(2, '10.16.0.12/16'), on(2, 'fd00:10:16::12/64')] });
  t.match(noOutside.families, [
    { state: 'blocked', reason: 'the external interface net1 has no usable address for the tunnel' },
    { state: 'blocked' },
  ]);
  t.strictSame([noOutside.leftAlone, noOutside.routing], [[4, 6], []]);
  const down = planOf({
    links: [link(2, 'eth0'), link(3, 'net1', false)],
    addresses: [on(2, '10.16.0.12/16')],
  });
  t.match(down.families[0], { reason: /^the external interface net1 is down/ });
  const no6 = planOf({ addresses: POD.addresses.filter(({ address }) => address !== 'fd00:10:16::12') });
  t.match(no6.families, [{ state: 'programmed' }, { state: 'blocked', reason: /no usable IPv6 address/ }]);
});

t.test('the internal gateway off its networks is reached all the same', async (t) => {
  const far = GATEWAY.replace('[10.16.0.1,', '[10.15.0.1,');
  t.ok(
    routes(planOf({}, SPEC, far)).includes(
      '10.18.0.0/16 via 10.15.0.1 dev eth0 onlink table 2000 proto 178 metric 178',
    ),
  );
});

t.test('addresses are kept from the start; what answers in the VRF is set when it is there', async (t) => {
  const set = (plan: Plan) =>
    plan.sysctls.map(({ path }) => path).filter((path) => /keep|accept|nonlocal/.test(path));
  t.same(set(planOf()), ['net/ipv6/conf/eth0/keep_addr_on_down']);
  t.same(set(planOf({ links: [...POD.links, VRF] })), [
    'net/ipv6/conf/eth0/keep_addr_on_down',
    'net/ipv4/tcp_l3mdev_accept',
    'net/ipv4/ip_nonlocal_bind',
    'net/ipv6/ip_nonlocal_bind',
  ]);
  t.same(set(makePlan(policyOf({ 'a.yaml': GATEWAY }), { ...POD, links: [...POD.links, VRF] }, {})), []);
});
