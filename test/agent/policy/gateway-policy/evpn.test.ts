// spec.evpn: what it becomes, and what it rules out.
import t from 'tap';
import { GATEWAY, policyOf, printed } from '../support.ts';

const BGP = '  bgp: { localASN: 65002, neighbours: [{ address: 172.17.0.1, asn: 65001 }] }\n';
const EVPN = '  evpn: { vni: 1016, routeTargets: ["65000:1016", "65000:1016", "172.17.0.1:7"] }\n';
const FORWARDS = '  policies: [{ snat: false, ipBlocks: [10.18.0.0/16, "fd00:10:18::/64"] }]\n';
const errors = (text: string): string[] => printed({ 'a.yaml': text });

t.test(
  'all is forwarded, the blocks are announced, and one neighbour is enough for both families',
  async (t) => {
    const { evpn, forwardOnly, defaultAction, bgp, warnings } = policyOf({
      'a.yaml': `${GATEWAY}${BGP}${EVPN}${FORWARDS}`,
    });
    t.strictSame(evpn, { vni: 1016, routeTargets: ['65000:1016', '172.17.0.1:7'] });
    t.strictSame([forwardOnly, defaultAction], [true, 'forward']);
    t.strictSame(bgp?.announce, ['forwarded']);
    t.strictSame(warnings, [
      { message: 'spec.evpn.routeTargets[1] has no effect: 65000:1016 is item 0 already' },
    ]);
  },
);

t.test('a family needs no gateway outside', async (t) => {
  const text = `${GATEWAY}${BGP}${EVPN}${FORWARDS}`
    .replace(', "fd00:172:17::1"]', ']')
    .replace('"65000:1016", ', '');
  t.strictSame(policyOf({ 'a.yaml': text }).warnings, []);
});

t.test('it needs neighbours', async (t) => {
  t.same(errors(`${GATEWAY}${EVPN}`), [
    'a.yaml:7:3: spec.evpn: needs spec.bgp: the neighbours that routes are exchanged with',
  ]);
});

t.test('it has a VNI and route targets', async (t) => {
  const wrong = EVPN.replace('1016,', '16777216,').replace('"65000:1016", "65000:1016"', '"*:1016"');
  t.same(errors(`${GATEWAY}${BGP}${wrong}`), [
    'a.yaml:8:16: spec.evpn.vni: must be between 1 and 16777215, is 16777216',
    'a.yaml:8:41: spec.evpn.routeTargets[0]: "*:1016" is not a route target: write it like 65000:1016, an AS number or IPv4 address and a number',
  ]);
});

t.test('what would translate, limit or choose is an error, each at its place', async (t) => {
  const more = `  policies:
    - { name: web, ipBlocks: [10.17.0.0/16] }
    - { name: two, snat: true }
    - { name: three, snat: false, priority: 5, excludedCIDRs: [10.0.0.0/8] }
  defaultAction: masquerade
  eips: [{ externalIP: 172.17.0.60, internalIP: 10.17.0.9 }]
  mssClamp: true
`;
  const unchanged = 'has no effect with spec.evpn, which forwards all packets unchanged; leave it out';
  const routes = 'has no effect with spec.evpn, where all packets follow the routes of the VRF; leave it out';
  const snat = 'must have snat: false: spec.evpn translates nothing';
  t.same(errors(`${GATEWAY}${BGP}${EVPN}${more}`), [
    `a.yaml:10:7: spec.policies[0]: ${snat}`,
    `a.yaml:11:26: spec.policies[1].snat: ${snat}`,
    `a.yaml:12:35: spec.policies[2].priority: ${routes}`,
    `a.yaml:12:48: spec.policies[2].excludedCIDRs: ${routes}`,
    'a.yaml:13:18: spec.defaultAction: must be forward, or left out: spec.evpn forwards all packets',
    `a.yaml:14:3: spec.eips: ${unchanged}`,
    `a.yaml:15:3: spec.mssClamp: ${unchanged}`,
  ]);
});
