// docs/manifests.md: its table is what `check` says of the documents in test/fixtures/manifests, line for line.
import { readdirSync, readFileSync } from 'node:fs';
import t from 'tap';
import { load } from './support.ts';

const read = (name: string) =>
  readFileSync(new URL(`../../fixtures/manifests/${name}`, import.meta.url), 'utf8');
const page = readFileSync(new URL('../../../docs/manifests.md', import.meta.url), 'utf8');

const NAMES = readdirSync(new URL('../../fixtures/manifests/', import.meta.url))
  .filter((name) => name.endsWith('.yaml'))
  .sort();

/** What the head of a file says. */
function headOf(text: string): Record<string, string> {
  return Object.fromEntries(
    [...text.matchAll(/^# (\w+): ?(.*)$/gm)].map(([, field, value]) => [field, value]),
  );
}

/** What `check` says of a manifest with what stands beside it. The places are those below the head of its file. */
function verdict(name: string, beside: readonly string[]): string {
  const text = read(name).replace(/^(#.*\n)+/, '');
  const others = beside.map((other) => [`${other}.yaml`, read(`beside/${other}.yaml`)]);
  const result = load({ manifest: text, ...Object.fromEntries(others) }, { places: true });
  const lines = result.ok
    ? [
        'valid',
        ...result.policy.warnings.map(({ message, place }) =>
          [...(place ? [`${place.line}:${place.col}`] : []), 'warning', message].join(': '),
        ),
      ]
    : result.errors.map(({ line, col, path, message }) =>
        [...(line > 0 ? [`${line}:${col}`] : []), ...(path ? [path] : []), message].join(': '),
      );
  return lines.join('<br>').replaceAll('|', '\\|');
}

const rows = NAMES.map((name) => {
  const { project, document, facts, beside = '' } = headOf(read(name));
  const others = beside.split(', ').filter(Boolean);
  const number = name.replace('.yaml', '');
  return `| [${number}](../test/fixtures/manifests/${name}) | ${project} | ${document} | ${facts} | ${others.join(', ') || '–'} | ${verdict(name, others)} |`;
});

t.test('seventy manifests and more', async (t) => {
  t.ok(NAMES.length >= 70, `${NAMES.length}`);
});

t.test('the table says what check says', async (t) => {
  t.same(page.match(/^\| \[\d.*$/gm), rows);
});
