import t from 'tap';
import { FastPathComparison, RENEWAL_PERIOD } from '../../../agent/reconcile/fast-path-comparison.ts';
import { createFastPathKernel } from '../../../nat/fast-path/kernel.ts';
import type { FastPathIntent, FastPathStep } from '../../../nat/fast-path/table.ts';
import { NftablesModel } from '../../nat/fast-path/model.ts';
import { ManualClock } from '../../support/clock.ts';

const INTENT: FastPathIntent = { internal: 'eth0', external: 'net1', limited: [] };
const PUT: FastPathStep = { type: 'put-fast-path', intent: INTENT, replace: false };
const answer = (code: string): Error => Object.assign(new Error(`no (${code})`), { code });

function made(lacks?: string) {
  const nftables = new NftablesModel();
  nftables.lacks = lacks;
  const kernel = createFastPathKernel(() => nftables);
  const clock = new ManualClock();
  return { nftables, kernel, clock, comparison: new FastPathComparison(kernel, () => clock.now()) };
}

t.test(
  'without flowtables there is a note with the modules, until a retry or something else is asked for',
  async (t) => {
    const { comparison } = made();
    t.match(await comparison.compare(INTENT), { steps: [{ type: 'put-fast-path' }], inForce: true });
    const note =
      'the fast path is not in force, the rest is: nf_tables: no (ENOENT); load nf_flow_table, nf_flow_table_inet and nft_flow_offload on the node, or run the gateway on a node whose kernel has them';
    t.same(comparison.refused(INTENT, PUT, answer('ENOENT')), { note });
    t.same(await comparison.compare({ ...INTENT }), { steps: [], notes: [note], inForce: false });
    t.same(await comparison.fork().compare(INTENT), { steps: [], notes: [note], inForce: false });
    t.same(await comparison.compare(undefined), { steps: [], notes: [], inForce: false });
    t.match((await comparison.compare({ ...INTENT, limited: [7] })).steps, [{ type: 'put-fast-path' }]);
    t.equal(comparison.retry(), true);
    t.match((await comparison.compare(INTENT)).steps, [{ type: 'put-fast-path' }]);
    t.equal(comparison.retry(), false);
  },
);

t.test('what may pass is a failure that names no module, until a retry', async (t) => {
  const { comparison } = made();
  await comparison.compare(INTENT);
  const failure = comparison.refused(INTENT, PUT, answer('ENOMEM'));
  t.match(failure, { object: 'table', name: 'VEG-FASTPATH', message: /^the fast path is not in force/ });
  t.notMatch(JSON.stringify(failure), 'nft_flow_offload');
  t.same(await comparison.compare(INTENT), { steps: [], notes: [], inForce: false });
  t.match((await comparison.fork().compare(INTENT)).steps, [{ type: 'put-fast-path' }]);
  comparison.retry();
  t.match((await comparison.compare(INTENT)).steps, [{ type: 'put-fast-path' }]);
});

t.test('a table that the kernel refuses to remove or to replace is in force', async (t) => {
  const { kernel, comparison } = made();
  kernel.apply([PUT]);
  for (const wanted of [undefined, { ...INTENT, limited: [7] }]) {
    const [step] = (await comparison.compare(wanted)).steps;
    t.match(comparison.refused(wanted, step!, answer('EINVAL')), {
      ...{ object: 'table', message: /^the former fast path is still in force/ },
    });
    t.same(await comparison.compare(wanted), { steps: [], notes: [], inForce: true });
    comparison.retry();
    t.equal((await comparison.compare(wanted)).steps.length, 1);
  }
});

t.test('a table that cannot be read is where it was', async (t) => {
  const { nftables, kernel, comparison } = made();
  kernel.apply([PUT]);
  await comparison.compare(INTENT);
  nftables.lacks = 'ENOBUFS';
  t.match(await comparison.compare(undefined), { steps: [], inForce: true });
  nftables.lacks = 'EINVAL';
  t.match(await comparison.compare(undefined), { steps: [], inForce: false });
});

t.test(
  'without nf_tables there is a note where a fast path is wanted, and nothing to do where none is',
  async (t) => {
    const { comparison } = made('EINVAL');
    t.match(await comparison.compare(INTENT), { steps: [], notes: [/not in force.*nf_flow_table_inet/] });
    t.same(await comparison.compare(undefined), { steps: [], notes: [], inForce: false });
  },
);

t.test('a table that is old is made anew by a full reconcile, and by nothing else', async (t) => {
  const { kernel, clock, comparison } = made();
  const renewed: FastPathStep = { ...PUT, replace: true };
  t.equal(comparison.retry(), false, 'there is none');
  // Made by a process before this one.
  kernel.apply([PUT]);
  t.same((await comparison.compare(INTENT)).steps, []);
  clock.jump(RENEWAL_PERIOD - 1);
  t.equal(comparison.retry(), false);
  clock.jump(1);
  t.same((await comparison.compare(INTENT)).steps, [], 'a repair leaves it');
  t.equal(comparison.retry(), true);
  t.same((await comparison.fork().compare(INTENT)).steps, [], 'a plan too');
  t.match(await comparison.compare(INTENT), { steps: [renewed], inForce: true, notes: [] });
  kernel.apply([renewed]);
  t.equal(comparison.retry(), false);
  t.same((await comparison.compare(INTENT)).steps, []);

  clock.jump(RENEWAL_PERIOD);
  t.equal(comparison.retry(), true);
  const limited = { ...INTENT, limited: [7] };
  t.same(
    (await comparison.compare(limited)).steps,
    [{ ...renewed, intent: limited }],
    'another one is renewed once',
  );
  kernel.apply([{ ...renewed, intent: limited }]);
  clock.jump(RENEWAL_PERIOD);
  t.equal(comparison.retry(), true);
  t.same((await comparison.compare(undefined)).steps, [{ type: 'delete-fast-path' }], 'one that goes is not');
});

t.test('a renewal that the kernel refuses leaves the former table in force until the next one', async (t) => {
  const { kernel, clock, comparison } = made();
  kernel.apply([PUT]);
  await comparison.compare(INTENT);
  clock.jump(RENEWAL_PERIOD);
  comparison.retry();
  const [step] = (await comparison.compare(INTENT)).steps;
  t.match(comparison.refused(INTENT, step!, answer('ENOMEM')), {
    message: /^the former fast path is still in force/,
  });
  t.same(await comparison.compare(INTENT), { steps: [], notes: [], inForce: true });
  clock.jump(RENEWAL_PERIOD);
  t.equal(comparison.retry(), true);
  t.same((await comparison.compare(INTENT)).steps, [step]);
});
