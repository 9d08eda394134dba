import t from 'tap';
import { randomOctets, randomUint32 } from '../../lib/random.ts';

t.test('numbers are of 32 bits, and no two of a thousand are equal but by chance', (t) => {
  const numbers = Array.from({ length: 1000 }, randomUint32);
  t.ok(numbers.every((number) => Number.isInteger(number) && number >= 0 && number < 2 ** 32));
  t.ok(new Set(numbers).size > 990);
  for (const bit of Array(32).keys()) {
    const set = numbers.filter((number) => (number >>> bit) & 1).length;
    t.ok(set > 300 && set < 700, `bit ${bit} is set in about half of them`);
  }
  t.end();
});

t.test('as many octets as asked for, others each time', (t) => {
  t.equal(randomOctets(8).length, 8);
  t.notSame(randomOctets(8), randomOctets(8));
  t.end();
});
