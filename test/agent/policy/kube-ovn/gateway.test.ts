// VpcEgressGateway with its Subnets and Vpc: the documents people have, and every way in which they miss.
import t from 'tap';
import { policyOf, printed } from '../support.ts';

const SUBNETS = `apiVersion: kubeovn.io/v1
kind: Subnet
metadata: { name: ovn-default }
spec: { protocol: Dual, cidrBlock: "10.16.0.0/16,fd00:10:16::/64", gateway: "10.16.0.1,fd00:10:16::1" }
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: { name: subnet1 }
spec: { protocol: IPv4, cidrBlock: 10.17.0.0/16 }
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: { name: macvlan1 }
spec: { provider: eth1.default, cidrBlock: "172.17.0.0/16,fd00:172:17::/64", gateway: "172.17.0.1,fd00:172:17::1" }
`;
const VPC = `apiVersion: kubeovn.io/v1
kind: Vpc
metadata: { name: ovn-cluster }
spec: { bfdPort: { enabled: true, ip: "10.255.255.255,fdff::1" } }
`;
const GATEWAY = `apiVersion: kubeovn.io/v1
kind: VpcEgressGateway
metadata: { name: gateway1, namespace: default }
spec:
  externalSubnet: macvlan1
`;

/** A gateway has at least a selector. */
const ANY = '  selectors: [{}]\n';

/** The directory with lines (from line 6 of gateway.yaml on) appended to the gateway's spec. */
const directory = (lines = '', others: Record<string, string> = {}) => ({
  'gateway.yaml': `${GATEWAY}${lines}${/policies:|selectors:/.test(lines) ? '' : ANY}`,
  'subnets.yaml': SUBNETS,
  'vpc.yaml': VPC,
  ...others,
});

const rule = (index: number, snat: boolean, ...ipBlocks: string[]) => ({
  name: `policy-${index}`,
  snat,
  ipBlocks,
});

t.test('the defaults', async (t) => {
  t.strictSame(policyOf(directory()), {
    name: 'default/gateway1',
    origin: { file: 'gateway.yaml', kind: 'VpcEgressGateway', name: 'default/gateway1' },
    internal: { gateways: ['10.16.0.1', 'fd00:10:16::1'] },
    external: { gateways: ['172.17.0.1', 'fd00:172:17::1'] },
    bfd: {
      enabled: false,
      peers: [],
      minTX: 1000,
      minRX: 1000,
      multiplier: 3,
      mode: 'passive',
      minTTL: 254,
      adoptDiscriminator: true,
      anySource: false,
    },
    rules: [],
    warnings: [],
  });
});

t.test('snat is false unless it is said; blocks and subnets are one list', async (t) => {
  const { rules } = policyOf(
    directory(
      '  policies:\n    - ipBlocks: [10.18.0.0/16, 192.168.0.1, 10.17.0.0/16]\n      subnets: [subnet1, ovn-default]\n',
    ),
  );
  t.strictSame(rules, [
    rule(0, false, '10.18.0.0/16', '192.168.0.1/32', '10.17.0.0/16', '10.16.0.0/16', 'fd00:10:16::/64'),
  ]);
});

t.test('selectors alone are a policy: everything is masqueraded', async (t) => {
  const { rules } = policyOf(
    directory(
      '  selectors:\n    - namespaceSelector: { matchLabels: { a: "" } }\n      podSelector: { matchExpressions: [{ key: b, operator: In, values: [c] }] }\n',
    ),
  );
  t.same(rules, []);
});

t.test('what belongs to the control plane is accepted and not used', async (t) => {
  const policy = policyOf(
    directory(`  replicas: 2
  prefix: veg-
  image: docker.io/kubeovn/kube-ovn:v1.16.0
  vpc: ""
  internalIPs: [10.16.0.101, "10.16.0.102,fd00:10:16::2"]
  externalIPs: [172.17.0.12, 172.17.0.13]
  bgpConf: x
  nodeSelector: [{ matchFields: [{ key: metadata.name, operator: In, values: [a] }], matchLabels: { a: b } }]
  tolerations: [{ key: a, operator: Exists, effect: NoExecute, tolerationSeconds: 5 }]
  trafficPolicy: Local
  resources: { limits: { cpu: 1, memory: 64Mi } }
  bandwidth: { ingress: 100, egress: 1Gi }
  podAntiAffinity: Preferred
  selectors: [{ podSelector: { matchLabels: {} } }]
  observability: { resources: { limits: { cpu: 1 } }, interfaceMetrics: { enabled: true }, conntrack: { metrics: { enabled: true } }, serviceMonitor: { labels: { a: b } } }
status: { ready: true, phase: Completed, internalIPs: [10.16.0.12] }
`),
  );
  t.equal(policy.rules.length, 0);
});

