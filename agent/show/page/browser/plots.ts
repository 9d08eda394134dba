/**
 * The plots: a line for each policy over the chosen time, marks for what happened, and the numbers at one point in time
 * as a table, which a slider, the pointer or a screen reader chooses. Pure.
 */
import { h, type JSX, type TargetedInputEvent, type TargetedPointerEvent } from 'preact';
import { timeOfDay } from '../../overview.ts';
import type { HistoryDocument, Values } from '../../plots/recorder.ts';
import {
  type Line,
  largest,
  newest,
  newestIndex,
  OTHERS,
  type Plot,
  plotsOf,
  policiesOf,
  scaleEnd,
  shownMark,
  TABLE,
  timeOf,
  valueText,
} from '../../plots/shown.ts';
import { badge, choice, faint, section, table, time } from './elements.ts';
import type { Actions, PageState } from './state.ts';
import { position, timeline } from './timeline.ts';

const WIDTH = 1000;
const HEIGHT = 100;
const SHOWN_MARKS = 12;

/** The colours of style.css. */
const COLOURS = 8;

const classOf = ({ label, place }: Line): string => {
  if (place !== undefined) return `c${place % COLOURS}`;
  if (label === OTHERS) return 'others';
  const dashed = /worst|at most|conntrack/.test(label) ? ' dashed' : '';
  return `${label.startsWith('IPv6') ? 'c1' : label === TABLE ? 'others' : 'c0'}${dashed}`;
};

/** A path through the values; a value between two gaps is a dot. */
export function path(values: Values, most: number): string {
  const x = (i: number) => (((i + 0.5) / values.length) * WIDTH).toFixed(1);
  const y = (value: number) => (HEIGHT * (1 - Math.min(1, value / most))).toFixed(1);
  return values
    .map((value, i) => {
      if (value === null) return '';
      const begins = (values[i - 1] ?? null) === null;
      const alone = begins && (values[i + 1] ?? null) === null;
      return `${begins ? 'M' : 'L'}${x(i)} ${y(value)}${alone ? 'h.1' : ''}`;
    })
    .join('');
}

/** What a plot shows, in words. */
const summary = ({ title, lines, format }: Plot): string =>
  `${title}: ${lines
    .map(
      ({ label, values }) =>
        `${label} ${valueText(newest(values), format)}, at most ${format(largest([{ values }]))}`,
    )
    .join('; ')}`;

/** The index of the value under the pointer. */
function pointed(event: TargetedPointerEvent<SVGSVGElement>, count: number): number {
  const { left, width } = event.currentTarget.getBoundingClientRect();
  return Math.min(count - 1, Math.max(0, Math.floor(((event.clientX - left) / width) * count)));
}

interface Shown {
  history: HistoryDocument;
  /** The chosen value. */
  index: number;
  choosePoint: Actions['choosePoint'];
}

function drawing(plot: Plot, { history, index, choosePoint }: Shown, most: number): JSX.Element {
  const count = history.connections.length;
  const axis = timeline(count * history.step, history.end, WIDTH);
  const at = (((index + 0.5) / count) * WIDTH).toFixed(1);
  const vertical = (x: string, className: string) =>
    h('line', { class: className, x1: x, x2: x, y1: 0, y2: HEIGHT });
  return h(
    'svg',
    {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: 'none',
      role: 'img',
      'aria-label': summary(plot),
      onPointerMove: (event: TargetedPointerEvent<SVGSVGElement>) => choosePoint(pointed(event, count)),
      onPointerLeave: () => choosePoint(undefined),
    },
    [0.25, 0.5, 0.75].map((part) =>
      h('line', { class: 'grid', x1: 0, x2: WIDTH, y1: part * HEIGHT, y2: part * HEIGHT }),
    ),
    history.marks.map((mark) =>
      vertical(position(axis, mark.at).toFixed(1), `mark ${shownMark(mark).severity}`),
    ),
    // The busiest is drawn last, above the others.
    plot.lines
      .toReversed()
      .map((line) => h('path', { class: `line ${classOf(line)}`, d: path(line.values, most) })),
    vertical(at, 'cursor'),
  );
}

