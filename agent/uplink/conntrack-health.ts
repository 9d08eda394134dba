/**
 * Whether new connections fail for want of room in the connection tracking table. Pure.
 *
 * The share in use is not enough: the kernel makes room by ending a flow without an answer. So the counters of what
 * it dropped decide.
 */
import { increase } from '../../lib/counter.ts';

/** Shares of the table, and of new flows. */
export const CONNTRACK = {
  /** From here on a note and a log line warn. */
  warn: 0.8,
  /** Only above this can new connections fail for want of room… */
  full: 0.97,
  /** …and when they did, they may do so again until it is below this. */
  room: 0.9,
  /**
   * The share of new flows that is dropped, from which on they count as failing. The kernel makes room by ending
   * unanswered flows, and does not always find one, so a few are dropped in any full table; a client retries.
   */
  failing: 0.1,
} as const;

export interface ConntrackHealth {
  /** `full`: new connections fail. A table can be full and still take them. */
  level: 'normal' | 'warn' | 'full';
  /** The table's use in percent, rounded down. */
  percent: number;
  /** The kernel's counters at this observation; undefined where it has none. */
  pressure: { refused: number; evicted: number } | undefined;
}

/** An observation of the table; a limit of 0 is no limit. */
export interface ConntrackObservation {
  entries: number;
  limit: number;
  pressure: ConntrackHealth['pressure'];
}

/**
 * Whether new flows since the last observation were dropped for want of room, or got it at the expense of others;
 * undefined when none needed any, or nothing is known.
 */
function fails(before: ConntrackHealth['pressure'], now: ConntrackHealth['pressure']): boolean | undefined {
  if (before === undefined || now === undefined) return undefined;
  const refused = increase(now.refused, before.refused);
  const evicted = increase(now.evicted, before.evicted);
  if (refused + evicted === 0) return undefined;
  return refused >= CONNTRACK.failing * (refused + evicted);
}

/** The next state of the table. Where the kernel has no counters of drops, the share alone decides. */
export function conntrackHealth(
  before: ConntrackHealth | undefined,
  { entries, limit, pressure }: ConntrackObservation,
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
