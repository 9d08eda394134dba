import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Credentials, readGroupKey } from '../../../agent/group/credentials.ts';

const KEY = 'a'.repeat(32);
const write = (path: string, text: string, mode = 0o600): string => {
  writeFileSync(path, text);
  chmodSync(path, mode);
  return path;
};

t.test(
  'a key is the octets of its file without a line end, and its identity does not say them',
  async (t) => {
    const dir = t.testdir();
    const plain = readGroupKey(write(join(dir, 'a'), KEY));
    t.same(readGroupKey(write(join(dir, 'b'), `${KEY}\r\n`)), plain);
    t.notSame(readGroupKey(write(join(dir, 'c'), `${KEY}b`)).identity, plain.identity);
    t.equal(plain.secret.length, 32);
    t.match(plain.identity, /^veg-group-[0-9a-f]{16}$/);
    t.notOk(plain.secret.toString('hex').includes(plain.identity.slice(-16)));
  },
);

t.test('what is no key: short, long, missing, a directory, readable by others', async (t) => {
  const dir = t.testdir();
  const path = join(dir, 'k');
  t.throws(
    () => readGroupKey(write(path, `${'a'.repeat(31)}\n\n`)),
    /holds 31 octets; a key needs at least 32/,
  );
  t.throws(() => readGroupKey(write(path, 'a'.repeat(5000))), /larger than 4096/);
  t.throws(() => readGroupKey(write(path, KEY, 0o604)), /mode 0604: other users can read it/);
  t.doesNotThrow(() => readGroupKey(write(path, KEY, 0o440)));
  t.throws(() => readGroupKey(join(dir, 'none')), /ENOENT/);
  for (const mode of [0o700, 0o755]) {
    chmodSync(dir, mode);
    t.throws(() => readGroupKey(dir), /is a directory, not a regular file/);
  }
});

t.test(
  'other files: the former key is accepted for a while, and stays in force while they cannot be read',
  async (t) => {
    const dir = t.testdir();
    const credentials = new Credentials({ keyFile: write(join(dir, 'a'), KEY) }, 1000);
    credentials.refresh(0);
    const [former] = credentials.identities;
    credentials.use({ keyFile: join(dir, 'b') });
    t.match(credentials.refresh(1), {
      changed: false,
      problem: /\/b cannot be read: no such file or directory$/,
    });
    t.same(credentials.identities, [former]);
    write(join(dir, 'b'), 'b'.repeat(40));
    t.same(credentials.refresh(2), { changed: true });
    t.equal(credentials.identities[1], former);
    t.equal(credentials.keys.length, 2);
  },
);

t.test(
  'a new key is used first, the former one is accepted for a while, and an error keeps both',
  async (t) => {
    const path = write(join(t.testdir(), 'k'), KEY);
    const credentials = new Credentials({ keyFile: path }, 1000);
    t.same(credentials.refresh(0), { changed: true });
    t.same(credentials.refresh(1), { changed: false });
    const [first] = credentials.keys;
    write(path, 'short');
    t.match(credentials.refresh(2), { changed: false, problem: /holds 5 octets/ });
    t.match(credentials.refresh(3), { problem: /holds 5 octets/ }, 'as long as it lasts');
    t.same(credentials.keys, [first]);
    write(path, 'b'.repeat(40));
    t.same(credentials.refresh(10), { changed: true });
    t.equal(credentials.keys.length, 2);
    t.equal(credentials.keys[1]!.identity, first!.identity);
    t.same(credentials.refresh(1009), { changed: false });
    t.same(credentials.refresh(1010), { changed: true }, 'the former one is over');
    t.equal(credentials.keys.length, 1);
  },
);