t.test(
  'a bgpConf without its document has no effect, nor has evpnConf without bgpConf, and both say so',
  async (t) => {
    t.match(policyOf(directory('  bgpConf: x\n')).warnings, [{ message: /^bgpConf "x" has no effect/ }]);
    t.match(policyOf(directory('  evpnConf: y\n')).warnings, [
      { message: /^evpnConf "y" has no effect without bgpConf/ },
    ]);
  },
);

t.test('a gateway with EVPN needs both documents: without one it would translate', async (t) => {
  const conf =
    'apiVersion: kubeovn.io/v1\nkind: EvpnConf\nmetadata: { name: y }\nspec: { vni: 16777215, routeTargets: ["65000:1016", "65000:1016"] }\n';
  const bgp =
    'apiVersion: kubeovn.io/v1\nkind: BgpConf\nmetadata: { name: x }\nspec: { localASN: 1, peerASN: 2, neighbours: [172.17.0.1] }\n';
  const both = directory(
    '  bgpConf: x\n  evpnConf: y\n  policies: [{ snat: true, ipBlocks: [10.17.0.0/16] }, { snat: false, ipBlocks: [10.18.0.0/16] }]\n',
  );
  t.same(
    printed(both).map((error) => error.replace(/^[^ ]+ /, '')),
    [
      'spec.bgpConf: BgpConf "x" is not in the policy directory; add its document',
      'spec.evpnConf: EvpnConf "y" is not in the policy directory; add its document',
    ],
  );
  const { evpn, forwardOnly, defaultAction, warnings } = policyOf({
    ...both,
    'confs.yaml': `${conf}---\n${bgp}`,
  });
  t.strictSame(evpn, { vni: 16_777_215, routeTargets: ['65000:1016'] });
  t.strictSame([forwardOnly, defaultAction], [true, 'forward']);
  t.match(warnings, [{ message: /^policy policy-0 has no effect: with EVPN nothing is translated/ }]);
  t.same(printed({ ...both, 'confs.yaml': `${conf.replace('16777215', '16777216')}---\n${bgp}` }), [
    'confs.yaml:4:14: spec.vni: must be between 1 and 16777215, is 16777216',
  ]);
});

t.test('what Kube-OVN’s API server and controller refuse is refused', async (t) => {
  const errors = (spec: string) => printed(directory(spec)).map((error) => error.replace(/^[^ ]+ /, ''));
  t.same(errors('  replicas: 11\n'), ['spec.replicas: must be between 0 and 10, is 11']);
  t.match(errors('  podAntiAffinity: Prefered\n'), [
    /^spec.podAntiAffinity: must be one of Required, Preferred, .*did you mean "Preferred"/,
  ]);
  t.same(errors('  internalIPs: [10.16.0.9]\n  internalIPPool: a\n'), [
    'spec.internalIPs: conflicts with internalIPPool; use one of them',
  ]);
  t.same(errors('  replicas: 2\n  externalIPs: [172.17.0.9]\n'), [
    'spec.externalIPs: holds 1, fewer than the 2 replicas',
  ]);
  t.match(errors('  externalIPs: [172.18.0.9]\n'), [
    /^spec.externalIPs\[0\]: 172.18.0.9 is not in cidrBlock .* of Subnet "macvlan1"$/,
  ]);
  t.match(errors('  internalIPs: [10.99.0.9]\n'), [/^spec.internalIPs\[0\]: 10.99.0.9 is not in cidrBlock/]);
  t.same(errors('  bfd: { minRX: 3600000, minTX: 3600000 }\n'), [], 'what they accept is accepted');
});

