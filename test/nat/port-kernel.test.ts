/** Port blocks and slices against a fake nf_tables that keeps what transactions create. */
import t from 'tap';
import { NLM_F_APPEND } from '../../lib/linux.ts';
import { Attributes, attribute, nest, nfgenHeader, u32Be } from '../../lib/netlink-codec.ts';
import type { NftMessage } from '../../lib/nft-codec.ts';
import { address, type Family, prefix } from '../../lib/prefix.ts';
import { eachElement, sumOf } from '../../nat/nftables.ts';
import type { PortBlock, PortBlocks } from '../../nat/port-blocks.ts';
import { createPortKernel, type NetfilterSocket } from '../../nat/port-kernel.ts';
import { editPorts } from '../../nat/port-steps.ts';
import type { PortTable } from '../../nat/state.ts';

const failure = (code: string): Error & { code: string } =>
  Object.assign(new Error(`no (${code})`), { code });

interface FakeTable {
  chain?: Buffer;
  rules: Buffer[];
  sets: Map<string, Buffer>;
  /** By set: the data of each element by its key (mark and source), in hexadecimal. */
  elements: Map<string, Map<string, string>>;
}

const NEW = { table: 0xa00, chain: 0xa03, rule: 0xa06, set: 0xa09, elements: 0xa0c };
const GET = { table: 0xa01, chain: 0xa04, rule: 0xa07, set: 0xa0a, elements: 0xa0d, generation: 0xa10 };
const DELETE = { table: 0xa02, elements: 0xa0e };

/** The text of an attribute of a message, without its final zero. */
function textIn(data: Buffer, type: number): string {
  const attributes = new Attributes(data, 4);
  while (attributes.next()) if (attributes.type === type) return attributes.string;
  return '';
}

/** nf_tables of a kernel: transactions succeed as a whole or change nothing. */
class FakeNftables implements NetfilterSocket {
  tables = new Map<number, FakeTable>();
  generation = 1;
  transactions = 0;
  dumps = 0;
  /** The error of each request of a type. */
  readonly errors = new Map<number, string>();
  /** Called before the next transaction: another process. */
  interfere: (() => void) | undefined;

  ask(type: number, data: Uint8Array): Buffer {
    this.#check(type);
    if (type === GET.generation) return Buffer.concat([nfgenHeader(0), attribute(1, u32Be(this.generation))]);
    const table = this.#table(data);
    if (type === GET.table) return Buffer.alloc(4);
    const found = type === GET.chain ? table.chain : table.sets.get(textIn(Buffer.from(data), 2));
    if (found === undefined) throw failure('ENOENT');
    return found;
  }

  async dumpInTurns<T>(type: number, data: Uint8Array, parse: (answer: Buffer) => T): Promise<T[]> {
    this.#check(type);
    this.dumps++;
    const table = this.#table(data);
    if (type === GET.rule) return table.rules.map(parse);
    const elements = table.elements.get(textIn(Buffer.from(data), 2));
    if (elements === undefined) throw failure('ENOENT');
    // Two elements in an answer, as a long dump has several answers.
    const all = [...elements];
    const answers: T[] = [];
    for (let i = 0; i < all.length; i += 2) {
      const part = all.slice(i, i + 2).map(([key, value]) => {
        const bytes = (type: number, hex: string) => nest(type, attribute(1, Buffer.from(hex, 'hex')));
        return nest(1, bytes(1, key), bytes(2, value));
      });
      answers.push(parse(Buffer.concat([nfgenHeader(data[0]!), nest(3, ...part)])));
    }
    return answers;
  }

  sendAll(messages: readonly NftMessage[]): void {
    this.interfere?.();
    const before = structuredClone(this.tables);
    this.transactions++;
    try {
      for (const { type, flags, data } of messages.slice(1, -1)) {
        this.#carryOut(type, flags, Buffer.from(data));
      }
      this.generation++;
    } catch (error) {
      // structuredClone makes Uint8Arrays of buffers.
      for (const table of before.values()) {
        table.chain &&= Buffer.from(table.chain);
        table.rules = table.rules.map((rule) => Buffer.from(rule));
        table.sets = new Map([...table.sets].map(([name, set]) => [name, Buffer.from(set)]));
      }
      this.tables = before;
      throw error;
    }
  }

