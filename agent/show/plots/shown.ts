/** The plots as a person sees them: which there are, their lines, and their words. For the page and the terminal. Pure. */
import { scaled } from '../../../lib/units.ts';
import { NONE, policyLabel, type Severity } from '../overview.ts';
import type { Mark, MarkKind } from './marks.ts';
import type { HistoryDocument, Values } from './recorder.ts';
import type { Range } from './series.ts';

export interface Line {
  label: string;
  /** Of a policy, its place among all by name; `others` and what is no policy have none. */
  place: number | undefined;
  values: Values;
}

export interface Plot {
  id: 'out' | 'in' | 'connections' | 'open' | 'lateness' | 'round-trips';
  title: string;
  lines: Line[];
  /** A value with its unit. */
  format(value: number): string;
}

export const RANGE_NAMES: Readonly<Record<Range, string>> = { '5m': '5 minutes', '1h': 'hour', '1d': 'day' };

/** The names of lines that are of no single policy. */
export const OTHERS = 'others';
export const TABLE = 'conntrack table';

const perSecond = (value: number): string => `${scaled(value, 'B')}/s`;
const count = (value: number): string => scaled(value);
const connectionsPerSecond = (value: number): string => `${scaled(value)}/s`;

/** `0.212 ms`, `1.50 s`. */
const seconds = (value: number): string =>
  value >= 1 ? `${value.toPrecision(3)} s` : `${Number((value * 1000).toPrecision(3))} ms`;

type PolicyField = 'out' | 'in' | 'connections' | 'open';

/** The lines of a field, a policy each, the busiest first, and the others. */
function policyLines({ policies, others }: HistoryDocument, field: PolicyField): Line[] {
  const labels = policies.map(({ policy, treatment }) => {
    const twice = policies.filter((one) => one.policy === policy).length > 1;
    return `${policyLabel(policy)}${twice && treatment === 'forward' ? ' (forwarded)' : ''}`;
  });
  // By name, so that a line keeps its colour when another policy becomes the busiest.
  const places = labels.toSorted();
  const own = policies.map((policy, i): Line => {
    return { label: labels[i]!, place: places.indexOf(labels[i]!), values: policy[field] };
  });
  return others === null ? own : [...own, { label: OTHERS, place: undefined, values: others[field] }];
}

const isMeasured = ({ values }: Line): boolean => values.some((value) => value !== null);

const line = (label: string, values: Values): Line => ({ label, place: undefined, values });

/** The plots that have something to show. */
export function plotsOf(history: HistoryDocument): Plot[] {
  const { connections, lateness, roundTrips } = history;
  const plots: Plot[] = [
    { id: 'out', title: 'Out of the VPC', lines: policyLines(history, 'out'), format: perSecond },
    { id: 'in', title: 'Into the VPC', lines: policyLines(history, 'in'), format: perSecond },
    {
      ...{ id: 'connections', title: 'New connections' },
      ...{ lines: policyLines(history, 'connections'), format: connectionsPerSecond },
    },
    {
      ...{ id: 'open', title: 'Open connections', format: count },
      lines: [...policyLines(history, 'open'), line(TABLE, connections)],
    },
    {
      ...{ id: 'lateness', title: 'BFD lateness', format: seconds },
      lines: [line('mean', lateness.mean), line('at most', lateness.worst)],
    },
    {
      ...{ id: 'round-trips', title: 'Uplink round trips', format: seconds },
      lines: roundTrips.flatMap(({ family, mean, worst }) => [
        line(`IPv${family} mean`, mean),
        line(`IPv${family} worst`, worst),
      ]),
    },
  ];
  return plots
    .map((plot) => ({ ...plot, lines: plot.lines.filter(isMeasured) }))
    .filter(({ lines }) => lines.length > 0);
}

/** The lines of the policies and the others, of one of the plots that has them. */
export const policiesOf = (plots: readonly Plot[]): Line[] =>
  (plots.find(({ id }) => id === 'out') ?? plots.find(({ id }) => id === 'open'))?.lines.filter(
    ({ label, place }) => place !== undefined || label === OTHERS,
  ) ?? [];

/** The largest value of lines; 0 when nothing was measured. */
export const largest = (lines: readonly Pick<Line, 'values'>[]): number =>
  lines.reduce(
    (most, { values }) => values.reduce<number>((max, value) => Math.max(max, value ?? 0), most),
    0,
  );

/** The end of a scale for values up to `most`: 1, 2 or 5 times a power of ten. */
export function scaleEnd(most: number): number {
  if (most <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  const step = [1, 2, 5].find((one) => most <= one * power * (1 + 1e-9)) ?? 10;
  return step * power;
}

/** A value as text; what was not measured as a dash. */
export const valueText = (value: number | null | undefined, format: (value: number) => string): string =>
  typeof value === 'number' ? format(value) : NONE;

/** The last value that was measured in the newest steps; undefined: none. */
export const newest = (values: Values): number | undefined =>
  values.slice(-3).findLast((value) => value !== null) ?? undefined;

/** The newest value that was measured: the last steps may not have a sample yet. */
export function newestIndex({ connections }: HistoryDocument): number {
  const last = connections.length - 1;
  const measured = connections.findLastIndex((value) => value !== null);
  return measured >= last - 2 ? measured : last;
}

/** When a value begins, Unix milliseconds. */
export const timeOf = ({ end, step, connections }: HistoryDocument, index: number): number =>
  end - (connections.length - index) * step * 1000;

const MARK_SEVERITY: Record<MarkKind, Severity> = {
  ...{ start: 'idle', policy: 'idle', holder: 'idle' },
  ...{ repair: 'warn', drain: 'warn', session: 'bad', uplink: 'bad' },
};

/** A mark as it is shown. */
export function shownMark({ at, kind, text, count: times }: Mark) {
  const isBack = kind === 'uplink' && text.endsWith(' up');
  return {
    ...{ at, kind },
    severity: isBack ? ('good' as const) : MARK_SEVERITY[kind],
    text: times === 1 ? text : `${text} (${times} times)`,
  };
}
