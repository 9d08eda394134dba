/** The command `veg-agent apply`: one reconcile, for an init container. */
import { daemonObstacle } from '../../lib/control/client.ts';
import { EXIT, type Options } from '../options.ts';
import { keepPolicy } from '../policy/last-policy.ts';
import { changeLines, countChanges } from '../reconcile/changes.ts';
import { observeAndSeal } from '../sealing.ts';
import { failureText, isTemporary, obstacles } from '../show/plan-document.ts';
import { complain, load, say, type ValidPolicy } from './check.ts';
import { createReconciler, withKernel } from './with-kernel.ts';

/** Keeps the policy in force for a daemon that cannot use a newer one. */
function keep({ stateDir }: Options, { source, content, since = Date.now() }: ValidPolicy): void {
  try {
    if (content !== undefined) keepPolicy(stateDir, { source, content, since });
  } catch (error) {
    complain(`cannot keep the policy in the state directory: ${(error as Error).message}`);
  }
}

const RUNS =
  'the daemon that runs here holds addresses and ports for its group, which only it knows: it applies the policy itself; `veg-agent plan` shows what is left to do';

/** `apply`: 0 the kernel is as the policy says, 1 it is not, 3 the policy is invalid. */
export async function apply(options: Options): Promise<number> {
  const found = await load(options);
  if (found === undefined) return EXIT.policyInvalid;
  const { policy } = found;
  const obstacle = policy.group && (await daemonObstacle(options.stateDir, RUNS));
  if (obstacle !== undefined) {
    complain(obstacle);
    return EXIT.failed;
  }
  return withKernel(options, async (kernels) => {
    const reconciler = createReconciler(kernels, options);
    const observation = await reconciler.observeSettled(policy);
    const waiting = observation.conflicts.filter(isTemporary).map(({ message }) => message);
    for (const note of [...observation.notes, ...waiting]) complain(`note: ${note}`);
    for (const line of changeLines(observation.changes)) say(line);
    const { failures } = await reconciler.apply(observation);
    for (const failure of failures) complain(failureText(failure));
    for (const obstacle of obstacles(observation)) complain(obstacle);
    if (failures.length > 0 || obstacles(observation).length > 0) return EXIT.failed;
    const left = await observeAndSeal(process.env.VEG_AGENT_SEAL, {
      ...{ policy, applied: observation },
      observe: () => reconciler.observe(policy),
      apply: (steps) => kernels.nat.apply(steps),
      complain: (reason) => complain(`the daemon will start more slowly, cannot seal the kernel: ${reason}`),
    });
    for (const line of changeLines(left.changes)) complain(`still to do: ${line}`);
    if (countChanges(left.changes) > 0) return EXIT.failed;
    keep(options, found);
    return EXIT.ok;
  });
}
