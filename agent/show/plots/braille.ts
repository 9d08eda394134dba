/** Plots in braille characters, two values wide and four dots high each, filled from the bottom. Pure. */
import type { Values } from './recorder.ts';

/** The bits of the dots, from the bottom up, of the left and the right half (Unicode 2800). */
const DOTS = [
  [0x40, 0x04, 0x02, 0x01],
  [0x80, 0x20, 0x10, 0x08],
] as const;
const BLANK = 0x2800;

/** Values in as many columns: the largest of those that share a column. */
export function resampled(values: Values, columns: number): Values {
  return Array.from({ length: columns }, (_, i) => {
    const from = Math.floor((i * values.length) / columns);
    const to = Math.max(from + 1, Math.floor(((i + 1) * values.length) / columns));
    return values
      .slice(from, to)
      .reduce<number | null>(
        (most, value) => (value === null || (most !== null && most >= value) ? most : value),
        null,
      );
  });
}

/** The rows of a plot, the upper one first. A gap is blank; what was measured has a dot at least. */
export function brailleRows(values: Values, most: number, width: number, height: number): string[] {
  const dots = resampled(values, 2 * width).map((value) =>
    value === null ? 0 : 1 + Math.round((most <= 0 ? 0 : Math.min(1, value / most)) * (4 * height - 1)),
  );
  return Array.from({ length: height }, (_, row) => {
    const below = 4 * (height - 1 - row);
    return Array.from({ length: width }, (_, column) => {
      const bits = DOTS.map((half, side) =>
        half.reduce((sum, bit, dot) => (dots[2 * column + side]! > below + dot ? sum | bit : sum), 0),
      );
      return String.fromCharCode(BLANK | bits[0]! | bits[1]!);
    }).join('');
  });
}
