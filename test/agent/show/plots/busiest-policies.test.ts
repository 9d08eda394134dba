import t from 'tap';
import type { PolicyTraffic } from '../../../../agent/flows/traffic.ts';
import { BusiestPolicies, SLOTS } from '../../../../agent/show/plots/busiest-policies.ts';
import { GAP } from '../../../../agent/show/plots/series.ts';

/** A policy that has sent and received so many octets, in as many connections. */
const policy = (name: string, octets: number, open = 1): PolicyTraffic => ({
  ...{ policy: name, treatment: 'snat', connections: octets, open },
  ...{ packets: { out: octets, in: octets }, bytes: { out: octets, in: 2 * octets } },
});

/** `count` policies, those named first with this many octets. */
const many = (count: number, octets: Record<string, number> = {}): PolicyTraffic[] =>
  Array.from({ length: count }, (_, i) => policy(`p${i}`, octets[`p${i}`] ?? 0));

const namesOf = ({ slots }: BusiestPolicies) => slots.map((slot) => slot?.policy);

t.test('rates are what the counters grew by between two readings', async (t) => {
  const busiest = new BusiestPolicies();
  t.match(busiest.sample([policy('web', 1000)], 0), {
    slots: [{ out: Number.NaN, open: 1 }],
    since: undefined,
  });
  t.match(busiest.sample([policy('web', 1500)], 5000), {
    slots: [{ out: 100, in: 200, connections: 100, open: 1 }],
    others: undefined,
    since: 0,
  });
  t.match(busiest.sample([policy('web', 0)], 10_000).slots, [{ out: 0 }], 'counters that begin again');
});

t.test('the first traffic of a new policy counts', async (t) => {
  const busiest = new BusiestPolicies();
  busiest.sample([], 0);
  t.match(busiest.sample([policy('web', 500)], 5000).slots, [{ out: 100 }]);
});

t.test('nothing is known of a time that is too long', async (t) => {
  const busiest = new BusiestPolicies();
  busiest.sample([policy('web', 0)], 0);
  t.match(busiest.sample([policy('web', 500)], GAP + 1), { slots: [{ out: Number.NaN }], since: undefined });
});

t.test('the busiest policies have the slots, and the rest is summed', async (t) => {
  const busiest = new BusiestPolicies();
  const names = Array.from({ length: SLOTS }, (_, i) => `p${500 + 7 * i}`);
  const octets = Object.fromEntries(names.map((name, i) => [name, 100_000 * (i + 1)]));
  busiest.sample(many(1000), 0);
  const { slots, others, lost } = busiest.sample(many(1000, { ...octets, p3: 50 }), 5000);
  t.same(namesOf(busiest).sort(), names.toSorted());
  t.equal(lost.length, SLOTS, 'the first that came had them');
  t.match(others, { out: 10, in: 20, connections: 10, open: 1000 - SLOTS });
  t.equal(
    slots.reduce((sum, one) => sum + one!.out, 0),
    (100_000 * 36) / 5,
  );
  t.equal(busiest.others, 1000 - SLOTS);
});

t.test('a slot changes hands only for a policy that is clearly busier', async (t) => {
  const busiest = new BusiestPolicies();
  const all = (octets: number, last: number) =>
    many(
      SLOTS + 1,
      Object.fromEntries(Array.from({ length: SLOTS + 1 }, (_, i) => [`p${i}`, i < SLOTS ? octets : last])),
    );
  busiest.sample(all(0, 0), 0);
  t.same(busiest.sample(all(1000, 1400), 5000).lost, []);
  t.equal(busiest.sample(all(2000, 9000), 10_000).lost.length, 1);
  t.ok(namesOf(busiest).includes(`p${SLOTS}`));
});

t.test('a policy that is gone keeps its slot until another one is busier', async (t) => {
  const busiest = new BusiestPolicies();
  busiest.sample(many(SLOTS), 0);
  t.equal(busiest.sample([policy('new', 0)], 5000).slots.filter((one) => one !== undefined).length, 0);
  busiest.sample([policy('new', 5000)], 10_000);
  t.ok(namesOf(busiest).includes('new'));
});

t.test('more policies than are remembered are summed', async (t) => {
  const busiest = new BusiestPolicies();
  const traffic = (octets: number) => Array.from({ length: 5000 }, (_, i) => policy(`p${i}`, octets));
  busiest.sample(traffic(0), 0);
  const { slots, others } = busiest.sample(traffic(50), 5000);
  const shown = slots.reduce((sum, one) => sum + (one?.out ?? 0), 0);
  t.equal(shown + others!.out, 50_000);
  t.equal(others?.open, 5000 - SLOTS);
});

t.test('a policy with a name that is too long is summed', async (t) => {
  const busiest = new BusiestPolicies();
  busiest.sample([policy('x'.repeat(254), 0)], 0);
  const { slots, others } = busiest.sample([policy('x'.repeat(254), 500)], 5000);
  t.equal(slots.filter((one) => one !== undefined).length, 0);
  t.match(others, { out: 100, open: 1 });
});