/** What is said of a line in the spec: refused there, and accepted. */
const REFUSED: [string, string][] = [
  ['internalIPs: [10.16.0.9, 10.16.0.9]', '6:28: spec.internalIPs[1]: duplicate "10.16.0.9"'],
  ['externalIPs: [172.17.0.9, 172.17.0.9]', '6:29: spec.externalIPs[1]: duplicate "172.17.0.9"'],
  ['policies: [{ subnets: [subnet1, subnet1] }]', '6:35: spec.policies[0].subnets[1]: duplicate "subnet1"'],
  [
    'policies: [{ ipBlocks: [10.1.0.0/16, 10.1.0.0/16] }]',
    '6:40: spec.policies[0].ipBlocks[1]: duplicate "10.1.0.0/16"',
  ],
  ['policies: [{ snat: true }]', '6:14: spec.policies[0]: names no sources; give ipBlocks or subnets'],
  ['policies: []', '4:1: spec: needs at least one of policies and selectors'],
  [
    'selectors: [{ podSelector: {} }]',
    '6:30: spec.selectors[0].podSelector: needs matchLabels or matchExpressions; to select everything leave out podSelector',
  ],
  [
    'selectors: [{ namespaceSelector: {} }]',
    '6:36: spec.selectors[0].namespaceSelector: needs matchLabels or matchExpressions; to select everything leave out namespaceSelector',
  ],
  [
    'selectors: [{ podSelector: { matchLabels: { "a b": c } } }]',
    '6:47: spec.selectors[0].podSelector.matchLabels["a b"]: "a b" is not the key of a label: NAME or DOMAIN/NAME, NAME of at most 63 letters, digits, ".", "_" and "-", a letter or digit first and last',
  ],
  [
    'selectors: [{ podSelector: { matchExpressions: [{ key: a, operator: In, values: [-x] }] } }]',
    '6:84: spec.selectors[0].podSelector.matchExpressions[0].values[0]: "-x" is not the value of a label: at most 63 letters, digits, ".", "_" and "-", a letter or digit first and last',
  ],
  [
    'prefix: -veg',
    '6:11: spec.prefix: "-veg" cannot begin the name of a Deployment: lower case letters, digits, "-" and "."',
  ],
  [
    'nodeSelector: [{ matchExpressions: [{ key: a, operator: In }] }]',
    '6:39: spec.nodeSelector[0].matchExpressions[0].values: In needs at least one value',
  ],
  [
    'nodeSelector: [{ matchExpressions: [{ key: a, operator: Exists, values: [b] }] }]',
    '6:67: spec.nodeSelector[0].matchExpressions[0].values: Exists takes no values',
  ],
  [
    'nodeSelector: [{ matchExpressions: [{ key: a, operator: Gt, values: [b] }] }]',
    '6:63: spec.nodeSelector[0].matchExpressions[0].values: Gt needs one value, a whole number',
  ],
  [
    'nodeSelector: [{ matchFields: [{ key: spec.x, operator: In, values: [b] }] }]',
    '6:41: spec.nodeSelector[0].matchFields[0].key: a node can be chosen by metadata.name only, is "spec.x"',
  ],
  [
    'nodeSelector: [{ matchFields: [{ key: metadata.name, operator: In, values: [a, b] }] }]',
    '6:70: spec.nodeSelector[0].matchFields[0].values: In needs one value',
  ],
  [
    'nodeSelector: [{ matchFields: [{ key: metadata.name, operator: Exists }] }]',
    '6:66: spec.nodeSelector[0].matchFields[0].operator: must be In or NotIn of a field, is Exists',
  ],
  [
    'tolerations: [{ effect: NoSchedule }]',
    '6:17: spec.tolerations[0].operator: must be Exists where there is no key',
  ],
  [
    'tolerations: [{ key: a, operator: Exists, value: b }]',
    '6:52: spec.tolerations[0].value: must be empty with the operator Exists',
  ],
  [
    'tolerations: [{ key: a, effect: NoSchedule, tolerationSeconds: 5 }]',
    '6:47: spec.tolerations[0].tolerationSeconds: requires the effect NoExecute',
  ],
  [
    'tolerations: [{ key: a, effect: NoSchedul }]',
    '6:35: spec.tolerations[0].effect: must be one of NoSchedule, PreferNoSchedule, NoExecute, is "NoSchedul"; did you mean "NoSchedule"?',
  ],
  [
    'trafficPolicy: local',
    '6:18: spec.trafficPolicy: must be one of Cluster, Local, is "local"; did you mean "Local"?',
  ],
  [
    'resources: { limits: { memory: 64MB } }',
    '6:34: spec.resources.limits.memory: "64MB" is not a Kubernetes quantity: write it like 500m, 64Mi or 2',
  ],
  [
    'resources: { limits: { cpu: 0.5 } }',
    '6:31: spec.resources.limits.cpu: must be a whole number or a string, is 0.5; put it in quotes',
  ],
  [
    'resources: { limits: { cpu: 500m }, requests: { cpu: 1 } }',
    '6:56: spec.resources.requests.cpu: is more than the limit, 500m',
  ],
  ['resources: { requests: { cpu: "-1" } }', '6:33: spec.resources.requests.cpu: must not be negative'],
  [
    'resources: { limits: { mem: 64Mi } }',
    '6:26: spec.resources.limits.mem: "mem" is not a container resource: cpu, memory, ephemeral-storage, hugepages-SIZE, or DOMAIN/NAME',
  ],
  [
    'resources: { claims: [{ name: gpu }] }',
    '6:16: spec.resources.claims: the pods of a gateway have no resourceClaims, so the API server refuses them with claims',
  ],
  [
    'bandwidth: { egress: 100K }',
    '6:24: spec.bandwidth.egress: "100K" is not a bandwidth: write whole Mbit/s, or bits per second like 100M, 1.5G or 1Gi',
  ],
  ['bandwidth: { egress: -1 }', '6:24: spec.bandwidth.egress: must be between 0 and 9223372036854, is -1'],
  [
    'bandwidth: { ingress: 9223372036855 }',
    '6:25: spec.bandwidth.ingress: must be between 0 and 9223372036854, is 9223372036855',
  ],
  [
    'bandwidth: { ingress: "9223372036855" }',
    '6:25: spec.bandwidth.ingress: "9223372036855" is not a bandwidth: write whole Mbit/s, or bits per second like 100M, 1.5G or 1Gi',
  ],
  ['bfd: { minRX: 3600001 }', '6:17: spec.bfd.minRX: must be between 1 and 3600000, is 3600001'],
  ['bfd: { minTX: 0 }', '6:17: spec.bfd.minTX: must be between 1 and 3600000, is 0'],
  ['bfd: { multiplier: 256 }', '6:22: spec.bfd.multiplier: must be between 1 and 255, is 256'],
  [
    'observability: { conntrack: { log: { events: [end, end] } } }',
    '6:54: spec.observability.conntrack.log.events[1]: duplicate "end"',
  ],
  [
    `observability: { conntrack: { log: { filters: { exclude: [${'{},'.repeat(65)}] } } } }`,
    '6:51: spec.observability.conntrack.log.filters.exclude: must have at most 64 items, has 65',
  ],
  [
    'observability: { serviceMonitor: { label: {} } }',
    '6:38: spec.observability.serviceMonitor.label: unknown field "label"; did you mean "labels"?',
  ],
];

