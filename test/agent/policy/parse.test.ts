// Text → documents: what YAML means here, where things stand, and what is too much.
import t from 'tap';
import { parseDocuments } from '../../../agent/policy/parse.ts';

const values = (text: string) => parseDocuments(text).documents.map(({ value }) => value);
const errors = (text: string) =>
  parseDocuments(text).errors.map(({ line, col, message }) => `${line}:${col}: ${message}`);

t.test('YAML 1.2: yes is text, 010 is ten, a merge key is a key, JSON is YAML', async (t) => {
  t.same(values('a: yes\nb: 010\nc: true\nd: 0x10\ne: 1:20\nf: 2026-01-01\ng:\n'), [
    { a: 'yes', b: 10, c: true, d: 16, e: '1:20', f: '2026-01-01', g: null },
  ]);
  t.same(values('a: &x { b: 1 }\nc:\n  <<: *x\n'), [{ a: { b: 1 }, c: { '<<': { b: 1 } } }]);
  t.same(values('{"a": [1, "b", null, {"c": false}]}'), [{ a: [1, 'b', null, { c: false }] }]);
});

t.test('several documents a file; those without a value are left out', async (t) => {
  t.same(values('---\na: 1\n---\n# nothing\n---\nb: 2\n...\n'), [{ a: 1 }, { b: 2 }]);
  for (const nothing of ['', '\n\n', '# only\n# comments\n', '---\n', '---\n---\n', 'null\n', '\ufeff']) {
    t.same(parseDocuments(nothing), { documents: [], errors: [] }, JSON.stringify(nothing));
  }
});

t.test('a byte order mark and CRLF change nothing', async (t) => {
  const [document] = parseDocuments('\ufeffa: 1\r\nb:\r\n  - x\r\n  - y\r\n').documents;
  t.same(document!.value, { a: 1, b: ['x', 'y'] });
  t.same(document!.locate(['b', 1]), { line: 4, col: 5 });
});

t.test('every value and every key can be located', async (t) => {
  const text = `# head
a: 1
spec:
  policies:
    - name: web
      ipBlocks: [10.0.0.0/8, "fd00::/8"]
    -
      name: second
  empty:
---
b: 2
`;
  const [first, second] = parseDocuments(text).documents;
  const at = (path: (string | number)[], part?: 'key' | 'value') => {
    const { line, col } = first!.locate(path, part);
    return `${line}:${col}`;
  };
  t.equal(at([]), '2:1');
  t.equal(at(['a']), '2:4');
  t.equal(at(['a'], 'key'), '2:1');
  t.equal(at(['spec', 'policies', 0, 'ipBlocks', 1]), '6:30');
  t.equal(at(['spec', 'policies', 0, 'ipBlocks', 1], 'key'), '6:30', 'an item has no key of its own');
  t.equal(at(['spec', 'policies', 1]), '8:7');
  t.equal(at(['spec', 'empty']), '9:3', 'an empty value stands where its key does');
  t.equal(at(['spec', 'absent']), '4:3', 'what is absent: the last thing on the way');
  t.equal(at(['spec', 'absent'], 'key'), '3:1');
  t.equal(at(['spec', 'policies', 7, 'name']), '5:5');
  t.same(second!.locate(['b']), { line: 11, col: 4 });
});

t.test('a value that an alias stands for is located where it was written', async (t) => {
  const [document] = parseDocuments('a: &x [1, 2]\nb: *x\n').documents;
  t.same(document!.value, { a: [1, 2], b: [1, 2] });
  t.same(document!.locate(['b', 1]), { line: 1, col: 11 });
  t.not((document!.value as { a: unknown }).a, (document!.value as { b: unknown }).b, 'each is its own copy');
});

t.test('an alias means the last anchor of its name before it', async (t) => {
  t.same(values('[&x 1, *x, &x 2, *x]'), [[1, 1, 2, 2]]);
});

t.test('a key that is no text, and one that objects inherit, are plain keys', async (t) => {
  const [value] = values('1: a\ntrue: b\n? [x]\n: c\n__proto__: d\nconstructor: e\n') as [object];
  t.same(Object.entries(value).sort(), [
    ['1', 'a'],
    ['["x"]', 'c'],
    ['__proto__', 'd'],
    ['constructor', 'e'],
    ['true', 'b'],
  ]);
});

