import t from 'tap';
import { inBatches, PackedRecords } from '../../../../agent/group/kernel/packed-records.ts';

t.test('records come back in their order, across buffers, and are copies', async (t) => {
  const packed = new PackedRecords(4);
  t.same([...packed], []);
  const record = Buffer.alloc(4);
  for (let i = 0; i < 10_000; i++) {
    record.writeUInt32BE(i);
    packed.add(record);
  }
  const found = [...packed];
  t.equal(found.length, 10_000);
  t.ok(found.every((one, i) => one.length === 4 && one.readUInt32BE() === i));
});

t.test('batches hold all values once, and none is empty', async (t) => {
  t.same([...inBatches([1, 2, 3, 4, 5], 2)], [[1, 2], [3, 4], [5]]);
  t.same([...inBatches([1, 2], 2)], [[1, 2]]);
  t.same([...inBatches([], 2)], []);
});
