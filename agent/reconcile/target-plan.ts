/** A plan whose families may follow different policies. Pure. */
import { type Address, FAMILIES, type Family, familyOf } from '../../lib/prefix.ts';
import type { Plan } from '../plan/plan.ts';
import { sysctlFamily } from './targets.ts';

/** Replaces one family in a plan with that of another plan. */
export function replaceFamily(plan: Plan, other: Plan, family: Family): void {
  const mix = <T>(
    ours: readonly T[],
    theirs: readonly T[],
    familyOfOne: (one: T) => Family | undefined,
  ): T[] => [
    ...ours.filter((one) => familyOfOne(one) !== family),
    ...theirs.filter((one) => familyOfOne(one) === family),
  ];
  const byFamily = (one: { family: Family }) => one.family;
  plan.routing = mix(plan.routing, other.routing, byFamily);
  plan.nat = mix(plan.nat, other.nat, byFamily);
  plan.counters = mix(plan.counters, other.counters, byFamily);
  plan.addresses = mix(plan.addresses, other.addresses, byFamily);
  plan.proxies = mix(plan.proxies, other.proxies, byFamily);
  plan.announcements = mix(plan.announcements, other.announcements, byFamily);
  plan.groups = mix(plan.groups, other.groups, byFamily);
  plan.elsewhere = mix(plan.elsewhere, other.elsewhere, byFamily);
  plan.sysctls = mix(plan.sysctls, other.sysctls, ({ path }) => sysctlFamily(path));
  plan.interfacesOf = { ...plan.interfacesOf, [family]: other.interfacesOf[family] };
  plan.peers = mix(plan.peers, other.peers, ({ remote }) => familyOf(remote as Address));
  plan.families = plan.families.map((one, i) => (one.family === family ? other.families[i]! : one));
  plan.leftAlone = mix(plan.leftAlone, other.leftAlone, (one) => one);
  // `interfaces` has room for one pair: that of the first family in use.
  const isUsed = (one: Family) =>
    plan.families.some((status) => status.family === one && status.state !== 'unused');
  if (FAMILIES.find(isUsed) !== family) return;
  plan.interfaces = other.interfaces;
  plan.listenAddresses = other.listenAddresses;
}
