import t from 'tap';
import { withLines } from './document-table.ts';

const HEAD = ['name', 'result'];
const ORDER = ['a', 'a b', 'c'];
const EMPTY = 'Before.\n\n<!-- x -->\n<!-- /x -->\n\nAfter.\n';

t.test('lines stand in the order that is given, between the markers of that name', async (t) => {
  const other = '<!-- y -->\n| name | result |\n|---|---|\n| a | 9 |\n<!-- /y -->\n';
  const rows = [
    ['c', '3'],
    ['a b', '2'],
  ];
  t.equal(
    withLines(`${other}${EMPTY}`, 'x', HEAD, rows, ORDER),
    `${other}Before.\n\n<!-- x -->\n| name | result |\n|---|---|\n| a b | 2 |\n| c | 3 |\n<!-- /x -->\n\nAfter.\n`,
  );
});

t.test('a line replaces the one with the same first cell, blanks in it included', async (t) => {
  const first = withLines(
    EMPTY,
    'x',
    HEAD,
    [
      ['a', '1'],
      ['a b', '2'],
    ],
    ORDER,
  );
  const second = withLines(first, 'x', HEAD, [['a b', '3']], ORDER);
  t.match(second, '| a | 1 |\n| a b | 3 |\n<!--');
  t.match(withLines(second, 'x', HEAD, [], ['a b']), '|---|---|\n| a b | 3 |\n<!--');
});

t.test('a document without the markers is refused', async (t) => {
  t.throws(() => withLines(EMPTY, 'z', HEAD, [], ORDER), /needs the lines <!-- z --> and <!-- \/z -->/);
});
