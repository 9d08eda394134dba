/**
 * Runs the lab and live tests on other kernels, each in a machine that QEMU emulates.
 *
 *     kernels.ts [KERNEL…] [--variant VARIANT]… [--test FILE]…     kernels-rules.ts has the rest
 *
 * A machine has four disks: Debian 12 made by mmdebstrap, so that the programs are those of `npm test`; the modules of the
 * kernel, from Debian's package; npm packages; the project as it is in this checkout, which is made for each run; that of
 * another architecture also the image for it, whose agent the tests run. The others
 * are made once, in node_modules/.cache/veg-kernels. Nothing is written to a disk, a machine has no network, and ends with
 * this process. Nothing is retried. A suite whose archive has expired is a line without a result. Exit code 0 when every
 * test passed, 1 when one failed or a machine could not be made or did not come to its end, 2 for a usage error.
 */
import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  cpSync,
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { runProgramsOf } from './foreign.ts';
import {
  type Architecture,
  type Disks,
  KERNELS,
  type Machine,
  modulesInOrder,
  qemu,
  readArguments,
  testFile,
  USAGE,
  VARIANTS,
  withTable,
} from './kernels-rules.ts';
import { countsOf, isExpired, sourcesOf, stableOf } from './releases-rules.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const CACHE = join(ROOT, 'node_modules/.cache/veg-kernels');
const DOCUMENT = join(ROOT, 'docs/requirements.md');

/** How much longer tests wait in an emulated machine. */
const SLOWNESS = 8;
/** How often a machine that prints nothing is mentioned, s. */
const HEARTBEAT = 120;
/** A machine that has printed nothing for this time has failed, s. A test file ends by itself before that. */
const SILENCE = 4000;

/** What the live tests run; setup.sh has the same for this machine. */
const PACKAGES = [
  ...['iproute2', 'iptables', 'ipset', 'nftables', 'conntrack', 'kmod', 'procps', 'curl', 'perl'],
  ...['netcat-openbsd', 'iputils-ping', 'tcpdump', 'traceroute', 'libcap2-bin', 'frr', 'bird2'],
];

/** What the start of a machine needs before it has its disks, and their files. */
const EARLY_MODULES = ['virtio_pci', 'virtio_blk', 'ext4'];

const log = (text: string): void => console.error(`kernels: ${text}`);

class Expired extends Error {}

/** Runs a command to its end; its output. Throws with the end of it when it fails. */
function must(argv: readonly string[], cwd = ROOT): string {
  const [program = '', ...args] = argv;
  try {
    return execFileSync(program, args, {
      cwd,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
      maxBuffer: 64 << 20,
    });
  } catch (error) {
    const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string };
    const output = `${stdout}${stderr}`.trim();
    if (isExpired(output)) throw new Expired('not run: the metadata of the archive has expired');
    throw new Error(`${program} failed: ${output.slice(-2000) || (error as Error).message}`);
  }
}

// What machines are made of ---------------------------------------------------------------------------------

