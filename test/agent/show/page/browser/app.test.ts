// The views as HTML, without a browser.
import { render } from 'preact-render-to-string';
import t from 'tap';
import type { TranslationRecord } from '../../../../../agent/flows/translations-query.ts';
import { overview } from '../../../../../agent/show/overview.ts';
import { app, titleOf } from '../../../../../agent/show/page/browser/app.ts';
import { path, plots } from '../../../../../agent/show/page/browser/plots.ts';
import type { Actions, PageState } from '../../../../../agent/show/page/browser/state.ts';
import type { Values } from '../../../../../agent/show/plots/recorder.ts';
import { type AgentView, statusDocument } from '../../../../../agent/show/status.ts';
import type { SessionReport } from '../../../../../bfd/intent.ts';
import { prefix } from '../../../../../lib/prefix.ts';
import { bgpView } from '../../bgp-view.ts';
import { groupView } from '../../group-view.ts';
import { historyDocument, values } from '../../plots/history-document.ts';

const NOW = Date.parse('2026-11-21T14:03:00Z');
const MINUTE = 60_000;

const actions: Actions = {
  chooseSpan() {},
  choosePoint() {},
  chooseOrder() {},
  search() {},
  showNewest() {},
};
const session = {
  ...{ local: '10.16.0.12', remote: '10.255.255.255', state: 'Up', since: NOW - 190_000 },
  ...{ transmitInterval: 100_000, detectionTime: 500_000 },
} as SessionReport;

const view: AgentView = {
  ...{ version: '1.2.3', node: 'worker-1', pod: 'default/gateway1-abc', startedAt: NOW - 3_700_000 },
  policy: {
    ...{ source: '/p', valid: true, name: 'default/gateway1', generation: 3, errors: [], warnings: ['w'] },
    rules: [{ name: 'web', snat: true, ipBlocks: [prefix('10.17.0.0/16')] }],
    lastChange: NOW - MINUTE,
  },
  kernel: {
    ...{ inSync: true, families: [{ family: 4, state: 'programmed' }], notes: [], failed: [] },
    ...{ driftRepaired: { rule: 2 } },
    last: { at: NOW - 5000, trigger: 'policy', ok: true, changes: 2, durationMs: 31 },
  },
  historyOf: () => [
    { at: NOW - 20 * MINUTE, from: null, to: 'Up', diagnostic: 0 },
    { at: NOW - 5 * MINUTE, from: 'Up', to: 'Down', diagnostic: 1 },
    { at: NOW - 190_000, from: 'Down', to: 'Up', diagnostic: 0 },
  ],
  conntrack: { entries: 12, limit: 1000, busiest: [] },
  ...{ translationLog: true, traffic: [], bfdEnabled: true, draining: false },
  bfd: {
    sessions: [session],
    ...{ discards: {}, draining: false, lateness: { bounds: [], buckets: [], count: 0, sum: 0 } },
  },
};

const flow: TranslationRecord = {
  ...{ zone: 0, addressFamily: 'ipv4', protocol: 'tcp', protocolNumber: 6, natType: ['snat'] },
  original: { sourceIP: '10.17.0.9', sourcePort: 4213, destinationIP: '203.0.113.10', destinationPort: 443 },
  translated: {
    ...{ sourceIP: '172.17.0.11', sourcePort: 3944, destinationIP: '203.0.113.10', destinationPort: 443 },
  },
  ...{ policy: 'web', verdict: 'translated', startTime: '2026-11-21T14:02:58.112Z', duration: 1.9 },
};

const LOG = { enabled: true, since: '2026-11-20T08:00:00.000Z', covers: 'all' as const };

const pageState = (more: Partial<AgentView> = {}, rest: Partial<PageState> = {}): PageState => ({
  status: statusDocument({ ...view, ...more }, NOW),
  sources: {
    schemaVersion: 'v1',
    sources: [{ address: '10.17.0.9', connections: 12, bytes: { out: 1000, in: 2000 } }],
    total: 1,
  },
  translations: { schemaVersion: 'v1', translations: [flow], more: false, gaps: [], log: LOG },
  ...{ now: NOW, span: '3600', order: 'bytes', question: {} },
  ...rest,
});

