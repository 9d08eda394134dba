// Spidernet's resources: what they mean, and what their webhook (and we) refuse.
import t from 'tap';
import { GATEWAY, supported } from '../support.ts';

const API = 'apiVersion: egressgateway.spidernet.io/v1beta1';
const EGRESS = `${API}
kind: EgressGateway
metadata:
  name: default
spec:
  ippools:
    ipv4:
    - 172.22.0.100-172.22.0.110
    ipv4DefaultEIP: 172.22.0.110
  nodeSelector:
    selector:
      matchLabels:
        egress: "true"
`;
/** The policy of the seed as the API prints it. */
const POLICY = `${API}
kind: EgressPolicy
metadata:
  name: test
  namespace: default
spec:
  egressGatewayName: default
  appliedTo:
    podSelector:
      matchLabels:
        app: visitor
  egressIP:
    allocatorPolicy: default
    useNodeIP: false
status:
  eip:
    ipv4: 172.22.0.110
  node: egressgateway-worker2
`;
const SLICE = `${API}
endpoints:
- ipv4:
  - 172.40.14.195
  node: egressgateway-worker
  ns: default
  pod: visitor-6764bb48cc-29vq9
kind: EgressEndpointSlice
metadata:
  name: test-kvlp6
  namespace: default
`;
const CLUSTER_POLICY = POLICY.replace('EgressPolicy', 'EgressClusterPolicy').replace(
  '  namespace: default\n',
  '',
);
const POD = (name: string, namespace: string, ip: string) => `---
apiVersion: v1
kind: Pod
metadata: { name: ${name}, namespace: ${namespace}, labels: { app: visitor } }
status: { podIPs: [{ ip: "${ip}" }] }
`;

const files = (others: Record<string, string> = {}) => ({
  'gateway.yaml': GATEWAY,
  'eg.yaml': EGRESS,
  'policy.yaml': POLICY,
  'slice.yaml': SLICE,
  ...others,
});
const errorsOf = (others: Record<string, string>) => supported(files(others)).errors;
const rulesOf = (others: Record<string, string> = {}) => {
  const { policy, errors } = supported(files(others));
  if (errors.length > 0) throw new Error(errors.join('\n'));
  return policy.rules;
};

t.test('the seed: the endpoints of the slices leave with the allocated address', async (t) => {
  t.strictSame(rulesOf(), [
    {
      name: 'spidernet/default/test',
      snat: true,
      ipBlocks: ['172.40.14.195/32'],
      egressIP: { addresses: ['172.22.0.110'], announce: true, owner: 'egressgateway-worker2' },
    },
  ]);
});

t.test('many slices, found by their label, both families', async (t) => {
  const more = SLICE.replace('test-kvlp6', 'other-name').replace(
    '  namespace: default\n',
    '  namespace: default\n  labels: { spidernet.io/policy-name: test }\n',
  );
  const other = SLICE.replace('test-kvlp6', 'elsewhere-kvlp6');
  const rules = rulesOf({
    'b.yaml': more
      .replace('172.40.14.195', '172.40.14.196')
      .replace('  node:', '  ipv6: ["fd00::9"]\n  node:'),
    'c.yaml': other.replace('172.40.14.195', '172.40.14.197'),
    'd.yaml': SLICE.replace('namespace: default', 'namespace: other'),
  });
  t.same(rules[0]!.ipBlocks, ['172.40.14.195/32', '172.40.14.196/32', 'fd00::9/128']);
});

t.test('podSubnet, destSubnet and priority', async (t) => {
  const text = POLICY.replace(
    / {4}podSelector:\n.*\n.*\n/,
    '    podSubnet: [10.17.0.0/16, "fd00::/64"]\n',
  ).replace('spec:', 'spec:\n  destSubnet: [192.0.2.0/24, "::/0"]\n  priority: 10');
  t.match(rulesOf({ 'policy.yaml': text, 'slice.yaml': SLICE.replace('test-', 'x-') }), [
    { ipBlocks: ['10.17.0.0/16', 'fd00::/64'], destinationCIDRs: ['192.0.2.0/24', '::/0'], priority: 10 },
  ]);
});

