/**
 * Runs live tests with the programs of other Debian releases in place of this machine's, on this machine's kernel.
 *
 *     releases.ts [NAME…]     all of them, or those
 *     releases.ts --clean     removes the cached roots
 *
 * A root is a Debian made by mmdebstrap, once, in .releases/SUITE. Its programs run through its own loader and libraries, without a
 * chroot: a wrapper for each is first in PATH. VEG_OVN_ROOT and VEG_FRR_ROOT name the root to the tests that start daemons
 * by their files (ovn.ts, bgp.ts, peers.ts). Test files that run at a time have a lock of iptables each, since
 * their own iptables commands do not wait for it. Nothing is retried. A suite whose archive has expired is a line without a
 * result. Exit code 0 when every test passed, 1 when one failed or a root could not be made, 2 for a usage error. The table
 * goes to docs/requirements.md too.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { countsOf, isExpired, type ReleaseRow, sourcesOf, stableOf, withTable } from './releases-rules.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const CACHE = join(ROOT, '.releases');
const DOCUMENT = join(ROOT, 'docs/requirements.md');

/** A root: a suite of Debian and the packages in it. */
interface Base {
  suite: string;
  packages: readonly string[];
}

const FILTER = ['iptables', 'ipset', 'nftables'];
const BASES = {
  bullseye: { suite: 'bullseye', packages: FILTER },
  trixie: {
    suite: 'trixie',
    packages: [...FILTER, 'ovn-central', 'ovn-host', 'openvswitch-switch', 'frr', 'bird2'],
  },
  'trixie-bird3': { suite: 'trixie', packages: ['bird3'] },
  'trixie-backports': {
    suite: 'trixie-backports',
    packages: ['bird3/trixie-backports', 'gobgpd/trixie-backports'],
  },
  sid: {
    suite: 'sid',
    packages: [...FILTER, 'ovn-central', 'ovn-host', 'openvswitch-switch', 'frr', 'bird3'],
  },
} satisfies Record<string, Base>;

/** Programs that replace this machine's; `lanes`: how many test files run at a time. */
const KINDS = {
  ovn: { lanes: 1, programs: [], tests: ['ovn', 'group-ovn'], version: ['/usr/bin/ovn-nbctl'] },
  frr: {
    lanes: 2,
    programs: ['/usr/bin/vtysh'],
    tests: ['bfd-frr', 'agent-bfd', 'bgp', 'bgp-gateways'],
    version: ['/usr/lib/frr/bfdd'],
  },
  bird: {
    lanes: 2,
    programs: ['/usr/sbin/bird', '/usr/sbin/birdc'],
    tests: ['bfd-bird', 'bgp'],
    version: ['/usr/sbin/bird'],
  },
  gobgp: {
    lanes: 1,
    programs: ['/usr/bin/gobgpd', '/usr/bin/gobgp'],
    tests: ['bgp'],
    version: ['/usr/bin/gobgpd'],
  },
  iptables: {
    lanes: 2,
    programs: ['/usr/sbin/ipset', '/usr/sbin/nft'],
    tests: ['nat', 'nat-policies', 'agent-listings', 'agent-repair', 'policy-counters', 'port-blocks'],
    version: ['/usr/sbin/xtables-nft-multi', '/usr/sbin/ipset', '/usr/sbin/nft'],
  },
} as const;

interface Release {
  base: keyof typeof BASES;
  kind: keyof typeof KINDS;
}

const RELEASES: Record<string, Release> = {
  'ovn-25.03': { base: 'trixie', kind: 'ovn' },
  'frr-10.3': { base: 'trixie', kind: 'frr' },
  'bird-2.17': { base: 'trixie', kind: 'bird' },
  'bird-3.1': { base: 'trixie-bird3', kind: 'bird' },
  'bird-backports': { base: 'trixie-backports', kind: 'bird' },
  'gobgp-backports': { base: 'trixie-backports', kind: 'gobgp' },
  'iptables-1.8.7': { base: 'bullseye', kind: 'iptables' },
  'iptables-1.8.11': { base: 'trixie', kind: 'iptables' },
  'ovn-sid': { base: 'sid', kind: 'ovn' },
  'frr-sid': { base: 'sid', kind: 'frr' },
  'bird-sid': { base: 'sid', kind: 'bird' },
  'iptables-sid': { base: 'sid', kind: 'iptables' },
};

