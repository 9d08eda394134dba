/**
 * Makes the files of a release: sources, images, SBOM, release notes, checksums. Two runs for one commit and one snapshot of
 * Debian's archive write the same files to the byte.
 *
 *     release.ts [--out DIRECTORY] [--arch amd64,arm64] [--dry-run]
 *
 * Exit code 0 when all files are there, 1 when the checkout cannot be released or a step failed, 2 for a usage error. The
 * directory has either all files of a release or what it had before.
 */
import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  createReadStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { runProgramsOf } from './foreign.ts';
import {
  ARCHITECTURES,
  type Architecture,
  type Checkout,
  filesOf,
  type ReleaseFiles,
  refusals,
  releaseNotes,
  tagOf,
} from './release-rules.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const USAGE = `usage: npm run release -- [--out DIRECTORY] [--arch amd64,arm64] [--dry-run]

  --out DIRECTORY   where the files go (default: release)
  --arch LIST       the architectures of the images (default: amd64,arm64)
  --dry-run         check whether this checkout can be released, list the files, and write nothing
`;

const log = (text: string): void => console.error(`release: ${text}`);
const git = (...args: string[]): string =>
  execFileSync('git', args, { cwd: ROOT, encoding: 'utf8' }).trimEnd();
const read = (name: string): string => readFileSync(join(ROOT, name), 'utf8');

function usageError(message: string): never {
  process.stderr.write(`release: error: ${message}\n${USAGE}`);
  process.exit(2);
}

class ReleaseError extends Error {}

function readOptions(): { out: string; architectures: Architecture[]; dryRun: boolean } {
  const options = {
    out: { type: 'string', default: 'release' },
    arch: { type: 'string', default: ARCHITECTURES.join() },
    'dry-run': { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  } as const;
  const parsed = (() => {
    try {
      return parseArgs({ options }).values;
    } catch (error) {
      return usageError((error as Error).message);
    }
  })();
  if (parsed.help) {
    process.stdout.write(USAGE);
    process.exit(0);
  }
  const names = parsed.arch.split(',');
  const unknown = names.filter((name) => !ARCHITECTURES.includes(name as Architecture));
  if (unknown.length > 0) usageError(`--arch: ${unknown.join()} is none of ${ARCHITECTURES.join()}`);
  const architectures = ARCHITECTURES.filter((name) => names.includes(name));
  return { out: resolve(ROOT, parsed.out), architectures, dryRun: parsed['dry-run'] };
}

function readCheckout(): Checkout {
  const { version } = JSON.parse(read('package.json'));
  const status = git('status', '--porcelain');
  const tag = git('tag', '--list', tagOf(version));
  return {
    version,
    lockVersion: JSON.parse(read('package-lock.json')).version,
    changes: status === '' ? [] : status.split('\n'),
    changelog: read('CHANGELOG.md'),
    commit: git('rev-parse', 'HEAD'),
    tagged: tag === '' ? undefined : git('rev-parse', `${tag}^{commit}`),
  };
}

/** Runs programs of all architectures here, or says which not. */
function prepareForeign(architectures: readonly Architecture[]): void {
  for (const architecture of architectures) {
    try {
      runProgramsOf(architecture);
    } catch (error) {
      throw new ReleaseError(
        `${(error as Error).message}: build it there with --arch ${architecture} (docs/releasing.md)`,
      );
    }
  }
}

/** Runs a command; its output appears only when it fails. */
async function command(argv: readonly string[]): Promise<void> {
  const [program = '', ...args] = argv;
  const child = spawn(program, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      output += text;
    });
  }
  const { promise, resolve: ended, reject } = Promise.withResolvers<number | null>();
  child.on('error', reject).on('close', ended);
  const code = await promise;
  if (code !== 0) throw new ReleaseError(`${argv.join(' ')}: exit code ${code}\n${output}`);
}

async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}

interface Step {
  what: string;
  run(): Promise<void> | void;
}

/** The steps that write a release's files into a directory. */
function stepsOf(checkout: Checkout, files: ReleaseFiles, directory: string): Step[] {
  const at = (name: string): string => join(directory, name);
  const { version } = checkout;
  const archive = [
    'git',
    'archive',
    '--format=tar.gz',
    `--prefix=veg-agent-${version}/`,
    '-o',
    at(files.source),
    'HEAD',
  ];
  const images = files.images.flatMap(({ architecture, image, frr, sbom, frrSbom }): Step[] => {
    const options = (name: string, file: string, parts: string) => [
      ...['--tag', `localhost/${name}-release-${architecture}:${version}`],
      ...['--arch', architecture, '--archive', at(file), '--sbom', at(parts)],
    ];
    const gateway = options('veg-agent', image, sbom);
    const router = options('veg-frr', frr, frrSbom);
    return [
      { what: image, run: () => command(['sh', 'images/gateway/build.sh', ...gateway]) },
      { what: frr, run: () => command(['sh', 'images/frr/build.sh', ...router]) },
    ];
  });
  const checksums = async (): Promise<void> => {
    const lines: string[] = [];
    for (const name of readdirSync(directory).sort()) lines.push(`${await sha256(at(name))}  ${name}\n`);
    writeFileSync(at(files.checksums), lines.join(''));
  };
  return [
    { what: files.source, run: () => command(archive) },
    ...images,
    { what: files.notes, run: () => writeFileSync(at(files.notes), releaseNotes(checkout, files)) },
    { what: files.checksums, run: checksums },
  ];
}

const namesOf = ({ source, notes, checksums, images }: ReleaseFiles): string[] => [
  ...[source, notes, checksums],
  ...images.flatMap(({ image, frr, sbom, frrSbom }) => [image, frr, sbom, frrSbom]),
];

/** Throws when the directory has files that this release would not replace. */
function checkDirectory(out: string, version: string): void {
  const own = namesOf(filesOf(version, ARCHITECTURES));
  const others = (existsSync(out) ? readdirSync(out) : []).filter((name) => !own.includes(name));
  if (others.length > 0)
    throw new ReleaseError(
      `${out} has files of something else (${others.join(', ')}): remove them, or use --out`,
    );
}

/** Makes a release. Throws a `ReleaseError`. */
async function release(): Promise<void> {
  const { out, architectures, dryRun } = readOptions();
  const checkout = readCheckout();
  const { version, commit, tagged } = checkout;
  const reasons = refusals(checkout);
  if (reasons.length > 0) throw new ReleaseError(`${version} cannot be released\n  ${reasons.join('\n  ')}`);
  checkDirectory(out, version);
  const files = filesOf(version, architectures);
  log(`veg-agent ${version}, commit ${commit.slice(0, 12)}${tagged === undefined ? ', not tagged yet' : ''}`);
  if (dryRun) {
    for (const name of namesOf(files)) log(`would write ${join(out, name)}`);
    return;
  }
  prepareForeign(architectures);
  mkdirSync(dirname(out), { recursive: true });
  const work = mkdtempSync(`${out}.`);
  try {
    const steps = stepsOf(checkout, files, work);
    for (const [i, { what, run }] of steps.entries()) {
      const began = performance.now();
      log(`[${i + 1}/${steps.length}] ${what}`);
      await run();
      log(`[${i + 1}/${steps.length}] done in ${((performance.now() - began) / 1000).toFixed(0)} s`);
    }
    chmodSync(work, 0o755);
    rmSync(out, { recursive: true, force: true });
    renameSync(work, out);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  process.stdout.write(readFileSync(join(out, files.checksums), 'utf8'));
}

try {
  await release();
} catch (error) {
  if (!(error instanceof ReleaseError)) throw error;
  console.error(`release: error: ${error.message}`);
  process.exit(1);
}
