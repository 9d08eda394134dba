/** How `apply` leaves a seal (seal.ts) for the daemon that starts next. */

import { VERSION } from '../lib/version.ts';
import { desiredNat } from '../nat/desired.ts';
import { diffNat, type NatStep } from '../nat/diff.ts';
import { isRuleStep } from '../nat/render.ts';
import type { Policy } from './policy/model.ts';
import { countChanges } from './reconcile/changes.ts';
import type { Observation } from './reconcile/observation.ts';
import { canSeal, type KernelAnswers, makeSeal } from './seal.ts';
import { openSealKernel, type SealKernel, writeSeal } from './seal-kernel.ts';

/** What a plan with sessions has more in the packet filter than this one. */
function untracking({ plan, desiredNat: present }: Observation): NatStep[] {
  const wanted = desiredNat(
    plan.nat.map((family) => ({ ...family, notrackBfd: true })),
    ({ family }) => present.gates?.[family] !== undefined,
  );
  return diffNat(present, wanted, present).filter(isRuleStep);
}

export interface SealingParts {
  policy: Policy;
  /** The observation that was applied. */
  applied: Observation;
  observe(): Promise<Observation>;
  /** Applies rules: one transaction of nf_tables for each family. Throws what the kernel answers. */
  apply(steps: readonly NatStep[]): Promise<void>;
  /** Called with the reason when there can be no seal; it is not needed. */
  complain(reason: string): void;
  /** Default: the system's. */
  open?(): SealKernel;
}

/**
 * Observes once more, and seals the kernel where nothing differs, with the rules that sessions need.
 * @param file where the seal goes; undefined: there is to be none
 */
export async function observeAndSeal(
  file: string | undefined,
  { policy, applied, observe, apply, complain, open = openSealKernel }: SealingParts,
): Promise<Observation> {
  if (file === undefined) return observe();
  const questions = { sysctls: applied.plan.sysctls, hasSets: applied.desiredNat.sets.size > 0 };
  let kernel: SealKernel | undefined;
  let before: KernelAnswers | undefined;
  try {
    kernel = open();
    before = await kernel.ask(questions);
  } catch (error) {
    complain((error as Error).message);
  }
  const left = await observe();
  try {
    if (before === undefined || countChanges(left.changes) > 0 || !canSeal(policy, left)) return left;
    const steps = untracking(left);
    await apply(steps);
    const transactions = new Set(steps.map(({ family }) => family)).size;
    const after = await kernel!.ask(questions);
    const seal = makeSeal(VERSION, policy, left, [before, after], transactions);
    if (seal !== undefined) writeSeal(file, seal);
  } catch (error) {
    complain((error as Error).message);
  } finally {
    kernel?.close();
  }
  return left;
}
