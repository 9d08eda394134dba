import t from 'tap';
import { type Prefix, prefix } from '../../lib/prefix.ts';
import { setsInput } from '../../nat/render.ts';
import type { SetStep } from '../../nat/sets.ts';

const blocks = (count: number): Prefix[] =>
  Array.from({ length: count }, (_, i) => prefix(`10.${i >> 8}.${i & 255}.0/24`));
const steps = (elements: Prefix[]): SetStep[] => [
  { type: 'create-set', family: 4, set: 'VEG-A-4', hashsize: 64, maxelem: 4096, marked: false },
  { type: 'add-elements', family: 4, set: 'VEG-A-4', elements },
  { type: 'destroy-set', family: 4, set: 'VEG-B-4' },
];

t.test('of the lines for ipset none is lost or doubled, however many there are', (t) => {
  // With the first and the last: just below 512 lines, 512, and above; twice as many, and more.
  for (const count of [0, 509, 510, 511, 1022, 1023, 2000]) {
    const elements = blocks(count);
    const expected = [
      'create VEG-A-4 hash:net family inet hashsize 64 maxelem 4096\n',
      ...elements.map((element) => `add VEG-A-4 ${element}\n`),
      'destroy VEG-B-4\n',
    ];
    t.equal(setsInput(steps(elements)), expected.join(''), `${count} elements`);
  }
  t.equal(setsInput([]), '', 'no step is no line');
  t.end();
});