t.test('the address: of the node, allocated, asked for, or the default', async (t) => {
  const egressIP = (spec: string, status = '') =>
    rulesOf({
      'policy.yaml': POLICY.replace(/ {2}egressIP:\n.*\n.*\n/, `  egressIP: ${spec}\n`).replace(
        /status:.*/s,
        status,
      ),
    })[0]!.egressIP;
  t.equal(egressIP('{ useNodeIP: true }'), undefined);
  t.same(egressIP('{}', 'status: { eip: { ipv4: 172.22.0.101, ipv6: "" }, node: n }\n'), {
    addresses: ['172.22.0.101'],
    announce: true,
    owner: 'n',
  });
  t.same(egressIP('{ ipv4: 172.22.0.102 }')!.addresses, ['172.22.0.102']);
  t.same(egressIP('{ allocatorPolicy: rr, ipv4: "", ipv6: "" }'), {
    addresses: ['172.22.0.110'],
    announce: true,
    owner: '',
  });
});

t.test(
  'a policy that names no gateway has that of its namespace, or the default of the cluster',
  async (t) => {
    const second = EGRESS.replace('name: default', 'name: second').replaceAll('172.22.0', '172.23.0');
    const unnamed = {
      'policy.yaml': POLICY.replace('  egressGatewayName: default\n', '').replace(/status:.*/s, ''),
      'b.yaml': second,
    };
    const namespace =
      'apiVersion: v1\nkind: Namespace\nmetadata: { name: default, labels: { spidernet.io/egressgateway-default: second } }\n';
    t.same(rulesOf({ ...unnamed, 'ns.yaml': namespace })[0]!.egressIP!.addresses, ['172.23.0.110']);
    const cluster = EGRESS.replace('spec:', 'spec:\n  clusterDefault: true');
    t.same(rulesOf({ ...unnamed, 'eg.yaml': cluster })[0]!.egressIP!.addresses, ['172.22.0.110']);
    t.same(errorsOf(unnamed), [
      'policy.yaml:6:1: spec.egressGatewayName: names no gateway, and no EgressGateway is the cluster default; name one',
    ]);
  },
);

t.test('selectors without slices, by the pods', async (t) => {
  const { 'slice.yaml': _, ...without } = files();
  const pods = POD('a', 'default', '10.17.0.9') + POD('b', 'other', '10.17.0.10');
  t.same(supported({ ...without, 'pods.yaml': pods }).policy.rules[0]!.ipBlocks, ['10.17.0.9/32']);
  t.same(supported(without).errors, [
    'policy.yaml:9:5: spec.appliedTo.podSelector: selects pods by their labels, so its EgressEndpointSlice documents (or Pod documents) are needed in the policy directory',
  ]);
  const cluster = { ...without, 'policy.yaml': CLUSTER_POLICY, 'pods.yaml': pods };
  t.match(supported(cluster).policy.rules, [
    { name: 'spidernet/test', ipBlocks: ['10.17.0.9/32', '10.17.0.10/32'] },
  ]);
  const scoped = CLUSTER_POLICY.replace(
    '    podSelector:',
    '    namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: other } }\n    podSelector:',
  );
  t.same(supported({ ...cluster, 'policy.yaml': scoped }).policy.rules[0]!.ipBlocks, ['10.17.0.10/32']);
});

t.test('the slices of a cluster policy', async (t) => {
  const slice = SLICE.replace('EgressEndpointSlice', 'EgressClusterEndpointSlice').replace(
    '  namespace: default\n',
    '',
  );
  t.match(rulesOf({ 'policy.yaml': CLUSTER_POLICY, 'slice.yaml': slice }), [
    { name: 'spidernet/test', ipBlocks: ['172.40.14.195/32'] },
  ]);
});

t.test('a policy whose slices are empty does nothing, and says so', async (t) => {
  const { policy } = supported(
    files({ 'slice.yaml': SLICE.replace(/endpoints:\n.*(?=kind)/s, 'endpoints: []\n') }),
  );
  t.same(policy.rules, []);
  t.match(policy.warnings, [{ message: 'EgressPolicy "default/test" applies to no pod with an address' }]);
});

const egressIP = (text: string) => ({
  'policy.yaml': POLICY.replace(/ {2}egressIP:\n.*\n.*\n/, `  egressIP: ${text}\n`),
});
const appliedTo = (text: string) => ({ 'policy.yaml': POLICY.replace(/ {4}podSelector:\n.*\n.*\n/, text) });
const pools = (text: string) => ({
  'eg.yaml': EGRESS.replace(/ {2}ippools:\n.*\n.*\n.*\n/, `  ippools: ${text}\n`),
  ...egressIP('{ useNodeIP: true }'),
});

