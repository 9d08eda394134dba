import t from 'tap';
import { KEPT_CHANGES, reportNow, SessionHistory } from '../../../agent/show/history.ts';
import type { EngineReport, SessionReport, SessionStateName } from '../../../bfd/intent.ts';

const PEER = { id: 1, local: '10.16.0.12', remote: '10.255.255.255' };

/** A session's report: its state since then, and its changes so far as `from to diagnostic count`. */
function report(
  state: SessionStateName,
  since: number,
  transitions: string[] = [],
  more: Partial<SessionReport> = {},
): { sessions: SessionReport[] } {
  const session = {
    ...{ ...PEER, state, since, localDiagnostic: 0 },
    transitions: transitions.map((text) => {
      const [from, to, diagnostic, count] = text.split(' ');
      return { from, to, diagnostic: Number(diagnostic), count: Number(count) };
    }),
    ...more,
  };
  return { sessions: [session as SessionReport] };
}

const lines = (history: SessionHistory) =>
  history.of(PEER).map(({ at, from, to, diagnostic }) => `${at} ${from} ${to} ${diagnostic}`);

t.test('it begins with the state that the session was in, and adds each change once', async (t) => {
  const history = new SessionHistory();
  t.same(history.of(PEER), []);
  history.observe(report('Down', 100), 150);
  history.observe(report('Down', 100), 160);
  history.observe(report('Init', 200, ['Down Init 0 1']), 201);
  history.observe(report('Up', 300, ['Down Init 0 1', 'Init Up 0 1']), 301);
  history.observe(report('Up', 300, ['Down Init 0 1', 'Init Up 0 1']), 900);
  history.observe(report('Down', 950, ['Down Init 0 1', 'Init Up 0 1', 'Up Down 1 1']), 951);
  t.same(lines(history), ['100 null Down 0', '200 Down Init 0', '300 Init Up 0', '950 Up Down 1']);
});

t.test('changes that come in one report are all told, the last into its state', async (t) => {
  const history = new SessionHistory();
  history.observe(report('Down', 100), 150);
  history.observe(report('Up', 300, ['Init Up 0 1', 'Down Init 0 1']), 301);
  t.same(lines(history).slice(1), ['301 Down Init 0', '300 Init Up 0']);
});

t.test('a session that is another begins anew, and one that is gone is forgotten', async (t) => {
  const history = new SessionHistory();
  history.observe(report('Up', 100, ['Down Up 0 7']), 150);
  history.observe(report('Down', 500, ['Down Up 0 7'], { id: 2, localDiagnostic: 3 }), 501);
  t.same(lines(history), ['500 null Down 3']);
  history.observe({ sessions: [] }, 600);
  t.same(lines(history), []);
});

t.test('of a session that flaps the newest changes are kept', async (t) => {
  const history = new SessionHistory();
  for (let i = 0; i < 200; i++) history.observe(report('Down', i, [`Up Down 1 ${i}`]), i);
  const kept = history.of(PEER);
  t.equal(kept.length, KEPT_CHANGES);
  t.equal(kept.at(-1)!.at, 199);
});

t.test('a report tells times by the wall clock as it goes now', async (t) => {
  const session = { id: 1, since: 1_000_000 };
  const report = { sessions: [session], draining: false } as unknown as EngineReport;
  const at = { wall: 1_010_000, monotonic: 500 };
  const sinceAt = (now: { wall: number; monotonic: number }) => reportNow(report, at, now).sessions[0]!.since;
  t.equal(sinceAt({ wall: 1_011_000, monotonic: 1500 }), 1_000_000);
  t.equal(sinceAt({ wall: 1_011_000 - 600_000, monotonic: 1500 }), 400_000, 'set back since it came');
});
