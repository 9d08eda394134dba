import t from 'tap';
import { codeLines, linesRun, percent } from './coverage.ts';

const SOURCE = `/**
 * A comment.
 */
interface Shape {
  size: number;
}

export function area(shape: Shape): number {
  // One more comment.
  if (shape.size < 0) {
    throw new Error('negative');
  }
  return shape.size;
}
`;

t.test('code is what is left without comments, types, blanks and lone brackets', async (t) => {
  t.strictSame([...codeLines(SOURCE)], [7, 9, 10, 12]);
});

t.test('an inner range that was not run is taken out of an outer one that was', async (t) => {
  const [start, end] = [SOURCE.indexOf('throw'), SOURCE.indexOf(';\n  }\n  return') + 1];
  const run = linesRun(SOURCE, {
    url: '',
    functions: [
      { ranges: [{ startOffset: 0, endOffset: SOURCE.length, count: 1 }] },
      {
        ranges: [
          { startOffset: SOURCE.indexOf('export'), endOffset: SOURCE.length - 1, count: 2 },
          { startOffset: start, endOffset: end, count: 0 },
        ],
      },
    ],
  });
  const code = codeLines(SOURCE);
  t.strictSame(
    [...code].filter((line) => !run.has(line)),
    [10],
  );
});

t.test('per cent are rounded down, and nothing to run is all of it', async (t) => {
  t.equal(percent({ lines: 3, run: 2 }), 66.6);
  t.equal(percent({ lines: 1000, run: 999 }), 99.9);
  t.equal(percent({ lines: 0, run: 0 }), 100);
});
