/**
 * The metrics of Kube-OVN's BFD supervisor (recovery.ts), under its names and labels: its alerts keep working.
 */
import type { Registry } from 'prom-client';
import { addScraped, type ScrapedMetric, single } from '../../lib/scraped.ts';
import type { Recovery } from './recovery.ts';

const sessionMetrics = (recovery: Recovery, now: () => number): ScrapedMetric[] => [
  {
    ...{ type: 'gauge', name: 'expected_sessions' },
    help: 'Sessions that the policy asks for.',
    read: () => single(recovery.episodes.length),
  },
  {
    ...{ type: 'gauge', name: 'up_sessions' },
    help: 'Expected sessions that are Up.',
    read: () => single(recovery.episodes.filter(({ state }) => state === 'Up').length),
  },
  {
    ...{ type: 'gauge', name: 'session_zero_seconds' },
    help: 'Time without an expected session that is Up.',
    read: () => single(recovery.zeroSeconds(now())),
  },
];

/** What the recovery did, and the phase of each session. */
const recoveryMetrics = (recovery: Recovery): ScrapedMetric[] => [
  {
    ...{ type: 'counter', name: 'recovery_attempts_total', labels: ['action', 'result'] },
    help: 'Attempts to recover a session that stayed down, by re-sending its configuration.',
    read: () =>
      Object.entries(recovery.attempts).map(([result, value]) => ({
        ...{ labels: { action: 'ReplayConfiguration', result }, value },
      })),
  },
  {
    ...{ type: 'gauge', name: 'recovery_phase', labels: ['local', 'remote', 'phase'] },
    help: '1 for the current phase of a session: Up, Grace, Backoff or CircuitOpen.',
    read: () =>
      recovery.episodes.map(({ local, remote, phase }) => ({ labels: { local, remote, phase }, value: 1 })),
  },
  {
    ...{ type: 'gauge', name: 'circuit_open', labels: ['local', 'remote'] },
    help: '1 while a session is down after every attempt.',
    read: () =>
      recovery.episodes.map(({ local, remote, phase }) => ({
        ...{ labels: { local, remote }, value: Number(phase === 'CircuitOpen') },
      })),
  },
];

/** Metrics of Kube-OVN's child process, which the agent does not have. */
const CHILD_METRICS: ScrapedMetric[] = [
  {
    ...{ type: 'gauge', name: 'child_circuit_open' },
    help: 'Always 0: the agent has no BFD child process that it could give up.',
    read: () => single(0),
  },
  {
    ...{ type: 'counter', name: 'child_restarts_total' },
    help: 'Always 0: the agent has no BFD child process that it could restart.',
    read: () => single(0),
  },
];

/** Adds the metrics. `now` is the clock of the recovery, ms. */
export function addRecoveryMetrics(registry: Registry, recovery: Recovery, now: () => number): void {
  const metrics = [...sessionMetrics(recovery, now), ...CHILD_METRICS, ...recoveryMetrics(recovery)];
  for (const metric of metrics) {
    addScraped(registry, { ...metric, name: `kube_ovn_bfdd_${metric.name}` });
  }
}
