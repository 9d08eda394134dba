/**
 * Who may import whom (docs/design/0000-layout.md), read from the import statements of the sources.
 *
 * A file whose head says "Pure." takes the time and randomness as arguments and imports values only from pure files
 * and from packages that compute: no `node:` module (hashing in bfd/auth.ts apart), no process, no clock. Types may
 * come from anywhere that the rules between the folders allow. A file that keeps all that says so.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import {
  AREAS,
  type Import,
  imports,
  importsOf,
  ROOT,
  sources,
  texts,
  withoutComments,
} from './support/imports.ts';

/** Packages that compute and do nothing else. */
const COMPUTING = /^(ajv|fastest-levenshtein|ip-address|preact|string-width|wrap-ansi|yaml)(\/|$)/;

/** Every import of every file that the rule says is wrong, as `file → target`. */
const wrong = (rule: (file: string, imported: Import) => boolean): string[] =>
  [...imports].flatMap(([file, list]) =>
    list.filter((imported) => rule(file, imported)).map(({ target }) => `${file} → ${target}`),
  );

const areaOf = (file: string): string => file.split('/', 1)[0]!;

t.test('import statements of every form are read', async (t) => {
  const text = `
    /* import '../bfd/a.ts'; */
import { a, type B } from './a.ts';
import type { C } from './c.ts';
import { type D, type E } from './d.ts';
import f, * as g from "node:fs";
import 'execa';
export { h } from '../nat/h.ts';
export * from './i.ts';
// import x from './x.ts';
const j = await import('./j.ts');
import {
  k,
  type L,
} from './k.ts';
const from = 'not an import';
`.replace(/^ {4}/gm, '');
  t.same(
    importsOf('bfd/x.ts', text)
      .map(({ target, typeOnly }) => `${target}${typeOnly ? ' type' : ''}`)
      .sort(),
    [
      'bfd/a.ts',
      'bfd/c.ts type',
      'bfd/d.ts type',
      'bfd/i.ts',
      'bfd/j.ts',
      'bfd/k.ts',
      'execa',
      'nat/h.ts',
      'node:fs',
    ],
  );
});

t.test('what is imported of ours is there', async (t) => {
  t.same(
    wrong((_, { ours, target }) => ours && !texts.has(target) && !target.includes('package.json')),
    [],
  );
});

/** What each folder may import besides itself and `lib`. */
const MAY_IMPORT: Record<string, readonly string[]> = {
  bfd: [],
  routing: [],
  nat: ['routing/numbers.ts'],
  shaping: ['routing/numbers.ts'],
  agent: ['bfd', 'nat', 'routing', 'shaping'],
};

t.test(
  'lib imports nothing of ours, bfd and routing only lib, nat and shaping also the numbers of routing',
  async (t) => {
    t.same(
      wrong((file, { ours, target }) => {
        const [from, to] = [areaOf(file), areaOf(target)];
        const allowed = MAY_IMPORT[from] ?? [];
        return ours && to !== from && to !== 'lib' && !allowed.includes(to) && !allowed.includes(target);
      }),
      [],
    );
  },
);

/**
 * From which folders of `agent/` each one may import values; types come from anywhere. No circles. `daemon` is what
 * lies in `agent/` itself. Everybody may import `agent/options.ts`, which imports nothing of the agent's.
 */
const AGENT_FOLDERS: Record<string, readonly string[]> = {
  group: [],
  bgp: [],
  policy: ['bgp', 'group'],
  pod: [],
  drain: [],
  render: ['policy', 'group'],
  uplink: ['pod'],
  plan: ['group', 'pod', 'policy'],
  reconcile: ['plan', 'pod', 'policy'],
  flows: ['group', 'uplink'],
  'kube-ovn': ['policy'],
  show: ['bgp', 'flows', 'kube-ovn', 'pod', 'policy', 'reconcile'],
  daemon: [
    'bgp',
    'drain',
    'flows',
    'group',
    'kube-ovn',
    'plan',
    'pod',
    'policy',
    'reconcile',
    'show',
    'uplink',
  ],
  commands: ['bgp', 'daemon', 'flows', 'group', 'policy', 'reconcile', 'render', 'show'],
};

/** What is started by its name: it may import from every folder, and nobody imports it. */
const PROGRAMS: ReadonlySet<string> = new Set([
  'agent/main.ts',
  'agent/child.ts',
  'agent/kube-ovn/bfdd-supervisor.ts',
  'agent/kube-ovn/observer.ts',
  'bfd/main.ts',
]);

