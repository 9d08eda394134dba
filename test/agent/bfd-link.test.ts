/** The agent process's end of the line, in processes of their own. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import t, { type Test } from 'tap';

const LINK = join(import.meta.dirname, '../../agent/bfd-link.ts');
const GONE = 3;

/** A process that makes its end of the line after `wait`, and ends with GONE when it hears that its parent is gone. */
function child(t: Test, wait: string) {
  const script = `import { BfdLink } from ${JSON.stringify(LINK)};
process.send('loading');
${wait}
setTimeout(() => process.exit(1), 5000);
new BfdLink({ onGone: () => process.exit(${GONE}), watchedAgo() {}, onReport() {}, onShutdown() {} });
process.send?.('there', undefined, undefined, () => {});
`;
  return fork(join(t.testdir({ 'child.ts': script }), 'child.ts'));
}

t.test('a parent that dies while the process loads is missed', async (t) => {
  const process = child(
    t,
    'while (process.connected) await new Promise((resolve) => setTimeout(resolve, 5));',
  );
  await once(process, 'message');
  process.disconnect();
  t.strictSame(await once(process, 'exit'), [GONE, null]);
});

t.test('so is one that dies later', async (t) => {
  const process = child(t, '');
  for (let said: unknown; said !== 'there'; ) [said] = await once(process, 'message');
  process.disconnect();
  t.strictSame(await once(process, 'exit'), [GONE, null]);
});
