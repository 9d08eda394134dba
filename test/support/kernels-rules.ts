/** Pure. What `npm run test:kernels` runs on which kernel, how a machine is started, and the table of results. */
import { parseArgs } from 'node:util';
import { withLines } from './document-table.ts';

export type Architecture = 'amd64' | 'arm64';

export interface Kernel {
  /** The suite of Debian's archive that it comes from. */
  suite: string;
  arch: Architecture;
  /** Tests of `plain` in place of its own. The agent in them is the image's, whose programs run on nothing else here. */
  image?: readonly string[];
}

/** What the command line calls them. */
export const KERNELS: Readonly<Record<string, Kernel>> = {
  '5.10': { suite: 'bullseye', arch: 'amd64' },
  '6.1': { suite: 'bookworm', arch: 'amd64' },
  '6.12': { suite: 'trixie', arch: 'amd64' },
  backports: { suite: 'trixie-backports', arch: 'amd64' },
  sid: { suite: 'sid', arch: 'amd64' },
  'arm64-6.12': {
    ...{ suite: 'trixie', arch: 'arm64' },
    image: ['lab', 'kernel-features', 'agent-listings', 'agent-bfd', 'unit'],
  },
};

export interface Variant {
  /** Words for the kernel's command line. */
  append: string;
  /** Modules that cannot be loaded, nor what needs them. */
  without: readonly string[];
  /** The only backend of iptables that works, if not both. */
  backend?: 'nft' | 'legacy';
  /** `lab`, `unit`, and live tests by their names. */
  tests: readonly string[];
}

const LACKS = ['kernel-features'];

export const VARIANTS: Readonly<Record<string, Variant>> = {
  plain: {
    append: '',
    without: [],
    tests: [
      ...['lab', 'kernel-features', 'routing', 'agent-listings'],
      ...[
        'test/kernels/evpn.test.ts',
        'test/kernels/fast-path.test.ts',
        'test/kernels/fast-path-packets.test.ts',
      ],
    ],
  },
  'no-ipv6': { append: 'ipv6.disable=1', without: ['ipv6'], tests: LACKS },
  'no-ip-set': { append: '', without: ['ip_set', 'xt_set'], tests: LACKS },
  'nft-only': { append: '', without: ['ip_tables', 'ip6_tables'], backend: 'nft', tests: LACKS },
  'legacy-only': { append: '', without: ['nf_tables'], backend: 'legacy', tests: LACKS },
};

/** One machine to start. */
export interface Machine {
  kernel: string;
  variant: string;
  /** `lab`, live tests by their names, or other arguments of run.ts. */
  tests: readonly string[];
  /** Whether the result goes into the table: when all tests are the variant's own. */
  recorded: boolean;
}

export type Request =
  | { action: 'help' }
  | { action: 'clean' }
  | { action: 'run' | 'list'; machines: Machine[] }
  | { action: 'refuse'; message: string };

const OPTIONS = {
  variant: { type: 'string', multiple: true, default: [] },
  test: { type: 'string', multiple: true, default: [] },
  list: { type: 'boolean', default: false },
  clean: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false, short: 'h' },
} satisfies NonNullable<Parameters<typeof parseArgs>[0]>['options'];

export const USAGE = `usage: npm run test:kernels -- [KERNEL…] [--variant VARIANT]… [--test FILE]…
       npm run test:kernels -- --list | --clean | --help

  KERNEL       ${Object.keys(KERNELS).join(', ')} (default: all)
  --variant    ${Object.keys(VARIANTS).join(', ')} (default: all; of another architecture: plain)
  --test       run this test file only; the table is left as it is unless it is one of the variant's own
  --list       print what would run
  --clean      remove the cached kernels and file systems
`;

/** The argument of run.ts for a test: live tests may be named without their folder. */
export const testFile = (name: string): string =>
  /^[a-z][\w-]*$/.test(name) && name !== 'lab' && name !== 'unit' ? `test/live/${name}.test.ts` : name;

/** Reads the command line. */
export function readArguments(argv: readonly string[]): Request {
  const parsed = (() => {
    try {
      return parseArgs({ args: [...argv], options: OPTIONS, allowPositionals: true });
    } catch (error) {
      return (error as Error).message;
    }
  })();
  if (typeof parsed === 'string') return { action: 'refuse', message: parsed };
  const { values, positionals } = parsed;
  if (values.help) return { action: 'help' };
  if (values.clean) return { action: 'clean' };
  const kernel = positionals.find((name) => !Object.hasOwn(KERNELS, name));
  if (kernel !== undefined) return { action: 'refuse', message: `no such kernel: ${kernel}` };
  const variant = values.variant.find((name) => !Object.hasOwn(VARIANTS, name));
  if (variant !== undefined) return { action: 'refuse', message: `no such variant: ${variant}` };
  const machines = (positionals.length > 0 ? positionals : Object.keys(KERNELS)).flatMap((kernel) =>
    variantsOf(kernel, values.variant).map((variant) => {
      const own = testsOf(kernel, variant);
      const tests = values.test.length > 0 ? values.test : own;
      return { kernel, variant, tests, recorded: tests.every((test) => own.includes(test)) };
    }),
  );
  return { action: values.list ? 'list' : 'run', machines };
}

