// The policy directory as the kubelet, an editor and a person change it.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { MAX_FILE_SIZE, MAX_SET_SIZE } from '../../../agent/policy/bounds.ts';
import { loadPolicy } from '../../../agent/policy/load.ts';
import { type PolicySource, readPolicy, watchPolicy } from '../../../agent/policy/watch.ts';

/** A watched directory and what was delivered; `next` waits for the next delivery. */
function watching(t: Test, directory: string, options = {}) {
  const delivered: PolicySource[] = [];
  let wake = () => {};
  const watch = watchPolicy(
    directory,
    (source) => {
      delivered.push(source);
      wake();
    },
    options,
  );
  t.teardown(() => watch.close());
  let taken = 0;
  const next = async () => {
    while (delivered.length === taken) await new Promise<void>((resolve) => (wake = resolve));
    return delivered[taken++]!;
  };
  return { read: () => watch.read(), close: () => watch.close(), delivered, next };
}

/** A ConfigMap as the kubelet mounts it: the files' symlinks, `..data`, and a directory for each generation. */
function configMap(root: string) {
  let generation = 0;
  return (files: Record<string, string>) => {
    const name = `..2026_11_21_10_00_0${generation++}.1`;
    fs.mkdirSync(join(root, name));
    for (const [file, text] of Object.entries(files)) fs.writeFileSync(join(root, name, file), text);
    fs.symlinkSync(name, join(root, '..data_tmp'));
    const old = fs.existsSync(join(root, '..data')) ? fs.readlinkSync(join(root, '..data')) : undefined;
    fs.renameSync(join(root, '..data_tmp'), join(root, '..data'));
    for (const file of Object.keys(files)) {
      if (!fs.existsSync(join(root, file))) fs.symlinkSync(join('..data', file), join(root, file));
    }
    if (old !== undefined) fs.rmSync(join(root, old), { recursive: true });
  };
}

t.test(
  'every .yaml, .yml and .json is read in the order of names; hidden ones are not there, all others by name',
  async (t) => {
    const dir = t.testdir({
      'b.yml': 'b',
      'a.yaml': 'a',
      'c.json': 'c',
      '.hidden.yaml': 'x',
      'notes.txt': 'x',
      'a.yaml.bak': 'x',
      'directory.yaml': {},
      directory: { 'd.yaml': 'd' },
      gone: t.fixture('symlink', 'nowhere'),
    });
    t.same(readPolicy(dir), [
      { name: 'a.yaml', text: 'a' },
      { name: 'b.yml', text: 'b' },
      { name: 'c.json', text: 'c' },
      { name: 'a.yaml.bak', text: '', ignored: true },
      { name: 'notes.txt', text: '', ignored: true },
    ]);
  },
);

t.test('a file that is not read is told when it comes and when it goes, whatever is in it', async (t) => {
  const dir = t.testdir({ 'a.yaml': '1' });
  const watch = watching(t, dir, { poll: 10 });
  watch.read();
  const read = { name: 'a.yaml', text: '1' };
  fs.writeFileSync(join(dir, 'b.txt'), '1');
  t.same(await watch.next(), [read, { name: 'b.txt', text: '', ignored: true }]);
  fs.writeFileSync(join(dir, 'b.txt'), '2');
  fs.rmSync(join(dir, 'b.txt'));
  t.same(await watch.next(), [read]);
  t.equal(watch.delivered.length, 2);
});

t.test('one file is read by its path', async (t) => {
  const dir = t.testdir({ 'a.yaml': 'a' });
  t.same(readPolicy(join(dir, 'a.yaml')), [{ name: join(dir, 'a.yaml'), text: 'a' }]);
});

t.test('what is no file is an error of its name, in a directory and by its path', async (t) => {
  const dir = t.testdir({ 'a.yaml': 'a', 'zero.json': t.fixture('symlink', '/dev/zero') });
  execFileSync('mkfifo', [join(dir, 'fifo.yaml')]);
  const problem = (name: string, kind: string) => ({
    name,
    text: '',
    problem: `is ${kind}, not a regular file`,
  });
  const fifo = join(dir, 'fifo.yaml');
  t.same(readPolicy(dir), [
    { name: 'a.yaml', text: 'a' },
    problem('fifo.yaml', 'a FIFO'),
    problem('zero.json', 'a device'),
  ]);
  t.same(readPolicy(fifo), [problem(fifo, 'a FIFO')]);
  t.match(loadPolicy(readPolicy(fifo) as []), {
    ok: false,
    errors: [{ file: fifo, line: 1, col: 1, message: 'is a FIFO, not a regular file' }],
  });
});

