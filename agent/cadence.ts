/**
 * When to reconcile next. Pure: every function takes `now` (milliseconds of a monotonic clock).
 *
 * Requests that come together are one run. A failed run is retried with a backoff; meanwhile drift is still repaired
 * when all is in the kernel but what it refused. Repairs draw from a token bucket, so that a program that undoes them
 * in a loop meets two repairs a second instead of a busy loop.
 */

/** Why a reconcile was requested. The label `trigger` of `veg_agent_reconcile_total`. */
export type Trigger =
  | 'start'
  | 'policy'
  | 'link'
  | 'address'
  | 'route'
  | 'rule'
  | 'qdisc'
  | 'netfilter'
  | 'overrun'
  | 'drift'
  | 'timer'
  | 'sighup'
  | 'group'
  | 'bgp'
  | 'control'
  | 'retry';

export const CADENCE = {
  /** Requests within this time of the first are one run, ms. */
  settle: 20,
  /** The shortest pause between the end of a run and the next start, ms. */
  pause: 30,
  /** The first delay after a failure, doubled up to the longest, ms. */
  retryFirst: 250,
  retryLongest: 30_000,
  /** Repairs in a row at once, and the time for one more, ms. */
  repairBurst: 30,
  repairRefill: 500,
} as const;

/** Requests by a person or for a new fact: they do not wait for a backoff. */
const URGENT: ReadonlySet<Trigger> = new Set([
  'start',
  'policy',
  'sighup',
  'control',
  'group',
  'bgp',
  'link',
  'address',
]);

/** Requests for a change by another program: a run for these repairs drift, and does not retry what was refused. */
export const REPAIRS: ReadonlySet<Trigger> = new Set([
  ...(['route', 'rule', 'qdisc', 'netfilter', 'overrun', 'drift'] as const),
]);

/** How a run ended. */
export interface RunResult {
  ok: boolean;
  /** It repaired drift. */
  repaired: boolean;
  /** Not all was applied, but every family is intact. */
  held?: boolean;
  /** It only repaired drift: what had been refused was not retried. */
  onlyRepairs?: boolean;
}

/** Requests that gathered already, or that a caller waits for: they are not delayed to gather others. */
const IMMEDIATE: ReadonlySet<Trigger> = new Set(['start', 'policy', 'sighup', 'control', 'group', 'bgp']);

export interface Cadence {
  /** The requests since the last run started; the first one names the run. */
  pending: Trigger[];
  /** When the first of `pending` came. */
  pendingSince: number;
  /** When the last run ended; undefined before the first. */
  lastEnd?: number;
  running: boolean;
  /** Failed runs in a row, of those that retried everything; and when to retry. */
  failures: number;
  retryAt?: number;
  /** The last failure left a family that is not intact: only a full retry helps. */
  broken: boolean;
  /** The timer's period, ms. */
  resync: number;
  /** The tokens for repairs at `repairTokensAt`. */
  repairTokens: number;
  repairTokensAt: number;
}

export function createCadence(resync: number, now: number): Cadence {
  return {
    pending: [],
    pendingSince: now,
    running: false,
    failures: 0,
    broken: false,
    resync,
    repairTokens: CADENCE.repairBurst,
    repairTokensAt: now,
  };
}

/** Notes that a run is wanted. */
export function request(cadence: Cadence, trigger: Trigger, now: number): void {
  if (cadence.pending.length === 0) cadence.pendingSince = now;
  if (!cadence.pending.includes(trigger)) cadence.pending.push(trigger);
}

const retryDelay = (failures: number): number =>
  Math.min(CADENCE.retryLongest, CADENCE.retryFirst * 2 ** (failures - 1));

function tokensAt(cadence: Cadence, now: number): number {
  const refilled = cadence.repairTokens + (now - cadence.repairTokensAt) / CADENCE.repairRefill;
  return Math.min(CADENCE.repairBurst, refilled);
}

/** When the next run is due, and why. Undefined while one is running or before the first request. */
export function nextRun(cadence: Cadence): { at: number; trigger: Trigger } | undefined {
  if (cadence.running) return undefined;
  const { lastEnd, retryAt } = cadence;
  const urgent = cadence.pending.find((trigger) => URGENT.has(trigger));
  const wanted = urgent ?? cadence.pending[0];
  if (wanted === undefined) {
    if (retryAt !== undefined) return { at: retryAt, trigger: 'retry' };
    return lastEnd === undefined ? undefined : { at: lastEnd + cadence.resync, trigger: 'timer' };
  }
  const immediate = cadence.pending.some((trigger) => IMMEDIATE.has(trigger));
  let at = cadence.pendingSince + (immediate ? 0 : CADENCE.settle);
  if (lastEnd !== undefined) at = Math.max(at, lastEnd + CADENCE.pause);
  if (urgent !== undefined) return { at, trigger: wanted };
  if (retryAt !== undefined && cadence.broken) at = Math.max(at, retryAt);
  if (retryAt !== undefined && at >= retryAt) return { at, trigger: 'retry' };
  const missing = 1 - cadence.repairTokens;
  if (missing > 0) at = Math.max(at, cadence.repairTokensAt + missing * CADENCE.repairRefill);
  return { at, trigger: wanted };
}

/** A run starts: it answers all requests until now. */
export function started(cadence: Cadence): void {
  cadence.running = true;
  cadence.pending = [];
}

/** A run ended. Returns true when repairs have used up the bucket: another program works against the agent. */
export function ended(
  cadence: Cadence,
  { ok, repaired, held = false, onlyRepairs = false }: RunResult,
  now: number,
): boolean {
  cadence.running = false;
  cadence.lastEnd = now;
  if (ok) {
    cadence.failures = 0;
    delete cadence.retryAt;
  } else if (!onlyRepairs || cadence.retryAt === undefined || (!held && !cadence.broken)) {
    cadence.failures += 1;
    cadence.retryAt = now + retryDelay(cadence.failures);
  }
  cadence.broken = !ok && !held;
  cadence.repairTokens = tokensAt(cadence, now);
  cadence.repairTokensAt = now;
  if (!repaired) return false;
  cadence.repairTokens -= 1;
  return cadence.repairTokens < 1;
}
