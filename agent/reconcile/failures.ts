/**
 * What the kernel does not hold as the policy says, object by object, as `status`, `/readyz`, the log and
 * `veg_agent_objects_failed` tell it. Pure.
 *
 * A failed object is no reason by itself to take BFD out of Up: reconciler.ts says which families still translate and
 * route as a good policy said.
 */
import type { Family } from '../../lib/prefix.ts';

/**
 * The kinds of things that can fail: the label `object`. `listing`: what is there could not be read; `interface`: it is
 * not as the policy needs it.
 */
export type FailedKind =
  | 'rule'
  | 'route'
  | 'address'
  | 'chain'
  | 'set'
  | 'port_blocks'
  | 'sysctl'
  | 'table'
  | 'interface'
  | 'listing';

/** Why: the label `reason`. */
export type FailureReason =
  /** A program is not there. */
  | 'not_installed'
  /** A capability, or the right to write a file, is missing. */
  | 'not_permitted'
  /** Somebody holds the xtables lock. */
  | 'locked'
  /** The file of the xtables lock cannot be opened. */
  | 'lock_file'
  /** The kernel lacks a module or a feature. */
  | 'unsupported'
  /** The table holds what only `nft` can list. */
  | 'incompatible'
  /** It changed between reading and writing. */
  | 'changed'
  | 'timed_out'
  /** Somebody else has it: an address on the link, a set that a foreign rule uses. */
  | 'in_use'
  /** The kernel has no way to it: a gateway on no network, a link that is not there. */
  | 'unreachable'
  /** The kernel does not take such a value. */
  | 'invalid'
  /** Anything else. */
  | 'failed';

/** A thing that is not as the policy says. */
export interface Failure {
  object: FailedKind;
  family?: Family;
  /** Which one: an address, a destination, a chain, a setting. */
  name: string;
  reason: FailureReason;
  /** What was tried, what came of it, and what to do. */
  message: string;
}

export interface FailedObject extends Failure {
  /** When it was first told without a break, Unix milliseconds. */
  since: number;
}

const keyOf = ({ object, family, name }: Failure): string => `${object} ${family ?? ''} ${name}`;

/** The failures that there are now, each once, since when they have been there. */
export function failedSince(
  before: readonly FailedObject[],
  failures: readonly Failure[],
  now: number,
): FailedObject[] {
  const since = new Map(before.map((failed) => [keyOf(failed), failed.since]));
  const found = new Map<string, FailedObject>();
  for (const failure of failures) {
    const key = keyOf(failure);
    if (!found.has(key)) found.set(key, { ...failure, since: since.get(key) ?? now });
  }
  return [...found.values()];
}

/** How many have failed, by kind and reason. */
export function countFailed(
  failed: readonly FailedObject[],
): { object: FailedKind; reason: FailureReason; count: number }[] {
  const groups = Map.groupBy(failed, ({ object, reason }) => `${object} ${reason}`);
  return [...groups.values()].map((group) => {
    const { object, reason } = group[0]!;
    return { object, reason, count: group.length };
  });
}
