/** What NAT has to do in one family for a policy. Pure. */

import { type Address, anyPrefix, type Family, familyOf, hostPrefix, type Prefix } from '../../lib/prefix.ts';
import type { FamilyNat } from '../../nat/desired.ts';
import type { EgressAction, EgressPolicy } from '../../nat/egress.ts';
import type { MasqueradeSource } from '../../nat/rules.ts';
import type { Given } from '../pod/own-address.ts';
import type { Announced, EgressIP, EgressRule, Owned, Policy } from '../policy/model.ts';
import { PrefixIndex } from '../policy/overlap.ts';
import { byPriority, isForAll } from '../policy/resolve.ts';
import { type FamilyGroup, sharedAction } from './group.ts';

/** The part of a list that is of a family. */
const ofFamily = <T extends Address | Prefix>(values: readonly T[] | undefined, family: Family): T[] =>
  [...new Set(values)].filter((value) => familyOf(value) === family);

/** A rule in one family; undefined when it does not apply to that family. */
function inFamily(rule: EgressRule, family: Family): EgressRule | undefined {
  const { ipBlocks, destinationCIDRs, excludedCIDRs, egressIP, ...rest } = rule;
  const own = ofFamily(ipBlocks, family);
  const destinations = ofFamily(destinationCIDRs, family);
  const addresses = ofFamily(egressIP?.addresses, family);
  const nothing =
    (ipBlocks.length > 0 && own.length === 0) ||
    (destinationCIDRs?.length && destinations.length === 0) ||
    (egressIP && addresses.length === 0);
  if (nothing) return undefined;
  return {
    ...rest,
    ipBlocks: own,
    destinationCIDRs: destinations,
    excludedCIDRs: ofFamily(excludedCIDRs, family),
    ...(egressIP && { egressIP: { ...egressIP, addresses } }),
  };
}

/** The sources of a rule that is of one family. */
const sourcesIn = ({ ipBlocks }: EgressRule, family: Family): readonly Prefix[] =>
  ipBlocks.length > 0 ? ipBlocks : [anyPrefix(family)];

/**
 * The blocks that are forwarded whatever their destination, in order, without those that an earlier rule
 * translates, wholly or in part.
 */
function forwardedBlocks(rules: readonly EgressRule[], family: Family): Set<Prefix> {
  const translated = new PrefixIndex<number>();
  const forwarded = new PrefixIndex<{ block: Prefix; at: number }>();
  const blocks = new Set<Prefix>();
  if (rules.every(({ snat }) => !snat)) {
    return new Set(rules.filter(isForAll).flatMap((rule) => sourcesIn(rule, family)));
  }
  for (const [at, rule] of rules.entries()) {
    for (const block of sourcesIn(rule, family)) {
      if (rule.snat) translated.add(block, at);
      else if (isForAll(rule) && !blocks.has(block)) {
        forwarded.add(block, { block, at });
        if (![...translated.holding(block)].some((earlier) => earlier < at)) blocks.add(block);
      }
    }
  }
  for (const [at, rule] of rules.entries()) {
    if (!rule.snat) continue;
    for (const part of sourcesIn(rule, family)) {
      for (const around of forwarded.holding(part)) if (at < around.at) blocks.delete(around.block);
    }
  }
  return blocks;
}

function actionOf(
  { snat, egressIP, portBlockSize }: EgressRule,
  masquerade: 'masquerade' | 'drop',
  group: FamilyGroup | undefined,
): EgressAction {
  if (!snat) return 'forward';
  if (egressIP === undefined) return masquerade;
  if (egressIP.shared) return group === undefined ? 'drop' : sharedAction(group, egressIP.addresses);
  return { snat: egressIP.addresses, ...(portBlockSize !== undefined && { portBlockSize }) };
}

/**
 * What masquerading gives: `chosen`, the address that the kernel chooses; one that is spelt out; `none`, where the
 * gateway has no address of its own: what would be masqueraded is dropped.
 */
export type Masquerade = 'chosen' | 'none' | MasqueradeSource;

/** Whether a policy masquerades anything in a family. */
export const masquerades = (policy: Policy, family: Family): boolean =>
  (policy.defaultAction ?? 'masquerade') === 'masquerade' ||
  policy.rules.some(
    (rule) => rule.snat && rule.egressIP === undefined && inFamily(rule, family) !== undefined,
  );

/**
 * NAT's part of the policy. Blocks that are simply forwarded stay what Kube-OVN makes of them (`forward`);
 * `policies` are there when something needs a decision that these and masquerading are not.
 */