for (const [line, error] of REFUSED) {
  t.test(`refused there and here: ${line.slice(0, 90)}`, async (t) => {
    t.same(printed(directory(`  ${line}\n`)), [`gateway.yaml:${error}`]);
  });
}

const ACCEPTED = [
  'replicas: 0',
  'prefix: veg.',
  'prefix: a.b-',
  'prefix: ""',
  'nodeSelector: [{}]',
  'nodeSelector: [{ matchExpressions: [{ key: example.com/a, operator: Lt, values: ["-5"] }] }]',
  'nodeSelector: [{ matchFields: [{ key: metadata.name, operator: NotIn, values: [a] }] }]',
  'tolerations: [{ operator: Exists }]',
  'tolerations: [{ key: a, operator: "", value: "", effect: "" }]',
  'tolerations: [{ key: node.kubernetes.io/x, operator: Exists, effect: NoExecute, tolerationSeconds: -1 }]',
  'resources: { limits: { cpu: "1.5", memory: 128Mi, nvidia.com/gpu: 1 }, requests: { cpu: 1500m, memory: 1e8 } }',
  'bandwidth: { egress: "100", ingress: .5Gi }',
  'bandwidth: { egress: 0, ingress: 1.5G }',
  'bfd: { minRX: 3600000, minTX: 1, multiplier: 255 }',
  'selectors: [{}]',
  'selectors: [{ podSelector: { matchLabels: {} }, namespaceSelector: { matchExpressions: [] } }]',
  'internalIPPool: a',
  'internalIPs: ["10.16.0.9,fd00:10:16::9", fd00:10:16::a]',
  'observability: { conntrack: { log: { enabled: true, events: [], filters: { include: [{ protocols: [tcp, udp] }] } } } }',
];