const USAGE = `usage: npm run test:releases -- [NAME…]
       npm run test:releases -- --clean

  NAME      ${Object.keys(RELEASES).join(', ')} (default: all)
  --clean   remove the cached roots in .releases
`;

const log = (text: string): void => console.error(`releases: ${text}`);

function usageError(message: string): never {
  process.stderr.write(`releases: error: ${message}\n${USAGE}`);
  process.exit(2);
}

/** Runs a command to its end; both outputs as one text. */
async function command(
  argv: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<{ code: number | null; output: string }> {
  const [program = '', ...args] = argv;
  const child = spawn(program, args, {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      output += text;
    });
  }
  const { promise, resolve, reject } = Promise.withResolvers<number | null>();
  child.on('error', reject).on('close', resolve);
  return { code: await promise, output };
}

// Roots -----------------------------------------------------------------------------------------------------

const made = new Map<string, string | undefined>();

/** Makes a root unless it is cached with these packages. Undefined when it is there, else why not. */
async function makeRoot(name: keyof typeof BASES): Promise<string | undefined> {
  if (made.has(name)) return made.get(name);
  const { suite, packages } = BASES[name];
  const [root, marker] = [join(CACHE, name), join(CACHE, `${name}.packages`)];
  const wanted = packages.join(',');
  if (existsSync(marker) && readFileSync(marker, 'utf8') === wanted) {
    made.set(name, undefined);
    return undefined;
  }
  log(`making the root ${name} (a minute)`);
  const partial = `${root}.partial`;
  for (const path of [root, marker, partial]) rmSync(path, { recursive: true, force: true });
  mkdirSync(CACHE, { recursive: true });
  const stable = stableOf(suite);
  const { code, output } = await command([
    ...['mmdebstrap', '--variant=minbase', `--include=${wanted}`, stable, partial],
    // Other suites come from mmdebstrap's own sources, with security updates.
    ...(suite === stable ? [] : sourcesOf(suite, process.env)),
  ]);
  if (code === 0) {
    renameSync(partial, root);
    writeFileSync(marker, wanted);
    made.set(name, undefined);
    return undefined;
  }
  rmSync(partial, { recursive: true, force: true });
  const reason = isExpired(output) ? EXPIRED : 'the root could not be made';
  if (reason !== EXPIRED) process.stdout.write(output);
  made.set(name, reason);
  return reason;
}

const EXPIRED = 'not run: the metadata of the archive has expired';

// Programs of a root ----------------------------------------------------------------------------------------

const TRIPLE = `${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`;
const LOADER = process.arch === 'arm64' ? 'ld-linux-aarch64.so.1' : 'ld-linux-x86-64.so.2';

/** A program of a root as a command: its loader first, since links in the root may lead outside of it. */
function inRoot(root: string, file: string): string[] {
  const libraries = [`lib/${TRIPLE}`, `usr/lib/${TRIPLE}`, `usr/lib/${TRIPLE}/frr`].map((path) =>
    join(root, path),
  );
  return [join(root, 'lib', TRIPLE, LOADER), '--library-path', libraries.join(':'), join(root, file)];
}

/** Wrappers of programs by the names that the agent and the tests run. */
function writeWrappers(root: string, kind: Release['kind']): string {
  const directory = `${root}.${kind}`;
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory);
  const write = (name: string, file: string, ...words: string[]) =>
    writeFileSync(
      join(directory, name),
      `#!/bin/sh\nexport XTABLES_LIBDIR=${join(root, 'usr/lib', TRIPLE, 'xtables')}\nexec ${[...inRoot(root, file), ...words].join(' ')} "$@"\n`,
      { mode: 0o755 },
    );
  for (const file of KINDS[kind].programs) write(file.split('/').at(-1)!, file);
  if (kind !== 'iptables') return directory;
  for (const program of ['iptables', 'ip6tables'])
    for (const backend of ['', '-nft', '-legacy'])
      for (const action of ['', '-save', '-restore']) {
        const name = `${program}${backend}${action}`;
        write(name, `/usr/sbin/xtables-${backend === '-legacy' ? 'legacy' : 'nft'}-multi`, name);
      }
  return directory;
}

