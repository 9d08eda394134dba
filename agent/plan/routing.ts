/** What routing has to do in one family for a policy. Pure. */
import {
  type Address,
  addressBits,
  contains,
  type Family,
  familyOf,
  hostPrefix,
  type Prefix,
  parsePrefix,
  prefixLength,
} from '../../lib/prefix.ts';
import type { Announcement, PrimaryNetwork, RoutingIntent, RoutingSide } from '../../routing/desired.ts';
import type { Facts } from '../pod/interfaces.ts';
import { type LinkFacts, networkOf, usableAddresses } from '../pod/own-address.ts';
import { holders } from '../policy/overlap.ts';
import { type FamilyGroup, groupRouting } from './group.ts';
import type { ServedFamily } from './served-family.ts';

/**
 * Routing's part of the plan of a family, and the notes about it.
 * @param targets the addresses inside that packets from outside are translated to
 * @param announced what routers learn now
 */
export function familyRouting(
  served: ServedFamily,
  targets: readonly Address[],
  group: FamilyGroup | undefined,
  announced: readonly Announcement[],
): { routing: RoutingIntent[number]; notes: string[] } {
  const { family, facts, interfaces, gateways, internalNetworks, peers, primary } = served;
  const { inwards, outwards, networks } = splitBlocks(served);
  const isOnLink = (target: Address | Prefix) =>
    internalNetworks.some((network) => contains(network, target));
  // Inside, a network without the gateway means that one of both is wrong, and the kernel will refuse the route; a host
  // address alone means nothing (Calico). Outside the probes find out.
  const isNear =
    isOnLink(gateways.internal) ||
    internalNetworks.every((network) => prefixLength(network) === addressBits(family));
  const internal = side(served, 'internal', isNear);
  const targetBlocks = targets
    .filter((target) => !inwards.some((block) => contains(block, target)))
    .map(hostPrefix);
  return {
    routing: {
      family,
      internal,
      external: side(served, 'external', true),
      internalBlocks: [...inwards, ...targetBlocks].filter((block) => !isOnLink(block)),
      // A block within a network of the link is on the link.
      externalBlocks: outwards.filter(
        (block) => prefixLength(block) > 0 && !networks.some((network) => contains(network, block)),
      ),
      peers: peers.filter((peer) => !isOnLink(peer)),
      ...(primary && { primary }),
      ...(group && { group: groupRouting(group, isOnLink) }),
      ...(announced.length > 0 && { announced: [...announced] }),
    },
    notes: [
      ...outwardNotes(outwards, interfaces.external, gateways.external),
      ...(internal.onlink && !isOnLink(gateways.internal)
        ? [
            `the internal gateway ${gateways.internal} is on no network of ${withAddresses(facts, interfaces.internal, family)}, and taken to be on its link`,
          ]
        : []),
      ...(primary === undefined ? [] : primaryNotes(primary, family, interfaces.external)),
    ],
  };
}

/** One side of the gateway. `isNear`: its gateway is on the link, even if no route of the kernel finds it there. */
function side(
  { family, facts, interfaces, gateways }: ServedFamily,
  which: 'internal' | 'external',
  isNear: boolean,
): RoutingSide {
  const [name, gateway] = [interfaces[which], gateways[which]];
  const onlink = isNear && !isReached(facts, name, gateway);
  return {
    interface: name,
    addresses: usableAddresses(facts, name, family).map(({ address }) => address),
    gateway,
    ...(onlink && { onlink }),
  };
}

/**
 * The blocks of the rules that lead into the VPC, and those that lead outside: they hold a network of the external
 * interface, or are wider than any private network. `networks`: those of the external interface.
 */
export function splitBlocks({
  family,
  policy,
  facts,
  interfaces: { external },
  gateways,
}: ServedFamily): Record<'inwards' | 'outwards' | 'networks', Prefix[]> {
  const blocks = [...new Set(policy.rules.flatMap(({ ipBlocks }) => ipBlocks))].filter(
    (block) => familyOf(block) === family,
  );
  const networks = [
    ...usableAddresses(facts, external, family).map(networkOf),
    ...facts.connected.filter(({ dev }) => dev === external).map(({ network }) => network),
    hostPrefix(gateways.external),
  ].filter((network) => familyOf(network) === family && !isLinkLocal(network));
  const around = holders(blocks, networks);
  const leadsOutside = (block: Prefix) => around.has(block) || isWide(block);
  return {
    inwards: blocks.filter((block) => !leadsOutside(block)),
    outwards: blocks.filter(leadsOutside),
    networks,
  };
}

const outwardNotes = (outwards: readonly Prefix[], external: string, gateway: Address): string[] =>
  outwards
    .filter((block) => prefixLength(block) > 0 && !contains(block, gateway))
    .map(
      (block) =>
        `${block} ${isWide(block) ? 'is wider than any private network' : `holds a network of ${external}`}: it leads outside, not into the VPC`,
    );

function primaryNotes(primary: PrimaryNetwork, family: Family, external: string): string[] {
  if (primary.routes.some(({ destination }) => prefixLength(destination) === 0)) return [];
  return [
    `no IPv${family} gateway of the primary interface ${primary.interface} is known: what comes to its addresses from another network is answered through ${external}; give it a default route`,
  ];
}

/** `eth0 (10.16.0.12/16)`. */
function withAddresses(facts: LinkFacts, name: string, family: Family): string {
  const addresses = usableAddresses(facts, name, family).map(
    ({ address, prefixLength: length }) => `${address}/${length}`,
  );
  return `${name} (${addresses.join(', ')})`;
}

/** No private network is wider (RFC 1918, RFC 4193): a block that is holds addresses of others. */
const WIDEST_PRIVATE = { 4: 8, 6: 7 } as const;
const isWide = (block: Prefix): boolean => prefixLength(block) < WIDEST_PRIVATE[familyOf(block)];

const LINK_LOCAL_6 = parsePrefix('fe80::/10')!;
const isLinkLocal = (value: Address | Prefix): boolean => contains(LINK_LOCAL_6, value);

/** Whether the kernel finds a gateway on the link of an interface by itself. */
const isReached = ({ connected }: Facts, name: string, gateway: Address): boolean =>
  isLinkLocal(gateway) || connected.some(({ dev, network }) => dev === name && contains(network, gateway));
