// The last good policy on disk: what is kept comes back, and what is damaged does no harm.
import fs from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { pino } from 'pino';
import t, { type Test } from 'tap';
import { type Missing, NOTHING_MISSING } from '../../../agent/policy/last-good.ts';
import {
  keepPolicy,
  LastPolicy,
  readLastPolicy,
  removeLastPolicy,
} from '../../../agent/policy/last-policy.ts';
import type { KeptPolicy } from '../../../agent/policy/source.ts';

const FILE = 'last-policy.json.gz';
const KEPT: KeptPolicy = {
  source: '/etc/veg-agent/policy',
  since: Date.parse('2026-11-28T10:00:00Z'),
  content: { files: [{ name: 'gateway.yaml', text: 'kind: GatewayPolicy\n# ü\n' }] },
};

const OTHER_PART = { version: 1, ...KEPT, missing: { without: { 4: ['x'], 6: [] }, lacking: [] } };
const OTHER_FAMILY = { version: 1, ...KEPT, missing: { ...NOTHING_MISSING, broken: [5] } };
const NO_MISSING = { version: 1, ...KEPT, missing: 1 };

function reading(dir: string): { kept: KeptPolicy | undefined; warnings: string[] } {
  const warnings: string[] = [];
  const kept = readLastPolicy(dir, (reason) => warnings.push(reason));
  return { kept, warnings };
}

const silent = pino({ level: 'silent' });
/** A logger, and the lines that it wrote. */
function logging() {
  const lines: string[] = [];
  return { lines, logger: pino({ level: 'warn' }, { write: (line: string) => void lines.push(line) }) };
}

t.test('what is kept comes back, of a directory and of the environment', async (t) => {
  const dir = t.testdir();
  t.same(reading(dir), { kept: undefined, warnings: [] }, 'nothing yet is no warning');
  for (const kept of [
    KEPT,
    { ...KEPT, source: 'environment', content: { environment: { BFD_MULTI: '5' } } },
  ]) {
    keepPolicy(dir, kept);
    t.same(reading(dir), { kept, warnings: [] });
  }
  t.equal(fs.statSync(join(dir, FILE)).mode & 0o777, 0o600);
  t.same(fs.readdirSync(dir), [FILE], 'no draft is left');
  removeLastPolicy(dir);
  t.same(reading(dir), { kept: undefined, warnings: [] });
  removeLastPolicy(dir);
});

t.test('what the kernel refused of it is kept with it, and written when it changes', async (t) => {
  const dir = t.testdir();
  const last = new LastPolicy(dir, silent);
  const missing: Missing = {
    ...{ without: { 4: ['mssClamp'], 6: [] }, lacking: ['route 254 10.19.0.0/16 '] },
    broken: [6],
  };
  last.keep(KEPT, missing);
  t.same(reading(dir), { kept: { ...KEPT, missing }, warnings: [] });
  const first = inode(dir);
  last.keep(undefined, structuredClone(missing));
  t.equal(inode(dir), first, 'nothing new');
  last.keep(undefined, NOTHING_MISSING);
  t.same(reading(dir), { kept: { ...KEPT, missing: NOTHING_MISSING }, warnings: [] });
  keepPolicy(dir, { ...KEPT, missing });
  t.same(reading(dir), { kept: { ...KEPT, missing }, warnings: [] });
});

t.test('ten thousand blocks take less than a quarter of their text', async (t) => {
  const dir = t.testdir();
  const blocks = Array.from({ length: 10_000 }, (_, i) => `10.${i >> 8}.${i & 255}.0/24`);
  const text = `spec: { policies: [{ ipBlocks: [${blocks.join(', ')}] }] }\n`;
  keepPolicy(dir, { ...KEPT, content: { files: [{ name: 'a.yaml', text }] } });
  t.ok(fs.statSync(join(dir, FILE)).size < text.length / 4, `${text.length} octets`);
});

