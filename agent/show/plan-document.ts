/** The document of `veg-agent plan` and `GET /v1/plan`: what a reconcile would change, from an observation of the kernel. Pure. */

import type { FamilyStatus, Plan } from '../plan/plan.ts';
import { changeLines } from '../reconcile/changes.ts';
import type { Failure } from '../reconcile/failures.ts';
import type { Observation } from '../reconcile/observation.ts';

/** A plan as JSON. */
export interface PlanDocument {
  schemaVersion: 'v1';
  /** What a reconcile would change, as command lines. */
  changes: string[];
  /** The kernel could be observed. If not, changes may be missing. */
  observed: boolean;
  families: FamilyStatus[];
  interfaces: Plan['interfaces'];
  notes: string[];
  /** Why the kernel cannot be observed, or a family cannot be programmed. */
  obstacles: string[];
}

/** Why a part of the policy cannot be in force, and no change would put it there. */
export function obstacles({ plan, conflicts }: Observation): string[] {
  const blocked = plan.families.flatMap(({ family, state, reason }) =>
    state === 'blocked' ? [`IPv${family}: ${reason}`] : [],
  );
  return [...blocked, ...conflicts.filter((conflict) => !isTemporary(conflict)).map(failureText)];
}

/** An address that another host has is taken when that gives it up, as the gateway that this one replaces will. */
export const isTemporary = ({ object }: Failure): boolean => object === 'address';

/** A failure on one line. */
export const failureText = ({ object, name, reason, message }: Failure): string =>
  `${object} ${name}: ${reason}: ${message}`;

export const planDocument = (observation: Observation): PlanDocument => ({
  schemaVersion: 'v1',
  changes: changeLines(observation.changes),
  observed: observation.failed.every(({ verdict }) => verdict === 'harmless'),
  families: observation.plan.families,
  interfaces: observation.plan.interfaces,
  notes: [...observation.notes, ...observation.conflicts.filter(isTemporary).map(({ message }) => message)],
  // Changes of what could not be observed are unknown.
  obstacles: [...obstacles(observation), ...observation.failed.map(failureText)],
});
