/**
 * The program of Kube-OVN's gateway containers (images/gateway): `veg-agent run` with all settings from the
 * environment. It does not load the command line, because it has to be up within a second on a fifth of a core. The
 * argument, if any, becomes the title of the process: Kube-OVN's tests read /proc/1/cmdline.
 */
import '../../lib/signals.ts';
import type { Options } from '../options.ts';

// Signals first: static imports would be loaded before them.
const { raisePriority } = await import('../../lib/priority.ts');
const priority = raisePriority();
const { EarlyListener } = await import('../../bfd/early-listener.ts');
const early = EarlyListener.open();
const { resolveOptions } = await import('../options.ts');
const { policyFromEnv } = await import('../policy/kube-ovn/env.ts');
const { supervise } = await import('../supervisor.ts');

/** Prints errors and exits. */
function refuse(...lines: string[]): never {
  for (const line of lines) process.stderr.write(`veg-agent: error: ${line}\n`);
  process.exit(1);
}

function options(): Options {
  try {
    return resolveOptions({}, process.env, false);
  } catch (error) {
    return refuse((error as Error).message);
  }
}

const [title] = process.argv.slice(2);
if (title !== undefined) process.title = title;
// The environment cannot change while this runs: an invalid one must not start.
const policy = policyFromEnv(process.env);
if (policy?.ok === false) refuse(...policy.errors.map(({ path, message }) => `${path}: ${message}`));
const file = process.env.VEG_AGENT_SEAL;
const sealed = policy?.ok && file ? { policy: policy.policy, file } : undefined;
process.exit(await supervise(options(), priority, sealed, { early }));
