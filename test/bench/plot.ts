/**
 * Plots as SVG: panels with lines over a linear or logarithmic axis, or with groups of bars. Pure. Colours and marks
 * can be told apart without seeing colour, on light and on dark paper; what is written follows the reader's scheme.
 */
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

const PANEL = { width: 480, height: 340 };
const PLOT = { left: 80, right: 28, top: 34, bottom: 48 };
const LEGEND_LINE = 16;
/** Of a lightness that stands out from white and from black. */
const COLOURS = ['#3b82c4', '#d9662b', '#2e9e6b', '#c05a9e', '#8a8f98', '#b8860b', '#7a6fd0', '#4fa3a5'];
const MARKS = ['circle', 'square', 'triangle', 'diamond'] as const;

const STYLE = `
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 13px }
  .axis { stroke: #59636e; fill: none }
  .grid { stroke: #59636e; stroke-opacity: .22 }
  @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .axis, .grid { stroke: #9198a1 } }`;

const inXml = (text: string): string =>
  text.replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]!);
const at = (value: number): string => `${Math.round(value * 10) / 10}`;
const colour = (i: number): string => COLOURS[i % COLOURS.length]!;

interface Scale {
  place(value: number): number;
  ticks: number[];
}

/** 1, 2 or 5 times a power of ten, so that about so many steps fill the span. */
function niceStep(span: number, steps: number): number {
  const rough = span / steps;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10);
}

/** From values to pixels; a linear axis begins at 0. */
function scale(values: number[], { log = false }: Axis, from: number, to: number): Scale {
  const shown = values.filter((value) => Number.isFinite(value) && (!log || value > 0));
  const most = Math.max(...shown, log ? 1e-9 : 0);
  if (log) {
    const [low, high] = [
      Math.floor(Math.log10(Math.min(...shown, most))),
      Math.max(Math.ceil(Math.log10(most)), Math.floor(Math.log10(Math.min(...shown, most))) + 1),
    ];
    const place = (value: number) =>
      from + ((Math.log10(Math.max(value, 10 ** low)) - low) / (high - low)) * (to - from);
    return { place, ticks: Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i)) };
  }
  const step = niceStep(most || 1, 5);
  const high = Math.max(Math.ceil(most / step), 1) * step;
  const ticks = Array.from({ length: Math.round(high / step) + 1 }, (_, i) => i * step);
  return { place: (value) => from + (value / high) * (to - from), ticks };
}

function mark(i: number, x: number, y: number): string {
  const fill = `fill="${colour(i)}"`;
  const [a, b] = [at(x), at(y)];
  switch (MARKS[i % MARKS.length]!) {
    case 'circle':
      return `<circle cx="${a}" cy="${b}" r="3.5" ${fill}/>`;
    case 'square':
      return `<rect x="${at(x - 3.2)}" y="${at(y - 3.2)}" width="6.4" height="6.4" ${fill}/>`;
    case 'triangle':
      return `<path d="M${a} ${at(y - 4.4)}l4.2 7.4h-8.4z" ${fill}/>`;
    case 'diamond':
      return `<path d="M${a} ${at(y - 4.6)}l4.6 4.6l-4.6 4.6l-4.6 -4.6z" ${fill}/>`;
  }
}

/** The frame, the horizontal lines and the words of a panel; `y` maps its values. */
function frame(panel: Panel, y: Scale, bottom: number): string[] {
  const { left, top } = PLOT;
  const right = PANEL.width - PLOT.right;
  const middle = (top + bottom) / 2;
  return [
    `<text class="title" x="${left}" y="16">${inXml(panel.title)}</text>`,
    ...y.ticks.flatMap((tick) => [
      `<path class="grid" d="M${left} ${at(y.place(tick))}H${right}"/>`,
      `<text x="${left - 6}" y="${at(y.place(tick) + 4)}" text-anchor="end">${figure(tick)}</text>`,
    ]),
    `<path class="axis" d="M${left} ${top}V${bottom}H${right}"/>`,
    `<text transform="translate(16 ${middle}) rotate(-90)" text-anchor="middle">${inXml(panel.y.label)}</text>`,
  ];
}

function legend(
  series: { name: string }[],
  from: number,
  swatch: (i: number, y: number) => string,
): string[] {
  return series.map(({ name }, i) => {
    const y = from + i * LEGEND_LINE;
    return `${swatch(i, y)}<text x="${PLOT.left + 26}" y="${y + 4}">${inXml(name)}</text>`;
  });
}

