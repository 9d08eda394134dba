// docs/examples: each directory is a policy, and means what is said here. The manifests of other people's pages are in
// them as they are there; what those leave out stands in files beside them.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { familyNat } from '../../../agent/plan/nat.ts';
import { policyFromEnv } from '../../../agent/policy/kube-ovn/env.ts';
import type { Policy } from '../../../agent/policy/model.ts';
import { address, FAMILIES } from '../../../lib/prefix.ts';
import { desiredNat } from '../../../nat/desired.ts';
import { send } from '../../nat/packet.ts';
import { policyOf } from './support.ts';

/** A pod that no example forwards, and somebody outside. */
const POD = { 4: address('10.99.0.9'), 6: address('fd00:10:99::9') } as const;
const STRANGER = { 4: address('192.0.2.1'), 6: address('2001:db8::1') } as const;

const EXAMPLES = fileURLToPath(new URL('../../../docs/examples/', import.meta.url));

const kubeOvn = (internal: string, peers: string[], rules: object[], bfd: object = {}) => ({
  origin: { kind: 'VpcEgressGateway' },
  internal: { gateways: [internal] },
  external: { gateways: ['172.17.0.1'] },
  bfd: {
    enabled: peers.length > 0,
    peers,
    minTX: 1000,
    minRX: 1000,
    multiplier: 3,
    mode: 'passive',
    minTTL: 254,
    adoptDiscriminator: true,
    anySource: false,
    ...bfd,
  },
  rules,
});
const rule = (name: string, snat: boolean, ...ipBlocks: string[]) => ({ name, snat, ipBlocks });
const from = (address: string, owner?: string) => ({
  addresses: [address],
  announce: true,
  ...(owner !== undefined && { owner }),
});
const ports = (first: number, last = first) => ({ first, last });

const MEANING: Record<string, object> = {
  'kube-ovn': kubeOvn('10.16.0.1', [], [rule('policy-0', true, '10.16.0.0/16')]),
  'kube-ovn-bfd': kubeOvn('192.168.0.1', ['10.255.255.255'], [rule('policy-0', true, '192.168.0.0/24')]),
  'kube-ovn-nat': {
    ...kubeOvn(
      '10.16.0.1',
      [],
      [
        { ...rule('kube-ovn/snat01', true, '10.17.0.0/24'), egressIP: from('172.17.0.61') },
        rule('policy-0', true, '10.16.0.0/16'),
      ],
    ),
    eips: [{ externalIP: '172.17.0.60', internalIP: '10.17.0.9' }],
    dnats: [
      {
        externalIP: '172.17.0.61',
        internalIP: '10.17.0.10',
        protocol: 'tcp',
        externalPorts: ports(8888),
        internalPorts: ports(80),
        preserveClientIP: false,
      },
    ],
  },
  alauda: kubeOvn(
    '10.16.0.1',
    [],
    [rule('policy-1', false, '10.18.0.0/16'), rule('policy-0', true, '10.17.0.0/16')],
  ),
  'alauda-bfd': kubeOvn('10.16.0.1', ['10.255.255.255'], [rule('policy-0', true, '10.18.0.0/16')], {
    minTX: 100,
    minRX: 100,
    multiplier: 5,
  }),
  deckhouse: {
    origin: { kind: 'GatewayPolicy' },
    rules: [
      {
        ...rule('deckhouse/my-egressgw-policy', true, '10.17.0.9/32'),
        destinationCIDRs: ['0.0.0.0/0'],
        egressIP: from('172.18.18.243', 'node1'),
      },
    ],
  },
  spidernet: {
    rules: [
      {
        ...rule('spidernet/default/test', true, '172.40.14.195/32'),
        egressIP: from('172.22.0.110', 'egressgateway-worker2'),
      },
    ],
  },
  'spidernet-created': {
    rules: [
      {
        ...rule('spidernet/default/test', true, '172.40.14.195/32'),
        egressIP: from('172.22.0.110', ''),
      },
    ],
    warnings: [{ message: /^no node holds the address of EgressPolicy "default\/test"/ }],
  },
  'gateway-policy': {
    internal: { interface: 'eth0', gateways: ['10.16.0.1', 'fd00:10:16::1'] },
    external: { interface: 'net1', gateways: ['172.17.0.1', 'fd00:172:17::1'] },
    bfd: { enabled: true, peers: ['10.255.255.255'], minTX: 100, minRX: 100, multiplier: 5 },
    rules: [
      {
        ...rule('web', true, '10.17.0.0/16'),
        destinationCIDRs: ['0.0.0.0/0'],
        excludedCIDRs: ['10.0.0.0/8'],
        priority: 100,
        egressIP: from('172.17.0.50', 'gateway1-0'),
      },
      rule('partner', false, '10.18.0.0/16'),
    ],
    defaultAction: 'masquerade',
    eips: [{ externalIP: '172.17.0.60', internalIP: '10.17.0.9', owner: 'gateway1-0' }],
    dnats: [
      { protocol: 'tcp', externalPorts: ports(8080), internalPorts: ports(80), preserveClientIP: false },
      {
        protocol: 'udp',
        externalPorts: ports(8000, 8010),
        internalPorts: ports(9000, 9010),
        preserveClientIP: true,
      },
    ],
    inbound: 'forwarded',
    limits: { connectionsPerSource: 0 },
    mssClamp: true,
  },
  bgp: {
    rules: [
      {
        ...rule('web', true, '10.17.0.0/16', 'fd00:10:17::/64'),
        egressIP: { addresses: ['198.51.100.50', 'fd00:5::50'], announce: 'bgp' },
      },
      rule('partner', false, '10.18.0.0/16', 'fd00:10:18::/64'),
    ],
    eips: [{ externalIP: '198.51.100.60', internalIP: '10.17.0.9' }],
    bgp: {
      localASN: 65001,
      neighbours: ['172.17.0.1', 'fd00:172:17::1'].map((one) => ({ address: one, asn: 65000, bfd: true })),
      announce: ['egressIPs', 'eips', 'dnats', 'forwarded'],
    },
  },
  'kube-ovn-bgp': {
    ...kubeOvn('10.16.0.1', [], [rule('policy-0', false, '10.18.0.0/16')]),
    bgp: {
      localASN: 65001,
      neighbours: [{ address: '172.17.0.1', asn: 65000, holdTime: 90, keepaliveTime: 30, ebgpMultihop: 255 }],
      announce: ['egressIPs', 'eips', 'dnats', 'forwarded'],
    },
  },
  evpn: {
    rules: [rule('pods', false, '10.18.0.0/16', 'fd00:10:18::/64')],
    bgp: { localASN: 65002, neighbours: [{ address: '172.17.0.1', asn: 65001 }], announce: ['forwarded'] },
    evpn: { vni: 1016, routeTargets: ['65000:1016'] },
    forwardOnly: true,
  },
  'kube-ovn-evpn': {
    ...kubeOvn('10.16.0.1', [], [rule('policy-0', false, '10.16.0.0/16')]),
    evpn: { vni: 1016, routeTargets: ['65000:1016'] },
    forwardOnly: true,
  },
  'fast-path': {
    fastPath: true,
    rules: [
      rule('web', true, '10.17.0.0/16', 'fd00:10:17::/64'),
      { ...rule('guests', true, '10.18.0.0/16'), bandwidth: { egress: 5e6, ingress: 20e6 } },
    ],
    translationLog: { events: ['start', 'end'] },
    warnings: [{ message: 'policy guests has a bandwidth limit: its connections do not use the fast path' }],
  },
  group: {
    group: {
      members: [
        '10.16.0.12',
        '10.16.0.13',
        '10.16.0.14',
        'fd00:10:16::12',
        'fd00:10:16::13',
        'fd00:10:16::14',
      ],
      credentials: { keyFile: '/etc/veg-agent/secret/group' },
    },
    rules: [
      {
        ...rule('web', true, '10.17.0.0/16', 'fd00:10:17::/64'),
        egressIP: { addresses: ['172.17.0.50', 'fd00:172:17::50'], shared: true },
      },
    ],
  },
};

