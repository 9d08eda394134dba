/**
 * Builds the validators: `node agent/policy/build.ts DIRECTORY` writes `validators.js` there, code that ajv generates
 * from the schemas. `npm run build` puts it in the place of the one that compiles at run time, and so does the image's
 * bundle.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { _ } from 'ajv';
import standalone from 'ajv/dist/standalone/index.js';
import { newAjv } from './ajv.ts';
import type { Schema } from './json-schema.ts';
import { KINDS } from './kinds.ts';
import { schemaOf } from './schema.ts';

/** The text of the module. `formatTests`: the module that it imports `FORMAT_TESTS` from, relative to itself. */
export function precompiledValidators(formatTests: string): string {
  const ajv = newAjv({ source: true, esm: true, formats: _`FORMAT_TESTS` });
  const shared = new Map<string, string>();
  /** Gives each different schema of a map or list a function of its own: V8 compiles only those that are called. */
  const share = (schema: Schema): Schema => {
    const whole = withParts(schema, share);
    if (schema.type !== 'object' && schema.type !== 'array') return whole;
    const text = JSON.stringify(whole);
    const id = shared.get(text) ?? `part${shared.size}`;
    if (!shared.has(text)) ajv.addSchema(whole, id);
    shared.set(text, id);
    return { $ref: id };
  };
  const ids: Record<string, string> = {};
  const entries = KINDS.map((kind, i) => {
    ajv.addSchema(withParts(schemaOf(kind), share), `kind${i}`);
    ids[`kind${i}`] = `kind${i}`;
    return `  [${JSON.stringify(kind.apiVersion)}, ${JSON.stringify(kind.kind)}, kind${i}],`;
  });
  return [
    `import { FORMAT_TESTS } from ${JSON.stringify(formatTests)};`,
    standalone.default(ajv, ids),
    `const VALIDATORS = [\n${entries.join('\n')}\n];`,
    'export const validatorOf = (kind) =>',
    '  VALIDATORS.find((one) => one[0] === kind.apiVersion && one[1] === kind.kind)[2];',
    '',
  ].join('\n');
}

/** The schema without what only people read of it, and with its parts replaced. */
function withParts(
  { $schema, $id, title, description, default: value, ...schema }: Schema,
  replace: (schema: Schema) => Schema,
): Schema {
  const { properties, items, additionalProperties } = schema;
  return {
    ...schema,
    // Its unit is in a message.
    ...(schema.format === 'duration' && { default: value }),
    ...(properties !== undefined && {
      properties: Object.fromEntries(
        Object.entries(properties as Record<string, Schema>).map(([name, part]) => [name, replace(part)]),
      ),
    }),
    ...(items !== undefined && { items: replace(items as Schema) }),
    ...(typeof additionalProperties === 'object' && {
      additionalProperties: replace(additionalProperties as Schema),
    }),
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [directory] = process.argv.slice(2);
  if (directory === undefined) throw new Error('usage: node agent/policy/build.ts DIRECTORY');
  writeFileSync(join(directory, 'validators.js'), precompiledValidators('./format-tests.js'));
}
