/**
 * Whether the way out works: a state machine for each thing that is probed, and one for each family that gathers
 * what stands in its way. Pure: `now` is milliseconds of a monotonic clock.
 *
 *              answer                                      obstacle
 *     unknown ────────► answers ◄──────┐            up ◄────────────► down ──┐
 *        │                 │           │ answer      ▲  steady for hold  ▲   │
 *        │ `failures` probes in a row  │             └── undecided ──────┘   │ obstacle
 *        └─────────────────┴──► silent ┘                                 └───┘
 */

/** How a family is probed; times in milliseconds. */
export interface ProbeTiming {
  /** Between two probes of something that answers. */
  interval: number;
  /** Probes without an answer in a row that mean silence. */
  failures: number;
}

// One thing that is probed --------------------------------------------------------------------------------

export interface Path {
  /** `blind`: it cannot be probed from here, which says nothing about it. */
  state: 'unknown' | 'answers' | 'silent' | 'blind';
  /** Probes without an answer since the last answer. */
  unanswered: number;
  /** When the probe was sent that waits for its answer. */
  waitingSince: number | undefined;
  /** When `due` is to be called. */
  nextAt: number;
  lastAnswer: number | undefined;
}

/** The least wait before something that cannot be probed is tried again, ms. */
const BLIND_RETRY = 1000;

export const createPath = (now: number): Path => ({
  state: 'unknown',
  unanswered: 0,
  waitingSince: undefined,
  nextAt: now,
  lastAnswer: undefined,
});

/**
 * How long a probe is waited for. After one that stays unanswered the next come faster than `interval`, so that
 * `failures` of them are silence no later than `failures` × `interval` after the last answer. (With one failure
 * there is no room: then half an interval later.)
 */
export const patience = ({ interval, failures }: ProbeTiming): number =>
  interval * (1 - 1 / Math.max(2, failures));

/** `nextAt` has come: a probe that still waits is lost. Call it when all answers that have come are told. */
export function due(path: Path, timing: ProbeTiming): void {
  if (path.waitingSince === undefined) return;
  path.waitingSince = undefined;
  path.unanswered++;
  if (path.unanswered >= timing.failures) path.state = 'silent';
}

/** A probe was sent. */
export function sent(path: Path, timing: ProbeTiming, now: number): void {
  path.waitingSince = now;
  if (path.state === 'blind') path.state = 'unknown';
  path.nextAt = now + (path.state === 'silent' ? timing.interval : patience(timing));
}

/** A probe could not be sent, for a reason that lies with this process and not with the network. */
export function notSent(path: Path, timing: ProbeTiming, now: number): void {
  // What was silent before stays so: nothing has been heard of it.
  if (path.state !== 'silent') path.state = 'blind';
  path.waitingSince = undefined;
  path.unanswered = 0;
  path.nextAt = now + Math.max(timing.interval, BLIND_RETRY);
}

/** It has answered, or something else proves that it is there. */
export function answered(path: Path, timing: ProbeTiming, now: number): void {
  path.nextAt = (path.waitingSince ?? now) + timing.interval;
  path.state = 'answers';
  path.unanswered = 0;
  path.waitingSince = undefined;
  path.lastAnswer = now;
}

// A family ------------------------------------------------------------------------------------------------

/** What `gather` is told: nothing in the way, something in the way, or not known yet. */
export type Finding = { obstacle: string | undefined } | 'undecided';

export interface FamilyHealth {
  state: 'undecided' | 'up' | 'down';
  /** Why it is down, or was until now. */
  reason: string | undefined;
  /** When it entered its state. */
  since: number;
  /** While it is down: since when nothing stands in its way. */
  steadySince: number | undefined;
  /** How long nothing may stand in its way before it is up again, ms. */
  hold: number;
}

/** How a family comes back. */
export const RECOVERY = {
  /** The longest hold, as a multiple of the first. */
  growth: 64,
  /** Up for so many times the last hold: it does not flap, the next hold is the first again. */
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
 * Takes what was found of a family. `recovery`: the first hold, ms; every time it goes down again soon after it
 * came up, the hold doubles. The first verdict of all needs no hold.
 */
export function gather(family: FamilyHealth, finding: Finding, recovery: number, now: number): void {
  if (finding === 'undecided') return;
  const { obstacle } = finding;
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

/** When `gather` has to be called again though nothing happens; undefined: not before something does. */
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

// The connection tracking table -----------------------------------------------------------------------------

/** Shares of the table, and of what begins. */
export const CONNTRACK = {
  /** From here on it is told. */
  warn: 0.8,
  /** Only above this can new connections fail for want of room… */
  full: 0.97,
  /** …and when they did, they may do so again until it is below this. */
  room: 0.9,
  /**
   * So many of the flows that begin are dropped: then they fail. The kernel makes room by ending unanswered flows,
   * and does not always find one, so a few are dropped in any full table; a client tries again.
   */
  failing: 0.1,
} as const;

export interface ConntrackHealth {
  /** `full`: new connections fail. A table can be full and still take them. */
  level: 'normal' | 'warn' | 'full';
  /** The table's use in percent, rounded down. */
  percent: number;
  /** The kernel's counters at this look; undefined where it does not tell. */
  pressure: { refused: number; evicted: number } | undefined;
}

/** What a look at the table finds: a limit of 0 is no limit. */
export interface ConntrackLook {
  entries: number;
  limit: number;
  pressure: ConntrackHealth['pressure'];
}

/**
 * Whether flows that began since the last look were dropped for want of room, or got it at the expense of others;
 * undefined when none needed any, or nothing is known.
 */
function fails(before: ConntrackHealth['pressure'], now: ConntrackHealth['pressure']): boolean | undefined {
  if (before === undefined || now === undefined) return undefined;
  const refused = Math.max(0, now.refused - before.refused);
  const evicted = Math.max(0, now.evicted - before.evicted);
  if (refused + evicted === 0) return undefined;
  return refused >= CONNTRACK.failing * (refused + evicted);
}

/** The next state of the table. Where the kernel does not tell what it drops, the share has to stand for it. */
export function conntrackHealth(
  before: ConntrackHealth | undefined,
  { entries, limit, pressure }: ConntrackLook,
): ConntrackHealth {
  const share = limit > 0 ? entries / limit : 0;
  const failing = fails(before?.pressure, pressure);
  const full =
    before?.level === 'full'
      ? share >= CONNTRACK.room && failing !== false
      : share >= CONNTRACK.full && (failing === true || pressure === undefined);
  return {
    level: full ? 'full' : share >= CONNTRACK.warn ? 'warn' : 'normal',
    percent: Math.floor(share * 100),
    pressure,
  };
}
