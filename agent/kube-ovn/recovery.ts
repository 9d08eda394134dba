/**
 * Recovery of sessions that stay down, as Kube-OVN's BFD supervisor reports it (its `status`, its metrics), in its
 * words. Pure; session-recovery.ts carries it out.
 *
 * There is little to do: a session that is down because of its peer comes back by itself, stale discriminators included
 * (docs/bfd.md). After a grace period the BFD process gets its configuration again: "ReplayConfiguration". What an
 * operator changed with `bfdd-control`, a block for instance, stays; only a session that was removed altogether comes
 * back, as Kube-OVN's tests expect.
 */
import type { EngineReport, PeerIntent, SessionStateName } from '../../bfd/intent.ts';

export type RecoveryPhase = 'Up' | 'Grace' | 'Backoff' | 'CircuitOpen';

const MINUTE = 60_000;
/** The shortest grace period, and the shortest time Up after which past failures are forgotten, ms. */
const SHORTEST = MINUTE;
/** Grace and stability in detection times. */
const GRACE_DETECTIONS = 10;
const STABLE_DETECTIONS = 2;
/** From one attempt to the next, ms. After as many, the circuit is open: attempts are an hour apart. */
const BACKOFFS = [MINUTE, 5 * MINUTE, 30 * MINUTE];
const CIRCUIT_OPEN = 60 * MINUTE;

/** One expected session. Times in ms of the caller's clock. */
export interface Episode {
  readonly local: string;
  readonly remote: string;
  /** Empty while the session does not exist. */
  state: SessionStateName | '';
  phase: RecoveryPhase;
  attempts: number;
  lastAction: 'None' | 'ReplayConfiguration';
  /** `success`, `in_progress`, or why it failed. */
  lastResult: string;
  /** When the next attempt is due; 0 for none. */
  nextRetry: number;
  /** Since when it is not Up, or Up; undefined otherwise. */
  failingSince: number | undefined;
  stableSince: number | undefined;
  grace: number;
  stable: number;
}

export class Recovery {
  #episodes = new Map<string, Episode>();
  /** Attempts by result, over all sessions. */
  readonly attempts = { success: 0, error: 0 };
  /** Since when no expected session is Up; undefined while one is. */
  #zeroSince: number | undefined;

  /** Takes the expected sessions. Known ones keep their record. */
  expect(peers: readonly PeerIntent[]): void {
    const before = this.#episodes;
    this.#episodes = new Map(
      peers.map(({ local, remote, detectMult, desiredMinTx, requiredMinRx }) => {
        const key = keyOf(local, remote);
        const detection = (detectMult * Math.max(desiredMinTx, requiredMinRx)) / 1000;
        const periods = {
          grace: Math.max(SHORTEST, GRACE_DETECTIONS * detection),
          stable: Math.max(SHORTEST, STABLE_DETECTIONS * detection),
        };
        const fresh: Episode = { local, remote, state: '', ...CLEAN, ...periods };
        return [key, Object.assign(before.get(key) ?? fresh, periods)];
      }),
    );
  }

  /** Takes the state of the sessions. Returns those whose configuration is to be sent again now. */
  observe(report: EngineReport, now: number): Episode[] {
    const states = new Map(report.sessions.map((s) => [keyOf(s.local, s.remote), s.state]));
    for (const [key, episode] of this.#episodes) episode.state = states.get(key) ?? '';
    this.#zeroSince = this.episodes.some(({ state }) => state === 'Up')
      ? undefined
      : (this.#zeroSince ?? now);
    // A drain is no failure.
    return report.draining ? [] : this.episodes.filter((episode) => attemptDue(episode, now));
  }

  /** Takes the result of an attempt: undefined for success. */
  finished(episode: Episode, error: string | undefined): void {
    this.attempts[error === undefined ? 'success' : 'error']++;
    episode.lastResult = error ?? 'success';
  }

  get episodes(): Episode[] {
    return [...this.#episodes.values()];
  }

  /** Every expected session is Up. */
  get ready(): boolean {
    return this.episodes.length > 0 && this.episodes.every(({ state }) => state === 'Up');
  }

  /** How long no expected session has been Up, seconds; 0 while one is, and while none is expected. */
  zeroSeconds(now: number): number {
    return this.episodes.length === 0 || this.#zeroSince === undefined ? 0 : (now - this.#zeroSince) / 1000;
  }
}

const CLEAN = {
  phase: 'Grace',
  attempts: 0,
  lastAction: 'None',
  lastResult: '',
  nextRetry: 0,
  failingSince: undefined,
  stableSince: undefined,
} as const satisfies Partial<Episode>;

const keyOf = (local: string, remote: string): string => `${local} ${remote}`;

/** Advances the record of one session. True when an attempt begins now. */
function attemptDue(episode: Episode, now: number): boolean {
  if (episode.state === 'Up') {
    episode.phase = 'Up';
    episode.stableSince ??= now;
    if (now - episode.stableSince >= episode.stable) {
      Object.assign(episode, CLEAN, { phase: 'Up', stableSince: episode.stableSince });
    }
    return false;
  }
  episode.stableSince = undefined;
  episode.failingSince ??= now;
  const open = episode.attempts > BACKOFFS.length;
  if (now < Math.max(episode.failingSince + episode.grace, episode.nextRetry)) {
    episode.phase = open ? 'CircuitOpen' : episode.attempts > 0 ? 'Backoff' : 'Grace';
    return false;
  }
  const backoff = BACKOFFS[episode.attempts];
  episode.attempts++;
  episode.phase = backoff === undefined ? 'CircuitOpen' : 'Backoff';
  episode.nextRetry = now + (backoff ?? CIRCUIT_OPEN);
  episode.lastAction = 'ReplayConfiguration';
  episode.lastResult = 'in_progress';
  return true;
}

/** Go's zero time. */
const NEVER = '0001-01-01T00:00:00Z';

/**
 * What `kube-ovn-bfdd-supervisor status` prints. `now` and `unixNow` are the same moment, on the clock of the
 * episodes and in Unix ms. The fields about a child process are constant: there is none that could die alone.
 */
export function supervisorStatus(recovery: Recovery, live: boolean, now: number, unixNow: number) {
  return {
    Live: live,
    Ready: live && recovery.ready,
    Sessions: recovery.episodes.map(
      ({ local, remote, state, phase, attempts, lastAction, lastResult, nextRetry }) => ({
        Pair: { Local: local, Remote: remote },
        State: state,
        Phase: phase,
        Attempts: attempts,
        LastAction: lastAction,
        LastResult: lastResult,
        NextRetry: nextRetry === 0 ? NEVER : new Date(unixNow + nextRetry - now).toISOString(),
      }),
    ),
    ControlFailures: 0,
    LastControlError: '',
    ChildRestarts: 0,
    ChildRecoveryAttempts: 0,
    ChildNextRetry: NEVER,
    ChildCircuitOpen: false,
  };
}
