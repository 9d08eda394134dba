// Counters of 32 bits: past their end they go on, made anew they begin anew.
import t from 'tap';
import { increase, unending } from '../../lib/counter.ts';

const END = 2 ** 32;

t.test('a counter grows, goes past its end, or begins anew', async (t) => {
  t.equal(increase(12, 5), 7);
  t.equal(increase(5, 5), 0);
  t.equal(increase(3, END - 4), 7, 'past the end');
  t.equal(increase(3 * END + 3, 4 * END - 4), 7, 'one of the counters of a sum');
  t.equal(increase(2, 9), 2, 'made anew');
  t.equal(increase(9e9, 2e9), 7e9, 'one of 64 bits');
});

t.test('a counter without an end is that of the kernel, and never goes back', async (t) => {
  const readings = [7, 9, undefined, END - 1, 4, 3, 5];
  const read = unending(() => readings.shift());
  t.same(Array.from({ length: 7 }, read), [7, 9, undefined, END - 1, END + 4, END + 7, END + 9]);
});
