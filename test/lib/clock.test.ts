import { mock } from 'node:test';
import t, { type Test } from 'tap';
import { Wakings } from '../../lib/clock.ts';

/** A clock over the timers of `node:test`. */
function setUp(t: Test, startsAt = 0) {
  mock.timers.enable({ apis: ['setTimeout', 'Date'], now: startsAt });
  t.teardown(() => mock.timers.reset());
  class Mocked extends Wakings {
    override now(): number {
      return Date.now();
    }
  }
  const tick = (ms: number) => {
    for (let i = 0; i < ms; i++) mock.timers.tick(1);
  };
  return { clock: new Mocked(), ran: [] as string[], tick };
}

t.test('periodic work runs at the multiples of its interval, that of one time in one waking', async (t) => {
  const { clock, ran, tick } = setUp(t, 130);
  clock.every(1000, () => ran.push(`second ${clock.now()}`));
  tick(45);
  clock.every(200, () => ran.push(`drift ${clock.now()}`));
  tick(1025);
  t.strictSame(ran, [
    'drift 200',
    'drift 400',
    'drift 600',
    'drift 800',
    'second 1000',
    'drift 1000',
    'drift 1200',
  ]);
});

t.test(
  'periodic work that is due within two milliseconds is done in the same waking, and once',
  async (t) => {
    const { clock, ran, tick } = setUp(t);
    clock.every(200, () => ran.push(`drift ${clock.now()}`));
    clock.after(198, () => ran.push(`probe ${clock.now()}`));
    tick(250);
    t.strictSame(ran, ['drift 198', 'probe 198']);
    tick(200);
    t.strictSame(ran.slice(2), ['drift 400']);
  },
);

t.test('what is to run once runs once, and not two milliseconds before its time', async (t) => {
  const { clock, ran, tick } = setUp(t);
  clock.every(200, () => {});
  clock.after(202, () => ran.push(`${clock.now()}`));
  tick(1000);
  t.strictSame(ran, ['202']);
});

t.test('what was cancelled does not run, be it by what runs in the same waking', async (t) => {
  const { clock, ran, tick } = setUp(t);
  const early = clock.after(50, () => ran.push('early'));
  clock.after(100, () => later.cancel());
  const later = clock.after(100, () => ran.push('later'));
  const periodic = clock.every(100, () => {
    ran.push('periodic');
    periodic.cancel();
  });
  early.cancel();
  tick(1000);
  t.strictSame(ran, ['periodic']);
});

t.test('a process lives as long as something that holds it is due', async (t) => {
  const { clock } = setUp(t);
  mock.timers.reset();
  const active = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
  const before = active();
  const loose = clock.every(1000, () => {});
  t.equal(active(), before + 1);
  loose.unref();
  t.equal(active(), before);
  const held = clock.after(5000, () => {});
  t.equal(active(), before + 1);
  held.cancel();
  t.equal(active(), before);
  loose.cancel();
});

t.test('what throws does not keep the rest from running', async (t) => {
  const { clock, ran, tick } = setUp(t);
  clock.after(10, () => {
    throw new Error('at 10');
  });
  clock.after(10, () => ran.push('beside it'));
  clock.every(100, () => ran.push(`periodic ${clock.now()}`));
  t.throws(() => tick(11), 'at 10');
  tick(200);
  t.strictSame(ran, ['beside it', 'periodic 100', 'periodic 200']);
});

t.test('what is added while others run is due in its time', async (t) => {
  const { clock, ran, tick } = setUp(t);
  const say = (what: string) => () => ran.push(`${what} ${clock.now()}`);
  clock.after(10, () => {
    clock.after(5, say('soon'));
    clock.after(500, say('late'));
  });
  clock.after(300, say('other'));
  tick(600);
  t.strictSame(ran, ['soon 15', 'other 300', 'late 510']);
});
