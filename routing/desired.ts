/** From what the gateway is meant to do to the routes and rules that do it. Pure. */

import { RT_SCOPE_LINK, RT_SCOPE_UNIVERSE, RTN_UNICAST, RTN_UNREACHABLE } from '../lib/linux.ts';
import {
  type Address,
  anyPrefix,
  type Family,
  hostPrefix,
  type Prefix,
  prefixLength,
} from '../lib/prefix.ts';
import type { RoutingStep } from './diff.ts';
import type { VpnLinks } from './links.ts';
import {
  GROUP_MARK_MASK,
  GROUP_RULE_PRIORITY,
  GROUP_TABLES,
  groupMark,
  METRIC_ANNOUNCED,
  PRIMARY_RULE_PRIORITY,
  RTPROT_BOOT,
  RTPROT_VEG_AGENT,
  RULE_PRIORITY,
  TABLE_DEFAULT,
  TABLE_INTERNAL,
  TABLE_MAIN,
  TABLE_PRIMARY,
  TABLE_VPN,
  VPN_RULE_PRIORITY,
} from './numbers.ts';
import type { Route, Rule } from './state.ts';

/** One side of the gateway in one family, with everything known. */
export interface RoutingSide {
  interface: string;
  /** The pod's own addresses on that interface. */
  addresses: Address[];
  gateway: Address;
  /** No network of the interface holds the gateway. */
  onlink?: true;
}

/** The pod's primary network, where it is neither side, in one family. */
export interface PrimaryNetwork {
  interface: string;
  /** The pod's own addresses on that interface: what leaves from them leaves by it. */
  addresses: Address[];
  /** What is reached by it; without a gateway what is on its link. */
  routes: { destination: Prefix; gateway?: Address }[];
  /** What the pod reaches by it from whatever address: the API server, name servers. */
  services: Address[];
}

/** What the pod's routing has to do in one family. */
export interface FamilyRouting {
  family: Family;
  internal: RoutingSide;
  external: RoutingSide;
  /** Blocks behind the internal gateway, without those that are on-link there. */
  internalBlocks: Prefix[];
  /** Blocks that hold the external network: what lies in them is outside. */
  externalBlocks: Prefix[];
  /** BFD peers behind the internal gateway. */
  peers: Address[];
  /** Absent where the primary network is a side of the gateway. */
  primary?: PrimaryNetwork;
  group?: GroupRouting;
  /** What routers learn by BGP. Absent: nothing. */
  announced?: Announcement[];
}

/** A prefix that FRR announces, and where the gateway itself sends packets for it. */
export interface Announcement {
  destination: Prefix;
  /** `inside`: to the internal gateway. `link`: to hosts on the internal link. `nowhere`: no flow has it as destination. */
  to: 'inside' | 'link' | 'nowhere';
}

/** What a gateway of a group routes besides, in one family. */
export interface GroupRouting {
  /** The shared addresses: they are no address of the pod, and packets to them without an owner are dropped. */
  shared: Address[];
  /** Other members on the internal link: rule 1003 would send packets for them to the internal gateway. */
  neighbours: Address[];
  /** The slices of other members, and the members' external addresses. */
  forward: { slot: number; via: Address }[];
}

/** What the pod's routing has to do in one family in EVPN mode: what comes from the VPC follows the table of the VRF. */
export interface VpnRouting extends Pick<FamilyRouting, 'family' | 'internal' | 'internalBlocks' | 'peers'> {
  /** The devices, the same in both families. */
  vpn: VpnLinks;
  /** The way to the other ends of the tunnel; absent: what the pod has anyway. */
  underlay?: RoutingSide;
  announced?: Announcement[];
  external?: undefined;
  externalBlocks?: undefined;
  primary?: undefined;
}

/** The families that are programmed; one that is not in it is taken away. */
export type RoutingIntent = (FamilyRouting | VpnRouting)[];

/** The devices of the intent; undefined: none. */
export const wantedVpn = (intent: RoutingIntent): VpnLinks | undefined =>
  intent.find((family) => 'vpn' in family)?.vpn;

/** The routes and rules that have to be there, each once. */
export interface DesiredRouting {
  rules: Rule[];
  routes: Route[];
}

/** The metric of a route that names none: IPv6 stores IP6_RT_PRIO_USER (linux/ipv6_route.h). */
export const defaultMetric = (family: Family): number => (family === 4 ? 0 : 1024);

/**
 * The rules and routes of the intent. A block that is the whole address space gets no route: it would take
 * the default route away from the external side. One that holds the external network would take part of it: it
 * leads outside, before a foreign route that leads it inside. A peer that is the gateway itself is on-link.
 */
