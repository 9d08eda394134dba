// The generated validators find what ajv finds with the schemas as they are now.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { ValidateFunction } from 'ajv';
import t from 'tap';
import { parseAllDocuments } from 'yaml';
import { precompiledValidators } from '../../../agent/policy/build.ts';
import { KINDS, type Kind } from '../../../agent/policy/kinds.ts';
import { schemaOf } from '../../../agent/policy/schema.ts';
import { validate, violationsOf } from '../../../agent/policy/validate.ts';

const ROOT = join(import.meta.dirname, '../../..');

type Fields = Record<string, unknown>;

/** Of a kind that no manifest has. */
const CLUSTER_POLICY = {
  ...{ apiVersion: 'egressgateway.spidernet.io/v1beta1', kind: 'EgressClusterPolicy' },
  metadata: { name: 'a' },
  spec: { appliedTo: { podSubnet: ['10.17.0.0/16'], namespaceSelector: {} }, destSubnet: ['10.0.0.0/8'] },
};

/** Every document of the repository's manifests and examples, with its kind. */
function documents(): [Kind, Fields][] {
  const files = ['test/fixtures', 'docs/examples'].flatMap((directory) =>
    readdirSync(join(ROOT, directory), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.yaml'))
      .map((name) => join(ROOT, directory, name)),
  );
  const values = files.flatMap((file) =>
    parseAllDocuments(readFileSync(file, 'utf8'))
      .map((document) => document.toJS() as Fields & { items?: Fields[] })
      .flatMap((value) => value?.items ?? [value]),
  );
  return [...values, CLUSTER_POLICY].flatMap((value): [Kind, Fields][] => {
    const kind = KINDS.find((one) => one.apiVersion === value?.apiVersion && one.kind === value?.kind);
    return kind === undefined ? [] : [[kind, value]];
  });
}

/** The document with one thing wrong: each value of a wrong type or form, each map with a field more, a field less. */
function* spoilt(root: Fields): Generator<Fields> {
  const copy = (path: readonly string[], change: (parent: Fields, key: string) => void): Fields => {
    const whole = { root: structuredClone(root) };
    const parent = path.slice(0, -1).reduce<Fields>((at, key) => at[key] as Fields, whole);
    change(parent, path.at(-1)!);
    return whole.root;
  };
  const at = function* (value: unknown, path: string[]): Generator<Fields> {
    for (const wrong of [{}, [], '', 'x'.repeat(300), -1, 1.5, true, null]) {
      yield copy(path, (parent, key) => {
        parent[key] = wrong;
      });
    }
    yield copy(path, (parent, key) => delete parent[key]);
    if (typeof value !== 'object' || value === null) return;
    if (!Array.isArray(value)) {
      yield copy(path, (parent, key) => {
        parent[key] = { ...(parent[key] as Fields), unknownField: 1 };
      });
    }
    for (const [key, inner] of Object.entries(value)) yield* at(inner, [...path, key]);
  };
  yield* at(root, ['root']);
}

t.test('generated validators report the same as compiled ones, in the same words', async (t) => {
  const file = join(t.testdir(), 'validators.mjs');
  const formatTests = pathToFileURL(join(ROOT, 'agent/policy/format-tests.ts')).href;
  writeFileSync(file, precompiledValidators(formatTests));
  const { validatorOf } = (await import(pathToFileURL(file).href)) as {
    validatorOf: (kind: Kind) => ValidateFunction;
  };
  const found = new Set<string>();
  let violations = 0;
  for (const [kind, value] of documents()) {
    found.add(`${kind.apiVersion} ${kind.kind}`);
    for (const document of [value, ...spoilt(value)]) {
      const expected = validate(kind, structuredClone(document));
      const actual = violationsOf(validatorOf(kind), structuredClone(document));
      violations += expected.length;
      if (JSON.stringify(actual) !== JSON.stringify(expected)) t.strictSame(actual, expected);
    }
  }
  t.equal(found.size, KINDS.length, 'documents of every kind are tried');
  t.ok(violations > 1000, `${violations} violations are the same`);
});

t.test('each kind has a schema', async (t) => {
  for (const kind of KINDS) {
    t.match(schemaOf(kind).properties, {
      apiVersion: { const: kind.apiVersion },
      kind: { const: kind.kind },
    });
  }
});

t.test('the generated module imports nothing but the checks of the formats', async (t) => {
  const text = precompiledValidators('./format-tests.js');
  t.same(
    [...text.matchAll(/\bimport\b.*|\brequire\(.*?\)/g)].map(([line]) => line),
    ['import { FORMAT_TESTS } from "./format-tests.js";'],
  );
});
