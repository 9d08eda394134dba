/** Deckhouse's and Spidernet's resources, with the whole agent: which source the server sees. */
import t from 'tap';
import { FAMILIES } from '../../lib/prefix.ts';
import { Agent, gatewayPolicy, PolicyDirectory } from '../support/agent.ts';
import { until } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { ask, startMirror } from './nat-lab.ts';

const MIRROR = 9999;
const POD = `apiVersion: v1
kind: Pod
metadata: { name: backend-1, namespace: my-ns, labels: { app: backend } }
status: { podIPs: [{ ip: 10.17.0.9 }, { ip: "fd00:10:17::9" }] }
`;
const deckhouse = (name: string, ip: string, node: string, excluded = '[]'): string => `---
apiVersion: network.deckhouse.io/v1alpha1
kind: EgressGateway
metadata: { name: ${name} }
spec:
  nodeSelector: { node-role.deckhouse.io/egress: "" }
  sourceIP: { mode: VirtualIPAddress, virtualIPAddress: { ip: "${ip}" } }
status: { activeNodeName: ${node} }
---
apiVersion: network.deckhouse.io/v1alpha1
kind: EgressGatewayPolicy
metadata: { name: ${name} }
spec:
  egressGatewayName: ${name}
  destinationCIDRs: [0.0.0.0/0, "::/0"]
  excludedCIDRs: ${excluded}
  selectors:
    - podSelector: { matchLabels: { app: backend, io.kubernetes.pod.namespace: my-ns } }
`;
const spidernet = (v4: string, v6: string, node: string): string => `---
apiVersion: egressgateway.spidernet.io/v1beta1
kind: EgressGateway
metadata: { name: default }
spec:
  ippools:
    ipv4: [172.17.0.100-172.17.0.110]
    ipv6: ["fd00:172:17::100-fd00:172:17::10a"]
    ipv4DefaultEIP: 172.17.0.110
    ipv6DefaultEIP: "fd00:172:17::10a"
  nodeSelector: { selector: { matchLabels: { egress: "true" } } }
---
apiVersion: egressgateway.spidernet.io/v1beta1
kind: EgressPolicy
metadata: { name: test, namespace: default }
spec:
  egressGatewayName: default
  appliedTo: { podSelector: { matchLabels: { app: visitor } } }
status: { eip: { ipv4: ${v4}, ipv6: "${v6}" }, node: ${node} }
---
apiVersion: egressgateway.spidernet.io/v1beta1
kind: EgressEndpointSlice
metadata: { name: test-kvlp6, namespace: default, labels: { spidernet.io/policy-name: test } }
endpoints:
  - { ns: default, pod: visitor-1, ipv4: [10.17.0.9], ipv6: ["fd00:10:17::9"], node: node2 }
`;

const scope = scopeOf(t);
const { client, client2, gateway, server } = topology(scope);
const policy = new PolicyDirectory(scope);
policy.set();
const agent = new Agent(gateway, {
  policyDir: policy.dir,
  stateDir: scope.directory('state'),
  env: { NODE_NAME: 'node1' },
});
await agent.synced();
for (const ns of [server, client, client2]) await startMirror(ns, MIRROR);
server.ip(`
  route add 10.17.0.0/16 via ${ADDRESS.gatewayExternal[4]}
  route add fd00:10:17::/64 via ${ADDRESS.gatewayExternal[6]}`);
const before = gateway.sh('ip addr show net1');

let written = '';
async function edit(documents: string): Promise<void> {
  if (documents !== written) {
    const { generation } = (await agent.status()).policy;
    policy.write({ 'gateway.yaml': gatewayPolicy(), ...(documents && { 'more.yaml': documents }) });
    written = documents;
    await agent.statusUntil('in force', ({ policy: seen }) => seen.valid && seen.generation > generation);
  }
  await agent.ask('POST', '/v1/reconcile');
}
const held = (address: string): boolean => gateway.sh('ip -o addr show dev net1').includes(` ${address}/`);
const isHeld = (address: string) => until(() => held(address), { what: `${address} on net1` });
const seen = (family: 4 | 6): string => ask(client, ADDRESS.server[family], MIRROR);

const refused = (family: 4 | 6): number =>
  agent.metric(`veg_inbound_dropped_packets_total{family="ipv${family}"}`) ?? 0;
/** A neighbour that knows where the pods are does not come in, and is counted. */
async function isClosed(): Promise<void> {
  const before = FAMILIES.map(refused);
  for (const family of FAMILIES) {
    server.run('bash', ['-c', `echo >/dev/udp/${ADDRESS.client[family]}/${MIRROR}`]);
  }
  await until(() => FAMILIES.every((family, i) => refused(family) === before[i]! + 1), {
    what: 'one packet of each family is dropped',
  });
}

