// By what is kept grows old: a wall clock that is set expires nothing.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { RetentionClock } from '../../../agent/flows/retention-clock.ts';

const DAY = 24 * 3_600_000;

/** A machine whose clocks are set by hand. */
function machine() {
  const state = { wall: 1_790_000_000_000, monotonic: 1_000_000, boot: 'one' };
  const open = (dir: string) =>
    new RetentionClock(dir, {
      wall: () => state.wall,
      monotonic: () => state.monotonic,
      boot: state.boot,
    });
  const pass = (ms: number) => {
    state.wall += ms;
    state.monotonic += ms;
  };
  return { state, open, pass };
}

t.test('a step ahead, over a restart too, makes nothing older', async (t) => {
  const dir = t.testdir();
  const { state, open, pass } = machine();
  const first = open(dir);
  t.equal(first.now(), state.wall);
  pass(1000);
  const before = first.now();
  state.wall += 8 * DAY;
  t.equal(first.now(), before);
  t.equal(first.stepped(), (8 * DAY) / 1000, 'it is told');
  t.equal(first.stepped(), undefined, 'once');
  pass(5000);
  t.equal(open(dir).now(), before + 5000, 'the next process knows it');
  t.equal(open(dir).stepped(), undefined);
  state.wall -= 8 * DAY;
  t.equal(first.now(), state.wall, 'and the way back takes it away');
});

t.test('after a step back, times are those of the wall clock', async (t) => {
  const { state, open, pass } = machine();
  const clock = open(t.testdir());
  state.wall -= 3_600_000;
  pass(1000);
  t.equal(clock.now(), state.wall);
  t.equal(clock.stepped(), -3600);
});

t.test('another boot, or a file that says nothing, is a fresh start', async (t) => {
  const dir = t.testdir();
  const { state, open } = machine();
  open(dir);
  Object.assign(state, { boot: 'two', monotonic: 5, wall: state.wall + DAY });
  t.equal(open(dir).now(), state.wall);
  for (const text of ['', 'junk', '{"boot":"two","offset":"x"}', 'null']) {
    writeFileSync(join(dir, 'clock.json'), text, { mode: 0o600 });
    t.equal(open(dir).now(), state.wall, JSON.stringify(text));
    t.match(readFileSync(join(dir, 'clock.json'), 'utf8'), '"boot":"two"', 'and it is written anew');
  }
  t.equal(open('/nonexistent').now(), state.wall);
});
