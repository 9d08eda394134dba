import t from 'tap';
import {
  isDrained,
  quietTimes,
  type Rates,
  ratesBetween,
  type Sample,
} from '../../../agent/drain/drained.ts';

const BUSY: Rates = { packets: 1000, flows: 100 };

/** Samples every 100 ms for `ms`, counting by these rates; flows in every fifth. */
function samples(ms: number, rate: (at: number) => { packets: number; flows: number }): Sample[] {
  const list: Sample[] = [];
  let [packets, flows] = [5000, 700];
  for (let at = 0; at <= ms; at += 100) {
    list.push({ at, packets: Math.floor(packets), flows: at % 500 === 0 ? Math.floor(flows) : undefined });
    packets += rate(at).packets / 10;
    flows += rate(at).flows / 10;
  }
  return list;
}

/** The earliest time at which the samples show that traffic has moved. */
const drainedAt = (list: Sample[], usual: Rates): number | undefined =>
  list.find((_, i) => isDrained(list.slice(0, i + 1), usual))?.at;

t.equal(isDrained([], BUSY), false, 'without samples nothing is known');

t.test('a busy gateway whose packets stop is drained soon after', async (t) => {
  const list = samples(10_000, (at) =>
    at < 2000 ? { packets: 1000, flows: 100 } : { packets: 0, flows: 0 },
  );
  t.equal(drainedAt(list, BUSY), 2300);
});

t.test('stragglers do not hold it up, a tenth of the traffic does', async (t) => {
  const rest = (packets: number) => samples(5000, () => ({ packets, flows: 50 }));
  t.equal(drainedAt(rest(20), BUSY), 300);
  t.equal(drainedAt(rest(100), BUSY), undefined);
});

t.test('open connections that stay do not hold it up once new ones have gone', async (t) => {
  const list = samples(10_000, (at) => ({ packets: 1000, flows: at < 2000 ? 100 : 0 }));
  t.equal(drainedAt(list, BUSY), 3000);
});

t.test('a router that is slow to act is waited for, new flows or not', async (t) => {
  const slow = samples(10_000, (at) =>
    at < 5000 ? { packets: 1000, flows: 100 } : { packets: 0, flows: 0 },
  );
  t.equal(drainedAt(slow, BUSY), 5300);
  const without = samples(10_000, (at) =>
    at < 5000 ? { packets: 1000, flows: 0 } : { packets: 0, flows: 0 },
  );
  t.equal(
    drainedAt(without, { packets: 1000, flows: 0 }),
    5300,
    'no flow used to begin: that none does says nothing',
  );
  t.equal(drainedAt(without, { packets: 1000, flows: undefined }), 5300, 'or nobody could count them');
});

t.test('silence has to last as long as it takes to mean something', async (t) => {
  t.same(quietTimes({ packets: 1000, flows: 100 }), { packets: 300, flows: 1000 });
  t.same(quietTimes({ packets: 20, flows: 5 }), { packets: 1000, flows: 2000 });
  t.same(quietTimes({ packets: 2, flows: 0.9 }), { packets: 2000, flows: undefined });
  t.same(quietTimes({ packets: 0, flows: undefined }), { packets: 300, flows: undefined });
  const slow = samples(10_000, () => ({ packets: 5, flows: 0 }));
  t.equal(drainedAt(slow, { packets: 5, flows: 0 }), undefined, 'a slow stream that goes on is not silence');
});

t.test('an idle gateway has nothing to wait for', async (t) => {
  t.equal(
    drainedAt(
      samples(1000, () => ({ packets: 0, flows: 0 })),
      { packets: 0, flows: 0 },
    ),
    300,
  );
});

t.test('rates come from counters, which may be reset', async (t) => {
  const at = (ms: number, packets: number, flows?: number): Sample => ({ at: ms, packets, flows });
  t.same(ratesBetween(at(0, 10, 5), at(2000, 30, 9)), { packets: 10, flows: 2 });
  t.same(ratesBetween(at(0, 10, 5), at(2000, 30, 0)), { packets: 10, flows: 0 });
  t.same(ratesBetween(at(0, 10), at(2000, 30, 9)), { packets: 10, flows: undefined });
  t.same(ratesBetween(at(5, 10, 1), at(5, 10, 1)), { packets: 0, flows: 0 }, 'no time, no rate');
});
