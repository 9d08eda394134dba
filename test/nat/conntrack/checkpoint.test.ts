import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import * as stateFiles from '../../../lib/files.ts';
import { parseJson } from '../../../lib/json.ts';
import { readCheckpoint, writeCheckpoint } from '../../../nat/conntrack/checkpoint.ts';
import { FLOW_SIZE, FlowTable } from '../../../nat/conntrack/table.ts';
import { entry } from './entries.ts';

const files = { ...stateFiles, parseJson };
const ROOT = mkdtempSync(join(tmpdir(), 'veg-checkpoint-'));
t.teardown(() => rmSync(ROOT, { recursive: true }));
const file = () => join(mkdtempSync(join(ROOT, 'd')), 'checkpoint');
const tracker = { at: 5, policies: ['', 'web\n'], totals: [] };

t.test('what is written is read again', async (t) => {
  const name = file();
  const table = new FlowTable(5000);
  for (let id = 0; id < 3000; id++) table.add(entry({ flow: `10.17.0.9 ${id} 1.1.1.1 2`, id }));
  writeCheckpoint(name, { tracker, extra: { lost: 3 } }, table.save(), files);
  writeCheckpoint(name, { tracker, extra: { lost: 4 } }, table.save(), files);
  const read = readCheckpoint(name, files)!;
  t.same(read.tracker, tracker);
  t.same(read.extra, { lost: 4 });
  const copy = new FlowTable(5000);
  copy.load(read.flows);
  t.equal(copy.size, 3000);
  t.notOk(existsSync(`${name}.new`));
});

t.test('no file, or another version, is no checkpoint, and junk is told', async (t) => {
  const name = file();
  t.equal(readCheckpoint(name, files), undefined);
  for (const other of ['{"version":0,"flowSize":128}\n', '{"version":1,"flowSize":64}\n']) {
    writeFileSync(name, other);
    t.equal(readCheckpoint(name, files), undefined, other);
  }
  const header = (tracker: unknown) => `${JSON.stringify({ version: 1, flowSize: FLOW_SIZE, tracker })}\n`;
  const total = { verdict: 'translated', policy: 'web', family: 4, protocol: 6 };
  const flags = { snat: true, dnat: false, inbound: false };
  const counts = { started: 1, ended: 1, counters: [1, 1, 1, 1] };
  const good = { ...tracker, totals: [{ ...total, ...flags, ...counts }] };
  writeFileSync(name, header(good));
  t.same(readCheckpoint(name, files)?.tracker, good);
  for (const junk of [
    '',
    'junk',
    'null\n',
    header(null),
    header({ ...good, at: -1 }),
    header({ ...good, at: 9e15 }),
    header({ ...good, policies: ['web'] }),
    header({ ...good, policies: ['', 'web', 'web'] }),
    header({ ...good, policies: ['', 1] }),
    header({ ...good, totals: {} }),
    header({ ...good, totals: [null] }),
    header({ ...good, totals: [{ ...total, ...flags, ...counts, verdict: 'x' }] }),
    header({ ...good, totals: [{ ...total, ...flags, ...counts, snat: 1 }] }),
    header({ ...good, totals: [{ ...total, ...flags, ...counts, started: 1e300 }] }),
    header({ ...good, totals: [{ ...total, ...flags, ...counts, counters: [1, 1, 1] }] }),
    header({ ...good, totals: [{ ...total, ...flags, ...counts, protocol: 256 }] }),
    `${'['.repeat(100_000)}\n`,
    `[${'1,'.repeat(2 << 20)}1]\n`,
  ]) {
    writeFileSync(name, junk);
    t.throws(() => readCheckpoint(name, files), /checkpoint is damaged/, junk.slice(0, 200));
  }
});

t.test('what is no flow is left out, and the others are taken', async (t) => {
  const table = new FlowTable(5000);
  for (let id = 0; id < 6; id++) table.add(entry({ flow: `10.17.0.9 ${id} 1.1.1.1 2`, id }));
  const saved = Buffer.concat(table.save());
  saved[6] = 9;
  saved.writeDoubleLE(Number.NaN, FLOW_SIZE + 112);
  saved.writeDoubleLE(9e15, 2 * FLOW_SIZE + 112);
  saved.writeUInt16LE(2, 3 * FLOW_SIZE + 120);
  const copy = new FlowTable(5000);
  copy.load(Buffer.concat([saved, saved.subarray(0, 100)]), 2);
  t.same(
    Array.from(copy, ({ id }) => id),
    [4, 5],
  );
});

t.test('one that cannot be replaced is removed: counters that go on from it would go back', async (t) => {
  const name = file();
  writeCheckpoint(name, { tracker, extra: {} }, [], files);
  const full = {
    ...files,
    replaceState() {
      throw new Error('the disk is full');
    },
  };
  t.throws(() => writeCheckpoint(name, { tracker, extra: {} }, [], full));
  t.equal(readCheckpoint(name, files), undefined);
});
