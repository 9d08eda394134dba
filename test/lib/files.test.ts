/** Files that are not what they should be: what is read of them, and what is written in their place. */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { makeOwnDirectory, readMounted, readState, replaceOpen, replaceState } from '../../lib/files.ts';

/** What may stand where a file should be, each with what an error calls it. */
const STRANGE: Record<string, { kind: string; make: (path: string, target: string) => void }> = {
  fifo: { kind: 'a FIFO', make: (path) => execFileSync('mkfifo', [path]) },
  link: { kind: 'a symbolic link', make: (path, target) => symlinkSync(target, path) },
  dangling: { kind: 'a symbolic link', make: (path, target) => symlinkSync(`${target}-gone`, path) },
  loop: { kind: 'a symbolic link', make: (path) => symlinkSync(path, path) },
  device: { kind: 'a symbolic link', make: (path) => symlinkSync('/dev/zero', path) },
  directory: {
    kind: 'a directory',
    make(path) {
      mkdirSync(path);
      writeFileSync(join(path, 'inside'), '');
    },
  },
};

/** A directory with a file that nobody may touch. */
function place(t: Test) {
  const dir = t.testdir({ target: 'precious' });
  return { dir, file: join(dir, 'state'), target: join(dir, 'target') };
}

t.test('a state file is a regular file of a bounded size', async (t) => {
  const { file } = place(t);
  t.equal(readState(file, 4), undefined, 'none is no error');
  writeFileSync(file, 'four');
  t.same(readState(file, 4), Buffer.from('four'));
  t.throws(() => readState(file, 3), /state is larger than 3 octets/);
  truncateSync(file, 2 ** 40);
  t.throws(() => readState(file, 1 << 20), /larger than 1048576 octets/, 'and nothing of it is read');
  writeFileSync(file, '');
  t.same(readState(file, 4), Buffer.alloc(0));
});

for (const [name, { kind, make }] of Object.entries(STRANGE)) {
  t.test(`state: ${name} is not read, and a write takes its place`, async (t) => {
    const { dir, file, target } = place(t);
    make(file, target);
    t.throws(() => readState(file, 100), new RegExp(`state is ${kind}, not a regular file`));
    make(`${file}.new`, target);
    replaceState(file, ['one ', Buffer.from('two')]);
    t.equal(readFileSync(file, 'utf8'), 'one two');
    t.equal(lstatSync(file).mode & 0o7777, 0o600);
    t.equal(readFileSync(target, 'utf8'), 'precious', 'nothing is written through a link');
    t.same(readdirSync(dir).sort(), ['state', 'target'], 'and nothing is left');
  });
}

t.test('a socket is no state file either', async (t) => {
  const { file } = place(t);
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(file, resolve));
  t.throws(() => readState(file, 100), /state is a socket/);
  t.throws(() => readMounted(file, 100), /state is a socket/);
  server.close();
});

t.test('a file that cannot be written leaves the old one', async (t) => {
  const { file } = place(t);
  replaceState(file, ['old']);
  const broken = { toString: () => 'no content' } as unknown as string;
  t.throws(() => replaceState(file, ['new', broken]));
  t.equal(readFileSync(file, 'utf8'), 'old');
  t.notOk(existsSync(`${file}.new`));
});

t.test('a file that stays open is the one in place', async (t) => {
  const { file } = place(t);
  const fd = replaceOpen(file, ['0123']);
  writeSync(fd, 'x', 1);
  closeSync(fd);
  t.equal(readFileSync(file, 'utf8'), '0x23');
});

t.test('a mounted file is read through the links of the kubelet', async (t) => {
  const dir = t.testdir({ '..2026': { key: 'secret' } });
  symlinkSync('..2026', join(dir, '..data'));
  symlinkSync('..data/key', join(dir, 'key'));
  t.same(readMounted(join(dir, 'key'), 6), Buffer.from('secret'));
  t.throws(() => readMounted(join(dir, 'key'), 5), /key is larger than 5 octets/);
  t.throws(() => readMounted(join(dir, 'absent'), 5), { code: 'ENOENT' });
  execFileSync('mkfifo', [join(dir, '..2026', 'fifo')]);
  symlinkSync('..data/fifo', join(dir, 'fifo'));
  t.throws(() => readMounted(join(dir, 'fifo'), 5), /fifo is a FIFO/);
  for (const device of ['/dev/zero', '/dev/null', '/dev/tty']) {
    t.throws(() => readMounted(device, 5), /is a device, not a regular file/);
  }
});

t.test('a file whose size is not told before is bounded as well', async (t) => {
  t.equal(statSync('/proc/self/status').size, 0);
  t.match(readMounted('/proc/self/status', 1 << 20).toString(), /^Name:/);
  t.throws(() => readMounted('/proc/self/status', 100), /larger than 100 octets/);
});

t.test('a directory of ours is made, and is none of somebody else', async (t) => {
  const { dir } = place(t);
  const own = join(dir, 'a', 'own');
  makeOwnDirectory(own);
  t.equal(statSync(own).mode & 0o7777, 0o700);
  writeFileSync(join(own, 'kept'), '');
  makeOwnDirectory(own);
  t.same(readdirSync(own), ['kept']);
  const elsewhere = join(dir, 'elsewhere');
  mkdirSync(elsewhere);
  const link = join(dir, 'link');
  symlinkSync(elsewhere, link);
  makeOwnDirectory(link);
  t.ok(lstatSync(link).isDirectory());
  t.ok(existsSync(elsewhere));
});
