/** The file that holds the password of a BGP session. */
import { readProblem, readSecret } from '../../lib/files.ts';
import { passwordProblem } from './password.ts';

const MAX_FILE = 4096;

/** The password of a file, without a line end. Throws with a message that does not hold it. */
export function readPassword(path: string): string {
  const text = readSecret(path, MAX_FILE)
    .toString('latin1')
    .replace(/[\r\n]+$/, '');
  const problem = passwordProblem(text);
  if (problem !== undefined) throw new Error(`${path}: ${problem}`);
  return text;
}

/** What is wrong with a password's file; undefined if nothing is. */
export function passwordFileProblem(path: string): string | undefined {
  try {
    readPassword(path);
    return undefined;
  } catch (error) {
    return readProblem(error as Error);
  }
}
