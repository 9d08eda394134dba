import t from 'tap';
import { Recorder } from '../../../../agent/show/plots/recorder.ts';
import { type BootMoment, encode, restore } from '../../../../agent/show/plots/saved.ts';
import { SAMPLE_PERIOD } from '../../../../agent/show/plots/series.ts';

const WALL = Date.parse('2026-11-21T14:03:00Z');
/** Uptime at the last sample. */
const END = 10_000_000;
const SAVED: BootMoment = { boot: 'one', uptime: END, wall: WALL };

/** A recorder with samples until `END` and a mark. */
function filled(): Recorder {
  const recorder = new Recorder();
  for (let i = 40; i >= 0; i--) {
    const now = END - i * SAMPLE_PERIOD;
    const traffic = {
      ...{ at: now, open: true },
      policies: [
        {
          ...{ policy: 'web', treatment: 'snat' as const, connections: 0, open: 2 },
          ...{ packets: { out: 0, in: 0 }, bytes: { out: (40 - i) * 5000, in: 0 } },
        },
      ],
    };
    recorder.sample({ traffic, entries: 7, lateness: undefined }, now);
  }
  recorder.marks.add({ kind: 'repair', text: 'repaired rule', count: 2 }, END - 60_000);
  return recorder;
}

const octets = (recorder = filled(), moment = SAVED): Buffer =>
  Buffer.concat(encode(recorder, moment).map((part) => Buffer.from(part as string)));

const restored = (content: Uint8Array, now: BootMoment): Recorder => {
  const recorder = new Recorder();
  restore(recorder, content, now);
  return recorder;
};

t.test('it continues where it was: values, policies and marks', async (t) => {
  const recorder = restored(octets(), SAVED);
  t.same(recorder.document('5m', END, WALL), filled().document('5m', END, WALL));
  t.same(recorder.document('1d', END, WALL), filled().document('1d', END, WALL));
});

t.test('the time without an agent is a gap', async (t) => {
  const later = { boot: 'one', uptime: END + 20_000, wall: WALL + 20_000 };
  const recorder = restored(octets(), later);
  recorder.sample({ traffic: undefined, entries: 9, lateness: undefined }, later.uptime);
  const { connections, marks, end } = recorder.document('5m', later.uptime, later.wall);
  t.same(connections.slice(-6), [7, 7, null, null, null, 9]);
  t.same(marks, [{ at: WALL - 60_000, kind: 'repair', text: 'repaired rule', count: 2 }]);
  t.equal(end, WALL + 25_000);
});

t.test('a wall clock that was set meanwhile moves nothing in the same boot', async (t) => {
  for (const step of [-86_400_000, 3_600_000]) {
    const later = { boot: 'one', uptime: END + 5000, wall: WALL + step };
    const recorder = restored(octets(), later);
    const { connections, marks } = recorder.document('5m', later.uptime, later.wall);
    t.same(connections.slice(-3), [7, 7, null], `${step} ms`);
    t.equal(marks[0]!.at, later.wall - 65_000);
  }
});

t.test('after a boot of the machine the wall clock says how old it is', async (t) => {
  const later = { boot: 'two', uptime: 12_000, wall: WALL + 50_000 };
  const recorder = restored(octets(), later);
  const { connections, policies, marks } = recorder.document('5m', later.uptime, later.wall);
  t.equal(connections.filter((value) => value === 7).length, 41);
  t.same(connections.slice(-10), Array(10).fill(null));
  t.equal(policies[0]!.out.filter((value) => value === 1000).length, 40);
  t.equal(marks[0]!.at, WALL - 60_000);
  recorder.sample({ traffic: undefined, entries: 8, lateness: undefined }, 20_000);
  t.equal(recorder.document('5m', 20_000, WALL + 58_000).connections.at(-1), 8, 'and it goes on');
  t.throws(() => restored(octets(), { ...later, wall: WALL - 1000 }), /from the future/);
});

t.test('what the agent cannot have written is refused, with the reason', async (t) => {
  const refuse = (content: Uint8Array, reason: RegExp) => t.throws(() => restored(content, SAVED), reason);
  const good = octets();
  refuse(Buffer.alloc(0), /length/);
  refuse(Buffer.from('junk'), /length/);
  refuse(good.subarray(0, -1), /length/);
  refuse(Buffer.concat([good, Buffer.alloc(200_000)]), /length/);
  const line = good.indexOf('\n');
  const head = JSON.parse(good.subarray(0, line).toString());
  const withHead = (changed: object) =>
    Buffer.concat([Buffer.from(JSON.stringify({ ...head, ...changed })), good.subarray(line)]);
  for (const [field, values] of Object.entries({
    boot: [1, 'x'.repeat(200)],
    uptime: [null, 'now', 1e300],
    wall: [null, 1e300],
    slots: [null, [], Array(9).fill(null), Array(8).fill({ policy: 1, treatment: 'snat' })],
    marks: [null, [{}], Array(1000).fill(head.marks[0]), [{ ...head.marks[0], kind: 'other' }]],
    rings: [null, [], [{ last: 1, counts: [] }], head.rings.map((ring: object) => ({ ...ring, last: 1.5 }))],
  })) {
    for (const value of values) refuse(withHead({ [field]: value }), /head/);
  }
  refuse(withHead({ marks: [{ ...head.marks[0], text: 'x'.repeat(1000) }] }), /head/);
  refuse(withHead({ version: 2 }), /layout 2/);
  refuse(withHead({ uptime: END + 1e6 }), /future/);
  refuse(withHead({ rings: head.rings.map((ring: object) => ({ ...ring, last: 1e9 })) }), /future/);
  const negative = Buffer.from(good);
  negative.writeFloatLE(-1, line + 1);
  refuse(negative, /cannot be/);
  t.doesNotThrow(() => restored(withHead({}), SAVED));
});
