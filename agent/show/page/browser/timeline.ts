/** A span of time until now on a horizontal axis, for the strips of the sessions and for plots. Pure. */

export interface Timeline {
  /** Unix milliseconds. */
  from: number;
  now: number;
  /** The length of the axis, in units of the drawing. */
  width: number;
}

export const timeline = (seconds: number, now: number, width: number): Timeline => ({
  ...{ from: now - 1000 * seconds, now, width },
});

/** Where a time is on the axis; what was before it is at its start. */
export const position = ({ from, now, width }: Timeline, time: number): number =>
  ((Math.min(Math.max(time, from), now) - from) / (now - from)) * width;