/** The page as HTML. */
const html = (state: PageState): string => render(app({ state, actions }));
/** The text of the page, elements apart. */
const text = (state: PageState): string =>
  html(state)
    .replace(/<[^>]*>/g, '|')
    .replace(/\|+/g, '|');

t.test('it shows health, sessions, policies, sources and translations', async (t) => {
  const shown = text(pageState());
  t.match(shown, '|default/gateway1|Ready|default/gateway1-abc on worker-1 · veg-agent 1.2.3 · up 1h1m|');
  t.match(shown, '|Policy|Valid|generation 3|changed 1m0s ago|');
  t.match(shown, '|Kernel|In sync|IPv4 programmed|checked 5s ago (policy)|drift repaired: 2 rule|');
  t.match(shown, '|BFD|1 Up|of 1 session|');
  t.match(shown, '|Connections|12|1 % of 1,000|');
  t.match(shown, '|Up| 3m10s|10.255.255.255| from 10.16.0.12|100 ms, detected in 500 ms|');
  t.match(shown, '|13:58:00|10.255.255.255|Up → |Down|Control Detection Time Expired|');
  t.match(shown, '|web| translated|10.17.0.0/16|–|');
  t.match(shown, '|10.17.0.9|12|1.00 kB|2.00 kB|');
  t.match(shown, '|14:02:58|open|tcp|10.17.0.9:4213|172.17.0.11:3944|203.0.113.10:443|web|–|–|');
  t.match(shown, 'The newest 1 translation.');
});

t.test('text from outside is text, in elements and in attributes', async (t) => {
  const evil = '<img src=x onerror="alert(1)">';
  const { policy } = view;
  const markup = html(pageState({ pod: evil, policy: { ...policy, name: evil, warnings: [evil] } }));
  t.notMatch(markup, '<img');
  t.match(markup, '&lt;img src=x');
});

t.test('reasons come first, and the title of the tab warns', async (t) => {
  const state = pageState({ draining: true });
  t.match(text(state), '|Draining|');
  t.match(text(state), '|draining |docs/operations.md#draining|');
  t.match(text(state), '|w |docs/policy.md#no-effect|', 'a warning too');
  t.ok(text(state).indexOf('|draining|') < text(state).indexOf('|Policy|'), 'the reason is above the tiles');
  t.equal(titleOf(overview(state.status!, NOW)), '⚠ default/gateway1 · Draining');
  t.equal(titleOf(overview(pageState().status!, NOW)), 'default/gateway1 · Ready');
});

const history = historyDocument(NOW);

