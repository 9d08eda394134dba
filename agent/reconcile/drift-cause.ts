/**
 * Who has changed the kernel, as far as it says: another program, the kernel itself, or the agent. Pure: `now` is
 * milliseconds of a monotonic clock.
 *
 * A program that is named has changed something between the look before the last one and now: what was done earlier
 * has been seen and put right. What the agent itself has led to (the kernel takes the routes of router
 * advertisements away when forwarding comes on) is nobody else's drift.
 */

/** A notice of the kernel. */
interface Notice {
  at: number;
  what: string;
}

export interface Writers {
  /** When the last look began, and the one before. */
  lookedAt: number;
  lookedBefore: number;
  /** The last change by another program, and by the kernel itself. */
  other: Notice | undefined;
  kernel: Notice | undefined;
  /** When the agent last began to change something. */
  changedAt: number;
}

/** Who is behind a drift. `who`: for the log. */
export interface Cause {
  by: 'agent' | 'other' | 'kernel' | 'unknown';
  who: string;
}

export const createWriters = (): Writers => ({
  lookedAt: Number.NEGATIVE_INFINITY,
  lookedBefore: Number.NEGATIVE_INFINITY,
  other: undefined,
  kernel: undefined,
  changedAt: Number.NEGATIVE_INFINITY,
});

/** Something was changed. `by`: whose message it was. */
export function changed(writers: Writers, by: 'agent' | 'other' | 'kernel', what: string, now: number): void {
  if (by === 'agent') writers.changedAt = now;
  else writers[by] = { at: now, what };
}

/** A look begins. */
export function looked(writers: Writers, now: number): void {
  writers.lookedBefore = writers.lookedAt;
  writers.lookedAt = now;
}

/**
 * Who is behind what the look that has begun last has found, once all notices are taken.
 * @param told whether others would have been told of: of what is in a set, a setting or a legacy table nobody is
 */
export function causeOf({ lookedBefore, other, kernel, changedAt }: Writers, told: boolean): Cause {
  const since = (notice: Notice | undefined): notice is Notice =>
    notice !== undefined && notice.at >= lookedBefore;
  if (since(other)) return { by: 'other', who: other.what };
  if (told && changedAt >= lookedBefore) return { by: 'agent', who: 'a change of the agent’s own' };
  return since(kernel)
    ? { by: 'kernel', who: `the kernel (${kernel.what})` }
    : { by: 'unknown', who: 'unknown' };
}
