// What the agent does not obey yet is refused, unless it asks for nothing.
import t from 'tap';
import { UNSUPPORTED } from '../../../agent/policy/unsupported.ts';
import { GATEWAY, printed } from './support.ts';

/** For each entry of the table: lines that ask for it with the field's place, and lines that do not. */
const CASES: Record<string, { asks: [string, string][]; harmless: string[] }> = {
  'spec.policies[].destinationCIDRs': {
    asks: [['  policies: [{ destinationCIDRs: [0.0.0.0/0] }]\n', '7:16: spec.policies[0].destinationCIDRs']],
    harmless: ['  policies: [{ destinationCIDRs: [] }]\n'],
  },
  'spec.policies[].excludedCIDRs': {
    asks: [['  policies: [{ excludedCIDRs: [10.0.0.0/8] }]\n', '7:16: spec.policies[0].excludedCIDRs']],
    harmless: ['  policies: [{ excludedCIDRs: [] }]\n'],
  },
  'spec.policies[].priority': {
    asks: [['  policies: [{}, { priority: 100 }]\n', '7:20: spec.policies[1].priority']],
    harmless: ['  policies: [{ priority: 1000 }]\n'],
  },
  'spec.policies[].egressIP': {
    asks: [['  policies: [{ egressIP: { address: [172.17.0.50] } }]\n', '7:16: spec.policies[0].egressIP']],
    harmless: ['  policies: [{}]\n'],
  },
  'spec.policies[].portBlockSize': {
    asks: [
      [
        '  policies: [{ ipBlocks: [10.17.0.0/16], portBlockSize: 64 }]\n',
        '7:42: spec.policies[0].portBlockSize',
      ],
    ],
    harmless: ['  policies: [{ portBlockSize: 0 }]\n'],
  },
  'spec.defaultAction': {
    asks: [
      ['  defaultAction: forward\n', '7:3: spec.defaultAction'],
      ['  defaultAction: drop\n', '7:3: spec.defaultAction'],
    ],
    harmless: ['  defaultAction: masquerade\n'],
  },
  'spec.eips': {
    asks: [['  eips: [{ externalIP: 172.17.0.60, internalIP: 10.17.0.9 }]\n', '7:3: spec.eips']],
    harmless: ['  eips: []\n'],
  },
  'spec.dnats': {
    asks: [
      [
        '  dnats: [{ externalIP: 172.17.0.11, protocol: tcp, externalPort: 8080, internalIP: 10.17.0.9, internalPort: "80" }]\n',
        '7:3: spec.dnats',
      ],
    ],
    harmless: ['  dnats: []\n'],
  },
  'spec.mssClamp': {
    asks: [['  mssClamp: true\n', '7:3: spec.mssClamp']],
    harmless: ['  mssClamp: false\n'],
  },
};

for (const { field } of UNSUPPORTED.GatewayPolicy!) {
  t.test(field, async (t) => {
    const { asks, harmless } = CASES[field]!;
    for (const [lines, place] of asks) {
      t.same(printed({ 'a.yaml': `${GATEWAY}${lines}` }), [
        `a.yaml:${place}: not supported by this version of veg-agent`,
      ]);
    }
    for (const lines of harmless) t.same(printed({ 'a.yaml': `${GATEWAY}${lines}` }), [], lines);
  });
}

t.test('the policies of other systems', async (t) => {
  for (const [apiVersion, kind] of [
    ['network.deckhouse.io/v1alpha1', 'EgressGatewayPolicy'],
    ['egressgateway.spidernet.io/v1beta1', 'EgressPolicy'],
    ['egressgateway.spidernet.io/v1beta1', 'EgressClusterPolicy'],
  ] as const) {
    const errors = printed({ 'a.yaml': `${GATEWAY}---\napiVersion: ${apiVersion}\nkind: ${kind}\n` });
    t.ok(errors.includes('a.yaml:9:1: kind: not supported by this version of veg-agent'), kind);
  }
});
