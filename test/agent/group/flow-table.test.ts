import t from 'tap';
import { FlowTable } from '../../../agent/group/flow-table.ts';
import { encodeFlow } from '../../../agent/group/records.ts';
import { FAMILIES } from '../../../lib/prefix.ts';
import { randomFrom } from '../../support/fuzz.ts';
import { flowOf } from './flows.ts';

t.test(
  'a table is what a map is, after thousands of random changes, and its sums are those of a fresh one',
  async (t) => {
    for (const family of FAMILIES) {
      const random = randomFrom(family);
      const table = new FlowTable(family, 5000);
      const model = new Map<number, { record: Buffer; owner: number }>();
      for (let i = 0; i < 20_000; i++) {
        const number = Math.floor(random() * 4000);
        const record = encodeFlow(flowOf(family, number, 1024 + number, { mark: Math.floor(random() * 3) }));
        const owner = Math.floor(random() * 3);
        const place = table.find(record);
        if (place < 0 !== !model.has(number)) t.fail(`flow ${number} is ${place < 0 ? 'not ' : ''}found`);
        if (place < 0) {
          table.add(record, owner);
          model.set(number, { record, owner });
        } else if (random() < 0.4) {
          table.remove(place);
          model.delete(number);
        } else if (random() < 0.5) {
          table.replace(place, record, owner);
          model.set(number, { record, owner });
        } else {
          table.setOwner(place, owner);
          model.get(number)!.owner = owner;
        }
      }
      const fresh = new FlowTable(family, 5000);
      for (const { record, owner } of model.values()) fresh.add(record, owner);
      t.equal(table.size, model.size);
      for (const owner of [0, 1, 2]) {
        const count = [...model.values()].filter((one) => one.owner === owner).length;
        t.equal(table.count(owner), count);
        t.same(table.sums(owner), fresh.sums(owner));
        t.equal([...table.places(owner)].length, count);
        const byBucket = table
          .sums(owner)
          .map(({ bucket, count }) => [[...table.places(owner, bucket)].length, count]);
        t.ok(
          byBucket.every(([found, said]) => found === said),
          'buckets hold what their sums count',
        );
      }
    }
  },
);

t.test('sums do not see the timeout, and see mark and TCP', async (t) => {
  const sums = (more: object) => {
    const table = new FlowTable(4, 10);
    table.add(encodeFlow(flowOf(4, 1, 2000, more)), 0);
    return table.sums(0);
  };
  t.same(sums({ timeout: 1 }), sums({ timeout: 100 }));
  t.notSame(sums({ mark: 1 }), sums({ mark: 2 }));
  const tcp = { state: 3, originalScale: 0, replyScale: 0, originalFlags: 0, replyFlags: 0 };
  t.notSame(sums({ protocol: 6, tcp }), sums({ protocol: 6, tcp: { ...tcp, state: 4 } }));
});

t.test('a full table takes nothing more, and has room again after a removal', async (t) => {
  const table = new FlowTable(4, 3000);
  const added = Array.from({ length: 3000 }, (_, i) => table.add(encodeFlow(flowOf(4, i, 2000)), 0));
  t.ok(added.every(Boolean));
  const more = encodeFlow(flowOf(4, 3001, 2000));
  t.notOk(table.add(more, 0));
  table.remove(table.find(encodeFlow(flowOf(4, 17, 2000))));
  t.ok(table.add(more, 1));
  t.equal(table.generationAt(table.find(more)), 0);
  t.equal(table.size, 3000);
});
