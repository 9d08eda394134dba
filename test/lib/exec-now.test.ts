import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { execNow } from '../../lib/exec-now.ts';

t.test('a program has its input and its arguments, and has ended', (t) => {
  const file = join(t.testdir(), 'out');
  execNow('sh', ['-c', 'cat >"$1"', 'sh', file], 'a\nb\n', 10_000);
  t.equal(readFileSync(file, 'utf8'), 'a\nb\n');
  t.end();
});

t.test('a failure is thrown with what the program says, or why it could not run', (t) => {
  t.throws(() => execNow('sh', ['-c', 'echo no >&2; exit 3'], '', 10_000), { message: 'no' });
  t.throws(() => execNow('sh', ['-c', 'exit 3'], '', 10_000), { message: 'sh: exit code 3' });
  t.throws(() => execNow('no-such-program-here', [], '', 10_000), /ENOENT/);
  const file = join(t.testdir(), 'late');
  t.throws(() => execNow('sh', ['-c', 'sleep 10; : >"$1"', 'sh', file], '', 50), /ETIMEDOUT/);
  t.notOk(existsSync(file), 'it was killed');
  t.end();
});
