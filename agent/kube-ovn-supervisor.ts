/**
 * The program of Kube-OVN's gateway containers (images/gateway): `veg-agent run` with all settings from the
 * environment. What makes the command line is left out, because this has to be up within a second on a fifth of a
 * core. An argument is what the process is to be called: Kube-OVN's tests look at /proc/1/cmdline.
 */
import { raisePriority } from '../bfd/priority.ts';
import { type Options, resolveOptions } from './options.ts';
import { policyFromEnv } from './policy/kube-ovn-env.ts';
import { supervise } from './supervisor.ts';

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
process.exit(await supervise(options(), raisePriority()));
