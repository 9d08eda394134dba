/** How `apply` leaves a seal (seal.ts) for the daemon that starts next. */

import { isInstalled } from '../lib/exec.ts';
import { FAMILIES } from '../lib/prefix.ts';
import { VERSION } from '../lib/version.ts';
import { desiredNat } from '../nat/desired.ts';
import { diffNat } from '../nat/diff.ts';
import { isRuleStep, rulesInput } from '../nat/render.ts';
import type { Policy } from './policy/model.ts';
import { countChanges } from './reconcile/changes.ts';
import type { Observation } from './reconcile/observation.ts';
import { type KernelAnswers, makeSeal, RESTORE_PROGRAM, type Restore } from './seal.ts';
import { openSealKernel, type SealKernel, writeSeal } from './seal-kernel.ts';

/** What a plan with sessions has more in the packet filter than this one. */
function untracking({ plan, desiredNat: present }: Observation): Restore[] {
  const wanted = desiredNat(
    plan.nat.map((family) => ({ ...family, notrackBfd: true })),
    ({ family }) => present.gates?.[family] !== undefined,
  );
  const steps = diffNat(present, wanted, present).filter(isRuleStep);
  return FAMILIES.flatMap((family) => {
    const own = steps.filter((step) => step.family === family);
    return own.length === 0 ? [] : [{ family, input: rulesInput(own) }];
  });
}

/**
 * Observes once more, and seals the kernel where nothing differs.
 * @param file where the seal goes; undefined: there is to be none
 * @param applied the observation that was applied
 * @param complain called with the reason when there can be no seal; it is not needed
 */
export async function observeAndSeal(
  file: string | undefined,
  { policy, applied }: { policy: Policy; applied: Observation },
  observe: () => Promise<Observation>,
  complain: (reason: string) => void,
  open = openSealKernel,
): Promise<Observation> {
  if (file === undefined) return observe();
  const questions = { sysctls: applied.plan.sysctls, hasSets: applied.desiredNat.sets.size > 0 };
  let kernel: SealKernel | undefined;
  const ask = async (): Promise<KernelAnswers | undefined> => {
    try {
      kernel ??= open();
      return await kernel.ask(questions);
    } catch (error) {
      complain((error as Error).message);
      return undefined;
    }
  };
  const before = await ask();
  const left = await observe();
  const after = before && (await ask());
  kernel?.close();
  if (before === undefined || after === undefined || countChanges(left.changes) > 0) return left;
  try {
    const untrack = untracking(left);
    const seal = makeSeal(VERSION, policy, left, [before, after], untrack);
    if (seal !== undefined && untrack.every(({ family }) => isInstalled(RESTORE_PROGRAM[family])))
      writeSeal(file, seal);
  } catch (error) {
    complain((error as Error).message);
  }
  return left;
}