t.test('a damaged file, one of another version and what is no file are ignored with a warning', async (t) => {
  const packed = (value: unknown) => gzipSync(JSON.stringify(value));
  const good = packed({ version: 1, ...KEPT });
  const cases: [what: string, make: (file: string) => void][] = [
    ['empty', (file) => fs.writeFileSync(file, '')],
    ['cut off', (file) => fs.writeFileSync(file, good.subarray(0, -9))],
    ['an octet changed', (file) => fs.writeFileSync(file, Buffer.from(good).fill(0x55, 30, 31))],
    ['not compressed', (file) => fs.writeFileSync(file, JSON.stringify({ version: 1, ...KEPT }))],
    ['of a later version', (file) => fs.writeFileSync(file, packed({ version: 2, ...KEPT }))],
    ['without content', (file) => fs.writeFileSync(file, packed({ version: 1, source: 'x', since: 1 }))],
    ['null', (file) => fs.writeFileSync(file, packed(null))],
    [
      'with a time that is none',
      (file) => fs.writeFileSync(file, packed({ version: 1, ...KEPT, since: 'x' })),
    ],
    [
      'with files that are none',
      (file) => fs.writeFileSync(file, packed({ version: 1, ...KEPT, content: { files: [{ name: 1 }] } })),
    ],
    ['with missing parts that are none', (file) => fs.writeFileSync(file, packed(OTHER_PART))],
    ['with a family that is none', (file) => fs.writeFileSync(file, packed(OTHER_FAMILY))],
    ['with missing things that are none', (file) => fs.writeFileSync(file, packed(NO_MISSING))],
    ['that never ends', (file) => fs.writeFileSync(file, gzipSync(Buffer.alloc(64 << 20)))],
    ['a directory', (file) => fs.mkdirSync(file)],
    ['a symlink', (file) => fs.symlinkSync('/dev/zero', file)],
  ];
  for (const [what, make] of cases) {
    const dir = t.testdir();
    make(join(dir, FILE));
    const { kept, warnings } = reading(dir);
    t.equal(kept, undefined, what);
    t.equal(warnings.length, 1, `${what}: one warning`);
    t.match(warnings[0], `ignoring ${join(dir, FILE)}: `);
  }
});

t.test('a stale draft, a symlink too, is replaced and not followed', async (t) => {
  const dir = t.testdir({ victim: 'untouched' });
  fs.symlinkSync('victim', join(dir, `${FILE}.new`));
  keepPolicy(dir, KEPT);
  t.same(reading(dir).kept, KEPT);
  t.equal(fs.readFileSync(join(dir, 'victim'), 'utf8'), 'untouched');
});

const inode = (dir: string): number => fs.statSync(join(dir, FILE)).ino;

t.test('the file is written once a policy, and again when it is gone', async (t: Test) => {
  const dir = join(t.testdir(), 'state');
  const last = new LastPolicy(dir, silent);
  last.keep(undefined);
  t.notOk(fs.existsSync(dir), 'nothing to keep yet');
  last.keep(KEPT);
  const first = inode(dir);
  last.keep(undefined);
  t.equal(inode(dir), first, 'a further run with the same policy writes nothing');
  fs.rmSync(dir, { recursive: true });
  last.keep(undefined);
  t.same(reading(dir).kept, KEPT, 'the state directory was emptied');
  const newer = { ...KEPT, since: KEPT.since + 1 };
  last.keep(newer);
  t.same(reading(dir).kept, newer);
  last.remove();
  t.same(fs.readdirSync(dir), []);
});

t.test('a directory that cannot be written is logged once, and used as soon as it can', async (t) => {
  const root = t.testdir({ state: 'no directory' });
  const dir = join(root, 'state');
  const { lines, logger } = logging();
  const last = new LastPolicy(dir, logger);
  last.keep(KEPT);
  last.keep(undefined);
  t.equal(lines.length, 1);
  t.match(lines[0], /cannot keep the policy in the state directory/);
  fs.rmSync(dir);
  last.keep(undefined);
  t.same(reading(dir).kept, KEPT);
});
