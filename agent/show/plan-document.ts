/** What `veg-agent plan` shows of a look at the kernel, and the answer to `GET /v1/plan`. */

import type { FamilyStatus, Plan } from '../plan/plan.ts';
import { changeLines } from '../reconcile/changes.ts';
import type { Failure } from '../reconcile/failures.ts';
import type { Observation } from '../reconcile/observation.ts';

/** A plan as JSON. */
export interface PlanDocument {
  schemaVersion: 'v1';
  /** What a reconcile would change, as the lines that a person would type. */
  changes: string[];
  families: FamilyStatus[];
  interfaces: Plan['interfaces'];
  notes: string[];
  /** What keeps the kernel from being looked at, or a family from being programmed. */
  obstacles: string[];
}

/** What keeps a family from being as the policy asks for. */
export function obstacles({ plan }: Observation): string[] {
  return plan.families.flatMap(({ family, state, reason }) =>
    state === 'blocked' ? [`IPv${family}: ${reason}`] : [],
  );
}

/** A failure on one line. */
export const failureText = ({ object, name, reason, message }: Failure): string =>
  `${object} ${name}: ${reason}: ${message}`;

/** A look as a document. */
export const planDocument = (observation: Observation): PlanDocument => ({
  schemaVersion: 'v1',
  changes: changeLines(observation.changes),
  families: observation.plan.families,
  interfaces: observation.plan.interfaces,
  notes: observation.notes,
  // Of what could not be looked at it is not known what would change.
  obstacles: [...obstacles(observation), ...observation.failed.map(failureText)],
});
