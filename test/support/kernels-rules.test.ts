import t from 'tap';
import {
  KERNELS,
  type KernelRow,
  modulesInOrder,
  qemu,
  readArguments,
  testFile,
  VARIANTS,
  withTable,
} from './kernels-rules.ts';

const machines = (...argv: string[]) => {
  const request = readArguments(argv);
  if (!('machines' in request)) throw new Error(JSON.stringify(request));
  return request.machines;
};
const names = (...argv: string[]) => machines(...argv).map(({ kernel, variant }) => `${kernel} ${variant}`);

t.test(
  'without arguments every kernel runs with every variant, of another architecture plain only',
  async (t) => {
    const all = names();
    for (const [kernel, { arch }] of Object.entries(KERNELS))
      t.equal(
        all.filter((name) => name.startsWith(`${kernel} `)).length,
        arch === 'amd64' ? Object.keys(VARIANTS).length : 1,
      );
  },
);

t.test('kernels and variants that are named run alone, in the order in which they are named', async (t) => {
  t.same(names('6.12', '6.1', '--variant', 'no-ipv6', '--variant', 'plain'), [
    ...['6.12 no-ipv6', '6.12 plain', '6.1 no-ipv6', '6.1 plain'],
  ]);
});

t.test(
  'test files that are named replace those of the variant; the table has none but the variant’s own',
  async (t) => {
    const [machine] = machines(
      '6.1',
      '--variant',
      'plain',
      '--test',
      'routing',
      '--test',
      'test/lib/prefix.test.ts',
    );
    t.same(machine, {
      ...{ kernel: '6.1', variant: 'plain', recorded: false },
      tests: ['routing', 'test/lib/prefix.test.ts'],
    });
    t.ok(machines('6.1').every(({ recorded }) => recorded));
    t.same(['lab', 'bfd-frr', 'test/lib/prefix.test.ts'].map(testFile), [
      ...['lab', 'test/live/bfd-frr.test.ts', 'test/lib/prefix.test.ts'],
    ]);
  },
);

t.test('another architecture has tests of its own, with the image', async (t) => {
  const [kernel, { image }] = Object.entries(KERNELS).find(([, { arch }]) => arch === 'arm64')!;
  t.same(machines(kernel)[0]!.tests, image);
  t.same(machines(kernel, '--variant', 'no-ipv6')[0]!.tests, VARIANTS['no-ipv6']!.tests);
  t.equal(testFile('unit'), 'unit');
});

t.test('--list has what would run', async (t) => {
  t.match(readArguments(['--list', '6.1', '--variant', 'plain']), {
    action: 'list',
    machines: [{ kernel: '6.1' }],
  });
});

t.test('what is not known is refused by name', async (t) => {
  t.same(readArguments(['4.4']), { action: 'refuse', message: 'no such kernel: 4.4' });
  t.same(readArguments(['toString']), { action: 'refuse', message: 'no such kernel: toString' });
  t.same(readArguments(['--variant', 'odd']), { action: 'refuse', message: 'no such variant: odd' });
  t.match(readArguments(['--odd']), { action: 'refuse', message: /--odd/ });
  t.same(readArguments(['--help', '--odd=1', '6.1']).action, 'refuse');
  t.same(readArguments(['-h']), { action: 'help' });
  t.same(readArguments(['--clean']), { action: 'clean' });
});

t.test('modules are loaded after what they need, each once; what is built in is left out', async (t) => {
  const dep = `kernel/virtio.ko.xz:
kernel/virtio_ring.ko.xz: kernel/virtio.ko.xz
kernel/virtio_blk.ko.xz: kernel/virtio_ring.ko.xz kernel/virtio.ko.xz
kernel/virtio-pci.ko.xz: kernel/virtio_ring.ko.xz kernel/virtio.ko.xz
kernel/other.ko.xz:
`;
  t.same(modulesInOrder(dep, ['virtio_pci', 'virtio_blk', 'ext4']), [
    ...[
      'kernel/virtio.ko.xz',
      'kernel/virtio_ring.ko.xz',
      'kernel/virtio-pci.ko.xz',
      'kernel/virtio_blk.ko.xz',
    ],
  ]);
});

t.test('a machine writes to no disk, has no network, and has its disks in their order', async (t) => {
  const disks = { kernel: 'k', initrd: 'i', images: ['a', 'b'], output: 'o', console: 'c' };
  for (const arch of ['amd64', 'arm64'] as const) {
    const words = qemu(arch, 'ipv6.disable=1', disks);
    const drives = words.filter((_, i) => words[i - 1] === '-drive');
    t.same(
      drives.map((drive) => /file=(.*)/.exec(drive)![1]),
      ['a', 'b'],
    );
    t.ok(drives.every((drive) => drive.includes('snapshot=on')));
    t.equal(words[words.indexOf('-nic') + 1], 'none');
    t.match(words[words.indexOf('-append') + 1], / quiet ipv6.disable=1$/);
  }
});

t.test('the table has a line for each kernel with each variant', async (t) => {
  const row = (kernel: string, variant: string, result: string): KernelRow => ({
    ...{
      kernel,
      variant,
      result,
      release: `${kernel}.0-1`,
      tests: ['lab', 'nat'],
      date: '2026-11-29',
      commit: 'abc1234',
    },
  });
  const empty = '<!-- test:kernels -->\n<!-- /test:kernels -->\n';
  const first = withTable(empty, [
    row('6.1', 'no-ipv6', '1 passed, 0 failed'),
    row('6.1', 'plain', '2 passed, 0 failed'),
  ]);
  t.equal(
    withTable(first, [row('6.1', 'no-ipv6', '3 passed, 0 failed')]),
    `<!-- test:kernels -->
| kernel | release | run | result | date | commit |
|---|---|---|---|---|---|
| 6.1 plain | 6.1.0-1 | \`lab\` \`nat\` | 2 passed, 0 failed | 2026-11-29 | abc1234 |
| 6.1 no-ipv6 | 6.1.0-1 | \`lab\` \`nat\` | 3 passed, 0 failed | 2026-11-29 | abc1234 |
<!-- /test:kernels -->
`,
  );
});
