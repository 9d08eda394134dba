// The formula of port blocks, both ways, and the messages that bring them into the kernel.
import t from 'tap';
import { transaction } from '../../lib/nft-codec.ts';
import { address, addressBytes, addressFromBytes, prefix } from '../../lib/prefix.ts';
import {
  addElement,
  createTable,
  deleteTable,
  eachElement,
  elementMessages,
  elementsOf,
  layoutOf,
  type PortElement,
  sumOf,
} from '../../nat/nftables.ts';
import {
  BLOCK_PORTS,
  BlockIndex,
  blockOf,
  capacity,
  eachBlock,
  isDivided,
  type PortBlocks,
  sourceCount,
  sourceOf,
} from '../../nat/port-blocks.ts';
import { seeded } from './model.ts';

const blocks = (sources: string[], addresses: string[], size: number): PortBlocks => ({
  sources: sources.map(prefix),
  addresses: addresses.map(address),
  size,
});

/** The example of docs/policy.md. */
const TENANTS = blocks(['10.17.0.0/22', '10.18.0.0/24'], ['172.17.0.50', '172.17.0.51'], 64);

t.test('the example of the docs, by hand', async (t) => {
  const seen = (source: string) => {
    const block = blockOf(TENANTS, address(source));
    return block && `${block.address} ${block.first}-${block.last}`;
  };
  t.equal(seen('10.17.0.0'), '172.17.0.50 1024-1087');
  t.equal(seen('10.17.0.9'), '172.17.0.50 1600-1663');
  t.equal(seen('10.18.0.9'), '172.17.0.51 2624-2687');
  t.equal(seen('10.17.3.239'), '172.17.0.50 65472-65535', 'the last of 1008 blocks ends with the last port');
  t.equal(seen('10.17.3.240'), '172.17.0.51 1024-1087');
  t.equal(seen('10.17.4.0'), undefined);
  t.equal(seen('10.18.1.0'), undefined);
  t.equal(seen('fd00::1'), undefined);
  const who = (external: string, port: number) => sourceOf(TENANTS, address(external), port)?.source;
  t.equal(who('172.17.0.51', 2650), '10.18.0.9');
  t.equal(who('172.17.0.50', 1023), undefined);
  t.equal(who('172.17.0.52', 2650), undefined);
  t.equal(who('172.17.0.51', 65_535), undefined, 'there are more blocks than sources');
});

t.test('both ways are one: no two sources share a port, and each port leads back', async (t) => {
  const random = seeded(7422);
  for (let round = 0; round < 40; round++) {
    const size = 1 + random.below(round % 2 === 0 ? 5000 : 300);
    const v6 = random.below(2) === 0;
    const given = blocks(
      Array.from({ length: 1 + random.below(4) }, (_, i) =>
        v6
          ? `fd00:${i}::${random.below(256).toString(16)}00/${120 + random.below(9)}`
          : `10.${i}.0.0/${24 + random.below(9)}`,
      ),
      Array.from({ length: 1 + random.below(90) }, (_, i) => (v6 ? `fd01::${i + 1}` : `192.0.2.${i + 1}`)),
      size,
    );
    const index = new BlockIndex(given);
    const taken = new Set<string>();
    let n = 0;
    for (const { source, block } of eachBlock(given)) {
      const name = addressFromBytes(source);
      if (++n % 7 === 0 || n < 5) {
        t.same(blockOf(given, name), block);
        t.same(index.blockOf(source), block);
      }
      const { address: external, first, last } = block;
      for (const port of [first, last]) {
        if (n % 5 === 0) t.equal(sourceOf(given, external, port)?.source, name);
      }
      if (first < 1024 || last > 65_535 || last - first + 1 !== size) t.fail(`${name} ${first}-${last}`);
      taken.add(`${external} ${first}`);
    }
    t.equal(taken.size, n);
    t.equal(n, Math.min(sourceCount(given.sources), capacity(given.addresses.length, size)));
  }
});

