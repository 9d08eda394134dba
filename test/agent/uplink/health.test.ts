import t from 'tap';
import {
  answered,
  applyVerdict,
  createFamily,
  createPath,
  downReason,
  expire,
  type FamilyHealth,
  familyDeadline,
  notSent,
  type Path,
  type ProbeTiming,
  probeTimeout,
  RECOVERY,
  sent,
  TOGETHER,
} from '../../../agent/uplink/health.ts';

const TIMING: ProbeTiming = { interval: 200, failures: 3 };

/** Runs a path until `end` against a peer that answers at once as long as `alive(now)`. Returns when it was probed. */
function run(
  path: Path,
  from: number,
  end: number,
  alive: (now: number) => boolean,
  timing = TIMING,
): number[] {
  const probed: number[] = [];
  for (let now = Math.max(from, path.nextAt); now <= end; now = path.nextAt) {
    expire(path, timing);
    sent(path, timing, now);
    probed.push(now);
    if (alive(now)) answered(path, timing, now);
  }
  return probed;
}

t.test('what answers is probed every interval', async (t) => {
  const path = createPath(0);
  t.equal(path.state, 'unknown');
  t.strictSame(
    run(path, 0, 1000, () => true),
    [0, 200, 400, 600, 800, 1000],
  );
  t.equal(path.state, 'answers');
  t.equal(path.lastAnswer, 1000);
});

t.test(
  'silence is detected within failures × interval of the last answer, after that number of probes',
  async (t) => {
    for (const timing of [TIMING, { interval: 200, failures: 2 }, { interval: 1000, failures: 10 }]) {
      const path = createPath(0);
      run(path, 0, 0, () => true, timing);
      let lost = 0;
      let now = path.nextAt;
      for (; path.state === 'answers'; now = path.nextAt) {
        expire(path, timing);
        if ((path.state as string) === 'silent') break;
        sent(path, timing, now);
        lost++;
      }
      t.equal(lost, timing.failures);
      t.ok(
        now <= timing.failures * timing.interval + 1e-6,
        `${timing.failures} × ${timing.interval}: at ${now}`,
      );
    }
    t.equal(
      probeTimeout({ interval: 200, failures: 1 }, true),
      100,
      'a single failure has half an interval more',
    );
  },
);

t.test(
  'an address that answers is probed at the multiples of the interval, and never later than after one',
  async (t) => {
    const path = createPath(130);
    const probed = run(path, 130, 3000, () => true);
    for (const [i, at] of probed.entries()) {
      const pause = at - (probed[i - 1] ?? at);
      t.ok(
        i === 0 || (pause >= TIMING.interval * (1 - TOGETHER) && pause <= TIMING.interval),
        `after ${pause}`,
      );
    }
    t.strictSame(probed.slice(-3), [2600, 2800, 3000]);
  },
);

t.test('one lost probe is not silence, and an answer resets the count', async (t) => {
  const path = createPath(0);
  run(path, 0, 5000, (now) => Math.floor(now / 200) % 3 === 0);
  t.equal(path.state, 'answers');
});

t.test('an answer that is late counts, as long as it comes before the verdict', async (t) => {
  const path = createPath(0);
  sent(path, TIMING, 0);
  expire(path, TIMING);
  sent(path, TIMING, path.nextAt);
  answered(path, TIMING, 150);
  t.equal(path.state, 'answers');
  t.equal(path.unanswered, 0);
});

t.test('what is silent is probed on, and one answer ends the silence', async (t) => {
  const path = createPath(0);
  const probed = run(path, 0, 3000, () => false);
  t.equal(path.state, 'silent');
  t.equal(probed.at(-1)! - probed.at(-2)!, TIMING.interval);
  run(path, path.nextAt, path.nextAt, () => true);
  t.equal(path.state, 'answers');
});

t.test('a probe that cannot be sent proves nothing, and reverts no verdict', async (t) => {
  const path = createPath(0);
  for (let i = 0; i < 10; i++) {
    expire(path, TIMING);
    notSent(path, TIMING, path.nextAt);
  }
  t.equal(path.state, 'blind');
  t.ok(path.nextAt >= 10_000, 'tried again once a second');
  sent(path, TIMING, path.nextAt);
  t.equal(path.state, 'unknown', 'sent again: not known until it answers');
  run(path, path.nextAt, path.nextAt + 1000, () => false);
  notSent(path, TIMING, path.nextAt);
  t.equal(path.state, 'silent');
});

const NONE = { obstacle: undefined };
const DEAD = { obstacle: 'dead' };
const HOLD = 1000;

/** A family that is up since 0. */
function up(): FamilyHealth {
  const family = createFamily(0);
  applyVerdict(family, NONE, HOLD, 0);
  return family;
}

t.test('the first verdict needs no hold, whichever it is', async (t) => {
  t.equal(up().state, 'up');
  const family = createFamily(0);
  applyVerdict(family, 'undecided', HOLD, 0);
  t.equal(family.state, 'undecided');
  applyVerdict(family, DEAD, HOLD, 1);
  t.match(family, { state: 'down', reason: 'dead', since: 1 });
});

t.test('an obstacle counts at once, its end only after the hold', async (t) => {
  const family = up();
  applyVerdict(family, DEAD, HOLD, 60_000);
  t.equal(family.state, 'down');
  t.equal(familyDeadline(family), undefined);
  applyVerdict(family, NONE, HOLD, 61_000);
  t.equal(familyDeadline(family), 62_000);
  t.equal(downReason(family, 61_400), 'dead; works again, held down for 0.6 s more');
  applyVerdict(family, NONE, HOLD, 61_999);
  t.equal(family.state, 'down');
  applyVerdict(family, NONE, HOLD, 62_000);
  t.match(family, { state: 'up', reason: undefined, since: 62_000 });
  t.equal(familyDeadline(family), undefined);
});

t.test('an obstacle during the hold restarts it', async (t) => {
  const family = up();
  applyVerdict(family, DEAD, HOLD, 100);
  applyVerdict(family, NONE, HOLD, 200);
  applyVerdict(family, { obstacle: 'dead again' }, HOLD, 1100);
  t.equal(downReason(family, 1100), 'dead again');
  applyVerdict(family, NONE, HOLD, 1300);
  applyVerdict(family, NONE, HOLD, 2299);
  t.equal(family.state, 'down');
  applyVerdict(family, NONE, HOLD, 2300);
  t.equal(family.state, 'up');
});

t.test('the hold grows while it flaps, has an end, and is forgiven after a calm time', async (t) => {
  const family = up();
  const holds: number[] = [];
  let now = 0;
  const flap = (afterMs: number) => {
    now += afterMs;
    applyVerdict(family, DEAD, HOLD, now);
    applyVerdict(family, NONE, HOLD, now);
    holds.push(familyDeadline(family)! - now);
    now = familyDeadline(family)!;
    applyVerdict(family, NONE, HOLD, now);
  };
  for (let i = 0; i < 9; i++) flap(100);
  t.strictSame(
    holds,
    [1, 2, 4, 8, 16, 32, 64, 64, 64].map((times) => times * HOLD),
  );
  flap(RECOVERY.calm * 64 * HOLD);
  t.equal(holds.at(-1), HOLD);
});

t.test('not knowing changes nothing', async (t) => {
  const family = up();
  applyVerdict(family, 'undecided', HOLD, 10);
  t.equal(family.state, 'up');
  applyVerdict(family, DEAD, HOLD, 20);
  applyVerdict(family, 'undecided', HOLD, 5000);
  t.equal(family.state, 'down');
  t.equal(familyDeadline(family), undefined, 'and is not steady');
});
