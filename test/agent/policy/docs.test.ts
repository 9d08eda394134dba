// docs/policy.md: its examples are policies, all mean what the page says, and every field is on the page.
import { readFileSync } from 'node:fs';
import t from 'tap';
import type { Schema } from '../../../agent/policy/json-schema.ts';
import { GATEWAY_POLICY_SCHEMA } from '../../../agent/policy/schema.ts';
import { UNSUPPORTED } from '../../../agent/policy/unsupported.ts';
import { policyOf } from './support.ts';

const page = readFileSync(new URL('../../../docs/policy.md', import.meta.url), 'utf8');
const examples = [...page.matchAll(/```yaml\n(.*?)```/gs)].map(([, text]) => text!);

t.test('the two first examples mean the same', async (t) => {
  const [own, kubeOvn] = examples.map((text) => policyOf({ 'gateway.yaml': text }));
  const { origin: _, rules, ...same } = own!;
  t.match(kubeOvn, same);
  t.same(
    kubeOvn!.rules.map(({ snat, ipBlocks }) => ({ snat, ipBlocks })),
    rules.map(({ snat, ipBlocks }) => ({ snat, ipBlocks })),
  );
  t.same([own!.warnings, kubeOvn!.warnings], [[], []]);
});

t.test('every example is a policy', async (t) => {
  t.ok(examples.length >= 2);
  for (const text of examples) t.doesNotThrow(() => policyOf({ 'gateway.yaml': text }));
});

t.test(
  'every field of GatewayPolicy is on the page, and those not supported in their own table',
  async (t) => {
    const [supported, refused] = page.split('These are checked as well') as [string, string];
    const spec = (GATEWAY_POLICY_SCHEMA.properties as Record<string, Schema>).spec!;
    const unsupported = new Set(UNSUPPORTED.GatewayPolicy!.map(({ field }) => field.split('.').at(-1)));
    const names = (schema: Schema): string[] =>
      Object.entries((schema.properties ?? {}) as Record<string, Schema>).map(([name]) => name);
    const { policies, ...sections } = spec.properties as Record<string, Schema>;
    for (const name of [...Object.keys(sections), ...names(policies!.items as Schema)]) {
      const table = unsupported.has(name) ? refused : supported;
      t.match(table, new RegExp(`\`(policies\\[\\]\\.)?${name}\\b`), name);
    }
  },
);