/** `PROGRAM VERSION` of each program that says what the release is. */
function versionsOf(root: string, kind: Release['kind']): string {
  return KINDS[kind].version
    .map((file) => {
      const words = file.endsWith('-multi') ? ['iptables', '--version'] : ['--version'];
      const [program = '', ...args] = [...inRoot(root, file), ...words];
      const { stdout, stderr } = spawnSync(program, args, { encoding: 'utf8' });
      const name = file.endsWith('-multi') ? 'iptables' : file.split('/').at(-1)!;
      return `${name} ${/\d+\.\d+[\d.]*/.exec(stdout + stderr)?.[0] ?? '?'}`;
    })
    .join(', ');
}

// Running it ------------------------------------------------------------------------------------------------

const git = (...args: string[]): string => execFileSync('git', args, { cwd: ROOT, encoding: 'utf8' }).trim();

interface Ended extends ReleaseRow {
  failed: boolean;
}

async function runRelease(name: string): Promise<Ended> {
  const { base, kind } = RELEASES[name]!;
  const { tests } = KINDS[kind];
  const dirty = git('status', '--porcelain', '--', ':!docs/requirements.md') === '' ? '' : '+';
  const row = {
    name,
    tests,
    date: new Date().toISOString().slice(0, 10),
    commit: `${git('rev-parse', '--short', 'HEAD')}${dirty}`,
  };
  const reason = await makeRoot(base);
  if (reason !== undefined) return { ...row, programs: '', result: reason, failed: reason !== EXPIRED };
  const root = join(CACHE, base);
  const programs = versionsOf(root, kind);
  log(`${name}: ${programs}: ${tests.join(' ')}`);
  const env = {
    PATH: `${writeWrappers(root, kind)}:${process.env.PATH}`,
    ...(kind === 'ovn' ? { VEG_OVN_ROOT: root } : {}),
    ...(kind === 'frr' ? { VEG_FRR_ROOT: root } : {}),
  };
  const runs: { code: number | null; counts: [number, number] }[] = [];
  const waiting = [...tests.entries()];
  const lane = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const [i, test] = next;
      const argv = [process.execPath, 'test/support/run.ts', `test/live/${test}.test.ts`];
      const { code, output } = await command(argv, { ...env, XTABLES_LOCKFILE: `${root}.${kind}/lock.${i}` });
      process.stdout.write(output.replace(/^\d+ passed, \d+ failed.*\n$/m, ''));
      runs.push({ code, counts: countsOf(output) });
    }
  };
  await Promise.all(Array.from({ length: KINDS[kind].lanes }, lane));
  const [passed, failed] = runs.reduce(([a, b], { counts: [c, d] }) => [a + c, b + d], [0, 0]);
  return {
    ...row,
    programs,
    result: `${passed} passed, ${failed} failed`,
    failed: runs.some(({ code }) => code !== 0),
  };
}

function readArguments(): { names: string[]; clean: boolean } {
  const options = {
    clean: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  } as const;
  const parsed = (() => {
    try {
      return parseArgs({ options, allowPositionals: true });
    } catch (error) {
      return usageError((error as Error).message);
    }
  })();
  if (parsed.values.help) {
    process.stdout.write(USAGE);
    process.exit(0);
  }
  const unknown = parsed.positionals.filter((name) => !Object.hasOwn(RELEASES, name));
  if (unknown.length > 0) usageError(`no such release: ${unknown.join(' ')}`);
  const names = parsed.positionals.length > 0 ? parsed.positionals : Object.keys(RELEASES);
  return { names, clean: parsed.values.clean };
}

const { names, clean } = readArguments();
if (clean) {
  rmSync(CACHE, { recursive: true, force: true });
  process.exit(0);
}
const rows: Ended[] = [];
for (const name of names) {
  const row = await runRelease(name);
  rows.push(row);
  // At once: a run that is interrupted keeps what it found.
  writeFileSync(DOCUMENT, withTable(readFileSync(DOCUMENT, 'utf8'), [row], Object.keys(RELEASES)));
}
for (const { name, programs, result } of rows)
  console.log(`${name.padEnd(16)} ${result.padEnd(24)} ${programs}`);
log('wrote the table in docs/requirements.md');
process.exit(rows.some(({ failed }) => failed) ? 1 : 0);
