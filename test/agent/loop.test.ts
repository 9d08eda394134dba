import t from 'tap';
import { Loop } from '../../agent/loop.ts';

t.test('a run that rejects is told and counts as failed, and the loop goes on', async (t) => {
  const told: string[] = [];
  let runs = 0;
  const loop = new Loop(
    30_000,
    async () => {
      if (runs++ === 0) throw new Error('in the middle');
      return { ok: true, repaired: false };
    },
    () => t.fail('contended'),
    (error) => told.push((error as Error).message),
  );
  t.teardown(() => loop.stop());
  await loop.complete('control');
  t.same(told, ['in the middle']);
  await loop.complete('control');
  t.equal(runs, 2);
  t.equal(told.length, 1);
});
