import t from 'tap';
import { inBatches, PackedMessages } from '../../../../agent/group/kernel/packed-messages.ts';

t.test('messages come back in their order and whole, across buffers, and are copies', async (t) => {
  const packed = new PackedMessages();
  t.same([...packed], []);
  const message = Buffer.alloc(65_536);
  const sizes = [0, 1, 65_536, 65_536, 65_535, 65_536, 65_536, 3];
  for (const [i, size] of sizes.entries()) packed.add(message.fill(i).subarray(0, size));
  t.same(
    [...packed].map((one) => one.length),
    sizes,
  );
  t.ok([...packed].every((one, i) => one.every((octet) => octet === i)));
});

t.test('batches hold all values once, and none is empty', async (t) => {
  t.same([...inBatches([1, 2, 3, 4, 5], 2)], [[1, 2], [3, 4], [5]]);
  t.same([...inBatches([1, 2], 2)], [[1, 2]]);
  t.same([...inBatches([], 2)], []);
});
