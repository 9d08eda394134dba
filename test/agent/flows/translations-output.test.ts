import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  mkdirSync,
  mkdtempSync,
  openSync,
  read,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pino from 'pino';
import t from 'tap';
import { RecordOutput } from '../../../agent/flows/translations-output.ts';

const ROOT = mkdtempSync(join(tmpdir(), 'veg-output-'));
t.teardown(() => rmSync(ROOT, { recursive: true }));

function output(file: string, fileSize?: number): { out: RecordOutput; log: string[] } {
  const log: string[] = [];
  const logger = pino({ base: null }, { write: (line: string) => void log.push(line) });
  return { out: new RecordOutput({ file, logger, ...(fileSize && { fileSize }) }), log };
}

const lines = (from: number, count: number): string[] =>
  Array.from({ length: count }, (_, i) => `{"n":${from + i},"pad":"${'x'.repeat(80)}"}\n`);
const numbers = (file: string): number[] =>
  readFileSync(file, 'utf8')
    .split('\n')
    .filter(Boolean)
    .map((line) => (JSON.parse(line) as { n: number }).n);

t.test('records go to the file in order, and close waits for them', async (t) => {
  const file = join(ROOT, 'a', 'records.log');
  const { out, log } = output(file);
  void out.write(lines(0, 500));
  void out.write(lines(500, 500));
  await out.close();
  t.same(
    numbers(file),
    Array.from({ length: 1000 }, (_, i) => i),
  );
  t.equal(out.lost, 0);
  t.equal(statSync(file).mode & 0o777, 0o600, 'it names pods');
  t.same(log, []);
  const again = output(file).out;
  void again.write(lines(1000, 1));
  await again.close();
  t.equal(numbers(file).length, 1001, 'a new start goes on with it');
});

t.test('a full file is rotated, and four old ones are kept', async (t) => {
  const file = join(ROOT, 'rotated.log');
  const { out } = output(file, 20_000);
  for (let i = 0; i < 60; i++) {
    void out.write(lines(i * 50, 50));
    // The file is written between two of these.
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await out.close();
  const names = readdirSync(ROOT)
    .filter((name) => name.startsWith('rotated.log'))
    .sort();
  t.same(names, ['rotated.log', 'rotated.log.1', 'rotated.log.2', 'rotated.log.3', 'rotated.log.4']);
  const kept = [4, 3, 2, 1].flatMap((n) => numbers(`${file}.${n}`)).concat(numbers(file));
  t.equal(kept.at(-1), 2999);
  t.same(
    kept,
    Array.from({ length: kept.length }, (_, i) => 3000 - kept.length + i),
    'without holes',
  );
  for (const name of names) t.ok(statSync(join(ROOT, name)).size < 26_000, name);
});

t.test('records that cannot be written are counted, and the failure is logged once', async (t) => {
  const place = join(ROOT, 'place');
  writeFileSync(place, 'a file where a directory has to be');
  const file = join(place, 'records.log');
  const { out, log } = output(file);
  void out.write(lines(0, 100));
  void out.write(lines(100, 100));
  await out.close();
  t.equal(out.lost, 200);
  t.equal(log.length, 1);
  t.match(log[0], 'cannot write translation records');
  rmSync(place);
  mkdirSync(place);
});

t.test('a FIFO is written to while it has a reader, and nothing waits for one', async (t) => {
  const fifo = join(ROOT, 'no-reader');
  execFileSync('mkfifo', [fifo]);
  const { out, log } = output(fifo, 1);
  await out.write(lines(0, 1));
  t.equal(out.lost, 1);
  t.match(log, [/cannot write translation records/]);
  await out.close();
  const reader = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
  const again = output(fifo, 1).out;
  await again.write(lines(1, 1));
  await again.write(lines(2, 1));
  t.equal(again.lost, 0);
  t.ok(statSync(fifo).isFIFO(), 'it is not rotated');
  await again.close();
  closeSync(reader);
});

t.test('a link is not written through', async (t) => {
  const target = join(ROOT, 'target');
  writeFileSync(target, 'precious');
  const link = join(ROOT, 'link.log');
  symlinkSync(target, link);
  const { out, log } = output(link);
  await out.write(lines(0, 1));
  await out.close();
  t.equal(out.lost, 1);
  t.match(log, [/ELOOP/]);
  t.equal(readFileSync(target, 'utf8'), 'precious');
});

t.test('a reader that hangs does not hold up the end; what it did not take is counted', async (t) => {
  const fifo = join(ROOT, 'fifo');
  execFileSync('mkfifo', [fifo]);
  // A reader that opens and does not read; without one, opening would wait.
  const reader = openSync(fifo, constants.O_RDWR);
  const { out } = output(fifo);
  let written = false;
  void out.write(lines(0, 5000)).then(() => {
    written = true;
  });
  await out.close();
  t.notOk(written);
  t.ok(out.lost > 3000 && out.lost <= 5000, `${out.lost} records`);
  // Let the write under way end, so that this process can.
  await new Promise((resolve) => read(reader, Buffer.alloc(65_536), 0, 65_536, null, resolve));
  closeSync(reader);
});

t.test(
  'a full disk loses whole lines and no others, and records after it have lines of their own',
  async (t) => {
    const file = join(ROOT, 'full', 'records.log');
    const log: string[] = [];
    const logger = pino({ base: null }, { write: (line: string) => void log.push(line) });
    let room = Number.POSITIVE_INFINITY;
    const out = new RecordOutput({
      ...{ file, logger },
      // A short write, and ENOSPC at the next, as write(2) on a full disk.
      async writeTo(fd, octets, at) {
        const length = Math.min(room, octets.length - at);
        if (length === 0)
          throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' });
        room -= length;
        return { bytesWritten: writeSync(fd, octets, at, length) };
      },
    });
    const [line] = lines(0, 1);
    await out.write(lines(0, 5));
    room = line!.length * 2 + 10;
    await out.write(lines(5, 5));
    t.equal(out.lost, 3, 'two lines fit, the third is cut');
    await out.write(lines(1, 2));
    t.equal(out.lost, 5);
    room = Number.POSITIVE_INFINITY;
    await out.write(lines(7, 2));
    await out.close();
    const written = readFileSync(file, 'utf8').trimEnd().split('\n');
    const whole = written.filter((text) => text.endsWith('}')).map((text) => JSON.parse(text).n);
    t.same(whole, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    t.equal(written.length, whole.length + 1, 'the cut one has a line of its own');
    t.match(log, [/cannot write translation records/, /translation records are written again/]);
  },
);

t.test('a file that cannot be rotated grows, and its failure and end are logged once', async (t) => {
  const file = join(ROOT, 'stuck.log');
  // Directories with content in place of the old files: nobody can rename over them, root neither.
  for (const n of [1, 2, 3, 4]) mkdirSync(join(`${file}.${n}`, 'x'), { recursive: true });
  const { out, log } = output(file, 1000);
  for (let i = 0; i < 5; i++) await out.write(lines(i * 20, 20));
  t.equal(out.lost, 0);
  t.same(
    numbers(file),
    Array.from({ length: 100 }, (_, i) => i),
  );
  t.match(log, [/cannot rotate translation records, the file grows/]);
  for (const n of [1, 2, 3, 4]) rmSync(`${file}.${n}`, { recursive: true, force: true });
  await out.write(lines(100, 20));
  await out.close();
  t.same(
    numbers(`${file}.1`),
    Array.from({ length: 100 }, (_, i) => i),
  );
  t.match(log[1], /translation records are rotated again/);
  t.equal(log.length, 2);
});
