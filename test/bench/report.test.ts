/** The pure parts of the benchmarks: statistics, plots, tables and the page. */
import t from 'tap';
import { type Panel, svg } from './plot.ts';
import { insert, markdownTable, type Result, section } from './report.ts';
import { figure, line, median, powerLaw, quantile, summary } from './stats.ts';

t.test('a quantile is interpolated between the sorted values', async (t) => {
  t.equal(median([4, 1, 3, 2]), 2.5);
  t.equal(quantile([10, 20, 30], 0.75), 25);
  t.same(summary([5]), { n: 1, min: 5, p50: 5, p99: 5, max: 5 });
  t.ok(Number.isNaN(median([])));
});

t.test('the slope of a power law and the line of a linear cost are found', async (t) => {
  const { exponent, factor } = powerLaw([1, 10, 100].map((x) => [x, 3 * x ** 1.5] as const));
  t.match([exponent.toFixed(6), factor.toFixed(6)], ['1.500000', '3.000000']);
  const { fixed, each } = line([1, 10, 1000].map((x) => [x, 5 + 2 * x] as const));
  t.match([fixed.toFixed(6), each.toFixed(6)], ['5.000000', '2.000000']);
});

t.test('figures have three digits and no exponent', async (t) => {
  t.same([0, 0.012345, 12.345, 1234.5, 12_345_678, Number.NaN].map(figure), [
    '0',
    '0.0123',
    '12.3',
    '1 230',
    '12 300 000',
    '–',
  ]);
});

t.test(
  'a table has its numbers to the right, a dash for what is missing, and no bar that would break it',
  async (t) => {
    const table = {
      title: 'T',
      columns: ['name', 'ms'],
      rows: [
        ['a|b', 1.5],
        ['c', undefined],
      ],
      note: 'N.',
    };
    t.equal(markdownTable(table), '**T**\n\n| name | ms |\n| --- | --: |\n| a\\|b | 1.5 |\n| c | – |\n\nN.');
  },
);

const PANELS: Panel[] = [
  {
    ...{ kind: 'lines', title: 'A & B', x: { label: 'size', log: true }, y: { label: 'ms', log: true } },
    series: [
      {
        name: 'one',
        points: [
          { x: 1, y: 1 },
          { x: 100, y: 50, low: 20, high: 90 },
        ],
      },
      {
        name: '<two>',
        dashed: true,
        points: [
          { x: 1, y: Number.NaN },
          { x: 10, y: 3 },
          { x: 100, y: 30 },
        ],
      },
    ],
  },
  {
    kind: 'bars',
    title: 'C',
    y: { label: 'MiB' },
    categories: ['x', 'y'],
    series: [{ name: 'one', values: [3, undefined] }],
  },
];

t.test('a plot has titles, units, a legend, and no coordinate that is not a number', async (t) => {
  const text = await svg('All', PANELS);
  for (const words of ['A &amp; B', '>size<', '>ms<', '>one<', '&lt;two&gt;', '>C<', '>MiB<', '>x<']) {
    t.ok(text.includes(words), words);
  }
  t.notMatch(text, /NaN|undefined|Infinity/);
  t.match(text, /prefers-color-scheme: dark/);
  t.match(text, /stroke-dasharray="5,4"/, 'what is calculated is dashed');
});

t.test('a plot of nothing, of one point and of equal values is drawn', async (t) => {
  for (const points of [
    [],
    [{ x: 5, y: 5 }],
    [
      { x: 1, y: 2 },
      { x: 2, y: 2 },
    ],
  ]) {
    for (const log of [true, false]) {
      const text = await svg('T', [
        {
          kind: 'lines',
          title: 'T',
          x: { label: 'x', log },
          y: { label: 'y', log },
          series: [{ name: 's', points }],
        },
      ]);
      t.notMatch(text, /NaN|undefined|Infinity/);
    }
  }
});

t.test('a section replaces what stands between the markers of its part, and nothing else', async (t) => {
  const noise = { stealPercent: 0.1, sleeperLateMs: summary([1, 2]), loadBefore: 0.5 };
  const machine = { cpu: 'CPU', cores: 2, memoryMiB: 1, kernel: '6', system: 'D', versions: { Node: '24' } };
  const result: Result = {
    ...{
      part: 'one',
      title: 'One',
      at: '2026-01-02T03:04:05.000Z',
      seconds: 12,
      quick: false,
      machine,
      noise,
    },
    ...{ tables: [{ title: 'T', columns: ['a'], rows: [[1]] }], panels: PANELS },
  };
  const page =
    'before\n<!-- bench:one -->old<!-- /bench:one -->\nafter <!-- bench:two --><!-- /bench:two -->';
  const written = insert(page, 'one', section(result));
  t.match(written, /^before\n<!-- bench:one -->\n\n\*\*T\*\*/);
  t.match(written, /!\[One\]\(bench\/one\.svg\)/);
  t.match(written, /2026-01-02 03:04 UTC.*steal 0\.1 %/);
  t.match(written, /<!-- \/bench:one -->\nafter <!-- bench:two --><!-- \/bench:two -->$/);
  t.notMatch(written, /old/);
  t.equal(insert(written, 'one', section(result)), written, 'again: the same');
  t.throws(() => insert(page, 'three', ''), /no markers/);
});
