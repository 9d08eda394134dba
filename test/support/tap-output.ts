/** What a test file printed: TAP 14 as the `tap` package writes it. Pure. */

export interface TapResult {
  /** Assertions, as the file counts them itself at its end; all 0 when it did not get there. */
  pass: number;
  fail: number;
  skip: number;
  todo: number;
  /** What failed, as "test > subtest > assertion". */
  failures: string[];
  /** The tests that a filter left out, as "test > subtest". */
  filtered: string[];
  /** Everything but passed assertions. */
  detail: string;
}

/** Columns by which a subtest's lines are indented. */
const INDENT = 4;

const count = (totals: string, what: string): number =>
  Number(new RegExp(`\\b${what}: (\\d+)`).exec(totals)?.[1] ?? 0);

/** Reads the output of one file. */
export function readTap(text: string): TapResult {
  const failures: string[] = [];
  const filtered: string[] = [];
  const detail: string[] = [];
  const path: string[] = [];
  let totals = '';
  for (const line of text.split('\n')) {
    const depth = Math.floor(/^ */.exec(line)![0].length / INDENT);
    const subtest = /^ *# Subtest: (.*)/.exec(line)?.[1];
    if (subtest !== undefined) {
      path.splice(depth, Infinity, subtest);
      continue;
    }
    if (/^# \{ total: /.test(line)) totals = line;
    const name = (assertion: string) => [...path.slice(0, depth), assertion].join(' > ');
    const left = /^ *ok \d+ - (.*) # SKIP filter/.exec(line)?.[1];
    if (left !== undefined) filtered.push(name(left));
    const failed = /^ *not ok \d+ - (.*?)(?: # time=.*)?$/.exec(line)?.[1];
    if (failed !== undefined && !/ # (?:TODO|SKIP)/i.test(line)) {
      // A test that failed because of something within it is named by that.
      if (!failures.some((known) => known.startsWith(name(`${failed} > `)))) failures.push(name(failed));
    }
    const noise = /^ *(?:ok \d|TAP version|1\.\.\d+|# (?:\{ total|time=))/.test(line);
    if (!noise && line.trim() !== '') detail.push(line);
  }
  return {
    pass: count(totals, 'pass'),
    fail: count(totals, 'fail'),
    skip: count(totals, 'skip'),
    todo: count(totals, 'todo'),
    failures,
    filtered,
    detail: detail.join('\n'),
  };
}