for (const line of ACCEPTED) {
  t.test(`accepted there and here: ${line}`, async (t) => {
    t.same(printed(directory(`  ${line}\n`)), []);
  });
}

t.test('a policy whose lists are empty is accepted, and of no source', async (t) => {
  for (const lists of ['ipBlocks: []', 'ipBlocks: [], subnets: []', 'subnets: []']) {
    const { rules, warnings } = policyOf(directory(`  policies: [{ snat: false, ${lists} }]\n`));
    t.same(rules, [], 'not of every source');
    t.same(warnings, [{ message: 'policy-0 has no effect: its ipBlocks and subnets are empty' }]);
  }
});

t.test('an external network is one that Multus attaches', async (t) => {
  const of = (provider: string) =>
    printed(
      directory('', { 'subnets.yaml': SUBNETS.replace('provider: eth1.default', `provider: ${provider}`) }),
    );
  t.same(of('ovn'), [
    'gateway.yaml:5:19: spec.externalSubnet: Subnet "macvlan1" has the provider "ovn", not NAME.NAMESPACE of a NetworkAttachmentDefinition',
  ]);
  t.same([of('net2.default.ovn'), of('""')], [[], []]);
});

t.test('a Subnet without addresses is passed over, and no side of a gateway', async (t) => {
  const mac =
    '---\napiVersion: kubeovn.io/v1\nkind: Subnet\nmetadata: { name: mac }\nspec: { protocol: Mac }\n';
  const files = directory('');
  t.same(printed({ ...files, 'mac.yaml': mac }), []);
  t.match(printed({ ...directory('  internalSubnet: mac\n'), 'mac.yaml': mac }), [
    /spec.internalSubnet: Subnet "mac" has no addresses \(protocol Mac\)$/,
  ]);
});

t.test('the internal subnet: named, chosen by the VPC, or the only one that the VPC has', async (t) => {
  const own = (vpcSpec: string, names: string[], status = '') => ({
    'gateway.yaml': `${GATEWAY}  vpc: vpc1\n${ANY}`,
    'subnets.yaml': `${SUBNETS}${names
      .map(
        (name, i) =>
          `---\napiVersion: kubeovn.io/v1\nkind: Subnet\nmetadata: { name: ${name} }\nspec: { vpc: vpc1, cidrBlock: 192.168.${i}.0/24 }\n`,
      )
      .join('')}`,
    'vpc.yaml': `apiVersion: kubeovn.io/v1\nkind: Vpc\nmetadata: { name: vpc1 }\nspec: ${vpcSpec}\n${status}`,
  });
  const gateways = (files: Record<string, string>) => policyOf(files).internal.gateways;
  t.same(
    gateways(directory('  internalSubnet: subnet1\n')),
    ['10.17.0.1'],
    'without a gateway: the first address',
  );
  t.same(gateways(own('{}', ['a'])), ['192.168.0.1']);
  t.same(gateways(own('{ defaultSubnet: b }', ['a', 'b'])), ['192.168.1.1']);
  t.same(gateways(own('{}', ['a', 'b'], 'status: { defaultLogicalSwitch: b }\n')), ['192.168.1.1']);
  t.same(printed(own('{}', ['a', 'b'])), [
    'gateway.yaml:4:1: spec.internalSubnet: VPC "vpc1" has the Subnets a, b; name one here',
  ]);
  t.same(printed(own('{}', [])), [
    'gateway.yaml:4:1: spec.internalSubnet: no Subnet of VPC "vpc1" is in the policy directory; add its document',
  ]);
  t.same(printed(own('{ defaultSubnet: c }', ['a'])), [
    'gateway.yaml:4:1: spec.internalSubnet: Subnet "c", the default of VPC "vpc1", is not in the policy directory; add its document',
  ]);
  const { 'subnets.yaml': _, ...without } = directory();
  t.same(printed(without), [
    'gateway.yaml:4:1: spec.internalSubnet: Subnet "ovn-default", the default of VPC "ovn-cluster", is not in the policy directory; add its document',
    'gateway.yaml:5:19: spec.externalSubnet: Subnet "macvlan1" is not in the policy directory; add its document',
  ]);
});

