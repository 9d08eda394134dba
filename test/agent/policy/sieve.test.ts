// What nobody reads is left out of large files, and nothing else; every place is still known.
import t from 'tap';
import { parse } from 'yaml';
import { placesIn } from '../../../agent/policy/parse.ts';
import { Sieve, sieve } from '../../../agent/policy/sieve.ts';
import { asJson, asYaml, listOf, pod, slice, subnet } from '../../support/kubectl.ts';

type Resource = Record<string, Record<string, unknown>>;

const FORMS = {
  yaml: asYaml,
  json: asJson,
  'compact json': (value: object) => JSON.stringify(value),
};

/** The text in pieces of so many characters. */
function inPieces(text: string, length: number) {
  const one = new Sieve();
  for (let at = 0; at < text.length; at += length) one.write(text.slice(at, at + length));
  return one.end();
}

for (const [form, print] of Object.entries(FORMS)) {
  t.test(
    `as kubectl prints them, ${form}: what is read of a Pod, a Subnet and a slice remains`,
    async (t) => {
      const text = print({ ...listOf(1, pod), items: [pod(1), subnet(1), slice(1), pod(2)] });
      const [first, second, third, last] = (parse(sieve(text).text) as { items: Resource[] }).items;
      t.same(Object.keys(first!.metadata!), ['labels', 'name', 'namespace']);
      t.same(first!.spec, { nodeName: 'node-1' });
      t.same(first!.status, { phase: 'Running', podIP: '10.17.0.1', podIPs: [{ ip: '10.17.0.1' }] });
      t.same(
        second!.spec,
        (subnet(1) as Resource).spec,
        'of a Subnet every field, because a wrong name is an error',
      );
      t.equal(second!.status, undefined);
      t.same(Object.keys(second!.metadata!).includes('annotations'), false);
      t.same(third!.endpoints, (slice(1) as Resource).endpoints);
      t.same(last!.spec, { nodeName: 'node-2' });
    },
  );

  t.test(`it makes no difference in what pieces a file comes, ${form}`, async (t) => {
    const text = print({ ...listOf(1, pod), items: [pod(1), subnet(1), pod(2)] });
    const whole = sieve(text);
    for (const length of [1, 2, 7, 100, 1000]) t.same(inPieces(text, length), whole, `${length}`);
  });

  t.test(`what is left stands where it stood, ${form}`, async (t) => {
    const text = print({ ...listOf(1, pod), items: [pod(1), subnet(1), pod(2)] });
    const { text: left, cuts } = sieve(text);
    const [place, placeLeft] = [placesIn(text), placesIn(left, cuts)];
    for (const word of [
      'node-1',
      'node-2',
      '10.17.0.2',
      'vpc1',
      'distributed',
      'Running',
      'resourceVersion',
    ]) {
      const [at, atLeft] = [text.lastIndexOf(word), left.lastIndexOf(word)];
      t.same(placeLeft(atLeft), place(at), word);
    }
  });
}

t.test('a typed list gives its items their kind', async (t) => {
  const { apiVersion: _a, kind: _k, ...item } = pod(1) as Resource & { apiVersion: unknown; kind: unknown };
  for (const print of Object.values(FORMS)) {
    const text = print({ kind: 'PodList', apiVersion: 'v1', items: [item] });
    t.same((parse(sieve(text).text) as { items: Resource[] }).items[0]!.spec, { nodeName: 'node-1' });
  }
});

t.test('several documents, comments, Windows line ends, a byte order mark', async (t) => {
  const text = `\uFEFF# first\r\n---\r\n${asYaml(pod(1)).replaceAll('\n', '\r\n')}---\r\n${asYaml(pod(2))}`;
  const { text: left } = sieve(text);
  t.match(left, /^\uFEFF# first\r\n---\r\napiVersion: v1\r\nkind: Pod\r\nmetadata:\r\n {2}labels:/);
  t.notMatch(left, /containers|annotations/);
  t.equal(left.split('nodeName').length, 3);
});

t.test('what looks otherwise stays as it is', async (t) => {
  for (const text of [
    '',
    '\n \n',
    '- a\n- b\n',
    'just text',
    '{',
    '{"a"',
    '{"metadata": {"annotations": [}',
    '{"metadata": "annotations"}',
    'metadata: { annotations: {a: b},\n  managedFields: [] }\n',
    'metadata:\n- annotations: 1\n',
    'apiVersion: v1\nkind: Pod\nspec: |\n  containers:\n  - a\n',
    'apiVersion: v1\nkind: List\nitems: [{kind: Pod, spec: {a: 1}}]\n',
    '--- {kind: Pod, spec: {a: 1}}\n',
    'a: [\n"metadata",\n]\n',
  ]) {
    t.same(sieve(text), { text, cuts: [] }, JSON.stringify(text));
    t.same(inPieces(text, 1), { text, cuts: [] }, 'and in pieces');
  }
});

t.test('text in the block scalars of what is read is not taken for fields', async (t) => {
  const text = `apiVersion: kubeovn.io/v1
kind: Subnet
metadata:
  labels:
    a: |
      managedFields:
        b: c
  name: x
`;
  t.same(sieve(text), { text, cuts: [] });
});
