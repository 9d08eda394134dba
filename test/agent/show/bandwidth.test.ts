// The counts of bandwidth limits: by policy and direction, over classes that are made anew.
import { Registry } from 'prom-client';
import t from 'tap';
import { BandwidthUse } from '../../../agent/show/bandwidth.ts';
import { addBandwidthMetrics } from '../../../agent/show/bandwidth-metrics.ts';
import { CLASS_REST, CLASS_WHOLE, desiredShaping, RING } from '../../../shaping/desired.ts';
import type { Limit, ObservedClass, ObservedQdisc, ShapingIntent, TcStats } from '../../../shaping/state.ts';
import { classId } from '../../../shaping/tc-codec.ts';

const limit = (name: string, applies: Limit['applies'], perSource = false): Limit => ({
  ...{ name, rate: { egress: 1e6 }, perSource, applies },
});
const INTENT: ShapingIntent = {
  devices: [{ direction: 'egress', name: 'net1', from: 'eth0', mtu: 1500 }],
  ...{ families: [4], markMask: 1 },
  limits: [limit('web', { mark: 1 }), limit('ring', { mark: 2 }, true), limit('(gateway)', 'rest')],
};
const { shaped } = desiredShaping(INTENT).devices[0]!;
const firstOf = (name: string) => shaped.find((one) => one.limit.name === name)!.first;

function setUp() {
  const classes = new Map<number, ObservedClass>();
  const qdiscs: ObservedQdisc[] = [];
  const count = (minor: number, bytes: number, drops = 0, more: Partial<TcStats> = {}) => {
    const stats = { bytes, packets: bytes / 100, drops: 0, overlimits: 2, backlog: 10, ...more };
    const parameters = { parent: 1, rate: 1, ceil: 1, buffer: 1, cbuffer: 1, quantum: 1 };
    classes.set(minor, { minor, ...parameters, stats });
    const parent = classId(0x178, minor);
    qdiscs.splice(0, qdiscs.length, ...qdiscs.filter((one) => one.parent !== parent), {
      ...{ dev: 'net1', kind: 'bfifo', handle: 1, parent, stats: { ...stats, drops } },
    });
  };
  let now = 0;
  const state: { intent: ShapingIntent | undefined; error?: Error } = { intent: INTENT };
  const use = new BandwidthUse(
    () => {
      if (state.error) throw state.error;
      return { qdiscs, classes: new Map([['net1', classes]]) };
    },
    () => state.intent,
    () => (now += 1000),
  );
  const row = (name: string) => use.rows.find(({ policy }) => policy === name)!;
  return { classes, count, use, row, state };
}

t.test('a limit has the counts of its class and its queue', async (t) => {
  const { count, row } = setUp();
  t.match(row('web'), { active: false, passedBytes: 0, limitBits: 1e6 });
  count(firstOf('web'), 500, 3);
  t.match(row('web'), {
    ...{ active: true, passedBytes: 500, passedPackets: 5, droppedPackets: 3, delays: 2, queueBytes: 10 },
  });
});

t.test('a ring counts for all its sources, the whole gateway drops what has no other limit', async (t) => {
  const { count, row } = setUp();
  count(firstOf('ring'), 100, 1);
  count(firstOf('ring') + RING - 1, 200, 1);
  t.match(row('ring'), { passedBytes: 300, droppedPackets: 2, perSource: true });
  count(CLASS_WHOLE, 900, 50);
  count(CLASS_REST, 400, 6);
  t.match(row('(gateway)'), { passedBytes: 900, droppedPackets: 6 });
});

t.test('counts go on when a class is made anew, goes, or cannot be read', async (t) => {
  const { classes, count, row, state } = setUp();
  count(firstOf('web'), 500, 3);
  t.equal(row('web').passedBytes, 500);
  count(firstOf('web'), 200, 1);
  t.match(row('web'), { passedBytes: 700, droppedPackets: 4 });
  state.error = new Error('ENOBUFS');
  t.equal(row('web').passedBytes, 700);
  delete state.error;
  classes.delete(firstOf('web'));
  t.match(row('web'), { passedBytes: 700, active: false });
  count(firstOf('web'), 100);
  t.equal(row('web').passedBytes, 800);
  state.intent = { ...INTENT, limits: [] };
  t.equal(row('web'), undefined);
  state.intent = undefined;
  t.equal(row('web'), undefined);
});

t.test('counters of 32 bits go past their end, each by itself', async (t) => {
  const { count, row } = setUp();
  const end = 2 ** 32;
  const web = firstOf('web');
  count(web, 5e12, end - 3, { packets: end - 4, overlimits: end - 1 });
  const before = row('web');
  t.match(before, { passedBytes: 5e12, passedPackets: end - 4, droppedPackets: end - 3, delays: end - 1 });
  count(web, 5e12 + 15_000, 7, { packets: 6, overlimits: 999 });
  t.match(row('web'), {
    ...{ passedBytes: 5e12 + 15_000, passedPackets: end + 6, droppedPackets: end + 7, delays: end + 999 },
  });
  count(web, 5e12 + 16_000, 7, { packets: 16, overlimits: 999 });
  t.match(row('web'), { passedPackets: end + 16, droppedPackets: end + 7, delays: end + 999 });
});

t.test('packets of 64 bits are those that were counted', async (t) => {
  const { count, row } = setUp();
  count(firstOf('web'), 1e12, 0, { packets: 3e9 });
  t.equal(row('web').passedPackets, 3e9);
  count(firstOf('web'), 9e12, 0, { packets: 11e9 });
  t.equal(row('web').passedPackets, 11e9);
});

t.test('a queue, or one class of a ring, that is made anew takes nothing else with it', async (t) => {
  const { count, row } = setUp();
  count(firstOf('web'), 5000, 3);
  t.match(row('web'), { passedBytes: 5000, droppedPackets: 3, delays: 2 });
  count(firstOf('web'), 6000, 1);
  t.match(row('web'), { passedBytes: 6000, droppedPackets: 4, delays: 2 }, 'the queue');
  count(firstOf('web'), 7000, 1, { overlimits: 1 });
  t.match(row('web'), { passedBytes: 7000, droppedPackets: 4, delays: 3 }, 'a class, overtaken');
  count(firstOf('ring'), 5000);
  count(firstOf('ring') + 1, 5000);
  t.equal(row('ring').passedBytes, 10_000);
  count(firstOf('ring'), 100);
  t.equal(row('ring').passedBytes, 10_100, 'a class of a ring');
});

t.test('metrics have what is in the kernel', async (t) => {
  const { count, use } = setUp();
  count(firstOf('web'), 500, 3);
  const registry = new Registry();
  addBandwidthMetrics(registry, use);
  const text = await registry.metrics();
  t.match(text, 'veg_bandwidth_limit_bits{policy="web",direction="egress"} 1000000');
  t.match(text, 'veg_bandwidth_dropped_packets_total{policy="web",direction="egress"} 3');
  t.match(text, 'veg_bandwidth_passed_bytes_total{policy="web",direction="egress"} 500');
  t.notMatch(text, 'policy="ring"');
});
