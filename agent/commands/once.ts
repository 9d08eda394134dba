/** The commands that do one thing to the kernel and exit, without a daemon. */

import { createKernels } from '../kernels.ts';
import { EXIT, type Options } from '../options.ts';
import { keepPolicy, readLastPolicy, removeLastPolicy } from '../policy/last-policy.ts';
import { lastGood } from '../policy/source.ts';
import { changeLines, cleanupLines, countChanges, explain, Reconciler } from '../reconcile/reconciler.ts';
import { failureText, obstacles, type PlanDocument, planDocument } from '../show/plan-document.ts';
import { complain, load, say, type ValidPolicy } from './check.ts';

/** The policy is in force: it is what a daemon goes on with that cannot use a newer one. */
function keep({ stateDir }: Options, { source, content, since = Date.now() }: ValidPolicy): void {
  try {
    if (content !== undefined) keepPolicy(stateDir, { source, content, since });
  } catch (error) {
    complain(`cannot keep the policy in the state directory: ${(error as Error).message}`);
  }
}

/** Runs work on the kernel of this namespace; what goes wrong is said on stderr. */
async function withKernel(
  options: Options,
  work: (reconciler: Reconciler) => Promise<number>,
): Promise<number> {
  const kernels = createKernels(options);
  try {
    const last = () => lastGood(readLastPolicy(options.stateDir, () => {}));
    return await work(new Reconciler(kernels, options, last));
  } catch (error) {
    complain(explain(error as Error));
    return EXIT.failed;
  } finally {
    kernels.close();
  }
}

/** `apply`: 0 the kernel is as the policy says, 1 it is not, 3 the policy is invalid. */
export async function apply(options: Options): Promise<number> {
  const found = load(options);
  if (found === undefined) return EXIT.policyInvalid;
  const { policy } = found;
  return withKernel(options, async (reconciler) => {
    const look = await reconciler.lookSettled(policy);
    for (const note of look.notes) complain(`note: ${note}`);
    for (const line of changeLines(look.changes)) say(line);
    const { failures } = await reconciler.carryOut(look);
    for (const failure of failures) complain(failureText(failure));
    for (const obstacle of obstacles(look)) complain(obstacle);
    if (failures.length > 0 || obstacles(look).length > 0) return EXIT.failed;
    const left = await reconciler.look(policy);
    for (const line of changeLines(left.changes)) complain(`still to do: ${line}`);
    if (countChanges(left.changes) > 0) return EXIT.failed;
    keep(options, found);
    return EXIT.ok;
  });
}

/** What `plan` shows where no daemon can be asked; or the exit code, when its reason was printed. */
export async function planOnce(options: Options): Promise<PlanDocument | number> {
  const found = load(options);
  if (found === undefined) return EXIT.policyInvalid;
  let document: PlanDocument | undefined;
  const code = await withKernel(options, async (reconciler) => {
    document = planDocument(await reconciler.lookSettled(found.policy));
    return EXIT.ok;
  });
  return document ?? code;
}

/** `cleanup`: 0 nothing of the agent's is left, 1 something is. */
export async function cleanup(options: Options): Promise<number> {
  // First of all, so that no daemon puts back by itself what is removed now.
  let forgotten = true;
  try {
    removeLastPolicy(options.stateDir);
  } catch (error) {
    forgotten = false;
    complain(`could not remove the last good policy: ${(error as Error).message}`);
  }
  return withKernel(options, async (reconciler) => {
    const changes = await reconciler.lookForCleanup();
    for (const line of cleanupLines(changes)) say(line);
    await reconciler.cleanup(changes);
    const left = await reconciler.lookForCleanup();
    for (const line of cleanupLines(left)) complain(`could not remove: ${line}`);
    return forgotten && countChanges(left) === 0 ? EXIT.ok : EXIT.failed;
  });
}
