/**
 * A point in time on both clocks: the monotonic clock knows its age even if the wall clock was set since. Pure.
 */

/** Milliseconds of each clock. */
export interface Moment {
  wall: number;
  monotonic: number;
}

/** A smaller difference is slewing of the wall clock, not a step, ms. */
const STEP = 1000;

/** The wall time of a moment, corrected if the wall clock was stepped since. Unix milliseconds. */
export function wallTime({ wall, monotonic }: Moment, now: Moment): number {
  const then = now.wall - (now.monotonic - monotonic);
  return Math.abs(then - wall) < STEP ? wall : then;
}
