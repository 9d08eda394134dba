/**
 * When the kernel was last in view. Pure: `now` is milliseconds of a monotonic clock.
 *
 * An observation that reads the kernel to its end, of one family at least, puts it in view; what it finds does not
 * matter. From then on the check for drift and the change events keep it in view, also while changes are applied, until
 * an observation is under way or fails, or changes do not come to an end.
 */
import { FAMILIES, type Family } from '../lib/prefix.ts';
import type { Observation } from './reconcile/observation.ts';
import { WATCHDOG } from './watchdog.ts';

export interface Visibility {
  /** True from the start of an observation until it has read the kernel. */
  blind: boolean;
  /** Since when changes are applied; undefined while none are. */
  applyingSince: number | undefined;
  /** When the kernel, and each family, was last in view; undefined: never. */
  seenAt: number | undefined;
  familySeenAt: Partial<Record<Family, number>>;
  /** The families that the last observation could not read. */
  unseen: ReadonlySet<Family>;
}

export const createVisibility = (): Visibility => ({
  ...{ blind: true, applyingSince: undefined, seenAt: undefined, familySeenAt: {}, unseen: new Set() },
});

/** An observation has read what it could. */
export function recordObservation(
  visibility: Visibility,
  { plan, failed }: Pick<Observation, 'plan' | 'failed'>,
  now: number,
): void {
  const unknown = failed.filter(({ verdict }) => verdict === 'unknown');
  visibility.unseen = new Set(unknown.map(({ family }) => family));
  const used = plan.families.filter(({ state }) => state === 'programmed');
  visibility.blind = used.length > 0 && used.every(({ family }) => visibility.unseen.has(family));
  recordSeen(visibility, now);
}

/** The kernel was checked for drift, and its change events were taken. */
export function recordSeen(visibility: Visibility, now: number): void {
  const { blind, applyingSince, unseen, familySeenAt } = visibility;
  // Changes that do not come to an end hold back every later observation.
  const stuck = now - (applyingSince ?? now) > WATCHDOG.longestChange;
  if (blind || stuck) return;
  visibility.seenAt = now;
  for (const family of FAMILIES) if (!unseen.has(family)) familySeenAt[family] = now;
}