  /** The elements of a set, by key. */
  elements(family: Family, set: string): Map<string, string> {
    return this.tables.get(family === 4 ? 2 : 10)!.elements.get(set)!;
  }

  #check(type: number): void {
    const code = this.errors.get(type);
    if (code !== undefined) throw failure(code);
  }

  #table(data: Uint8Array): FakeTable {
    const table = this.tables.get(data[0]!);
    if (table === undefined) throw failure('ENOENT');
    return table;
  }

  #carryOut(type: number, flags: number, data: Buffer): void {
    this.#check(type);
    if (type === NEW.table) {
      if (!this.tables.has(data[0]!)) {
        this.tables.set(data[0]!, { rules: [], sets: new Map(), elements: new Map() });
      }
      return;
    }
    const table = this.#table(data);
    if (type === DELETE.table) this.tables.delete(data[0]!);
    else if (type === NEW.chain) table.chain = data;
    else if (type === NEW.rule && (flags & NLM_F_APPEND) !== 0) table.rules.push(data);
    else if (type === NEW.rule) table.rules.unshift(data);
    else if (type === NEW.set) {
      table.sets.set(textIn(data, 2), data);
      table.elements.set(textIn(data, 2), new Map());
    } else this.#changeElements(type, table.elements.get(textIn(data, 2))!, data);
  }

  #changeElements(type: number, elements: Map<string, string>, message: Buffer): void {
    eachElement(message, ({ mark, source, data }) => {
      const octets = Buffer.alloc(4 + source.length);
      octets.writeUInt32LE(mark);
      octets.set(source, 4);
      const key = octets.toString('hex');
      const there = elements.get(key);
      if (type === DELETE.elements) {
        if (!elements.delete(key)) throw failure('ENOENT');
      } else if (there !== undefined && there !== data.toString('hex')) throw failure('EEXIST');
      else elements.set(key, data.toString('hex'));
    });
  }
}

const NETWORKS = {
  4: { sources: '10.17.0.0/29', more: '10.17.1.0/30', shared: '172.17.0.50', other: '172.17.0.51' },
  6: { sources: 'fd00:17::/125', more: 'fd00:17:1::/126', shared: 'fd00:172::50', other: 'fd00:172::51' },
} as const;

const blocksOf = (family: Family, size = 64): PortBlocks => ({
  sources: [prefix(NETWORKS[family].sources)],
  addresses: [address(NETWORKS[family].shared)],
  size,
});
const sliceOf = (family: Family, first: number, which: 'shared' | 'other' = 'shared'): PortBlock => ({
  ...{ address: address(NETWORKS[family][which]), first, last: first + 4031 },
});

/** A table as the policy wants it: blocks and slices by mark. */
function tableOf(
  family: Family,
  blocks: Record<number, PortBlocks>,
  slices: Record<number, PortBlock> = {},
): PortTable {
  const byMark = <T>(values: Record<number, T>) =>
    Object.entries(values).map(([mark, value]): [number, T] => [Number(mark), value]);
  return {
    intact: true,
    hasSlices: Object.keys(slices).length > 0,
    policies: new Map(
      byMark(blocks).map(([mark, value]) => [mark, { ...sumOf(value, family), blocks: value }]),
    ),
    slices: new Map(byMark(slices)),
  };
}

/** What is observed of a desired table: no blocks, only their sums. */
const observedAs = ({ hasSlices, policies, slices }: PortTable): PortTable => ({
  ...{ intact: true, hasSlices },
  policies: new Map([...policies].map(([mark, { elements, digest }]) => [mark, { elements, digest }])),
  slices,
});

function setUp(family: Family) {
  const nftables = new FakeNftables();
  const kernel = createPortKernel(() => nftables);
  const steps = async (desired: PortTable | undefined) => {
    const { before, after } = editPorts((await kernel.observe(true))[family], desired, family);
    return [...before, ...after];
  };
  const reconcile = async (desired: PortTable | undefined) => {
    const edits = await steps(desired);
    await kernel.apply(edits);
    return edits.map(({ type }) => type);
  };
  return { nftables, kernel, steps, reconcile };
}

