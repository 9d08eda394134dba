import t from 'tap';
import { exec, isChild } from '../../lib/exec.ts';

t.strictSame(
  await exec('cat', [], { input: 'a\nb\n' }),
  { stdout: 'a\nb\n', stderr: '', exitCode: 0 },
  'input goes in and output comes out as it is',
);
t.equal((await exec('sh', ['-c', 'exit 3'])).exitCode, 3, 'a failure is told by its exit code');
t.match(
  await exec('no-such-program-here', ['x']),
  { exitCode: -1, stderr: 'no-such-program-here: not found' },
  'a missing program is no exception',
);
t.match(
  await exec('sleep', ['10'], { timeoutMs: 50 }),
  { exitCode: -1, stderr: 'sleep: timed out after 0.05 s' },
  'a program that hangs is ended and told',
);
t.match(
  await exec('sh', ['-c', 'sleep 2 & wait'], { timeoutMs: 50 }),
  { exitCode: -1, stderr: 'sh: timed out after 0.05 s' },
  'nor does a child of it, which has its output, delay that',
);
t.match(
  await exec('sh', ['-c', 'echo no >&2; exit 4'], { input: 'x'.repeat(1 << 20) }),
  { exitCode: 4, stderr: 'no\n' },
  'a program that does not read its input says itself why',
);
t.match(
  await exec('sh', ['-c', 'kill -9 $$']),
  { exitCode: -1, stderr: 'sh: killed by SIGKILL' },
  'one that was killed is told',
);
t.match(
  await exec('echo', ['\0']),
  { exitCode: -1, stdout: '' },
  'what no program can be given is no exception',
);
t.equal((await exec('echo', ['$(id); `id`'])).stdout, '$(id); `id`\n', 'no shell reads the arguments');
const { stdout } = await exec('env', []);
t.match(stdout, /^LC_ALL=C$/m, 'messages are in the C locale');
t.notMatch(stdout, /^HOME=/m, 'the environment does not leak');

const { stdout: pid } = await exec('sh', ['-c', 'echo $$']);
t.ok(isChild(Number(pid)), 'a child is known by its process id, also when it has ended');
t.notOk(isChild(process.pid));
