/**
 * EVPN mode in one family (docs/bgp.md#evpn): the devices, the routes of the VRF into the VPC, and which of them FRR
 * announces. Nothing is translated. Pure.
 */
import {
  type Address,
  contains,
  type Family,
  familyOf,
  type Prefix,
  prefixLength,
} from '../../lib/prefix.ts';
import type { Announcement, RoutingSide, VpnRouting } from '../../routing/desired.ts';
import type { VpnLinks } from '../../routing/links.ts';
import type { Facts } from '../pod/interfaces.ts';
import { networkOf, ownAddresses } from '../pod/own-address.ts';
import type { EvpnPolicy, Policy } from '../policy/model.ts';
import { type AnnouncedPrefix, halves, isAnnounced } from './bgp.ts';
import type { Interfaces } from './served-family.ts';

/** What has been found of the pod in the family. */
export interface Vpn {
  family: Family;
  policy: Policy;
  facts: Facts;
  interfaces: Interfaces;
  gateways: { internal: Address; external: Address | undefined };
  links: VpnLinks;
  peers: readonly Address[];
}

/**
 * The devices. Undefined while the external interface has no address for the end of the tunnel; as Kube-OVN takes it, one of
 * IPv4 if there is one.
 */
export function vpnLinks(
  { vni }: EvpnPolicy,
  { external: { gateways } }: Policy,
  facts: Facts,
  { internal, external }: Interfaces,
): VpnLinks | undefined {
  const mtu = facts.links.find(({ name }) => name === external)?.mtu ?? 0;
  for (const family of [4, 6] as const) {
    const gateway = gateways.find((one) => familyOf(one) === family);
    const [own] = ownAddresses(facts, external, { family, gateway });
    if (own !== undefined) return { internal, vni, local: own.address, mtu };
  }
  return undefined;
}

/** Routing's part of the plan, and what is announced. */
export function familyVpn(vpn: Vpn): { routing: VpnRouting; announcements: AnnouncedPrefix[] } {
  const { family, policy, facts, interfaces, gateways, links, peers } = vpn;
  const networks = ownAddresses(facts, interfaces.internal, { family, gateway: gateways.internal }).map(
    networkOf,
  );
  const isOnLink = (target: Address | Prefix) => networks.some((network) => contains(network, target));
  const blocks = [...new Set(policy.rules.flatMap((rule) => (rule.snat ? [] : rule.ipBlocks)))].filter(
    (block) => familyOf(block) === family && prefixLength(block) > 0,
  );
  const announcements = blocks.flatMap((prefix): (AnnouncedPrefix & { routes: Announcement[] })[] => {
    if (!policy.bgp?.announce.includes('forwarded')) return [];
    const to = isOnLink(prefix) ? 'link' : 'inside';
    // FRR prefers the network of the link, and announces no other route for it.
    const parts = networks.includes(prefix) ? halves(prefix) : [prefix];
    const routes = parts.map((destination): Announcement => ({ destination, to }));
    const announced = isAnnounced(facts, family, routes);
    return [{ family, prefix, reasons: ['forwarded'], announced, routes }];
  });
  const side = (name: string, gateway: Address, onlink: boolean): RoutingSide => ({
    interface: name,
    addresses: ownAddresses(facts, name, { family, gateway }).map(({ address }) => address),
    gateway,
    ...(onlink && { onlink }),
  });
  const { internal, external } = gateways;
  const announced = announcements.filter((one) => one.announced).flatMap(({ routes }) => routes);
  return {
    routing: {
      family,
      vpn: links,
      internal: side(interfaces.internal, internal, !isOnLink(internal)),
      ...(external && { underlay: side(interfaces.external, external, false) }),
      internalBlocks: blocks.filter((block) => !isOnLink(block)),
      peers: peers.filter((peer) => !isOnLink(peer)),
      ...(announced.length > 0 && { announced }),
    },
    announcements: announcements.map(({ routes: _, ...announcement }) => announcement),
  };
}