t.test('Deckhouse: a virtual address while the node is the active one', async (t) => {
  const [v4, v6] = ['172.17.0.242', 'fd00:172:17::242'];
  const both = (node: string, excluded?: string) =>
    POD + deckhouse('myeg', v4, node, excluded) + deckhouse('myeg6', v6, node, excluded);
  await edit(POD + deckhouse('myeg', v4, 'node1'));
  await isHeld(v4);
  t.equal(seen(4), v4);
  await edit(POD + deckhouse('myeg6', v6, 'node1'));
  await isHeld(v6);
  t.equal(seen(6), v6);
  t.notOk(held(v4));
  await edit(both('node1'));
  await isHeld(v4);
  t.same([seen(4), seen(6)], [v4, v6], 'one for each family');
  await edit(both('node2'));
  t.notOk(held(v4) || held(v6), 'another node is active');
  await edit(both('node1', '[172.17.0.0/16, "fd00:172:17::/64"]'));
  t.equal(seen(4), ADDRESS.gatewayExternal[4], 'not to excluded destinations');
  t.equal(seen(6), ADDRESS.gatewayExternal[6]);
  await isClosed();
});

t.test('Spidernet: the EIP of the policy while the node has it', async (t) => {
  await edit(spidernet('172.17.0.110', 'fd00:172:17::10a', 'node1'));
  await isHeld('172.17.0.110');
  await isHeld('fd00:172:17::10a');
  t.equal(seen(4), '172.17.0.110');
  t.equal(seen(6), 'fd00:172:17::10a');
  await edit(spidernet('172.17.0.101', 'fd00:172:17::101', 'node1'));
  await isHeld('172.17.0.101');
  await isHeld('fd00:172:17::101');
  t.equal(seen(4), '172.17.0.101', 'after an edit');
  t.equal(seen(6), 'fd00:172:17::101');
  await edit(spidernet('172.17.0.101', 'fd00:172:17::101', 'node2'));
  t.notOk(held('172.17.0.101'), 'another node has it');
  await isClosed();
});

const eip = (name: string, v4: string, v6: string): string => `---
apiVersion: kubeovn.io/v1
kind: IptablesEIP
metadata: { name: ${name} }
spec: { v4ip: ${v4}, v6ip: "${v6}", natGwDp: gw1 }
`;
const rule = (kind: string, name: string, spec: object): string =>
  `---\n${JSON.stringify({ apiVersion: 'kubeovn.io/v1', kind, metadata: { name }, spec })}\n`;

t.test('Kube-OVN: floating IPs, ports, and sources of an EIP', async (t) => {
  const own = { 4: '172.17.0.60', 6: 'fd00:172:17::60' } as const;
  const shared = { 4: '172.17.0.61', 6: 'fd00:172:17::61' } as const;
  const eips = eip('own', own[4], own[6]) + eip('shared', shared[4], shared[6]);
  const fip = (owner: typeof ADDRESS.client | typeof ADDRESS.client2): string =>
    FAMILIES.map((family) =>
      rule('IptablesFIPRule', `fip${family}`, { eip: 'own', internalIp: owner[family] }),
    ).join('');
  const port = { externalPort: '8053', internalPort: `${MIRROR}`, protocol: 'UDP', eip: 'shared' };
  const dnat = FAMILIES.map((family) =>
    rule('IptablesDnatRule', `dnat${family}`, { ...port, internalIp: ADDRESS.client2[family] }),
  ).join('');
  const internalCIDR = '10.16.0.0/12,fd00:10::/32';
  const snat = rule('IptablesSnatRule', 'snat', { eip: 'shared', internalCIDR });
  await edit(eips + fip(ADDRESS.client) + dnat + snat);
  for (const address of [...Object.values(own), ...Object.values(shared)]) await isHeld(address);
  for (const family of FAMILIES) {
    t.equal(seen(family), own[family], 'outwards, the floating IP');
    t.equal(ask(server, own[family], MIRROR), ADDRESS.gatewayInternal[family], 'inwards');
    t.equal(ask(client2, own[family], MIRROR), ADDRESS.gatewayInternal[family], 'hairpin');
    t.equal(ask(server, shared[family], 8053), ADDRESS.gatewayInternal[family], 'a port');
    t.equal(ask(client2, ADDRESS.server[family], MIRROR), shared[family], 'the sources of the CIDR');
  }
  await edit(eips + fip(ADDRESS.client2));
  for (const family of FAMILIES) {
    t.equal(ask(client2, ADDRESS.server[family], MIRROR), own[family], 'after an edit it is another pod’s');
    t.equal(seen(family), ADDRESS.gatewayExternal[family]);
    t.notOk(held(shared[family]), 'no rule names it any more');
  }
  await isClosed();
});

t.test('without them nothing of theirs is left', async (t) => {
  await edit('');
  t.equal(gateway.sh('ip addr show net1'), before);
  t.equal(gateway.sh('ipset list -n'), '');
  t.equal(seen(4), ADDRESS.gatewayExternal[4]);
});
