/**
 * The program of Kube-OVN's gateway containers (images/gateway): `veg-agent run` with all settings from the
 * environment. What makes the command line is left out, because this has to be up within a second on a fifth of a
 * core. An argument is what the process is to be called: Kube-OVN's tests look at /proc/1/cmdline.
 */
import '../../lib/signals.ts';
import type { Options } from '../options.ts';

// Signals first: what is imported by a statement is loaded before them.
const { raisePriority } = await import('../../lib/priority.ts');
const priority = raisePriority();
const { resolveOptions } = await import('../options.ts');
const { policyFromEnv } = await import('../policy/kube-ovn/env.ts');
const { supervise } = await import('../supervisor.ts');

/** Says what is wrong and ends. */
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
// Nothing can mend the environment while this runs: the container had better not start.
const policy = policyFromEnv(process.env);
if (policy?.ok === false) refuse(...policy.errors.map(({ path, message }) => `${path}: ${message}`));
process.exit(await supervise(options(), priority));
