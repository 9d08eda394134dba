import { Registry } from 'prom-client';
import t from 'tap';
import { Recovery, supervisorStatus } from '../../../agent/kube-ovn/recovery.ts';
import { addRecoveryMetrics } from '../../../agent/kube-ovn/recovery-metrics.ts';
import type { EngineReport, PeerIntent, SessionStateName } from '../../../bfd/intent.ts';

const MINUTE = 60_000;

const peer = (remote: string, interval = 100_000, detectMult = 5): PeerIntent => ({
  local: '10.16.0.12',
  remote,
  desiredMinTx: interval,
  requiredMinRx: interval,
  detectMult,
  role: 'passive',
  minTTL: 254,
  multihop: false,
  adoptDiscriminator: true,
});

const report = (states: Record<string, SessionStateName>, draining = false): EngineReport =>
  ({
    sessions: Object.entries(states).map(([remote, state]) => ({ local: '10.16.0.12', remote, state })),
    discards: {},
    draining,
  }) as unknown as EngineReport;

/** A recovery of one session, and what it does at each minute while the session is in a state. */
function watched(state: SessionStateName | 'missing', minutes: number[]) {
  const recovery = new Recovery();
  recovery.expect([peer('10.255.255.255')]);
  const states = state === 'missing' ? {} : { '10.255.255.255': state };
  const seen = minutes.map((minute) => {
    const due = recovery.observe(report(states), minute * MINUTE);
    for (const episode of due) recovery.finished(episode, undefined);
    const [{ phase, attempts } = { phase: '', attempts: 0 }] = recovery.episodes;
    return `${minute} ${phase} ${attempts}${due.length > 0 ? ' replay' : ''}`;
  });
  return { recovery, seen };
}

for (const state of ['Down', 'Init', 'AdminDown', 'missing'] as const) {
  t.test(`a session that is ${state} is replayed after a minute, then ever more rarely`, async (t) => {
    t.same(watched(state, [0, 0.9, 1, 1.9, 2, 6.9, 7, 36, 37, 96, 97]).seen, [
      '0 Grace 0',
      '0.9 Grace 0',
      '1 Backoff 1 replay',
      '1.9 Backoff 1',
      '2 Backoff 2 replay',
      '6.9 Backoff 2',
      '7 Backoff 3 replay',
      '36 Backoff 3',
      '37 CircuitOpen 4 replay',
      '96 CircuitOpen 4',
      '97 CircuitOpen 5 replay',
    ]);
  });
}

t.test('a session that is Up is left alone', async (t) => {
  const { recovery, seen } = watched('Up', [0, 1, 60]);
  t.same(seen, ['0 Up 0', '1 Up 0', '60 Up 0']);
  t.ok(recovery.ready);
});

t.test('an attempt is reported until the session has been Up for a minute', async (t) => {
  const { recovery } = watched('Down', [0, 1]);
  const up = report({ '10.255.255.255': 'Up' });
  const told = () => recovery.episodes.map(({ attempts, lastAction }) => `${attempts} ${lastAction}`);
  recovery.observe(up, 1.1 * MINUTE);
  t.same(told(), ['1 ReplayConfiguration']);
  recovery.observe(up, 2.1 * MINUTE);
  t.same(told(), ['0 None']);
  t.same(recovery.observe(report({}), 2.2 * MINUTE), [], 'a new failure has its own grace period');
});

t.test('grace is ten detection times where those are long', async (t) => {
  const recovery = new Recovery();
  recovery.expect([peer('10.255.255.255', 10_000_000, 3)]);
  const due = (minute: number) => recovery.observe(report({}), minute * MINUTE).length;
  t.same([0, 4.9, 5].map(due), [0, 0, 1]);
});

t.test('a drain is no failure', async (t) => {
  const recovery = new Recovery();
  recovery.expect([peer('10.255.255.255')]);
  const draining = report({ '10.255.255.255': 'AdminDown' }, true);
  t.same([recovery.observe(draining, 0), recovery.observe(draining, 5 * MINUTE)], [[], []]);
});

t.test('a policy that changes keeps the account of the sessions that stay', async (t) => {
  const { recovery } = watched('Down', [0, 1]);
  recovery.expect([peer('10.255.255.255'), peer('10.255.255.254')]);
  t.same(
    recovery.episodes.map(({ remote, attempts }) => `${remote} ${attempts}`),
    ['10.255.255.255 1', '10.255.255.254 0'],
  );
});

t.test('status has the fields of Kube-OVN’s supervisor', async (t) => {
  const { recovery } = watched('Down', [0, 1]);
  const at = Date.UTC(2026, 7, 1);
  t.same(supervisorStatus(recovery, true, MINUTE, at), {
    Live: true,
    Ready: false,
    Sessions: [
      {
        Pair: { Local: '10.16.0.12', Remote: '10.255.255.255' },
        State: 'Down',
        Phase: 'Backoff',
        Attempts: 1,
        LastAction: 'ReplayConfiguration',
        LastResult: 'success',
        NextRetry: '2026-08-01T00:01:00.000Z',
      },
    ],
    ControlFailures: 0,
    LastControlError: '',
    ChildRestarts: 0,
    ChildRecoveryAttempts: 0,
    ChildNextRetry: '0001-01-01T00:00:00Z',
    ChildCircuitOpen: false,
  });
  recovery.observe(report({ '10.255.255.255': 'Up' }), MINUTE);
  t.match(supervisorStatus(recovery, true, MINUTE, at), { Live: true, Ready: true });
  t.match(supervisorStatus(recovery, false, MINUTE, at), { Live: false, Ready: false });
  t.match(supervisorStatus(new Recovery(), true, 0, at), { Ready: false, Sessions: [] }, 'none expected');
});

t.test('the metrics of Kube-OVN’s supervisor', async (t) => {
  const { recovery } = watched('Down', [0, 1, 2, 7, 37]);
  const [episode] = recovery.observe(report({}), 97 * MINUTE);
  recovery.finished(episode!, 'the BFD process does not answer');
  const registry = new Registry();
  addRecoveryMetrics(registry, recovery, () => 98 * MINUTE);
  const lines = (await registry.metrics()).split('\n').filter((line) => line.startsWith('kube_ovn_bfdd_'));
  t.same(lines, [
    'kube_ovn_bfdd_expected_sessions 1',
    'kube_ovn_bfdd_up_sessions 0',
    `kube_ovn_bfdd_session_zero_seconds ${98 * 60}`,
    'kube_ovn_bfdd_child_circuit_open 0',
    'kube_ovn_bfdd_child_restarts_total 0',
    'kube_ovn_bfdd_recovery_attempts_total{action="ReplayConfiguration",result="success"} 4',
    'kube_ovn_bfdd_recovery_attempts_total{action="ReplayConfiguration",result="error"} 1',
    'kube_ovn_bfdd_recovery_phase{local="10.16.0.12",remote="10.255.255.255",phase="CircuitOpen"} 1',
    'kube_ovn_bfdd_circuit_open{local="10.16.0.12",remote="10.255.255.255"} 1',
  ]);
  recovery.observe(report({ '10.255.255.255': 'Up' }), 98 * MINUTE);
  t.match(await registry.metrics(), /session_zero_seconds 0\n.*circuit_open\{[^}]*\} 0\n/s);
});