t.test('each example has its meaning here', async (t) => {
  t.same(readdirSync(EXAMPLES).sort(), Object.keys(MEANING).sort());
});

for (const [name, meaning] of Object.entries(MEANING)) {
  t.test(name, async (t) => {
    const directory = join(EXAMPLES, name);
    const files = readdirSync(directory).map((file) => [file, readFileSync(join(directory, file), 'utf8')]);
    const policy = policyOf(Object.fromEntries(files));
    t.match(policy, meaning);
    t.equal(policy.rules.length, (meaning as { rules: object[] }).rules.length);
    if (!('warnings' in meaning)) t.same(policy.warnings, []);
    // With EVPN the main table has no way in.
    if (policy.evpn === undefined) notLetIn(t, policy);
  });
}

/** With any kind of policy a connection from outside to a pod that is not forwarded is dropped. */
function notLetIn(t: Test, policy: Policy): void {
  for (const family of FAMILIES) {
    const packet = { in: 'net1', out: 'eth0', src: STRANGER[family], dst: POD[family] };
    for (const hasGate of [true, false]) {
      const state = desiredNat([familyNat(policy, family, 'eth0')], () => hasGate);
      const { source } = send(state, family, { ...packet, proto: 'tcp', dport: 80, state: 'NEW' });
      t.equal(source, 'drop', `IPv${family}: a stranger does not come in`);
    }
  }
}

t.test('the environment lets in no more than documents do', async (t) => {
  const result = policyFromEnv({
    INTERNAL_GATEWAY_IPV4: '10.16.0.1',
    EXTERNAL_GATEWAY_IPV4: '172.17.0.1',
    NO_SNAT_SOURCES_IPV4: '10.18.0.0/16',
  });
  if (result?.ok) notLetIn(t, result.policy);
  else t.fail('no policy');
});
