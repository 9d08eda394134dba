/**
 * What `veg-agent status --watch` shows on a terminal: what the page shows (page/), in the columns and rows of the
 * terminal. Pure.
 */

import stringWidth from 'string-width';
import type { SessionStateName } from '../../bfd/intent.ts';
import type { SourcesDocument } from '../flows/translations.ts';
import type { TranslationsDocument } from '../flows/translations-query.ts';
import { documentsOf, type Explained } from './help.ts';
import type { StateChange } from './history.ts';
import {
  dayAndTime,
  NONE,
  NOT_COUNTED,
  type Overview,
  overview,
  sessionState,
  sourceRows,
  timeOfDay,
  translationRow,
} from './overview.ts';
import { type Painter, painter } from './painter.ts';
import type { HistoryDocument } from './plots/recorder.ts';
import { type PlotView, plotLines } from './plots/terminal-plots.ts';
import { printable } from './printable.ts';
import type { StatusDocument } from './status.ts';
import { type Column, table, wrapped } from './table.ts';

export interface Screen {
  columns: number;
  rows: number;
  colours: boolean;
}

/** What is shown. Without sources and translations there is no log; an agent before plots has no history. */
export interface Watched {
  status: StatusDocument;
  history?: HistoryDocument;
  sources?: SourcesDocument;
  translations?: TranslationsDocument;
}

/** The time that the strips of the sessions show, ms, and the narrowest strip. */
const SPAN = 10 * 60_000;
const NARROWEST_STRIP = 20;
/** Limits of lists that grow, where there is room. */
const CHANGES = 8;
const SOURCES = 5;

/** Height of the strip, so that states can be distinguished without colours. */
const BARS: Record<SessionStateName, string> = { Up: '█', Init: '▄', Down: '▁', AdminDown: '░' };
/** Of several states within one cell the first of these is shown: a short Down must not get lost. */
const WORST: SessionStateName[] = ['Down', 'AdminDown', 'Init', 'Up'];

/** The states of the last `SPAN` in `width` cells; blank before the first that is known. */
function strip(history: readonly StateChange[], now: number, width: number, { severity }: Painter): string {
  const part = SPAN / width;
  const cells = Array.from({ length: width }, (_, i) => {
    const from = now - SPAN + i * part;
    const states = history
      .filter(({ at }, n) => at < from + part && (history[n + 1]?.at ?? now) >= from)
      .map(({ to }) => to);
    const worst = WORST.find((state) => states.includes(state));
    return worst === undefined ? ' ' : severity(sessionState(worst).severity, BARS[worst]);
  });
  return cells.join('');
}

/** Where texts are explained. */
const seeLines = (
  texts: readonly Explained[],
  head: string,
  columns: number,
  { faint }: Painter,
): string[] =>
  texts.length === 0 ? [] : wrapped(head, faint(`see ${documentsOf(texts).join(', ')}`), columns);

function header(shown: Overview, now: number, columns: number, paint: Painter): string[] {
  const left = `${paint.strong(shown.name)}  ${paint.marked(shown.state)}`;
  const clock = `${timeOfDay(now)} UTC`;
  const gap = columns - stringWidth(left) - clock.length;
  const about = shown.about.join(' · ');
  return [
    ...(gap < 2 ? wrapped('', left, columns) : [left + ' '.repeat(gap) + paint.faint(clock)]),
    ...wrapped('', paint.faint(gap < 2 ? `${about} · ${clock}` : about), columns),
    ...shown.reasons.flatMap(({ text }) =>
      wrapped(paint.severity('bad', '  ▲ '), paint.severity('bad', text), columns),
    ),
    ...seeLines(shown.reasons, '    ', columns, paint),
  ];
}

