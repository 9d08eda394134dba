/** What the kernel refused of the policy in force, as it is kept over a restart. Pure. */
import type { Family } from '../../lib/prefix.ts';
import type { OptionalPart } from '../../nat/desired.ts';
import type { Policy } from './model.ts';

/** The file in the state directory that holds the last good policy (last-policy.ts). */
export const LAST_POLICY_FILE = 'last-policy.json.gz';

/** What is missing in the kernel, of the policy that each family is at. */
export interface Missing {
  /** Optional parts of the translation, by family. */
  without: Readonly<Record<Family, readonly OptionalPart[]>>;
  /** Routing steps that were refused, by `stepKey` (reconcile/targets.ts). */
  lacking: readonly string[];
  /** The families that are not in force, and never were since there has been a policy in the state directory. */
  broken: readonly Family[];
}

/** The policy that an earlier process brought the kernel to, in every family that worked, and what of it was missing. */
export interface LastGood {
  policy: Policy;
  missing: Missing;
}

export const NOTHING_MISSING: Missing = { without: { 4: [], 6: [] }, lacking: [], broken: [] };
