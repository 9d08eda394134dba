// Large sets of documents are read in parts and without what nobody reads, and come to the same as small ones.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { parse } from 'yaml';
import { SMALL_SET } from '../../../agent/policy/bounds.ts';
import { loadPolicy } from '../../../agent/policy/load.ts';
import { readPlain, Texts } from '../../../agent/policy/plain-yaml.ts';
import { sieve } from '../../../agent/policy/sieve.ts';
import { asJson, asYaml, GATEWAY_OF_LISTS, listOf, pod, slice, subnet } from '../../support/kubectl.ts';
import { DOCUMENT, GATEWAY, load, printed } from './support.ts';

/** The same text, so long that it is read in parts. */
const long = (text: string): string => `${text}\n${'# nothing\n'.repeat(SMALL_SET / 8)}`;
const longJson = (text: string): string => text + '\n'.repeat(SMALL_SET + 1);

const ROOT = join(import.meta.dirname, '../../..');
const examples = readdirSync(join(ROOT, 'docs/examples')).map((name) => {
  const directory = join(ROOT, 'docs/examples', name);
  const files = readdirSync(directory).map((file) => [file, readFileSync(join(directory, file), 'utf8')]);
  return [name, Object.fromEntries(files) as Record<string, string>] as const;
});

t.test('every example means the same when it is large', async (t) => {
  for (const [name, files] of examples) {
    const large = Object.entries(files).map(([file, text]) => [file, long(text)]);
    t.strictSame(load(Object.fromEntries(large)), load(files), name);
  }
});

t.test('what is wrong is said with the same words and places', async (t) => {
  const wrong = [
    ...[listOf(2, subnet), subnet(1)].map((value) =>
      asYaml(value).replaceAll('gatewayType', 'gatwayType').replaceAll('IPv4', 'IPv6'),
    ),
    asYaml({ apiVersion: 'v1', kind: 'List', items: [1, null, { a: 1 }, subnet(1)], more: 1 }),
    asYaml(listOf(3, (i) => slice(i))).replace('10.60.0.7', '10.60.0.777'),
    asYaml(listOf(2, subnet)).replace('    vpc: vpc1', '    vpc: vpc1: x'),
    asYaml(listOf(2, subnet)).replace('    vpc: vpc1', '    vpc: vpc1\n    vpc: vpc2'),
    asYaml({ apiVersion: 'v1', kind: 'List', items: [listOf(1, subnet)] }),
    asYaml({ apiVersion: 'kubeovn.io/v1', kind: 'SubnetList', items: [{ metadata: {}, spec: {} }] }),
    'apiVersion: v1\nkind: List\nitems:\n# none\n',
    'apiVersion: v1\nkind: List\nitems:\n- \n-\n- kind: Pod\n',
    'apiVersion: v1\nkind: List\nitems: {}\n---\na: [\n---\n]\n',
    `${GATEWAY}  x: 1\nitems:\n- a\n`,
  ];
  for (const text of wrong) {
    const small = printed({ 'a.yaml': text });
    t.ok(small.length > 0);
    t.strictSame(printed({ 'a.yaml': long(text) }), small, text.slice(0, 200));
  }
  for (const items of [
    [DOCUMENT, 1, null],
    [[DOCUMENT]],
    ['"', { items: [DOCUMENT] }],
    [{ ...DOCUMENT, spec: 'items' }],
  ]) {
    for (const print of [asJson, JSON.stringify]) {
      const text = print({ apiVersion: 'v1', kind: 'List', items });
      t.strictSame(printed({ 'a.json': longJson(text) }), printed({ 'a.json': text }), text);
    }
  }
});

for (const [form, print] of [
  ['yaml', asYaml],
  ['json', asJson],
] as const) {
  t.test(
    `2000 Pods, 500 Subnets and 10 000 endpoints as kubectl prints them are one policy, ${form}`,
    async (t) => {
      const lists = {
        pods: listOf(2000, pod),
        slices: listOf(100, (i) => slice(i)),
        subnets: listOf(500, subnet),
      };
      const files = Object.entries(lists).map(([name, list]) => ({
        name: `${name}.${form}`,
        text: print(list),
      }));
      // What the image's memory of 64 MiB affords.
      const result = loadPolicy([{ name: 'gateway.yaml', text: GATEWAY_OF_LISTS }, ...files], 22_000);
      if (!result.ok) throw new Error(JSON.stringify(result.errors.slice(0, 3)));
      const rules = new Map(result.policy.rules.map((rule) => [rule.name, rule]));
      t.equal(rules.get('spidernet/default/policy1')?.ipBlocks.length, 10_000);
      t.equal(rules.get('selector-0')?.ipBlocks.length, 40, 'one pod of fifty');
      t.same(rules.get('policy-0')?.ipBlocks, ['10.100.3.0/24', '10.101.243.0/24']);
    },
  );
}

t.test('what is too large is told by kinds', async (t) => {
  const text = asYaml(listOf(2000, pod));
  t.match(loadPolicy([{ name: 'pods.yaml', text }], 5000), {
    ok: false,
    errors: [
      { file: 'pods.yaml', message: /^the policy is too large from here on, behind \d{3,4} Pod: leave out/ },
    ],
  });
});

t.test('what machines print is read without a syntax tree, to the same values', async (t) => {
  const plain = (text: string) => readPlain(text, new Texts())?.value;
  for (const value of [pod(3), subnet(3), slice(3)]) {
    t.strictSame(plain(sieve(asYaml(value)).text), parse(sieve(asYaml(value)).text));
    t.strictSame(plain(asJson(value)), value);
    t.strictSame(plain(sieve(asJson(value)).text), parse(sieve(asJson(value)).text));
  }
  const odd = `a: 'x y'
"b/c": "d: e"
c: ""
d: {}
e: []
f: null
g: true
h: 12
i: 10.0.0.1
j: fd00::1
k:
l: 2026-01-02T03:04:05Z
m: yes
n:
  - a: 1
    b:
    - c
    - d: e
  - f
o: x,y
`;
  t.strictSame(plain(odd), parse(odd));
});

t.test('and everything else is left to the parser', async (t) => {
  for (const text of [
    'a: 1\na: 2',
    '"a": 1\na: 2',
    'a: [1]',
    'a: {b: c}',
    'a: |\n  text',
    'a: b\n  c',
    'a: "b\n  c"',
    'a: "\\t"',
    "a: 'it''s'",
    'a: 010',
    'a: 1.5',
    'a: 0x1f',
    'a: ~',
    'a: True',
    'a: &x b',
    'a: *x',
    'a: !!str b',
    'a: b # comment',
    'a: b: c',
    'a: b:',
    '? a\n: b',
    '- a',
    'a:\n -  b',
    'a:\n- - b',
    'a:\n-\n  b',
    'a: 1\n b: 2',
    '  a: 1\nb: 2',
    'a\n',
    '# a\nb: 1',
    'a: 1\n\nb: 2',
    'a: 1\r\nb: 2',
    '\ta: 1',
    '__proto__: 1',
    'a: b\n---\nc: d',
    '{"a": 1, "a": 2}',
    '{"a": tru}',
    '{a: 1}',
    '{"a": 1}\n---\n{"b": 2}',
    '',
  ]) {
    t.equal(readPlain(text, new Texts()), undefined, JSON.stringify(text));
  }
});
