/**
 * Bundles the programs of the image: `node images/gateway/bundle.ts DIRECTORY [ARCHITECTURE NODE_MODULES]` writes the tree that
 * the image has at /opt/veg-agent. ARCHITECTURE is Node's name of the image's processor, by default this machine's;
 * NODE_MODULES has the packages of it.
 *
 *     package.json                    name and version
 *     dist/agent/*.js, dist/bfd/*.js  the programs, and what they share
 *     dist/agent/page.html            the page, built
 *     build/koffi/…/koffi.node        where koffi looks for its library
 *     LICENSE, THIRD-PARTY            our licence, and those of Node and of the npm packages in the bundle
 *     npm.json                        those packages as `npm sbom` describes them, for sbom.ts
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build, type Plugin } from 'esbuild';
import { precompiledValidators } from '../../agent/policy/build.ts';
import { writePage } from '../../agent/show/page/build.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/**
 * The programs: what is started, forked or run as a thread by its file name. In one directory, where they find each other. Those of
 * one line share parts; each part that several have is a file more to load, so what starts often or must be quick is alone.
 */
const PROGRAMS: Record<string, string>[] = [
  { 'agent/child': 'agent/child.ts' },
  {
    'agent/main': 'agent/main.ts',
    'agent/kube-ovn-observer': 'agent/kube-ovn/observer.ts',
    'agent/kube-ovn-supervisor': 'agent/kube-ovn/bfdd-supervisor.ts',
    'bfd/main': 'bfd/main.ts',
  },
  { 'agent/group-worker': 'agent/group/group-worker.ts' },
  { 'agent/translations-worker': 'agent/flows/translations-worker.ts' },
];

/** Parts of packages that nothing here uses, and that load half of Node; what builds the page from the sources. */
const UNUSED =
  /\/(?:prom-client\/lib\/(?:cluster|defaultMetrics|pushgateway)\.js|pino\/lib\/(?:transport|multistream)\.js|agent\/show\/page\/build\.ts)$/;

const leaveOutUnused: Plugin = {
  name: 'leave-out-unused',
  setup: ({ onLoad }) =>
    onLoad({ filter: UNUSED }, ({ path }) => ({
      contents: path.endsWith('.ts') ? 'export {};' : 'module.exports = {};',
    })),
};

/**
 * The logger loads two of Node's modules for what it does not do here: threads for its transports, and assertions. Both
 * load others in turn, 10 ms per process with `--lite-mode`.
 */
const LOGGER = /\/node_modules\/(?:pino|sonic-boom)\//;
const IN_THEIR_PLACE: Record<string, string> = {
  // No thread of ours has a logger.
  worker_threads: 'module.exports={isMainThread:true}',
  assert: "module.exports=(...rest)=>require('node:assert')(...rest)",
};
const loadLate: Plugin = {
  name: 'load-late',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^(?:worker_threads|assert)$/ }, ({ path, importer }) =>
      LOGGER.test(importer) ? { path, namespace: 'load-late' } : undefined,
    );
    onLoad({ filter: /./, namespace: 'load-late' }, ({ path }) => ({ contents: IN_THEIR_PLACE[path]! }));
  },
};

/** The validators of policy documents as ajv generates them, not as it compiles them at run time. */
const precompile: Plugin = {
  name: 'precompile',
  setup: ({ onLoad }) =>
    onLoad({ filter: /\/agent\/policy\/validators\.ts$/ }, () => ({
      contents: precompiledValidators('./format-tests.ts'),
      loader: 'js',
    })),
};

/** esbuild's statement for an import of Node's own: `import a from"node:x"`, `import{b as c}from"node:x"`, … */
const NODE_IMPORT = /\bimport\s*(?:([\w$]+)|\*\s*as\s+([\w$]+)|\{([^}]*)\})\s*from\s*"(node:[\w/]+)";?/g;

/**
 * Loads Node's own modules with `require` instead of `import`: an import reads every property of the module and so loads
 * unused parts (the WebSocket of `node:http`, the flag table of `node:process`), 30 ms and 3 MiB per process.
 */
