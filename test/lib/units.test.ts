import t from 'tap';
import { duration, endpoint, parseDuration, scaled } from '../../lib/units.ts';

t.test('numbers have three digits at most and a decimal prefix', async (t) => {
  for (const [value, plain, octets] of [
    [0, '0', '0 B'],
    [0.04, '0', '0 B'],
    [7.46, '7.5', '7.5 B'],
    [412.3, '412', '412 B'],
    [999.4, '999', '999 B'],
    [999.6, '1.00k', '1.00 kB'],
    [1240, '1.24k', '1.24 kB'],
    [12_400, '12.4k', '12.4 kB'],
    [999_499, '999k', '999 kB'],
    [999_500, '1.00M', '1.00 MB'],
    [88_120_000, '88.1M', '88.1 MB'],
    [9.99e17, '999P', '999 PB'],
  ] as const) {
    t.equal(scaled(value), plain);
    t.equal(scaled(value, 'B'), octets);
  }
});

t.test('a time has its two largest parts', async (t) => {
  t.same([-3, 0.9, 42, 190, 7500, 349_200].map(duration), ['0s', '0s', '42s', '3m10s', '2h5m', '4d1h']);
});

t.test('an IPv6 address with a port stands in brackets', async (t) => {
  t.equal(endpoint('10.0.0.1', 80), '10.0.0.1:80');
  t.equal(endpoint('fd00::1', 80), '[fd00::1]:80');
  t.equal(endpoint('fd00::1', undefined), 'fd00::1');
});

t.test('each function stands for itself: its text alone does the same', async (t) => {
  for (const [tool, ...args] of [
    [scaled, 1240, 'B'],
    [duration, 190],
    [endpoint, 'fd00::1', 80],
  ] as const) {
    const alone = new Function(`return (${tool})`)() as (...args: unknown[]) => string;
    t.equal(alone(...args), (tool as (...args: unknown[]) => string)(...args));
  }
});

t.test('a duration is a number with ms, s, m or h, in milliseconds', async (t) => {
  t.strictSame(['200ms', '1.5s', '30s', '1.5m', '1h', '30', 's', '-1s', '1 s', '1d'].map(parseDuration), [
    200,
    1500,
    30_000,
    90_000,
    3_600_000,
    undefined,
    undefined,
    undefined,
    undefined,
    undefined,
  ]);
});