function health(status: StatusDocument, shown: Overview, columns: number, paint: Painter): string[] {
  const { policy, kernel, uplink, conntrack } = shown;
  const line = (title: string, ...parts: string[]): string[] =>
    wrapped(paint.strong(title.padEnd(9)), parts.join(', '), columns);
  const families = uplink.families.map((family) => `${paint.state(family)} ${family.gateway}`);
  const { reconcile } = kernel;
  const checked =
    reconcile === undefined
      ? []
      : [
          `checked ${reconcile.when}${reconcile.result.severity === 'bad' ? ` ${paint.state(reconcile.result)}` : ''}`,
        ];
  return [
    ...line('policy', paint.state(policy.state), policy.generation, policy.changed),
    ...line('kernel', paint.state(kernel.state), ...kernel.families, ...checked, kernel.drift),
    ...kernel.failures.flatMap(({ text, age }) => line('', paint.severity('bad', text), age)),
    ...(status.uplink === null ? [] : line('uplink', ...(families.length > 0 ? families : ['not watched']))),
    ...(status.conntrack === null
      ? []
      : line(
          'tracked',
          `${paint.state(conntrack.state)}${conntrack.limit === undefined ? '' : ` of ${conntrack.limit}`} connections`,
        )),
    ...(conntrack.busiest.length === 0 ? [] : line('crowded', ...conntrack.busiest)),
    ...shown.notes.flatMap(({ text }) => line('note', text)),
    ...seeLines(shown.notes, ' '.repeat(9), columns, paint),
  ];
}

/** The members of each group, and who holds each shared address. */
function groupLines({ group }: Overview, columns: number, paint: Painter): string[] {
  const line = (title: string, ...parts: string[]): string[] =>
    wrapped(paint.strong(title.padEnd(9)), parts.join(', '), columns);
  return group.flatMap(({ family, self, state, ports, flows, replicas, members, addresses }) => [
    ...line('group', `${family} ${paint.state(state)} as ${self}`, ports, flows, replicas),
    ...members.flatMap(({ member, state, flows, troubles }) =>
      line(
        '',
        `${paint.marked(state)} ${member}`,
        flows,
        ...troubles.map((text) => paint.severity('bad', text)),
      ),
    ),
    ...addresses.flatMap(({ address, holder }) => line('', `${address} ${paint.state(holder)}`)),
  ]);
}

const number = (title: string, rank?: number): Column => ({
  title,
  right: true,
  ...(rank !== undefined && { rank }),
});

function sessionLines(
  status: StatusDocument,
  shown: Overview,
  now: number,
  columns: number,
  paint: Painter,
): string[] {
  const { sessions } = shown.bfd;
  if (!status.bfd.enabled) return [`${paint.strong('bfd')}      not used`];
  const fill = {
    least: NARROWEST_STRIP,
    draw: (row: number, width: number) => strip(sessions[row]!.history, now, width, paint),
  };
  return table(
    [
      { title: 'BFD' },
      { title: 'FOR' },
      { title: 'PEER' },
      { title: 'LOCAL', rank: 3 },
      number('TX/DETECT MS', 1),
      { title: `LAST ${SPAN / 60_000} MINUTES`, rank: 2, fill },
    ],
    sessions.map(({ state, age, remote, local, timers }) => [
      ...[paint.marked(state), age, remote, paint.faint(local)],
      timers === undefined ? NONE : `${timers.transmit}/${timers.detection}`,
    ]),
    columns,
    { title: paint.faint, note: paint.faint },
  );
}

/** The newest changes of state first, in at most `most` lines. */
function changeLines(
  { bfd }: Overview,
  now: number,
  columns: number,
  paint: Painter,
  most: number,
): string[] {
  const width = Math.max(0, ...bfd.changes.map(({ remote }) => remote.length));
  const lines: string[] = [];
  for (const { at, remote, from, to, diagnostic } of bfd.changes) {
    const change = wrapped(
      `  ${dayAndTime(at, now)}  `,
      `${remote.padEnd(width)}  ${from} ${paint.state(to)}${diagnostic && paint.faint(`  ${diagnostic}`)}`,
      columns,
    );
    if (lines.length + change.length > most) break;
    lines.push(...change);
  }
  return lines;
}

function policyLines(
  { snat }: StatusDocument,
  { policies }: Overview,
  columns: number,
  paint: Painter,
): string[] {
  const lines = table(
    [
      { title: 'POLICY' },
      { title: 'ACTION', rank: 3 },
      number('NEW/S'),
      number('OUT/S'),
      number('IN/S'),
      number('PKT OUT/S', 4),
      number('PKT IN/S', 4),
      number('OPEN', 1),
      number('CONNS', 3),
      number('SENT', 2),
      number('RECEIVED', 2),
    ],
    policies.map((row) => [
      ...[paint.strong(row.policy), row.treatment, row.newRate, row.bytesOutRate, row.bytesInRate],
      ...[row.packetsOutRate, row.packetsInRate, row.open, row.connections, row.sent, row.received],
    ]),
    columns,
    { title: paint.faint, note: paint.faint },
  );
  if (snat !== null) return lines;
  return [...lines, ...wrapped('  ', paint.faint(`traffic is ${NOT_COUNTED}`), columns)];
}

