/** Prints a command's output. */
import type { CommandOutput } from '../show/command-output.ts';

/** Returns the exit code. */
export function print({ stdout, stderr, exitCode }: CommandOutput): number {
  process.stderr.write(stderr);
  process.stdout.write(stdout);
  return exitCode;
}
