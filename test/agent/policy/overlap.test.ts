// Which blocks lie in which.
import t from 'tap';
import { PrefixIndex } from '../../../agent/policy/overlap.ts';
import { contains, type Prefix, prefix } from '../../../lib/prefix.ts';

t.test('the prefixes that hold another one are found, equal ones too, never across families', async (t) => {
  const index = new PrefixIndex<string>();
  for (const text of ['0.0.0.0/0', '10.0.0.0/8', '10.17.0.0/16', '10.17.3.4/32', '::/0', 'fd00::/8']) {
    index.add(prefix(text), text);
  }
  const holding = (text: string) => [...index.holding(prefix(text))].sort();
  t.same(holding('10.17.3.4'), ['0.0.0.0/0', '10.0.0.0/8', '10.17.0.0/16', '10.17.3.4/32']);
  t.same(holding('10.0.0.0/8'), ['0.0.0.0/0', '10.0.0.0/8']);
  t.same(holding('10.0.0.0/7'), ['0.0.0.0/0']);
  t.same(holding('fd00:10::/32'), ['::/0', 'fd00::/8']);
});

t.test('the first value of a prefix stays', async (t) => {
  const index = new PrefixIndex<number>();
  index.add(prefix('10.0.0.0/8'), 1);
  index.add(prefix('10.0.0.0/8'), 2);
  t.same([...index.holding(prefix('10.0.0.0/8'))], [1]);
});

t.test('it agrees with comparing every pair', async (t) => {
  let seed = 7;
  const next = (below: number) => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return seed % below;
  };
  const some = Array.from(
    { length: 60 },
    (): Prefix =>
      prefix(
        next(2) === 0
          ? `10.${next(4)}.${next(4)}.${next(4)}/${next(33)}`
          : `fd00:${next(4)}::${next(4)}/${next(129)}`,
      ),
  );
  const index = new PrefixIndex<Prefix>();
  for (const one of some) index.add(one, one);
  for (const inner of some) {
    t.same(
      [...index.holding(inner)].sort(),
      [...new Set(some.filter((outer) => contains(outer, inner)))].sort(),
      inner,
    );
  }
});
