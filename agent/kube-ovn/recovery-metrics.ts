/**
 * The metrics of Kube-OVN's BFD supervisor (recovery.ts), under its names and labels: its alerts keep working.
 */
import { Counter, Gauge, type Registry } from 'prom-client';
import type { Recovery } from './recovery.ts';

/** Adds the metrics. `now` is the clock of the recovery, ms. */
export function addRecoveryMetrics(registry: Registry, recovery: Recovery, now: () => number): void {
  const registers = [registry];
  const name = (rest: string) => `kube_ovn_bfdd_${rest}`;
  const gauge = (rest: string, help: string, read: () => number) =>
    new Gauge({
      name: name(rest),
      help,
      registers,
      collect() {
        this.set(read());
      },
    });
  gauge('expected_sessions', 'Sessions that the policy asks for.', () => recovery.episodes.length);
  gauge(
    'up_sessions',
    'Expected sessions that are Up.',
    () => recovery.episodes.filter(({ state }) => state === 'Up').length,
  );
  gauge('session_zero_seconds', 'How long no expected session has been Up.', () =>
    recovery.zeroSeconds(now()),
  );
  gauge('child_circuit_open', 'Always 0: there is no BFD child process that could be given up.', () => 0);
  new Counter({
    name: name('child_restarts_total'),
    help: 'Always 0: there is no BFD child process that could be restarted.',
    registers,
  });
  new Counter({
    name: name('recovery_attempts_total'),
    help: 'How often the configuration of a session that stayed down was put in force again.',
    labelNames: ['action', 'result'],
    registers,
    collect() {
      this.reset();
      for (const [result, count] of Object.entries(recovery.attempts)) {
        this.inc({ action: 'ReplayConfiguration', result }, count);
      }
    },
  });
  new Gauge({
    name: name('recovery_phase'),
    help: '1 for the phase that a session is in: Up, Grace, Backoff or CircuitOpen.',
    labelNames: ['local', 'remote', 'phase'],
    registers,
    collect() {
      this.reset();
      for (const { local, remote, phase } of recovery.episodes) this.set({ local, remote, phase }, 1);
    },
  });
  new Gauge({
    name: name('circuit_open'),
    help: '1 while a session stayed down after every attempt.',
    labelNames: ['local', 'remote'],
    registers,
    collect() {
      this.reset();
      for (const { local, remote, phase } of recovery.episodes) {
        this.set({ local, remote }, Number(phase === 'CircuitOpen'));
      }
    },
  });
}
