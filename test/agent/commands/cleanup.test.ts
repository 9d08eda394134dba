/** `veg-agent cleanup` beside a daemon. */
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { socketPath } from '../../../lib/control/path.ts';
import { serveControl } from '../../../lib/control/server.ts';
import { silentLog } from '../../bfd/silent.ts';

const MAIN = fileURLToPath(new URL('../../../agent/main.ts', import.meta.url));

t.test('beside a daemon it changes nothing and says what to do', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'veg-cleanup-'));
  const server = await serveControl(dir, {}, silentLog);
  t.teardown(async () => {
    await server.close();
    rmSync(dir, { recursive: true });
  });
  const saved = join(dir, 'last-policy.json.gz');
  writeFileSync(saved, '');
  const ended = await new Promise<{ code: number; stdout: string; stderr: string }>((resolve) =>
    // Without a program to list the kernel with: what runs on this machine stays as it is.
    execFile(
      process.execPath,
      [MAIN, 'cleanup', '--state-dir', dir],
      { env: { PATH: '/nonexistent' } },
      (error, stdout, stderr) => resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }),
    ),
  );
  t.match(ended, { code: 1, stdout: '' });
  t.ok(ended.stderr.startsWith(`veg-agent: nothing was removed: a daemon serves ${socketPath(dir)} `));
  t.match(ended.stderr, /end the daemon and run cleanup again, or .*--on-exit remove/);
  t.ok(existsSync(saved), 'the last good policy is still there');
});
