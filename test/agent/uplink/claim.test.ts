// An address on a link: who gets it, when it is told, and what happens to one that is held.
import t from 'tap';
import {
  announced,
  asked,
  CLAIM,
  type Claim,
  createClaim,
  deadline,
  hear,
  hold,
  next,
  refuse,
  setFree,
} from '../../../agent/uplink/claim.ts';

const OWN = '02:00:00:00:00:05';
const LOWER = '02:00:00:00:00:01';
const HIGHER = '02:00:00:00:00:09';

/** Lets time go by in steps of 10 ms, doing what is due, and returns what that was and when. */
function run(claim: Claim, from: number, to: number): string[] {
  const done: string[] = [];
  for (let now = from; now <= to; now += 10) {
    const todo = next(claim, now);
    if (todo === undefined) continue;
    done.push(`${todo} ${now}`);
    if (todo === 'ask') asked(claim, now);
    else if (todo === 'free') setFree(claim, now);
    else announced(claim, now);
  }
  return done;
}

t.test('three questions without an answer, and it is free; then it is announced three times', async (t) => {
  const claim = createClaim(0);
  t.strictSame(run(claim, 0, 400), ['ask 0', 'ask 100', 'ask 200', 'free 300']);
  t.equal(claim.state, 'free');
  t.equal(deadline(claim), Number.POSITIVE_INFINITY, 'the kernel is told next');
  hold(claim, 400);
  t.equal(deadline(claim), 400);
  t.strictSame(run(claim, 400, 9000), ['announce 400', 'announce 1400', 'announce 3400']);
});

t.test('one that somebody has is asked for until it is free', async (t) => {
  const claim = createClaim(0);
  run(claim, 0, 50);
  t.ok(hear(claim, { kind: 'claim', mac: HIGHER }, OWN, 50, 0), 'news');
  t.notOk(hear(claim, { kind: 'claim', mac: HIGHER }, OWN, 60, 0), 'no news');
  t.match(claim, { state: 'taken', holder: HIGHER });
  t.strictSame(run(claim, 60, 700), ['ask 310', 'ask 410', 'ask 510', 'free 610']);
  t.equal(claim.holder, undefined);
});

t.test('of two that ask at the same time the lower Ethernet address goes first', async (t) => {
  for (const state of ['asking', 'free'] as const) {
    const claim = createClaim(0);
    run(claim, 0, state === 'asking' ? 150 : 300);
    t.equal(claim.state, state);
    t.notOk(hear(claim, { kind: 'question', mac: HIGHER }, OWN, 305, 0));
    t.equal(claim.state, state, 'the higher one waits');
    t.equal(next(claim, 310), state === 'free' ? 'announce' : 'ask', 'and is told, when it is decided');
    t.ok(hear(claim, { kind: 'question', mac: LOWER }, OWN, 310, 1));
    t.match(claim, { state: 'taken', holder: LOWER, announceAt: [] });
    t.equal(deadline(claim), 310 + CLAIM.takenInterval + CLAIM.takenJitter, 'and waits a time of its own');
  }
});

t.test(
  'one that is free is lost to whoever says that it has it, at any moment before the kernel is told',
  async (t) => {
    const claim = createClaim(0);
    run(claim, 0, 300);
    t.ok(hear(claim, { kind: 'claim', mac: HIGHER }, OWN, 301, 0));
    t.equal(claim.state, 'taken');
  },
);

t.test('one that the kernel refused, or does not get, is kept from nobody', async (t) => {
  for (const spoil of [(claim: Claim) => refuse(claim), () => {}]) {
    const claim = createClaim(0);
    run(claim, 0, 300);
    spoil(claim);
    hear(claim, { kind: 'question', mac: HIGHER }, OWN, 300 + CLAIM.freeFor, 0);
    t.equal(next(claim, 400 + CLAIM.freeFor), undefined);
    t.equal(claim.state, 'free', 'it is tried again');
  }
});

t.test('one that is held is defended at once, then ever more slowly, and never given up', async (t) => {
  const claim = createClaim(0);
  hold(claim, 0);
  run(claim, 0, 5000);
  const done: string[] = [];
  for (let now = 6000; now < 8500; now += 20) {
    t.notOk(hear(claim, { kind: 'claim', mac: LOWER }, OWN, now, 0));
    done.push(...run(claim, now, now));
  }
  t.strictSame(
    done,
    [6000, 6100, 6300, 6700, 7500, 8500].slice(0, 5).map((at) => `announce ${at}`),
    'the pause doubles',
  );
  t.strictSame(run(claim, 8500, 9000), ['announce 8500'], 'the last word is ours');
  t.equal(claim.state, 'held');
  t.strictSame([...claim.rivals.heard.keys()], [LOWER]);
  t.notOk(hear(claim, { kind: 'question', mac: LOWER }, OWN, 9000, 0), 'the kernel answers questions');
  t.equal(next(claim, 9000), undefined);
  hear(claim, { kind: 'claim', mac: LOWER }, OWN, 30_000, 0);
  hear(claim, { kind: 'claim', mac: LOWER }, OWN, 30_000, 0);
  t.strictSame(run(claim, 30_000, 40_000), ['announce 30000'], 'peace makes it quick again');
});