t.test('a subnet of another provider than OVN is no internal one', async (t) => {
  const subnet = (name: string, provider: string) =>
    `---\napiVersion: kubeovn.io/v1\nkind: Subnet\nmetadata: { name: ${name} }\nspec: { vpc: vpc1, provider: "${provider}", cidrBlock: 192.168.0.0/24 }\n`;
  const files = directory('  vpc: vpc1\n', {
    'more.yaml': subnet('a', 'eth1.default') + subnet('b', 'net.ns.ovn'),
  });
  t.same(policyOf(files).internal.gateways, ['192.168.0.1']);
});

t.test('the BFD peers are the addresses of the BFD port', async (t) => {
  t.match(policyOf(directory('  bfd: { enabled: true, minTX: 100, minRX: 200, multiplier: 5 }\n')).bfd, {
    enabled: true,
    peers: ['10.255.255.255', 'fdff::1'],
    minTX: 100,
    minRX: 200,
    multiplier: 5,
  });
});

t.test('BFD without a BFD port', async (t) => {
  const bfd = '  bfd: { enabled: true }\n';
  const vpc = (spec: string) => ({ 'vpc.yaml': VPC.replace(/spec:.*/, `spec: ${spec}`) });
  const { 'vpc.yaml': _, ...without } = directory(bfd);
  t.same(printed(without), [
    'gateway.yaml:6:19: spec.bfd.enabled: the BFD peer is unknown: Vpc "ovn-cluster" is not in the policy directory; add its document',
  ]);
  for (const spec of ['{}', '{ bfdPort: {} }', '{ bfdPort: { enabled: false, ip: 10.255.255.255 } }']) {
    t.same(printed(directory(bfd, vpc(spec))), [
      'gateway.yaml:6:19: spec.bfd.enabled: needs the BFD port of the VPC; set spec.bfdPort.enabled of Vpc "ovn-cluster" (vpc.yaml)',
    ]);
  }
  for (const spec of ['{ bfdPort: { enabled: true } }', '{ bfdPort: { enabled: true, ip: "" } }']) {
    t.match(printed(directory(bfd, vpc(spec))), [
      /^vpc.yaml:4:\d+: spec.bfdPort.ip: is required: it is the BFD peer of default\/gateway1$/,
    ]);
  }
  t.same(
    printed(directory(bfd, vpc('{ bfdPort: { enabled: yes, ip: x } }'))),
    [
      'vpc.yaml:4:29: spec.bfdPort.enabled: must be true or false, is "yes"',
      'vpc.yaml:4:38: spec.bfdPort.ip: "x" is not an address',
    ],
    'what is wrong in the Vpc is said once',
  );
});

/** Appended lines, and what is said of them. */
const WRONG: [string, string, string[]][] = [
  [
    'an unknown subnet',
    '  policies:\n    - snat: true\n      subnets:\n        - subnet1\n        - subnet2\n',
    [
      'gateway.yaml:10:11: spec.policies[0].subnets[1]: Subnet "subnet2" is not in the policy directory; add its document',
    ],
  ],
  [
    'a policy without sources',
    '  policies:\n    - snat: true\n    - { ipBlocks: , subnets: }\n',
    [
      'gateway.yaml:7:7: spec.policies[0]: names no sources; give ipBlocks or subnets',
      'gateway.yaml:8:7: spec.policies[1]: names no sources; give ipBlocks or subnets',
    ],
  ],
  [
    'an unknown field',
    '  policies:\n    - snat: true\n      ipBlock: [10.0.0.0/8]\n',
    ['gateway.yaml:8:7: spec.policies[0].ipBlock: unknown field "ipBlock"; did you mean "ipBlocks"?'],
  ],
  [
    'a field of another system',
    '  egressIP: {}\n',
    [
      'gateway.yaml:6:3: spec.egressIP: unknown field "egressIP"; the fields here are vpc, internalSubnet, externalSubnet, internalIPs, internalIPPool, externalIPs, externalIPPool, bfd, policies, selectors, replicas, prefix, image, bgpConf, evpnConf, nodeSelector, podAntiAffinity, tolerations, trafficPolicy, resources, bandwidth, observability',
    ],
  ],
  [
    'numbers out of range',
    '  bfd: { minRX: 0, minTX: 3600001, multiplier: 256 }\n  replicas: -1\n',
    [
      'gateway.yaml:6:17: spec.bfd.minRX: must be between 1 and 3600000, is 0',
      'gateway.yaml:6:27: spec.bfd.minTX: must be between 1 and 3600000, is 3600001',
      'gateway.yaml:6:48: spec.bfd.multiplier: must be between 1 and 255, is 256',
      'gateway.yaml:7:13: spec.replicas: must be between 0 and 10, is -1',
    ],
  ],
  [
    'a traffic policy that there is not',
    '  trafficPolicy: local\n',
    [
      'gateway.yaml:6:18: spec.trafficPolicy: must be one of Cluster, Local, is "local"; did you mean "Local"?',
    ],
  ],
  [
    'an operator that a label selector does not have',
    '  selectors:\n    - podSelector: { matchExpressions: [{ key: a, operator: Gt }] }\n',
    [
      'gateway.yaml:7:61: spec.selectors[0].podSelector.matchExpressions[0].operator: must be one of In, NotIn, Exists, DoesNotExist, is "Gt"',
    ],
  ],
  [
    'negative bandwidth',
    '  bandwidth: { ingress: -1 }\n',
    ['gateway.yaml:6:25: spec.bandwidth.ingress: must be between 0 and 9223372036854, is -1'],
  ],
  [
    'an address with an iptables line in it',
    '  policies:\n    - ipBlocks: ["10.0.0.0/8\\n-A INPUT -j DROP"]\n',
    [
      'gateway.yaml:7:18: spec.policies[0].ipBlocks[0]: "10.0.0.0/8\\n-A INPUT -j DROP" is not an address or CIDR',
    ],
  ],
];

