/** Pure. The table of `npm run test:releases` in docs/requirements.md, and suites of Debian's archive. */
import { withLines } from './document-table.ts';

export interface ReleaseRow {
  /** What the command line calls it, such as ovn-25.03. */
  name: string;
  /** The versions of the programs that ran. */
  programs: string;
  /** Names of the test files, without `.test.ts`. */
  tests: readonly string[];
  result: string;
  /** ISO 8601, the day. */
  date: string;
  /** Abbreviated. */
  commit: string;
}

const HEAD = ['release', 'programs', 'live tests', 'result', 'date', 'commit'];

const code = (names: readonly string[]): string => names.map((name) => `\`${name}\``).join(' ');

/** The document with a line for each of these rows; lines of other releases in `order` stay as they are, of all others go. */
export function withTable(document: string, rows: readonly ReleaseRow[], order: readonly string[]): string {
  const cells = rows.map(({ name, programs, tests, result, date, commit }) => [
    ...[name, programs, code(tests), result, date, commit],
  ]);
  return withLines(document, 'test:releases', HEAD, cells, order);
}

/** The suite that a system is made of when packages come from this one, which may be its backports. */
export const stableOf = (suite: string): string => suite.replace(/-backports$/, '');

/**
 * Lines of apt's sources.list for a suite: that of backports needs the suite that they are for. Without the security archive,
 * whose index may name packages that are gone.
 * @param env `DEBIAN_MIRROR`: the archive, if it is not Debian's own
 */
export function sourcesOf(suite: string, env: NodeJS.ProcessEnv): string[] {
  const { DEBIAN_MIRROR: mirror = 'http://deb.debian.org/debian' } = env;
  return [...new Set([stableOf(suite), suite])].map((name) => `deb ${mirror} ${name} main`);
}

/** Whether apt refused an archive because its metadata is out of date, from its output. */
export const isExpired = (output: string): boolean =>
  /is expired \(invalid since|is not valid yet \(invalid for/.test(output);

/** Passed and failed, from the last line of run.ts; one failed when it printed none. */
export function countsOf(output: string): [passed: number, failed: number] {
  const [, passed, failed] = /(\d+) passed, (\d+) failed(?:, \d+ skipped)?\s*$/.exec(output) ?? [];
  return passed === undefined ? [0, 1] : [Number(passed), Number(failed)];
}
