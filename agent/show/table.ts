/**
 * Tables and wrapped lines for a terminal, in the columns that it has. Widths are those of the terminal's cells: a wide
 * character takes two. Nothing is cut: columns that do not fit are named below the table, and where not even the
 * most important ones fit, each row becomes a list of its cells. Text is plain or has SGR sequences. Pure.
 */
import stringWidth from 'string-width';
import wrapAnsi from 'wrap-ansi';

/** Between two columns of a table. */
const GAP = '  ';
const INDENT = '  ';
/** Keeps a title and its value on one line while a row is wrapped. */
const NO_BREAK = '\u{a0}';
/** The narrowest text beside a hanging indent. */
const NARROWEST = 16;

export interface Column {
  title: string;
  /** Numbers are aligned to the right. */
  right?: true;
  /** The column with the highest rank is hidden first; 0, the default, is never hidden. */
  rank?: number;
  /** A cell that fills the rest of the line, at least `least` cells wide. */
  fill?: { least: number; draw: (row: number, width: number) => string };
}

/** Wraps a text after `head`; lines after the first are indented by the width of `head`. */
export function wrapped(head: string, text: string, columns: number): string[] {
  const hang = stringWidth(head);
  if (columns - hang < NARROWEST)
    return wrapAnsi(head + text, Math.max(1, columns), { hard: true }).split('\n');
  const [first = '', ...rest] = wrapAnsi(text, columns - hang, { hard: true }).split('\n');
  return [head + first, ...rest.map((line) => ' '.repeat(hang) + line)];
}

/** The width of a table with these columns. */
const total = (shown: readonly { width: number }[]): number =>
  INDENT.length + shown.reduce((sum, { width }) => sum + width, 0) + GAP.length * (shown.length - 1);

/** Rows below their titles, in at most `most` lines. */
export function table(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  width: number,
  paint: { title: (text: string) => string; note: (text: string) => string },
  most = Number.POSITIVE_INFINITY,
): string[] {
  const all = columns.map((column, i) => ({
    ...{ column, i },
    width:
      column.fill?.least ??
      Math.max(stringWidth(column.title), ...rows.map((row) => stringWidth(row[i] ?? ''))),
  }));
  let shown = all;
  while (total(shown) > width) {
    const last = Math.max(...shown.map(({ column }) => column.rank ?? 0));
    if (last === 0) return listed(columns, rows, width, paint.title, most);
    shown = shown.filter(({ column }) => (column.rank ?? 0) < last);
  }
  const spare = width - total(shown);
  const lineOf = (cell: (one: (typeof all)[number], width: number) => string): string => {
    const cells = shown.map((one) => {
      const space = one.column.fill === undefined ? one.width : one.width + spare;
      const text = cell(one, space);
      const pad = ' '.repeat(Math.max(0, space - stringWidth(text)));
      return one.column.right ? pad + text : text + pad;
    });
    return (INDENT + cells.join(GAP)).trimEnd();
  };
  const hidden = all.filter((one) => !shown.includes(one));
  const note =
    hidden.length === 0
      ? []
      : wrapped(
          INDENT,
          `hidden at ${width} columns: ${hidden.map(({ column }) => column.title).join(', ')}; ${total(all)} columns show all`,
          width,
        ).map(paint.note);
  const lines = [
    lineOf(({ column }) => paint.title(column.title)),
    ...rows.map((row, n) => lineOf(({ column, i }, space) => column.fill?.draw(n, space) ?? row[i] ?? '')),
  ];
  return [...lines.slice(0, Math.max(0, most - note.length)), ...note].slice(0, most);
}

/** Each row as the list of its cells, the first without its title; whole rows only. */
function listed(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  width: number,
  title: (text: string) => string,
  most: number,
): string[] {
  const lines: string[] = [];
  for (const [n, row] of rows.entries()) {
    const cells = columns.map((column, i) => {
      const text = column.fill?.draw(n, column.fill.least) ?? row[i] ?? '';
      return i === 0 ? text : `${title(column.title.replaceAll(' ', NO_BREAK))}${NO_BREAK}${text}`;
    });
    const [first = '', ...rest] = wrapped('', cells.join(GAP), Math.max(1, width - 2 * INDENT.length));
    const entry = [INDENT + first, ...rest.map((line) => INDENT + INDENT + line)];
    if (lines.length + entry.length > most) break;
    lines.push(...entry);
  }
  return lines.map((line) => line.replaceAll(NO_BREAK, ' '));
}
