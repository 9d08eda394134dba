/**
 * The gateway's own addresses: which of those on an interface packets may leave from, and which one they do leave
 * from. Pure.
 *
 * Own is an address that another program than the agent has put on the interface, that is global, and that has passed
 * duplicate address detection; but no EIP, which is a pod's, and none that is an address of the other side as well. Of
 * several the first of this order is used: on a network with the gateway; named by no policy; not deprecated (IPv6:
 * RFC 6724 5, rule 3); neither temporary nor IPv4's secondary; the one that has been there longest.
 */

import { RT_SCOPE_LINK, RT_SCOPE_UNIVERSE } from '../../lib/linux.ts';
import { type Address, contains, type Family, type Prefix, parsePrefix } from '../../lib/prefix.ts';
import { ownsAddress } from '../../routing/ownership.ts';
import type { InterfaceAddress } from '../../routing/state.ts';
import type { Facts } from './interfaces.ts';

export type LinkFacts = Pick<Facts, 'links' | 'addresses'>;

// linux/if_addr.h; the first bit means secondary in IPv4, temporary in IPv6.
const IFA_F_SECONDARY = 0x01;
const IFA_F_DADFAILED = 0x08;
const IFA_F_DEPRECATED = 0x20;
const IFA_F_TENTATIVE = 0x40;

/** Addresses that the policy assigns to pods, in a family. */
export interface Given {
  /** Wholly: never the gateway's own. */
  pods: readonly Address[];
  /** Beside others (egress addresses, DNATs): the gateway's own when it has no other. */
  shared: readonly Address[];
}

const NOTHING_GIVEN: Given = { pods: [], shared: [] };

/** The network that an address is in. */
export const networkOf = ({ address, prefixLength }: InterfaceAddress): Prefix =>
  parsePrefix(`${address}/${prefixLength}`)!;

/** All addresses of a family on an interface. */
function addressesOn({ links, addresses }: LinkFacts, name: string, family: Family): InterfaceAddress[] {
  const index = links.find((link) => link.name === name)?.index;
  return addresses.filter((address) => address.ifindex === index && address.family === family);
}

/** Whether packets can be sent from an address: it is global, and no duplicate on the link. */
export const isUsable = ({ scope, flags }: Pick<InterfaceAddress, 'scope' | 'flags'>): boolean =>
  scope === RT_SCOPE_UNIVERSE && (flags & (IFA_F_DADFAILED | IFA_F_TENTATIVE)) === 0;

/** The pod's own addresses on an interface that packets can be sent from, without virtual ones. */
export function usableAddresses(facts: LinkFacts, name: string, family: Family): InterfaceAddress[] {
  return addressesOn(facts, name, family).filter((address) => !ownsAddress(address) && isUsable(address));
}

/** The message that an interface has no usable address, with the reason where it is known. */
export function noAddress(facts: LinkFacts, name: string, family: Family, role: string): string {
  const duplicate = addressesOn(facts, name, family).find(({ flags }) => flags & IFA_F_DADFAILED);
  const why = duplicate === undefined ? '' : `: another host on the link has ${duplicate.address}`;
  return `the ${role} interface ${name} has no usable IPv${family} address${why}`;
}

/**
 * The gateway's own addresses on an interface, the one that packets leave from first.
 * @param inside the addresses of the other side
 */
export function ownAddresses(
  facts: LinkFacts,
  name: string,
  {
    family,
    gateway,
    given = NOTHING_GIVEN,
    inside = [],
  }: { family: Family; gateway?: Address | undefined; given?: Given; inside?: readonly Address[] },
): InterfaceAddress[] {
  const others = [...given.pods, ...inside];
  const usable = usableAddresses(facts, name, family).filter(({ address }) => !others.includes(address));
  // The kernel lists the newest IPv6 address first, the oldest IPv4 address.
  const byAge = family === 6 ? usable.toReversed() : usable;
  const last = (address: InterfaceAddress): boolean[] => [
    gateway !== undefined && !contains(networkOf(address), gateway),
    given.shared.includes(address.address),
    (address.flags & IFA_F_DEPRECATED) !== 0,
    (address.flags & IFA_F_SECONDARY) !== 0,
  ];
  const rank = (address: InterfaceAddress): number =>
    last(address).reduce((value, isLast) => value * 2 + Number(isLast), 0);
  return byAge.toSorted((a, b) => rank(a) - rank(b));
}

/**
 * Whether MASQUERADE by itself takes the first of the own addresses, now and when one of them goes: nothing is on
 * the interface that is not the gateway's own, nor will be.
 * @param own as `ownAddresses` has them; at least one
 */
export function masqueradeChoosesOwn(
  facts: LinkFacts,
  name: string,
  {
    family,
    gateway,
    own,
    given,
  }: { family: Family; gateway: Address; own: readonly InterfaceAddress[]; given: Given },
): boolean {
  const isOwn = (address: Address) => own.some((candidate) => candidate.address === address);
  const there = addressesOn(facts, name, family);
  if (![...given.pods, ...given.shared].every(isOwn)) return false;
  // net/ipv6/addrconf.c, ipv6_dev_get_saddr: of several another one for each destination; a deprecated one last.
  if (family === 6) {
    const global = there.filter(({ scope }) => scope !== RT_SCOPE_LINK);
    return global.length === 1 && own.length === 1 && (own[0]!.flags & IFA_F_DEPRECATED) === 0;
  }
  // net/ipv4/devinet.c, inet_select_addr: the first primary one on the next hop's network, else the first.
  const primary = there.filter(({ flags }) => (flags & IFA_F_SECONDARY) === 0);
  const chosen = primary.find((address) => contains(networkOf(address), gateway)) ?? primary[0];
  return there.every(({ address }) => isOwn(address)) && chosen?.address === own[0]!.address;
}

/**
 * Where questions to neighbours come from on an interface: the best own address, else a virtual one, else a
 * link-local one. Undefined where there is none.
 */
export function questionSource(
  facts: LinkFacts,
  name: string,
  family: Family,
  gateway: Address,
): Address | undefined {
  const there = addressesOn(facts, name, family).filter(
    ({ flags }) => (flags & (IFA_F_DADFAILED | IFA_F_TENTATIVE)) === 0,
  );
  const [own] = ownAddresses(facts, name, { family, gateway });
  return (own ?? there.find(ownsAddress) ?? there[0])?.address;
}
