/**
 * The objects that are not in the kernel as the policy says, for `status`, `/readyz`, the log and
 * `veg_agent_objects_failed`. Pure.
 *
 * A failed object alone takes no session out of Up: reconciler.ts decides which families are intact.
 */
import type { Family } from '../../lib/prefix.ts';

/**
 * The kinds of objects that can fail: the label `object`. `listing`: the kernel could not be read; `interface`: it is not
 * as the policy needs it.
 */
export type FailedKind =
  | 'rule'
  | 'route'
  | 'address'
  | 'link'
  | 'chain'
  | 'set'
  | 'port_blocks'
  | 'sysctl'
  | 'qdisc'
  | 'class'
  | 'classifier'
  | 'table'
  | 'interface'
  | 'listing';

/** Why: the label `reason`. */
export type FailureReason =
  /** A program is missing. */
  | 'not_installed'
  /** A capability, or the right to write a file, is missing. */
  | 'not_permitted'
  /** Another program holds the xtables lock. */
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
  /** In use by others: an address on the link, a set in a foreign rule. */
  | 'in_use'
  /** The kernel has no route to it: a gateway on no network, a missing link. */
  | 'unreachable'
  /** The kernel does not accept the value. */
  | 'invalid'
  /** Anything else. */
  | 'failed';

/** An object that is not as the policy says. */
export interface Failure {
  object: FailedKind;
  family?: Family;
  /** Which one: an address, a destination, a chain, a setting. */
  name: string;
  reason: FailureReason;
  /** What was tried, what the kernel answered, and what to do. */
  message: string;
}

export interface FailedObject extends Failure {
  /** Since when it has failed without a break, Unix milliseconds. */
  since: number;
}

const keyOf = ({ object, family, name }: Failure): string => `${object} ${family ?? ''} ${name}`;

/** The first failure of each object: a device is needed by both families. */
export function distinct(failures: readonly Failure[]): Failure[] {
  const found = new Map<string, Failure>();
  for (const failure of failures) {
    const key = keyOf(failure);
    if (!found.has(key)) found.set(key, failure);
  }
  return [...found.values()];
}

/** The failures now, each once, with the time since when each has lasted. */
export function failedSince(
  before: readonly FailedObject[],
  failures: readonly Failure[],
  now: number,
): FailedObject[] {
  const since = new Map(before.map((failed) => [keyOf(failed), failed.since]));
  return distinct(failures).map((failure) => ({ ...failure, since: since.get(keyOf(failure)) ?? now }));
}

/** The number of failed objects by kind and reason. */
export function countFailed(
  failed: readonly FailedObject[],
): { object: FailedKind; reason: FailureReason; count: number }[] {
  const groups = Map.groupBy(failed, ({ object, reason }) => `${object} ${reason}`);
  return [...groups.values()].map((group) => {
    const { object, reason } = group[0]!;
    return { object, reason, count: group.length };
  });
}