export const desiredRouting = (intent: RoutingIntent): DesiredRouting => ({
  rules: desiredRules(intent),
  routes: [...eachDesiredRoute(intent)],
});

/** The rules alone. */
export const desiredRules = (intent: RoutingIntent): Rule[] =>
  intent.flatMap((family) =>
    'vpn' in family
      ? vpnRules(family)
      : [...groupRules(family), ...familyRules(family), ...primaryRules(family)],
  );

/** Generates the routes one by one, so that ten thousand need not be in memory. */
export function* eachDesiredRoute(intent: RoutingIntent): Generator<Route> {
  for (const family of intent) {
    if ('vpn' in family) yield* vpnRoutes(family);
    else {
      yield* familyRoutes(family);
      yield* primaryRoutes(family);
      yield* groupRoutes(family);
    }
    for (const one of family.announced ?? []) yield announcedRoute(family, one);
  }
}

/**
 * The steps that withdraw what a family announces, for at once: forwarding goes on by the routes without the mark. A
 * reconcile comes to the same.
 */
export function withdrawal(family: FamilyRouting | VpnRouting): RoutingStep[] {
  const { announced = [], ...rest } = family;
  const destinations = new Set(announced.map(({ destination }) => destination));
  const plain = [...eachDesiredRoute([rest])].filter(
    ({ table, destination }) => table === announcedTable(family) && destinations.has(destination),
  );
  return [
    ...plain.map((route): RoutingStep => ({ kind: 'addRoute', route })),
    ...announced.map((one): RoutingStep => ({ kind: 'delRoute', route: announcedRoute(family, one) })),
  ];
}

/** The table that FRR announces from. */
const announcedTable = (routing: FamilyRouting | VpnRouting): number =>
  'vpn' in routing ? TABLE_VPN : TABLE_MAIN;

/** The route that FRR announces. */
function announcedRoute(routing: FamilyRouting | VpnRouting, { destination, to }: Announcement): Route {
  const { family, internal } = routing;
  const inside = via(family, internal, destination, announcedTable(routing), RTPROT_VEG_AGENT);
  const { gateway: _, onlink: __, dev: ___, ...bare } = { ...inside, metric: METRIC_ANNOUNCED };
  if (to === 'inside') return { ...inside, metric: METRIC_ANNOUNCED };
  if (to === 'link') {
    return { ...bare, dev: internal.interface, scope: family === 4 ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE };
  }
  // The kernel gives the loopback interface to those of IPv6, and refuses one for those of IPv4.
  return { ...bare, ...(family === 6 && { dev: 'lo' }), type: RTN_UNREACHABLE };
}

/** The destinations whose route into the VPC is announced, and so has the mark. */
const marked = ({ announced = [] }: Pick<FamilyRouting, 'announced'>): Set<Prefix> =>
  new Set(announced.filter(({ to }) => to === 'inside').map(({ destination }) => destination));

function familyRules({ family, internal, external }: FamilyRouting): Rule[] {
  const { fromInternal, fromExternal, ownInternal, ownExternal } = RULE_PRIORITY;
  const own = (side: RoutingSide, priority: number, table: number): Rule[] =>
    [...new Set(side.addresses)].map((address) => ({
      family,
      priority,
      from: hostPrefix(address),
      iif: 'lo',
      table,
      foreign: false,
    }));
  return [
    { family, priority: fromInternal, iif: internal.interface, table: TABLE_DEFAULT, foreign: false },
    { family, priority: fromExternal, iif: external.interface, table: TABLE_INTERNAL, foreign: false },
    ...own(internal, ownInternal, TABLE_INTERNAL),
    ...own(external, ownExternal, TABLE_DEFAULT),
  ];
}

const via = (
  family: Family,
  side: RoutingSide,
  destination: Prefix,
  table: number,
  protocol: number,
): Route => ({
  family,
  table,
  destination,
  gateway: side.gateway,
  ...(side.onlink && { onlink: true }),
  dev: side.interface,
  protocol,
  scope: RT_SCOPE_UNIVERSE,
  type: RTN_UNICAST,
  metric: defaultMetric(family),
  foreign: false,
});

/** What is behind the internal gateway, each once. */
const blocksBehind = ({ internal, internalBlocks, peers }: FamilyRouting | VpnRouting): Set<Prefix> =>
  new Set([
    ...internalBlocks.filter((block) => prefixLength(block) > 0),
    ...peers.filter((peer) => peer !== internal.gateway).map(hostPrefix),
  ]);

