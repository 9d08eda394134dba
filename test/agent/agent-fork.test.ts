import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { CHECKPOINT_FILE, forkAhead } from '../../agent/agent-fork.ts';
import { resolveOptions } from '../../agent/options.ts';

function stateDir(t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'veg-agent-fork-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  return directory;
}

t.test('an agent process that was forked ahead does nothing before it is told to begin', async (t) => {
  const directory = stateDir(t);
  const forked = forkAhead(resolveOptions({ 'state-dir': directory }, {}, false))!;
  const ended = new Promise<unknown[]>((resolve) => forked.once('exit', (...how) => resolve(how)));
  forked.disconnect();
  t.strictSame(await ended, [1, null], 'it ends with the process that has forked it');
  t.strictSame(readdirSync(directory), [], 'and has not touched the state directory');
});

t.test('none is forked ahead where there are sessions to resume', async (t) => {
  const directory = stateDir(t);
  writeFileSync(join(directory, CHECKPOINT_FILE), '');
  t.equal(forkAhead(resolveOptions({ 'state-dir': directory }, {}, false)), undefined);
});
