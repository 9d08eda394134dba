// An address on a link: who gets it, when it is told, and what happens to one that is held.
import t from 'tap';
import {
  announced,
  assign,
  CLAIM,
  type Claim,
  createClaim,
  deadline,
  nextAction,
  probed,
  receive,
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
    const todo = nextAction(claim, now);
    if (todo === undefined) continue;
    done.push(`${todo} ${now}`);
    if (todo === 'probe') probed(claim, now);
    else if (todo === 'free') setFree(claim, now);
    else announced(claim, now);
  }
  return done;
}

t.test('three questions without an answer, and it is free; then it is announced three times', async (t) => {
  const claim = createClaim(0);
  t.strictSame(run(claim, 0, 400), ['probe 0', 'probe 100', 'probe 200', 'free 300']);
  t.equal(claim.state, 'free');
  t.equal(deadline(claim), Number.POSITIVE_INFINITY, 'the kernel is told next');
  assign(claim, 400);
  t.equal(deadline(claim), 400);
  t.strictSame(run(claim, 400, 9000), ['announce 400', 'announce 1400', 'announce 3400']);
});

t.test('an address in use is probed for until it is free', async (t) => {
  const claim = createClaim(0);
  run(claim, 0, 50);
  t.ok(receive(claim, { kind: 'claim', mac: HIGHER }, OWN, 50, 0), 'news');
  t.notOk(receive(claim, { kind: 'claim', mac: HIGHER }, OWN, 60, 0), 'no news');
  t.match(claim, { state: 'conflict', holder: HIGHER });
  t.strictSame(run(claim, 60, 700), ['probe 310', 'probe 410', 'probe 510', 'free 610']);
  t.equal(claim.holder, undefined);
});

t.test('of two that ask at the same time the lower Ethernet address goes first', async (t) => {
  for (const state of ['probing', 'free'] as const) {
    const claim = createClaim(0);
    run(claim, 0, state === 'probing' ? 150 : 300);
    t.equal(claim.state, state);
    t.notOk(receive(claim, { kind: 'probe', mac: HIGHER }, OWN, 305, 0));
    t.equal(claim.state, state, 'the higher one waits');
    t.equal(
      nextAction(claim, 310),
      state === 'free' ? 'announce' : 'probe',
      'and is told, when it is decided',
    );
    t.ok(receive(claim, { kind: 'probe', mac: LOWER }, OWN, 310, 1));
    t.match(claim, { state: 'conflict', holder: LOWER, announceAt: [] });
    t.equal(
      deadline(claim),
      310 + CLAIM.conflictInterval + CLAIM.conflictJitter,
      'and waits a time of its own',
    );
  }
});

t.test(
  'a free address is lost to a host that claims it, at any moment before the kernel gets it',
  async (t) => {
    const claim = createClaim(0);
    run(claim, 0, 300);
    t.ok(receive(claim, { kind: 'claim', mac: HIGHER }, OWN, 301, 0));
    t.equal(claim.state, 'conflict');
  },
);

t.test('an address that the kernel refused, or does not get, is free for others', async (t) => {
  for (const spoil of [(claim: Claim) => refuse(claim), () => {}]) {
    const claim = createClaim(0);
    run(claim, 0, 300);
    spoil(claim);
    receive(claim, { kind: 'probe', mac: HIGHER }, OWN, 300 + CLAIM.freeFor, 0);
    t.equal(nextAction(claim, 400 + CLAIM.freeFor), undefined);
    t.equal(claim.state, 'free', 'it is tried again');
  }
});

t.test('one that is held is defended at once, then ever more slowly, and never given up', async (t) => {
  const claim = createClaim(0);
  assign(claim, 0);
  run(claim, 0, 5000);
  const done: string[] = [];
  for (let now = 6000; now < 8500; now += 20) {
    t.notOk(receive(claim, { kind: 'claim', mac: LOWER }, OWN, now, 0));
    done.push(...run(claim, now, now));
  }
  t.strictSame(
    done,
    [6000, 6100, 6300, 6700, 7500, 8500].slice(0, 5).map((at) => `announce ${at}`),
    'the pause doubles',
  );
  t.strictSame(run(claim, 8500, 9000), ['announce 8500'], 'the last word is ours');
  t.equal(claim.state, 'assigned');
  t.strictSame([...claim.conflicts.byMac.keys()], [LOWER]);
  t.notOk(receive(claim, { kind: 'probe', mac: LOWER }, OWN, 9000, 0), 'the kernel answers questions');
  t.equal(nextAction(claim, 9000), undefined);
  receive(claim, { kind: 'claim', mac: LOWER }, OWN, 30_000, 0);
  receive(claim, { kind: 'claim', mac: LOWER }, OWN, 30_000, 0);
  t.strictSame(run(claim, 30_000, 40_000), ['announce 30000'], 'peace makes it quick again');
});