const testsOf = (kernel: string, variant: string): readonly string[] =>
  (variant === 'plain' ? KERNELS[kernel]!.image : undefined) ?? VARIANTS[variant]!.tests;

function variantsOf(kernel: string, asked: readonly string[]): readonly string[] {
  if (asked.length > 0) return asked;
  return KERNELS[kernel]!.arch === 'amd64' ? Object.keys(VARIANTS) : ['plain'];
}

/**
 * The modules that these need and they themselves, each after what it needs, as paths in modules.dep (the text of that
 * file). A name without a module is built in, and left out.
 */
export function modulesInOrder(modulesDep: string, names: readonly string[]): string[] {
  const needs = new Map<string, string[]>();
  for (const line of modulesDep.split('\n')) {
    const [path, rest] = line.split(':');
    if (path) needs.set(path, rest?.split(' ').filter(Boolean) ?? []);
  }
  const nameOf = (path: string) =>
    path
      .split('/')
      .at(-1)!
      .replace(/\.ko.*$/, '')
      .replaceAll('-', '_');
  const paths = names.flatMap((name) => [...needs.keys()].filter((path) => nameOf(path) === name));
  // depmod lists what a module needs with the last one first.
  return [...new Set(paths.flatMap((path) => [...needs.get(path)!.toReversed(), path]))];
}

export interface Disks {
  kernel: string;
  initrd: string;
  /** Images of file systems, in the order in which the machine's kernel names them. */
  images: readonly string[];
  /** Where the machine's output and the kernel's console go. */
  output: string;
  console: string;
}

/** The command line that starts a machine: emulated, without a network; nothing is written to its disks. */
export function qemu(
  arch: Architecture,
  append: string,
  { kernel, initrd, images, output, console }: Disks,
): string[] {
  const machine =
    arch === 'amd64'
      ? ['qemu-system-x86_64', '-cpu', 'max', '-accel', 'tcg,thread=multi']
      : [
          'qemu-system-aarch64',
          '-machine',
          'virt',
          '-cpu',
          'max,pauth-impdef=on',
          '-accel',
          'tcg,thread=multi',
        ];
  const terminal = arch === 'amd64' ? 'ttyS0' : 'ttyAMA0';
  return [
    ...['nice', '-n', '5', ...machine, '-smp', '2', '-m', '4096'],
    ...['-nodefaults', '-display', 'none', '-no-reboot', '-nic', 'none'],
    ...['-kernel', kernel, '-initrd', initrd],
    ...['-append', `console=${terminal} panic=-1 quiet${append === '' ? '' : ` ${append}`}`],
    ...['-serial', `file:${console}`],
    ...['-device', 'virtio-serial-pci', '-chardev', `file,id=output,path=${output}`],
    ...['-device', 'virtserialport,chardev=output,name=output'],
    ...images.flatMap((image, i) => [
      ...['-drive', `if=none,id=disk${i},format=raw,snapshot=on,file=${image}`],
      ...['-device', `virtio-blk-pci,drive=disk${i}`],
    ]),
  ];
}

export interface KernelRow {
  kernel: string;
  variant: string;
  /** Its release, as uname prints it; empty when it did not run. */
  release: string;
  /** `lab`, `unit`, and live tests by their names. */
  tests: readonly string[];
  result: string;
  /** ISO 8601, the day. */
  date: string;
  /** Abbreviated. */
  commit: string;
}

const HEAD = ['kernel', 'release', 'run', 'result', 'date', 'commit'];
const ORDER = Object.keys(KERNELS).flatMap((kernel) =>
  Object.keys(VARIANTS).map((variant) => `${kernel} ${variant}`),
);

/** The document with a line for each of these rows; lines of other machines stay as they are. */
export function withTable(document: string, rows: readonly KernelRow[]): string {
  const cells = rows.map(({ kernel, variant, release, tests, result, date, commit }) => [
    ...[`${kernel} ${variant}`, release, tests.map((test) => `\`${test}\``).join(' '), result, date, commit],
  ]);
  return withLines(document, 'test:kernels', HEAD, cells, ORDER);
}