const agentFolder = (file: string): string => /^agent\/([\w-]+)\//.exec(file)?.[1] ?? 'daemon';

t.test("the agent's folders import values only from the folders below them", async (t) => {
  const wrongFolder = wrong((file, { target, ours, typeOnly }) => {
    if (!ours || typeOnly || areaOf(file) !== 'agent' || areaOf(target) !== 'agent') return false;
    if (PROGRAMS.has(file) || target === 'agent/options.ts') return false;
    const [from, to] = [agentFolder(file), agentFolder(target)];
    return from !== to && !AGENT_FOLDERS[from]?.includes(to);
  });
  t.same(wrongFolder, []);
  const unknown = new Set(sources.filter((file) => areaOf(file) === 'agent').map(agentFolder));
  t.same([...unknown].sort(), Object.keys(AGENT_FOLDERS).sort(), 'the table has every folder, and no other');
});

t.test('there is no circle between the folders of the agent', async (t) => {
  const below = new Map<string, ReadonlySet<string>>();
  for (let left = Object.keys(AGENT_FOLDERS); left.length > 0; ) {
    const next = left.filter((folder) => AGENT_FOLDERS[folder]!.every((lower) => below.has(lower)));
    if (next.length === 0) return t.fail(`a circle: ${left.join(', ')}`);
    for (const folder of next) below.set(folder, new Set(AGENT_FOLDERS[folder]));
    left = left.filter((folder) => !below.has(folder));
  }
});

t.test('the options import nothing of the agent, and nobody imports a program', async (t) => {
  t.same(
    wrong((file, { target, typeOnly }) => {
      if (file === 'agent/options.ts' && !typeOnly && areaOf(target) === 'agent') return true;
      return PROGRAMS.has(target);
    }),
    [],
  );
});

t.test(
  'execa is imported by lib/exec.ts alone, and child processes come from lib and agent-fork.ts alone',
  async (t) => {
    t.same(
      wrong((file, { target }) => target === 'execa' && file !== 'lib/exec.ts'),
      [],
    );
    // fork of the agent process: not a command.
    t.same(
      wrong(
        (file, { target, typeOnly }) =>
          target === 'node:child_process' && !typeOnly && file !== 'agent/agent-fork.ts',
      ),
      [],
    );
  },
);

const EFFECT =
  /\b(Date\.now|new Date\(\)|performance\.|Math\.random|process\.|setTimeout|setInterval|setImmediate|fetch\(|console\.)/;

/** The first comment of a file. */
const headOf = (file: string): string => /^\/\*\*.*?\*\//s.exec(texts.get(file)!)?.[0] ?? '';
const pure = new Set(sources.filter((file) => /\bPure\b/.test(headOf(file))));

/** Why a file is not pure; `pureFiles` is what it may import of ours. */
const impurities = (file: string, pureFiles: ReadonlySet<string>): string[] => {
  // Digests are computing; random numbers of the same module are not.
  const digests = file === 'bfd/auth.ts' ? "process.getBuiltinModule('node:crypto')" : '';
  const effect = EFFECT.exec(withoutComments(texts.get(file)!).replaceAll(digests, ''))?.[0];
  const values = imports.get(file)!.filter(({ typeOnly }) => !typeOnly);
  const imported = values.filter(({ ours, target }) => {
    if (ours) return !pureFiles.has(target);
    if (target === 'node:crypto') return file !== 'bfd/auth.ts';
    return !COMPUTING.test(target);
  });
  return [...(effect === undefined ? [] : [effect]), ...imported.map(({ target }) => target)];
};

t.test('a file that says so is pure', async (t) => {
  t.ok(pure.size > 100, 'files that say so are found');
  t.same(
    [...pure].flatMap((file) => impurities(file, pure).map((why) => `${file}: ${why}`)),
    [],
  );
});

/** Where every file is pure; the rest of the sources says it file by file. */
const PURE_FOLDERS = /^agent\/(render|policy\/[\w-]+)\//;

t.test('reading a policy and rendering are pure, in every language', async (t) => {
  t.same(
    sources.filter((file) => PURE_FOLDERS.test(file) && !pure.has(file)),
    [],
  );
});

t.test('the Dockerfile and the build have every source folder', async (t) => {
  const dockerfile = readFileSync(join(ROOT, 'images/gateway/Dockerfile'), 'utf8');
  const { include } = JSON.parse(readFileSync(join(ROOT, 'tsconfig.build.json'), 'utf8'));
  for (const area of AREAS) {
    t.match(dockerfile, `\nCOPY ${area} ${area}\n`, area);
    t.ok(include.includes(area), area);
  }
});
