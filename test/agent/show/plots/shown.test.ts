import t from 'tap';
import {
  largest,
  newest,
  newestIndex,
  plotsOf,
  scaleEnd,
  shownMark,
  timeOf,
} from '../../../../agent/show/plots/shown.ts';
import { historyDocument, values } from './history-document.ts';

const END = Date.parse('2026-11-21T14:03:00Z');
const nothing = values();

t.test('a plot for each quantity, a line for each policy, then the others', async (t) => {
  t.same(
    plotsOf(historyDocument(END)).map(
      ({ id, lines }) => `${id}: ${lines.map(({ label }) => label).join(', ')}`,
    ),
    [
      'out: web, batch, others',
      'in: web, batch, others',
      'connections: web, batch, others',
      'open: web, batch, others, conntrack table',
      'lateness: mean, at most',
      'round-trips: IPv4 mean, IPv4 worst',
    ],
  );
});

t.test('a policy keeps its place when another one becomes the busiest', async (t) => {
  const places = (policies: ReturnType<typeof historyDocument>['policies']) =>
    Object.fromEntries(
      plotsOf(historyDocument(END, { policies }))[0]!.lines.map(({ label, place }) => [label, place]),
    );
  const { policies } = historyDocument(END);
  t.same(places(policies), places(policies.toReversed()));
  t.same(places(policies), { batch: 0, web: 1, others: undefined });
});

t.test('what was not measured has no plot', async (t) => {
  const shown = plotsOf(
    historyDocument(END, {
      ...{ policies: [], others: null, roundTrips: [] },
      lateness: { mean: nothing, worst: nothing },
    }),
  );
  t.same(
    shown.map(({ id, lines }) => [id, lines.length]),
    [['open', 1]],
  );
  t.same(plotsOf(historyDocument(END, { policies: [], others: null, connections: nothing })).length, 2);
});

t.test('policies of one name are told apart, and the gateway has a name', async (t) => {
  const [web] = historyDocument(END).policies;
  const policies = [web!, { ...web!, treatment: 'forward' as const }, { ...web!, policy: '' }];
  t.same(
    plotsOf(historyDocument(END, { policies, others: null }))[0]!.lines.map(({ label }) => label),
    ['web', 'web (forwarded)', 'the gateway itself'],
  );
});

t.test('values have their unit', async (t) => {
  const [out, , connections, open, lateness] = plotsOf(historyDocument(END));
  t.equal(out!.format(1234), '1.23 kB/s');
  t.equal(connections!.format(2.5), '2.5/s');
  t.equal(open!.format(12_345), '12.3k');
  t.equal(lateness!.format(0.000_212), '0.212 ms');
  t.equal(lateness!.format(1.5), '1.50 s');
});

t.test('a scale ends at 1, 2 or 5 times a power of ten', async (t) => {
  t.same([0, 0.0007, 1, 1.2, 3, 7, 10, 11].map(scaleEnd), [1, 0.001, 1, 2, 5, 10, 10, 20]);
  t.equal(largest([{ values: values(3, null, 7) }, { values: nothing }]), 7);
});

t.test('the newest value may be a step or two old, and is no older', async (t) => {
  t.equal(newest(values(1, 2, null)), 2);
  t.equal(newest(values(2, null, null, null)), undefined);
  t.equal(newestIndex(historyDocument(END, { connections: values(1, null) })), 58);
  t.equal(newestIndex(historyDocument(END, { connections: values(1, null, null, null, null) })), 59);
  t.equal(timeOf(historyDocument(END), 59), END - 5000);
});

t.test('a mark has its severity, and how often it happened', async (t) => {
  const mark = { at: 1, count: 1, text: 'x' };
  t.match(shownMark({ ...mark, kind: 'session' }), { severity: 'bad', text: 'x' });
  t.match(shownMark({ ...mark, kind: 'repair', count: 3 }), { severity: 'warn', text: 'x (3 times)' });
  t.match(shownMark({ ...mark, kind: 'uplink', text: 'IPv4 uplink down' }), { severity: 'bad' });
  t.match(shownMark({ ...mark, kind: 'uplink', text: 'IPv4 uplink up' }), { severity: 'good' });
});
