import t from 'tap';
import { GAP, RANGES, type Range, SAMPLE_PERIOD, Series } from '../../../../agent/show/plots/series.ts';

const RANGE_NAMES = Object.keys(RANGES) as Range[];

/** A series of one channel with a sample at each of these times, of which the value is the number. */
function sampled(times: readonly number[], combine: 'mean' | 'worst' = 'mean'): Series {
  const series = new Series([combine]);
  for (const [i, at] of times.entries()) series.add(0, i + 1, times[i - 1], at);
  return series;
}

const tail = (series: Series, range: Range, now: number, count: number) =>
  series.rings[range].read(0, now).slice(-count);

t.test('a column has the mean of its samples, or the worst', async (t) => {
  const times = Array.from({ length: 8 }, (_, i) => i * SAMPLE_PERIOD);
  t.same(tail(sampled(times), '5m', times.at(-1)!, 3), [6, 7, 8]);
  t.same(tail(sampled(times), '1h', times.at(-1)!, 3), [null, 2.5, 6.5], 'four samples a column');
  t.same(tail(sampled(times, 'worst'), '1h', times.at(-1)!, 2), [4, 8]);
  t.same(tail(sampled(times), '1d', times.at(-1)!, 2), [null, 4.5]);
});

t.test('a timer that fires early or late leaves no gap', async (t) => {
  // Columns 0, 0, 2, 3: the third sample is valid for columns 1 and 2.
  const times = [10, 4990, 10_020, 15_010];
  t.same(tail(sampled(times), '5m', 15_010, 5), [null, 1.5, 3, 3, 4]);
});

t.test('a time without samples is a gap, and no zero', async (t) => {
  const series = sampled([0, 5000, 10_000, 10_000 + GAP + 5000, 35_000]);
  t.same(tail(series, '5m', 35_000, 8), [1, 2, 3, null, null, null, 4, 5]);
  t.same(tail(series, '5m', 45_000, 3), [5, null, null], 'nothing is known of the newest columns');
  t.same(
    series.rings['5m'].read(0, 35_000 + 300_000).filter((value) => value !== null),
    [],
    'what is older than the range is gone',
  );
});

t.test('a ring that has gone round has only the newest values', async (t) => {
  const times = Array.from({ length: 1000 }, (_, i) => i * SAMPLE_PERIOD);
  const values = sampled(times).rings['5m'].read(0, times.at(-1)!);
  t.same(
    values,
    Array.from({ length: RANGES['5m'].points }, (_, i) => 941 + i),
  );
  const day = sampled([0, 86_400_000 * 3]).rings['1d'].read(0, 86_400_000 * 3);
  t.same(
    day.filter((value) => value !== null),
    [2],
    'three days without a sample',
  );
});

t.test('NaN is no sample', async (t) => {
  const series = new Series(['mean']);
  series.add(0, Number.NaN, undefined, 0);
  series.add(0, 4, 0, 2000);
  series.add(0, Number.NaN, 2000, 4000);
  t.same(tail(series, '5m', 4000, 2), [null, 4]);
});

t.test('values are merged where they were measured', async (t) => {
  const series = new Series(['mean', 'mean']);
  series.add(0, 1, undefined, 0);
  series.add(0, 2, 0, 5000);
  series.add(1, 10, undefined, 5000);
  series.merge(0, 1);
  for (const range of RANGE_NAMES) {
    t.same(
      series.rings[range].read(0, 5000).filter((value) => value !== null),
      [],
    );
  }
  t.same(series.rings['5m'].read(1, 5000).slice(-2), [1, 12]);
});
