import t from 'tap';
import { type Facts, KEPT_MARKS, Marks, marksBetween } from '../../../../agent/show/plots/marks.ts';
import { address } from '../../../../lib/prefix.ts';

const session = (counts: Record<string, number>) => ({
  ...{ local: '10.16.0.12', remote: '10.255.255.255' },
  transitions: Object.entries(counts).map(([states, count]) => {
    const [from, to] = states.split(' ') as ['Up', 'Down'];
    return { from, to, diagnostic: 1, count };
  }),
});

const FACTS: Facts = {
  ...{ generation: 1, valid: true, repaired: { rule: 1 }, sessions: [session({ 'Up Down': 1 })] },
  ...{ uplinks: { 4: true, 6: undefined }, draining: false, groups: [] },
};

const texts = (now: Partial<Facts>, before: Partial<Facts> = {}) =>
  marksBetween({ ...FACTS, ...before }, { ...FACTS, ...now }).map(
    ({ kind, text, count }) => `${kind}: ${text} ${count}`,
  );

t.test('what happened is found by comparison', async (t) => {
  t.same(texts({}), []);
  t.same(texts({ generation: 2 }), ['policy: generation 2 1']);
  t.same(texts({ valid: false }), ['policy: invalid input 1']);
  t.same(texts({ repaired: { rule: 3, route: 1 } }), ['repair: repaired rule, route 3']);
  t.same(texts({ draining: true }), ['drain: drain 1']);
  t.same(texts({}, { draining: true }), ['drain: drain ended 1']);
});

t.test('a session that went down and up again between two reports has fallen', async (t) => {
  const sessions = [session({ 'Up Down': 3, 'Down Up': 3, 'Up AdminDown': 1 })];
  t.same(texts({ sessions }), [
    'session: BFD 10.255.255.255 Up → Down 2',
    'session: BFD 10.255.255.255 Up → AdminDown 1',
  ]);
  t.same(texts({ sessions }, { sessions: [] }), [], 'a new session has not');
});

t.test('an uplink is marked when it goes down and when it is up again', async (t) => {
  t.same(texts({ uplinks: { 4: false, 6: false } }), [
    'uplink: IPv4 uplink down 1',
    'uplink: IPv6 uplink down 1',
  ]);
  t.same(texts({}, { uplinks: { 4: false, 6: undefined } }), ['uplink: IPv4 uplink up 1']);
  t.same(texts({ uplinks: { 4: true, 6: true } }), [], 'the first that is known of it is that it works');
  t.same(texts({ uplinks: { 4: undefined, 6: undefined } }), [], 'no longer watched');
});

t.test('a shared address that changes its holder is marked', async (t) => {
  const groups = (holder?: string) => [
    {
      family: 4 as const,
      holders: [{ address: address('172.17.0.50'), ...(holder && { holder: address(holder) }) }],
    },
  ];
  t.same(texts({ groups: groups('10.16.0.12') }), [], 'a new one');
  t.same(texts({ groups: groups('10.16.0.13') }, { groups: groups('10.16.0.12') }), [
    'holder: 172.17.0.50 held by 10.16.0.13 1',
  ]);
  t.same(texts({ groups: groups() }, { groups: groups('10.16.0.12') }), [
    'holder: 172.17.0.50 has no holder 1',
  ]);
});

t.test('what happens again within a minute is one mark', async (t) => {
  const marks = new Marks();
  for (let at = 0; at < 120_000; at += 1000)
    marks.add({ kind: 'repair', text: 'repaired rule', count: 2 }, at);
  t.same(
    marks.all.map(({ at, count }) => [at, count]),
    [
      [0, 120],
      [60_000, 120],
    ],
  );
});

t.test('marks of one kind never remove those of another', async (t) => {
  const marks = new Marks();
  marks.add({ kind: 'policy', text: 'generation 2', count: 1 }, 0);
  for (let i = 0; i < 1000; i++) marks.add({ kind: 'repair', text: `repaired ${i}`, count: 1 }, i);
  t.equal(marks.all.length, KEPT_MARKS + 1);
  t.equal(marks.all[0]!.kind, 'policy');
  t.equal(marks.all.at(-1)!.text, 'repaired 999');
});
