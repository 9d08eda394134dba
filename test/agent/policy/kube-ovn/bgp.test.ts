// Kube-OVN's BgpConf: the same as spec.bgp for a VpcEgressGateway that names it.
import t from 'tap';
import { policyOf, printed } from '../support.ts';

const GATEWAY = `apiVersion: kubeovn.io/v1
kind: VpcEgressGateway
metadata: { name: gw1 }
spec:
  externalSubnet: macvlan1
  bgpConf: bgp1
  policies: [{ snat: false, ipBlocks: [10.18.0.0/16] }]
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: { name: ovn-default }
spec: { cidrBlock: 10.16.0.0/16 }
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: { name: macvlan1 }
spec: { provider: m.default, cidrBlock: 172.17.0.0/16 }
`;
const conf = (spec: string): string => `apiVersion: kubeovn.io/v1
kind: BgpConf
metadata: { name: bgp1 }
spec: { ${spec} }
`;
const REQUIRED = 'localASN: 65001, peerASN: 65000';
const files = (spec: string) => ({ 'bgp.yaml': conf(spec), 'gateway.yaml': GATEWAY });
const bgpOf = (spec: string) => policyOf(files(spec)).bgp!;
const errors = (spec: string): string[] => printed(files(spec));

t.test('a BgpConf with every field', async (t) => {
  const bgp = bgpOf(
    `${REQUIRED}, routerId: 172.17.0.11, neighbours: [172.17.0.1, 172.17.0.2], password: s3cret, holdTime: 1m30s, keepaliveTime: 30s, connectTime: 5s, ebgpMultiHop: true, gracefulRestart: true`,
  );
  const neighbour = {
    asn: 65000,
    password: { text: 's3cret' },
    holdTime: 90,
    keepaliveTime: 30,
    connectTime: 5,
    ebgpMultihop: 255,
    bfd: false,
    gracefulRestart: true,
  };
  t.strictSame(bgp, {
    localASN: 65001,
    routerID: '172.17.0.11',
    neighbours: [
      { address: '172.17.0.1', ...neighbour },
      { address: '172.17.0.2', ...neighbour },
    ],
    announce: ['egressIPs', 'eips', 'dnats', 'forwarded'],
    required: false,
  });
  t.same(policyOf(files(`${REQUIRED}, neighbours: [172.17.0.1]`)).warnings, []);
});

t.test('what the API server prints of fields that are not set is absent', async (t) => {
  const bgp = bgpOf(
    `${REQUIRED}, routerId: "", neighbours: [172.17.0.1], password: "", holdTime: 0s, keepaliveTime: 0s, connectTime: 0s`,
  );
  t.strictSame(bgp.neighbours, [
    {
      address: '172.17.0.1',
      asn: 65000,
      ...{ holdTime: 9, keepaliveTime: 3, ebgpMultihop: 1, bfd: false, gracefulRestart: false },
    },
  ]);
  t.notOk('routerID' in bgp);
});

t.test('a BgpConf that is not there has no effect, and one that no gateway names neither', async (t) => {
  const { bgp, warnings } = policyOf({ 'gateway.yaml': GATEWAY });
  t.equal(bgp, undefined);
  t.match(warnings, [
    { message: /^bgpConf "bgp1" has no effect: BgpConf "bgp1" is not in the policy directory/ },
  ]);
  const other = { 'bgp.yaml': conf(`${REQUIRED}, neighbours: [172.17.0.1]`).replace('bgp1', 'other') };
  t.equal(policyOf({ ...other, 'gateway.yaml': GATEWAY.replace('  bgpConf: bgp1\n', '') }).bgp, undefined);
});

t.test('what cannot be is an error in the BgpConf', async (t) => {
  t.match(errors(`localASN: 0, peerASN: 65000, neighbours: [172.17.0.1]`), [
    /^bgp.yaml:4:\d+: spec.localASN: must be between 1 and 4294967295, is 0/,
  ]);
  t.match(errors('localASN: 1, peerASN: 23456, neighbours: [172.17.0.1]'), [
    /spec.peerASN: 23456 is reserved/,
  ]);
  t.match(errors(REQUIRED), [/spec.neighbours: this field is required/]);
  t.match(errors(`${REQUIRED}, neighbours: []`), [/spec.neighbours: must not be empty/]);
  t.match(errors(`${REQUIRED}, neighbours: [172.17.0.1, 172.17.0.1]`), [
    /neighbours\[1\]: 172.17.0.1 is neigh/,
  ]);
  t.match(errors(`${REQUIRED}, neighbours: [172.17.0.1], holdTime: 2s`), [/spec.holdTime: must be 0s/]);
  t.match(errors(`${REQUIRED}, neighbours: [172.17.0.1], holdTime: 9`), [
    /spec.holdTime: must have a unit, is 9; write 9s$/,
  ]);
  t.match(errors(`${REQUIRED}, neighbours: [172.17.0.1], routerId: "::1"`), [
    /spec.routerId: .* IPv4 address/,
  ]);
});

t.test('an error about the password does not hold it', async (t) => {
  for (const password of ['two words', `long${'x'.repeat(80)}`]) {
    const [error = ''] = errors(`${REQUIRED}, neighbours: [172.17.0.1], password: "${password}"`);
    t.match(error, /^bgp.yaml:4:\d+: spec.password: the password /);
    t.notMatch(error, /words|long/);
  }
});

t.test('a neighbour that is an address of the gateway is an error in the BgpConf', async (t) => {
  const nat = `apiVersion: kubeovn.io/v1
kind: IptablesEIP
metadata: { name: eip1 }
spec: { v4ip: 172.17.0.60 }
---
apiVersion: kubeovn.io/v1
kind: IptablesFIPRule
metadata: { name: fip1 }
spec: { eip: eip1, internalIp: 10.17.0.9 }
`;
  const all = { ...files(`${REQUIRED}, neighbours: [172.17.0.1, 172.17.0.60]`), 'nat.yaml': nat };
  t.match(printed(all), [/^bgp.yaml:4:\d+: spec.neighbours\[1\]: 172.17.0.60 is an EIP of this gateway/]);
});
