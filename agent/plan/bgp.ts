/**
 * What BGP adds to the plan of one family: the prefixes that routers are to learn, the routes by which FRR announces them,
 * and which external addresses are answered for on the link besides (docs/design/0010-bgp.md). Pure.
 */
import {
  type Address,
  addressBits,
  addressBytes,
  addressFromBytes,
  contains,
  type Family,
  familyOf,
  hostPrefix,
  networkAddress,
  type Prefix,
  parsePrefix,
  prefixLength,
} from '../../lib/prefix.ts';
import type { Announcement } from '../../routing/desired.ts';
import { METRIC_ANNOUNCED } from '../../routing/numbers.ts';
import type { Facts } from '../pod/interfaces.ts';
import { usableAddresses } from '../pod/own-address.ts';
import { byBgp } from '../policy/bgp.ts';
import type { Announced, Policy } from '../policy/model.ts';
import { PrefixIndex } from '../policy/overlap.ts';
import { byPriority, isForAll } from '../policy/resolve.ts';
import { externalUses, isHeld } from './nat.ts';
import { splitBlocks } from './routing.ts';
import type { ServedFamily } from './served-family.ts';

/** A prefix of the policy that routers learn, or would if the gateway were ready. */
export interface AnnouncedPrefix {
  family: Family;
  prefix: Prefix;
  /** What of the policy it is, in the words of `spec.bgp.announce`. */
  reasons: Announced[];
  announced: boolean;
}

export interface FamilyBgp {
  prefixes: AnnouncedPrefix[];
  /** The routes of those that are announced. */
  routes: Announcement[];
  /** The addresses on the external link that are answered for by a proxy entry, and are on no interface. */
  proxied: Address[];
  /** The addresses that are on no interface and not answered for: no Ethernet has them. */
  remote: Address[];
  notes: string[];
}

/** The neighbours of a family. */
export const bgpRouters = ({ bgp }: Policy, family: Family): Address[] =>
  (bgp?.neighbours ?? []).map(({ address }) => address).filter((address) => familyOf(address) === family);

const NOTHING: FamilyBgp = { prefixes: [], routes: [], proxied: [], remote: [], notes: [] };

/** What the pod has besides, each found once: policies have ten thousand blocks. */
interface Surroundings {
  served: ServedFamily;
  /** The blocks of the policy that are inside, and the networks of the external link. */
  inwards: ReadonlySet<Prefix>;
  externalNetworks: readonly Prefix[];
  /** The prefixes for which FRR prefers another route. */
  hidden: ReadonlySet<Prefix>;
}

function surroundingsOf(served: ServedFamily): Surroundings {
  const { facts } = served;
  const { inwards, networks } = splitBlocks(served);
  const better = facts.routes.filter(
    ({ metric, qualifier }) => metric <= METRIC_ANNOUNCED && qualifier === undefined,
  );
  return {
    ...{ served, inwards: new Set(inwards), externalNetworks: networks },
    hidden: new Set([
      ...facts.connected.map(({ network }) => network),
      ...better.map(({ destination }) => destination),
    ]),
  };
}

/** BGP's part of the plan of a family. */
export function familyBgp(served: ServedFamily): FamilyBgp {
  const { bgp } = served.policy;
  if (bgp === undefined || bgpRouters(served.policy, served.family).length === 0) return NOTHING;
  const around = surroundingsOf(served);
  const wanted = new Map<Prefix, Set<Announced>>();
  const want = (prefix: Prefix, reason: Announced) => {
    if (!bgp.announce.includes(reason)) return;
    const reasons = wanted.get(prefix) ?? new Set();
    wanted.set(prefix, reasons.add(reason));
  };
  const hosts = announcedHosts(served);
  for (const { address, use } of hosts) want(hostPrefix(address), use);
  for (const block of forwardedBlocks(around)) want(block, 'forwarded');

  const prefixes: AnnouncedPrefix[] = [];
  const announced: Announcement[] = [];
  const notes: string[] = [];
  const shared = new Set(hosts.filter(({ shared }) => shared).map(({ address }) => hostPrefix(address)));
  for (const [prefix, reasons] of wanted) {
    const isHost = !reasons.has('forwarded') && !shared.has(prefix);
    const routes = announcedRoutes(around, prefix, isHost);
    if (typeof routes === 'string') {
      notes.push(`${prefix} is not announced: ${routes}`);
      continue;
    }
    const isNow = isAnnounced(served.facts, served.family, routes);
    prefixes.push({ family: served.family, prefix, reasons: [...reasons], announced: isNow });
    if (isNow) announced.push(...routes);
  }
  return {
    prefixes,
    routes: announced,
    notes,
    ...linkOf(around, new Set(prefixes.map(({ prefix }) => prefix))),
  };
}

