import t from 'tap';
import type { PolicyTraffic } from '../../../agent/flows/traffic.ts';
import { grouped, overview, plural, sourceRows, translationRow } from '../../../agent/show/overview.ts';
import { type AgentView, statusDocument } from '../../../agent/show/status.ts';
import type { SessionReport } from '../../../bfd/intent.ts';
import { address } from '../../../lib/prefix.ts';
import { bgpView } from './bgp-view.ts';
import { groupView } from './group-view.ts';

const NOW = Date.parse('2026-11-21T14:03:00Z');

const view = (more: Partial<AgentView> = {}): AgentView => ({
  ...{ version: '1.2.3', startedAt: NOW - 5000, bfdEnabled: false, draining: false },
  policy: {
    ...{ source: '/p', valid: true, name: 'default/gateway1', generation: 1, errors: [], warnings: ['w'] },
  },
  kernel: { inSync: true, families: [], notes: ['k'], failed: [], driftRepaired: {} },
  ...more,
});
const shown = (more: Partial<AgentView> = {}) => overview(statusDocument(view(more), NOW), NOW);

t.test('ready, draining and not ready are three states', async (t) => {
  const { kernel } = view();
  const last = { at: NOW, trigger: 'start' as const, ok: true, changes: 1, durationMs: 31 };
  const synced = { kernel: { ...kernel, last } };
  t.strictSame(shown(synced).state, { severity: 'good', text: 'ready' });
  t.strictSame(shown({ ...synced, draining: true }).state, { severity: 'warn', text: 'draining' });
  t.strictSame(shown().state, { severity: 'bad', text: 'not ready' });
  t.strictSame(shown(synced).kernel.reconcile, {
    ...{ when: '0s ago (start)', result: { severity: 'good', text: '1 change' }, took: '31 ms' },
  });
});

t.test('a family that the kernel refused is not programmed', async (t) => {
  const families = [
    { family: 4 as const, state: 'programmed' as const, source: address('172.17.0.11') },
    { family: 6 as const, state: 'failed' as const },
  ];
  t.strictSame(shown({ kernel: { ...view().kernel, families } }).kernel.families, [
    'IPv4 programmed as 172.17.0.11',
    'IPv6 not programmed',
  ]);
});

t.test('the notes of policy, group, kernel and uplink are one list', async (t) => {
  const group = [groupView({ problem: 'cannot read the credentials of the group: …' })];
  t.strictSame(shown({ group, uplink: { families: [], probes: [], notes: ['u'] } }).notes, [
    { text: 'w', document: 'docs/policy.md#no-effect' },
    {
      text: 'IPv4: cannot read the credentials of the group: …',
      document: 'docs/operations.md#key-and-port-of-a-group',
    },
    { text: 'k', document: 'docs/operations.md#notes' },
    { text: 'u', document: 'docs/operations.md#notes' },
  ]);
});

t.test('an uplink of two families is up, partly up or down', async (t) => {
  const family = (number: 4 | 6, state: 'up' | 'down') => ({
    ...{ family: number, gateway: address('172.17.0.1'), state, reason: null, seconds: 1 },
  });
  const uplink = (...families: ReturnType<typeof family>[]) =>
    shown({ uplink: { families, probes: [], notes: [] } }).uplink.state;
  t.strictSame(uplink(family(4, 'up'), family(6, 'up')), { severity: 'good', text: 'up' });
  t.strictSame(uplink(family(4, 'up'), family(6, 'down')), { severity: 'warn', text: 'partly up' });
  t.strictSame(uplink(family(4, 'down')), { severity: 'bad', text: 'down' });
  t.strictSame(uplink(), { severity: 'idle', text: 'not watched' });
});

t.test('the conntrack table is a warning from 80 % on, and bad from 90 %', async (t) => {
  const conntrack = (entries: number, limit = 1000) =>
    shown({ conntrack: { entries, limit, busiest: [] } }).conntrack;
  t.match(conntrack(799), { state: { severity: 'good', text: '799' }, use: '80 % of 1,000' });
  t.equal(conntrack(800).state.severity, 'warn');
  t.equal(conntrack(900).state.severity, 'bad');
  t.equal(conntrack(1, 262_144).use, 'under 1 % of 262,144');
  t.match(conntrack(12, 0), { state: { severity: 'good' }, limit: undefined, use: 'in the conntrack table' });
  t.match(shown().conntrack.state, { severity: 'idle', text: 'unknown' });
});