t.test('the size decides how many blocks there are', async (t) => {
  t.equal(capacity(1, 1), BLOCK_PORTS);
  t.equal(capacity(3, 64_512), 3);
  t.equal(capacity(1, 40_000), 1, 'what is left over is nobody’s');
  t.equal(sourceCount([prefix('fd00::/64')]), 2 ** 64);
  t.same([6, 17, 1, 58, 47].map(isDivided), [true, true, true, true, false]);
});

/** The elements of messages as the kernel would print them, each as text. */
function printed(messages: Iterable<{ data: Uint8Array }>): string[] {
  const found: string[] = [];
  for (const { data } of messages) {
    eachElement(Buffer.from(data), ({ mark, source, data: octets }) => {
      found.push(`${mark.toString(16)} ${source.toString('hex')} ${octets.toString('hex')}`);
    });
  }
  return found;
}

t.test('elements are written as nft writes them, in parts that a message can hold', async (t) => {
  const small = blocks(['10.32.0.0/31'], ['172.20.0.1'], 64);
  t.same(printed(elementMessages('add', 4, elementsOf(0x90000001, small, 4))), [
    '90000001 0a200000 ac14000104000000ac140001043f0000',
    '90000001 0a200001 ac14000104400000ac140001047f0000',
  ]);
  const many = blocks(['fd00::/117'], ['fd01::1', 'fd01::2', 'fd01::3'], 64);
  const messages = [...elementMessages('add', 6, elementsOf(0x90000001, many, 6))];
  t.equal(messages.length, 3);
  t.equal(printed(messages).length, 2048, 'the length of the list is one that an attribute can have');
});

t.test('a sum distinguishes contents in any order', async (t) => {
  const sum = { elements: 0, digest: 0 };
  const elements: PortElement[] = [];
  for (const { mark, source, data } of elementsOf(1, TENANTS, 4)) {
    elements.push({ mark, source: Buffer.from(source), data: Buffer.from(data) });
  }
  for (const element of elements.reverse()) addElement(sum, element);
  t.same(sum, sumOf(TENANTS, 4));
  t.not(sumOf(blocks(['10.17.0.0/22', '10.18.1.0/24'], [...TENANTS.addresses], 64), 4).digest, sum.digest);
  t.not(sumOf({ ...TENANTS, addresses: [...TENANTS.addresses].reverse() }, 4).digest, sum.digest);
});

t.test('a table is distinguished from one that another program has changed', async (t) => {
  for (const family of [4, 6] as const) {
    const create = (options: { isThere: boolean; hasSlices: boolean }) =>
      createTable(family, 0x90000000, 0xffffbfff, options).map(({ data }) => Buffer.from(data));
    const [table, _slices, set, chain, ...rules] = create({ isThere: false, hasSlices: true });
    const [, , , ...ofBlocks] = create({ isThere: false, hasSlices: false });
    t.same([rules.length, ofBlocks.length], [5, 2]);
    t.same(layoutOf(family, chain!, rules, set!), { hasSlices: true });
    t.same(layoutOf(family, chain!, ofBlocks, set!), { hasSlices: false });
    t.notOk(layoutOf(family, chain!, rules.slice(1), set!), 'a rule is gone');
    t.notOk(layoutOf(family, chain!, [...rules, rules[0]!], set!), 'there is one more');
    t.notOk(layoutOf(family, chain!, rules, table!), 'the map has other types');
    t.notOk(layoutOf(family, set!, rules, set!), 'the chain is not where it was');
    t.equal(create({ isThere: true, hasSlices: false }).length, 6, 'the old one goes');
    t.same(
      transaction([deleteTable(family)]).map(({ type }) => type),
      [16, 0xa02, 17],
    );
  }
});

t.test('sources carry over from octet to octet', async (t) => {
  const names: string[] = [];
  for (const { source } of eachBlock(blocks(['10.0.0.254/31', '10.0.1.0/31'], ['192.0.2.1'], 64))) {
    names.push(addressFromBytes(source));
  }
  t.same(names, ['10.0.0.254', '10.0.0.255', '10.0.1.0', '10.0.1.1']);
  t.same(new BlockIndex(TENANTS).blockOf(addressBytes(address('10.19.0.1'))), undefined);
});