function* familyRoutes(routing: FamilyRouting): Generator<Route> {
  const { family, internal, external, externalBlocks } = routing;
  const everywhere = anyPrefix(family);
  const announced = marked(routing);
  yield via(family, internal, everywhere, TABLE_INTERNAL, RTPROT_BOOT);
  yield via(family, external, everywhere, TABLE_MAIN, RTPROT_VEG_AGENT);
  for (const block of externalBlocks) yield via(family, external, block, TABLE_MAIN, RTPROT_VEG_AGENT);
  for (const block of blocksBehind(routing)) {
    if (!announced.has(block)) yield via(family, internal, block, TABLE_MAIN, RTPROT_VEG_AGENT);
  }
}

/** The first one does what a rule of the kernel at priority 1000 does, which others may remove. */
const vpnRules = ({ family }: VpnRouting): Rule[] => [
  { family, priority: VPN_RULE_PRIORITY.inside, l3mdev: 'lookup', table: 0, foreign: false },
  { family, priority: VPN_RULE_PRIORITY.nowhere, l3mdev: 'unreachable', table: 0, foreign: false },
];

/** The way into the VPC in the table of the VRF, and the way to the other ends of the tunnel in the main table. */
function* vpnRoutes(routing: VpnRouting): Generator<Route> {
  const { family, internal, underlay } = routing;
  const announced = marked(routing);
  if (underlay) yield via(family, underlay, anyPrefix(family), TABLE_MAIN, RTPROT_VEG_AGENT);
  for (const block of blocksBehind(routing)) {
    if (!announced.has(block)) yield via(family, internal, block, TABLE_VPN, RTPROT_VEG_AGENT);
  }
}

function primaryRules({ family, primary }: FamilyRouting): Rule[] {
  if (primary === undefined) return [];
  const rule = (priority: number, selector: Pick<Rule, 'from' | 'to'>): Rule => ({
    family,
    priority,
    ...selector,
    iif: 'lo',
    table: TABLE_PRIMARY,
    protocol: RTPROT_VEG_AGENT,
    foreign: false,
  });
  const { ownPrimary, services } = PRIMARY_RULE_PRIORITY;
  return [
    ...primary.addresses.map((address) => rule(ownPrimary, { from: hostPrefix(address) })),
    ...primary.services.map((address) => rule(services, { to: hostPrefix(address) })),
  ];
}

function groupRules({ family, external, group }: FamilyRouting): Rule[] {
  return (group?.forward ?? []).map(({ slot }) => ({
    family,
    priority: GROUP_RULE_PRIORITY,
    iif: external.interface,
    mark: { value: groupMark(slot), mask: GROUP_MARK_MASK },
    table: GROUP_TABLES[slot]!,
    protocol: RTPROT_VEG_AGENT,
    foreign: false,
  }));
}

/**
 * The route of a shared address leads inside: the kernel answers ARP for a proxied address only if it is routed out of
 * another interface than the one that is asked. The filter drops what would take it.
 */
function groupRoutes(routing: FamilyRouting): Route[] {
  const { family, internal, external, group } = routing;
  if (group === undefined) return [];
  const { neighbours, forward } = group;
  const announced = marked(routing);
  const shared = group.shared.map(hostPrefix).filter((address) => !announced.has(address));
  return [
    ...neighbours.map((address): Route => {
      const {
        gateway: _,
        onlink: __,
        ...route
      } = via(family, internal, hostPrefix(address), TABLE_INTERNAL, RTPROT_BOOT);
      // IPv6 has no scopes.
      return { ...route, scope: family === 4 ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE };
    }),
    ...shared.map((address) => via(family, internal, address, TABLE_MAIN, RTPROT_VEG_AGENT)),
    ...forward.map(({ slot, via: gateway }) =>
      via(family, { ...external, gateway }, anyPrefix(family), GROUP_TABLES[slot]!, RTPROT_VEG_AGENT),
    ),
  ];
}

/** Gateways are `onlink`: the CNI's route to them may be of a kind that is not copied, or come later. */
const primaryRoutes = ({ family, primary }: FamilyRouting): Route[] =>
  (primary?.routes ?? []).map(({ destination, gateway }) => ({
    family,
    table: TABLE_PRIMARY,
    destination,
    ...(gateway !== undefined && { gateway, onlink: true as const }),
    dev: primary!.interface,
    protocol: RTPROT_VEG_AGENT,
    // IPv6 has no scopes.
    scope: gateway === undefined && family === 4 ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE,
    type: RTN_UNICAST,
    metric: defaultMetric(family),
    foreign: false,
  }));