t.test('what cannot be read is said with its path and the reason', async (t) => {
  const dir = t.testdir({ 'gone.yaml': t.fixture('symlink', 'nowhere') });
  t.same(readPolicy(join(dir, 'absent')), {
    path: `${dir}/absent`,
    unreadable: 'cannot be read: no such file or directory',
  });
  t.same(readPolicy(dir), {
    path: `${dir}/gone.yaml`,
    unreadable: 'cannot be read: no such file or directory',
  });
});

t.test('a file beyond the bounds is not read, and is refused with its size', async (t) => {
  const dir = t.testdir();
  const large = join(dir, 'large.yaml');
  fs.writeFileSync(large, '');
  fs.truncateSync(large, 100 << 20);
  const files = readPolicy(dir);
  t.same(files, [{ name: 'large.yaml', text: '', size: 100 << 20 }]);
  t.match(loadPolicy(files as []), { ok: false, errors: [{ file: 'large.yaml', message: /100 MiB/ }] });
});

t.test('files that are too much together are refused, and no more than the bound is read', async (t) => {
  const dir = t.testdir();
  for (const i of [0, 1, 2, 3]) fs.writeFileSync(join(dir, `${i}.yaml`), ' '.repeat(MAX_FILE_SIZE - i));
  const files = readPolicy(dir) as { text: string }[];
  t.ok(files.reduce((sum, { text }) => sum + text.length, 0) <= MAX_SET_SIZE);
  t.match(loadPolicy(files as []), { ok: false, errors: [{ message: /together/ }] });
});

t.test('a swap of a ConfigMap is delivered once, whole', async (t) => {
  const dir = t.testdir();
  const write = configMap(dir);
  write({ 'a.yaml': '1', 'b.yaml': '1' });
  const watch = watching(t, dir);
  t.same(watch.read(), [
    { name: 'a.yaml', text: '1' },
    { name: 'b.yaml', text: '1' },
  ]);
  for (const text of ['2', '3']) {
    write({ 'a.yaml': text, 'b.yaml': text });
    t.same(await watch.next(), [
      { name: 'a.yaml', text },
      { name: 'b.yaml', text },
    ]);
  }
  write({ 'a.yaml': '4', 'c.yaml': '4' });
  t.same(await watch.next(), [
    { name: 'a.yaml', text: '4' },
    { name: 'c.yaml', text: '4' },
  ]);
  t.equal(watch.delivered.length, 3);
});

t.test('a swap of a ConfigMap does not wait for files to rest', async (t) => {
  const dir = t.testdir();
  const write = configMap(dir);
  write({ 'a.yaml': '1' });
  const watch = watching(t, dir, { settle: 600_000, settleAtMost: 600_000, poll: 600_000 });
  watch.read();
  write({ 'a.yaml': '2' });
  t.same(await watch.next(), [{ name: 'a.yaml', text: '2' }]);
});

t.test('a file edited in place, replaced by rename, added and removed is delivered', async (t) => {
  const dir = t.testdir({ 'a.yaml': '1' });
  const watch = watching(t, dir);
  watch.read();
  fs.writeFileSync(join(dir, 'a.yaml'), '2');
  t.same(await watch.next(), [{ name: 'a.yaml', text: '2' }]);
  fs.writeFileSync(join(dir, '.a.yaml.swp'), '3');
  fs.renameSync(join(dir, '.a.yaml.swp'), join(dir, 'a.yaml'));
  t.same(await watch.next(), [{ name: 'a.yaml', text: '3' }]);
  fs.writeFileSync(join(dir, 'b.yaml'), '4');
  t.same(await watch.next(), [
    { name: 'a.yaml', text: '3' },
    { name: 'b.yaml', text: '4' },
  ]);
  fs.rmSync(join(dir, 'a.yaml'));
  t.same(await watch.next(), [{ name: 'b.yaml', text: '4' }]);
});

t.test('a file that is written in pieces is delivered when it rests', async (t) => {
  const dir = t.testdir({ 'a.yaml': '1' });
  const watch = watching(t, dir, { settle: 100, settleAtMost: 5000 });
  watch.read();
  for (const piece of ['one ', 'two ', 'three']) {
    fs.appendFileSync(join(dir, 'a.yaml'), piece);
    await sleep(10);
  }
  t.same(await watch.next(), [{ name: 'a.yaml', text: '1one two three' }]);
  t.equal(watch.delivered.length, 1);
});

