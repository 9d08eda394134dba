import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import t from 'tap';
import type { PolicyTraffic } from '../../../../agent/flows/traffic.ts';
import { type Reading, Recorder } from '../../../../agent/show/plots/recorder.ts';
import { encode, MAX_OCTETS } from '../../../../agent/show/plots/saved.ts';
import { RANGES, type Range, SAMPLE_PERIOD } from '../../../../agent/show/plots/series.ts';

const MIB = 1 << 20;
const RANGE_NAMES = Object.keys(RANGES) as Range[];

const policy = (name: string, octets: number): PolicyTraffic => ({
  ...{ policy: name, treatment: 'snat', connections: octets / 100, open: 3 },
  ...{ packets: { out: octets, in: octets }, bytes: { out: octets, in: 2 * octets } },
});

const lateness = (buckets: number[], sum: number): NonNullable<Reading['lateness']> => ({
  ...{ bounds: [0.001, 0.01, 0.1], buckets, count: buckets.at(-1)!, sum },
});

const reading = (more: Partial<Reading> = {}): Reading => ({
  ...{ traffic: undefined, entries: undefined, lateness: undefined },
  ...more,
});

t.test('a document has the values of a range, by wall clock, the busiest policy first', async (t) => {
  const recorder = new Recorder();
  for (let i = 0; i < 4; i++) {
    const now = i * SAMPLE_PERIOD;
    const policies = [policy('quiet', 5 * i), policy('web', 5000 * i)];
    recorder.sample(reading({ traffic: { policies, at: now, open: true }, entries: 10 + i }), now);
  }
  const { policies, ...rest } = recorder.document('5m', 15_000, 1_000_000);
  t.match(rest, { schemaVersion: 'v1', range: '5m', step: 5, end: 1_005_000, others: null, marks: [] });
  t.same(
    policies.map((one) => one.policy),
    ['web', 'quiet'],
  );
  t.same(policies[0]!.out.slice(-5), [null, null, 1000, 1000, 1000]);
  t.same(policies[0]!.in.slice(-2), [2000, 2000]);
  t.same(policies[0]!.connections.slice(-2), [10, 10]);
  t.same(policies[0]!.open.slice(-5), [null, 3, 3, 3, 3]);
  t.same(rest.connections.slice(-5), [null, 10, 11, 12, 13]);
  for (const range of RANGE_NAMES) {
    t.equal(recorder.document(range, 15_000, 0).connections.length, RANGES[range].points);
  }
});

t.test('counters that are read at other times than the samples give even rates', async (t) => {
  const recorder = new Recorder();
  // Read every 2 s, sampled every 5 s: the last reading is 0 to 1.9 s old.
  for (let now = 0; now <= 100_000; now += SAMPLE_PERIOD) {
    const at = now - (now % 2000);
    recorder.sample(reading({ traffic: { policies: [policy('web', at)], at, open: true } }), now);
  }
  const values = recorder.document('5m', 100_000, 0).policies[0]!.out.filter((value) => value !== null);
  t.same([...new Set(values)], [1000]);
  t.equal(values.length, 20);
});

t.test('lateness is the mean of the packets since the sample before, and what none exceeded', async (t) => {
  const recorder = new Recorder();
  recorder.sample(reading({ lateness: lateness([5, 5, 5], 0.001) }), 0);
  recorder.sample(reading({ lateness: lateness([14, 15, 15], 0.009) }), 5000);
  recorder.sample(reading({ lateness: lateness([16, 17, 17], 0.0094) }), 10_000);
  recorder.sample(reading({ lateness: lateness([16, 17, 17], 0.0094) }), 15_000);
  const { mean, worst } = recorder.document('5m', 15_000, 0).lateness;
  t.same(mean.slice(-4), [null, 0.0008, 0.0002, null], 'no packet, no value');
  t.same(worst.slice(-4), [null, 0.008, 0.0004, null], 'at most the bound of the bucket, and the sum');
});

t.test('round trips are the mean and the worst since the sample before', async (t) => {
  const recorder = new Recorder();
  recorder.roundTrip(6, 1);
  recorder.roundTrip(6, 3);
  recorder.sample(reading(), 0);
  recorder.sample(reading(), 5000);
  const { roundTrips } = recorder.document('5m', 5000, 0);
  t.equal(roundTrips.length, 1, 'a family that is not probed has none');
  t.match(roundTrips[0], { family: 6 });
  t.same(roundTrips[0]!.mean.slice(-2), [0.002, null]);
  t.same(roundTrips[0]!.worst.slice(-2), [0.003, null]);
});

