// The views as HTML, without a browser.
import { render } from 'preact-render-to-string';
import t from 'tap';
import type { TranslationRecord } from '../../../../../agent/flows/translations-query.ts';
import { overview } from '../../../../../agent/show/overview.ts';
import { app, titleOf } from '../../../../../agent/show/page/browser/app.ts';
import type { Actions, PageState } from '../../../../../agent/show/page/browser/state.ts';
import { type AgentView, statusDocument } from '../../../../../agent/show/status.ts';
import type { SessionReport } from '../../../../../bfd/intent.ts';
import { prefix } from '../../../../../lib/prefix.ts';
import { groupView } from '../../group-view.ts';

const NOW = Date.parse('2026-11-21T14:03:00Z');
const MINUTE = 60_000;

const actions: Actions = { chooseSpan() {}, chooseOrder() {}, search() {}, showNewest() {} };
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
  t.ok(text(state).indexOf('|draining|') < text(state).indexOf('|Policy|'), 'the reason is above the tiles');
  t.equal(titleOf(overview(state.status!, NOW)), '⚠ default/gateway1 · Draining');
  t.equal(titleOf(overview(pageState().status!, NOW)), 'default/gateway1 · Ready');
});

t.test('the strip of a session has the chosen time, and words for those who do not see it', async (t) => {
  const label = (span: PageState['span']) =>
    /<svg[^>]*aria-label="([^"]*)"/.exec(html(pageState({}, { span })))?.[1];
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
  t.match(plain, 'not counted: the policy has no translationLog');
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
