import t from 'tap';
import { NFT_GET, NFT_NEW } from '../../../lib/nft-codec.ts';
import { createFastPathKernel } from '../../../nat/fast-path/kernel.ts';
import {
  diffFastPath,
  type FastPathIntent,
  fastPathLine,
  fastPathMessages,
} from '../../../nat/fast-path/table.ts';
import { NftablesModel } from './model.ts';

const INTENT: FastPathIntent = { internal: 'eth0', external: 'net1', limited: [] };
const LIMITED: FastPathIntent = { ...INTENT, limited: [0x1234, 0x3f_ffff] };

function made() {
  const nftables = new NftablesModel();
  const kernel = createFastPathKernel(() => nftables);
  const reconcile = async (intent: FastPathIntent | undefined) => {
    const steps = diffFastPath(await kernel.observe(), intent);
    kernel.apply(steps);
    return steps.map(fastPathLine);
  };
  return { nftables, kernel, reconcile };
}

t.test(
  'the table is made once, replaced when it is to be another, and deleted when none is wanted',
  async (t) => {
    const { reconcile, nftables } = made();
    t.same(await reconcile(undefined), []);
    t.same(await reconcile(INTENT), ['nft add table inet VEG-FASTPATH: flowtable of eth0 and net1']);
    t.same(await reconcile(INTENT), []);
    t.same(await reconcile(LIMITED), [
      'nft replace table inet VEG-FASTPATH: flowtable of eth0 and net1, without 2 limited policies',
    ]);
    t.equal(nftables.elements, 3, 'and what has no policy yet');
    t.same(await reconcile(LIMITED), []);
    t.same(await reconcile({ ...LIMITED, limited: [0x1234] }), [
      'nft replace table inet VEG-FASTPATH: flowtable of eth0 and net1, without 1 limited policy',
    ]);
    t.same(await reconcile({ ...INTENT, external: 'net2' }), [
      'nft replace table inet VEG-FASTPATH: flowtable of eth0 and net2',
    ]);
    t.same(await reconcile(undefined), ['nft delete table inet VEG-FASTPATH']);
    t.same(await reconcile(undefined), []);
  },
);

t.test('a change by another program to any part of it is found', async (t) => {
  for (const intent of [INTENT, LIMITED]) {
    const { reconcile, nftables } = made();
    await reconcile(intent);
    const parts = [NFT_GET.flowtable, NFT_GET.chain, NFT_GET.rule].flatMap((type) =>
      nftables.objects!.get(type)!.map((_, i) => [type, i] as const),
    );
    for (const [type, i] of parts) {
      const damages: ((list: Buffer[]) => Buffer[])[] = [
        (list) => list.toSpliced(i, 1),
        (list) => [...list, list[i]!],
        // The last octet of the first attributes that it has of its own.
        (list) => list.with(i, Buffer.from(list[i]!.map((octet, at) => (at === 24 ? octet ^ 1 : octet)))),
      ];
      for (const damage of damages) {
        nftables.objects!.set(type, damage(nftables.objects!.get(type)!));
        nftables.generation++;
        t.match(await reconcile(intent), [/^nft replace/]);
        t.same(await reconcile(intent), []);
      }
    }
  }
  const { reconcile, nftables } = made();
  await reconcile(LIMITED);
  nftables.objects!.delete(NFT_GET.elements);
  nftables.generation++;
  t.match(await reconcile(LIMITED), [/^nft replace/]);
});

t.test('rules of a chain count in their order', async (t) => {
  const { reconcile, nftables } = made();
  await reconcile(INTENT);
  const rules = nftables.objects!.get(NFT_GET.rule)!;
  nftables.objects!.set(NFT_GET.rule, [rules[0]!, ...rules.slice(1).toReversed()]);
  nftables.generation++;
  t.match(await reconcile(INTENT), [/^nft replace/]);
});

t.test('it is read again only after another transaction', async (t) => {
  const { kernel, reconcile, nftables } = made();
  await reconcile(INTENT);
  await kernel.observe();
  const { dumps } = nftables;
  await kernel.observe();
  t.equal(nftables.dumps, dumps);
  nftables.generation++;
  await kernel.observe();
  t.ok(nftables.dumps > dumps);
});

t.test('what the kernel refuses, and a kernel without nf_tables, is told', async (t) => {
  const { kernel, nftables } = made();
  nftables.refuses = 'ENOENT';
  t.throws(() => kernel.apply(diffFastPath(undefined, INTENT)), { code: 'ENOENT' });
  nftables.lacks = 'EINVAL';
  await t.rejects(kernel.observe(), { code: 'EINVAL' });
});

t.test(
  'flows that are not counted, or of a limited policy, do not reach the rules that offload',
  async (t) => {
    const rules = fastPathMessages({ type: 'put-fast-path', intent: LIMITED, replace: false }).flatMap(
      ({ type, data }) => (type === NFT_NEW.rule ? [Buffer.from(data).toString('latin1')] : []),
    );
    const words = ['meta', 'ct', 'cmp', 'bitwise', 'lookup', 'immediate', 'flow_offload', 'enter', 'limited'];
    t.same(
      rules.map((rule) =>
        [...rule.matchAll(/[a-z_]{2,}/g)].map(([word]) => word).filter((word) => words.includes(word)),
      ),
      [
        ['meta', 'cmp', 'meta', 'cmp', 'ct', 'bitwise', 'cmp', 'immediate', 'enter'],
        ['enter', 'ct', 'bitwise', 'lookup', 'limited', 'immediate'],
        ['enter', 'ct', 'cmp', 'immediate'],
        ['enter', 'meta', 'cmp', 'flow_offload'],
        ['enter', 'meta', 'cmp', 'flow_offload'],
      ],
    );
  },
);

t.test('thousands of limited policies are as many elements', async (t) => {
  const { nftables, reconcile } = made();
  const many = { ...INTENT, limited: Array.from({ length: 4096 }, (_, i) => i + 1) };
  t.equal((await reconcile(many)).length, 1);
  t.equal(nftables.elements, 4097);
  t.same(await reconcile(many), []);
  t.equal((await reconcile({ ...many, limited: many.limited.with(0, 5000) })).length, 1);
});
