import t from 'tap';
import { addCounts } from '../../../agent/group/counts.ts';

t.test('counts of two threads are added, reason by reason and bucket by bucket', async (t) => {
  const one = { sent: 1, received: 2, rejected: { key: 3, junk: 1 }, lag: { buckets: [1, 0], sum: 5 } };
  const two = { sent: 10, received: 20, rejected: { key: 4, other: 7 }, lag: { buckets: [2, 9], sum: 50 } };
  t.same(addCounts(one, two), {
    sent: 11,
    received: 22,
    rejected: { key: 7, junk: 1, other: 7 },
    lag: { buckets: [3, 9], sum: 55 },
  });
});
