// IptablesEIP and the rules that use it: what each means, and every way in which it misses.
import t from 'tap';
import { GATEWAY, policyOf, printed } from '../support.ts';

const document = (kind: string, name: string, spec: object, more: object = {}): string =>
  `${JSON.stringify({ apiVersion: 'kubeovn.io/v1', kind, metadata: { name }, spec, ...more })}\n---\n`;
const eip = (name: string, spec: object, more?: object): string =>
  document('IptablesEIP', name, { natGwDp: 'gw1', ...spec }, more);
const fip = (name: string, eip: string, internalIp: string): string =>
  document('IptablesFIPRule', name, { eip, internalIp });
const dnat = (name: string, spec: object): string =>
  document('IptablesDnatRule', name, {
    eip: 'eip1',
    externalPort: '8080',
    protocol: 'tcp',
    internalIp: '10.17.0.9',
    internalPort: '80',
    ...spec,
  });
const snat = (name: string, eip: string, internalCIDR: string): string =>
  document('IptablesSnatRule', name, { eip, internalCIDR });

const EIP1 = eip('eip1', { v4ip: '172.17.0.60', v6ip: 'fd00:172:17::60' });
const EIP2 = eip('eip2', { v4ip: '172.17.0.61', v6ip: '' });
const files = (...documents: string[]) => ({ 'gateway.yaml': GATEWAY, 'nat.yaml': documents.join('') });
const policy = (...documents: string[]) => policyOf(files(...documents));
const errors = (...documents: string[]) => printed(files(...documents));

t.test('a FIP rule is an EIP, both families', async (t) => {
  const { eips, warnings } = policy(
    EIP1,
    fip('fip4', 'eip1', '10.17.0.9'),
    fip('fip6', 'eip1', 'fd00:10:17::9'),
  );
  t.strictSame(eips, [
    { externalIP: '172.17.0.60', internalIP: '10.17.0.9' },
    { externalIP: 'fd00:172:17::60', internalIP: 'fd00:10:17::9' },
  ]);
  t.same(warnings, []);
});

t.test('a DNAT rule is a DNAT; its protocol is written either way', async (t) => {
  const { dnats } = policy(
    EIP1,
    dnat('d1', {}),
    dnat('d2', { protocol: 'UDP', externalPort: '5000-5010', internalPort: '6000-6010', type: 'share' }),
  );
  const addresses = { externalIP: '172.17.0.60', internalIP: '10.17.0.9', preserveClientIP: false };
  t.strictSame(dnats, [
    {
      ...addresses,
      protocol: 'tcp',
      externalPorts: { first: 8080, last: 8080 },
      internalPorts: { first: 80, last: 80 },
    },
    {
      ...addresses,
      protocol: 'udp',
      externalPorts: { first: 5000, last: 5010 },
      internalPorts: { first: 6000, last: 6010 },
    },
  ]);
});

t.test('SNAT rules come before the policies of the gateway, the longest CIDR first', async (t) => {
  const own = GATEWAY.concat('  policies: [{ name: web, ipBlocks: [10.17.0.0/16] }]\n');
  const { rules } = policyOf({
    'gateway.yaml': own,
    'nat.yaml':
      EIP1 +
      EIP2 +
      snat('wide', 'eip1', '10.17.0.0/16,fd00:10:17::/64') +
      snat('pod', 'eip2', '10.17.0.9') +
      snat('more', 'eip2', '10.17.0.0/16'),
  });
  t.strictSame(rules, [
    {
      name: 'kube-ovn/wide',
      snat: true,
      ipBlocks: ['fd00:10:17::/64'],
      egressIP: { addresses: ['fd00:172:17::60'], announce: true },
    },
    {
      name: 'kube-ovn/pod',
      snat: true,
      ipBlocks: ['10.17.0.9/32'],
      egressIP: { addresses: ['172.17.0.61'], announce: true },
    },
    {
      name: 'kube-ovn/wide',
      snat: true,
      ipBlocks: ['10.17.0.0/16'],
      egressIP: { addresses: ['172.17.0.60', '172.17.0.61'], announce: true },
    },
    { name: 'web', snat: true, ipBlocks: ['10.17.0.0/16'] },
  ]);
});