/** Before it is known whether the gateway is ready, what the kernel has stays. */
export const isAnnounced = (facts: Facts, family: Family, routes: readonly Announcement[]): boolean =>
  facts.announcing?.[family] ?? routes.every(({ destination }) => facts.announced?.includes(destination));

interface Host {
  address: Address;
  use: Exclude<Announced, 'forwarded'>;
  shared: boolean;
}

/** The external addresses of the policy that this gateway owns, without those that the pod has anyway. */
function announcedHosts({ policy, family, facts, interfaces }: ServedFamily): Host[] {
  const own = Object.values(interfaces).flatMap((name) =>
    usableAddresses(facts, name, family).map(({ address }) => address),
  );
  return externalUses(policy, facts.names)
    .filter(({ address }) => familyOf(address) === family && !own.includes(address))
    .filter(({ egressIP }) => egressIP === undefined || byBgp(egressIP))
    .map(({ address, use, egressIP }) => ({ address, use, shared: egressIP?.shared === true }));
}

/** The blocks that the policy forwards and that are inside, without those that an earlier policy translates. */
function forwardedBlocks({ served, inwards }: Surroundings): Prefix[] {
  const translated = new PrefixIndex<true>();
  const blocks: Prefix[] = [];
  for (const rule of byPriority(served.policy.rules)) {
    for (const block of rule.ipBlocks) {
      if (rule.snat) {
        if (isForAll(rule)) translated.add(block, true);
      } else if (inwards.has(block) && translated.holding(block).next().done) blocks.push(block);
    }
  }
  return blocks;
}

/**
 * The addresses that are not added to the external interface, where FRR would find them as connected networks: those on its
 * link get a proxy entry.
 */
function linkOf(around: Surroundings, wanted: ReadonlySet<Prefix>): Pick<FamilyBgp, 'proxied' | 'remote'> {
  const { policy, family, facts } = around.served;
  const held = externalUses(policy, facts.names)
    .filter((use) => isHeld(use) && familyOf(use.address) === family && wanted.has(hostPrefix(use.address)))
    .map(({ address }) => address);
  return {
    proxied: [...new Set(held.filter((address) => isOnExternalLink(around, address)))],
    remote: [...new Set(held.filter((address) => !isOnExternalLink(around, address)))],
  };
}

const isOnExternalLink = ({ externalNetworks }: Surroundings, value: Address | Prefix): boolean =>
  externalNetworks.some((network) => contains(network, value));

/**
 * The routes by which FRR announces a prefix, or why there are none. FRR prefers connected networks and routes with a lower
 * metric, and announces none of them: what they hide is announced as two halves.
 */
function announcedRoutes(around: Surroundings, prefix: Prefix, isHost: boolean): Announcement[] | string {
  const { family, internalNetworks, interfaces } = around.served;
  if (isHost && interfaces.internal === interfaces.external && isOnExternalLink(around, prefix)) {
    return 'the gateway has one interface, and holds the address on it';
  }
  const isOnLink = internalNetworks.some((network) => contains(network, prefix));
  const to = isHost ? 'nowhere' : isOnLink ? 'link' : 'inside';
  if (!around.hidden.has(prefix)) return [{ destination: prefix, to }];
  if (prefixLength(prefix) === addressBits(family)) return 'another program has a route for it';
  return halves(prefix).map((destination) => ({ destination, to }));
}

/** The two prefixes that a prefix consists of. */
export function halves(prefix: Prefix): [Prefix, Prefix] {
  const length = prefixLength(prefix) + 1;
  const bytes = addressBytes(networkAddress(prefix));
  const lower = addressFromBytes(bytes);
  bytes[(length - 1) >> 3]! |= 0x80 >> ((length - 1) & 7);
  return [parsePrefix(`${lower}/${length}`)!, parsePrefix(`${addressFromBytes(bytes)}/${length}`)!];
}
