import t from 'tap';
import {
  answered,
  conntrackHealth,
  createFamily,
  createPath,
  downReason,
  due,
  type FamilyHealth,
  familyDeadline,
  gather,
  notSent,
  type Path,
  type ProbeTiming,
  patience,
  RECOVERY,
  sent,
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
    due(path, timing);
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
  'silence is known within failures × interval of the last answer, and after so many probes',
  async (t) => {
    for (const timing of [TIMING, { interval: 200, failures: 2 }, { interval: 1000, failures: 10 }]) {
      const path = createPath(0);
      run(path, 0, 0, () => true, timing);
      let lost = 0;
      let now = path.nextAt;
      for (; path.state === 'answers'; now = path.nextAt) {
        due(path, timing);
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
    t.equal(patience({ interval: 200, failures: 1 }), 100, 'a single failure has half an interval more');
  },
);

t.test('one lost probe is not silence, and an answer starts the count anew', async (t) => {
  const path = createPath(0);
  run(path, 0, 5000, (now) => Math.floor(now / 200) % 3 === 0);
  t.equal(path.state, 'answers');
});

t.test('an answer that is late counts, as long as it comes before the verdict', async (t) => {
  const path = createPath(0);
  sent(path, TIMING, 0);
  due(path, TIMING);
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

t.test('a probe that this end cannot send says nothing, and takes no verdict back', async (t) => {
  const path = createPath(0);
  for (let i = 0; i < 10; i++) {
    due(path, TIMING);
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
  gather(family, NONE, HOLD, 0);
  return family;
}

t.test('the first verdict needs no hold, whichever it is', async (t) => {
  t.equal(up().state, 'up');
  const family = createFamily(0);
  gather(family, 'undecided', HOLD, 0);
  t.equal(family.state, 'undecided');
  gather(family, DEAD, HOLD, 1);
  t.match(family, { state: 'down', reason: 'dead', since: 1 });
});

t.test('an obstacle counts at once, its end only after the hold', async (t) => {
  const family = up();
  gather(family, DEAD, HOLD, 60_000);
  t.equal(family.state, 'down');
  t.equal(familyDeadline(family), undefined);
  gather(family, NONE, HOLD, 61_000);
  t.equal(familyDeadline(family), 62_000);
  t.equal(downReason(family, 61_400), 'dead; works again, held down for 0.6 s more');
  gather(family, NONE, HOLD, 61_999);
  t.equal(family.state, 'down');
  gather(family, NONE, HOLD, 62_000);
  t.match(family, { state: 'up', reason: undefined, since: 62_000 });
  t.equal(familyDeadline(family), undefined);
});

t.test('an obstacle during the hold starts it anew', async (t) => {
  const family = up();
  gather(family, DEAD, HOLD, 100);
  gather(family, NONE, HOLD, 200);
  gather(family, { obstacle: 'dead again' }, HOLD, 1100);
  t.equal(downReason(family, 1100), 'dead again');
  gather(family, NONE, HOLD, 1300);
  gather(family, NONE, HOLD, 2299);
  t.equal(family.state, 'down');
  gather(family, NONE, HOLD, 2300);
  t.equal(family.state, 'up');
});

t.test('the hold grows while it flaps, has an end, and is forgiven after a calm time', async (t) => {
  const family = up();
  const holds: number[] = [];
  let now = 0;
  const flap = (afterMs: number) => {
    now += afterMs;
    gather(family, DEAD, HOLD, now);
    gather(family, NONE, HOLD, now);
    holds.push(familyDeadline(family)! - now);
    now = familyDeadline(family)!;
    gather(family, NONE, HOLD, now);
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
  gather(family, 'undecided', HOLD, 10);
  t.equal(family.state, 'up');
  gather(family, DEAD, HOLD, 20);
  gather(family, 'undecided', HOLD, 5000);
  t.equal(family.state, 'down');
  t.equal(familyDeadline(family), undefined, 'and is not steady');
});

t.test('the conntrack table: told early, and full only while new connections fail', async (t) => {
  /** Looks at a table of 1000, each a second after the one before: entries, drops, evictions. */
  const levels = (...looks: [entries: number, refused: number, evicted: number][]): string[] => {
    let health: ReturnType<typeof conntrackHealth> | undefined;
    return looks.map(([entries, refused, evicted]) => {
      health = conntrackHealth(health, { entries, limit: 1000, pressure: { refused, evicted } });
      return health.level;
    });
  };
  t.same(
    levels([799, 0, 0], [800, 0, 0], [1000, 0, 0]),
    ['normal', 'warn', 'warn'],
    'a full table is no failure',
  );
  t.same(levels([1000, 5, 0], [1000, 5, 0]), ['warn', 'warn'], 'nor is what was dropped long ago');
  t.same(
    levels([1000, 0, 0], [1000, 0, 5000], [1000, 50, 9000]),
    ['warn', 'warn', 'warn'],
    'the kernel makes room for nearly all: unanswered flows have to go',
  );
  t.same(levels([1000, 0, 0], [1000, 1, 0]), ['warn', 'full'], 'what begins is dropped');
  t.same(levels([1000, 0, 0], [1000, 500, 4000]), ['warn', 'full'], 'or more than a tenth of it');
  t.same(levels([1000, 0, 0], [960, 9, 0]), ['warn', 'warn'], 'not for want of room');
  t.same(
    levels([1000, 0, 0], [1000, 1, 0], [1000, 1, 0], [900, 1, 0], [899, 1, 0], [960, 1, 0]),
    ['warn', 'full', 'full', 'full', 'warn', 'warn'],
    'nothing begins any more: it stays until there is room',
  );
  t.same(levels([1000, 0, 0], [1000, 1, 0], [1000, 1, 99]), ['warn', 'full', 'warn'], 'or room is made');
  t.same(levels([1000, 9, 9], [1000, 0, 0]), ['warn', 'warn'], 'counters that begin anew');
});

t.test('where the kernel does not tell what it drops, the share of the table stands for it', async (t) => {
  const at = (entries: number, before?: ReturnType<typeof conntrackHealth>) =>
    conntrackHealth(before, { entries, limit: 1000, pressure: undefined });
  t.match(at(799), { level: 'normal', percent: 79 });
  t.match(at(969), { level: 'warn' });
  const full = at(970);
  t.match(full, { level: 'full', percent: 97 });
  t.match(at(900, full), { level: 'full' });
  t.match(at(899, full), { level: 'warn' });
  const none = { entries: 5, limit: 0, pressure: undefined };
  t.match(conntrackHealth(undefined, none), { level: 'normal' }, 'no limit');
});