export function familyNat(
  policy: Policy,
  family: Family,
  internalInterface: string,
  masquerade: Masquerade = 'chosen',
  group?: FamilyGroup,
): FamilyNat {
  const ifMasqueraded = masquerade === 'none' ? 'drop' : 'masquerade';
  const rules = byPriority(policy.rules).flatMap((rule) => inFamily(rule, family) ?? []);
  const forward = forwardedBlocks(rules, family);
  const policies = rules.flatMap((rule): EgressPolicy[] => {
    const left = rule.snat || !isForAll(rule) ? rule.ipBlocks : rule.ipBlocks.filter((b) => !forward.has(b));
    if (rule.ipBlocks.length > 0 && left.length === 0) return [];
    return [
      {
        name: rule.name,
        action: actionOf(rule, ifMasqueraded, group),
        sources: left,
        destinations: rule.destinationCIDRs ?? [],
        excluded: rule.excludedCIDRs ?? [],
      },
    ];
  });
  const { eips = [], dnats = [], mssClamp = false, inbound, limits } = policy;
  const asked = policy.defaultAction ?? 'masquerade';
  const defaultAction = asked === 'masquerade' ? ifMasqueraded : asked;
  const decides = defaultAction !== 'masquerade' || policies.some(({ action }) => action !== 'masquerade');
  const familyEips = eips.filter(({ externalIP }) => familyOf(externalIP) === family);
  const familyDnats = dnats.filter(({ externalIP }) => familyOf(externalIP) === family);
  return {
    family,
    internalInterface,
    forward: [...forward],
    notrackBfd: policy.bfd.enabled || group !== undefined,
    ...(decides && { policies, defaultAction }),
    ...(typeof masquerade === 'object' && { source: masquerade }),
    ...(familyEips.length > 0 && { eips: familyEips.map(withoutOwner) }),
    ...(familyDnats.length > 0 && { dnats: familyDnats.map(withoutOwner) }),
    ...(mssClamp && { mssClamp }),
    dropInvalid: true,
    ...(inbound && { inbound }),
    ...(limits?.connectionsPerSource && { connectionsPerSource: limits.connectionsPerSource }),
  };
}

/** The translation is the same on every gateway; the owner holds the address. */
const withoutOwner = <T extends Owned>({ owner: _, ...rest }: T): Omit<T, 'owner'> => rest;

/** The internal addresses that EIPs and DNATs lead to. */
export const inboundTargets = ({ eips = [], dnats = [] }: FamilyNat): Address[] => [
  ...new Set([...eips, ...dnats].map(({ internalIP }) => internalIP)),
];

/** An external address of the policy, and what for. */
export interface ExternalUse {
  address: Address;
  use: Exclude<Announced, 'forwarded'>;
  /** Of `egressIPs`. */
  egressIP?: EgressIP;
}

/** What the policy has external addresses for. Nobody owns what is neither held nor announced. */
function allUses({ rules, eips = [], dnats = [] }: Policy): (ExternalUse & Owned)[] {
  return [
    ...rules.flatMap(({ snat, egressIP }) =>
      snat && egressIP?.announce
        ? egressIP.addresses.map((address) => ({
            ...{ address, use: 'egressIPs' as const, egressIP },
            ...(egressIP.owner !== undefined && { owner: egressIP.owner }),
          }))
        : [],
    ),
    ...eips.map(({ externalIP: address, owner }) => ({
      ...{ address, use: 'eips' as const, ...(owner !== undefined && { owner }) },
    })),
    ...dnats.map(({ externalIP: address, owner }) => ({
      ...{ address, use: 'dnats' as const, ...(owner !== undefined && { owner }) },
    })),
  ];
}

/** The addresses that belong to others than the gateway, when it is called by one of these names, with their owners. */
const ownersElsewhere = (policy: Policy, names: readonly string[]): Map<Address, string> =>
  new Map(
    allUses(policy).flatMap(({ address, owner }) =>
      owner === undefined || names.includes(owner) ? [] : [[address, owner] as const],
    ),
  );

/**
 * The external addresses that belong to the gateway, when it is called by one of these names. Whoever names an owner for an
 * address decides for all that use it.
 */
export function externalUses(policy: Policy, names: readonly string[]): ExternalUse[] {
  const elsewhere = ownersElsewhere(policy, names);
  return allUses(policy).filter(({ address }) => !elsewhere.has(address));
}

