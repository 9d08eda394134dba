// Which classes limits come to: their rates, their numbers, and what they leave each other.
import t from 'tap';
import { CLASS_REST, CLASS_WHOLE, desiredShaping, RING } from '../../shaping/desired.ts';
import type { Limit } from '../../shaping/state.ts';

const limit = (name: string, egress: number, more: Partial<Limit> = {}): Limit => ({
  ...{ name, rate: { egress }, perSource: false, applies: { mark: 1 } },
  ...more,
});
const device = (limits: Limit[], mtu = 1500) =>
  desiredShaping({
    devices: [{ direction: 'egress', name: 'net1', from: 'eth0', mtu }],
    ...{ families: [4], markMask: 1, limits },
  }).devices[0]!;
const named = (limits: Limit[]) =>
  new Map(device(limits).shaped.map(({ limit: { name }, first }) => [name, first]));
const WHOLE = limit('(gateway)', 100e6, { applies: 'rest' });

t.test('the limit is that of IP packets of the size of the MTU', async (t) => {
  for (const mtu of [1400, 1500, 9000]) {
    const range = device([limit('web', 100e6)], mtu).ranges.at(-1)!;
    const packets = range.ceil / (mtu + 14);
    t.ok(Math.abs(packets * mtu * 8 - 100e6) < mtu * 8, `${mtu}`);
  }
});

t.test('without a limit of the whole gateway each has what it names', async (t) => {
  const { ranges } = device([limit('a', 10e6), limit('b', 20e6)]);
  t.same(
    ranges.map(({ first, parent, rate, ceil }) => [first === CLASS_WHOLE, parent, rate === ceil]),
    [
      [true, 0, true],
      [false, CLASS_WHOLE, true],
      [false, CLASS_WHOLE, true],
    ],
  );
});

t.test('together the parts of the whole gateway are guaranteed no more than it has', async (t) => {
  for (const limits of [
    [WHOLE],
    [WHOLE, limit('a', 10e6)],
    [WHOLE, limit('a', 90e6), limit('b', 90e6), limit('big', 1e9)],
    [WHOLE, limit('ring', 50e6, { perSource: true })],
  ]) {
    const { ranges } = device(limits);
    const [whole, ...parts] = ranges;
    const sum = parts.reduce((total, { rate, count }) => total + rate * count, 0);
    t.ok(sum <= whole!.rate, `${sum} of ${whole!.rate}`);
    t.ok(parts.every(({ ceil }) => ceil <= whole!.ceil));
    t.equal(parts[0]!.first, CLASS_REST, 'what has no limit of its own has a part too');
  }
});

t.test('a burst is the one of the policy, and holds two packets at the least', async (t) => {
  t.equal(device([limit('a', 10e6, { burst: 8e6 })]).ranges.at(-1)!.burst, 1e6);
  t.equal(device([limit('a', 10e6, { burst: 12_000 })]).ranges.at(-1)!.burst, 2 * 1514);
  t.ok(device([limit('a', 1e9)]).ranges.at(-1)!.burst > 1e6, 'at a gigabit more than a megabyte');
});

t.test('a limit keeps its number while others come and go', async (t) => {
  const names = Array.from({ length: 200 }, (_, i) => `policy-${i}`);
  const all = named(names.map((name) => limit(name, 1e6)));
  t.equal(new Set(all.values()).size, names.length, 'each has its own');
  const some = named(names.filter((_, i) => i % 3 === 0).map((name) => limit(name, 1e6)));
  const moved = [...some].filter(([name, number]) => all.get(name) !== number);
  t.ok(moved.length <= 2, `${moved.length} of ${some.size} moved`);
});

t.test('rings do not overlap, and each has a class for hundreds of sources', async (t) => {
  const rings = Array.from({ length: 8 }, (_, i) => limit(`ring-${i}`, 1e6, { perSource: true }));
  const numbers = [...named(rings).values()].sort((a, b) => a - b);
  t.equal(numbers.length, 8);
  for (const [i, number] of numbers.entries()) {
    t.equal(number % RING, 0);
    if (i > 0) t.ok(number - numbers[i - 1]! >= RING);
  }
  t.ok(numbers.at(-1)! + RING <= 0x1_0000);
});
