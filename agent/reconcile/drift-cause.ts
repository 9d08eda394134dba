/**
 * Which program caused a drift, as far as the kernel reports it: another program, the kernel itself, or the agent. Pure:
 * `now` is milliseconds of a monotonic clock.
 *
 * A program that is named has changed something between the observation before the last one and now: what changed
 * earlier has been observed and repaired. What follows from a change of the agent's own (the kernel removes the routes
 * of router advertisements when forwarding is turned on) is not drift.
 */

/** A change that the kernel announced. */
interface Change {
  at: number;
  what: string;
}

export interface ChangeHistory {
  /** When the last observation began, and the one before. */
  observedAt: number;
  observedBefore: number;
  /** The last change by another program, and by the kernel itself. */
  other: Change | undefined;
  kernel: Change | undefined;
  /** The last change of a link. The agent never makes one, nor is one a consequence of what it does. */
  link: Change | undefined;
  /** When the agent last began to change something. */
  ownAt: number;
}

/** The cause of a drift. `who`: for the log. */
export interface Cause {
  by: 'agent' | 'other' | 'kernel' | 'unknown';
  who: string;
}

export const createChangeHistory = (): ChangeHistory => ({
  observedAt: Number.NEGATIVE_INFINITY,
  observedBefore: Number.NEGATIVE_INFINITY,
  other: undefined,
  kernel: undefined,
  link: undefined,
  ownAt: Number.NEGATIVE_INFINITY,
});

/** The agent begins to change something. */
export function recordOwnChange(history: ChangeHistory, now: number): void {
  history.ownAt = now;
}

/** The kernel has announced a change by another program, by itself, or of a link. */
export function recordChange(
  history: ChangeHistory,
  by: 'other' | 'kernel' | 'link',
  what: string,
  now: number,
): void {
  history[by] = { at: now, what };
}

/** An observation begins. */
export function observationBegins(history: ChangeHistory, now: number): void {
  history.observedBefore = history.observedAt;
  history.observedAt = now;
}

/**
 * The cause of what the last observation found, once all announced changes are taken.
 * @param announced whether the kernel announces such changes: not those in a set, a sysctl or a legacy table
 */
export function causeOf(
  { observedBefore, other, kernel, link, ownAt }: ChangeHistory,
  announced: boolean,
): Cause {
  const isRecent = (change: Change | undefined): change is Change =>
    change !== undefined && change.at >= observedBefore;
  if (isRecent(other)) return { by: 'other', who: other.what };
  if (isRecent(link)) return { by: 'kernel', who: `the kernel (${link.what})` };
  if (announced && ownAt >= observedBefore) return { by: 'agent', who: 'a change of the agent’s own' };
  return isRecent(kernel)
    ? { by: 'kernel', who: `the kernel (${kernel.what})` }
    : { by: 'unknown', who: 'unknown' };
}
