/** What the documents point at is there: files, headings, and documents that the sources name. */
import { existsSync, globSync, readFileSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { anchors } from './support/anchors.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const read = (file: string): string => readFileSync(join(ROOT, file), 'utf8');

const DOCUMENTS = [...globSync('*.md', { cwd: ROOT }), ...globSync('docs/**/*.md', { cwd: ROOT })];
const SOURCES = globSync('{agent,bfd,lib,nat,routing,images,test}/**/*', { cwd: ROOT, withFileTypes: true })
  .filter((entry) => entry.isFile())
  .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)));

/** A document without its examples. */
const prose = (text: string): string => text.replace(/^```[\s\S]*?^```/gm, '').replace(/`[^`\n]*`/g, '');

/** Why a link leads nowhere; undefined when it leads somewhere. */
function fault(from: string, link: string): string | undefined {
  const [path = '', anchor] = link.split('#');
  const target = path === '' ? from : join(dirname(from), path);
  if (!existsSync(join(ROOT, target))) return `${from}: ${link}: there is no ${target}`;
  if (anchor === undefined || anchors(read(target)).has(anchor)) return undefined;
  return `${from}: ${link}: ${target} has no such heading`;
}

t.test('every relative link of the documents leads to a file, and to a heading of it', async (t) => {
  const links = DOCUMENTS.flatMap((from) =>
    [...prose(read(from)).matchAll(/\]\(([^)\s]+)\)/g)].map(([, link = '']) => ({ from, link })),
  ).filter(({ link }) => !/^[a-z]+:/.test(link));
  t.ok(links.length > 30, 'links are found');
  t.same(
    links.map(({ from, link }) => fault(from, link)).filter((problem) => problem !== undefined),
    [],
  );
});

t.test('every document that a source names exists', async (t) => {
  const named = SOURCES.flatMap((file) =>
    [...read(file).matchAll(/\bdocs\/[\w/.-]+\.md\b/g)].map(([document]) => ({ file, document })),
  );
  t.ok(named.length > 10, 'names are found');
  t.same(
    named.filter(({ document }) => !existsSync(join(ROOT, document))),
    [],
  );
});

/** The names of files of ours in a text: by their path, or a source by its name alone. */
const FILE = /(?<![\w./*-])(?:(?:agent|bfd|lib|nat|routing|images|test)\/[\w./-]+|[\w-]+)\.(?:ts|sh|mjs)\b/g;

t.test('every file that a document or a comment names exists', async (t) => {
  const names = new Set(SOURCES.flatMap((file) => [file, basename(file)]));
  const comments = SOURCES.filter((file) => /^(?!test\/).*\.ts$/.test(file)).map((file) => ({
    file,
    text: [...read(file).matchAll(/\/\*\*.*?\*\/|(?<=^|\s)\/\/[^\n]*/gms)].join('\n'),
  }));
  const documents = DOCUMENTS.filter((file) => file !== 'CHANGELOG.md').map((file) => ({
    file,
    text: read(file),
  }));
  const named = [...comments, ...documents].flatMap(({ file, text }) =>
    [...text.matchAll(FILE)].map(([name]) => ({ file, name })),
  );
  t.ok(named.length > 100, 'names are found');
  t.same(
    named.filter(({ file, name }) => !names.has(name) && !names.has(join(dirname(file), name))),
    [],
  );
});

t.test('links that lead nowhere are found', async (t) => {
  t.match(fault('docs/image.md', 'nothing.md'), /there is no docs\/nothing\.md/);
  t.match(fault('README.md', 'docs/image.md#nothing'), /no such heading/);
  t.equal(fault('README.md', 'docs/image.md#what-kube-ovn-calls'), undefined);
});

t.test(
  'nothing that operators read can be taken for its opposite: BFD is taken out of Up, or stays Up',
  async (t) => {
    const texts = [
      ...DOCUMENTS,
      ...globSync('docs/dashboards/*', { cwd: ROOT }),
      ...globSync('agent/**/*.ts', { cwd: ROOT }),
    ];
    const ambiguous = texts.flatMap((file) =>
      [
        ...read(file).matchAll(/.*\b(leav(e|es|ing)|left)\s+(BFD\s+|the sessions\s+|sessions\s+)?Up\b.*/g),
      ].map(([line]) => `${file}: ${line.trim()}`),
    );
    t.same(ambiguous, []);
  },
);

t.test('every trigger of a reconcile is in the list of metrics', async (t) => {
  const [, type = ''] = /export type Trigger =([^;]*);/.exec(read('agent/cadence.ts')) ?? [];
  const [, list = ''] = /veg_agent_reconcile_total.*\| trigger: (.*) \|/.exec(read('docs/metrics.md')) ?? [];
  t.same(
    list.split(', '),
    [...type.matchAll(/'(\w+)'/g)].map(([, trigger]) => trigger),
  );
});

t.test('operators are sent to the port that BFD uses towards a VPC', async (t) => {
  t.match(read('docs/operations.md'), 'UDP 3784');
  t.notMatch(read('docs/operations.md'), '4784');
});
