import { test } from 'tap';
import type { MarkCounts } from '../../../nat/counters/kernel.ts';
import { type CounterIntent, marksOf, UNCOUNTED_MARK } from '../../../nat/counters/table.ts';
import { CounterTotals } from '../../../nat/counters/totals.ts';
import { POLICY_NUMBER_MASK } from '../../../nat/policy-marks.ts';

const intentOf = (...names: string[]): CounterIntent => ({
  ...{ family: 4, internalInterface: 'eth0', fromOutside: true, forwardsRest: false },
  all: names.map((name) => ({ name, snat: name !== 'direct' })),
  policies: names.map((name) => ({
    ...{ name, snat: name !== 'direct', sources: [], destinations: [], excluded: [] },
  })),
});
const intent = intentOf('web', 'direct');
const markOf = (policy: string, inbound = false, forwarded = false): number =>
  [...marksOf(intent)].find(
    ([, label]) => label.policy === policy && label.inbound === inbound && label.forwarded === forwarded,
  )![0];
const counts = (
  mark: number,
  begins: number,
  original: number,
  reply: number,
  inBase = false,
): MarkCounts => ({
  ...{ mark, inBase, begins: [begins, 100 * begins], original: [original, 100 * original] },
  reply: [reply, 1000 * reply],
});
const reading = (handle: number, ...list: MarkCounts[]) => [{ family: 4 as const, handle, counts: list }];
const volume = (connections: number, out: number, outBytes: number, inward: number, inBytes: number) => ({
  ...{ connections, packets: { out, in: inward }, bytes: { out: outBytes, in: inBytes } },
});

const made = () => {
  const totals = new CounterTotals();
  totals.configure([intent]);
  return totals;
};
const of = (totals: CounterTotals, treatment: 'snat' | 'forward', name: string) => {
  const found = totals.volumes(treatment).find(({ policy }) => policy === name);
  if (found === undefined) return undefined;
  const { policy: _, family: __, ...rest } = found;
  return rest;
};

test('every policy and the default have totals of 0 before any traffic, the gateway itself none', async (t) => {
  const names = (treatment: 'snat' | 'forward') =>
    made()
      .volumes(treatment)
      .map(({ policy }) => policy)
      .sort();
  t.same(names('snat'), ['default', 'web']);
  t.same(names('forward'), ['default', 'direct']);
  t.same(of(made(), 'snat', 'web'), volume(0, 0, 0, 0, 0));
});

test('a policy has totals in each family that is served, also where it has no block of it', async (t) => {
  const totals = new CounterTotals();
  const six = { ...intentOf(), family: 6 as const, all: intent.all };
  totals.configure([intent, six]);
  const found = (treatment: 'snat' | 'forward', name: string) =>
    totals.volumes(treatment).flatMap(({ policy, family }) => (policy === name ? [family] : []));
  t.same(
    [found('snat', 'web'), found('forward', 'direct')],
    [
      [4, 6],
      [4, 6],
    ],
  );
  t.same([found('forward', 'web'), found('snat', 'direct')], [[], []]);
  totals.configure([intent]);
  t.same(found('snat', 'web'), [4, 6], 'it keeps them');
});

test('the first packet is counted as a connection and as a packet, answers by the other direction', async (t) => {
  const totals = made();
  t.equal(totals.add(reading(1, counts(markOf('web'), 2, 5, 6))), true);
  t.same(of(totals, 'snat', 'web'), volume(2, 7, 700, 6, 6000));
  t.equal(totals.add(reading(1, counts(markOf('web'), 2, 5, 6))), false, 'nothing is counted twice');
  t.same(of(totals, 'snat', 'web'), volume(2, 7, 700, 6, 6000));
  totals.add(reading(1, counts(markOf('web', true), 1, 1, 4)));
  t.same(of(totals, 'snat', 'web'), volume(3, 11, 4700, 8, 6200), 'opened from outside: out is what answers');
});

test('a new table, and a counter that went back, begin at 0, and totals do not go back', async (t) => {
  const totals = made();
  totals.add(reading(1, counts(markOf('web'), 2, 5, 6)));
  totals.add(reading(2, counts(markOf('web'), 3, 6, 7)));
  t.same(of(totals, 'snat', 'web'), volume(5, 16, 1600, 13, 13_000), 'another table');
  totals.add(reading(2, counts(markOf('web'), 1, 0, 0)));
  t.same(of(totals, 'snat', 'web'), volume(6, 17, 1700, 13, 13_000), 'the same table, reset');
  totals.add(reading(2));
  totals.add(reading(2, counts(markOf('web'), 1, 0, 0)));
  t.same(of(totals, 'snat', 'web'), volume(7, 18, 1800, 13, 13_000), 'counters that were made again');
});