/** What is refused, and what is said. */
const REFUSED: [string, Record<string, string>, string[]][] = [
  [
    'useNodeIP together with an address',
    egressIP('{ useNodeIP: true, ipv4: 172.22.0.101, ipv6: "fd00::1" }'),
    [
      'policy.yaml:12:32: spec.egressIP.ipv4: useNodeIP and an address exclude each other',
      'policy.yaml:12:52: spec.egressIP.ipv6: useNodeIP and an address exclude each other',
    ],
  ],
  [
    'an address of the wrong family',
    egressIP('{ ipv4: "fd00::1", ipv6: 172.22.0.101 }'),
    [
      'policy.yaml:12:21: spec.egressIP.ipv4: "fd00::1" is not an IPv4 address',
      'policy.yaml:12:38: spec.egressIP.ipv6: "172.22.0.101" is not an IPv6 address',
    ],
  ],
  [
    'an allocator that there is not',
    egressIP('{ allocatorPolicy: random }'),
    ['policy.yaml:12:32: spec.egressIP.allocatorPolicy: must be one of default, rr, is "random"'],
  ],
  [
    'podSelector.matchLabels together with podSubnet',
    appliedTo('    podSelector: { matchLabels: { a: b } }\n    podSubnet: [10.0.0.0/8]\n'),
    ['policy.yaml:10:5: spec.appliedTo.podSubnet: podSelector.matchLabels and podSubnet exclude each other'],
  ],
  [
    'appliedTo with nothing',
    appliedTo('    podSelector: {}\n'),
    [
      'policy.yaml:8:3: spec.appliedTo: names no sources; give podSubnet, or matchLabels or matchExpressions of podSelector',
    ],
  ],
  [
    'no appliedTo',
    { 'policy.yaml': POLICY.replace(/ {2}appliedTo:\n.*\n.*\n.*\n/, '') },
    ['policy.yaml:6:1: spec.appliedTo: this field is required'],
  ],
  [
    'a destination that is no CIDR',
    { 'policy.yaml': POLICY.replace('spec:', 'spec:\n  destSubnet: [1.1.1.1, x]') },
    [
      'policy.yaml:7:16: spec.destSubnet[0]: "1.1.1.1" is not a CIDR: write "1.1.1.1/32"',
      'policy.yaml:7:25: spec.destSubnet[1]: "x" is not a CIDR',
    ],
  ],
  [
    'ranges: unordered, mixed, of the wrong family, no range',
    pools('{ ipv4: [10.0.0.9-10.0.0.1, "10.0.0.1-fd00::1", "fd00::1", x] }'),
    [
      'eg.yaml:6:21: spec.ippools.ipv4[0]: "10.0.0.9-10.0.0.1" is a range that ends before it begins',
      'eg.yaml:6:40: spec.ippools.ipv4[1]: "10.0.0.1-fd00::1" is a range from one address family to the other',
      'eg.yaml:6:60: spec.ippools.ipv4[2]: "fd00::1" is not IPv4',
      'eg.yaml:6:71: spec.ippools.ipv4[3]: "x" is not an address, a range or a CIDR',
    ],
  ],
  [
    'unequal numbers of IPv4 and IPv6 addresses',
    pools('{ ipv4: [172.22.0.0/28], ipv6: ["fd00::/124"] }'),
    ['eg.yaml:6:3: spec.ippools: must have as many IPv4 as IPv6 addresses, has 14 and 16'],
  ],
  [
    'a default EIP outside the pool',
    pools('{ ipv4: [172.22.0.0/24], ipv4DefaultEIP: 172.22.0.0 }'),
    ['eg.yaml:6:53: spec.ippools.ipv4DefaultEIP: 172.22.0.0 is not in the pool spec.ippools.ipv4'],
  ],
  [
    'a default EIP of the wrong family',
    pools('{ ipv4: [172.22.0.0/24], ipv6DefaultEIP: 172.22.0.1 }'),
    ['eg.yaml:6:53: spec.ippools.ipv6DefaultEIP: "172.22.0.1" is not an IPv6 address'],
  ],
  [
    'an EIP outside the pool',
    egressIP('{ ipv4: 172.22.0.99 }'),
    ['policy.yaml:12:21: spec.egressIP.ipv4: 172.22.0.99 is not in the pool of EgressGateway "default"'],
  ],
  [
    'two defaults of the cluster',
    {
      'eg.yaml': EGRESS.replace('spec:', 'spec:\n  clusterDefault: true'),
      'f.yaml': EGRESS.replace('spec:', 'spec:\n  clusterDefault: true').replace(
        'name: default',
        'name: second',
      ),
    },
    ['f.yaml:6:19: spec.clusterDefault: EgressGateway "default" is the cluster\'s default already'],
  ],
  [
    'no nodeSelector',
    { 'eg.yaml': EGRESS.replace(/ {2}nodeSelector:.*/s, '') },
    ['eg.yaml:5:1: spec.nodeSelector: this field is required'],
  ],
  [
    'a nodeSelector without a selector',
    { 'eg.yaml': EGRESS.replace(/ {4}selector:.*/s, '    policy: AverageSelection\n') },
    ['eg.yaml:10:3: spec.nodeSelector.selector: this field is required'],
  ],
  [
    'an empty selector of nodes',
    { 'eg.yaml': EGRESS.replace(/ {4}selector:.*/s, '    selector: {}\n') },
    ['eg.yaml:11:15: spec.nodeSelector.selector: must not be empty: it selects the nodes of the gateway'],
  ],
  [
    'no address at all',
    {
      'eg.yaml': EGRESS.replace(/ {4}ipv4DefaultEIP.*\n/, ''),
      'policy.yaml': POLICY.replace(/status:.*/s, ''),
    },
    [
      'policy.yaml:12:3: spec.egressIP: has no address: neither status.eip, nor egressIP, nor a default EIP of EgressGateway "default"',
    ],
  ],
  [
    'a gateway that is not there',
    { 'policy.yaml': POLICY.replace('egressGatewayName: default', 'egressGatewayName: defalt') },
    [
      'policy.yaml:7:22: spec.egressGatewayName: EgressGateway "defalt" is not in the policy directory; did you mean "default"?',
    ],
  ],
  [
    'an endpoint of the wrong family',
    { 'slice.yaml': SLICE.replace('172.40.14.195', '"fd00::1"') },
    ['slice.yaml:4:5: endpoints[0].ipv4[0]: "fd00::1" is not an IPv4 address'],
  ],
  [
    'more than a hundred endpoints',
    { 'slice.yaml': SLICE.replace(/endpoints:\n.*(?=kind)/s, `endpoints:\n${'- { ns: a }\n'.repeat(101)}`) },
    ['slice.yaml:3:1: endpoints: must have at most 100 items, has 101'],
  ],
  [
    'a namespaceSelector in a namespaced policy',
    appliedTo('    podSubnet: [10.0.0.0/8]\n    namespaceSelector: {}\n'),
    [
      'policy.yaml:10:5: spec.appliedTo.namespaceSelector: unknown field "namespaceSelector"; the fields here are podSelector, podSubnet',
    ],
  ],
];