for (const [name, lines, errors] of WRONG) {
  t.test(name, async (t) => {
    t.strictSame(printed(directory(lines)), errors);
  });
}

t.test('the external subnet is required', async (t) => {
  const gateway = (external: string) =>
    directory('', { 'gateway.yaml': GATEWAY.replace('  externalSubnet: macvlan1', external) });
  t.same(printed(gateway('  replicas: 1')), [
    'gateway.yaml:4:1: spec.externalSubnet: this field is required',
  ]);
  t.same(printed(gateway('  externalSubnet: ""')), [
    'gateway.yaml:5:19: spec.externalSubnet: must not be empty',
  ]);
  t.same(printed(gateway('  externalSubnet: null')), [
    'gateway.yaml:4:1: spec.externalSubnet: this field is required',
  ]);
});

t.test('subnets are checked, used or not', async (t) => {
  const subnet = (spec: string) =>
    printed(
      directory('', {
        'x.yaml': `apiVersion: kubeovn.io/v1\nkind: Subnet\nmetadata: { name: x }\nspec: ${spec}\n`,
      }),
    );
  t.same(subnet('{ cidrBlock: 10.9.0.0/16 }'), []);
  t.same(subnet('{ cidrBlock: "10.9.0.0/16,10.10.0.0/16" }'), [
    'x.yaml:4:20: spec.cidrBlock: "10.9.0.0/16,10.10.0.0/16" is not a CIDR, or one of each family with a comma',
  ]);
  t.same(subnet('{}'), ['x.yaml:4:1: spec.cidrBlock: this field is required']);
  t.same(subnet('{ protocol: Dual, cidrBlock: 10.9.0.0/16 }'), [
    'x.yaml:4:19: spec.protocol: is Dual, and cidrBlock "10.9.0.0/16" is IPv4',
  ]);
  t.same(subnet('{ protocol: IPv4, cidrBlock: "fd00::/64" }'), [
    'x.yaml:4:19: spec.protocol: is IPv4, and cidrBlock "fd00::/64" is IPv6',
  ]);
  t.same(subnet('{ protocol: Dual, cidrBlock: "fd00::/64,10.9.0.0/16" }'), []);
  t.same(subnet('{ protocol: IPv5, cidrBlock: 10.9.0.0/16 }'), [
    'x.yaml:4:19: spec.protocol: must be one of IPv4, IPv6, Dual, Mac, is "IPv5"; did you mean "IPv4"?',
  ]);
  t.same(subnet('{ cidrBlock: 10.9.0.0/16, gateway: 10.8.0.1 }'), [
    'x.yaml:4:42: spec.gateway: 10.8.0.1 is not in cidrBlock "10.9.0.0/16"',
  ]);
  t.same(subnet('{ cidrBlock: 10.9.0.0/16, gatway: 10.9.0.1 }'), [
    'x.yaml:4:33: spec.gatway: unknown field "gatway"; did you mean "gateway"?',
  ]);
});

