/** Prints a command's output. */
import type { CommandOutput } from './output.ts';

/** Returns the exit code. */
export function print({ stdout, stderr, exitCode }: CommandOutput): number {
  process.stderr.write(stderr);
  process.stdout.write(stdout);
  return exitCode;
}
