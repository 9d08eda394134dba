import { test } from 'tap';
import { attribute, nest, nfgenHeader, u32Be, zeroEnded } from '../../../lib/netlink-codec.ts';
import { expression, NFPROTO, NFT_NEW } from '../../../lib/nft-codec.ts';
import { type Family, prefix } from '../../../lib/prefix.ts';
import { counterLine, diffCounters } from '../../../nat/counters/diff.ts';
import { createCounterKernel } from '../../../nat/counters/kernel.ts';
import { elementTexts } from '../../../nat/counters/messages.ts';
import {
  ANSWERS,
  beginChain,
  type CounterIntent,
  countChain,
  marksOf,
  OWN_POLICY,
  primaryAnswers,
} from '../../../nat/counters/table.ts';
import { counterOf } from '../../../nat/expressions.ts';
import { parseRule, ruleMark } from '../../../nat/own-table.ts';
import { FakeNft, type FakeTable, u64Be } from '../fake-nft.ts';

const MARK_LENGTH = 4;

const BLOCKS: Record<Family, { sources: string[]; destinations: string[] }> = {
  4: {
    sources: ['10.17.0.0/16', '255.0.0.0/8'],
    destinations: ['203.0.113.0/24', '1.1.1.1/32', '1.1.1.2/32', '9.0.0.0/8', '8.8.8.8/32'],
  },
  6: { sources: ['fd00:17::/64'], destinations: ['2001:db8::/32', '2001:db9::1/128'] },
};
const intentOf = (family: Family, ...names: string[]): CounterIntent => ({
  ...{ family, internalInterface: 'eth0', fromOutside: true, forwardsRest: true },
  all: names.map((name, i) => ({ name, snat: i % 2 === 0 })),
  policies: names.map((name, i) => ({
    ...{ name, snat: i % 2 === 0, sources: BLOCKS[family].sources.map(prefix) },
    destinations: BLOCKS[family].destinations.map(prefix),
    excluded: BLOCKS[family].destinations.slice(0, i).map(prefix),
  })),
});

const made = () => {
  const nft = new FakeNft();
  const kernel = createCounterKernel(() => nft);
  const steps = async (family: Family, intent: CounterIntent | undefined) =>
    diffCounters(family, (await kernel.observe())[family], intent);
  return { nft, kernel, steps };
};

for (const family of [4, 6] as const) {
  test(`IPv${family}: what is written is observed as it is wanted, after each edit`, async (t) => {
    const { nft, kernel, steps } = made();
    const many = Array.from({ length: 100 }, (_, i) => `p${i}`);
    for (const names of [[], ['web'], ['web', 'direct', 'third'], many, ['third'], []]) {
      const wanted = intentOf(family, ...names);
      const first = await steps(family, wanted);
      t.equal(first.length, 1, counterLine(first[0]!));
      await kernel.apply(first);
      t.same(await steps(family, wanted), [], `${names.length} policies`);
    }
    await kernel.apply(await steps(family, undefined));
    t.equal(nft.tables.size, 0);
  });
}

test('the table is read again only after another transaction', async (t) => {
  const { nft, kernel, steps } = made();
  await kernel.apply(await steps(4, intentOf(4, 'web')));
  const observed = await kernel.observe();
  const { dumps } = nft;
  t.equal(await kernel.observe(), observed);
  t.equal(nft.dumps, dumps);
  nft.transactions++;
  t.not(await kernel.observe(), observed);
});

test('what another program changes is seen: rules, elements, a base chain', async (t) => {
  const { nft, kernel, steps } = made();
  const wanted = intentOf(4, 'web', 'direct');
  const changed = async (change: (table: FakeTable) => void) => {
    change(nft.tables.get(NFPROTO[4])!);
    nft.transactions++;
    const found = await steps(4, wanted);
    await kernel.apply(found);
    t.same(await steps(4, wanted), []);
    return found.map(({ type }) => type);
  };
  await kernel.apply(await steps(4, wanted));
  t.same(await changed((table) => table.rules.pop()), ['edit-counters']);
  t.same(await changed((table) => table.chains.delete('input')), ['create-counters']);
  t.same(await changed((table) => [...table.sets.values()][0]!.elements.pop()), ['create-counters']);
});

test('a refusal is thrown with what the kernel answers', async (t) => {
  const { nft, kernel, steps } = made();
  nft.refuse = NFT_NEW.rule;
  await t.rejects(kernel.apply(await steps(4, intentOf(4))), { code: 'ENOTSUP' });
  nft.refuse = undefined;
  t.match(
    await steps(4, intentOf(4)),
    [{ type: 'create-counters', replace: true }],
    'half a table is replaced',
  );
});

test('without nf_tables there is nothing to read, and no table can be observed', async (t) => {
  const { nft, kernel } = made();
  nft.missing = true;
  t.same(await kernel.read(), []);
  await t.rejects(kernel.observe(), { code: 'EINVAL' });
});

test('a reading has the counters of each mark and the number of its table', async (t) => {
  const { nft, kernel, steps } = made();
  t.same(await kernel.read(), [], 'nothing without a table');
  await kernel.apply(await steps(4, intentOf(4)));
  const [mark] = [...marksOf(intentOf(4))].find(([, { policy }]) => policy === OWN_POLICY)!;
  const counted = (chain: string, comment: string, packets: number) => ({
    chain,
    data: Buffer.concat([
      nfgenHeader(NFPROTO[4]),
      attribute(2, zeroEnded(chain)),
      nest(
        4,
        expression('ct', attribute(1, u32Be(8))),
        expression('counter', attribute(1, u64Be(100 * packets)), attribute(2, u64Be(packets))),
      ),
      attribute(7, Buffer.of(0, comment.length + 1), zeroEnded(comment)),
    ]),
  });
  nft.tables.get(NFPROTO[4])!.rules = [
    counted(beginChain(mark), 'x', 3),
    counted(countChain(mark), ruleMark(ANSWERS), 4),
    counted(countChain(mark), 'y', 5),
    counted('postrouting', ruleMark(primaryAnswers(mark)), 6),
    counted('postrouting', ruleMark([counterOf(mark)]), 7),
    counted('theirs', 'z', 9),
  ];
  t.same(await kernel.read(), [
    {
      ...{ family: 4, handle: 1 },
      counts: [
        { mark, inBase: false, begins: [3, 300], original: [5, 500], reply: [4, 400] },
        { mark, inBase: true, begins: [0, 0], original: [7, 700], reply: [6, 600] },
      ],
    },
  ]);
});

test('answers that lack parts are read as far as they go', async (t) => {
  t.same(parseRule(nfgenHeader(2)), { chain: '', comment: '' });
  const bare = Buffer.concat([nfgenHeader(2), nest(4, expression('ct'))]);
  t.same(parseRule(bare), { chain: '', comment: '' });
  t.same(elementTexts(nfgenHeader(2)), []);
  const key = nest(1, attribute(1, Buffer.alloc(MARK_LENGTH)));
  const empty = Buffer.concat([
    nfgenHeader(2),
    nest(3, nest(1, key, nest(2)), nest(1, key, nest(2, nest(2)))),
  ]);
  t.same(elementTexts(empty), ['00000000 ', '00000000 ']);
});
