/** What a part of the benchmarks finds, and how it stands in docs/benchmarks.md. Pure. */
import { type Panel, svg } from './plot.ts';
import { figure, type Summary } from './stats.ts';

/** A number is shown with three digits; undefined and NaN as a dash. */
export type Cell = string | number | undefined;

export interface Table {
  title: string;
  columns: string[];
  rows: Cell[][];
  /** What one has to know to read it; sentences. */
  note?: string;
}

/** What a part measured. */
export interface Findings {
  tables: Table[];
  panels: Panel[];
  /** Every sample, for those who want to reckon differently. */
  samples?: unknown;
}

/** How much else there was on the machine while a part ran. */
export interface Noise {
  /** Percent of the time of all cores that the hypervisor gave to others. */
  stealPercent: number;
  /** How late a process that sleeps 5 ms again and again woke up, ms. */
  sleeperLateMs: Summary;
  /** The load average of a minute when it began. */
  loadBefore: number;
}

export interface Machine {
  cpu: string;
  cores: number;
  memoryMiB: number;
  kernel: string;
  system: string;
  /** Names and versions of what was measured. */
  versions: Record<string, string>;
}

/** docs/bench/<part>.json. */
export interface Result extends Findings {
  part: string;
  title: string;
  /** When it began, ISO 8601. */
  at: string;
  seconds: number;
  /** Made with `--quick`: it shows that the part works, its figures mean little. */
  quick: boolean;
  machine: Machine;
  noise: Noise;
}

const cell = (value: Cell): string =>
  typeof value === 'number' ? figure(value) : (value ?? '–').replaceAll('|', '\\|');

/** A table in Markdown; columns of numbers stand to the right. */
export function markdownTable({ title, columns, rows, note }: Table): string {
  const right = columns.map((_, i) => rows.some((row) => typeof row[i] === 'number'));
  const lines = [columns, columns.map((_, i) => (right[i] ? '--:' : '---')), ...rows.map((r) => r.map(cell))];
  return [`**${title}**`, lines.map((line) => `| ${line.join(' | ')} |`).join('\n'), note]
    .filter(Boolean)
    .join('\n\n');
}

const versionsOf = ({ versions }: Machine): string =>
  Object.entries(versions)
    .map(([name, version]) => `${name} ${version}`)
    .join(', ');

/** The section of a part: its tables, its plot, and under which circumstances they came about. */
export function section(result: Result): string {
  const { part, title, at, seconds, quick, machine, noise, tables, panels } = result;
  const late = noise.sleeperLateMs;
  return [
    ...(quick ? ['*A quick run: it shows that this part works, its figures mean little.*'] : []),
    ...tables.map(markdownTable),
    ...(panels.length > 0 ? [`![${title}](bench/${part}.svg)`] : []),
    `*${at.slice(0, 16).replace('T', ' ')} UTC, ${Math.round(seconds)} s. ${machine.cores} × ${machine.cpu}, ${machine.memoryMiB} MiB, Linux ${machine.kernel}, ${machine.system}; ${versionsOf(machine)}. ` +
      `Noise: steal ${figure(noise.stealPercent)} %; a sleeper was late by ${figure(late.p50)} ms (median), ${figure(late.p99)} ms (p99), ${figure(late.max)} ms (worst); load before ${figure(noise.loadBefore)}. ` +
      `[Samples](bench/${part}.json).*`,
  ].join('\n\n');
}

const begin = (part: string): string => `<!-- bench:${part} -->`;
const end = (part: string): string => `<!-- /bench:${part} -->`;

/** The document with what stands between the part's markers replaced. Throws when the markers are not there. */
export function insert(document: string, part: string, text: string): string {
  const from = document.indexOf(begin(part));
  const to = document.indexOf(end(part));
  if (from < 0 || to < from) throw new Error(`no markers ${begin(part)} … ${end(part)}`);
  return `${document.slice(0, from + begin(part).length)}\n\n${text}\n\n${document.slice(to)}`;
}

/** The plots of a part as one picture; undefined when it has none. */
export const picture = async ({ title, panels }: Result): Promise<string | undefined> =>
  panels.length === 0 ? undefined : svg(title, panels);
