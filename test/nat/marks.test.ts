import t from 'tap';
import { dispatch } from '../../nat/marks.ts';

/** The chains that lead from marks to targets that bear their number. */
function tree(marks: number[]): Record<string, string[]> {
  const chains = new Map<string, string[]>();
  dispatch(chains, 'TREE', new Map(marks.map((mark, i) => [mark, [`-j T${i}`]])));
  return Object.fromEntries(chains);
}

t.test('up to 16 marks are compared one by one', (t) => {
  const marks = Array.from({ length: 16 }, (_, i) => 0x80000000 + i);
  t.strictSame(tree(marks), {
    TREE: marks.map((mark, i) => `-m mark --mark 0x${mark.toString(16)}/0xffffbfff -j T${i}`),
  });
  t.end();
});

t.test('bits that all marks share get no chain of their own', (t) => {
  // All have the first six bits; the next four distinguish pairs of them.
  const marks = Array.from({ length: 17 }, (_, i) => 0x80000000 + i * 0x200000);
  t.strictSame(tree(marks), {
    TREE: [
      '-m mark --mark 0x80000000/0xffc00000 -j TREE-80000000-10',
      '-m mark --mark 0x80400000/0xffc00000 -j TREE-80400000-10',
      '-m mark --mark 0x80800000/0xffc00000 -j TREE-80800000-10',
      '-m mark --mark 0x80c00000/0xffc00000 -j TREE-80c00000-10',
      '-m mark --mark 0x81000000/0xffc00000 -j TREE-81000000-10',
      '-m mark --mark 0x81400000/0xffc00000 -j TREE-81400000-10',
      '-m mark --mark 0x81800000/0xffc00000 -j TREE-81800000-10',
      '-m mark --mark 0x81c00000/0xffc00000 -j TREE-81c00000-10',
      '-m mark --mark 0x82000000/0xffc00000 -j TREE-82000000-10',
    ],
    'TREE-80000000-10': [
      '-m mark --mark 0x80000000/0xffffbfff -j T0',
      '-m mark --mark 0x80200000/0xffffbfff -j T1',
    ],
    'TREE-80400000-10': [
      '-m mark --mark 0x80400000/0xffffbfff -j T2',
      '-m mark --mark 0x80600000/0xffffbfff -j T3',
    ],
    'TREE-80800000-10': [
      '-m mark --mark 0x80800000/0xffffbfff -j T4',
      '-m mark --mark 0x80a00000/0xffffbfff -j T5',
    ],
    'TREE-80c00000-10': [
      '-m mark --mark 0x80c00000/0xffffbfff -j T6',
      '-m mark --mark 0x80e00000/0xffffbfff -j T7',
    ],
    'TREE-81000000-10': [
      '-m mark --mark 0x81000000/0xffffbfff -j T8',
      '-m mark --mark 0x81200000/0xffffbfff -j T9',
    ],
    'TREE-81400000-10': [
      '-m mark --mark 0x81400000/0xffffbfff -j T10',
      '-m mark --mark 0x81600000/0xffffbfff -j T11',
    ],
    'TREE-81800000-10': [
      '-m mark --mark 0x81800000/0xffffbfff -j T12',
      '-m mark --mark 0x81a00000/0xffffbfff -j T13',
    ],
    'TREE-81c00000-10': [
      '-m mark --mark 0x81c00000/0xffffbfff -j T14',
      '-m mark --mark 0x81e00000/0xffffbfff -j T15',
    ],
    'TREE-82000000-10': ['-m mark --mark 0x82000000/0xffffbfff -j T16'],
  });
  t.end();
});