t.test('a file that never rests is delivered all the same', async (t) => {
  const dir = t.testdir({ 'a.yaml': '' });
  const watch = watching(t, dir, { settle: 200, settleAtMost: 300 });
  watch.read();
  const writer = setInterval(() => fs.appendFileSync(join(dir, 'a.yaml'), 'x'), 20);
  const source = await watch.next();
  // Before the directory goes.
  clearInterval(writer);
  t.match(source, [{ name: 'a.yaml', text: /^x+$/ }]);
});

t.test('a directory that appears, goes and comes back is followed', async (t) => {
  const root = t.testdir();
  const dir = join(root, 'policy');
  const watch = watching(t, dir);
  const absent = { path: dir, unreadable: 'cannot be read: no such file or directory' };
  t.same(watch.read(), absent);
  for (const text of ['1', '2']) {
    fs.mkdirSync(dir);
    fs.writeFileSync(join(dir, 'a.yaml'), text);
    // The empty directory may be seen first.
    let source = await watch.next();
    if (Array.isArray(source) && source.length === 0) source = await watch.next();
    t.same(source, [{ name: 'a.yaml', text }]);
    fs.renameSync(dir, join(root, `old-${text}`));
    t.same(await watch.next(), absent);
  }
});

t.test('a directory below one that is not there either is found without an event', async (t) => {
  const root = t.testdir();
  const dir = join(root, 'not', 'yet');
  const watch = watching(t, dir, { poll: 20 });
  watch.read();
  fs.mkdirSync(join(root, 'new', 'yet'), { recursive: true });
  fs.writeFileSync(join(root, 'new', 'yet', 'a.yaml'), '1');
  fs.renameSync(join(root, 'new'), join(root, 'not'));
  t.same(await watch.next(), [{ name: 'a.yaml', text: '1' }]);
});

t.test('a change behind a symlink to elsewhere is found without an event', async (t) => {
  const root = t.testdir({ elsewhere: '1', policy: { 'a.yaml': t.fixture('symlink', '../elsewhere') } });
  const watch = watching(t, join(root, 'policy'), { poll: 20 });
  watch.read();
  fs.writeFileSync(join(root, 'elsewhere'), '2');
  t.same(await watch.next(), [{ name: 'a.yaml', text: '2' }]);
});

t.test('what is written again as it was is not delivered', async (t) => {
  const dir = t.testdir({ 'a.yaml': '1' });
  const watch = watching(t, dir, { settle: 1, poll: 10 });
  watch.read();
  fs.writeFileSync(join(dir, 'a.yaml'), '1');
  fs.utimesSync(join(dir, 'a.yaml'), 0, 0);
  fs.writeFileSync(join(dir, '.hidden.yaml'), 'x');
  // Ten polls: a change right now would be delivered together with what must not be.
  await sleep(100);
  fs.writeFileSync(join(dir, 'a.yaml'), '2');
  t.same(await watch.next(), [{ name: 'a.yaml', text: '2' }]);
  t.equal(watch.delivered.length, 1);
});

t.test('what was read counts as delivered', async (t) => {
  const dir = t.testdir({ 'a.yaml': '1' });
  const watch = watching(t, dir, { settle: 50 });
  fs.writeFileSync(join(dir, 'a.yaml'), '2');
  t.same(watch.read(), [{ name: 'a.yaml', text: '2' }]);
  // Nothing is to be delivered: three times as long as it would take.
  await sleep(150);
  t.equal(watch.delivered.length, 0);
});

t.test('nothing is delivered once it is closed', async (t) => {
  const dir = t.testdir({ 'a.yaml': '1' });
  const watch = watching(t, dir, { poll: 10 });
  watch.read();
  fs.writeFileSync(join(dir, 'a.yaml'), '2');
  watch.close();
  // Fifteen polls.
  await sleep(150);
  t.equal(watch.delivered.length, 0);
});

t.test('reads during swaps always see one generation', async (t) => {
  const dir = t.testdir();
  const write = configMap(dir);
  write({ 'a.yaml': '0', 'b.yaml': '0' });
  const watch = watching(t, dir, { settle: 0, settleAtMost: 0, poll: 5 });
  watch.read();
  for (let i = 1; i <= 50; i++) {
    write({ 'a.yaml': `${i}`, 'b.yaml': `${i}` });
    await sleep(i % 3);
  }
  while (((await watch.next()) as { text: string }[])[0]?.text !== '50');
  for (const source of watch.delivered) {
    const texts = (source as { text: string }[]).map(({ text }) => text);
    t.equal(texts.length, 2);
    t.equal(texts[0], texts[1]);
  }
});
