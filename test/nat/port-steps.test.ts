// The steps of port blocks and slices, in their order and as text.
import t from 'tap';
import { address, type Family, prefix } from '../../lib/prefix.ts';
import type { PortBlock, PortBlocks } from '../../nat/port-blocks.ts';
import { editPorts, type PortStep, portLine } from '../../nat/port-steps.ts';
import { commandLines } from '../../nat/render.ts';
import type { PortTable } from '../../nat/state.ts';

const NETS = {
  4: { nft: 'ip', source: '10.17.0.0', more: '/30', shared: '172.17.0.50' },
  6: { nft: 'ip6', source: 'fd00:17::', more: '/126', shared: 'fd00:172::50' },
} as const;
const MARK = 0x90000abc;

const slice = (family: Family, first: number, last: number): PortBlock => ({
  ...{ address: address(NETS[family].shared), first, last },
});
const table = (slices: [mark: number, slice: PortBlock][], more: Partial<PortTable> = {}): PortTable => ({
  ...{ intact: true, hasSlices: slices.length > 0, policies: new Map(), slices: new Map(slices) },
  ...more,
});

for (const family of [4, 6] as const) {
  const { nft, source, more, shared } = NETS[family];

  t.test(`IPv${family}: a step is the line that nft would be given`, (t) => {
    const blocks = (length: string): PortBlocks => ({
      ...{ sources: [prefix(`${source}${length}`)], addresses: [address(shared)], size: 64 },
    });
    const one = family === 4 ? '/32' : '/128';
    const own = slice(family, 45_376, 49_407);
    const write = { type: 'write-port-blocks', family, mark: MARK, repair: false } as const;
    const steps: PortStep[] = [
      { type: 'create-port-table', family, replace: false, hasSlices: true },
      { type: 'add-slices', family },
      { ...write, blocks: blocks(more) },
      { ...write, blocks: blocks(one) },
      { type: 'write-slice', family, mark: MARK, slice: own, replace: false },
      { type: 'delete-port-blocks', family, mark: MARK },
      { type: 'delete-slice', family, mark: MARK },
      { type: 'delete-port-table', family },
    ];
    const expected = [
      `nft add table ${nft} VEG-PORT-BLOCKS`,
      `nft add map ${nft} VEG-PORT-BLOCKS slices`,
      `nft add element ${nft} VEG-PORT-BLOCKS blocks { 0x90000abc . ${source} : ${shared} . 1024-1087, and 3 more }`,
      `nft add element ${nft} VEG-PORT-BLOCKS blocks { 0x90000abc . ${source} : ${shared} . 1024-1087 }`,
      `nft add element ${nft} VEG-PORT-BLOCKS slices { 0x90000abc : ${shared} . 45376-49407 }`,
      `nft delete element ${nft} VEG-PORT-BLOCKS blocks { 0x90000abc . * }`,
      `nft delete element ${nft} VEG-PORT-BLOCKS slices { 0x90000abc }`,
      `nft delete table ${nft} VEG-PORT-BLOCKS`,
    ];
    t.strictSame(steps.map(portLine), expected);
    t.strictSame(commandLines(steps), expected, 'a plan shows the same');
    t.end();
  });

  t.test(
    `IPv${family}: new slices come before the rules, old ones go after them, what is right stays`,
    (t) => {
      const [kept, other, wider] = [
        slice(family, 1024, 5055),
        slice(family, 5056, 9087),
        slice(family, 5056, 13_119),
      ];
      const observed = table([
        [1, kept],
        [2, other],
        [3, other],
      ]);
      const desired = table([
        [1, { ...kept }],
        [2, wider],
        [4, other],
      ]);
      t.strictSame(editPorts(observed, desired, family), {
        before: [
          { type: 'write-slice', family, mark: 2, slice: wider, replace: true },
          { type: 'write-slice', family, mark: 4, slice: other, replace: false },
        ],
        after: [{ type: 'delete-slice', family, mark: 3 }],
      });
      t.strictSame(editPorts(desired, desired, family), { before: [], after: [] });
      t.end();
    },
  );

  t.test(`IPv${family}: a table gets the map of slices when it needs one, and keeps it`, (t) => {
    const own = slice(family, 1024, 5055);
    const [without, withOne] = [table([]), table([[1, own]])];
    t.strictSame(editPorts(undefined, without, family).before, [
      { type: 'create-port-table', family, replace: false, hasSlices: false },
    ]);
    t.strictSame(editPorts(without, without, family), { before: [], after: [] });
    t.strictSame(editPorts(without, withOne, family).before, [
      { type: 'add-slices', family },
      { type: 'write-slice', family, mark: 1, slice: own, replace: false },
    ]);
    t.strictSame(editPorts(withOne, without, family), {
      before: [],
      after: [{ type: 'delete-slice', family, mark: 1 }],
    });
    t.end();
  });

  t.test(`IPv${family}: a table that somebody changed is made anew, with all slices`, (t) => {
    const own = slice(family, 1024, 5055);
    const observed = table(
      [
        [1, own],
        [2, own],
      ],
      { intact: false },
    );
    t.strictSame(editPorts(observed, table([[1, own]]), family), {
      before: [
        { type: 'create-port-table', family, replace: true, hasSlices: true },
        { type: 'write-slice', family, mark: 1, slice: own, replace: false },
      ],
      after: [],
    });
    t.end();
  });
}
