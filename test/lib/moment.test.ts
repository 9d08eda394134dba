import t from 'tap';
import { wallTime } from '../../lib/moment.ts';

const HOUR = 3_600_000;

t.test('a moment is as long ago as the monotonic clock says, however the wall clock was set', async (t) => {
  const since = { wall: 1_790_000_000_000, monotonic: 5000 };
  const later = (step: number) => ({ wall: since.wall + 6000 + step, monotonic: 11_000 });
  t.equal(wallTime(since, later(0)), since.wall);
  t.equal(wallTime(since, later(300)), since.wall, 'a clock that is steered tells the same time all along');
  for (const step of [-HOUR, HOUR, 8 * 24 * HOUR]) {
    const now = later(step);
    t.equal(now.wall - wallTime(since, now), 6000, `${step / HOUR} h`);
  }
});
