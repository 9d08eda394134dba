import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
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

/** A loop whose runs and looks are written down; a run takes `takes` ms. */
function written(t: Test, takes = 5) {
  const story: string[] = [];
  const step = async (name: string) => {
    story.push(`${name} begins`);
    await sleep(takes);
    story.push(`${name} ends`);
  };
  const loop = new Loop(
    30_000,
    async (trigger) => {
      await step(trigger);
      return { ok: true, repaired: false };
    },
    () => {},
    () => t.fail('a run failed'),
  );
  t.teardown(() => loop.stop());
  return { loop, story, step };
}

t.test('what is done between runs is done alone, after the run in flight and one at a time', async (t) => {
  const { loop, story, step } = written(t);
  const run = loop.complete('control');
  while (story.length === 0) await sleep(1);
  await Promise.all([loop.between(() => step('one')), loop.between(() => step('two')), run]);
  t.same(
    story,
    ['control', 'one', 'two'].flatMap((name) => [`${name} begins`, `${name} ends`]),
  );
});

t.test('whoever asks for a hundred such looks at once starves no run', async (t) => {
  const { loop, story, step } = written(t);
  await loop.complete('control');
  const looks = Array.from({ length: 100 }, () => loop.between(() => step('look')));
  await loop.complete('policy');
  t.ok(story.filter((line) => line === 'look ends').length < 100, 'the run did not wait for all of them');
  await Promise.all(looks);
});

t.test('a look that fails is told to whoever asked, and the loop goes on', async (t) => {
  const { loop, story } = written(t);
  await t.rejects(
    loop.between(() => Promise.reject(new Error('no kernel'))),
    /no kernel/,
  );
  await loop.complete('control');
  t.same(story, ['control begins', 'control ends']);
});
