/** An address family that the gateway serves: its part of the policy and of the pod. Pure. */
import { type Address, type Family, familyOf, type Prefix } from '../../lib/prefix.ts';
import type { PrimaryNetwork } from '../../routing/desired.ts';
import type { InterfaceAddress } from '../../routing/state.ts';
import type { Facts } from '../pod/interfaces.ts';
import { type Given, networkOf, ownAddresses } from '../pod/own-address.ts';
import { primaryNetwork } from '../pod/primary.ts';
import type { Policy } from '../policy/model.ts';
import { givenAddresses } from './nat.ts';

/** The names of the gateway's two interfaces; one name twice if it has one interface. */
export interface Interfaces {
  internal: string;
  external: string;
}

export interface Gateways {
  internal: Address;
  external: Address;
}

export interface ServedFamily {
  family: Family;
  policy: Policy;
  facts: Facts;
  interfaces: Interfaces;
  gateways: Gateways;
  /** Own addresses of the internal interface; the first is the one to use. */
  internalAddresses: readonly InterfaceAddress[];
  /** The networks of these. */
  internalNetworks: readonly Prefix[];
  /** Own addresses of the external interface likewise. */
  externalAddresses: readonly InterfaceAddress[];
  /** The addresses that the policy gives to others. */
  given: Given;
  /** BFD peers. */
  peers: readonly Address[];
  /** The pod's primary network, if that is on neither side. */
  primary: PrimaryNetwork | undefined;
}

/** The BFD peers of a policy in a family; none with BFD off. */
export const bfdPeers = ({ bfd }: Policy, family: Family): Address[] =>
  bfd.enabled ? bfd.peers.filter((peer) => familyOf(peer) === family) : [];

/** @param primaryName the interface of the pod's primary network; undefined if that is a side of the gateway */
export function servedFamily(
  policy: Policy,
  facts: Facts,
  family: Family,
  gateways: Gateways,
  interfaces: Interfaces,
  primaryName: string | undefined,
): ServedFamily {
  const { internal, external } = interfaces;
  const given = givenAddresses(policy, family);
  const internalAddresses = ownAddresses(facts, internal, { family, gateway: gateways.internal });
  const inside = internal === external ? [] : internalAddresses.map(({ address }) => address);
  return {
    ...{ family, policy, facts, interfaces, gateways, given, internalAddresses },
    internalNetworks: internalAddresses.map(networkOf),
    externalAddresses: ownAddresses(facts, external, { family, gateway: gateways.external, given, inside }),
    peers: bfdPeers(policy, family),
    primary: primaryName === undefined ? undefined : primaryNetwork(facts, primaryName, family),
  };
}