test('the base chain of a mark adds to its own chain, and begins again by itself', async (t) => {
  const totals = made();
  const web = markOf('web');
  totals.add(reading(1, counts(web, 2, 5, 6), counts(web, 0, 40, 60, true)));
  t.same(of(totals, 'snat', 'web'), volume(2, 47, 4700, 66, 66_000));
  const next = new CounterTotals();
  next.load(JSON.parse(JSON.stringify(totals.save())));
  next.add(reading(1, counts(web, 2, 6, 6), counts(web, 0, 3, 0, true)));
  t.same(of(next, 'snat', 'web'), volume(2, 51, 5100, 66, 66_000));
});

test('what is saved is gone on from; what a mark means is remembered after its policy', async (t) => {
  const totals = made();
  totals.add(reading(1, counts(markOf('web'), 2, 5, 6)));
  const next = new CounterTotals();
  next.load(JSON.parse(JSON.stringify(totals.save())));
  next.configure([intentOf('other')]);
  next.add(reading(1, counts(markOf('web'), 2, 8, 6)));
  t.same(of(next, 'snat', 'web'), volume(2, 10, 1000, 6, 6000));
  t.same(next.save().sums.length, totals.save().sums.length + 1, 'and one for the other');
});

test('what nobody knows is counted for others, what is not to be counted for nobody', async (t) => {
  const totals = made();
  totals.add(reading(1, counts(0x12345, 1, 0, 0), counts(UNCOUNTED_MARK, 9, 9, 9)));
  t.same(of(totals, 'snat', '(others)'), volume(1, 1, 100, 0, 0));
  t.equal(
    totals.volumes('snat').reduce((sum, { connections }) => sum + connections, 0),
    1,
  );
});

test('the totals of all but the last thousand policies of the past are those of others', async (t) => {
  const totals = made();
  totals.add(reading(1, counts(markOf('web'), 2, 5, 6)));
  const many = Array.from({ length: 1500 }, (_, i) => `p${i}`);
  totals.configure([intentOf(...many)]);
  totals.configure([intentOf('last')]);
  t.ok(totals.volumes('snat').length <= 1004, `${totals.volumes('snat').length}`);
  t.equal(of(totals, 'snat', 'web'), undefined);
  t.same(of(totals, 'snat', '(others)'), volume(2, 7, 700, 6, 6000), 'sums stay the same');
  t.ok(totals.save().labels.length < 2 * 2 * 1100, 'labels of the forgotten are forgotten too');
});

test('a family that lacks a link keeps the totals of all its policies', async (t) => {
  const many = Array.from({ length: 1500 }, (_, i) => `p${i}`);
  const all = intentOf('web', ...many);
  const totals = new CounterTotals();
  totals.configure([all]);
  totals.add(reading(1, counts(markOf('web'), 2, 5, 6)));
  const next = new CounterTotals();
  next.load(JSON.parse(JSON.stringify(totals.save())));
  for (const [what, one] of Object.entries({ 'it goes': totals, 'a process starts without it': next })) {
    one.configure([], [4]);
    t.same(of(one, 'snat', 'web'), volume(2, 7, 700, 6, 6000), what);
    one.add(reading(1, counts(markOf('web'), 2, 8, 6)));
    one.configure([all]);
    t.same(of(one, 'snat', 'web'), volume(2, 10, 1000, 6, 6000), 'and it comes back');
  }
});

test('what numbers stand for is known of policies in force and of removed ones, by whichever mark', async (t) => {
  const totals = made();
  totals.configure([intentOf('other')]);
  const number = (policy: string) => markOf(policy, false, policy === 'direct') & POLICY_NUMBER_MASK;
  t.same([totals.marked.get(number('direct')), totals.marked.get(number('web'))], ['direct', 'web']);
  t.same([...totals.marked.values()].sort(), ['default', 'direct', 'other', 'web']);
});

/** The log's totals of `web` as of a reading of the table that began then. */
const logged = (began: number, ...of: Parameters<typeof volume>) => ({
  began,
  volumes: { snat: [{ policy: 'web', family: 4 as const, ...volume(...of) }], forward: [] },
});