t.test('BFD is good with all sessions Up, a warning with some, bad with none', async (t) => {
  const bfd = (...states: SessionReport['state'][]) =>
    shown({
      bfdEnabled: true,
      bfd: {
        sessions: states.map(
          (state): SessionReport =>
            ({
              state,
              local: 'l',
              remote: 'r',
              since: NOW,
              transmitInterval: 1e5,
              detectionTime: 5e5,
            }) as never,
        ),
        ...{ discards: {}, draining: false, lateness: { bounds: [], buckets: [], count: 0, sum: 0 } },
      },
    }).bfd;
  t.strictSame(bfd('Up', 'Up').state, { severity: 'good', text: '2 Up' });
  t.strictSame(bfd('Up', 'Down').state, { severity: 'warn', text: '1 Up' });
  t.strictSame(bfd('Down').state, { severity: 'bad', text: '0 Up' });
  t.strictSame(shown().bfd.state, { severity: 'idle', text: 'not used' });
  t.strictSame(
    bfd('Up', 'AdminDown').sessions.map(({ state, timers }) => [state.severity, timers]),
    [
      ['good', { transmit: 100, detection: 500 }],
      ['idle', undefined],
    ],
  );
});

t.test('changes of state are listed the newest first, also within one millisecond', async (t) => {
  const history = [
    { at: NOW - 5, from: 'AdminDown' as const, to: 'Down' as const, diagnostic: 0 },
    { at: NOW, from: 'Down' as const, to: 'Init' as const, diagnostic: 0 },
    { at: NOW, from: 'Init' as const, to: 'Up' as const, diagnostic: 0 },
  ];
  const session = { state: 'Up', local: 'l', remote: 'r', since: NOW } as SessionReport;
  const { changes } = shown({
    ...{ bfdEnabled: true, historyOf: () => history },
    bfd: {
      ...{ sessions: [session], discards: {}, draining: false },
      lateness: { bounds: [], buckets: [], count: 0, sum: 0 },
    },
  }).bfd;
  t.strictSame(
    changes.map(({ from, to }) => `${from} ${to.text}`),
    ['Init → Up', 'Down → Init', 'AdminDown → Down'],
  );
});

t.test('sources are ranked by bytes or by connections', async (t) => {
  const source = (address: string, connections: number, out: number) => ({
    ...{ address, connections, bytes: { out, in: 0 } },
  });
  const sources = [source('a', 1, 9), source('b', 5, 1), source('c', 3, 3)];
  const ranked = (order: 'bytes' | 'connections') =>
    sourceRows({ schemaVersion: 'v1', sources, total: 3 }, order, 2).map(({ address }) => address);
  t.strictSame(ranked('bytes'), ['a', 'c']);
  t.strictSame(ranked('connections'), ['b', 'c']);
});

t.test(
  'a translation shows the destination that it reached, and no address of its own when forwarded',
  async (t) => {
    const flow = {
      ...{ zone: 0, addressFamily: 'ipv4' as const, protocol: 'other', protocolNumber: 47, natType: [] },
      ...{ policy: '', verdict: 'forwarded' as const, startTime: '2026-11-21T14:02:58.112Z', duration: 1.9 },
      original: { sourceIP: '10.17.0.9', destinationIP: '172.17.0.11' },
      translated: { sourceIP: '10.17.0.9', destinationIP: '10.18.0.9' },
    };
    t.match(translationRow(flow), {
      ...{ protocol: '47', from: '10.17.0.9', seen: 'itself', to: '172.17.0.11 → 10.18.0.9', lasted: 'open' },
      ...{ policy: 'the gateway itself', sent: '–' },
    });
    t.equal(translationRow({ ...flow, endTime: '2026-11-21T14:03:00.000Z' }).lasted, '1s');
  },
);