t.test('the address that Kube-OVN allocated counts where none is written', async (t) => {
  const allocated = eip('eip1', { v4ip: '' }, { status: { ip: '172.17.0.70', ready: true } });
  t.match(policy(allocated, fip('f', 'eip1', '10.17.0.9')).eips, [{ externalIP: '172.17.0.70' }]);
});

t.test('they work with a VpcEgressGateway, whose external subnet is theirs', async (t) => {
  const gateway = `apiVersion: kubeovn.io/v1
kind: VpcEgressGateway
metadata: { name: gateway1 }
spec: { externalSubnet: macvlan1, policies: [{ snat: true, ipBlocks: [10.16.0.0/16] }] }
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: { name: ovn-default }
spec: { cidrBlock: 10.16.0.0/16 }
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: { name: macvlan1 }
spec: { cidrBlock: 172.17.0.0/16 }
`;
  const load = (text: string) => ({ 'gateway.yaml': gateway, 'nat.yaml': text });
  const one = eip('eip1', { v4ip: '172.17.0.60', externalSubnet: 'macvlan1' });
  const both = policyOf(load(one + fip('f', 'eip1', '10.16.0.9') + snat('s', 'eip1', '10.16.0.0/24')));
  t.match(both, { eips: [{ externalIP: '172.17.0.60' }], rules: [{ name: 'kube-ovn/s' }, { snat: true }] });
  t.same(printed(load(eip('eip1', { v4ip: '172.18.0.60' }))), [
    'nat.yaml:1:110: spec.v4ip: 172.18.0.60 is not in cidrBlock "172.17.0.0/16" of Subnet "macvlan1"',
  ]);
  t.same(printed(load(eip('eip1', { v4ip: '172.17.0.60', externalSubnet: 'other' }))), [
    'nat.yaml:1:141: spec.externalSubnet: the external subnet of VpcEgressGateway "default/gateway1" is "macvlan1"',
  ]);
});

