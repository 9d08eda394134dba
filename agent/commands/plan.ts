/**
 * The command `veg-agent plan`. It asks the running daemon, which has the policy: a second one beside it does not fit
 * where memory is short. Without a daemon, or with one that uses another policy directory or other interfaces than the
 * command names, the command observes the kernel itself.
 */
import { callControl, NoAgentError } from '../../lib/control/client.ts';
import type { Options } from '../options.ts';
import { errorOutput, planOutput } from '../show/command-output.ts';
import type { PlanDocument } from '../show/plan-document.ts';
import { print } from './print.ts';

/** How long the daemon may take, ms: it waits for a reconcile in flight. */
const TIMEOUT = 60_000;

/** The daemon's answer; or the exit code, after the reason was printed. Undefined: there is no daemon for this. */
async function ask(
  stateDir: string,
  named: Record<string, string>,
): Promise<PlanDocument | number | undefined> {
  try {
    const path = `/v1/plan?${new URLSearchParams(named)}`;
    const { status, body } = await callControl(stateDir, 'GET', path, { timeoutMs: TIMEOUT });
    if (status === 200) return JSON.parse(body) as PlanDocument;
    return status === 404 || status === 409 ? undefined : print(errorOutput(status, body));
  } catch (error) {
    if (!(error instanceof NoAgentError)) throw error;
    if (error.why === 'absent') return undefined;
    return print(errorOutput(0, error.message));
  }
}

/**
 * `plan`: 0 nothing to do, 4 changes pending, 1 unknown, 3 the policy is invalid. `named`: the flags and variables that
 * choose the policy and the interfaces.
 */
export async function plan(options: Options, named: Record<string, string>, json: boolean): Promise<number> {
  const asked = await ask(options.stateDir, named);
  const found = asked ?? (await (await import('./plan-local.ts')).planLocally(options));
  if (typeof found === 'number') return found;
  return print(planOutput(found, json ? 'json' : 'text'));
}
