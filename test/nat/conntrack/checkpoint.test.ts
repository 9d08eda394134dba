import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { readCheckpoint, writeCheckpoint } from '../../../nat/conntrack/checkpoint.ts';
import { FlowTable } from '../../../nat/conntrack/table.ts';
import { entry } from './entries.ts';

const ROOT = mkdtempSync(join(tmpdir(), 'veg-checkpoint-'));
t.teardown(() => rmSync(ROOT, { recursive: true }));
const file = () => join(mkdtempSync(join(ROOT, 'd')), 'checkpoint');
const tracker = { at: 5, policies: ['', 'web\n'], totals: [] };

t.test('what is written is read again', async (t) => {
  const name = file();
  const table = new FlowTable(5000);
  for (let id = 0; id < 3000; id++) table.add(entry({ flow: `10.17.0.9 ${id} 1.1.1.1 2`, id }));
  writeCheckpoint(name, { tracker, extra: { lost: 3 } }, table.save());
  writeCheckpoint(name, { tracker, extra: { lost: 4 } }, table.save());
  const read = readCheckpoint<{ lost: number }>(name)!;
  t.same(read.tracker, tracker);
  t.same(read.extra, { lost: 4 });
  const copy = new FlowTable(5000);
  copy.load(read.flows);
  t.equal(copy.size, 3000);
  t.notOk(existsSync(`${name}.new`));
});

t.test('no file, junk, or another version is no checkpoint', async (t) => {
  const name = file();
  t.equal(readCheckpoint(name), undefined);
  for (const junk of [
    '',
    'junk',
    '{"version":0,"flowSize":128}\n',
    '{"version":1,"flowSize":64}\n',
    'null\n',
  ]) {
    writeFileSync(name, junk);
    t.equal(readCheckpoint(name), undefined, junk);
  }
});

t.test('one that cannot be replaced is removed: counters that go on from it would go back', async (t) => {
  const name = file();
  writeCheckpoint(name, { tracker, extra: {} }, []);
  mkdirSync(`${name}.new`);
  t.throws(() => writeCheckpoint(name, { tracker, extra: {} }, []));
  t.equal(readCheckpoint(name), undefined);
});
