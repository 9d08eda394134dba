// Label selectors, and the pods that they select.
import t from 'tap';
import { type LabelSelector, selects } from '../../../../agent/policy/kubernetes/selectors.ts';
import { policyOf, printed } from '../support.ts';

t.test('a selector: all parts must match; an empty one matches everything', async (t) => {
  const labels = { app: 'web', tier: 'front', empty: '' };
  const cases: [LabelSelector, boolean][] = [
    [{}, true],
    [{ matchLabels: {} }, true],
    [{ matchLabels: { app: 'web' } }, true],
    [{ matchLabels: { app: 'web', tier: 'back' } }, false],
    [{ matchLabels: { absent: '' } }, false],
    [{ matchLabels: { empty: '' } }, true],
    [{ matchExpressions: [{ key: 'app', operator: 'In', values: ['db', 'web'] }] }, true],
    [{ matchExpressions: [{ key: 'absent', operator: 'In', values: ['web'] }] }, false],
    [{ matchExpressions: [{ key: 'app', operator: 'NotIn', values: ['web'] }] }, false],
    [{ matchExpressions: [{ key: 'absent', operator: 'NotIn', values: ['web'] }] }, true],
    [{ matchExpressions: [{ key: 'app', operator: 'Exists' }] }, true],
    [{ matchExpressions: [{ key: 'absent', operator: 'Exists' }] }, false],
    [{ matchExpressions: [{ key: 'absent', operator: 'DoesNotExist' }] }, true],
    [{ matchExpressions: [{ key: 'app', operator: 'DoesNotExist' }] }, false],
    [{ matchExpressions: [{ key: 'toString', operator: 'DoesNotExist' }] }, true],
    [
      { matchLabels: { app: 'web' }, matchExpressions: [{ key: 'tier', operator: 'In', values: ['back'] }] },
      false,
    ],
  ];
  for (const [selector, expected] of cases)
    t.equal(selects(selector, labels), expected, JSON.stringify(selector));
});

const CLUSTER = `apiVersion: kubeovn.io/v1
kind: Subnet
metadata: { name: ovn-default }
spec: { cidrBlock: 10.16.0.0/16 }
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: { name: macvlan1 }
spec: { provider: eth1.default, cidrBlock: 172.17.0.0/16 }
`;
const gateway = (selectors: string) => `apiVersion: kubeovn.io/v1
kind: VpcEgressGateway
metadata: { name: gateway1 }
spec:
  externalSubnet: macvlan1
  selectors: ${selectors}
`;
const PODS = `apiVersion: v1
kind: List
items:
  - { apiVersion: v1, kind: Namespace, metadata: { name: team-a, labels: { team: a } }, spec: { finalizers: [kubernetes] }, status: { phase: Active } }
  - apiVersion: v1
    kind: Pod
    metadata: { name: web, namespace: team-a, labels: { app: web } }
    spec: { nodeName: node1, containers: [{ name: c, image: i }] }
    status: { phase: Running, podIP: 10.17.0.9, podIPs: [{ ip: 10.17.0.9 }, { ip: "fd00:10:17::9" }] }
  - { apiVersion: v1, kind: Pod, metadata: { name: web2, labels: { app: web } }, status: { podIP: 10.17.0.10 } }
  - { apiVersion: v1, kind: Pod, metadata: { name: done, namespace: team-a }, status: { phase: Succeeded, podIP: 10.17.0.11 } }
  - { apiVersion: v1, kind: Pod, metadata: { name: host, namespace: team-a }, spec: { hostNetwork: true }, status: { podIP: 192.0.2.1 } }
  - { apiVersion: v1, kind: Pod, metadata: { name: new, namespace: team-a }, status: { phase: Pending } }
`;

t.test(
  'the selectors of a VpcEgressGateway are the addresses of the pods, where those are known',
  async (t) => {
    const rules = (selectors: string) =>
      policyOf({ 'a.yaml': gateway(selectors), 'b.yaml': CLUSTER, 'c.yaml': PODS }).rules;
    t.strictSame(rules('[{ namespaceSelector: { matchLabels: { team: a } } }]'), [
      { name: 'selector-0', snat: true, ipBlocks: ['10.17.0.9/32', 'fd00:10:17::9/128'] },
    ]);
    t.match(rules('[{ podSelector: { matchLabels: { app: web } } }]'), [
      { ipBlocks: ['10.17.0.9/32', 'fd00:10:17::9/128', '10.17.0.10/32'] },
    ]);
    t.match(rules('[{ namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: default } } }]'), [
      { ipBlocks: ['10.17.0.10/32'] },
    ]);
    t.strictSame(rules('[{ podSelector: { matchLabels: { app: db } } }]'), []);
  },
);

t.test('values and operators must go together', async (t) => {
  const selectors =
    '[{ podSelector: { matchExpressions: [{ key: a, operator: In }, { key: a, operator: Exists, values: [b] }] } }]';
  t.same(printed({ 'a.yaml': gateway(selectors), 'b.yaml': CLUSTER }), [
    'a.yaml:6:51: spec.selectors[0].podSelector.matchExpressions[0].values: In needs at least one value',
    'a.yaml:6:105: spec.selectors[0].podSelector.matchExpressions[1].values: Exists takes no values',
  ]);
});
