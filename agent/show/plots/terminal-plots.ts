/**
 * The plots on a terminal: cells beside each other, each with its newest and its largest value, braille, and an axis with a
 * letter for each mark. Pure.
 */
import stringWidth from 'string-width';
import { timeOfDay } from '../overview.ts';
import type { Painter } from '../painter.ts';
import { wrapped } from '../table.ts';
import { brailleRows } from './braille.ts';
import type { MarkKind } from './marks.ts';
import type { HistoryDocument, Values } from './recorder.ts';
import type { Range } from './series.ts';
import {
  largest,
  newest,
  type Plot,
  plotsOf,
  policiesOf,
  RANGE_NAMES,
  scaleEnd,
  shownMark,
  TABLE,
  valueText,
} from './shown.ts';

/** What the keys choose. */
export interface PlotView {
  range: Range;
  /** The label of a policy; undefined: all together. */
  policy?: string | undefined;
  /** Only the plots are shown. */
  alone: boolean;
}

/** The narrowest cell beside another one and at all, the most beside each other, and the blanks between them. */
const NARROWEST = 36;
const LEAST = 20;
const BESIDE = 3;
const SPACE = 2;
const INDENT = '  ';
/** Rows of a cell beside its braille: title and axis. */
const AROUND = 2;
/** The most rows of braille, where there is room: beside other lists, and alone. */
const HIGHEST = 3;
const HIGHEST_ALONE = 8;
/** Lines of marks in words, and of the plots that do not fit. */
const MARK_LINES = 2;
const NOTE_LINES = 2;

const KEYS = 'keys: 5 minutes, h hour, d day, p policy, tab plots alone, q quit';

const LETTERS: Record<MarkKind, string> = {
  ...{ start: 'A', policy: 'P', repair: 'R', session: 'S', uplink: 'U', drain: 'D', holder: 'H' },
};

/** The labels of the policies that can be chosen. */
export const policyLabels = (history: HistoryDocument): string[] =>
  policiesOf(plotsOf(history)).map(({ label }) => label);

/** The sum of lists of values; null where none of them has one. */
const sumOf = (lists: readonly Values[]): Values =>
  (lists[0] ?? []).map((_, i) => {
    const values = lists.map((values) => values[i] ?? null).filter((value) => value !== null);
    return values.length === 0 ? null : values.reduce((sum, value) => sum + value, 0);
  });

/** The largest of lists of values. */
const mostOf = (lists: readonly Values[]): Values =>
  (lists[0] ?? []).map((_, i) =>
    lists.reduce<number | null>((most, values) => {
      const value = values[i] ?? null;
      return value === null || (most !== null && most >= value) ? most : value;
    }, null),
  );

/** The one line of a plot that a cell shows. */
function valuesOf({ id, lines }: Plot, policy: string | undefined): Values {
  if (id === 'lateness' || id === 'round-trips') {
    return mostOf(lines.filter(({ label }) => !label.endsWith('mean')).map(({ values }) => values));
  }
  const policies = lines.filter(({ label }) => label !== TABLE);
  const chosen = policies.filter(({ label }) => policy === undefined || label === policy);
  const all = policy === undefined && policies.length === 0 ? lines : chosen;
  return sumOf(all.map(({ values }) => values));
}

/** The axis of a cell: a letter where something happened. */
function axis({ marks, end, step, connections }: HistoryDocument, width: number, paint: Painter): string {
  const cells = Array.from({ length: width }, () => paint.faint('─'));
  const span = connections.length * step * 1000;
  for (const mark of marks) {
    const { kind, severity, at } = shownMark(mark);
    const place = Math.floor(((at - (end - span)) / span) * width);
    cells[Math.min(width - 1, Math.max(0, place))] = paint.severity(severity, LETTERS[kind]);
  }
  return cells.join('');
}

/** A cell, all of its lines `width` wide. */
function cell(
  plot: Plot,
  history: HistoryDocument,
  view: PlotView,
  [width, height]: [number, number],
  paint: Painter,
): string[] {
  const values = valuesOf(plot, view.policy);
  const most = largest([{ values }]);
  const now = valueText(newest(values), plot.format);
  const room = width - plot.title.length - 1;
  const figures = [`${now} max ${plot.format(most)}`, now, ''].find(({ length }) => length <= room) ?? '';
  return [
    paint.strong(plot.title) + figures.padStart(width - plot.title.length),
    ...brailleRows(values, scaleEnd(most), width, height),
    axis(history, width, paint),
  ];
}

/** The newest marks in words. */
function markLines({ marks }: HistoryDocument, columns: number, paint: Painter): string[] {
  const words = marks.toReversed().map((mark) => {
    const { kind, severity, at, text } = shownMark(mark);
    return `${paint.severity(severity, LETTERS[kind])} ${timeOfDay(at)} ${text}`;
  });
  const lines: string[] = [];
  for (const word of words) {
    const joined = lines.length === 0 ? word : `${lines.at(-1)} · ${word}`;
    if (lines.length > 0 && stringWidth(joined) <= columns - INDENT.length) lines.splice(-1, 1, joined);
    else lines.push(word);
    if (lines.length > MARK_LINES) break;
  }
  return lines
    .slice(0, MARK_LINES)
    .flatMap((text) => wrapped(INDENT, text, columns))
    .slice(0, MARK_LINES);
}

/** The plots in at most `rows` lines. Those that do not fit are named; where not even one fits there is a hint. */
export function plotLines(
  history: HistoryDocument,
  view: PlotView,
  columns: number,
  rows: number,
  paint: Painter,
): string[] {
  const plots = plotsOf(history);
  const what = view.policy ?? 'all policies';
  const head = wrapped(
    paint.strong('plots'.padEnd(9)),
    `${RANGE_NAMES[history.range]}, ${what}, ${paint.faint(KEYS)}`,
    columns,
  );
  if (plots.length === 0) return [...head, `${INDENT}nothing measured yet`].slice(0, Math.max(0, rows));
  const beside = Math.min(
    BESIDE,
    Math.max(1, Math.floor((columns - INDENT.length + SPACE) / (NARROWEST + SPACE))),
  );
  const width = Math.floor((columns - INDENT.length - SPACE * (beside - 1)) / beside);
  const marks = markLines(history, columns, paint);
  const space = rows - head.length - marks.length;
  const bands = Math.ceil(plots.length / beside);
  const room = Math.floor(space / bands) - AROUND;
  const height = Math.min(view.alone ? HIGHEST_ALONE : HIGHEST, Math.max(1, room));
  const fitting = room < 1 ? Math.floor((space - NOTE_LINES) / (height + AROUND)) : bands;
  if (fitting < 1 || width < LEAST) {
    const hint = wrapped(paint.strong('plots'.padEnd(9)), paint.faint('tab shows them alone'), columns);
    return view.alone || hint.length > rows ? [] : hint;
  }
  const lines: string[] = [];
  for (let i = 0; i < Math.min(plots.length, fitting * beside); i += beside) {
    const cells = plots.slice(i, i + beside).map((plot) => cell(plot, history, view, [width, height], paint));
    for (const row of cells[0]!.keys()) {
      lines.push(INDENT + cells.map((one) => one[row]!).join(' '.repeat(SPACE)));
    }
  }
  const hidden = plots.slice(fitting * beside).map(({ title }) => title);
  const note =
    hidden.length === 0 ? [] : wrapped(INDENT, paint.faint(`not shown: ${hidden.join(', ')}`), columns);
  return [...head, ...lines, ...marks, ...note].slice(0, rows);
}