function lines(panel: LinePanel, height: number): string[] {
  const { left, top } = PLOT;
  const [right, bottom] = [PANEL.width - PLOT.right, PANEL.height - PLOT.bottom];
  const points = panel.series.flatMap((series) => series.points);
  const x = scale(
    points.map((p) => p.x),
    panel.x,
    left,
    right,
  );
  const y = scale(
    points.flatMap((p) => [p.y, p.low ?? p.y, p.high ?? p.y]),
    panel.y,
    bottom,
    top,
  );
  const drawn = panel.series.flatMap(({ points: own, dashed }, i) => {
    const shown = own.filter(
      (p) => Number.isFinite(p.y) && (!panel.y.log || p.y > 0) && (!panel.x.log || p.x > 0),
    );
    const path = shown
      .map((p, n) => `${n === 0 ? 'M' : 'L'}${at(x.place(p.x))} ${at(y.place(p.y))}`)
      .join('');
    const stroke = `stroke="${colour(i)}" fill="none"`;
    return [
      `<path d="${path}" ${stroke} stroke-width="1.8"${dashed ? ' stroke-dasharray="5 4"' : ''}/>`,
      ...shown
        .filter((p) => p.low !== undefined || p.high !== undefined)
        .map((p) => {
          const [low, high] = [y.place(p.low ?? p.y), y.place(p.high ?? p.y)];
          return `<path d="M${at(x.place(p.x))} ${at(low)}V${at(high)}" ${stroke} stroke-opacity=".55"/>`;
        }),
      ...shown.map((p) => mark(i, x.place(p.x), y.place(p.y))),
    ];
  });
  return [
    ...frame(panel, y, bottom),
    ...x.ticks.map(
      (tick) =>
        `<path class="axis" d="M${at(x.place(tick))} ${bottom}v4"/><text x="${at(x.place(tick))}" y="${bottom + 17}" text-anchor="middle">${figure(tick)}</text>`,
    ),
    `<text x="${(left + right) / 2}" y="${bottom + 36}" text-anchor="middle">${inXml(panel.x.label)}</text>`,
    ...drawn,
    ...legend(
      panel.series,
      height,
      (i, y) =>
        `<path d="M${left} ${y}h20" stroke="${colour(i)}" stroke-width="1.8"${panel.series[i]!.dashed ? ' stroke-dasharray="5 4"' : ''}/>${mark(i, left + 10, y)}`,
    ),
  ];
}

function bars(panel: BarPanel, height: number): string[] {
  const { left, top } = PLOT;
  const [right, bottom] = [PANEL.width - PLOT.right, PANEL.height - PLOT.bottom];
  const values = panel.series.flatMap((series) => series.values).map((value) => value ?? Number.NaN);
  const y = scale(values, panel.y, bottom, top);
  const group = (right - left) / panel.categories.length;
  const width = (group * 0.8) / panel.series.length;
  const drawn = panel.series.flatMap((series, i) =>
    series.values.flatMap((value, n) => {
      if (value === undefined || !Number.isFinite(value) || (panel.y.log && value <= 0)) return [];
      const x = left + n * group + group * 0.1 + i * width;
      const to = y.place(value);
      return [
        `<rect x="${at(x)}" y="${at(to)}" width="${at(width * 0.94)}" height="${at(bottom - to)}" fill="${colour(i)}"/>`,
        `<text x="${at(x + width / 2)}" y="${at(to - 3)}" text-anchor="middle" style="font-size:9px">${figure(value)}</text>`,
      ];
    }),
  );
  return [
    ...frame(panel, y, bottom),
    ...drawn,
    ...panel.categories.map(
      (name, n) =>
        `<text x="${at(left + (n + 0.5) * group)}" y="${bottom + 17}" text-anchor="middle" style="font-size:10px">${inXml(name)}</text>`,
    ),
    ...legend(
      panel.series,
      height,
      (i, y) => `<rect x="${left + 4}" y="${y - 5}" width="12" height="10" fill="${colour(i)}"/>`,
    ),
  ];
}

/** The panels in two columns. */
export function svg(title: string, panels: readonly Panel[]): string {
  const columns = Math.min(2, panels.length);
  const most = Math.max(...panels.map(({ series }) => series.length));
  const height = PANEL.height + most * LEGEND_LINE + 8;
  const [w, h] = [columns * PANEL.width, Math.ceil(panels.length / columns) * height];
  const drawn = panels.map((panel, i) => {
    const body = panel.kind === 'lines' ? lines(panel, PANEL.height + 4) : bars(panel, PANEL.height + 4);
    const [x, y] = [(i % columns) * PANEL.width, Math.floor(i / columns) * height];
    return `<g transform="translate(${x} ${y})">\n${body.join('\n')}\n</g>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${w} ${h}" width="${w}" height="${h}" role="img">
<title>${inXml(title)}</title>
<style>${STYLE}
</style>
${drawn.join('\n')}
</svg>
`;
}
