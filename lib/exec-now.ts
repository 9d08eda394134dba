/** Runs a program while this process waits: for the moments in which there is nothing that could come too late. */
import { spawnSync } from 'node:child_process';
import { programEnvironment } from './exec.ts';

/**
 * Runs a program with this input to its end. Throws with what it says on stderr, or why it could not be run.
 * @param timeoutMs after which it is killed
 */
export function execNow(file: string, args: readonly string[], input: string, timeoutMs: number): void {
  const { error, status, signal, stderr } = spawnSync(file, args, {
    ...{ input, timeout: timeoutMs, encoding: 'utf8', env: programEnvironment() },
    killSignal: 'SIGKILL',
  });
  if (status === 0) return;
  throw error ?? new Error(stderr.trim() || `${file}: ${signal ?? `exit code ${status}`}`);
}