function figure(plot: Plot, shown: Shown): JSX.Element {
  const { history, index } = shown;
  const most = scaleEnd(largest(plot.lines));
  const count = history.connections.length;
  const single = plot.lines.length <= 4 && plot.lines.every(({ place }) => place === undefined);
  return h(
    'figure',
    { id: `plot-${plot.id}`, class: 'card' },
    h('figcaption', {}, h('h3', {}, plot.title), single ? legend(plot.lines, plot, index) : undefined),
    h(
      'div',
      { class: 'drawing' },
      h('span', { class: 'most', 'aria-hidden': true }, plot.format(most)),
      h('span', { class: 'half', 'aria-hidden': true }, plot.format(most / 2)),
      drawing(plot, shown, most),
    ),
    h(
      'div',
      { class: 'times', 'aria-hidden': true },
      [0, count / 2, count].map((i) => h('span', {}, timeOfDay(timeOf(history, i)))),
    ),
  );
}

/** The lines with their names, and with their values at the chosen time. */
const legend = (lines: readonly Line[], plot?: Plot, index = 0): JSX.Element =>
  h(
    'ul',
    { class: 'legend' },
    lines.map((line) =>
      h(
        'li',
        {},
        h('span', { class: `sample ${classOf(line)}`, 'aria-hidden': true }),
        line.label,
        plot === undefined ? undefined : faint(` ${valueText(line.values[index], plot.format)}`),
      ),
    ),
  );

const READOUT = [
  { title: 'Policy' },
  { title: 'Bytes/s out', number: true },
  { title: 'Bytes/s in', number: true },
  { title: 'New/s', number: true },
  { title: 'Open', number: true },
] as const;

/** A line for each policy, for the others, and for all connections. */
const allLines = (plots: readonly Plot[]): Line[] => [
  ...policiesOf(plots),
  ...(plots.find(({ id }) => id === 'open')?.lines.filter(({ label }) => label === TABLE) ?? []),
];

/** The numbers of each policy at the chosen time. */
function readout(plots: readonly Plot[], index: number): JSX.Element {
  const of = (id: Plot['id'], label: string): string => {
    const plot = plots.find((one) => one.id === id);
    const line = plot?.lines.find((one) => one.label === label);
    return plot === undefined ? valueText(null, String) : valueText(line?.values[index], plot.format);
  };
  return table(
    'readout',
    'Traffic at the chosen time',
    READOUT,
    allLines(plots).map((line) => [
      { class: 'address', content: [h('span', { class: `sample ${classOf(line)}` }), line.label] },
      ...(['out', 'in', 'connections', 'open'] as const).map((id) => ({ content: of(id, line.label) })),
    ]),
    'narrow',
  );
}

const markItem = (mark: HistoryDocument['marks'][number], now: number): JSX.Element => {
  const { at, kind, severity, text } = shownMark(mark);
  return h('li', {}, time(at, now), badge({ severity, text: kind }), h('span', {}, text));
};

const SPANS = { 300: '5 minutes', 3600: 'hour', 86400: 'day' } as const;

export function plots(state: PageState, { chooseSpan, choosePoint }: Actions): JSX.Element {
  const { history, span, now } = state;
  const chosen = choice('Show the last', 'span', SPANS, span, chooseSpan);
  const all = history === undefined ? [] : plotsOf(history);
  if (history === undefined || all.length === 0) {
    const nothing = h('p', { class: 'card plain' }, history ? 'Nothing measured yet.' : 'Loading.');
    return section('plot-part', 'Over time', chosen, nothing);
  }
  const last = history.connections.length - 1;
  const index = Math.min(state.point ?? newestIndex(history), last);
  const shown: Shown = { history, index, choosePoint };
  const at = timeOfDay(timeOf(history, index));
  return section(
    'plot-part',
    'Over time',
    chosen,
    legend(allLines(all)),
    h(
      'div',
      { id: 'plots' },
      all.map((plot) => figure(plot, shown)),
    ),
    h(
      'div',
      { class: 'card', id: 'point' },
      h(
        'label',
        { class: 'plain' },
        h('span', {}, 'Values at ', h('output', { id: 'point-time', for: 'moment' }, `${at} UTC`)),
        h('input', {
          ...{ type: 'range', id: 'moment', min: 0, max: last, value: index, 'aria-valuetext': `${at} UTC` },
          onInput: (event: TargetedInputEvent<HTMLInputElement>) =>
            choosePoint(event.currentTarget.valueAsNumber),
        }),
      ),
      allLines(all).length > 0 ? readout(all, index) : undefined,
    ),
    history.marks.length === 0
      ? undefined
      : h(
          'ol',
          { id: 'marks', class: 'card', 'aria-label': 'What happened, the newest first' },
          history.marks
            .toReversed()
            .slice(0, SHOWN_MARKS)
            .map((mark) => markItem(mark, now)),
        ),
  );
}
