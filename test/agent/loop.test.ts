/** The reconcile loop on a clock of its own: runs never overlap, and failures do not end it. */
import t, { type Test } from 'tap';
import { CADENCE, type Trigger } from '../../agent/cadence.ts';
import { Loop } from '../../agent/loop.ts';
import { ManualClock } from '../support/clock.ts';

/** A loop whose runs and other work are recorded, and end when `finish` is called. */
function recorded(t: Test, { automatic = false, fails = false } = {}) {
  const clock = new ManualClock();
  const story: string[] = [];
  const errors: string[] = [];
  const open: (() => void)[] = [];
  let contentions = 0;
  let result = { ok: true, repaired: false };
  const step = async (name: string) => {
    story.push(`${name} begins`);
    if (!automatic) await new Promise<void>((resolve) => open.push(resolve));
    story.push(`${name} ends`);
  };
  const loop = new Loop({
    resync: 30_000,
    async run(trigger: Trigger) {
      await step(trigger);
      if (fails) throw new Error('in the middle');
      return result;
    },
    onContention: () => void contentions++,
    onError: (error) => errors.push((error as Error).message),
    clock,
  });
  t.teardown(() => {
    for (const finish of open.splice(0)) finish();
    return loop.stop();
  });
  return {
    ...{ loop, clock, story, errors, step },
    contentions: () => contentions,
    answer: (next: typeof result) => {
      result = next;
    },
    /** Ends what is in flight. */
    async finish() {
      open.shift()?.();
      await clock.advance(0);
    },
  };
}

t.test('a run that rejects is reported, counts as failed, and is retried with a backoff', async (t) => {
  const { loop, clock, story, errors } = recorded(t, { automatic: true, fails: true });
  loop.request('start');
  await clock.advance(0);
  t.same([story.length, errors], [2, ['in the middle']]);
  await clock.advance(CADENCE.retryFirst - 1);
  t.equal(errors.length, 1);
  await clock.advance(1);
  t.same(story.slice(2), ['retry begins', 'retry ends']);
  await clock.advance(2 * CADENCE.retryFirst);
  t.equal(errors.length, 3, 'the second retry comes after twice the time');
});

t.test('requests during a run lead to one more run, and no two run at once', async (t) => {
  const { loop, clock, story, finish } = recorded(t);
  loop.request('start');
  await clock.advance(CADENCE.settle);
  for (const trigger of ['route', 'rule', 'netfilter'] as const) loop.request(trigger);
  await clock.advance(60_000);
  t.same(story, ['start begins'], 'the run in flight is not overtaken');
  await finish();
  await clock.advance(CADENCE.settle + CADENCE.pause);
  t.same(story, ['start begins', 'start ends', 'route begins']);
  await finish();
  await clock.advance(29_999);
  t.equal(story.length, 4, 'one run answers all three');
});

t.test('without a request the loop runs again after the resync time', async (t) => {
  const { loop, clock, story } = recorded(t, { automatic: true });
  await clock.advance(120_000);
  t.same(story, [], 'not before the first request');
  loop.request('start');
  await clock.advance(CADENCE.settle + 30_000);
  t.same(
    story.filter((line) => line.endsWith('begins')),
    ['start begins', 'timer begins'],
  );
});

t.test('a clock that jumps ahead makes a run due once, not once for each missed period', async (t) => {
  const { loop, clock, story } = recorded(t, { automatic: true });
  loop.request('start');
  await clock.advance(CADENCE.settle);
  clock.jump(3_600_000);
  await clock.advance(1000);
  t.same(
    story.filter((line) => line.endsWith('begins')),
    ['start begins', 'timer begins'],
  );
});

t.test('repairs that use up their allowance are reported as contention', async (t) => {
  const { loop, clock, contentions, answer } = recorded(t, { automatic: true });
  answer({ ok: true, repaired: true });
  for (let i = 0; i < 2 * CADENCE.repairBurst; i++) {
    loop.request('netfilter');
    await clock.advance(CADENCE.settle + CADENCE.pause);
  }
  t.ok(contentions() > 0);
});

t.test('complete waits for a run that started after the call', async (t) => {
  const { loop, clock, story, finish } = recorded(t);
  loop.request('start');
  await clock.advance(CADENCE.settle);
  let done = false;
  const completed = loop.complete('control').then(() => {
    done = true;
  });
  await finish();
  t.equal(done, false, 'the run in flight began before');
  await clock.advance(CADENCE.pause);
  t.same(story.at(-1), 'control begins');
  await finish();
  await completed;
});

t.test('work between runs is done alone, after the run in flight and one at a time', async (t) => {
  const { loop, clock, story, step, finish } = recorded(t);
  const run = loop.complete('control');
  await clock.advance(0);
  const work = Promise.all([loop.between(() => step('one')), loop.between(() => step('two')), run]);
  for (let i = 0; i < 3; i++) await finish();
  await work;
  t.same(
    story,
    ['control', 'one', 'two'].flatMap((name) => [`${name} begins`, `${name} ends`]),
  );
});

t.test('a hundred such works at once do not starve a run', async (t) => {
  const { loop, clock, story, step, finish } = recorded(t);
  const works = Array.from({ length: 100 }, () => loop.between(() => step('work')));
  await clock.advance(0);
  loop.request('policy');
  for (let i = 0; !story.includes('policy ends') && i < 200; i++) {
    await finish();
    await clock.advance(CADENCE.pause);
  }
  t.ok(story.filter((line) => line === 'work ends').length < 100, 'the run did not wait for all of them');
  while (story.filter((line) => line === 'work ends').length < 100) await finish();
  await Promise.all(works);
});

t.test('work that fails rejects for its caller, and the loop goes on', async (t) => {
  const { loop, clock, story } = recorded(t, { automatic: true });
  await t.rejects(
    loop.between(() => Promise.reject(new Error('no kernel'))),
    /no kernel/,
  );
  const run = loop.complete('control');
  await clock.advance(CADENCE.settle);
  await run;
  t.same(story, ['control begins', 'control ends']);
});

t.test('stop waits for the run in flight and starts no other', async (t) => {
  const { loop, clock, story, finish } = recorded(t);
  loop.request('start');
  await clock.advance(CADENCE.settle);
  loop.request('policy');
  let stopped = false;
  const stop = loop.stop().then(() => {
    stopped = true;
  });
  await clock.advance(1000);
  t.equal(stopped, false);
  await finish();
  await stop;
  await clock.advance(60_000);
  t.same(story, ['start begins', 'start ends']);
  t.equal(clock.armed, 0);
});
