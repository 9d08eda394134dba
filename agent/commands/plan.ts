/**
 * The command `veg-agent plan`. The running daemon is asked: it has the policy, and a second one beside it has no room
 * where memory is short. Where no daemon runs, or one that goes by another policy directory or other interfaces than
 * the command names, the command looks by itself.
 */
import { callControl, NoAgentError } from '../../lib/control/client.ts';
import type { Options } from '../options.ts';
import { errorOutput, planOutput } from '../show/command-output.ts';
import type { PlanDocument } from '../show/plan-document.ts';
import { print } from './print.ts';

/** How long the daemon may take, ms: its look waits for a reconcile that runs. */
const TIMEOUT = 60_000;

/** What the daemon answers; or the exit code, when its reason was printed. Undefined: it cannot be asked this. */
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
    if (error.absent) return undefined;
    return print(errorOutput(0, error.message));
  }
}

/**
 * `plan`: 0 nothing to do, 4 changes pending, 1 cannot tell, 3 the policy is invalid. `named`: the flags and variables
 * that say which policy and which interfaces.
 */
export async function plan(options: Options, named: Record<string, string>, json: boolean): Promise<number> {
  const asked = await ask(options.stateDir, named);
  const found = asked ?? (await (await import('./once.ts')).planOnce(options));
  if (typeof found === 'number') return found;
  return print(planOutput(found, json ? 'json' : 'text'));
}
