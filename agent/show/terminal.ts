/**
 * What `veg-agent status --watch` shows on a terminal: what the page shows (page/), in as many columns and rows as
 * there are. Pure.
 */

import { DIAGNOSTICS } from '../../bfd/constants.ts';
import type { SessionStateName } from '../../bfd/intent.ts';
import { duration, endpoint, scaled } from '../../lib/units.ts';
import type { SourcesDocument } from '../flows/translations.ts';
import type { TranslationsDocument } from '../flows/translations-query.ts';
import type { StateChange } from './history.ts';
import { NO_LOG, policyLabel, type StatusDocument } from './status.ts';

export interface Screen {
  columns: number;
  rows: number;
  colours: boolean;
}

/** What is shown. Without sources and translations there is no log. */
export interface Watched {
  status: StatusDocument;
  sources?: SourcesDocument;
  translations?: TranslationsDocument;
}

/** The time that the strips of the sessions show, ms. */
const SPAN = 10 * 60_000;
/** What is shown at most of lists that grow, where there is room. */
const CHANGES = 8;
const SOURCES = 5;

type Style = 'good' | 'warn' | 'bad' | 'faint' | 'strong';
/** A piece of a line. */
type Span = string | [text: string, style: Style | undefined];
type Line = Span[];

const CODES: Record<Style, number> = { good: 32, warn: 33, bad: 31, faint: 2, strong: 1 };

const plain = (span: Span): string => (typeof span === 'string' ? span : span[0]);
const widthOf = (line: Line): number => line.reduce((sum, span) => sum + plain(span).length, 0);

/** A line as text: cut at the edge, which shows, and without what could steer the terminal. */
function print(line: Line, { columns, colours }: Screen): string {
  const isCut = widthOf(line) > columns;
  let left = isCut ? columns - 1 : columns;
  let text = '';
  for (const span of line) {
    const clean = plain(span).replace(/[\x00-\x1f\x7f-\x9f]/g, '\u{fffd}');
    const shown = clean.slice(0, left);
    left -= shown.length;
    const style = typeof span === 'string' ? undefined : span[1];
    text += colours && style !== undefined && shown !== '' ? `\x1b[${CODES[style]}m${shown}\x1b[0m` : shown;
  }
  return isCut ? `${text}…` : text;
}

/** Between two columns. */
const GAP = '  ';

interface Column {
  title: string;
  /** Numbers stand at the right. */
  right?: true;
}

/** Rows below headings, each column as wide as its widest cell. */
function table(columns: Column[], rows: Span[][]): Line[] {
  const widths = columns.map(({ title }, i) =>
    Math.max(title.length, ...rows.map((row) => plain(row[i] ?? '').length)),
  );
  const line = (cells: Span[], style?: Style): Line => [
    '  ',
    ...cells.flatMap((cell, i): Span[] => {
      const pad = ' '.repeat(widths[i]! - plain(cell).length);
      const styled: Span = style === undefined ? cell : [plain(cell), style];
      return [...(i > 0 ? [GAP] : []), ...(columns[i]!.right ? [pad, styled] : [styled, pad])];
    }),
  ];
  const titles = columns.map(({ title }) => title);
  return [line(titles, 'faint'), ...rows.map((cells) => line(cells))];
}

const STYLES: Record<SessionStateName, Style> = { Up: 'good', Init: 'warn', Down: 'bad', AdminDown: 'faint' };
const MARKS: Record<SessionStateName, string> = { Up: '●', Init: '◐', Down: '▲', AdminDown: '○' };
/** How high the strip stands: told apart without colours. */
const BARS: Record<SessionStateName, string> = { Up: '█', Init: '▄', Down: '▁', AdminDown: '░' };
/** Of what happened within one cell the first of these is shown: a short Down must not get lost. */
const WORST: SessionStateName[] = ['Down', 'AdminDown', 'Init', 'Up'];

/** The states of the last `SPAN`, a character each of `width` parts; blank before the first that is known. */
function strip(history: readonly StateChange[], now: number, width: number): Span[] {
  const part = SPAN / width;
  return Array.from({ length: width }, (_, i): Span => {
    const from = now - SPAN + i * part;
    const states = history
      .filter(({ at }, n) => at < from + part && (history[n + 1]?.at ?? now) >= from)
      .map(({ to }) => to);
    const worst = WORST.find((state) => states.includes(state));
    return worst === undefined ? ' ' : [BARS[worst], STYLES[worst]];
  });
}

const clock = (time: number): string => new Date(time).toISOString().slice(11, 19);