function sourceLines(document: SourcesDocument, columns: number, paint: Painter, most: number): string[] {
  return table(
    [{ title: 'TOP SOURCES' }, number('OPEN'), number('SENT', 1), number('RECEIVED', 1)],
    sourceRows(document, 'bytes', SOURCES).map((row) => [row.address, row.open, row.sent, row.received]),
    columns,
    { title: paint.faint, note: paint.faint },
    most,
  );
}

function translationLines(
  { translations }: TranslationsDocument,
  now: number,
  columns: number,
  paint: Painter,
  most: number,
): string[] {
  return table(
    [
      { title: 'NEWEST' },
      { title: 'LASTED', rank: 2 },
      { title: 'PROTO', rank: 1 },
      { title: 'FROM' },
      { title: 'SEEN AS' },
      { title: 'TO' },
      { title: 'POLICY', rank: 3 },
      number('SENT', 4),
      number('RECEIVED', 4),
    ],
    translations
      .slice(0, Math.max(0, most))
      .map(translationRow)
      .map((row) => [
        ...[dayAndTime(row.began, now), row.lasted, row.protocol, row.from, row.seen, row.to],
        ...[row.policy, row.sent, row.received],
      ]),
    columns,
    { title: paint.faint, note: paint.faint },
    most,
  );
}

/** The first `rows` lines; the last of them has the number of hidden ones. */
function cut(lines: readonly string[], { rows, columns }: Screen, { faint }: Painter): string[] {
  if (lines.length <= rows) return [...lines];
  const hidden = lines.length - rows + 1;
  const [note = ''] = wrapped('', faint(`… ${hidden} more lines below`), columns);
  return [...lines.slice(0, rows - 1), note];
}

/** What is shown at first. */
export const FIRST_VIEW: PlotView = { range: '5m', alone: false };

/** The share of the free rows that the plots may take. */
const PLOT_SHARE = 0.7;

/** The lines of the screen, at most `rows`. `now`: Unix milliseconds. */
export function terminalView(
  watched: Watched,
  now: number,
  screen: Screen,
  view: PlotView = FIRST_VIEW,
): string[] {
  const { status, history, sources, translations } = printable(watched);
  const { columns } = screen;
  const paint = painter(screen.colours);
  const shown = overview(status, now);
  const head = header(shown, now, columns, paint);
  const plots = (rows: number): string[] => {
    const lines = history === undefined ? [] : plotLines(history, view, columns, rows - 1, paint);
    return lines.length === 0 ? [] : ['', ...lines];
  };
  if (view.alone && history !== undefined)
    return cut([...head, ...plots(screen.rows - head.length)], screen, paint);
  const fixed = [
    ...head,
    '',
    ...health(status, shown, columns, paint),
    ...groupLines(shown, columns, paint),
    '',
    ...sessionLines(status, shown, now, columns, paint),
  ];
  const policies = ['', ...policyLines(status, shown, columns, paint)];
  // State first; lists that are only long take the rows that are left.
  let left = screen.rows - fixed.length - policies.length;
  const drawn = plots(Math.floor(left * PLOT_SHARE));
  left -= drawn.length;
  const changes = changeLines(shown, now, columns, paint, Math.min(CHANGES, Math.floor(left / 3)));
  left -= changes.length;
  const top =
    sources === undefined || sources.total === 0 || left < 4
      ? []
      : ['', ...sourceLines(sources, columns, paint, left - 1)];
  left -= top.length;
  const newest =
    translations === undefined || left < 4
      ? []
      : ['', ...translationLines(translations, now, columns, paint, left - 1)];
  return cut([...fixed, ...changes, ...policies, ...drawn, ...top, ...newest], screen, paint);
}

/** The screen while no agent answers, and why. */
export function awayView(message: string, screen: Screen): string[] {
  const paint = painter(screen.colours);
  const lines = [
    ...wrapped('', paint.severity('bad', '▲ no agent'), screen.columns),
    ...wrapped('  ', printable(message), screen.columns),
  ];
  return cut(lines, screen, paint);
}
