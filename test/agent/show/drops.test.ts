// What our rules have dropped, over counters that begin anew.
import t from 'tap';
import { Drops } from '../../../agent/show/drops.ts';
import type { ChainCounts } from '../../../nat/kernel.ts';

const counts = (packets: number): ChainCounts => [
  { family: 4, table: 'mangle', chain: 'VEG-REFUSED', packets },
];

t.test('sums never go back, whatever becomes of the rule', async (t) => {
  let now = 0;
  let next: () => Promise<ChainCounts> = async () => counts(7);
  const drops = new Drops(
    () => next(),
    () => now,
  );
  const read = async (): Promise<number | undefined> => {
    now += 1000;
    await drops.refresh();
    return drops.of('VEG-REFUSED')[0]?.packets;
  };
  t.same(drops.of('VEG-REFUSED'), []);
  t.equal(await read(), 7, 'what was counted before this process is counted');
  next = async () => counts(9);
  t.equal(await read(), 9);
  next = async () => counts(2);
  t.equal(await read(), 11, 'the chain was emptied, and two came since');
  next = async () => counts(0);
  t.equal(await read(), 11);
  next = async () => [];
  t.equal(await read(), 11, 'it cannot be read');
  next = () => Promise.reject(new Error('no'));
  t.equal(await read(), 11);
  next = async () => counts(5);
  t.equal(await read(), 16);
  next = async () => [{ family: 4, table: 'gate', chain: 'VEG-REFUSED', packets: 6 }];
  t.equal(await read(), 22, 'another table counts');
  next = async () => counts(1);
  t.equal(await read(), 23, 'and mangle again');
});

t.test('many who ask at once take one reading, and so do those that ask soon after', async (t) => {
  let now = 0;
  let readings = 0;
  const read = async (): Promise<ChainCounts> => {
    readings++;
    return counts(1);
  };
  const drops = new Drops(read, () => now);
  await Promise.all([drops.refresh(), drops.refresh(), drops.refresh()]);
  now = 199;
  await drops.refresh();
  t.equal(readings, 1);
  now = 200;
  await drops.refresh();
  t.equal(readings, 2);
});