t.test('plots have a line for each policy, and words for those who do not see them', async (t) => {
  const markup = html(pageState({}, { history }));
  const labels = [...markup.matchAll(/<svg[^>]*role="img" aria-label="([^"]*)"/g)].map(([, label]) => label);
  t.equal(
    labels[0],
    'Out of the VPC: web 4.00 kB/s, at most 6.00 kB/s; batch 2.00 kB/s, at most 3.00 kB/s; others 6.00 kB/s, at most 9.00 kB/s',
  );
  t.match(labels[4], 'BFD lateness: mean 0.2 ms, at most 0.2 ms; at most 2 ms, at most 2 ms');
  const [first = ''] = markup.match(/<figure id="plot-out".*?<\/figure>/s) ?? [];
  t.same(
    [...first.matchAll(/<path class="line (\w+)"/g)].map(([, name]) => name),
    ['others', 'c0', 'c1'],
    'the busiest is drawn last',
  );
  t.equal(first.match(/class="mark /g)?.length, 2);
  t.match(
    text(pageState({}, { history })),
    '|web|batch|others|conntrack table|Out of the VPC|',
    'the legend',
  );
});

t.test('a gap is a gap in the line, and a value alone is a dot', async (t) => {
  t.equal(path([0, 5, null, 10], 10), 'M125.0 100.0L375.0 50.0M875.0 0.0h.1');
  t.equal(path([null, null], 1), '');
});

t.test('the numbers at a point in time are a table, the newest at first', async (t) => {
  const newest = text(pageState({}, { history }));
  t.match(newest, '|Values at |14:02:55 UTC|');
  t.match(newest, '|web|4.00 kB/s|40 B/s|2/s|10|');
  t.match(newest, '|others|6.00 kB/s|60 B/s|2/s|15|');
  t.match(newest, '|conntrack table|–|–|–|40|');
  const gap = text(pageState({}, { history, point: 57 }));
  t.match(gap, '|Values at |14:02:45 UTC|');
  t.match(gap, '|web|–|–|–|5|');
  t.match(html(pageState({}, { history, point: 57 })), 'aria-valuetext="14:02:45 UTC"');
});

t.test('without a translation log open connections of a policy are not known, all of them are', async (t) => {
  const unknown = <T extends { open: Values }>(one: T): T => ({ ...one, open: values() });
  const { policies, others } = history;
  const counted = { ...history, policies: policies.map(unknown), others: unknown(others!) };
  const shown = text(pageState({}, { history: counted }));
  t.match(shown, '|web|batch|others|conntrack table|Out of the VPC|');
  t.match(shown, '|web|4.00 kB/s|40 B/s|2/s|–|');
  t.match(shown, '|conntrack table|–|–|–|40|');
});

/** The handlers of the first element that has one of this name. */
function handlerOf(node: unknown, name: string): ((event: object) => void) | undefined {
  if (Array.isArray(node)) {
    for (const one of node) {
      const found = handlerOf(one, name);
      if (found !== undefined) return found;
    }
    return undefined;
  }
  const { props } = (node ?? {}) as { props?: Record<string, unknown> };
  if (props === undefined) return undefined;
  return typeof props[name] === 'function'
    ? (props[name] as (event: object) => void)
    : handlerOf(props.children, name);
}

t.test('the slider and the pointer choose the point in time', async (t) => {
  const chosen: (number | undefined)[] = [];
  const tree = plots(pageState({}, { history }), {
    ...actions,
    choosePoint: (point) => void chosen.push(point),
  });
  handlerOf(tree, 'onInput')!({ currentTarget: { valueAsNumber: 7 } });
  const currentTarget = { getBoundingClientRect: () => ({ left: 100, width: 600 }) };
  for (const clientX of [100, 399, 400, 700, 50])
    handlerOf(tree, 'onPointerMove')!({ currentTarget, clientX });
  handlerOf(tree, 'onPointerLeave')!({});
  t.same(chosen, [7, 0, 29, 30, 59, 0, undefined]);
});

t.test('what happened is listed, the newest first', async (t) => {
  t.match(
    text(pageState({}, { history })),
    '|14:02:40|repair|repaired rule (3 times)|13:59:40|start|agent started|',
  );
});

t.test('before there is anything to plot it says so', async (t) => {
  t.match(text(pageState()), '|Over time|Show the last |5 minutes|hour|day|Loading.|');
  const nothing = historyDocument(NOW, {
    ...{ policies: [], others: null, connections: values(), roundTrips: [], marks: [] },
    lateness: { mean: values(), worst: values() },
  });
  t.match(text(pageState({}, { history: nothing })), '|Nothing measured yet.|');
});

t.test('the strip of a session has the chosen time, and words for those who do not see it', async (t) => {
  const label = (span: PageState['span']) =>
    /<svg class="strip"[^>]*aria-label="([^"]*)"/.exec(html(pageState({}, { span })))?.[1];
  t.equal(label('3600'), '10.255.255.255: Up 15m0s, then Down 1m50s, then Up 3m10s');
  t.equal(label('300'), '10.255.255.255: Up 0s, then Down 1m50s, then Up 3m10s');
  const bars = [
    ...html(pageState({}, { span: '300' })).matchAll(/<rect x="([\d.]+)" width="([\d.]+)" class="(\w+)"/g),
  ];
  for (const [, x, width] of bars)
    t.ok(Number(x) >= 0 && Number(x) + Number(width) <= 1000.1, `${x} + ${width}`);
  t.strictSame(bars.at(-1)!.slice(1), ['0.0', '366.7', 'bad'], 'the Down lies above the Up before it');
});