t.test('a policy that was removed is marked, and so is one that treated its sources otherwise', async (t) => {
  const carried = (policy: string, treatment: 'snat' | 'forward'): PolicyTraffic => ({
    ...{ policy, treatment, open: 0, connections: 3, packets: { out: 9, in: 8 }, bytes: { out: 90, in: 80 } },
  });
  const rules = [{ name: 'web', snat: true, ipBlocks: [] }];
  const traffic = [
    ...['web', 'old', 'default', ''].map((policy) => carried(policy, 'snat')),
    carried('web', 'forward'),
  ];
  const { policies } = shown({ policy: { ...view().policy, rules }, traffic });
  t.strictSame(
    policies.map(({ policy, treatment, sources }) => [policy, treatment, sources]),
    [
      ['web', 'translated', 'any source'],
      ['old (removed)', 'translated', 'no longer in the policy'],
      ['default', 'translated', 'sources without a policy'],
      ['the gateway itself', 'translated', 'probes, metrics'],
      ['web (removed)', 'forwarded', 'no longer in the policy'],
    ],
  );
});

t.test('counts are grouped, and have their noun in the right number', async (t) => {
  t.strictSame([0, 999, 1000, 1_234_567].map(grouped), ['0', '999', '1,000', '1,234,567']);
  t.strictSame(
    [plural(1, 'session'), plural(0, 'session'), plural(1200, 'session')],
    [...['1 session', '0 sessions', '1,200 sessions']],
  );
});

t.test('a group has its members, what is wrong with each, and the holder of each address', async (t) => {
  const [group, ...others] = shown({ group: [groupView()] }).group;
  t.same(others, []);
  t.match(group, {
    ...{ family: 'IPv4', self: '10.16.0.12', state: { severity: 'good', text: 'live' } },
    ...{ ports: 'ports 49408–53439', flows: '1 flow', replicas: '1,234 of others' },
  });
  t.same(group?.members, [
    { member: '10.16.0.13', state: { severity: 'good', text: 'live' }, flows: '7 flows', troubles: [] },
    {
      ...{ member: '10.16.0.14', state: { severity: 'bad', text: 'unreachable' }, flows: '0 flows' },
      troubles: ['BFD is not Up', 'not connected'],
    },
    {
      ...{ member: '10.16.0.15', state: { severity: 'warn', text: 'joining' }, flows: '2 flows' },
      troubles: ['not in sync'],
    },
  ]);
  t.same(group?.addresses, [
    { address: '172.17.0.50', holder: { severity: 'good', text: 'held by this gateway' } },
    { address: '172.17.0.51', holder: { severity: 'good', text: 'held by 10.16.0.13' } },
    { address: '172.17.0.52', holder: { severity: 'bad', text: 'no holder' } },
  ]);
  t.same(shown().group, [], 'without a group there is none');
});

t.test('a member that is not live is a warning', async (t) => {
  for (const state of ['joining', 'draining'] as const) {
    t.same(shown({ group: [groupView({ state })] }).group[0]?.state, { severity: 'warn', text: state });
  }
});

t.test('BGP has each prefix and each session with its state', async (t) => {
  t.same(shown({ bgp: bgpView() }).bgp, {
    prefixes: [
      {
        ...{ prefix: '198.51.100.50/32', reasons: 'egressIPs, eips' },
        state: { severity: 'good', text: 'announced' },
      },
      { prefix: 'fd00:10:18::/64', reasons: 'forwarded', state: { severity: 'warn', text: 'withdrawn' } },
    ],
    sessions: [
      {
        ...{ router: '172.17.0.1 AS 65000', age: '1m1s', sent: '1 prefix' },
        state: { severity: 'good', text: 'Established' },
      },
      {
        ...{ router: 'fd00:172:17::1 AS 65000', age: '3s', sent: '0 prefixes' },
        state: { severity: 'bad', text: 'Active' },
      },
    ],
  });
  t.equal(shown().bgp, undefined, 'without BGP there is none');
});
