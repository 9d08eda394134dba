import t from 'tap';
import { FastPathComparison } from '../../../agent/reconcile/fast-path-comparison.ts';
import { createFastPathKernel } from '../../../nat/fast-path/kernel.ts';
import type { FastPathIntent } from '../../../nat/fast-path/table.ts';
import { NftablesModel } from '../../nat/fast-path/model.ts';

const INTENT: FastPathIntent = { internal: 'eth0', external: 'net1', limited: [] };
const made = (lacks?: string) => {
  const nftables = new NftablesModel();
  nftables.lacks = lacks;
  return new FastPathComparison(createFastPathKernel(() => nftables));
};

t.test(
  'without flowtables there is a note with the modules, until something else is asked for',
  async (t) => {
    const comparison = made();
    t.match((await comparison.compare(INTENT)).steps, [{ type: 'put-fast-path' }]);
    const note = comparison.refused(INTENT, 'no such file or directory (ENOENT)');
    t.equal(
      note,
      'the fast path is not in force, the rest is: nf_tables: no such file or directory (ENOENT); load nf_flow_table, nf_flow_table_inet and nft_flow_offload on the node, or run the gateway on a node whose kernel has them',
    );
    t.same(await comparison.compare({ ...INTENT }), { steps: [], notes: [note] });
    t.same(await comparison.compare(undefined), { steps: [], notes: [] });
    t.match((await comparison.compare(INTENT)).steps, [{ type: 'put-fast-path' }]);
  },
);

t.test('what is no lack of the kernel names no module', async (t) => {
  t.notMatch(made().refused(INTENT, 'operation not permitted (EPERM)'), 'nft_flow_offload');
});

t.test(
  'without nf_tables there is a note where a fast path is wanted, and nothing to do where none is',
  async (t) => {
    const comparison = made('EINVAL');
    t.match(await comparison.compare(INTENT), { steps: [], notes: [/not in force.*nf_flow_table_inet/] });
    t.same(await comparison.compare(undefined), { steps: [], notes: [] });
  },
);
