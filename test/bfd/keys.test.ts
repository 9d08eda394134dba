/** Secrets from files: what they may hold, and how long the previous one is accepted. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { KeyRing, readKey } from '../../bfd/keys.ts';

const directory = mkdtempSync(join(tmpdir(), 'bfd-keys-'));
t.teardown(() => rmSync(directory, { recursive: true }));
const keyFile = join(directory, 'key');
const MINUTE = 60_000_000;

/** The ring's secrets as text. */
const secrets = (ring: KeyRing) => ring.keys.map(({ secret }) => Buffer.from(secret).toString());

t.test('4.2 – 4.4 a secret is the octets of the file without its line end', async (t) => {
  writeFileSync(keyFile, 'two words \r\n');
  const key = readKey({ type: 'keyed-md5', keyId: 9, keyFile });
  t.strictSame(key, { type: 'keyed-md5', id: 9, secret: Uint8Array.from(Buffer.from('two words ')) });
});

t.test('4.2 – 4.4 16 octets fit MD5 and the simple password, 20 fit SHA1', async (t) => {
  for (const [type, longest] of [
    ['simple-password', 16],
    ['meticulous-keyed-md5', 16],
    ['keyed-sha1', 20],
  ] as const) {
    writeFileSync(keyFile, 'x'.repeat(longest));
    t.equal(readKey({ type, keyId: 1, keyFile }).secret.length, longest);
    writeFileSync(keyFile, 'x'.repeat(longest + 1));
    t.throws(() => readKey({ type, keyId: 1, keyFile }), /at most/);
  }
});

t.test('an error names the file and never the secret', async (t) => {
  writeFileSync(keyFile, 'much too long to be a secret');
  const error = new KeyRing().refresh({ type: 'keyed-md5', keyId: 1, keyFile }, 0)!;
  t.match(error, keyFile);
  t.notMatch(error, 'secret');
});

t.test('an error is returned once for each cause, and the previous key stays', async (t) => {
  const ring = new KeyRing();
  const auth = { type: 'keyed-md5', keyId: 1, keyFile } as const;
  writeFileSync(keyFile, 'good');
  t.equal(ring.refresh(auth, 0), undefined);
  writeFileSync(keyFile, '\n');
  t.match(ring.refresh(auth, 1), 'is empty');
  t.equal(ring.refresh(auth, 2), undefined);
  t.strictSame(secrets(ring), ['good']);
  rmSync(keyFile);
  t.match(ring.refresh(auth, 3), 'ENOENT');
  writeFileSync(keyFile, 'good');
  t.equal(ring.refresh(auth, 4), undefined);
  writeFileSync(keyFile, '\n');
  t.match(ring.refresh(auth, 5), 'is empty', 'told again after it was well');
});

t.test('a FIFO, a device and a huge file are errors, and the previous key stays', async (t) => {
  const ring = new KeyRing();
  const auth = { type: 'keyed-md5', keyId: 1 } as const;
  writeFileSync(keyFile, 'good');
  t.equal(ring.refresh({ ...auth, keyFile }, 0), undefined);
  const fifo = join(directory, 'fifo');
  execFileSync('mkfifo', [fifo]);
  const huge = join(directory, 'huge');
  writeFileSync(huge, '');
  truncateSync(huge, 2 ** 40);
  t.match(ring.refresh({ ...auth, keyFile: fifo }, 1), 'is a FIFO, not a regular file');
  t.match(ring.refresh({ ...auth, keyFile: '/dev/zero' }, 2), 'is a device, not a regular file');
  t.match(ring.refresh({ ...auth, keyFile: directory }, 3), 'is a directory, not a regular file');
  t.match(ring.refresh({ ...auth, keyFile: huge }, 4), 'is larger than');
  t.strictSame(secrets(ring), ['good']);
});

t.test('the list of keys is the same object until it changes', async (t) => {
  const ring = new KeyRing();
  writeFileSync(keyFile, 'one');
  const auth = { type: 'keyed-sha1', keyId: 1, keyFile } as const;
  ring.refresh(auth, 0);
  const { keys } = ring;
  ring.refresh(auth, 1);
  t.equal(ring.keys, keys);
});

t.test('a former key is accepted for a while after the change, then no more', async (t) => {
  const ring = new KeyRing();
  const auth = { type: 'keyed-sha1', keyId: 1, keyFile } as const;
  writeFileSync(keyFile, 'one');
  ring.refresh(auth, 0);
  writeFileSync(keyFile, 'two');
  ring.refresh(auth, 10 * MINUTE);
  t.strictSame(secrets(ring), ['two', 'one']);
  ring.refresh(auth, 12 * MINUTE);
  t.strictSame(secrets(ring), ['two', 'one']);
  ring.refresh(auth, 13 * MINUTE);
  t.strictSame(secrets(ring), ['two']);
});

t.test('another Key ID or type is another key too', async (t) => {
  const ring = new KeyRing();
  writeFileSync(keyFile, 'same');
  ring.refresh({ type: 'keyed-sha1', keyId: 1, keyFile }, 0);
  ring.refresh({ type: 'keyed-sha1', keyId: 2, keyFile }, 1);
  t.strictSame(
    ring.keys.map(({ id }) => id),
    [2, 1],
  );
  ring.refresh({ type: 'keyed-md5', keyId: 2, keyFile }, 2);
  t.strictSame(
    ring.keys.map(({ type }) => type),
    ['keyed-md5', 'keyed-sha1'],
  );
});
