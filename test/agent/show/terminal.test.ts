import xterm from '@xterm/headless';
import stringWidth from 'string-width';
import t from 'tap';
import { drawn } from '../../../agent/commands/watch-screen.ts';
import { type AgentView, statusDocument } from '../../../agent/show/status.ts';
import { awayView, FIRST_VIEW, terminalView, type Watched } from '../../../agent/show/terminal.ts';
import type { SessionReport } from '../../../bfd/intent.ts';
import { prefix } from '../../../lib/prefix.ts';
import { groupView } from './group-view.ts';
import { historyDocument } from './plots/history-document.ts';

const NOW = Date.parse('2026-11-21T14:03:00Z');
const SCREEN = { columns: 120, rows: 40, colours: false };
const MINUTE = 60_000;

const session = { local: '10.16.0.12', remote: '10.255.255.255', state: 'Up', since: NOW - 190_000 };
const volume = { connections: 340, packets: { out: 900, in: 800 }, bytes: { out: 1_200_000, in: 90 } };
const view: AgentView = {
  version: '1.2.3',
  node: 'worker-1',
  pod: 'default/gateway1-abc',
  startedAt: NOW - 3_700_000,
  policy: {
    ...{ source: '/p', valid: true, name: 'default/gateway1', generation: 3, errors: [], warnings: [] },
    lastChange: NOW - MINUTE,
    rules: [
      { name: 'web', snat: true, ipBlocks: [prefix('10.17.0.0/16')] },
      { name: 'legacy', snat: false, ipBlocks: [] },
    ],
  },
  kernel: {
    ...{
      inSync: true,
      families: [{ family: 4, state: 'programmed' }],
      notes: [],
      failed: [],
      driftRepaired: { rule: 2 },
    },
    last: { at: NOW - 5000, trigger: 'policy', ok: true, changes: 2, durationMs: 31 },
  },
  historyOf: () => [
    { at: NOW - 20 * MINUTE, from: null, to: 'Up', diagnostic: 0 },
    { at: NOW - 5 * MINUTE, from: 'Up', to: 'Down', diagnostic: 1 },
    { at: NOW - 190_000, from: 'Down', to: 'Up', diagnostic: 0 },
  ],
  conntrack: { entries: 12, limit: 1000, busiest: [] },
  translationLog: true,
  traffic: [{ ...volume, policy: 'web', treatment: 'snat', open: 12, rates: volume }],
  bfdEnabled: true,
  bfd: {
    sessions: [{ ...session, transmitInterval: 100_000, detectionTime: 500_000 } as SessionReport],
    ...{ discards: {}, draining: false, lateness: { bounds: [], buckets: [], count: 0, sum: 0 } },
  },
  draining: false,
};

/** Names with characters that take two cells. */
const WIDE: Partial<AgentView> = {
  policy: {
    ...view.policy,
    warnings: ['メモ 🚀 注意'],
    rules: [{ name: '東京オフィス🏢', snat: true, ipBlocks: [] }, ...view.policy.rules!],
  },
  traffic: [{ ...volume, policy: '東京オフィス🏢', treatment: 'snat', open: 12, rates: volume }],
};

const flow = {
  ...{
    zone: 0,
    addressFamily: 'ipv4' as const,
    protocol: 'tcp',
    protocolNumber: 6,
    natType: ['snat' as const],
  },
  original: { sourceIP: '10.17.0.9', sourcePort: 4213, destinationIP: '203.0.113.10', destinationPort: 443 },
  translated: {
    sourceIP: '172.17.0.11',
    sourcePort: 3944,
    destinationIP: '203.0.113.10',
    destinationPort: 443,
  },
  ...{ policy: 'web', verdict: 'translated' as const, startTime: '2026-11-21T14:02:58.112Z', duration: 1.9 },
};

const LOG = { enabled: true, since: '2026-11-20T08:00:00.000Z', covers: 'all' as const };

const watched = (more: Partial<AgentView> = {}, rest: Partial<Watched> = {}): Watched => ({
  status: statusDocument({ ...view, ...more }, NOW),
  sources: {
    schemaVersion: 'v1',
    sources: [{ address: '10.17.0.9', connections: 12, bytes: { out: 1000, in: 2000 } }],
    total: 1,
  },
  translations: { schemaVersion: 'v1', translations: Array(50).fill(flow), more: true, gaps: [], log: LOG },
  ...rest,
});