for (const [name, others, errors] of REFUSED) {
  t.test(`refused: ${name}`, async (t) => {
    t.strictSame(errorsOf(others), errors);
  });
}

t.test('ten thousand endpoints in a hundred slices', async (t) => {
  const slices = Array.from({ length: 100 }, (_, i) => ({
    apiVersion: 'egressgateway.spidernet.io/v1beta1',
    kind: 'EgressEndpointSlice',
    metadata: { name: `test-s${i}`, namespace: 'default', labels: { 'spidernet.io/policy-name': 'test' } },
    endpoints: Array.from({ length: 100 }, (_, j) => ({
      ns: 'default',
      pod: `p-${i}-${j}`,
      ipv4: [`10.40.${i}.${j}`],
      node: 'n',
    })),
  }));
  const text = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: slices });
  t.equal(rulesOf({ 'slice.yaml': text })[0]!.ipBlocks.length, 10_000);
});

t.test('what has no effect is warned of: an address that nobody holds, slices of no policy', async (t) => {
  const slice = `---
apiVersion: egressgateway.spidernet.io/v1beta1
kind: EgressEndpointSlice
metadata: { name: gone-abcde, namespace: default, labels: { spidernet.io/policy-name: gone } }
endpoints: [{ ns: default, pod: a, ipv4: [10.17.0.9] }]
`;
  const { policy, errors } = supported({ 'a.yaml': `${GATEWAY}${slice}` });
  t.same(errors, []);
  t.match(policy.warnings, [
    { message: /^the EgressEndpointSlice documents of EgressPolicy "default\/gone" have no effect/ },
  ]);
});