t.test('without counters there is a gap, and no first rate after it', async (t) => {
  const recorder = new Recorder();
  const counted = [0, 1000, 2000, undefined, undefined, undefined, undefined, 9000, 9500];
  for (const [i, octets] of counted.entries()) {
    const now = i * SAMPLE_PERIOD;
    const traffic =
      octets === undefined ? undefined : { policies: [policy('web', octets)], at: now, open: true };
    recorder.sample(reading({ traffic }), now);
  }
  const { out } = recorder.document('5m', 8 * SAMPLE_PERIOD, 0).policies[0]!;
  t.same(out.slice(-9), [null, 200, 200, null, null, null, null, null, 100]);
});

t.test('open connections that are not known are a gap, and the rates are there', async (t) => {
  const recorder = new Recorder();
  for (const now of [0, 5000, 10_000]) {
    const policies = Array.from({ length: 9 }, (_, i) => policy(`p${i}`, now));
    recorder.sample(reading({ traffic: { policies, at: now, open: false }, entries: 5 }), now);
  }
  const { policies, others } = recorder.document('5m', 10_000, 0);
  t.equal(policies.length, 8);
  for (const { open, out } of [...policies, others!]) {
    t.ok(open.every((value) => value === null));
    t.same(out.slice(-2), [1000, 1000]);
  }
});

t.test('marks are in the range that is asked for, by wall clock', async (t) => {
  const recorder = new Recorder();
  const facts = {
    ...{ generation: 1, valid: true, repaired: {}, sessions: [], draining: false, groups: [] },
    uplinks: { 4: undefined, 6: undefined },
  };
  recorder.observe(facts, 1000);
  recorder.observe({ ...facts, generation: 2 }, 400_000);
  t.match(recorder.document('1h', 400_000, 1_400_000).marks, [
    { at: 1_001_000, kind: 'start' },
    { at: 1_400_000, kind: 'policy', text: 'generation 2', count: 1 },
  ]);
  t.equal(recorder.document('5m', 400_000, 1_400_000).marks.length, 1);
});

t.test('with thousands of policies, a day and many marks it stays below 1 MiB', async (t) => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const used = () => {
    collect();
    const { heapUsed, arrayBuffers } = process.memoryUsage();
    return heapUsed + arrayBuffers;
  };
  for (const count of [1000, 5000]) {
    const names = Array.from({ length: count }, (_, i) => `${'x'.repeat(200)}${i}`);
    const kept: Recorder[] = [];
    const before = used();
    const recorder = new Recorder();
    kept.push(recorder);
    for (let i = 0; i < 300; i++) {
      const now = i * SAMPLE_PERIOD;
      const policies = names.map((name, n) => policy(name, n * i * i));
      recorder.sample(reading({ traffic: { policies, at: now, open: true }, entries: i }), now);
      for (const kind of ['repair', 'session', 'holder'] as const)
        recorder.marks.add({ kind, text: `${'x'.repeat(110)}${i}`, count: 1 }, now);
    }
    const octets = used() - before;
    t.ok(octets < MIB, `${count} policies take ${octets} octets`);
    const now = 300 * SAMPLE_PERIOD;
    const shown = recorder.document('1d', now, now);
    t.equal(shown.policies.length, 8);
    t.not(shown.others, null);
    for (const range of RANGE_NAMES) {
      const text = JSON.stringify(recorder.document(range, now, now));
      t.ok(text.length < 400 << 10, `${range}: ${text.length} octets of JSON`);
    }
    const file = encode(recorder, { boot: 'b', uptime: now, wall: now });
    const size = file.reduce((sum, part) => sum + Buffer.from(part as string).length, 0);
    t.ok(size <= MAX_OCTETS && MAX_OCTETS < MIB, `${size} octets of file`);
    t.equal(kept.length, 1);
  }
});

t.test('a sum over all policies loses nothing when a plot changes hands', async (t) => {
  const recorder = new Recorder();
  const octets = new Map(Array.from({ length: 20 }, (_, i) => [`p${i}`, 0]));
  for (let i = 0; i < 40; i++) {
    const now = i * SAMPLE_PERIOD;
    // Each has its turn.
    octets.set(`p${i >> 1}`, octets.get(`p${i >> 1}`)! + 5000);
    const policies = [...octets].map(([name, count]) => policy(name, count));
    recorder.sample(reading({ traffic: { policies, at: now, open: true } }), now);
  }
  const { policies, others } = recorder.document('5m', 39 * SAMPLE_PERIOD, 0);
  const sums = others!.out.map((value, i) =>
    policies.reduce((sum, { out }) => sum + (out[i] ?? 0), value ?? 0),
  );
  t.same([...new Set(sums.slice(-39))], [1000]);
});
