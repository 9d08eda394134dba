import t from 'tap';
import { Groups } from '../../../nat/conntrack/groups.ts';

t.test('equal octets have one number, others another, also when there are many', async (t) => {
  const groups = new Groups();
  const key = (i: number) => Uint8Array.of(10, 17, i >> 8, i & 255);
  const numbers = Array.from({ length: 65_536 }, (_, i) => groups.numberOf(key(i)));
  t.same(
    numbers,
    Array.from({ length: 65_536 }, (_, i) => i),
    'in the order in which they came',
  );
  t.ok(numbers.every((number, i) => groups.numberOf(key(i)) === number));
  t.equal(groups.size, 65_536);
  t.equal(groups.numberOf(Uint8Array.of()), 65_536);
  t.equal(groups.numberOf(Uint8Array.of(10, 17, 0)), 65_537);
  t.equal(groups.numberOf(Uint8Array.of()), 65_536);
});