t.test('without a log, without BFD and before the first answer it says so', async (t) => {
  const plain = text(pageState({ translationLog: false, bfdEnabled: false, bfd: undefined }));
  t.match(plain, 'not counted yet, or not by this kernel: see the notes');
  t.match(plain, 'The policy does not use BFD.');
  t.notMatch(plain, 'Top sources');
  t.notMatch(plain, 'Seen outside as');
  const { status: _, ...none } = pageState();
  t.match(text(none), '|veg-agent|');
  t.match(text({ ...none, lost: { since: undefined } }), '|No answer|');
  t.match(text(pageState({}, { lost: { since: NOW } })), '|No answer since 14:03:00 UTC|');
});

t.test('a search shows its count, port blocks, gaps, or its error in place of flows', async (t) => {
  const question = { external: '172.17.0.11' };
  const found = pageState({}, { question });
  t.match(text(found), '|1 translation found.|');
  const translations = {
    ...found.translations!,
    ...{ translations: [], more: true, gaps: [{ from: 'A', to: 'B', lost: 0 }] },
    computed: [
      {
        ...{
          policy: 'web',
          sourceIP: '10.17.0.9',
          externalIP: '172.17.0.11',
          ports: { start: 1024, end: 1087 },
        },
        since: 'S',
      } as never,
    ],
  };
  t.match(
    text(pageState({}, { question, translations })),
    '|0 translations found, the newest; there are more. By its port block: 172.17.0.11 ports 1024-1087 belong to 10.17.0.9 (web), since S. Between A and B some may be missing.|',
  );
  const none = { ...found.translations!, translations: [] };
  t.match(
    text(pageState({}, { question, translations: none })),
    '|0 translations found. The translation log begins at 2026-11-20T08:00:00.000Z.|',
  );
  const failed = text(pageState({}, { question, searchError: 'external must be IP or IP:PORT' }));
  t.match(failed, '|external must be IP or IP:PORT|');
  t.notMatch(failed, '203.0.113.10');
});

t.test('each cell of a stacked table has its heading, and tables keep their roles', async (t) => {
  const markup = html(pageState());
  const cells = [...markup.matchAll(/<td [^>]*>/g)].map(([tag]) => tag);
  t.ok(cells.length > 20);
  t.ok(cells.every((tag) => /role="cell"/.test(tag) && /data-label="[^"]+"/.test(tag)));
  t.equal(markup.match(/<table role="table"/g)?.length, 4);
});

t.test('a group is a section, and without one there is none', async (t) => {
  const page = html(pageState({ group: [groupView()] }));
  for (const text of [
    ...['Group, IPv4', '10.16.0.12', 'this gateway', '1,234 of others', '10.16.0.13', 'not in sync'],
    ...['BFD is not Up, not connected', 'held by this gateway', 'held by 10.16.0.13', 'no holder'],
  ]) {
    t.ok(page.includes(text), text);
  }
  t.notOk(html(pageState()).includes('Shared address'));
});

t.test('BGP is a section, and without it there is none', async (t) => {
  const page = html(pageState({ bgp: bgpView() }));
  for (const text of ['198.51.100.50/32', 'announced', 'withdrawn', '172.17.0.1 AS 65000', 'Established']) {
    t.ok(page.includes(text), text);
  }
  t.match(html(pageState({ bgp: bgpView({ sessions: undefined }) })), /FRR does not answer/);
  t.notOk(html(pageState()).includes('id="bgp"'));
});
