/** The command `veg-agent cleanup`: removes everything that the agent owns in this network namespace. */
import { daemonObstacle } from '../../lib/control/client.ts';
import { socketPath } from '../../lib/control/path.ts';
import { EXIT, type Options } from '../options.ts';
import { removeLastPolicy } from '../policy/last-policy.ts';
import { cleanupLines, countChanges } from '../reconcile/changes.ts';
import { cleanUp, planCleanup } from '../reconcile/cleanup.ts';
import { complain, say } from './check.ts';
import { withKernel } from './with-kernel.ts';

/** `cleanup`: 0 nothing of the agent's is left, 1 something is, or a daemon runs that would make it again. */
export async function cleanup(options: Options): Promise<number> {
  const obstacle = await daemonObstacle(
    options.stateDir,
    `a daemon serves ${socketPath(options.stateDir)} and would restore it; end the daemon and run cleanup again, or start the daemon with --on-exit remove, which cleans up when it ends`,
  );
  if (obstacle !== undefined) {
    complain(`nothing was removed: ${obstacle}`);
    return EXIT.failed;
  }
  // Before the kernel, so that no daemon applies it again by itself.
  let forgotten = true;
  try {
    removeLastPolicy(options.stateDir);
  } catch (error) {
    forgotten = false;
    complain(`could not remove the last good policy: ${(error as Error).message}`);
  }
  return withKernel(options, async (kernels) => {
    const plan = await planCleanup(kernels);
    for (const line of cleanupLines(plan.changes)) say(line);
    await cleanUp(kernels, plan);
    const left = await planCleanup(kernels);
    for (const line of cleanupLines(left.changes)) complain(`could not remove: ${line}`);
    return forgotten && countChanges(left.changes) === 0 ? EXIT.ok : EXIT.failed;
  });
}
