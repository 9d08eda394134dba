/**
 * A moment by both clocks. How long ago it was, the monotonic clock knows; the wall clock may have been set since. Pure.
 */

/** Milliseconds of each clock. */
export interface Moment {
  wall: number;
  monotonic: number;
}

/** Less than this is no step of the wall clock, ms: it is steered all the time. */
const STEP = 1000;

/** When a moment was, by the wall clock as it goes now; as it was told then, unless the clock was set since. */
export function wallTime({ wall, monotonic }: Moment, now: Moment): number {
  const then = now.wall - (now.monotonic - monotonic);
  return Math.abs(then - wall) < STEP ? wall : then;
}