t.test('it shows what the page shows', async (t) => {
  const lines = terminalView(watched(), NOW, SCREEN);
  t.equal(lines.length, 40, 'translations take the rows that are left');
  const text = lines.join('\n');
  t.match(lines[0], /^default\/gateway1 {2}● ready +14:03:00 UTC$/);
  t.equal(lines[0]!.length, 120);
  t.match(text, 'default/gateway1-abc on worker-1 · veg-agent 1.2.3 · up 1h1m');
  t.match(text, 'policy   valid, generation 3, changed 1m0s ago');
  t.match(text, 'kernel   in sync, IPv4 programmed, checked 5s ago (policy), drift repaired: 2 rule');
  t.match(text, 'tracked  12 of 1,000 connections');
  t.match(text, /● Up +3m10s +10\.255\.255\.255 +10\.16\.0\.12 +100\/500 +█+▁+█+$/m);
  t.match(text, /13:58:00 {2}10\.255\.255\.255 {2}Up → Down {2}Control Detection Time Expired/);
  t.match(text, /web +translated +340 +1\.20 MB +90 B +900 +800 +12 +340 +1\.20 MB +90 B/);
  t.match(text, /legacy +forwarded +– +–/);
  t.match(text, /10\.17\.0\.9 +12 +1\.00 kB +2\.00 kB/);
  t.match(text, /14:02:58 +open +tcp +10\.17\.0\.9:4213 +172\.17\.0\.11:3944 +203\.0\.113\.10:443 +web/);
  t.notMatch(text, /\x1b/);
});

/** What a terminal of this size shows of a frame. */
async function onTerminal(lines: readonly string[], columns: number, rows: number): Promise<string[]> {
  const terminal = new xterm.Terminal({ cols: columns, rows, allowProposedApi: true });
  // As many terminals do it, a wide character takes two cells.
  await new Promise<void>((resolve) => terminal.write(`\x1b[?7l${drawn(lines)}`, resolve));
  const { active } = terminal.buffer;
  return Array.from({ length: rows }, (_, i) => active.getLine(i)!.translateToString(true));
}

