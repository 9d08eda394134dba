// Deckhouse's resources: what they mean, and what is refused.
import t from 'tap';
import { GATEWAY, policyOf, supported } from '../support.ts';

const VIRTUAL = `apiVersion: network.deckhouse.io/v1alpha1
kind: EgressGateway
metadata:
  name: myeg
spec:
  nodeSelector:
    node-role.deckhouse.io/egress: ""
  sourceIP:
    mode: VirtualIPAddress
    virtualIPAddress:
      ip: 172.18.18.242
`;
const PRIMARY = `apiVersion: network.deckhouse.io/v1alpha1
kind: EgressGateway
metadata:
  name: myegressgw
spec:
  nodeSelector:
    node-role.deckhouse.io/egress: ""
  sourceIP:
    mode: PrimaryIPFromEgressGatewayNodeInterface
    primaryIPFromEgressGatewayNodeInterface:
      interfaceName: eth1
`;
const policy = (gateway: string) => `apiVersion: network.deckhouse.io/v1alpha1
kind: EgressGatewayPolicy
metadata:
  name: my-egressgw-policy
spec:
  destinationCIDRs:
  - 0.0.0.0/0
  egressGatewayName: ${gateway}
  selectors:
  - podSelector:
      matchLabels:
        app: backend
        io.kubernetes.pod.namespace: my-ns
`;
const PODS = `apiVersion: v1
kind: Pod
metadata: { name: a, namespace: my-ns, labels: { app: backend } }
status: { podIPs: [{ ip: 10.17.0.9 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: b, namespace: other, labels: { app: backend } }
status: { podIPs: [{ ip: 10.17.0.10 }] }
`;

const files = (others: Record<string, string>) => ({ 'gateway.yaml': GATEWAY, 'pods.yaml': PODS, ...others });

t.test('the seed: a virtual address, held by the active node', async (t) => {
  const { policy: result, errors } = supported(files({ 'eg.yaml': VIRTUAL, 'p.yaml': policy('myeg') }));
  t.same(errors, []);
  t.strictSame(result.rules, [
    {
      name: 'deckhouse/my-egressgw-policy',
      snat: true,
      ipBlocks: ['10.17.0.9/32'],
      destinationCIDRs: ['0.0.0.0/0'],
      egressIP: { addresses: ['172.18.18.242'], announce: true, owner: '' },
    },
  ]);
  const status = 'status: { activeNodeName: node1, readyNodes: 2, observedGeneration: 3, conditions: [] }\n';
  const active = supported(files({ 'eg.yaml': `${VIRTUAL}${status}`, 'p.yaml': policy('myeg') }));
  t.equal(active.policy.rules[0]!.egressIP!.owner, 'node1');
});

t.test('an address that no node holds is a warning, until the status names one', async (t) => {
  const unheld = /^no node holds the address of EgressGateway "myeg".*status.activeNodeName is not set/;
  const warnings = (gateway: string) =>
    policyOf(files({ 'eg.yaml': gateway, 'p.yaml': policy('myeg') })).warnings;
  t.match(warnings(VIRTUAL), [{ message: unheld }]);
  t.match(warnings(`${VIRTUAL}status: { readyNodes: 0 }\n`), [{ message: unheld }]);
  t.match(warnings(`${VIRTUAL}status: { activeNodeName: "" }\n`), [{ message: unheld }]);
  t.same(warnings(`${VIRTUAL}status: { activeNodeName: node1 }\n`), []);
});

t.test('the seed: the address of an interface', async (t) => {
  const { policy: result, errors } = supported(files({ 'eg.yaml': PRIMARY, 'p.yaml': policy('myegressgw') }));
  t.same(errors, []);
  t.equal(result.external.interface, 'eth1');
  t.equal(result.rules[0]!.egressIP, undefined);
});

t.test('destinations that are excepted', async (t) => {
  const text = policy('myeg').replace('  selectors:', '  excludedCIDRs: [10.0.0.0/8]\n  selectors:');
  t.same(supported(files({ 'eg.yaml': VIRTUAL, 'p.yaml': text })).policy.rules[0]!.excludedCIDRs, [
    '10.0.0.0/8',
  ]);
});

t.test('another interface than the external one', async (t) => {
  const gateway = GATEWAY.replace('external: {', 'external: { interface: net1,');
  t.same(
    supported(files({ 'gateway.yaml': gateway, 'eg.yaml': PRIMARY, 'p.yaml': policy('myegressgw') })).errors,
    [
      'eg.yaml:11:22: spec.sourceIP.primaryIPFromEgressGatewayNodeInterface.interfaceName: the external interface of this gateway is net1',
    ],
  );
  const virtual = VIRTUAL.replace('ip: 172', 'interfaces: [eth5, eth6]\n      ip: 172');
  t.same(supported(files({ 'gateway.yaml': gateway, 'eg.yaml': virtual, 'p.yaml': policy('myeg') })).errors, [
    'eg.yaml:11:19: spec.sourceIP.virtualIPAddress.interfaces: the external interface of this gateway is net1',
  ]);
});

