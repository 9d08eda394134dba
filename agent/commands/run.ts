/** `veg-agent run`: the daemon. What the first moments are for comes before what takes long to load. */
import { EarlyListener } from '../../bfd/early-listener.ts';
import { raisePriority } from '../../lib/priority.ts';
import { forkAhead } from '../agent-fork.ts';
import type { Options } from '../options.ts';

/** Runs the daemon to its end, and exits. */
export async function run(options: Options): Promise<never> {
  // With the normal priority, and not where there are sessions to resume.
  const ahead = forkAhead(options);
  // First of all else, so that a restart on a busy machine is over before the peers miss a packet; what is forked
  // later starts with the normal priority.
  const priority = raisePriority();
  const early = EarlyListener.open();
  const { supervise } = await import('../supervisor.ts');
  process.exit(await supervise(options, priority, undefined, { ahead, early }));
}
