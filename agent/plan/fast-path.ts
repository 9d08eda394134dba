/** The fast path of a policy for the pod's two interfaces. Pure. */
import type { FastPathIntent } from '../../nat/fast-path/table.ts';
import type { Facts } from '../pod/interfaces.ts';
import type { Policy } from '../policy/model.ts';
import { limitedPolicies } from './bandwidth.ts';
import type { Interfaces } from './served-family.ts';

/** What is to be in the kernel, undefined: nothing; and why it is not what the policy asks for. */
export function fastPathOf(
  policy: Policy,
  { fastPathPaused = false }: Pick<Facts, 'fastPathPaused'>,
  { internal, external }: Interfaces,
): { fastPath: FastPathIntent | undefined; notes: string[] } {
  if (!policy.fastPath || fastPathPaused) return { fastPath: undefined, notes: [] };
  if (internal === external) {
    const notes = [
      `the fast path is not in force: ${internal} is both sides of the gateway, and it needs one interface for each`,
    ];
    return { fastPath: undefined, notes };
  }
  return { fastPath: { internal, external, limited: limitedPolicies(policy) }, notes: [] };
}