/** Data in hexadecimal with one digit changed. */
const withDigit = (data: string, at: number): string =>
  `${data.slice(0, at)}${data[at] === '1' ? '2' : '1'}${data.slice(at + 1)}`;

for (const family of [4, 6] as const) {
  t.test(
    `IPv${family}: blocks and slices are created, changed and removed, and observed as applied`,
    async (t) => {
      const { nftables, kernel, reconcile } = setUp(family);
      const settles = async (desired: PortTable, types: string[]) => {
        t.same(await reconcile(desired), types);
        t.same(await kernel.observe(true), { [family]: observedAs(desired) });
        t.same(await reconcile(desired), [], 'nothing is left to do');
      };
      const more = { ...blocksOf(family), sources: [prefix(NETWORKS[family].more)] };
      const both = tableOf(family, { 1: blocksOf(family), 2: more }, { 5: sliceOf(family, 45_376) });
      await settles(both, ['create-port-table', 'write-port-blocks', 'write-port-blocks', 'write-slice']);
      t.equal(nftables.elements(family, 'blocks').size, 12);

      // One policy changes all of its blocks, the other some; a slice comes, one becomes another.
      const resized = tableOf(
        family,
        { 1: blocksOf(family, 128), 2: { ...more, sources: blocksOf(family).sources } },
        { 5: sliceOf(family, 49_408, 'other'), 6: sliceOf(family, 1024) },
      );
      await settles(resized, ['write-port-blocks', 'write-port-blocks', 'write-slice', 'write-slice']);

      await settles(tableOf(family, { 2: more }, { 6: sliceOf(family, 1024) }), [
        'write-port-blocks',
        'delete-port-blocks',
        'delete-slice',
      ]);
      t.equal(nftables.elements(family, 'slices').size, 1);
      t.same(await reconcile(undefined), ['delete-port-table']);
      t.same(await kernel.observe(true), {});
    },
  );

  t.test(
    `IPv${family}: changes by another process to blocks and slices are found and repaired`,
    async (t) => {
      const { nftables, kernel, reconcile } = setUp(family);
      const desired = tableOf(family, { 1: blocksOf(family) }, { 5: sliceOf(family, 45_376) });
      await reconcile(desired);
      for (const set of ['blocks', 'slices']) {
        const elements = nftables.elements(family, set);
        const [key, data] = [...elements][0]!;
        const stranger = `09000000${key.slice(8)}`;
        const changes: [string, () => void][] = [
          ['one is removed', () => elements.delete(key)],
          ['one is changed', () => elements.set(key, withDigit(data, data.length - 5))],
          ['the last address is another', () => elements.set(key, withDigit(data, data.length - 9))],
          ['one is added', () => elements.set(stranger, data)],
        ];
        for (const [what, change] of changes) {
          change();
          nftables.generation++;
          t.not((await reconcile(desired)).length, 0, `${set}: ${what}`);
          t.same(await kernel.observe(true), { [family]: observedAs(desired) }, `${set}: ${what}, repaired`);
        }
      }
    },
  );

  t.test(`IPv${family}: a table of port blocks becomes one with slices in one transaction`, async (t) => {
    const { nftables, kernel, reconcile } = setUp(family);
    await reconcile(tableOf(family, { 1: blocksOf(family) }));
    const blocks = nftables.elements(family, 'blocks');
    const { transactions } = nftables;
    const both = tableOf(family, { 1: blocksOf(family) }, { 5: sliceOf(family, 45_376) });
    t.same(await reconcile(both), ['add-slices', 'write-slice']);
    t.equal(nftables.transactions, transactions + 2, 'one for map and rules, one for the slice');
    t.equal(nftables.elements(family, 'blocks'), blocks, 'the blocks are those that were there');
    t.same(await kernel.observe(true), { [family]: observedAs(both) }, 'the rules are in their order');
    t.same(await reconcile(both), []);
  });

  t.test(`IPv${family}: only wrong elements are sent again`, async (t) => {
    const { nftables, reconcile } = setUp(family);
    const desired = tableOf(family, { 1: blocksOf(family) });
    await reconcile(desired);
    const elements = nftables.elements(family, 'blocks');
    const [first] = [...elements.keys()];
    elements.delete(first!);
    nftables.generation++;
    const before = nftables.transactions;
    await reconcile(desired);
    t.equal(nftables.transactions, before + 1, 'no element is deleted, one is added');
    t.equal(nftables.elements(family, 'blocks').size, 8);
  });
}

