/** The gateway's addresses and the links that they are on: what claims.ts announces and defends. Pure. */
import { type Address, FAMILIES } from '../../lib/prefix.ts';
import type { AddressStep, VirtualAddress } from '../../routing/addresses.ts';
import { RTPROT_VEG_AGENT } from '../../routing/numbers.ts';
import { ownsAddress } from '../../routing/ownership.ts';
import type { RoutingState } from '../../routing/state.ts';
import type { Plan } from '../plan/plan.ts';
import { isUsable } from '../pod/own-address.ts';
import type { LinkIdentity } from '../uplink/claims.ts';

/** An interface as its neighbours know it; undefined where it cannot reach any. */
function linkIdentity(name: string, { links }: Pick<RoutingState, 'links'>): LinkIdentity | undefined {
  const link = links.find((candidate) => candidate.name === name);
  if (!link?.up || !link.carrier || link.mac === '') return undefined;
  return { ifindex: link.index, mac: link.mac, carrierChanges: link.carrierChanges ?? 0 };
}

/** The gateway's addresses on its interfaces and those that it answers for, but for those that it is about to remove. */
export function assignedAddresses(plan: Plan, observed: RoutingState): Map<Address, LinkIdentity> {
  const used = plan.families.filter(({ state }) => state !== 'unused').map(({ family }) => family);
  const wanted = new Set(plan.addresses.map(({ address }) => address));
  const assigned = new Map<Address, LinkIdentity>();
  for (const name of new Set(FAMILIES.flatMap((family) => Object.values(plan.interfacesOf[family])))) {
    const link = linkIdentity(name, observed);
    if (link === undefined) continue;
    for (const found of observed.addresses) {
      if (found.ifindex !== link.ifindex || !used.includes(found.family)) continue;
      // Virtual addresses are not for the pod's own packets, but neighbours know them all the same.
      if (ownsAddress(found) ? wanted.has(found.address) : isUsable(found)) assigned.set(found.address, link);
    }
    for (const { address, contested } of plan.proxies) {
      if (observed.proxies?.some((found) => found.address === address && found.dev === name)) {
        assigned.set(address, { ...link, proxied: true, ...(contested && { contested }) });
      }
    }
  }
  return assigned;
}

/** An address that is to be held, on its interface or by a proxy entry. */
type Unheld = VirtualAddress & { proxied?: true };

/**
 * The addresses that this gateway is to hold, on its interface or by a proxy entry, and has in neither form: it probes for
 * them first. `steps`: those of the addresses on the interface.
 */
export function unheldAddresses(
  plan: Plan,
  { addresses, proxies = [] }: RoutingState,
  steps: readonly AddressStep[],
): Unheld[] {
  const entries = new Set(
    proxies.filter(({ protocol }) => protocol === RTPROT_VEG_AGENT).map(({ address }) => address),
  );
  const held = new Set(addresses.filter(ownsAddress).map(({ address }) => address));
  return [
    ...steps.filter(({ kind }) => kind === 'addAddress').map(({ address }) => address),
    ...plan.proxies
      .filter(({ contested }) => !contested)
      .map(({ family, address, dev }): Unheld => ({ family, address, dev, proxied: true })),
  ].filter(({ address }) => !entries.has(address) && !held.has(address));
}

/** The missing addresses whose link can hold them, each with its link. */
export function missingAddresses(
  missing: readonly Unheld[],
  observed: RoutingState,
): Map<Address, LinkIdentity> {
  return new Map(
    missing.flatMap(({ address, dev, proxied }) => {
      const link = linkIdentity(dev, observed);
      return link === undefined ? [] : [[address, { ...link, ...(proxied && { proxied }) }] as const];
    }),
  );
}
