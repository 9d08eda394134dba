import t from 'tap';
import { CounterComparison } from '../../../agent/reconcile/counter-comparison.ts';
import type { CounterIntent } from '../../../nat/counters/table.ts';
import { createCounterModel } from '../../nat/counters/model.ts';

const intents: CounterIntent[] = [
  {
    ...{ family: 4, internalInterface: 'eth0', policies: [], all: [] },
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
  for (const answer of ['operation not supported (ENOTSUP)', 'invalid argument (EINVAL)']) {
    const comparison = new CounterComparison({ observe: async () => Promise.reject(new Error(answer)) });
    const { steps, notes } = await comparison.compare(intents, NOBODY);
    t.same(steps, []);
    t.same(notes, [
      `traffic of policies is not counted (veg_snat_*, veg_forward_*): nf_tables: ${answer}; load nf_tables and nft_ct on the node`,
    ]);
  }
});

const answer = (code: string): Error => Object.assign(new Error(`no (${code})`), { code });

/** A comparison of a kernel without tables, and the step that makes one. */
async function refusing() {
  const kernel = createCounterModel();
  const comparison = new CounterComparison(kernel);
  const [create] = (await comparison.compare(intents, NOBODY)).steps;
  return { kernel, comparison, create: create! };
}

t.test(
  'what the kernel lacks is a note, and asked for again by a retry or when it is something else',
  async (t) => {
    const { comparison, create } = await refusing();
    const note =
      'traffic of policies is not counted (veg_snat_*, veg_forward_*): nf_tables: no (ENOENT); load nf_tables and nft_ct on the node';
    t.same(comparison.refused(intents, create, answer('ENOENT')), { note });
    t.same(await comparison.compare(intents, NOBODY), { steps: [], notes: [note] });
    t.same(await comparison.fork().compare(intents, NOBODY), { steps: [], notes: [note] });
    t.match((await comparison.compare([...intents], NOBODY)).steps, [{ type: 'create-counters' }]);
    t.equal(comparison.retry(), true);
    t.match((await comparison.compare(intents, NOBODY)).steps, [{ type: 'create-counters' }]);
    t.equal(comparison.retry(), false, 'nothing was refused since');
  },
);

t.test('what may pass is a failure that names no module, until a retry', async (t) => {
  const { comparison, create } = await refusing();
  const failure = comparison.refused(intents, create, answer('ENOMEM'));
  t.match(failure, { object: 'table', family: 4, name: 'VEG-COUNTERS', reason: 'failed' });
  t.notMatch(JSON.stringify(failure), 'load nf_tables');
  t.same(await comparison.compare(intents, NOBODY), { steps: [], notes: [] });
  t.match((await comparison.fork().compare(intents, NOBODY)).steps, [{ type: 'create-counters' }]);
  t.equal(comparison.retry(), true);
  t.match((await comparison.compare(intents, NOBODY)).steps, [{ type: 'create-counters' }]);
});

t.test('an edit that finds no table says nothing of the kernel', async (t) => {
  const { kernel, comparison, create } = await refusing();
  await kernel.apply([create]);
  const [remove] = (await comparison.compare([], NOBODY)).steps;
  t.match(comparison.refused([], remove!, answer('ENOENT')), {
    reason: 'changed',
    message: /no \(ENOENT\)$/,
  });
});

t.test('what one family is refused, the other is not', async (t) => {
  const both = [...intents, { ...intents[0]!, family: 6 as const }];
  const comparison = new CounterComparison(createCounterModel());
  const { steps } = await comparison.compare(both, NOBODY);
  comparison.refused(both, steps[1]!, answer('ENOENT'));
  const now = await comparison.compare(both, NOBODY);
  t.match(now.steps, [{ type: 'create-counters', family: 4 }]);
  t.equal(now.steps.length, 1);
  t.match(now.notes, [/load nf_tables/]);
});
