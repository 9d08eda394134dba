import t from 'tap';
import { editChain } from '../../nat/chains.ts';
import type { Rule } from '../../nat/state.ts';

const rules = (...texts: string[]): Rule[] =>
  texts.map((text, i) => ({ text, packets: i + 1, bytes: 10 * (i + 1) }));

/** The edits in one line: `-x` deletes x, `+x` appends, `+x@2` inserts at 2. */
const edit = (observed: Rule[], desired: string[], owned: string[] = []): string =>
  editChain(observed, desired, new Set(owned))
    .edits.map((e) =>
      e.type === 'delete'
        ? `-${e.text}`
        : `+${e.rule.text}${e.position === undefined ? '' : `@${e.position}`}`,
    )
    .join(' ');

t.test('what is in place needs no edit', (t) => {
  t.equal(edit(rules('a', 'F', 'b', 'G', 'c'), ['a', 'b', 'c']), '');
  t.equal(edit([], []), '');
  t.end();
});

t.test('the first rules of all go to the end, behind what is foreign', (t) => {
  t.equal(edit(rules('F', 'G'), ['a', 'b']), '+a +b');
  t.end();
});

t.test('a missing rule goes right behind its predecessor', (t) => {
  t.equal(edit(rules('a', 'F', 'c'), ['a', 'b', 'c']), '+b@2');
  t.equal(edit(rules('a', 'F'), ['a', 'b']), '+b@2');
  t.equal(edit(rules('F', 'a'), ['a', 'b']), '+b');
  t.end();
});

t.test('a missing first rule goes right before the next of ours', (t) => {
  t.equal(edit(rules('F', 'c', 'G'), ['a', 'b', 'c']), '+a@2 +b@3');
  t.end();
});

t.test('what is ours and not wanted is deleted, what is foreign is not', (t) => {
  t.equal(edit(rules('F', 'x', 'a', 'F', 'x'), ['a'], ['x']), '-x -x');
  t.end();
});

t.test('of a doubled rule one stays', (t) => {
  t.equal(edit(rules('a', 'a', 'b'), ['a', 'b']), '-a');
  t.equal(edit(rules('a', 'b', 'F', 'a', 'b'), ['a', 'b']), '-a -b');
  t.end();
});

t.test('a wrong order is mended by moving the fewest rules, which take their counters along', (t) => {
  const { edits } = editChain(rules('b', 'c', 'd', 'a'), ['a', 'b', 'c', 'd'], new Set());
  t.same(edits, [
    { type: 'delete', text: 'a' },
    { type: 'insert', position: 1, rule: { text: 'a', packets: 4, bytes: 40 } },
  ]);
  // Doubled at the wrong end: deleting by text takes the good one first, so both go and it comes back counted.
  const doubled = editChain(
    [
      { text: 'a', packets: 90, bytes: 900 },
      { text: 'b', packets: 1, bytes: 1 },
      { text: 'a', packets: 2, bytes: 20 },
    ],
    ['a', 'b'],
    new Set(),
  );
  t.same(doubled.edits, [
    { type: 'delete', text: 'a' },
    { type: 'delete', text: 'a' },
    { type: 'insert', position: 1, rule: { text: 'a', packets: 90, bytes: 900 } },
  ]);
  t.end();
});

t.test('a chain of 20 000 foreign and 20 000 doubled rules is no hurdle', { timeout: 20_000 }, (t) => {
  const foreign = Array.from({ length: 20_000 }, (_, i) => `F${i}`);
  const wanted = Array.from({ length: 10_000 }, (_, i) => `a${i}`);
  const observed = rules(
    ...foreign.slice(0, 10_000),
    ...wanted,
    ...wanted.toReversed(),
    ...foreign.slice(10_000),
  );
  const { rules: result } = editChain(observed, wanted, new Set());
  t.equal(result.length, 30_000);
  t.same(
    result.filter((rule) => rule.text.startsWith('F')).map((rule) => rule.text),
    foreign,
  );
  t.end();
});