function header({ status }: Watched, now: number, { columns }: Screen): Line[] {
  const { ready, draining, policy, reasons } = status;
  const state: Span = ready
    ? ['● ready', 'good']
    : draining
      ? ['◐ draining', 'warn']
      : ['▲ not ready', 'bad'];
  const where = [status.pod, status.node].filter((text) => text !== null).join(' on ');
  const about = [where, `veg-agent ${status.version}`, `up ${duration(status.uptimeSeconds)}`];
  const left: Line = [[policy.name ?? 'veg-agent', 'strong'], '  ', state];
  const right = `${clock(now)} UTC`;
  const gap = ' '.repeat(Math.max(2, columns - widthOf(left) - right.length));
  return [
    [...left, gap, [right, 'faint']],
    [[about.filter(Boolean).join(' · '), 'faint']],
    ...reasons.map(
      (reason): Line => [
        ['  ▲ ', 'bad'],
        [reason, 'bad'],
      ],
    ),
  ];
}

function health({ policy, kernel, uplink, conntrack }: StatusDocument, now: number): Line[] {
  const since = (time: string) => `${duration((now - Date.parse(time)) / 1000)} ago`;
  const last = kernel.lastReconcile;
  const repaired = Object.entries(kernel.driftRepaired).map(([object, count]) => `${count} ${object}`);
  const lines: Line[] = [
    [
      ['policy   ', 'strong'],
      policy.valid ? ['valid', 'good'] : ['invalid', 'bad'],
      `, generation ${policy.generation}${policy.lastChange === null ? '' : `, changed ${since(policy.lastChange)}`}`,
    ],
    [
      ['kernel   ', 'strong'],
      kernel.inSync ? ['in sync', 'good'] : ['not in sync', 'bad'],
      ...kernel.families.map(({ family, state }) => `, IPv${family} ${state}`),
      last === null ? '' : `, checked ${since(last.at)} (${last.trigger})`,
      `, drift repaired: ${repaired.join(', ') || 'none'}`,
    ],
  ];
  if (uplink !== null) {
    const states = uplink.families.flatMap(({ family, gateway, state }, i): Span[] => [
      i === 0 ? '' : ', ',
      [`IPv${family} ${state}`, state === 'up' ? 'good' : 'bad'],
      ` ${gateway}`,
    ]);
    lines.push([['uplink   ', 'strong'], ...(states.length > 0 ? states : ['not watched'])]);
  }
  if (conntrack !== null) {
    const { entries, limit } = conntrack;
    lines.push([['tracked  ', 'strong'], `${entries}${limit > 0 ? ` of ${limit}` : ''} connections`]);
  }
  const notes = [...policy.warnings, ...kernel.notes, ...(uplink?.notes ?? [])];
  lines.push(...notes.map((note): Line => [['note     ', 'strong'], note]));
  return lines;
}

function sessionLines({ bfd }: StatusDocument, now: number, { columns }: Screen): Line[] {
  if (!bfd.enabled) return [[['bfd', 'strong'], '      not used']];
  const rows = bfd.sessions.map(({ local, remote, state, since, transmitInterval, detectionTime }) => [
    [`${MARKS[state]} ${state}`, STYLES[state]] as Span,
    duration((now - since) / 1000),
    remote,
    [`from ${local}`, 'faint'] as Span,
    state === 'Up' ? `${transmitInterval / 1000}/${detectionTime / 1000}` : '–',
  ]);
  const [head = [], ...lines] = table(
    [
      { title: 'BFD' },
      { title: 'FOR' },
      { title: 'PEER' },
      { title: '' },
      { title: 'TX/DETECT MS', right: true },
    ],
    rows,
  );
  const room = columns - widthOf(head) - GAP.length;
  if (room < 20) return [head, ...lines];
  return [
    [...head, GAP, [`LAST ${SPAN / 60_000} MINUTES`, 'faint']],
    ...lines.map((line, i) => [...line, GAP, ...strip(bfd.sessions[i]!.history, now, room)]),
  ];
}

/** The newest changes of state first. */
function changeLines({ bfd }: StatusDocument): Line[] {
  const width = Math.max(0, ...bfd.sessions.map(({ remote }) => remote.length));
  return bfd.sessions
    .flatMap(({ remote, history }) => history.map((change) => ({ remote, ...change })))
    .sort((a, b) => b.at - a.at)
    .map(
      ({ remote, at, from, to, diagnostic }): Line => [
        `  ${clock(at)}  ${remote.padEnd(width)}  ${from === null ? 'was' : `${from} →`} `,
        [to, STYLES[to]],
        [diagnostic === 0 ? '' : `  ${DIAGNOSTICS[diagnostic] ?? diagnostic}`, 'faint'],
      ],
    );
}