const plain = (text: string): string => text.replace(/\x1b\[\d+m/g, '');

const history = historyDocument(NOW);

t.test('plots have their newest and largest value, an axis with marks, and the marks in words', async (t) => {
  const lines = terminalView(watched({}, { history }), NOW, { ...SCREEN, rows: 50 });
  const at = lines.findIndex((line) => line.startsWith('plots'));
  t.match(lines[at], /^plots {4}5 minutes, all policies, keys: 5 minutes, h hour/);
  const cells = (line: string) =>
    line
      .slice(2)
      .match(/.{1,38}(?: {2}|$)/g)!
      .map((text) => text.trim());
  t.match(cells(lines[at + 1]!), [
    /^Out of the VPC +12\.0 kB\/s max 18\.0 kB\/s$/,
    /^Into the VPC +120 B\/s max 180 B\/s$/,
    /^New connections +6\/s max 9\/s$/,
  ]);
  t.match(cells(lines[at + 6]!), [
    /^Open connections +30 max 30$/,
    /^BFD lateness +2 ms max 2 ms$/,
    /^Uplink/,
  ]);
  t.match(lines[at + 4], /^ {2}\S+⣷?\S+ /u);
  t.match(lines[at + 5], /^ {2}─+A─+R─+ {2}─+A─+R─+ {2}─+A─+R─+$/);
  t.match(lines.join('\n'), /R 14:02:40 repaired rule \(3 times\) · A 13:59:40 agent started/);
});

t.test('a policy is chosen, and the plots alone take the whole screen', async (t) => {
  const text = (policy: string | undefined, alone: boolean) =>
    terminalView(watched({}, { history }), NOW, SCREEN, { ...FIRST_VIEW, policy, alone }).join('\n');
  t.match(text('batch', false), /Out of the VPC +2\.00 kB\/s max 3\.00 kB\/s/);
  t.match(text('others', false), /5 minutes, others,.*\n.*Out of the VPC +6\.00 kB\/s max 9\.00 kB\/s/);
  const alone = text(undefined, true);
  t.match(alone, /● ready/);
  t.notMatch(alone, 'drift repaired');
  t.ok((alone.match(/^ {2}[\u2800-\u28ff]/gm)?.length ?? 0) >= 16, 'they are higher');
  t.match(text('gone', false), /Out of the VPC +– max 0 B\/s/);
});

t.test('plots that do not fit are named, and an agent without plots has none', async (t) => {
  const small = { columns: 80, rows: 24, colours: false };
  t.match(
    terminalView(watched({}, { history }), NOW, { ...SCREEN, columns: 60 }).join('\n'),
    /^ {2}not shown: /m,
  );
  const alone = terminalView(watched({}, { history }), NOW, small, { ...FIRST_VIEW, alone: true }).join('\n');
  for (const title of ['Out of', 'Into', 'New conn', 'Open', 'BFD lateness', 'Uplink']) t.match(alone, title);
  t.match(terminalView(watched({}, { history }), NOW, small).join('\n'), /^plots +tab shows them alone$/m);
  t.notMatch(terminalView(watched(), NOW, SCREEN).join('\n'), /^plots/m);
});

t.test('whatever the size of the terminal, no line and no frame is larger', async (t) => {
  for (const columns of [1, 20, 40, 60, 80, 110, 200]) {
    for (const rows of [1, 5, 12, 24, 60]) {
      for (const colours of [false, true]) {
        for (const alone of [false, true]) {
          const shown = watched(WIDE, { history });
          const lines = terminalView(shown, NOW, { columns, rows, colours }, { ...FIRST_VIEW, alone });
          t.ok(lines.length <= rows, `${rows} rows`);
          const widest = Math.max(...lines.map((line) => stringWidth(line)));
          t.ok(widest <= Math.max(2, columns), `${columns} columns`);
        }
      }
    }
  }
});

t.test(
  'at 60, 80, 110 and 200 columns everything that matters is on the screen, wide characters too',
  async (t) => {
    for (const columns of [60, 80, 110, 200]) {
      for (const colours of [false, true]) {
        const screen = { columns, rows: 60, colours };
        const lines = terminalView(watched(WIDE), NOW, screen);
        const shown = await onTerminal(lines, columns, screen.rows);
        t.strictSame(
          shown.slice(0, lines.length),
          lines.map((line) => plain(line).trimEnd()),
          `${columns}: no cell is lost`,
        );
        const text = shown.join('\n');
        const words = shown.join(' ').replace(/\s+/g, ' ');
        for (const fact of [
          ...['● ready', 'generation 3', 'in sync', 'drift repaired: 2 rule', '12 of 1,000 connections'],
          ...['10.255.255.255', 'Up → Down', 'Control Detection Time Expired', 'メモ 🚀 注意'],
          ...['10.17.0.9:4213', '172.17.0.11:3944', '203.0.113.10:443'],
        ]) {
          t.match(words, fact, `${columns} columns`);
        }
        t.match(text, /● Up +3m10s +10\.255\.255\.255/);
        t.match(text, /東京オフィス🏢.* 340 +(900 +800 +)?1\.20 MB +90 B/, 'the rates of a policy');
        t.match(text, /10\.17\.0\.9 +12 +1\.00 kB +2\.00 kB/);
      }
    }
  },
);

t.test('columns that do not fit are named, and how many columns show them', async (t) => {
  const at = (columns: number) => terminalView(watched(), NOW, { ...SCREEN, columns }).join('\n');
  t.notMatch(at(110), 'hidden');
  t.match(at(80), 'hidden at 80 columns: PKT OUT/S, PKT IN/S; 95 columns show all');
  const narrow = at(60).replace(/\s+/g, ' ');
  t.match(narrow, 'hidden at 60 columns: LOCAL, LAST 10 MINUTES; 77 columns show all');
  t.match(narrow, /hidden at 60 columns: ACTION, PKT OUT\/S, PKT IN\/S, CONNS; 95 columns show all/);
  t.match(at(95), /PKT OUT\/S/);
  t.notMatch(at(94), / PKT OUT\/S +PKT IN\/S/);
});

t.test('addresses of IPv6 that do not fit side by side are listed, whole', async (t) => {
  const endpoints = { sourceIP: 'fd00:10:17::a:9', destinationIP: '2001:db8:1:2:3:4:5:6' };
  const long = {
    ...flow,
    original: { ...endpoints, sourcePort: 4213, destinationPort: 443 },
    translated: { ...endpoints, sourceIP: 'fd00:172:17::11', sourcePort: 3944, destinationPort: 443 },
  };
  const translations = {
    schemaVersion: 'v1' as const,
    translations: [long, long],
    more: false,
    gaps: [],
    log: LOG,
  };
  const text = terminalView(watched({}, { translations }), NOW, { ...SCREEN, columns: 60 }).join('\n');
  t.match(text, /FROM \[fd00:10:17::a:9\]:4213$/m);
  t.match(text, 'SEEN AS [fd00:172:17::11]:3944');
  t.match(text, 'TO [2001:db8:1:2:3:4:5:6]:443');
  t.match(text, /POLICY web\s+SENT –\s+RECEIVED –$/m, 'nothing is left out');
});

t.test('a screen that is too low says how many lines are below', async (t) => {
  const whole = terminalView({ status: watched().status }, NOW, SCREEN);
  const cut = terminalView({ status: watched().status }, NOW, { ...SCREEN, rows: 8 });
  t.strictSame(cut.slice(0, 7), whole.slice(0, 7));
  t.match(cut[7], /^… \d+ more lines below$/);
});

t.test('reasons come first, and a state can be read without its colour', async (t) => {
  const [first, , reason, ...below] = terminalView(
    watched({ draining: true, bfd: { ...view.bfd!, sessions: [] } }),
    NOW,
    SCREEN,
  );
  t.match(first, '◐ draining');
  t.match(reason, '▲ draining');
  t.match(below.join('\n'), /^ {4}see docs\/operations\.md#draining, docs\/operations\.md#no-session-up$/m);
  const down = { ...session, state: 'Down' } as SessionReport;
  const text = terminalView(watched({ bfd: { ...view.bfd!, sessions: [down] } }), NOW, SCREEN).join('\n');
  t.match(text, '▲ not ready');
  t.match(text, '▲ Down');
});

t.test('text from outside cannot steer the terminal', async (t) => {
  const text = terminalView(watched({ pod: 'evil\x1b[2J\x07\u009b31m' }), NOW, {
    ...SCREEN,
    colours: true,
  }).join('');
  t.notMatch(text, /\x1b\[2J|\x07|\u009b/);
  t.match(text, 'evil\u{fffd}[2J');
});

t.test('without a log it says so, and without BFD', async (t) => {
  const { status } = watched({ translationLog: false, traffic: undefined, bfdEnabled: false });
  const text = terminalView({ status }, NOW, SCREEN).join('\n');
  t.match(text, 'traffic is not counted yet, or not by this kernel');
  t.match(text, /^bfd +not used$/m);
  t.notMatch(text, 'TOP SOURCES');
});

t.test('while there is no agent it says why, in the width that there is', async (t) => {
  const lines = awayView('no agent answers on /run/veg-agent/control.sock', { ...SCREEN, columns: 30 });
  t.equal(lines[0], '▲ no agent');
  t.ok(lines.length > 2);
  t.ok(lines.every((line) => line.length <= 30));
});

t.test('a line is cleared before it is written, so that its last column stays', async (t) => {
  const text = drawn(['one', 'two']);
  t.equal(text, '\x1b[H\x1b[Kone\r\n\x1b[Jtwo');
});

t.test('a group has a line for each member and each shared address', async (t) => {
  const status = statusDocument({ ...view, group: [groupView()] }, NOW);
  const lines = terminalView({ status }, NOW, SCREEN);
  const at = lines.findIndex((line) => line.startsWith('group'));
  t.same(lines.slice(at, at + 7), [
    'group    IPv4 live as 10.16.0.12, ports 49408–53439, 1 flow, 1,234 of others',
    '         ● live 10.16.0.13, 7 flows',
    '         ▲ unreachable 10.16.0.14, 0 flows, BFD is not Up, not connected',
    '         ◐ joining 10.16.0.15, 2 flows, not in sync',
    '         172.17.0.50 held by this gateway',
    '         172.17.0.51 held by 10.16.0.13',
    '         172.17.0.52 no holder',
  ]);
  const narrow = terminalView({ status }, NOW, { ...SCREEN, columns: 40 });
  t.notOk(narrow.some((line) => stringWidth(line) > 40));
});

t.test(
  'what is not known yet has no line: the last check of the kernel, and the conntrack table',
  async (t) => {
    const { last, ...kernel } = view.kernel;
    const text = (more: Partial<AgentView>) =>
      terminalView({ status: watched(more).status }, NOW, SCREEN).join('\n');
    const unchecked = text({ kernel });
    t.match(unchecked, /^kernel +in sync, IPv4 programmed, drift repaired: 2 rule$/m);
    t.match(unchecked, /^tracked /m);
    const uncounted = text({ conntrack: undefined });
    t.notMatch(uncounted, 'tracked');
    t.match(uncounted, 'checked 5s ago (policy)');
  },
);
