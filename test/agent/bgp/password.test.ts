// The password of a BGP session: what FRR's configuration can hold, from a file that nobody else reads.
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { passwordProblem } from '../../../agent/bgp/password.ts';
import { passwordFileProblem, readPassword } from '../../../agent/bgp/password-file.ts';

t.test('one word of printable ASCII, of at most 80 characters', async (t) => {
  for (const good of ['s3cret', 'x'.repeat(80), '!#$%&?~']) t.equal(passwordProblem(good), undefined);
  t.match(passwordProblem(''), /is empty/);
  t.match(passwordProblem('x'.repeat(81)), /has 81 characters; TCP takes at most 80/);
  for (const bad of ['two words', 'tab\t', 'line\nneighbor 10.0.0.1 remote-as 1', 'gehéim']) {
    t.match(passwordProblem(bad), /must be one word of printable ASCII/);
  }
});

t.test('a file holds it, with a line end or without', async (t) => {
  const file = join(t.testdir(), 'bgp');
  const write = (text: string) => {
    writeFileSync(file, text);
    chmodSync(file, 0o400);
  };
  for (const end of ['', '\n', '\r\n']) {
    write(`s3cret${end}`);
    t.equal(readPassword(file), 's3cret');
    chmodSync(file, 0o600);
  }
  write('one\ntwo\n');
  t.match(passwordFileProblem(file), new RegExp(`^${file}: the password must be one word`));
  chmodSync(file, 0o644);
  t.match(passwordFileProblem(file), /has mode 0644: other users can read it/);
  t.equal(passwordFileProblem(`${file}x`), `${file}x cannot be read: no such file or directory`);
  chmodSync(file, 0o600);
  write('s3cret');
  t.equal(passwordFileProblem(file), undefined);
});