/** A directory of the cache that `make` fills, unless it was filled from the same inputs before. */
function cached(name: string, inputs: string, what: string, make: (directory: string) => void): string {
  const directory = join(CACHE, name);
  const marker = join(directory, 'inputs');
  if (existsSync(marker) && readFileSync(marker, 'utf8') === inputs) return directory;
  log(`making ${what}`);
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(CACHE, { recursive: true });
  const partial = mkdtempSync(join(CACHE, `${name}.partial-`));
  try {
    make(partial);
    writeFileSync(join(partial, 'inputs'), inputs);
    renameSync(partial, directory);
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
  return directory;
}

/** An image of a file system with these files; `spare`: MiB beyond them. */
function image(file: string, directory: string, spare: number): void {
  const used = Number(must(['du', '-sm', '--apparent-size', directory]).split('\t')[0]);
  const inodes = Number(must(['sh', '-c', 'find "$1" | wc -l', 'sh', directory]));
  const size = Math.ceil(used * 1.15 + inodes / 150) + spare;
  must([
    'mke2fs',
    '-q',
    '-t',
    'ext4',
    '-O',
    '^has_journal',
    '-N',
    `${inodes + 20_000}`,
    '-d',
    directory,
    file,
    `${size}M`,
  ]);
}

/** Debian 12 with what the live tests run. */
function systemOf(arch: Architecture): string {
  const packages = PACKAGES.join(',');
  const directory = cached(
    `system-${arch}`,
    packages,
    `Debian 12 for ${arch} (a minute, for another architecture many)`,
    (to) => {
      const tree = join(to, 'tree');
      must([
        'mmdebstrap',
        '--variant=minbase',
        `--architectures=${arch}`,
        `--include=${packages}`,
        'bookworm',
        tree,
      ]);
      image(join(to, 'image'), tree, 300);
      rmSync(tree, { recursive: true });
    },
  );
  return join(directory, 'image');
}

interface KernelFiles {
  kernel: string;
  initrd: string;
  modules: string;
}

/** Debian's newest kernel for clouds of a suite. */
function kernelOf(name: string): KernelFiles {
  const { suite, arch } = KERNELS[name]!;
  const init = readFileSync(join(ROOT, 'test/support/kernels-init.sh'), 'utf8');
  const packages = `linux-image-cloud-${arch}/${suite},busybox-static`;
  const inputs = `${suite} ${packages} ${createHash('sha256').update(init).digest('hex')}`;
  const directory = cached(`kernel-${name}`, inputs, `the kernel ${name}, from ${suite}`, (to) => {
    const tree = join(to, 'tree');
    must([
      ...['mmdebstrap', '--variant=extract', `--architectures=${arch}`],
      ...[`--include=${packages}`, stableOf(suite), tree, ...sourcesOf(suite, process.env)],
    ]);
    const [modules] = globSync(['lib/modules/*', 'usr/lib/modules/*'], { cwd: tree });
    const [kernel] = globSync(['boot/vmlinuz-*', 'usr/lib/modules/*/vmlinuz'], { cwd: tree });
    if (modules === undefined || kernel === undefined)
      throw new Error(`${suite} has no kernel in ${packages}`);
    const version = modules.split('/').at(-1)!;
    renameSync(join(tree, kernel), join(to, 'vmlinuz'));
    // depmod reads lib/modules.
    const base = join(to, 'base');
    mkdirSync(join(base, 'lib/modules'), { recursive: true });
    renameSync(join(tree, modules), join(base, 'lib/modules', version));
    must(['depmod', '-b', base, version]);
    image(join(to, 'modules'), join(base, 'lib/modules', version), 20);
    writeInitrd(join(to, 'initrd'), join(base, 'lib/modules', version), tree, init);
    for (const path of [tree, base]) rmSync(path, { recursive: true });
  });
  return {
    kernel: join(directory, 'vmlinuz'),
    initrd: join(directory, 'initrd'),
    modules: join(directory, 'modules'),
  };
}

/** The file system that a machine starts from: busybox, the modules that its disks need, and its first program. */
function writeInitrd(file: string, modules: string, tree: string, init: string): void {
  const to = `${file}.tree`;
  for (const name of ['bin', 'dev', 'modules', 'proc', 'root', 'sys'])
    mkdirSync(join(to, name), { recursive: true });
  const [busybox] = globSync(['bin/busybox', 'usr/bin/busybox'], { cwd: tree });
  cpSync(join(tree, busybox!), join(to, 'bin/busybox'));
  writeFileSync(join(to, 'init'), init, { mode: 0o755 });
  const order = modulesInOrder(readFileSync(join(modules, 'modules.dep'), 'utf8'), EARLY_MODULES);
  for (const [i, path] of order.entries()) {
    const unpack = path.endsWith('.xz') ? 'xz -dc' : path.endsWith('.zst') ? 'zstd -dc' : 'cat';
    must([
      'sh',
      '-c',
      `${unpack} "$1" >"$2"`,
      'sh',
      join(modules, path),
      join(to, 'modules', `${i}`.padStart(2, '0')),
    ]);
  }
  must(['sh', '-c', 'cd "$1" && find . | cpio --quiet -o -H newc >"$2"', 'sh', to, file]);
  rmSync(to, { recursive: true });
}

/** npm packages for an architecture, development's too. */
function packagesOf(arch: Architecture): string {
  const lock = createHash('sha256')
    .update(readFileSync(join(ROOT, 'package-lock.json')))
    .digest('hex');
  const directory = cached(`npm-${arch}`, lock, `npm packages for ${arch}`, (to) => {
    const tree = join(to, 'tree');
    mkdirSync(tree);
    for (const name of ['package.json', 'package-lock.json', '.npmrc'])
      cpSync(join(ROOT, name), join(tree, name));
    const cpu = arch === 'amd64' ? 'x64' : 'arm64';
    must(
      [
        'npm',
        'ci',
        '--prefix',
        tree,
        `--cpu=${cpu}`,
        '--ignore-scripts',
        '--loglevel=error',
        '--no-audit',
        '--no-fund',
      ],
      tree,
    );
    image(join(to, 'image'), join(tree, 'node_modules'), 100);
    rmSync(tree, { recursive: true });
  });
  return join(directory, 'image');
}

/** The root of the image that `npm run image` makes, with its files' capabilities. */
function imageOf(arch: Architecture): string {
  const inputs = must(['sh', 'test/support/image.sh', '--inputs']);
  const directory = cached(`image-${arch}`, inputs, `the image for ${arch} (many minutes)`, (to) => {
    const [archive, layout, tree] = [join(to, 'archive'), join(to, 'layout'), join(to, 'tree')];
    const tag = `localhost/veg-agent-kernels:${arch}`;
    must(['sh', 'images/gateway/build.sh', '--arch', arch, '--tag', tag, '--archive', archive]);
    must(['buildah', 'rmi', tag]);
    for (const path of [layout, tree]) mkdirSync(path);
    must(['tar', '-C', layout, '-xf', archive]);
    const blob = (digest: string) => join(layout, 'blobs', digest.replace(':', '/'));
    const index = JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')) as { manifests: Blob[] };
    const manifest = JSON.parse(readFileSync(blob(index.manifests[0]!.digest), 'utf8')) as { layers: Blob[] };
    for (const { digest } of manifest.layers)
      must(['tar', '--xattrs', '--xattrs-include=*', '-C', tree, '-xf', blob(digest)]);
    image(join(to, 'image'), tree, 50);
    for (const path of [archive, layout, tree]) rmSync(path, { recursive: true });
  });
  return join(directory, 'image');
}

/** A part of an OCI archive. */
interface Blob {
  digest: string;
}

/** The project as it is in this checkout, built, and what to run. */
function writeProject(file: string, directory: string, { kernel, variant, tests }: Machine): void {
  const { arch } = KERNELS[kernel]!;
  const { without, backend = '' } = VARIANTS[variant]!;
  const names = must(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'])
    .split('\0')
    .filter((path) => path !== '' && existsSync(join(ROOT, path)));
  for (const name of [...names, 'dist']) cpSync(join(ROOT, name), join(directory, name), { recursive: true });
  for (const name of names.filter((path) => path.endsWith('.ts'))) {
    const stripped = join(directory, 'dist/.stripped', name);
    mkdirSync(dirname(stripped), { recursive: true });
    writeFileSync(stripped, stripTypeScriptTypes(readFileSync(join(ROOT, name), 'utf8')));
  }
  mkdirSync(join(directory, 'node_modules'));
  const lines = [
    `export VEG_TEST_SLOWNESS=${SLOWNESS}`,
    `export VEG_TEST_SOURCES=--import=file:///veg/test/support/stripped.mjs`,
    // QEMU translates what V8 compiles again each time. The agents of live tests run without these options.
    `export NODE_OPTIONS="$VEG_TEST_SOURCES ${arch === 'amd64' ? '' : '--jitless'}"`,
    `export VEG_KERNEL_LACKS='${without.join(' ')}'`,
    `BACKEND=${backend}`,
    `TESTS='${tests.map(testFile).join(' ')}'`,
  ];
  writeFileSync(join(directory, 'job'), `${lines.join('\n')}\n`);
  image(file, directory, 50);
}

// Running it ------------------------------------------------------------------------------------------------

interface Ran {
  /** The kernel's release; empty when it did not start. */
  release: string;
  result: string;
  good: boolean;
}

/** Starts a machine and prints what it prints, until it has ended. */
async function run(machine: Machine, disks: Disks): Promise<Ran> {
  const { arch } = KERNELS[machine.kernel]!;
  const [program = '', ...args] = qemu(arch, VARIANTS[machine.variant]!.append, disks);
  writeFileSync(disks.output, '');
  const child = spawn(program, args, { stdio: ['ignore', 'inherit', 'inherit'] });
  const stop = () => child.kill('SIGKILL');
  process.on('exit', stop);
  let ended = false;
  child.on('error', (error) => log(error.message));
  const end = new Promise<void>((resolve) => {
    child.on('close', () => {
      ended = true;
      resolve();
    });
  });
  let shown = 0;
  let since = performance.now();
  const show = () => {
    const output = readFileSync(disks.output);
    const whole = output.subarray(shown, output.lastIndexOf(10) + 1);
    if (whole.length === 0) return;
    process.stdout.write(whole.toString().replaceAll(/^(?:exit \d+|\d+ passed, \d+ failed.*)\n/gm, ''));
    shown += whole.length;
    since = performance.now();
  };
  let said = performance.now();
  while (!ended) {
    await Promise.race([sleep(1000), end]);
    show();
    if (performance.now() - Math.max(since, said) > HEARTBEAT * 1000) {
      said = performance.now();
      log(
        `${machine.kernel} ${machine.variant}: running, ${Math.round((said - since) / 60_000)} min for this test`,
      );
    }
    if (performance.now() - since > SILENCE * 1000) {
      log(`nothing for ${SILENCE} s: ending the machine`);
      stop();
      await end;
    }
  }
  process.off('exit', stop);
  const output = readFileSync(disks.output, 'utf8');
  const release = /^started (\S+)$/m.exec(output)?.[1] ?? '';
  const code = /^exit (\d+)$/m.exec(output)?.[1];
  if (code === undefined) {
    process.stdout.write(`${readFileSync(disks.console, 'utf8').slice(-4000)}\n`);
    return { release, result: release === '' ? 'did not start' : 'did not come to its end', good: false };
  }
  const [passed, failed] = countsOf(output.replace(/^exit \d+\n/m, ''));
  return { release, result: `${passed} passed, ${failed} failed`, good: code === '0' };
}

/** Makes what a machine needs, and runs it. */
async function runMachine(machine: Machine): Promise<Ran> {
  const { arch } = KERNELS[machine.kernel]!;
  try {
    // The packages of the system are set up by their own programs.
    runProgramsOf(arch);
    const { kernel, initrd, modules } = kernelOf(machine.kernel);
    const system = systemOf(arch);
    const packages = packagesOf(arch);
    const own = KERNELS[machine.kernel]!.image ? [imageOf(arch)] : [];
    const work = mkdtempSync(join(CACHE, 'run-'));
    const remove = () => rmSync(work, { recursive: true, force: true });
    process.on('exit', remove);
    const project = join(work, 'project');
    writeProject(project, mkdtempSync(join(work, 'tree-')), machine);
    log(`${machine.kernel} ${machine.variant}: starting ${machine.tests.join(' ')}`);
    const ran = await run(machine, {
      ...{ kernel, initrd, images: [system, modules, packages, project, ...own] },
      ...{ output: join(work, 'output'), console: join(work, 'console') },
    });
    process.off('exit', remove);
    remove();
    return ran;
  } catch (error) {
    if (error instanceof Expired) return { release: '', result: error.message, good: true };
    log((error as Error).message);
    return { release: '', result: 'the machine could not be made', good: false };
  }
}

/** The commit that runs, abbreviated; with a + when the tree has changes. */
function commit(): string {
  const clean = must(['git', 'status', '--porcelain', '--', ':!docs/requirements.md']) === '';
  return `${must(['git', 'rev-parse', '--short', 'HEAD']).trim()}${clean ? '' : '+'}`;
}

const request = readArguments(process.argv.slice(2));
if (request.action === 'refuse') {
  process.stderr.write(`kernels: error: ${request.message}\n${USAGE}`);
  process.exit(2);
}
if (request.action === 'help') {
  process.stdout.write(USAGE);
  process.exit(0);
}
if (request.action === 'clean') {
  rmSync(CACHE, { recursive: true, force: true });
  process.exit(0);
}
const { machines } = request;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => process.exit(130));
if (request.action === 'list') {
  for (const { kernel, variant, tests } of machines)
    console.log(`${`${kernel} ${variant}`.padEnd(24)} ${tests.join(' ')}`);
  process.exit(0);
}
const results: [Machine, Ran][] = [];
for (const machine of machines) {
  const at = commit();
  const ran = await runMachine(machine);
  results.push([machine, ran]);
  if (!machine.recorded) continue;
  const row = { ...machine, ...ran, date: new Date().toISOString().slice(0, 10), commit: at };
  // At once: a run that is interrupted keeps what it found.
  writeFileSync(DOCUMENT, withTable(readFileSync(DOCUMENT, 'utf8'), [row]));
}
for (const [{ kernel, variant }, { release, result }] of results)
  console.log(`${`${kernel} ${variant}`.padEnd(24)} ${result.padEnd(24)} ${release}`);
if (results.some(([{ recorded }]) => recorded)) log('wrote the table in docs/requirements.md');
process.exit(results.every(([, { good }]) => good) ? 0 : 1);
