// docs/policy.md: its examples are policies, all mean what the page says, and every field is on the page.
import { readFileSync } from 'node:fs';
import t from 'tap';
import { GATEWAY_POLICY_SCHEMA } from '../../../agent/policy/gateway-policy/schema.ts';
import type { Schema } from '../../../agent/policy/json-schema.ts';
import { policyOf } from './support.ts';

const page = readFileSync(new URL('../../../docs/policy.md', import.meta.url), 'utf8');
const examples = [...page.matchAll(/```yaml\n(.*?)```/gs)].map(([, text]) => text!);

t.test('the two first examples mean the same', async (t) => {
  const [own, kubeOvn] = examples.slice(0, 2).map((text) => policyOf({ 'gateway.yaml': text }));
  const { origin: _, rules, ...same } = own!;
  t.match(kubeOvn, same);
  t.same(
    kubeOvn!.rules.map(({ snat, ipBlocks }) => ({ snat, ipBlocks })),
    rules.map(({ snat, ipBlocks }) => ({ snat, ipBlocks })),
  );
  t.same([own!.warnings, kubeOvn!.warnings], [[], []]);
});

t.test('every example is a policy, or adds to one', async (t) => {
  const [gateway] = examples;
  t.equal(examples.length, 10);
  for (const text of examples) {
    if (/kind: (GatewayPolicy|VpcEgressGateway)/.test(text)) {
      t.doesNotThrow(() => policyOf({ 'gateway.yaml': text }));
      continue;
    }
    const { eips, dnats, rules, warnings } = policyOf({ 'gateway.yaml': gateway!, 'more.yaml': text });
    t.same(warnings, []);
    if (text.includes('IptablesEIP')) {
      t.match(rules[0], { name: 'kube-ovn/snat1', egressIP: { addresses: ['172.17.0.61'] } });
      t.match(eips, [{ externalIP: '172.17.0.60', internalIP: '10.17.0.9' }]);
      t.match(dnats, [{ externalIP: '172.17.0.61', internalIP: '10.17.0.10' }]);
    } else t.match(rules[0], { ipBlocks: ['10.17.0.9/32'], egressIP: { owner: 'node1' } });
  }
});

t.test('every field of GatewayPolicy is on the page', async (t) => {
  const spec = (GATEWAY_POLICY_SCHEMA.properties as Record<string, Schema>).spec!;
  const names = (schema: Schema): string[] =>
    Object.entries((schema.properties ?? {}) as Record<string, Schema>).map(([name]) => name);
  const { policies, ...sections } = spec.properties as Record<string, Schema>;
  for (const name of [...Object.keys(sections), ...names(policies!.items as Schema)]) {
    t.match(page, new RegExp(`\`(policies\\[\\]\\.)?${name}\\b`), name);
  }
});