function requireNode(text: string): string {
  const head: string[] = [];
  const body = text.replace(NODE_IMPORT, (_, whole, namespace, names, module) => {
    const target = whole ?? namespace ?? `{${names.replaceAll(' as ', ':')}}`;
    head.push(`const ${target}=require("${module}");`);
    return '';
  });
  return body.replace(BANNER, () => BANNER + head.join(''));
}

const BANNER =
  "import{createRequire as createRequire$}from'node:module';const require=createRequire$(import.meta.url);";

/** The npm package that a file is of; undefined for one of ours. */
const packageOf = (file: string): string | undefined =>
  /.*node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(file)?.[0].replace(/\/$/, '');

/** Bundles programs that share parts. */
const buildTogether = (entryPoints: Record<string, string>, out: string) =>
  build({
    absWorkingDir: ROOT,
    entryPoints,
    outdir: join(out, 'dist'),
    // Shared parts lie beside the programs that start others by the directory that they are in.
    chunkNames: 'agent/[name]-[hash]',
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node24',
    minifySyntax: true,
    minifyWhitespace: true,
    legalComments: 'none',
    metafile: true,
    plugins: [leaveOutUnused, loadLate, precompile],
    banner: { js: BANNER },
    write: false,
  });

async function bundle(out: string, architecture: string, modules: string): Promise<void> {
  const built = await Promise.all(PROGRAMS.map((programs) => buildTogether(programs, out)));
  for (const { path, text } of built.flatMap(({ outputFiles }) => outputFiles)) {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, requireNode(text));
  }

  const { name, version, license } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  writeFileSync(join(out, 'package.json'), json({ name, version, license, type: 'module' }));

  const koffi = `@koromix/koffi-linux-${architecture}`;
  const library = `linux_${architecture}/koffi.node`;
  const target = join(out, 'build/koffi', library);
  mkdirSync(dirname(target), { recursive: true });
  copyFileSync(join(modules, koffi, library), target);

  const page = await writePage(join(out, 'dist/agent'));
  const inputFiles = new Set(built.flatMap(({ metafile }) => Object.keys(metafile.inputs)));
  const files = [...inputFiles, ...page.map((file) => relative(ROOT, file))];
  const packages = files.map((file) => packageOf(file));
  const native = [koffi, `node-linux-${architecture}`];
  const inputs = new Set([
    ...packages.filter((path) => path !== undefined),
    ...native.map((name) => `node_modules/${name}`),
  ]);
  writeFileSync(join(out, 'npm.json'), json(npmPackages(inputs)));
  copyFileSync(join(ROOT, 'LICENSE'), join(out, 'LICENSE'));
  const directoryOf = (path: string): string => {
    const name = path.slice('node_modules/'.length);
    return native.includes(name) ? join(modules, name) : join(ROOT, path);
  };
  const licenses = [...inputs].sort().map((path) => licenseOf(directoryOf(path)));
  writeFileSync(join(out, 'THIRD-PARTY'), licenses.join('\n'));
}

/** The entries of npm's SBOM (SPDX) for the packages at these paths. */
function npmPackages(paths: ReadonlySet<string>): unknown[] {
  const text = execFileSync('npm', ['sbom', '--sbom-format=spdx', '--package-lock-only'], {
    cwd: ROOT,
    encoding: 'utf8',
    maxBuffer: 1 << 26,
  });
  const { packages } = JSON.parse(text) as { packages: { packageFileName: string }[] };
  return packages.filter(({ packageFileName }) => paths.has(packageFileName));
}

/** The licence of the package in a directory as it comes with it, else by its name. */
function licenseOf(directory: string): string {
  const { name, version, license } = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8'));
  const file = readdirSync(directory).find((candidate) => /^licen[cs]e/i.test(candidate));
  const text = file === undefined ? `${license}\n` : readFileSync(join(directory, file), 'utf8');
  return `${name} ${version}\n${'='.repeat(79)}\n${text}`;
}

const json = (value: unknown): string => `${JSON.stringify(value, undefined, 2)}\n`;

const [out, architecture = process.arch, modules = join(ROOT, 'node_modules')] = process.argv.slice(2);
if (out === undefined)
  throw new Error('usage: node images/gateway/bundle.ts DIRECTORY [ARCHITECTURE NODE_MODULES]');
await bundle(out, architecture, modules);
