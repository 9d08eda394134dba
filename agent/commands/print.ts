/** Prints what a command tells. */
import type { Told } from './told.ts';

/** Returns the exit code. */
export function print({ out, err, code }: Told): number {
  process.stderr.write(err);
  process.stdout.write(out);
  return code;
}
