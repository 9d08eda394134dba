// The published schema is the one that is obeyed, and it knows every field there is. To write it anew:
// node -e "import('./agent/policy/gateway-policy/schema.ts').then((m) => console.log(JSON.stringify(m.GATEWAY_POLICY_SCHEMA)))" > docs/gateway-policy.schema.json && biome format --write docs/gateway-policy.schema.json
import { readFileSync } from 'node:fs';
import t from 'tap';
import { FORMATS } from '../../../agent/policy/formats.ts';
import { GATEWAY_POLICY_SCHEMA } from '../../../agent/policy/gateway-policy/schema.ts';
import type { Schema } from '../../../agent/policy/json-schema.ts';
import { KINDS } from '../../../agent/policy/kinds.ts';
import { parseDocuments } from '../../../agent/policy/parse.ts';
import { schemaOf } from '../../../agent/policy/schema.ts';
import { validate } from '../../../agent/policy/validate.ts';

const read = (path: string) => readFileSync(new URL(`../../../${path}`, import.meta.url), 'utf8');

/** Every schema within a schema, with its path. */
function* within(schema: Schema, path = ''): Generator<[string, Schema]> {
  yield [path, schema];
  const { properties, items, additionalProperties } = schema;
  for (const [name, inner] of Object.entries(properties ?? {}))
    yield* within(inner as Schema, `${path}.${name}`);
  if (items !== undefined) yield* within(items as Schema, `${path}[]`);
  if (typeof additionalProperties === 'object') yield* within(additionalProperties as Schema, `${path}.*`);
}

t.test('docs/gateway-policy.schema.json is the schema of GatewayPolicy', async (t) => {
  t.strictSame(JSON.parse(read('docs/gateway-policy.schema.json')), GATEWAY_POLICY_SCHEMA);
});

t.test('every map names its fields or is open on purpose, and every format is known', async (t) => {
  for (const kind of KINDS) {
    for (const [path, { properties, additionalProperties, format }] of within(schemaOf(kind))) {
      if (properties !== undefined) t.type(additionalProperties, 'boolean', `${kind.kind}${path}`);
      if (format !== undefined) t.ok(Object.hasOwn(FORMATS, format as string), `${kind.kind}${path}`);
    }
  }
});

t.test('every field of GatewayPolicy is described', async (t) => {
  const spec = (GATEWAY_POLICY_SCHEMA.properties as Record<string, Schema>).spec!;
  for (const [path, { description }] of within(spec)) {
    if (/\.[A-Za-z]+$/.test(path)) t.type(description, 'string', path);
  }
});

t.test('the example with every field is valid', async (t) => {
  const [document] = parseDocuments(read('test/fixtures/policy/gateway-policy/every-field.yaml')).documents;
  const kind = KINDS.find(({ kind }) => kind === 'GatewayPolicy')!;
  t.same(validate(kind, structuredClone(document!.value)), []);
  const spec = (GATEWAY_POLICY_SCHEMA.properties as Record<string, Schema>).spec!;
  const given = (value: unknown, path: string): string[] => {
    if (Array.isArray(value)) return value.flatMap((item) => given(item, `${path}[]`));
    if (typeof value !== 'object' || value === null) return [];
    return Object.entries(value).flatMap(([key, inner]) => [
      `${path}.${key}`,
      ...given(inner, `${path}.${key}`),
    ]);
  };
  // Filters and tuples are each of one kind, wherever they stand.
  const plain = (path: string) => path.replace('include[]', 'exclude[]').replace('translated', 'original');
  // What excludes another field.
  const others = ['group-certificates', 'evpn', 'fast-path'].flatMap(
    (name) => parseDocuments(read(`test/fixtures/policy/gateway-policy/${name}.yaml`)).documents,
  );
  const specs = [document, ...others].map((one) => (one!.value as { spec: unknown }).spec);
  const fields = new Set(specs.flatMap((one) => given(one, '')).map(plain));
  for (const [path] of within(spec)) {
    if (/\.[A-Za-z]+$/.test(path)) t.ok(fields.has(plain(path)), `${path} is in it`);
  }
});