t.test('a gateway that is not there', async (t) => {
  t.same(supported(files({ 'eg.yaml': PRIMARY, 'p.yaml': policy('my-egressgw') })).errors, [
    'p.yaml:8:22: spec.egressGatewayName: EgressGateway "my-egressgw" is not in the policy directory; did you mean "myegressgw"?',
  ]);
  t.same(supported(files({ 'p.yaml': policy('my-egressgw') })).errors, [
    'p.yaml:8:22: spec.egressGatewayName: EgressGateway "my-egressgw" is not in the policy directory; add its document',
  ]);
});

t.test('pods that are not known, and a selection that is empty', async (t) => {
  const { 'pods.yaml': _, ...without } = files({ 'eg.yaml': VIRTUAL, 'p.yaml': policy('myeg') });
  t.same(supported(without).errors, [
    'p.yaml:9:3: spec.selectors: selects pods by their labels, so Pod documents are needed in the policy directory',
  ]);
  const none = supported(
    files({ 'eg.yaml': VIRTUAL, 'p.yaml': policy('myeg').replace('backend', 'frontend') }),
  );
  t.same([none.errors, none.policy.rules], [[], []]);
  t.match(none.policy.warnings, [
    { message: 'EgressGatewayPolicy "my-egressgw-policy" selects no pod with an address' },
  ]);
});

/** Changes to the gateways or the policy, and what is said of them. */
const WRONG: [string, Record<string, string>, string[]][] = [
  [
    'a mode without its block',
    { 'eg.yaml': VIRTUAL.replace(/ {4}virtualIPAddress:\n.*\n/, '') },
    ['eg.yaml:8:3: spec.sourceIP.virtualIPAddress: this field is required by mode VirtualIPAddress'],
  ],
  [
    'the block of the other mode',
    { 'eg.yaml': VIRTUAL.replace('mode: VirtualIPAddress', 'mode: PrimaryIPFromEgressGatewayNodeInterface') },
    [
      'eg.yaml:8:3: spec.sourceIP.primaryIPFromEgressGatewayNodeInterface: this field is required by mode PrimaryIPFromEgressGatewayNodeInterface',
    ],
  ],
  [
    'sourceIP without a mode',
    { 'eg.yaml': VIRTUAL.replace(/ {4}mode: .*\n/, '') },
    ['eg.yaml:8:3: spec.sourceIP.mode: this field is required'],
  ],
  [
    'a mode that there is not',
    { 'eg.yaml': VIRTUAL.replace('mode: VirtualIPAddress', 'mode: VirtualIP') },
    [
      'eg.yaml:9:11: spec.sourceIP.mode: must be one of VirtualIPAddress, PrimaryIPFromEgressGatewayNodeInterface, is "VirtualIP"',
    ],
  ],
  [
    'an address that does not parse',
    { 'eg.yaml': VIRTUAL.replace('172.18.18.242', '172.18.18.2420') },
    ['eg.yaml:11:11: spec.sourceIP.virtualIPAddress.ip: "172.18.18.2420" is not an address'],
  ],
  [
    'a virtual address without an ip',
    { 'eg.yaml': VIRTUAL.replace('ip: 172.18.18.242', 'interfaces: []') },
    ['eg.yaml:10:5: spec.sourceIP.virtualIPAddress.ip: this field is required'],
  ],
  [
    'CIDRs that do not parse',
    {
      'p.yaml': policy('myeg')
        .replace('0.0.0.0/0', '0.0.0.0/0/0')
        .replace('  selectors:', '  excludedCIDRs: [x]\n  selectors:'),
    },
    [
      'p.yaml:7:5: spec.destinationCIDRs[0]: "0.0.0.0/0/0" is not an address or CIDR',
      'p.yaml:9:19: spec.excludedCIDRs[0]: "x" is not an address or CIDR',
    ],
  ],
  [
    'a selector without podSelector',
    { 'p.yaml': policy('myeg').replace(/ {2}- podSelector:.*$/s, '  - {}\n') },
    ['p.yaml:10:5: spec.selectors[0].podSelector: this field is required'],
  ],
  [
    'a policy without a gateway',
    { 'p.yaml': policy('""') },
    ['p.yaml:8:22: spec.egressGatewayName: must not be empty'],
  ],
  [
    'a field of Spidernet',
    { 'p.yaml': policy('myeg').replace('destinationCIDRs', 'destSubnet') },
    [
      'p.yaml:6:3: spec.destSubnet: unknown field "destSubnet"; the fields here are egressGatewayName, destinationCIDRs, excludedCIDRs, selectors',
    ],
  ],
];

for (const [name, others, errors] of WRONG) {
  t.test(name, async (t) => {
    t.strictSame(
      supported(files({ 'eg.yaml': VIRTUAL, 'p.yaml': policy('myeg'), ...others })).errors,
      errors,
    );
  });
}
