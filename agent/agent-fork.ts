/**
 * Forks the agent process. It loads at once, and does nothing else until it is told to begin (messages.ts): the BFD process forks
 * it before it has loaded what it needs itself, and both load side by side.
 *
 * Not where there are sessions to resume, or to begin by a seal (sealed-start.ts), in Kube-OVN's pods: those come first, and may have
 * one core, or less, for both processes.
 */
import { existsSync } from 'node:fs';
import { extname, join } from 'node:path';
import type { ForkedProcess } from './agent-child.ts';
import type { ToAgent } from './messages.ts';
import type { Options } from './options.ts';

/** What the BFD process keeps of its sessions (bfd/checkpoint.ts), in the state directory. */
export const CHECKPOINT_FILE = 'bfd.json';

/** Forks the process. Throws, or returns one without a pid that emits `error`, when that fails. */
export function forkAgent(options: Options): ForkedProcess {
  const file = join(import.meta.dirname, `child${extname(import.meta.filename)}`);
  // A fifth of what an interpreter does until it has resumed its sessions, which comes before the first fork.
  const { fork } = process.getBuiltinModule('node:child_process');
  return fork(file, [JSON.stringify(options)], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    // No process that can send a signal may open Node's inspector.
    execArgv: [...process.execArgv, '--disable-sigusr1'],
  });
}

/** Tells a forked process to begin. */
export function begin(forked: ForkedProcess): ForkedProcess {
  if (forked.connected) forked.send({ type: 'begin' } satisfies ToAgent, () => {});
  return forked;
}

/** Forks the process ahead of its time; undefined where sessions come first, or no process can be forked now. */
export function forkAhead(options: Options): ForkedProcess | undefined {
  if (existsSync(join(options.stateDir, CHECKPOINT_FILE))) return undefined;
  try {
    const forked = forkAgent(options);
    // The attempt that counts comes later.
    forked.once('error', () => {});
    return forked.pid === undefined ? undefined : forked;
  } catch {
    return undefined;
  }
}
