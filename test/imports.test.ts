/**
 * Who may import whom (docs/design/0000-layout.md), read from the import statements of the sources.
 *
 * Each source file is in one of two lists: pure, or with effects. A pure file takes the time and randomness as
 * arguments and imports values only from pure files and from packages that compute: no `node:` module (hashing
 * in bfd/auth.ts apart), no process, no clock. Types may come from anywhere that the rules between the
 * directories allow.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const AREAS = ['agent', 'bfd', 'nat', 'routing'] as const;

const PURE: Record<string, string> = {
  agent:
    'aims busiest cadence desired-sysctls drops failures history interfaces messages moved observer-config options own-address plan plan-nat port-history recovery stale-flows status terminal told traffic translations-query units watchdog writers',
  'agent/policy': '*',
  'agent/render': '*',
  'agent/uplink': 'answerer arp claim filters health icmp mac ndp neighbours rivals',
  bfd: 'auth constants control-text demux fsm intent json moment next-hop packet places saved session timers',
  nat: 'chains desired diff egress errors inbound nftables parse port-blocks port-steps render rules sets state',
  'nat/conntrack': 'exhaustion flow groups lookup names ports records sources table totals tracker wire',
  routing: 'addresses desired diff events numbers ownership parse prefix render state',
};

const EFFECTS: Record<string, string> = {
  agent: `bfd-link check child cli client conntrack-table control drain events exec facts flows gateway http kernels
    kube-ovn-metrics kube-ovn-observer kube-ovn-supervisor last-policy log loop main metrics netlink observer-counts once plan-command plan-document print process
    reconcile recovery-metrics render retention source status-watch supervisor sysctl translations translations-command
    translations-metrics translations-output translations-worker watch`,
  'agent/page': 'client dom page style',
  'agent/uplink': 'claims next-hop probe uplink',
  bfd: 'checkpoint control-socket daemon engine entry files http-server keys libc main next-hops orphans priority script signals socket-path state-dir transport version',
  nat: 'fingerprint kernel port-kernel',
  'nat/conntrack': 'checkpoint reader store',
  routing: 'kernel',
};

/** `*` stands for every file of the directory. */
const ALL = '*';

/** Packages that compute and do nothing else; netlink's codecs, not its socket. */
const COMPUTING = /^(ajv|ip-address|yaml)(\/|$)|^netlink\/dist\/(\w+\/)?(constants|structs)\.js$/;

const sources = AREAS.flatMap((area) =>
  readdirSync(join(ROOT, area), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => `${area}/${name}`),
).sort();

const paths = (lists: Record<string, string>): string[] =>
  Object.entries(lists).flatMap(([directory, names]) =>
    names === ALL
      ? sources.filter((file) => dirname(file) === directory)
      : names.split(/\s+/).map((name) => `${directory}/${name}.ts`),
  );
const pure = new Set(paths(PURE));
const listed = [...pure, ...paths(EFFECTS)];

interface Import {
  /** The file of ours, by its path from the root, or the name of a package or `node:` module. */
  target: string;
  ours: boolean;
  /** Nothing of it is there at run time. */
  typeOnly: boolean;
}

/** The source without comments. Strings of ours do not hold comment marks after a blank or at a line's start. */
const withoutComments = (text: string): string =>
  text.replace(/(^|\s)\/\*.*?\*\//gs, '$1').replace(/(^|\s)\/\/.*$/gm, '$1');

function importsOf(file: string, text: string): Import[] {
  const found: Import[] = [];
  const add = (specifier: string, typeOnly: boolean) => {
    const ours = specifier.startsWith('.');
    const target = ours ? normalize(join(dirname(file), specifier)) : specifier;
    found.push({ target, ours, typeOnly });
  };
  const code = withoutComments(text);
  for (const [, typeWord, clause = '', specifier = ''] of code.matchAll(
    /^(?:import|export)\s+(type\s)?([^'";=()]*?)\bfrom\s*['"]([^'"]+)['"]/gm,
  )) {
    const names = /^\s*\{([^}]*)\}\s*$/
      .exec(clause)?.[1]
      ?.split(',')
      .map((name) => name.trim());
    const allTypes = names?.filter(Boolean).every((name) => name.startsWith('type ')) ?? false;
    add(specifier, typeWord !== undefined || allTypes);
  }
  for (const [, specifier = ''] of code.matchAll(/^import\s*['"]([^'"]+)['"]/gm)) add(specifier, false);
  for (const [, specifier = ''] of code.matchAll(/\bimport\(\s*['"]([^'"]+)['"]/g)) add(specifier, false);
  return found;
}

const texts = new Map(sources.map((file) => [file, readFileSync(join(ROOT, file), 'utf8')]));
const imports = new Map(sources.map((file) => [file, importsOf(file, texts.get(file)!)]));

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

t.test('every source file is said to be pure or to have effects, and no other is', async (t) => {
  t.same(
    sources.filter((file) => !listed.includes(file)),
    [],
    'files in neither list',
  );
  t.same(
    listed.filter((file) => !sources.includes(file)),
    [],
    'listed files that are not there',
  );
  t.same(
    listed.filter((file, i) => listed.indexOf(file) !== i),
    [],
    'files in both',
  );
});

t.test('what is imported of ours is there', async (t) => {
  t.same(
    wrong((_, { ours, target }) => ours && !texts.has(target) && !target.includes('package.json')),
    [],
  );
});

t.test('bfd and routing import no sibling', async (t) => {
  t.same(
    wrong(
      (file, { ours, target }) => ours && /^(bfd|routing)\//.test(file) && areaOf(target) !== areaOf(file),
    ),
    [],
  );
});

t.test('nat imports only the numbers and prefixes of routing', async (t) => {
  const allowed = ['routing/numbers.ts', 'routing/prefix.ts'];
  t.same(
    wrong(
      (file, { ours, target }) =>
        ours && areaOf(file) === 'nat' && areaOf(target) !== 'nat' && !allowed.includes(target),
    ),
    [],
  );
});

t.test('nobody imports agent', async (t) => {
  t.same(
    wrong((file, { ours, target }) => ours && areaOf(target) === 'agent' && areaOf(file) !== 'agent'),
    [],
  );
});

t.test('execa is imported by agent/exec.ts alone, and child processes come from nowhere else', async (t) => {
  t.same(
    wrong((file, { target }) => target === 'execa' && file !== 'agent/exec.ts'),
    [],
  );
  // fork of the agent process: not a command.
  t.same(
    wrong((file, { target }) => target === 'node:child_process' && file !== 'agent/supervisor.ts'),
    [],
  );
});

t.test('a pure file imports values only from pure files and from packages that compute', async (t) => {
  t.same(
    wrong((file, { ours, target, typeOnly }) => {
      if (!pure.has(file) || typeOnly) return false;
      if (ours) return !pure.has(target);
      if (target === 'node:crypto') return file !== 'bfd/auth.ts';
      return !COMPUTING.test(target);
    }),
    [],
  );
});

t.test('a pure file has no clock, no randomness and no process', async (t) => {
  const effect =
    /\b(Date\.now|new Date\(\)|performance\.|Math\.random|process\.|setTimeout|setInterval|setImmediate|fetch\(|console\.)/;
  t.same(
    [...pure].flatMap((file) => {
      const found = effect.exec(withoutComments(texts.get(file) ?? ''));
      return found === null ? [] : [`${file}: ${found[0]}`];
    }),
    [],
  );
});
