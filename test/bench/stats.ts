/** Statistics of the benchmarks. Pure. */

/** The value below which a share (0 … 1) of the values lies, interpolated; NaN of nothing. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (sorted.length - 1) * share;
  const [below, above] = [sorted[Math.floor(at)], sorted[Math.ceil(at)]];
  if (below === undefined || above === undefined) return Number.NaN;
  return below + (above - below) * (at - Math.floor(at));
}

export const median = (values: readonly number[]): number => quantile(values, 0.5);
export const sum = (values: readonly number[]): number => values.reduce((all, value) => all + value, 0);

export interface Summary {
  n: number;
  min: number;
  p50: number;
  p99: number;
  max: number;
}

/** What a table says of many values. With fewer than a hundred p99 is close to the greatest. */
export const summary = (values: readonly number[]): Summary => ({
  n: values.length,
  min: quantile(values, 0),
  p50: median(values),
  p99: quantile(values, 0.99),
  max: quantile(values, 1),
});

/** y = factor × x^exponent. */
export interface PowerLaw {
  exponent: number;
  factor: number;
}

/** The line through points in log-log coordinates by least squares. Points that are not positive are left out. */
export function powerLaw(points: readonly (readonly [x: number, y: number])[]): PowerLaw {
  const logs = points.filter(([x, y]) => x > 0 && y > 0).map(([x, y]) => [Math.log(x), Math.log(y)] as const);
  const mean = (axis: 0 | 1) => sum(logs.map((point) => point[axis])) / logs.length;
  const [x, y] = [mean(0), mean(1)];
  const exponent = sum(logs.map(([a, b]) => (a - x) * (b - y))) / sum(logs.map(([a]) => (a - x) ** 2));
  return { exponent, factor: Math.exp(y - exponent * x) };
}

/** y = fixed + each × x. */
export interface Line {
  fixed: number;
  each: number;
}

/**
 * The line through points by least squares of the relative errors, so that small sizes count as much as large ones.
 */
export function line(points: readonly (readonly [x: number, y: number])[]): Line {
  const weighted = points.filter(([, y]) => y > 0).map(([x, y]) => ({ x, y, w: 1 / y ** 2 }));
  const total = sum(weighted.map(({ w }) => w));
  const x = sum(weighted.map((p) => p.w * p.x)) / total;
  const y = sum(weighted.map((p) => p.w * p.y)) / total;
  const each =
    sum(weighted.map((p) => p.w * (p.x - x) * (p.y - y))) / sum(weighted.map((p) => p.w * (p.x - x) ** 2));
  return { fixed: y - each * x, each };
}

/** Three significant digits: `0.0123`, `12.3`, `12 300`. What is not finite is `–`. */
export const figure = (value: number): string =>
  Number.isFinite(value)
    ? value.toLocaleString('en', { maximumSignificantDigits: 3 }).replaceAll(',', ' ')
    : '–';