t.test('what is wrong is refused, with its place', async (t) => {
  const place = (line: string) => line.replace(/^nat\.yaml:(\d+):\d+/, 'nat.yaml:$1');
  const refused = (documents: string[], message: string) => {
    t.same(errors(...documents).map(place), [message]);
  };
  refused(
    [fip('f', 'eip1', '10.17.0.9')],
    'nat.yaml:1: spec.eip: IptablesEIP "eip1" is not in the policy directory; add its document',
  );
  refused(
    [EIP1, snat('s', 'eip', '10.17.0.0/16')],
    'nat.yaml:3: spec.eip: IptablesEIP "eip" is not in the policy directory; did you mean "eip1"?',
  );
  refused(
    [eip('eip1', {}), dnat('d', {})],
    'nat.yaml:3: spec.eip: IptablesEIP "eip1" has no address: give it v4ip or v6ip, or its status',
  );
  refused(
    [EIP2, fip('f', 'eip2', 'fd00:10:17::9')],
    'nat.yaml:3: spec.internalIp: is IPv6, and IptablesEIP "eip2" has no IPv6 address',
  );
  refused(
    [EIP2, snat('s', 'eip2', 'fd00:10:17::/64')],
    'nat.yaml:3: spec.internalCIDR: is IPv6, and IptablesEIP "eip2" has no IPv6 address',
  );
  refused(
    [EIP1, fip('f1', 'eip1', '10.17.0.9'), fip('f2', 'eip1', '10.17.0.10')],
    'nat.yaml:5: spec.eip: 172.17.0.60 is already used by IptablesFIPRule "f1"',
  );
  refused(
    [EIP1, EIP2, fip('f1', 'eip1', '10.17.0.9'), fip('f2', 'eip2', '10.17.0.9')],
    'nat.yaml:7: spec.internalIp: 10.17.0.9 is already used by IptablesFIPRule "f1"',
  );
  refused(
    [EIP1, fip('f', 'eip1', '10.17.0.9'), dnat('d', {})],
    'nat.yaml:5: spec.eip: 172.17.0.60 is an EIP: all its ports lead to 10.17.0.9',
  );
  refused(
    [EIP1, dnat('d1', {}), dnat('d2', { internalIp: '10.17.0.10', type: 'share' })],
    'nat.yaml:5: spec.externalPort: port 8080 of 172.17.0.60 tcp is already used by IptablesDnatRule "d1"',
  );
  refused(
    [EIP1, dnat('d', { externalPort: '8000-8010' })],
    'nat.yaml:3: spec.internalPort: must be as many ports as externalPort, 8000-8010',
  );
  refused(
    [EIP1, dnat('d', { externalPort: 8080 })],
    'nat.yaml:3: spec.externalPort: must be a string, is 8080; put it in quotes',
  );
  refused(
    [EIP1, dnat('d', { internalPort: '0' })],
    'nat.yaml:3: spec.internalPort: "0" is not a port from 1 to 65535, or a range like 8000-8010',
  );
  refused(
    [EIP1, dnat('d', { protocol: 'icmp' })],
    'nat.yaml:3: spec.protocol: must be one of tcp, udp, sctp, TCP, UDP, SCTP, is "icmp"',
  );
  refused(
    [EIP1, snat('s', 'eip1', '10.17.0.0/33')],
    'nat.yaml:3: spec.internalCIDR: "10.17.0.0/33" is not an address or CIDR, or one of each family with a comma: the length of an IPv4 CIDR is 0 to 32',
  );
  refused([eip('eip1', { v4ip: 'fd00::1' })], 'nat.yaml:1: spec.v4ip: "fd00::1" is not an IPv4 address');
  refused(
    [eip('eip1', { v6ip: 'ff02::1' })],
    'nat.yaml:1: spec.v6ip: "ff02::1" is not the address of a host',
  );
  refused([EIP1, fip('f', '', '10.17.0.9')], 'nat.yaml:3: spec.eip: must not be empty');
  refused([EIP1, EIP1], 'nat.yaml:3: metadata.name: duplicate IptablesEIP "eip1", first defined in nat.yaml');
  refused(
    [eip('eip1', { v4ip: '172.17.0.1' }), fip('f', 'eip1', '10.17.0.9')],
    "nat.yaml:3: spec.eip: 172.17.0.1 is the external gateway's address",
  );
  t.match(errors(EIP1, document('IptablesFIPRule', 'f', { eip: 'eip1', internalIP: '10.17.0.9' })), [
    /spec.internalIp: this field is required/,
    /spec.internalIP: unknown field "internalIP"; did you mean "internalIp"\?/,
  ]);
});

t.test('they and the EIPs and DNATs of a GatewayPolicy do not claim the same', async (t) => {
  const own = `${GATEWAY}  eips: [{ externalIP: 172.17.0.60, internalIP: 10.17.0.8 }]
  dnats: [{ externalIP: 172.17.0.61, protocol: tcp, externalPort: "8000-9000", internalIP: 10.17.0.8, internalPort: "8000-9000" }]
`;
  const nat = EIP1 + EIP2 + fip('f', 'eip1', '10.17.0.9') + dnat('d', { eip: 'eip2' });
  t.same(printed({ 'gateway.yaml': own, 'nat.yaml': nat }), [
    'nat.yaml:5:94: spec.eip: 172.17.0.60 is already used by eips[0]',
    'nat.yaml:7:117: spec.externalPort: port 8080 of 172.17.0.61 tcp is already used by dnats[0]',
  ]);
});

