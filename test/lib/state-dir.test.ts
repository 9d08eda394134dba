/** One daemon a state directory. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { StateDir, StateDirError } from '../../lib/state-dir.ts';

const MODULE = new URL('../../lib/state-dir.ts', import.meta.url).href;

function directory(t: Test): string {
  const path = mkdtempSync(join(tmpdir(), 'veg-state-'));
  t.teardown(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Another process that takes the directory, starts one that outlives it, and waits. */
async function taker(t: Test, path: string): Promise<ChildProcess> {
  const script = `
    const { StateDir } = await import(${JSON.stringify(MODULE)});
    const { spawn } = await import('node:child_process');
    await StateDir.acquire(${JSON.stringify(path)});
    spawn('sleep', ['5'], { stdio: 'ignore', detached: true }).unref();
    console.log('taken');
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 2],
  });
  t.teardown(() => child.kill('SIGKILL'));
  await new Promise((resolve) => child.stdout!.once('data', resolve));
  return child;
}

const end = (child: ChildProcess, signal: NodeJS.Signals) =>
  new Promise((resolve) => {
    child.once('exit', resolve);
    child.kill(signal);
  });

t.test('a second one is refused by any name of the directory, and told what to do', async (t) => {
  const path = directory(t);
  const other = join(directory(t), 'link');
  symlinkSync(path, other);
  await taker(t, path);
  for (const name of [path, other]) {
    const error = await StateDir.acquire(name, { timeout: 50 }).catch((reason: unknown) => reason);
    t.ok(error instanceof StateDirError);
    t.match((error as Error).message, `another daemon uses the state directory ${name}; end it, or give`);
  }
});

t.test('kill -9 frees it, whatever the killed one has started', async (t) => {
  const path = directory(t);
  await end(await taker(t, path), 'SIGKILL');
  t.equal((await StateDir.acquire(path)).path, path);
});

t.test('one that is about to end is waited for', async (t) => {
  const path = directory(t);
  const first = await taker(t, path);
  let waits = 0;
  const second = StateDir.acquire(path, { onWait: () => waits++ });
  t.equal(waits, 1, 'and that is said once');
  first.kill('SIGKILL');
  t.equal((await second).path, path);
  t.equal(waits, 1);
});

t.test('a directory that is missing is made; what can never be one is refused by name', async (t) => {
  const path = directory(t);
  await StateDir.acquire(join(path, 'a', 'b'));
  writeFileSync(join(path, 'file'), '');
  for (const bad of [join(path, 'file'), join(path, 'file', 'below'), '/proc/veg-agent']) {
    await t.rejects(StateDir.acquire(bad), { message: `the state directory ${bad} cannot be used: ` }, bad);
  }
});

t.test('a directory that was taken away is taken anew, unless another was faster', async (t) => {
  const path = directory(t);
  const held = await StateDir.acquire(path);
  held.ensure();
  renameSync(path, `${path}.away`);
  t.teardown(() => rmSync(`${path}.away`, { recursive: true }));
  mkdirSync(path);
  held.ensure();
  await t.rejects(StateDir.acquire(path, { timeout: 50 }), /another daemon uses/, 'the new one is held');
  rmSync(path, { recursive: true });
  held.ensure();
  rmSync(path, { recursive: true });
  await taker(t, path);
  t.throws(() => held.ensure(), /another daemon has recreated and locked/);
});
