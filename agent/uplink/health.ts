/**
 * Whether the way out works: a state machine for each probed address, and one for each family over everything that can
 * fail there. Pure: `now` is milliseconds of a monotonic clock.
 *
 *              answer                                      obstacle
 *     unknown ────────► answers ◄──────┐            up ◄────────────► down ──┐
 *        │                 │           │ answer      ▲  steady for hold  ▲   │
 *        │ `failures` probes in a row  │             └── undecided ──────┘   │ obstacle
 *        └─────────────────┴──► silent ┘                                 └───┘
 */

/** How a family is probed; times in milliseconds. */
export interface ProbeTiming {
  /** Between two probes of an address that answers. */
  interval: number;
  /** Probes without an answer in a row that mean silence. */
  failures: number;
}

// One probed address ----------------------------------------------------------------------------------------

export interface Path {
  /** `blind`: no probe can be sent from here, so nothing is known. */
  state: 'unknown' | 'answers' | 'silent' | 'blind';
  /** Probes without an answer since the last answer. */
  unanswered: number;
  /** When the outstanding probe was sent. */
  sentAt: number | undefined;
  /** When `expire` is to be called. */
  nextAt: number;
  lastAnswer: number | undefined;
}

/** Probes due within this share of their interval are sent together with what is due now: fewer wakings. */
export const TOGETHER = 1 / 8;

/** The least time before the next try where no probe can be sent, ms. */
const BLIND_RETRY = 1000;

export const createPath = (now: number): Path => ({
  state: 'unknown',
  unanswered: 0,
  sentAt: undefined,
  nextAt: now,
  lastAnswer: undefined,
});

/**
 * How long a probe is waited for, ms; `first`: the one before was answered. The first has a whole interval, and ends when
 * the next would have been due anyway. Those after a lost one come faster, so that `failures` of them are silence no later
 * than `failures` × `interval` after the last answer. (With one or two failures there is room for half an interval each.)
 */
export const probeTimeout = ({ interval, failures }: ProbeTiming, first: boolean): number => {
  if (failures < 3) return interval / 2;
  return first ? interval : (interval * (failures - 2)) / (failures - 1);
};

/**
 * When something is due that may come up to `TOGETHER` of an interval early, at a multiple of the interval. So the probes of
 * all addresses soon have the time of the clock's other periodic work, and share its wakings.
 */
function atMultiple(at: number, interval: number): number {
  // Timers count whole milliseconds: the last one may have come just before its multiple.
  const multiple = Math.floor((at + 1) / interval) * interval;
  return Math.max(multiple, at - interval * TOGETHER);
}

/** `nextAt` has come: the outstanding probe is lost. Call it after all received answers are taken. */
export function expire(path: Path, timing: ProbeTiming): void {
  if (path.sentAt === undefined) return;
  path.sentAt = undefined;
  path.unanswered++;
  if (path.unanswered >= timing.failures) path.state = 'silent';
}

/** A probe was sent. */
export function sent(path: Path, timing: ProbeTiming, now: number): void {
  path.sentAt = now;
  if (path.state === 'blind') path.state = 'unknown';
  const timeout = path.state === 'silent' ? timing.interval : probeTimeout(timing, path.unanswered === 0);
  path.nextAt = timeout === timing.interval ? atMultiple(now + timeout, timeout) : now + timeout;
}

/** A probe could not be sent, for a reason on this end and not in the network. */
export function notSent(path: Path, timing: ProbeTiming, now: number): void {
  // A silent one stays silent: it has not answered.
  if (path.state !== 'silent') path.state = 'blind';
  path.sentAt = undefined;
  path.unanswered = 0;
  path.nextAt = now + Math.max(timing.interval, BLIND_RETRY);
}

/** It has answered, or has proved in another way that it is reachable. */
export function answered(path: Path, timing: ProbeTiming, now: number): void {
  path.nextAt = atMultiple((path.sentAt ?? now) + timing.interval, timing.interval);
  path.state = 'answers';
  path.unanswered = 0;
  path.sentAt = undefined;
  path.lastAnswer = now;
}

// A family ------------------------------------------------------------------------------------------------

/** What was observed of a family: an obstacle, none, or not enough to decide. */
export type Verdict = { obstacle: string | undefined } | 'undecided';

export interface FamilyHealth {
  state: 'undecided' | 'up' | 'down';
  /** Why it is down, or was until now. */
  reason: string | undefined;
  /** When it entered its state. */
  since: number;
  /** While it is down: since when there is no obstacle. */
  steadySince: number | undefined;
  /** How long there has to be no obstacle before it is up again, ms. */
  hold: number;
}

/** How a family comes back. */
export const RECOVERY = {
  /** The longest hold, as a multiple of the first. */
  growth: 64,
  /** Up for this many times the last hold: it does not flap, the next hold is the first again. */
  calm: 10,
} as const;

export const createFamily = (now: number): FamilyHealth => ({
  state: 'undecided',
  reason: undefined,
  since: now,
  steadySince: undefined,
  hold: 0,
});

/**
 * Applies a verdict to a family. `recovery`: the first hold, ms; every time it goes down again soon after it came up,
 * the hold doubles. The first verdict of all needs no hold.
 */
export function applyVerdict(family: FamilyHealth, verdict: Verdict, recovery: number, now: number): void {
  if (verdict === 'undecided') return;
  const { obstacle } = verdict;
  if (obstacle !== undefined) {
    if (family.state === 'up') {
      const calm = now - family.since >= RECOVERY.calm * Math.max(family.hold, recovery);
      family.hold =
        calm || family.hold === 0 ? recovery : Math.min(family.hold * 2, recovery * RECOVERY.growth);
    } else if (family.state === 'undecided') {
      family.hold = recovery;
    }
    if (family.state !== 'down') enter(family, 'down', now);
    family.steadySince = undefined;
    family.reason = obstacle;
    return;
  }
  if (family.state === 'down') family.steadySince ??= now;
  const held = family.state === 'down' && now - (family.steadySince ?? now) < family.hold;
  if (family.state === 'up' || held) return;
  enter(family, 'up', now);
  family.reason = undefined;
}

function enter(family: FamilyHealth, state: FamilyHealth['state'], now: number): void {
  family.state = state;
  family.since = now;
  family.steadySince = undefined;
}

/** When `applyVerdict` has to be called again though nothing happens; undefined: not before something does. */
export const familyDeadline = ({ state, steadySince, hold }: FamilyHealth): number | undefined =>
  state === 'down' && steadySince !== undefined ? steadySince + hold : undefined;

/** Why a family is down, in words. Undefined unless it is. */
export function downReason(family: FamilyHealth, now: number): string | undefined {
  if (family.state !== 'down') return undefined;
  const reason = family.reason ?? '';
  if (family.steadySince === undefined) return reason;
  const left = Math.max(0, family.steadySince + family.hold - now);
  return `${reason}; works again, held down for ${(left / 1000).toFixed(1)} s more`;
}