function policyLines({ policies, translationLog }: StatusDocument): Line[] {
  const rows = policies.map(({ name, snat, traffic }) => {
    const rates = traffic?.rates;
    const shown = (value: number | undefined, unit?: string) =>
      value === undefined ? '–' : scaled(value, unit);
    return [
      [policyLabel(name), 'strong'] as Span,
      snat ? 'translated' : 'forwarded',
      shown(rates?.connections),
      shown(rates?.bytes.out, 'B'),
      shown(rates?.bytes.in, 'B'),
      shown(rates?.packets.out),
      shown(rates?.packets.in),
      shown(traffic?.open),
      shown(traffic?.connections),
      shown(traffic?.bytes.out, 'B'),
      shown(traffic?.bytes.in, 'B'),
    ];
  });
  const numbers = ['NEW/S', 'OUT/S', 'IN/S', 'PKT OUT/S', 'PKT IN/S', 'OPEN', 'CONNS', 'SENT', 'RECEIVED'];
  const columns: Column[] = [
    { title: 'POLICY' },
    { title: '' },
    ...numbers.map((title): Column => ({ title, right: true })),
  ];
  const lines = table(columns, rows);
  return translationLog
    ? lines
    : [
        ...lines,
        [
          ['  traffic is ', 'faint'],
          [NO_LOG, 'faint'],
        ],
      ];
}

function sourceLines({ sources }: SourcesDocument): Line[] {
  const octets = ({ bytes }: SourcesDocument['sources'][number]) => bytes.out + bytes.in;
  return table(
    [
      { title: 'TOP SOURCES' },
      { title: 'OPEN', right: true },
      { title: 'SENT', right: true },
      { title: 'RECEIVED', right: true },
    ],
    sources
      .toSorted((a, b) => octets(b) - octets(a))
      .slice(0, SOURCES)
      .map(({ address, connections, bytes }) => [
        address,
        String(connections),
        scaled(bytes.out, 'B'),
        scaled(bytes.in, 'B'),
      ]),
  );
}

function translationLines({ translations }: TranslationsDocument, most: number): Line[] {
  return table(
    [
      { title: 'NEWEST' },
      { title: 'LASTED' },
      { title: '' },
      { title: 'FROM' },
      { title: 'SEEN AS' },
      { title: 'TO' },
      { title: 'POLICY' },
      { title: 'SENT', right: true },
      { title: 'RECEIVED', right: true },
    ],
    translations.slice(0, most).map((flow) => {
      const { original, translated, counters } = flow;
      const octets = (value: number | undefined) => (value === undefined ? '–' : scaled(value, 'B'));
      return [
        clock(Date.parse(flow.startTime)),
        flow.endTime === undefined ? 'open' : duration(flow.duration),
        flow.protocol === 'other' ? String(flow.protocolNumber) : flow.protocol,
        endpoint(original.sourceIP, original.sourcePort ?? original.icmpID),
        flow.verdict === 'forwarded'
          ? 'itself'
          : endpoint(translated.sourceIP, translated.sourcePort ?? translated.icmpID),
        endpoint(original.destinationIP, original.destinationPort),
        policyLabel(flow.policy),
        octets(counters?.originalBytes),
        octets(counters?.replyBytes),
      ];
    }),
  );
}

/** The lines of the screen, at most `rows`. `now`: Unix milliseconds. */
export function terminalView(watched: Watched, now: number, screen: Screen): string[] {
  const { status, sources, translations } = watched;
  const blank: Line = [];
  const fixed: Line[] = [...header(watched, now, screen), blank, ...health(status, now), blank];
  const bfd = sessionLines(status, now, screen);
  const policies = [blank, ...policyLines(status)];
  // What there is to know first; what is only long takes the rows that are left.
  let left = screen.rows - fixed.length - bfd.length - policies.length;
  const changes = changeLines(status).slice(0, Math.max(0, Math.min(CHANGES, Math.floor(left / 3))));
  left -= changes.length;
  const top =
    sources === undefined || sources.total === 0 || left < 4 ? [] : [blank, ...sourceLines(sources)];
  const shown = top.slice(0, Math.max(0, left));
  left -= shown.length;
  const newest =
    translations === undefined || left < 4 ? [] : [blank, ...translationLines(translations, left - 2)];
  return [...fixed, ...bfd, ...changes, ...policies, ...shown, ...newest]
    .slice(0, screen.rows)
    .map((line) => print(line, screen));
}

/** The screen while no agent answers, and why. */
export function awayView(message: string, screen: Screen): string[] {
  const words = message.match(new RegExp(`.{1,${Math.max(20, screen.columns - 2)}}(?:\\s|$)`, 'g')) ?? [
    message,
  ];
  const lines: Line[] = [[['▲ no agent', 'bad']], ...words.map((line): Line => [`  ${line}`])];
  return lines.slice(0, screen.rows).map((line) => print(line, screen));
}
