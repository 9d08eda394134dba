/**
 * A promise that nobody waits for must not reject: that ends the process. Biome (`noFloatingPromises`) finds those
 * that are simply dropped; what is dropped with `void` is listed here, each with why it cannot reject.
 */
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** A call whose value is thrown away, in a statement or as all that a function does. */
const DROPPED = /(?:^|[;{)]|=>)\s*void ([a-zA-Z#][\w.#!]*)\(/gm;

const CANNOT_REJECT: Record<string, string> = {
  'agent/flows/policy-counters.ts: this.refresh': 'logs every failure',
  'agent/group/group-worker.ts: this.#lookup': 'waits for settled promises',
  'agent/group/kernel/flows.ts: this.#read': 'logs its errors',
  'agent/group/kernel/flows.ts: this.#sweep': 'logs its errors',
  'agent/commands/check.ts: process.stdout.write': 'no promise',
  'agent/commands/check.ts: process.stderr.write': 'no promise',
  'agent/show/http.ts: this.#http.closeServer': 'waits for the end of a server, which does not fail',
  'agent/show/page/browser/main.ts: poll': 'shows the error on the page',
  'agent/show/page/browser/main.ts: search': 'shows the error on the page',
  'agent/group/lookups.ts: this.#answer': 'a lookup that fails is an answer',
  'agent/group/thread.ts: worker.terminate': 'resolves with the exit code',
  'agent/kube-ovn/session-recovery.ts: bfd.command': 'no answer is an answer',
  'agent/process.ts: this.#busiest.check': 'tells what went wrong itself',
  'agent/commands/render.ts: process.stderr.write': 'no promise',
  'agent/seal-kernel.ts: sets.push': 'no promise',
  'agent/sealed-start.ts: this.#check': 'a question that fails breaks the seal',
  'lib/control/server.ts: socket.check': 'logs its errors',
  'lib/http-server.ts: this.#serve': 'tells what went wrong itself',
};

t.test('what is dropped with `void` cannot reject', async (t) => {
  const found = new Set<string>();
  for (const file of globSync('{agent,bfd,lib,nat,routing,images}/**/*.ts', { cwd: ROOT })) {
    const text = readFileSync(join(ROOT, file), 'utf8');
    for (const [, call] of text.matchAll(DROPPED)) found.add(`${file}: ${call}`);
  }
  t.same([...found].sort(), Object.keys(CANNOT_REJECT).sort());
});
