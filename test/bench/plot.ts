/**
 * Plots as SVG, drawn by Vega-Lite: panels with lines over a linear or logarithmic axis, or with groups of bars. Series
 * differ by colour and by mark or place, on light and on dark paper; text follows the reader's colour scheme.
 */
import { parse, View } from 'vega';
import { compile, type TopLevelSpec } from 'vega-lite';
import { figure } from './stats.ts';

export interface Axis {
  /** With its unit. */
  label: string;
  log?: boolean;
}

export interface LineSeries {
  name: string;
  /** `low` and `high`: the spread, drawn as a whisker. */
  points: { x: number; y: number; low?: number; high?: number }[];
  /** Calculated, not measured. */
  dashed?: boolean;
}

export interface LinePanel {
  kind: 'lines';
  title: string;
  x: Axis;
  y: Axis;
  series: LineSeries[];
}

export interface BarPanel {
  kind: 'bars';
  title: string;
  y: Axis;
  categories: string[];
  series: { name: string; values: (number | undefined)[] }[];
}

export type Panel = LinePanel | BarPanel;

const SIZE = { width: 380, height: 260 };
/** Light enough for dark paper, dark enough for white. */
const COLOURS = ['#3b82c4', '#d9662b', '#2e9e6b', '#c05a9e', '#8a8f98', '#b8860b', '#7a6fd0', '#4fa3a5'];
const SHAPES = ['circle', 'square', 'triangle-up', 'diamond'];
const TEXT = { light: '#1f2328', dark: '#e6edf3' };
const AXIS = { light: '#59636e', dark: '#9198a1' };

const CONFIG = {
  background: null,
  font: 'system-ui, sans-serif',
  title: { anchor: 'start', fontSize: 13, color: TEXT.light },
  axis: {
    labelColor: TEXT.light,
    titleColor: TEXT.light,
    titleFontWeight: 'normal',
    titleFontSize: 12,
    labelFontSize: 12,
    domainColor: AXIS.light,
    tickColor: AXIS.light,
    gridColor: AXIS.light,
    gridOpacity: 0.22,
  },
  axisX: { grid: false, labelAngle: 0, labelFlush: false, labelOverlap: false },
  legend: {
    title: null,
    orient: 'bottom',
    columns: 1,
    labelColor: TEXT.light,
    labelFontSize: 12,
    labelLimit: 0,
    symbolSize: 60,
    symbolOpacity: 1,
  },
  view: { stroke: null },
} as const;

const STYLE = `<style>@media (prefers-color-scheme: dark) {
  text { fill: ${TEXT.dark} } [stroke="${AXIS.light}"] { stroke: ${AXIS.dark} }
}</style>`;

/** More digits than a picture needs. */
const LONG_NUMBER = /-?\d+\.\d{3,}(?:e-?\d+)?/g;

const colourScale = (names: string[]) => ({ domain: names, range: COLOURS });

/** The scale and the axis of a value; a linear one begins at 0, a logarithmic one has a tick a decade. */
function quantitative({ label, log = false }: Axis, values: readonly number[]) {
  const axis = { title: label, format: ',~g', tickCount: 6 };
  if (!log || values.length === 0) return { scale: { zero: true, nice: true }, axis };
  const low = Math.floor(Math.log10(Math.min(...values)));
  const high = Math.max(Math.ceil(Math.log10(Math.max(...values))), low + 1);
  const decades = Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i));
  return {
    scale: { type: 'log' as const, domain: [decades[0], decades.at(-1)] },
    axis: { ...axis, values: decades },
  };
}

const isDrawn = (value: number, { log = false }: Axis): boolean =>
  Number.isFinite(value) && (!log || value > 0);

function lineSpec({ title, x, y, series }: LinePanel) {
  const names = series.map(({ name }) => name);
  const values = series.flatMap(({ name, points, dashed = false }) =>
    points
      .filter((point) => isDrawn(point.x, x) && isDrawn(point.y, y))
      .map((point) => ({ low: point.y, high: point.y, ...point, name, dashed })),
  );
  const colour = { field: 'name', type: 'nominal' as const, scale: colourScale(names) };
  return {
    title,
    ...SIZE,
    data: { values },
    encoding: {
      x: {
        field: 'x',
        type: 'quantitative' as const,
        ...quantitative(
          x,
          values.map((point) => point.x),
        ),
      },
      color: colour,
    },
    layer: [
      {
        mark: { type: 'line' as const, strokeWidth: 1.8 },
        encoding: {
          y: {
            field: 'y',
            type: 'quantitative' as const,
            ...quantitative(
              y,
              values.flatMap(({ low, high }) => [low, high]),
            ),
          },
          strokeDash: {
            field: 'dashed',
            type: 'nominal' as const,
            scale: {
              domain: [false, true],
              range: [
                [1, 0],
                [5, 4],
              ],
            },
            legend: null,
          },
        },
      },
      {
        mark: { type: 'rule' as const, opacity: 0.55 },
        encoding: { y: { field: 'low', type: 'quantitative' as const }, y2: { field: 'high' } },
      },
      {
        mark: { type: 'point' as const, filled: true, size: 45, opacity: 1 },
        encoding: {
          y: { field: 'y', type: 'quantitative' as const },
          shape: { field: 'name', type: 'nominal' as const, scale: { domain: names, range: SHAPES } },
        },
      },
    ],
  };
}

function barSpec({ title, y, categories, series }: BarPanel) {
  const names = series.map(({ name }) => name);
  const values = series.flatMap(({ name, values: own }) =>
    own.flatMap((value, i) =>
      value === undefined || !isDrawn(value, y)
        ? []
        : [{ name, category: categories[i], value, text: figure(value) }],
    ),
  );
  return {
    title,
    ...SIZE,
    data: { values },
    encoding: {
      x: {
        field: 'category',
        type: 'nominal' as const,
        scale: { domain: categories },
        axis: { title: null, labelFontSize: 10 },
      },
      xOffset: { field: 'name', type: 'nominal' as const, scale: { domain: names } },
      y: {
        field: 'value',
        type: 'quantitative' as const,
        ...quantitative(
          y,
          values.map(({ value }) => value),
        ),
      },
    },
    layer: [
      {
        mark: { type: 'bar' as const },
        encoding: { color: { field: 'name', type: 'nominal' as const, scale: colourScale(names) } },
      },
      {
        mark: { type: 'text' as const, dy: -5, fontSize: 9, color: TEXT.light },
        encoding: { text: { field: 'text', type: 'nominal' as const } },
      },
    ],
  };
}

/** Draws the panels in two columns. */
export async function svg(title: string, panels: readonly Panel[]): Promise<string> {
  const spec = {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    description: title,
    columns: Math.min(2, panels.length),
    spacing: 40,
    concat: panels.map((panel) => (panel.kind === 'lines' ? lineSpec(panel) : barSpec(panel))),
    resolve: { scale: { color: 'independent', shape: 'independent', xOffset: 'independent' } },
    config: CONFIG,
  } as unknown as TopLevelSpec;
  const view = new View(parse(compile(spec).spec), { renderer: 'none' });
  const text = (await view.toSVG()).replace(
    LONG_NUMBER,
    (number) => `${Math.round(Number(number) * 100) / 100}`,
  );
  view.finalize();
  const head = /^<svg[^>]*>/.exec(text)?.[0] ?? '';
  return `${head}<title>${escapeXml(title)}</title>${STYLE}${text.slice(head.length)}\n`;
}

const escapeXml = (text: string): string =>
  text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');