t.test('what is not YAML is said with its place, once a line, and the document is left out', async (t) => {
  t.same(errors('a: [1, 2\nb: 3\n'), [
    '2:1: invalid YAML: Flow sequence in block collection must be sufficiently indented and end with a ]',
  ]);
  t.same(errors('a:\n\tb: 1\n'), ['2:1: invalid YAML: Tabs are not allowed as indentation']);
  t.same(errors('a: "x\n'), ['2:1: invalid YAML: Missing closing "quote']);
  t.same(errors('a: b: c\n'), ['1:4: invalid YAML: Nested mappings are not allowed in compact mappings']);
  t.same(errors('a: !secret x\n'), ['1:4: invalid YAML: Unresolved tag: !secret']);
  t.same(errors('{"a": 1} {"b": 2}'), ['1:10: invalid YAML: Unexpected flow-map-start token']);
  const { documents, errors: first } = parseDocuments('a: ]\n---\nb: 1\n');
  t.equal(first[0]!.line, 1);
  t.same(
    documents.map(({ value }) => value),
    [{ b: 1 }],
    'the next document is read all the same',
  );
});

t.test('a repeated key is an error at each repetition, at any depth', async (t) => {
  t.same(errors('a: 1\nb: 2\na: 3\nc:\n  - d: 1\n    d: 2\n'), [
    '3:1: duplicate key "a"',
    '6:5: duplicate key "d"',
  ]);
  t.same(
    errors('a: &x { k: 1, k: 2 }\nb: *x\nc: *x\n'),
    ['1:15: duplicate key "k"'],
    'once for an anchor, however often it is used',
  );
  t.same(errors('{"a": 1, "a": 1}'), ['1:10: duplicate key "a"']);
});

t.test('aliases: without an anchor, into themselves, too many, to too much', async (t) => {
  t.same(errors('a: *x\n'), ['1:4: "*x" has no anchor before it']);
  t.same(errors('[*x, &x 1]'), ['1:2: "*x" has no anchor before it']);
  t.same(errors('&a [*a]'), ['1:5: "*a" refers to a value that contains it']);
  t.same(errors('&a { b: { c: *a } }'), ['1:14: "*a" refers to a value that contains it']);
  t.same(errors(`a: &x 1\nb: [${'*x, '.repeat(101)}]\n`), [
    '2:405: holds more than 100 YAML aliases; write the values out',
  ]);
  const bomb = ['a: &a [x,x,x,x,x,x,x,x,x]'];
  for (const [was, is] of ['ab', 'bc', 'cd', 'de', 'ef', 'fg', 'gh']) {
    bomb.push(`${is}: &${is} [${Array(9).fill(`*${was}`).join(',')}]`);
  }
  t.match(errors(bomb.join('\n')), [/^1:\d+: expands to more than 1000000 values$/]);
});

t.test('deep nesting of every kind is refused before it costs anything', async (t) => {
  for (const opening of ['[', '{', '- ', '? ', 'a: {b: ', '- [']) {
    t.match(errors(opening.repeat(200_000)), [/is nested more than 64 levels deep$/], opening);
  }
  const indented = Array.from({ length: 100 }, (_, i) => `${' '.repeat(i)}a:`).join('\n');
  t.match(errors(indented), [/is nested more than 64 levels deep$/]);
});

t.test('junk gives a bounded number of errors', async (t) => {
  let seed = 1;
  const octets = Array.from({ length: 60_000 }, () => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return (seed >> 16) & 255;
  });
  const bytes = String.fromCharCode(...octets);
  for (const junk of [bytes, ': [ } "\n'.repeat(100_000), '"'.repeat(1_000_000), '\n]'.repeat(100_000)]) {
    const found = errors(junk);
    t.ok(found.length > 0 && found.length <= 21, `${found.length} errors`);
  }
});

t.test('what costs too much memory is refused where it is too much, over all files together', async (t) => {
  const refused =
    'the policy is too large from here on: leave out what no rule needs, or give the pod more memory (docs/policy.md has the numbers)';
  t.same(errors('\n# x'.repeat(500_000)), [`150001:4: ${refused}`]);
  const budget = { tokens: 30 };
  t.same(parseDocuments('a: 1\nb: 2\nc: 3\n', budget).errors, []);
  t.same(parseDocuments('a: 1\nb: 2\nc: 3\n', budget).errors, [{ line: 2, col: 1, message: refused }]);
});

t.test('long lists of addresses cost next to nothing', async (t) => {
  for (const text of [
    `a:\n${'  - 10.0.0.0/8\n'.repeat(1000)}`,
    `a:\n${'  - "fd00::/8"\n'.repeat(1000)}`,
    `a: [${'10.0.0.0/8, '.repeat(1000)}]`,
    `{"a":[${Array(1000).fill('"10.0.0.1"').join(',')}]}`,
    JSON.stringify({ a: Array(1000).fill('fd00::1') }, null, 2),
  ]) {
    const { documents, errors } = parseDocuments(text, { tokens: 40 });
    t.same(errors, [], text.slice(0, 30));
    t.equal((documents[0]!.value as { a: string[] }).a.length, 1000);
  }
});