t.test('a duplicate Subnet or Vpc', async (t) => {
  t.same(printed(directory('', { 'z.yaml': VPC, 'y.yaml': SUBNETS.split('---\n')[0]! })), [
    'z.yaml:3:19: metadata.name: duplicate Vpc "ovn-cluster", first defined in vpc.yaml',
    'y.yaml:3:19: metadata.name: duplicate Subnet "ovn-default", first defined in subnets.yaml',
  ]);
});

t.test('a document that is missing is told beside what cannot be read, with a reservation', async (t) => {
  const missing = (name: string) =>
    new RegExp(`Subnet "${name}".* is not in .*; add its document, unless it is one that cannot be read$`);
  t.match(printed(directory('', { 'subnets.yaml': ']' })), [
    missing('ovn-default'),
    missing('macvlan1'),
    /^subnets.yaml:1:1: /,
  ]);
  t.match(printed(directory('', { 'subnets.yaml': SUBNETS.replace('name: macvlan1', 'nam: macvlan1') })), [
    missing('macvlan1'),
    /metadata.name: this field is required/,
    /metadata.nam: unknown field "nam"; did you mean "name"\?/,
  ]);
  t.equal(printed(directory('', { 'subnets.yaml': SUBNETS.replaceAll('name: ', 'nam: ') })).length, 8);
  t.match(printed(directory('', { 'subnets.yaml': SUBNETS.replace('gateway: "172', 'gatway: "172') })), [
    /spec.gatway: unknown field/,
  ]);
  const noPeer = directory('  bfd: { enabled: true }\n', { 'vpc.yaml': VPC.replace('name: ', 'nam: ') });
  t.match(printed(noPeer), [
    /spec.bfd.enabled: .* Vpc "ovn-cluster" is not in .*, unless it is one that cannot be read$/,
    /metadata.name/,
    /metadata.nam/,
  ]);
});

t.test('a v4-only external subnet: IPv6 is left out, and said to be', async (t) => {
  const v4 = SUBNETS.replace('"172.17.0.0/16,fd00:172:17::/64"', '172.17.0.0/16').replace(
    '"172.17.0.1,fd00:172:17::1"',
    '172.17.0.1',
  );
  const policy = policyOf(
    directory('  policies: [{ snat: true, subnets: [ovn-default] }]\n', { 'subnets.yaml': v4 }),
  );
  t.same(policy.external.gateways, ['172.17.0.1']);
  t.same(policy.warnings, [
    { message: 'IPv6 is not programmed: the external side has no IPv6 gateway; 1 IPv6 block left out' },
  ]);
});

t.test(
  'a block in a true and in a false policy is forwarded, and a conflict, in whichever order',
  async (t) => {
    for (const [first, second] of [
      ['{ snat: true, subnets: [subnet1] }', '{ snat: false, ipBlocks: [10.17.0.0/16] }'],
      ['{ snat: false, ipBlocks: [10.17.0.0/16] }', '{ snat: true, subnets: [subnet1] }'],
    ]) {
      const policy = policyOf(directory(`  policies:\n    - ${first}\n    - ${second}\n`));
      t.equal(policy.rules.length, 2);
      t.match(policy.warnings, [
        {
          message:
            /^conflict: 10.17.0.0\/16 is translated by policy-\d and forwarded by policy-\d; it is forwarded$/,
        },
      ]);
    }
  },
);

t.test('the log of the observer is the log of translations', async (t) => {
  const { translationLog } = policyOf(
    directory(`  observability:
    conntrack:
      log:
        enabled: true
        events: [end]
        rateLimit: { recordsPerSecond: 10 }
        filters:
          exclude:
            - protocols: [icmp]
              original: { sourceCIDRs: [10.17.3.4/16], destinationPorts: [{ start: 53, end: 53 }] }
`),
  );
  t.strictSame(translationLog, {
    events: ['end'],
    rateLimit: { recordsPerSecond: 10, burst: 1000 },
    filters: {
      include: [],
      exclude: [
        {
          protocols: ['icmp'],
          original: { sourceCIDRs: ['10.17.0.0/16'], destinationPorts: [{ first: 53, last: 53 }] },
        },
      ],
    },
  });
  t.equal(
    policyOf(directory('  observability: { conntrack: { log: { events: [end] } } }\n')).translationLog,
    undefined,
  );
});
