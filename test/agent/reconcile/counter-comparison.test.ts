import t from 'tap';
import { CounterComparison } from '../../../agent/reconcile/counter-comparison.ts';
import type { CounterIntent } from '../../../nat/counters/table.ts';
import { createCounterModel } from '../../nat/counters/model.ts';

const intents: CounterIntent[] = [
  {
    ...{ family: 4, internalInterface: 'eth0', policies: [], names: [] },
    ...{ fromOutside: false, forwardsRest: false },
  },
];
const NOBODY = new Set<4 | 6>();

t.test('what differs is a step, until it is applied; a family that is left alone has none', async (t) => {
  const kernel = createCounterModel();
  const comparison = new CounterComparison(kernel);
  t.same((await comparison.compare(intents, new Set([4]))).steps, []);
  const { steps, notes } = await comparison.compare(intents, NOBODY);
  t.match(steps, [{ type: 'create-counters', family: 4 }]);
  t.same(notes, []);
  await kernel.apply(steps);
  t.same((await comparison.compare(intents, NOBODY)).steps, []);
  t.same((await comparison.compare(intents, NOBODY)).steps, [], 'nor when nothing has changed since');
  t.match((await comparison.compare([], NOBODY)).steps, [{ type: 'delete-counters' }]);
});

t.test('without nf_tables there is a note in place of steps', async (t) => {
  for (const answer of ['operation not supported (EOPNOTSUPP)', 'invalid argument (EINVAL)']) {
    const comparison = new CounterComparison({ observe: async () => Promise.reject(new Error(answer)) });
    const { steps, notes } = await comparison.compare(intents, NOBODY);
    t.same(steps, []);
    t.same(notes, [
      `traffic of policies is not counted (veg_snat_*, veg_forward_*): nf_tables: ${answer}; load nf_tables and nft_ct on the node`,
    ]);
  }
});

t.test('what was refused is asked for again when it is something else', async (t) => {
  const comparison = new CounterComparison(createCounterModel());
  const note = comparison.refused(intents, 'no such expression (ENOENT)');
  t.same(await comparison.compare(intents, NOBODY), { steps: [], notes: [note] });
  t.match((await comparison.compare([...intents], NOBODY)).steps, [{ type: 'create-counters' }]);
});

t.test('what is no lack of the kernel names no module', async (t) => {
  const comparison = new CounterComparison(createCounterModel());
  t.notMatch(comparison.refused(intents, 'operation not permitted (EPERM)'), 'load nf_tables');
});