/** Addresses that a note names; of the others the number. */
const MAX_NAMED = 5;

/** The addresses of a family that the gateway leaves to others, a text for each owner; not those that the pod has itself. */
export function ownerNotes(
  policy: Policy,
  family: Family,
  names: readonly string[],
  there: readonly Address[],
): string[] {
  const found = [...ownersElsewhere(policy, names)].filter(
    ([address]) => familyOf(address) === family && !there.includes(address),
  );
  const self =
    names.length > 0
      ? `this gateway is ${names.join(' on ')}`
      : 'this gateway has no name, for want of POD_NAME and NODE_NAME';
  return [...Map.groupBy(found, ([, owner]) => owner)].map(([owner, group]) => {
    const more = group.length > MAX_NAMED ? ` and ${group.length - MAX_NAMED} more` : '';
    const named = group.slice(0, MAX_NAMED).map(([address]) => address);
    const [verb, it] = group.length === 1 ? ['is', 'it'] : ['are', 'them'];
    const why = owner === '' ? `no gateway owns ${it}` : `${owner} owns ${it}, and ${self}`;
    return `${named.join(', ')}${more} ${verb} neither held nor announced here: ${why}`;
  });
}

/** Whether an address is held on the external link by this gateway alone. */
export const isHeld = ({ egressIP }: ExternalUse): boolean =>
  egressIP === undefined || (egressIP.announce !== 'bgp' && !egressIP.shared);

/** The external addresses that the gateway has to hold in a family, when it is called by one of these names. */
export const heldAddresses = (policy: Policy, family: Family, names: readonly string[]): Address[] =>
  ofFamily(
    externalUses(policy, names)
      .filter(isHeld)
      .map(({ address }) => address),
    family,
  );

/**
 * The external addresses of a family that are on no interface, and to which the policy lets connections from outside in. What
 * belongs to none would go on into the VPC.
 * @param held the addresses on the external interface
 */
export function nowhereAddresses(policy: Policy, family: Family, held: readonly Address[]): Address[] {
  const { rules, dnats = [], inbound, defaultAction } = policy;
  const onLink = new Set(held);
  const external = [
    ...rules.flatMap(({ snat, egressIP }) => (snat && !egressIP?.shared && egressIP?.addresses) || []),
    ...dnats.map(({ externalIP }) => externalIP),
  ];
  const loose = ofFamily(external, family).filter((address) => !onLink.has(address));
  const admitsAll =
    inbound === 'any' ||
    defaultAction === 'forward' ||
    rules.some(({ snat, ipBlocks }) => !snat && ipBlocks.length === 0);
  if (admitsAll || loose.length === 0) return loose;
  const forwarded = new PrefixIndex<true>();
  for (const { snat, ipBlocks } of rules) if (!snat) for (const block of ipBlocks) forwarded.add(block, true);
  return loose.filter((address) => !forwarded.holding(hostPrefix(address)).next().done);
}

/** The external addresses that a policy gives to others in a family. */
export function givenAddresses({ rules, eips = [], dnats = [] }: Policy, family: Family): Given {
  const shared = [
    ...rules.flatMap(({ snat, egressIP }) => (snat && egressIP?.addresses) || []),
    ...dnats.map(({ externalIP }) => externalIP),
  ];
  return {
    pods: ofFamily(
      eips.map(({ externalIP }) => externalIP),
      family,
    ),
    shared: ofFamily(shared, family),
  };
}

/** The policies whose port blocks share their address with all that is masqueraded. */
export const portNotes = (policy: Policy, own: readonly Address[]): string[] =>
  policy.rules.flatMap(({ name, portBlockSize, egressIP }) =>
    (portBlockSize === undefined ? [] : (egressIP?.addresses ?? []))
      .filter((address) => own.includes(address))
      .map(
        (address) =>
          `policy ${name}: ${address} is the external interface's own address, so masqueraded connections and the pod's own use ports of its blocks too`,
      ),
  );

/** The policies that name sources of a family, and no address for them. */
export function egressNotes(policy: Policy, family: Family): string[] {
  return policy.rules
    .filter(({ egressIP, ipBlocks }) => egressIP !== undefined && ofFamily(ipBlocks, family).length > 0)
    .filter(({ egressIP }) => ofFamily(egressIP!.addresses, family).length === 0)
    .map(
      ({ name }) => `policy ${name} has no IPv${family} egress address and says nothing about IPv${family}`,
    );
}