t.test('what means nothing here is warned of', async (t) => {
  const { warnings } = policy(
    eip('eip1', { v4ip: '172.17.0.60', macAddress: '00:00:00:12:34:56', qosPolicy: 'slow' }),
    eip('eip2', { v4ip: '172.17.0.61', macAddress: '00:00:00:12:34:57', natGwDp: 'gw2' }),
    fip('f', 'eip1', '10.17.0.9'),
  );
  t.same(
    warnings.map(({ message }) => message),
    [
      'IptablesEIP "eip2" is named by no rule and is not held',
      'IptablesEIP "eip1" and 1 more has a macAddress, which is not used: the address is announced with that of the interface',
      'the IptablesEIPs belong to the NAT gateways "gw1", "gw2"; this gateway uses all of them',
      'IptablesEIP "eip1": QoSPolicy "slow" is not in the policy directory: its bandwidth is not limited',
    ],
  );
});

const limitRule = (direction: string, rateMax: string, more: object = {}) => ({
  ...{ name: direction, direction, rateMax, burstMax: '1', priority: 1 },
  ...more,
});
const qos = (name: string, bandwidthLimitRules: object[], bindingType = 'EIP'): string =>
  document('QoSPolicy', name, { bindingType, shared: true, bandwidthLimitRules });

t.test('the QoSPolicy of an EIP limits the connections of its addresses, whatever uses them', async (t) => {
  const { addressLimits, warnings } = policy(
    qos('slow', [limitRule('egress', '20'), limitRule('ingress', '0.5')]),
    eip('eip1', { v4ip: '172.17.0.60', v6ip: 'fd00:172:17::60', qosPolicy: 'slow' }),
    eip('eip2', { v4ip: '172.17.0.61', qosPolicy: 'slow' }),
    fip('f', 'eip1', '10.17.0.9'),
  );
  // 1 MB is more than 0.5 Mbit/s let pass in ten seconds.
  const bandwidth = { egress: 20e6, ingress: 5e5, burst: 8 * 2 ** 20 };
  t.strictSame(addressLimits, [
    { name: 'kube-ovn/eip1', addresses: ['172.17.0.60', 'fd00:172:17::60'], bandwidth },
  ]);
  t.same(
    warnings.map(({ message }) => message),
    ['IptablesEIP "eip2" is named by no rule and is not held'],
  );
});

t.test('what a QoSPolicy has that no limit of an EIP can be is warned of', async (t) => {
  const rules = [
    limitRule('egress', '20', { name: 'second', priority: 2 }),
    limitRule('egress', '10', { name: 'first' }),
    limitRule('ingress', '5', { matchType: 'ip', matchValue: 'src 10.0.0.0/8' }),
    limitRule('ingress', '0', { name: 'none' }),
  ];
  const named = (bindingType?: string) =>
    policy(
      qos('q', rules, bindingType),
      eip('eip1', { v4ip: '172.17.0.60', qosPolicy: 'q' }),
      fip('f', 'eip1', '10.17.0.9'),
    );
  const { addressLimits, warnings } = named();
  t.match(addressLimits, [{ bandwidth: { egress: 10e6, ingress: undefined } }]);
  t.same(warnings.map(({ message }) => message).sort(), [
    'rule "ingress" of QoSPolicy "q" limits only what it matches, and is not used',
    'rule "none" of QoSPolicy "q" has no direction or no rateMax, and is not used',
    'rule "second" of QoSPolicy "q" is not used: another one limits egress before it',
  ]);
  const gateway = named('NATGW');
  t.equal(gateway.addressLimits, undefined);
  t.match(gateway.warnings, [{ message: /has the bindingType "NATGW", and limits no EIP/ }]);
});

t.test('a QoSPolicy with a rate that is none is refused', async (t) => {
  t.match(errors(qos('q', [limitRule('egress', 'fast')])), [/rateMax: "fast" is not a number/]);
});