test('what the fast path carries is added from the log, and nothing twice', async (t) => {
  const totals = made();
  const web = markOf('web');
  const step = (at: number, packets: number, log?: ReturnType<typeof logged>) =>
    totals.add(reading(1, counts(web, 1, packets, 0)), at, true, log);
  t.equal(totals.followsLog, false);
  step(1000, 9);
  step(2000, 9, logged(500, 0, 3, 300, 0, 0));
  t.equal(totals.followsLog, false, 'a table that was read before the totals says nothing about them');
  step(3000, 9, logged(2500, 0, 3, 300, 0, 0));
  t.equal(totals.followsLog, true);
  t.same(of(totals, 'snat', 'web'), volume(1, 10, 1000, 0, 0), 'both agree');
  step(4000, 9, logged(3500, 0, 103, 10_300, 50, 5000));
  t.same(
    of(totals, 'snat', 'web'),
    volume(1, 110, 11_000, 50, 5000),
    'a hundred passed the kernel’s counters by',
  );
  step(5000, 14, logged(4500, 0, 103, 10_300, 50, 5000));
  t.same(of(totals, 'snat', 'web'), volume(1, 115, 11_500, 50, 5000), 'five did not, and the log is late');
  step(6000, 14, logged(5500, 0, 108, 10_800, 50, 5000));
  t.same(of(totals, 'snat', 'web'), volume(1, 115, 11_500, 50, 5000), 'now it has them too');
  step(7000, 14, logged(6500, 0, 4, 400, 0, 0));
  t.same(
    of(totals, 'snat', 'web'),
    volume(1, 115, 11_500, 50, 5000),
    'a log that begins anew takes nothing away',
  );
  step(8000, 14, logged(7500, 0, 14, 1400, 0, 0));
  t.same(of(totals, 'snat', 'web'), volume(1, 125, 12_500, 50, 5000), 'and is followed from there');
});

test('a policy that the log has not heard of begins there at 0', async (t) => {
  const totals = made();
  const nothing = (began: number) => ({ began, volumes: { snat: [], forward: [] } });
  totals.add(reading(1), 1000, true);
  totals.add(reading(1), 2000, true, nothing(1500));
  totals.add(reading(1, counts(markOf('web'), 1, 1, 0)), 3000, true, nothing(2500));
  totals.add(reading(1, counts(markOf('web'), 1, 1, 0)), 4000, true, logged(3500, 1, 50, 5000, 7, 700));
  t.same(of(totals, 'snat', 'web'), volume(1, 50, 5000, 7, 700));
});

test('a restart follows the log from where it was, over what passed meanwhile', async (t) => {
  const totals = made();
  const table = reading(1, counts(markOf('web'), 1, 9, 0));
  totals.add(table, 1000, true);
  totals.add(table, 2000, true, logged(1500, 0, 3, 300, 0, 0));
  const next = made();
  next.load(JSON.parse(JSON.stringify(totals.save())));
  t.equal(next.followsLog, true);
  next.add(table, 9000, true, logged(100, 0, 203, 20_300, 0, 0));
  t.same(of(next, 'snat', 'web'), volume(1, 210, 21_000, 0, 0));
});

test('totals of random histories are never above what passed, and are it when both have seen all', async (t) => {
  let seed = 1;
  const random = (below: number) => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
    return (seed >>> 16) % below;
  };
  for (let history = 0; history < 200; history++) {
    const totals = made();
    const web = markOf('web');
    let [slow, all, fast, at] = [0, 0, false, 0];
    let log: ReturnType<typeof logged> | undefined;
    // Before the log began some have passed.
    const before = random(50);
    [slow, all] = [before, before];
    const add = () => {
      totals.add(reading(1, counts(web, 0, slow, 0)), ++at, true, log);
      log = undefined;
    };
    const seen = () => of(totals, 'snat', 'web')!.packets.out;
    const dump = () => {
      const began = ++at;
      pass(random(3));
      const value = all - before;
      log = logged(began, 0, value, 100 * value, 0, 0);
    };
    const pass = (packets: number) => {
      all += packets;
      if (!fast) slow += packets;
    };
    for (let i = 0; i < 60; i++) {
      const what = random(4);
      if (what === 0) pass(random(20));
      else if (what === 1) dump();
      else if (what === 2) add();
      else fast = totals.followsLog && random(2) === 0;
      if (seen() > all) t.fail(`history ${history}: ${seen()} of ${all}`);
    }
    const missed = all - seen();
    add();
    dump();
    add();
    if (seen() > all) t.fail(`history ${history}: ${seen()} of ${all} at the end`);
    // What was missing when it was aligned stays missing, and no more.
    const left = all - seen();
    pass(1000);
    dump();
    add();
    t.ok(all - seen() <= left, `history ${history}: ${left} of ${missed} are missing`);
  }
});
