/** What is counted in one family for a policy. Pure. */
import { type Family, familyOf, type Prefix } from '../../lib/prefix.ts';
import type { CounterIntent } from '../../nat/counters/table.ts';
import type { Policy } from '../policy/model.ts';
import { byPriority } from '../policy/resolve.ts';

/** The intent, with the policies that the translation log names for connections of the family. */
export function familyCounters(policy: Policy, family: Family, internalInterface: string): CounterIntent {
  const own = (blocks: readonly Prefix[] = []): Prefix[] =>
    blocks.filter((block) => familyOf(block) === family);
  /** Whether all blocks of a list are of the other family. */
  const isOther = (blocks: readonly Prefix[] = []): boolean => blocks.length > 0 && own(blocks).length === 0;
  const policies = byPriority(policy.rules).flatMap((rule) => {
    const { name, snat, ipBlocks, destinationCIDRs, excludedCIDRs } = rule;
    if (isOther(ipBlocks) || isOther(destinationCIDRs)) return [];
    return [
      {
        ...{ name, snat, sources: own(ipBlocks) },
        ...{ destinations: own(destinationCIDRs), excluded: own(excludedCIDRs) },
      },
    ];
  });
  const { eips = [], dnats = [], inbound, defaultAction } = policy;
  const forwardsRest = defaultAction === 'forward' || inbound === 'any';
  const opened = [...eips, ...dnats].some(({ externalIP }) => familyOf(externalIP) === family);
  return {
    ...{ family, internalInterface, policies, forwardsRest },
    all: policy.rules.map(({ name, snat }) => ({ name, snat })),
    fromOutside: opened || forwardsRest || policies.some(({ snat }) => !snat),
  };
}
