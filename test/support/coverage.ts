/**
 * Which lines of the sources the unit tests run. Node writes what V8 counted of each process (NODE_V8_COVERAGE); types
 * are stripped by blanks, so that its offsets are those of the source, and no source map is needed.
 */
import { globSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const FLOOR = join(ROOT, 'test/coverage-floor.json');
const SOURCES = '{agent,bfd,lib,nat,routing,shaping}/**/*.ts';

/** What V8 counted in one script of one process. Ranges within a function are nested, the outer ones first. */
export interface ScriptCoverage {
  url: string;
  functions: { ranges: { startOffset: number; endOffset: number; count: number }[] }[];
}

/** The lines that hold code, by number from 0: neither blanks, nor comments, nor types. */
export function codeLines(source: string): Set<number> {
  const lines = stripTypeScriptTypes(source)
    .replace(/\/\*.*?\*\//gs, (comment) => comment.replace(/[^\n]/g, ' '))
    .split('\n')
    .map((line) => line.replace(/^\s*\/\/.*/, ''));
  // A line of brackets belongs to what they enclose.
  return new Set(lines.flatMap((line, i) => (/[^\s()[\]{};,]/.test(line) ? [i] : [])));
}

/** The lines, by number from 0, of which something was run. */
export function linesRun(source: string, { functions }: ScriptCoverage): Set<number> {
  const counts = new Uint8Array(source.length);
  const ranges = functions.flatMap((each) => each.ranges);
  ranges.sort((a, b) => a.startOffset - b.startOffset || b.endOffset - a.endOffset);
  for (const { startOffset, endOffset, count } of ranges) {
    counts.fill(count > 0 ? 1 : 0, startOffset, endOffset);
  }
  const run = new Set<number>();
  let line = 0;
  for (let i = 0; i < source.length; i++) {
    if (source[i] === '\n') line++;
    else if (counts[i] === 1 && /[^\s()[\]{};,]/.test(source[i]!)) run.add(line);
  }
  return run;
}

export interface Share {
  lines: number;
  run: number;
}

/** Per cent with one decimal, rounded down. A folder without such files has nothing to miss. */
export const percent = ({ lines, run }: Share): number =>
  lines === 0 ? 100 : Math.floor((run / lines) * 1000) / 10;

export interface Folder {
  all: Share;
  /** Of the files whose head says "Pure." */
  pure: Share;
  /** The lines that nothing runs, as FILE:LINE, of pure files. */
  missed: string[];
}

/** Reads what all processes wrote into a directory; by folder. */
export function coverage(directory: string): Map<string, Folder> {
  const files = globSync(SOURCES, { cwd: ROOT }).sort();
  const sources = new Map(files.map((file) => [file, readFileSync(join(ROOT, file), 'utf8')]));
  const names = new Map(files.map((file) => [pathToFileURL(join(ROOT, file)).href, file]));
  const run = new Map(files.map((file) => [file, new Set<number>()]));
  for (const name of readdirSync(directory)) {
    const { result } = JSON.parse(readFileSync(join(directory, name), 'utf8')) as {
      result: ScriptCoverage[];
    };
    for (const script of result) {
      const file = names.get(script.url);
      if (file === undefined) continue;
      for (const line of linesRun(sources.get(file)!, script)) run.get(file)!.add(line);
    }
  }
  const folders = new Map<string, Folder>();
  for (const [file, source] of sources) {
    const name = dirname(file);
    const folder = folders.get(name) ?? {
      ...{ all: { lines: 0, run: 0 }, pure: { lines: 0, run: 0 }, missed: [] },
    };
    folders.set(name, folder);
    const pure = /^\/\*\*.*?\bPure\b.*?\*\//s.test(source);
    for (const line of codeLines(source)) {
      const hit = run.get(file)!.has(line);
      for (const share of pure ? [folder.all, folder.pure] : [folder.all]) {
        share.lines++;
        if (hit) share.run++;
      }
      if (pure && !hit) folder.missed.push(`${file}:${line + 1}`);
    }
  }
  return folders;
}

type Floor = Record<string, { all: number; pure: number }>;

/** The table, and what lies below the floor of test/coverage-floor.json. */
export function report(folders: Map<string, Folder>): { table: string; below: string[] } {
  const floor = JSON.parse(readFileSync(FLOOR, 'utf8')) as Floor;
  const below: string[] = [];
  const cell = (text: unknown, width: number) => String(text).padStart(width);
  const rows = [...folders].map(([name, folder]) => {
    const least = floor[name] ?? { all: 0, pure: ENOUGH };
    for (const kind of ['all', 'pure'] as const) {
      const value = percent(folder[kind]);
      if (value >= least[kind]) continue;
      const missed = kind === 'pure' ? `; not run: ${folder.missed.join(' ')}` : '';
      below.push(`${name}: ${value} % of the lines of ${kind} files, floor ${least[kind]} %${missed}`);
    }
    return `${name.padEnd(28)}${cell(folder.all.lines, 7)}${cell(percent(folder.all), 8)}${cell(least.all, 8)}${cell(percent(folder.pure), 8)}${cell(least.pure, 8)}`;
  });
  const head = `${'coverage by folder'.padEnd(28)}${cell('lines', 7)}${cell('% run', 8)}${cell('floor', 8)}${cell('% pure', 8)}${cell('floor', 8)}`;
  return { table: [head, ...rows].join('\n'), below };
}

/** What is enough: no floor is higher. */
const ENOUGH = 98;
/** Room for a refactored line in a small folder. */
const ROOM = 1;

/** Raises the floor to what was reached. It never sinks. */
export function raise(folders: Map<string, Folder>): void {
  const floor = JSON.parse(readFileSync(FLOOR, 'utf8')) as Floor;
  const reached = (share: Share) => (percent(share) >= ENOUGH ? ENOUGH : Math.floor(percent(share)) - ROOM);
  const raised = [...folders].map(([name, folder]) => {
    const before = floor[name] ?? { all: 0, pure: 0 };
    const all = Math.max(before.all, reached(folder.all));
    return [name, { all, pure: Math.max(before.pure, reached(folder.pure)) }] as const;
  });
  writeFileSync(FLOOR, `${JSON.stringify(Object.fromEntries(raised), undefined, 2)}\n`);
}
