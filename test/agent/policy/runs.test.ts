// Lists of addresses kept from the parser: what is read is what YAML says, in value and in place.
import t from 'tap';
import { parse } from 'yaml';
import { parseDocuments } from '../../../agent/policy/parse.ts';

const block = (indent: string, items: string[]) => items.map((item) => `${indent}- ${item}\n`).join('');

/** Texts that are lists, or look like some. */
const TEXTS = [
  `a:\n${block('  ', ['10.0.0.1', '10.0.0.2', '10.0.0.3', '10.0.0.4'])}b: 1\n`,
  `a:\n${block('', ['10.0.0.1', '10.0.0.2', '10.0.0.3', '10.0.0.4'])}`,
  `a:\r\n${block('  ', ['10.0.0.1', '10.0.0.2', '10.0.0.3', '10.0.0.4']).replaceAll('\n', '\r\n')}b: 1\r\n`,
  `a:\n${block('  ', ['"10.0.0.1"', "'10.0.0.2'", '10.0.0.3', '"fd00::/8"', 'fd00::1', '::/0'])}`,
  `a:\n${block('  ', ['10.0.0.1', '10.0.0.2', '10.0.0.3 # why', '10.0.0.4', '10.0.0.5', '10.0.0.6'])}`,
  `a:\n${block('  ', ['10.0.0.1', '10.0.0.2', '', '10.0.0.4', '10.0.0.5'])}`,
  `a:\n${block('  ', ['10.0.0.1', '10.0.0.2'])}\n${block('  ', ['10.0.0.3', '10.0.0.4'])}`,
  `a:\n${block('  ', ['10.0.0.1', '10.0.0.2', '10.0.0.3: x', '10.0.0.4', '10.0.0.5'])}`,
  `a:\n${block('  ', ['10.0.0.1', '10.0.0.2', '10.0.0.3 : x', '10.0.0.4'])}`,
  `a:\n${block('  ', ['10.0.0.1', '10.0.0.2', '10.0.0.3\n      10.0.0.4', '10.0.0.5', '10.0.0.6'])}`,
  `a:\n${block('  ', ['10.0.0.1', '10.0.0.2', '1.5', '12', '1e3', '1:20', 'abc', '10.0.0.3'])}`,
  `a:\n${block('  ', ['&x 10.0.0.1', '10.0.0.2', '10.0.0.3', '*x', '10.0.0.4', '10.0.0.5', '10.0.0.6'])}`,
  `a: &l\n${block('  ', ['10.0.0.1', '10.0.0.2', '10.0.0.3'])}b: *l\n`,
  `a:\n${block('  ', ['10.0.0.1', '10.0.0.2', '10.0.0.3'])}b:\n${block('  ', ['10.1.0.1', '10.1.0.2', '10.1.0.3'])}`,
  `a: |\n${block('  ', ['10.0.0.1', '10.0.0.2', '10.0.0.3'])}b: >\n${block('  ', ['10.0.0.1', '10.0.0.2', '10.0.0.3'])}`,
  `a: "x\n${block('  ', ['10.0.0.1', '10.0.0.2', '10.0.0.3'])}  "\n`,
  `- - 10.0.0.1\n- 10.0.0.2\n- 10.0.0.3\n- 10.0.0.4\n`,
  `- - 10.0.0.1\n  - 10.0.0.2\n  - 10.0.0.3\n- 10.0.0.4\n- 10.0.0.5\n`,
  '- 10.0.0.1\n- 10.0.0.2\n- 10.0.0.3',
  '- 10.0.0.1\n- 10.0.0.2\n- 10.0.0.3\n-\n- 10.0.0.4\n',
  'a: [10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4]\nb: 1\n',
  'a: [10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4,]\n',
  'a: ["10.0.0.1","10.0.0.2","10.0.0.3"]\n',
  'a: [\n  10.0.0.1,\n  10.0.0.2,\n  10.0.0.3,\n  10.0.0.4\n]\n',
  'a: [x: 10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4]\n',
  'a: [10.0.0.1, 10.0.0.2, 10.0.0.3, {b: 10.0.0.4}, [10.0.0.5, 10.0.0.6, 10.0.0.7]]\n',
  'a: [10.0.0.1 , 10.0.0.2 , 10.0.0.3 , 10.0.0.4 ]\n',
  '{"a": ["10.0.0.1", "10.0.0.2", "10.0.0.3"], "b": ["fd00::1", "fd00::2", "fd00::3"]}',
  '--- 10.0.0.1\n',
  'a:\n  - 10.0.0.1\n  - 10.0.0.2\n  - 10.0.0.3\n: x\n  - y\n',
];

for (const text of TEXTS) {
  t.test(JSON.stringify(text), async (t) => {
    const { documents, errors } = parseDocuments(text);
    t.same(errors, []);
    t.same(documents[0]!.value, parse(text));
    const visit = (value: unknown, path: (string | number)[]) => {
      if (typeof value === 'object' && value !== null) {
        for (const [key, inner] of Object.entries(value)) {
          visit(inner, [...path, Array.isArray(value) ? Number(key) : key]);
        }
      } else if (typeof value === 'string' && /^[0-9a-f.:/]+$/.test(value)) {
        const { line, col } = documents[0]!.locate(path);
        const there = text.split(/\r?\n/)[line - 1]!.slice(col - 1);
        t.ok(
          [value, '*x'].some((text) => there.replace(/^(&x )?["']?/, '').startsWith(text)),
          `${value} at ${line}:${col}`,
        );
      }
    };
    visit(documents[0]!.value, []);
  });
}

t.test('what is wrong in such a list is an error as in any other', async (t) => {
  for (const text of [
    '{a: 10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4}',
    '[10.0.0.1, 10.0.0.2, 10.0.0.3, , 10.0.0.4]',
    '[10.0.0.1, 10.0.0.2, 10.0.0.3\n',
    'a:\n  - 10.0.0.1\n  - 10.0.0.2\n  - 10.0.0.3\n - 10.0.0.4\n',
    'a:\n  - 10.0.0.1\n  - 10.0.0.2\n  - 10.0.0.3\n  10.0.0.4: x\n',
    '[10.0.0.1, 10.0.0.2, 10.0.0.3\n: x]',
  ]) {
    t.not(parseDocuments(text).errors.length, 0, JSON.stringify(text));
  }
});