t.test('a table that another process has changed is replaced as a whole', async (t) => {
  const desired = tableOf(4, { 1: blocksOf(4) }, { 5: sliceOf(4, 45_376) });
  const damages: [string, (table: FakeTable) => void][] = [
    ['a rule is gone', (table) => table.rules.pop()],
    ['rules in another order', (table) => table.rules.reverse()],
    ['a map is gone', (table) => table.sets.delete('blocks')],
    ['the chain is gone', (table) => delete table.chain],
  ];
  for (const [what, damage] of damages) {
    const { nftables, kernel, reconcile } = setUp(4);
    await reconcile(desired);
    damage(nftables.tables.get(2)!);
    nftables.generation++;
    t.match((await kernel.observe(true))[4], { intact: false }, what);
    t.same(await reconcile(desired), ['create-port-table', 'write-port-blocks', 'write-slice'], what);
    t.same(await kernel.observe(true), { 4: observedAs(desired) }, what);
  }
});

t.test('without a transaction of nf_tables since the last observation nothing is dumped', async (t) => {
  const { nftables, kernel, reconcile } = setUp(4);
  await reconcile(tableOf(4, { 1: blocksOf(4) }));
  await kernel.observe(true);
  const { dumps } = nftables;
  await kernel.observe(true);
  t.equal(nftables.dumps, dumps);
  nftables.generation++;
  await kernel.observe(true);
  t.ok(nftables.dumps > dumps);
});

t.test('an error has the kind that decides about a retry', async (t) => {
  const kinds = {
    EPERM: 'not-permitted',
    EEXIST: 'changed',
    EBUSY: 'changed',
    ENOTSUP: 'unsupported',
    ENOBUFS: 'failed',
  };
  for (const [code, kind] of Object.entries(kinds)) {
    const { nftables, reconcile } = setUp(4);
    nftables.errors.set(NEW.table, code);
    await t.rejects(reconcile(tableOf(4, {})), {
      ...{ name: 'NatError', kind, message: `nf_tables: create the table: no (${code})` },
    });
    t.equal(nftables.tables.size, 0);
  }
});

t.test('what cannot be read is an error where it is required, else not there', async (t) => {
  for (const type of [GET.generation, GET.table, GET.chain, GET.rule, GET.elements]) {
    const { nftables, kernel, reconcile } = setUp(4);
    await reconcile(tableOf(4, { 1: blocksOf(4) }));
    nftables.errors.set(type, 'EPERM');
    t.same(await kernel.observe(false), {});
    await t.rejects(kernel.observe(true), { kind: 'not-permitted', message: /read port blocks/ });
    nftables.errors.clear();
    t.match((await kernel.observe(true))[4], { intact: true }, 'and nothing of the failure is kept');
  }
  const kernel = createPortKernel(() => {
    throw failure('EPROTONOSUPPORT');
  });
  t.same(await kernel.observe(false), {});
  await t.rejects(kernel.observe(true), { name: 'NatError', kind: 'unsupported' });
});

t.test(
  'a change by another process between observing and applying fails, and the next reconcile mends it',
  async (t) => {
    const { nftables, kernel, steps, reconcile } = setUp(4);
    const desired = tableOf(4, { 1: blocksOf(4) }, { 5: sliceOf(4, 45_376) });
    await reconcile(desired);
    const moved = tableOf(4, { 1: blocksOf(4) }, { 5: sliceOf(4, 49_408) });
    const edits = await steps(moved);
    nftables.interfere = () => {
      nftables.elements(4, 'slices').clear();
      nftables.generation++;
      nftables.interfere = undefined;
    };
    await t.rejects(kernel.apply(edits), { kind: 'changed', message: /^nf_tables: add a slice: / });
    t.same(await reconcile(moved), ['write-slice']);
    t.same(await kernel.observe(true), { 4: observedAs(moved) });
  },
);
