import { test } from 'tap';
import { attribute, nest, nfgenHeader, u32Be, zeroEnded } from '../../../lib/netlink-codec.ts';
import { expression, NFPROTO, NFT_GET, NFT_NEW } from '../../../lib/nft-codec.ts';
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

/** A rule as the kernel dumps it, with a counter between other expressions. */
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

/** A table with counters of one mark, at these packets, and what a reading has to find. */
async function withCounters() {
  const { nft, kernel, steps } = made();
  await kernel.apply(await steps(4, intentOf(4)));
  const [mark] = [...marksOf(intentOf(4))].find(([, { policy }]) => policy === OWN_POLICY)!;
  const rulesOf = (n: number) => [
    counted(beginChain(mark), 'x', 3 + n),
    counted(countChain(mark), ruleMark(ANSWERS), 4 + n),
    counted(countChain(mark), 'y', 5 + n),
    counted('postrouting', ruleMark(primaryAnswers(mark)), 6 + n),
    counted('postrouting', ruleMark([counterOf(mark)]), 7 + n),
    counted('theirs', 'z', 9 + n),
  ];
  const value = (packets: number): [number, number] => [packets, 100 * packets];
  const readingOf = (n: number) => ({
    ...{ family: 4, handle: 1 },
    counts: [
      { mark, inBase: false, begins: value(3 + n), original: value(5 + n), reply: value(4 + n) },
      { mark, inBase: true, begins: [0, 0], original: value(7 + n), reply: value(6 + n) },
    ],
  });
  nft.tables.get(NFPROTO[4])!.rules = rulesOf(0);
  const set = (rules: FakeTable['rules']) => {
    nft.tables.get(NFPROTO[4])!.rules = rules;
  };
  return { nft, kernel, steps, set, rulesOf, readingOf };
}

test('a reading has the counters of each mark and the number of its table', async (t) => {
  t.same(await made().kernel.read(), [], 'nothing without a table');
  const { kernel, readingOf } = await withCounters();
  t.same(await kernel.read(), [readingOf(0)]);
});

test('until another transaction a reading asks for nothing but the rules, and is as exact', async (t) => {
  const { nft, kernel, set, rulesOf, readingOf } = await withCounters();
  await kernel.read();
  for (const n of [1, 2000, 2 ** 20]) {
    set(rulesOf(n));
    nft.asked.length = nft.dumps = 0;
    t.same(await kernel.read(), [readingOf(n)]);
    t.same(nft.asked, [NFT_GET.generation, NFT_GET.generation]);
    t.equal(nft.dumps, 1);
  }
});

test('a transaction before or during a reading, or rules that are others all the same: it is read whole', async (t) => {
  const { nft, kernel, steps, set, rulesOf, readingOf } = await withCounters();
  await kernel.read();
  const turned = (n: number) => [...rulesOf(n).slice(3), ...rulesOf(n).slice(0, 3)];
  const { counts, ...table } = readingOf(5);
  const turnedReading = { ...table, counts: counts.toReversed() };

  set(turned(5));
  nft.transactions++;
  t.same(await kernel.read(), [turnedReading], 'before it');

  const dump = nft.dumpInTurns.bind(nft);
  nft.dumpInTurns = async (type, data, parse) => {
    nft.dumpInTurns = dump;
    const answers = await dump(type, data, parse);
    set(rulesOf(6));
    nft.transactions++;
    return answers;
  };
  t.same(await kernel.read(), [readingOf(6)], 'during it');

  set([counted('theirs', 'first', 1), ...rulesOf(7)]);
  t.same(await kernel.read(), [readingOf(7)], 'one more');
  set(rulesOf(8));
  t.same(await kernel.read(), [readingOf(8)], 'one less');

  await kernel.apply(await steps(4, undefined));
  t.same(await kernel.read(), [], 'the table is gone');
});

test('answers that lack parts are read as far as they go', async (t) => {
  t.same(parseRule(nfgenHeader(2)), { chain: '', comment: '' });
  const bare = Buffer.concat([nfgenHeader(2), nest(4, expression('ct'))]);
  t.same(parseRule(bare), { chain: '', comment: '' });
  const half = Buffer.concat([nfgenHeader(2), nest(4, expression('counter', attribute(1, u64Be(1))))]);
  t.same(parseRule(half), { chain: '', comment: '', counter: { packets: 0, bytes: 1 } });
  t.same(elementTexts(nfgenHeader(2)), []);
  const key = nest(1, attribute(1, Buffer.alloc(MARK_LENGTH)));
  const empty = Buffer.concat([
    nfgenHeader(2),
    nest(3, nest(1, key, nest(2)), nest(1, key, nest(2, nest(2)))),
  ]);
  t.same(elementTexts(empty), ['00000000 ', '00000000 ']);
});
