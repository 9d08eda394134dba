/**
 * From the policy and the facts of the pod to what routing, NAT and BFD have to do. Pure.
 */
import type { PeerIntent } from '../../bfd/intent.ts';
import {
  type Address,
  addressBits,
  contains,
  FAMILIES,
  type Family,
  familyOf,
  hostPrefix,
  type Prefix,
  parsePrefix,
  prefixLength,
} from '../../lib/prefix.ts';
import type { FamilyNat, NatIntent } from '../../nat/desired.ts';
import type { VirtualAddress } from '../../routing/addresses.ts';
import type { PrimaryNetwork, RoutingIntent, RoutingSide } from '../../routing/desired.ts';
import type { ProxyNeighbour } from '../../routing/proxies.ts';
import type { InterfaceAddress } from '../../routing/state.ts';
import type { GroupConfig } from '../group/model.ts';
import { desiredSysctls, type Sysctl } from '../pod/desired-sysctls.ts';
import { type Facts, findInterfaces, type InterfaceFlags, linkObstacle } from '../pod/interfaces.ts';
import {
  type Given,
  type LinkFacts,
  masqueradeChoosesOwn,
  networkOf,
  noAddress,
  ownAddresses,
  usableAddresses,
} from '../pod/own-address.ts';
import { primaryInterface, primaryNetwork } from '../pod/primary.ts';
import { DEFAULT_UPLINK, type GroupPolicy, type Policy, type Side } from '../policy/model.ts';
import { holders } from '../policy/overlap.ts';
import type { WayOut } from '../uplink/way-out.ts';
import { familyGroup, groupNat, groupObstacle, groupProxies, groupRouting, groupSessions } from './group.ts';
import {
  egressNotes,
  familyNat,
  givenAddresses,
  heldAddresses,
  inboundTargets,
  type Masquerade,
  masquerades,
  portNotes,
} from './nat.ts';

/** What became of one address family. */
export interface FamilyStatus {
  family: Family;
  /**
   * `programmed`: as the policy says. `blocked`: the pod lacks something that the policy needs. `unused`: the policy
   * does not ask for it, or this kernel does not have it; nothing of ours remains.
   */
  state: 'programmed' | 'blocked' | 'unused';
  reason?: string;
  /** Programmed, and not to carry traffic yet. */
  pending?: string;
  /** The address that what is masqueraded leaves with; absent where there is none. */
  source?: Address;
}

export interface Interfaces {
  internal: string;
  external: string;
}

export interface Plan {
  interfaces: Interfaces;
  /** The same of each family: one that is held at an older policy has those of that policy. */
  interfacesOf: Record<Family, Interfaces>;
  /** Where metrics and probes answer by default: the pod's addresses inside, and of its primary network. */
  listenAddresses: Address[];
  /** The networks of the internal interface, of the programmed families. */
  internalNetworks: Prefix[];
  routing: RoutingIntent;
  nat: NatIntent;
  /** What has to be held on the external interface besides the addresses that the pod has. */
  addresses: VirtualAddress[];
  /** Shared addresses of a group that this gateway answers for. */
  proxies: ProxyNeighbour[];
  /** The groups that this gateway is a member of, one a family at most. */
  groups: GroupConfig[];
  /** The policy's part of what the exchange needs. */
  groupPolicy?: GroupPolicy;
  sysctls: Sysctl[];
  /** The sessions of the programmed families. */
  peers: PeerIntent[];
  families: FamilyStatus[];
  /** The blocked families of which nothing is known that is better than what is in the kernel: it stays as it is. */
  leftAlone: Family[];
  /** What the policy says and the plan leaves out, and why. */
  notes: string[];
}

const milliseconds = (value: number): number => value * 1000;

const gatewayOf = (side: Side, family: Family): Address | undefined =>
  side.gateways.find((gateway) => familyOf(gateway) === family);

/** Whether a policy wants a family programmed. */
const asksFor = (policy: Policy, family: Family): boolean =>
  gatewayOf(policy.internal, family) !== undefined && gatewayOf(policy.external, family) !== undefined;

const noFamily = (family: Family): string =>
  `this kernel has no IPv${family} (ipv6.disable=1 on its command line, or built without)`;

/** The plan of a policy in a pod. */
export function makePlan(policy: Policy, facts: Facts, flags: InterfaceFlags): Plan {
  const { internal, external } = findInterfaces(policy, flags, facts);
  const primary = primaryInterface(facts, { internal, external });
  const plan: Plan = {
    interfaces: { internal, external },
    interfacesOf: { 4: { internal, external }, 6: { internal, external } },
    listenAddresses: [internal, ...(primary === undefined ? [] : [primary])]
      .flatMap((name) => FAMILIES.flatMap((family) => usableAddresses(facts, name, family)))
      .map(({ address }) => address),
    internalNetworks: [],
    routing: [],
    nat: [],
    addresses: [],
    proxies: [],
    groups: [],
    sysctls: [],
    peers: [],
    families: [],
    leftAlone: [],
    notes: [],
  };
  for (const family of FAMILIES) {
    plan.families.push(
      policy.forwardOnly
        ? planForwardOnly(plan, policy, facts, family)
        : planFamily(plan, policy, facts, family, primary),
    );
  }
  // Kube-OVN's observer counts beside a gateway without a log of its own, and cannot set anything.
  const counting = policy.translationLog !== undefined || policy.origin.kind === 'Environment';
  const forwarding = policy.forwardOnly
    ? plan.families.filter(({ state }) => state === 'programmed')
    : plan.routing;
  plan.sysctls = desiredSysctls(
    forwarding.map(({ family }) => family),
    { internal, external },
    counting,
    plan.groups.map(({ family }) => family),
  );
  return plan;
}

/**
 * Adds what one family needs to the plan.
 * @param primaryName the interface of the pod's primary network; absent where that is a side of the gateway
 */
function planFamily(
  plan: Plan,
  policy: Policy,
  facts: Facts,
  family: Family,
  primaryName?: string,
): FamilyStatus {
  const { internal, external } = plan.interfaces;
  const internalGateway = gatewayOf(policy.internal, family);
  const externalGateway = gatewayOf(policy.external, family);
  const peers = policy.bfd.enabled ? policy.bfd.peers.filter((peer) => familyOf(peer) === family) : [];
  const missing = facts.missing.includes(family) && asksFor(policy, family);
  if (missing || internalGateway === undefined || externalGateway === undefined) {
    return planUnserved(plan, policy, { family, missing, internalGateway, externalGateway, peers });
  }
  const reason = obstacle(facts, plan.interfaces, family);
  if (reason !== undefined) {
    plan.leftAlone.push(family);
    return { family, state: 'blocked', reason };
  }

  const internalAddresses = ownAddresses(facts, internal, { family, gateway: internalGateway });
  const onLink = internalAddresses.map(networkOf);
  const isOnLink = (target: Address | Prefix) => onLink.some((network) => contains(network, target));
  const side = (name: string, gateway: Address, onlink: boolean): RoutingSide => ({
    interface: name,
    addresses: usableAddresses(facts, name, family).map(({ address }) => address),
    gateway,
    ...(onlink && { onlink }),
  });
  // Inside, a network that does not hold the gateway says that one of both is wrong, and so will the kernel; a host
  // address alone says nothing (Calico). Outside the probes tell.
  const isNear =
    isOnLink(internalGateway) || onLink.every((network) => prefixLength(network) === addressBits(family));
  for (const address of heldAddresses(policy, family, facts.names)) {
    plan.addresses.push({ family, address, dev: external });
  }
  const given = givenAddresses(policy, family);
  const inside = internal === external ? [] : internalAddresses.map(({ address }) => address);
  const own = ownAddresses(facts, external, { family, gateway: externalGateway, given, inside });
  const masquerade = masqueradeWith(facts, { external, family, gateway: externalGateway, own, given });
  const primary = primaryName === undefined ? undefined : primaryNetwork(facts, primaryName, family);
  const membership = familyGroup(
    policy,
    family,
    { internal: internalAddresses.map(({ address }) => address), external: own[0]?.address },
    facts.groups?.[family],
  );
  const group = membership !== undefined && 'config' in membership ? membership : undefined;
  const nat: FamilyNat = {
    ...familyNat(policy, family, internal, masquerade, group),
    ...(group && { group: groupNat(group, external) }),
    ...(primary && { primary: { interface: primary.interface, addresses: primary.addresses } }),
  };
  plan.nat.push(nat);

  const { inwards, outwards, networks } = splitBlocks(policy, facts, external, externalGateway);
  // With one interface for both sides nobody can tell who is inside.
  if (internal !== external) plan.internalNetworks.push(...onLink);
  plan.routing.push({
    family,
    internal: side(internal, internalGateway, isNear && !isReached(facts, internal, internalGateway)),
    external: side(external, externalGateway, !isReached(facts, external, externalGateway)),
    internalBlocks: [
      ...inwards,
      ...inboundTargets(nat)
        .filter((target) => !inwards.some((block) => contains(block, target)))
        .map(hostPrefix),
    ].filter((block) => !isOnLink(block)),
    // What lies within a network of the link is found there.
    externalBlocks: outwards.filter(
      (block) => prefixLength(block) > 0 && !networks.some((network) => contains(network, block)),
    ),
    peers: peers.filter((peer) => !isOnLink(peer)),
    ...(primary && { primary }),
    ...(group && { group: groupRouting(group, isOnLink) }),
  });
  plan.notes.push(
    ...egressNotes(policy, family),
    ...portNotes(
      policy,
      own.map(({ address }) => address),
    ),
    ...outwardNotes(outwards, external, externalGateway),
    ...(plan.routing.at(-1)!.internal.onlink && !isOnLink(internalGateway)
      ? [
          `the internal gateway ${internalGateway} is on no network of ${withAddresses(facts, internal, family)}, and taken to be on its link`,
        ]
      : []),
    ...(primary === undefined ? [] : primaryNotes(primary, family, external)),
  );
  plan.peers.push(...sessions(policy, facts, internal, peers, internalGateway));
  if (group !== undefined) {
    plan.groups.push(group.config);
    plan.groupPolicy = policy.group!;
    plan.proxies.push(...groupProxies(group, external));
    plan.peers.push(...groupSessions(group, policy.group!, internal));
  }
  if (membership !== undefined && 'reason' in membership) {
    return { family, state: 'blocked', reason: membership.reason };
  }
  const pending = group && groupObstacle(group);
  const [source] = own;
  if (source !== undefined) {
    return { family, state: 'programmed', source: source.address, ...(pending !== undefined && { pending }) };
  }
  if (!masquerades(policy, family)) return { family, state: 'programmed' };
  const dropped = `${noAddress(facts, external, family, 'external')}; what would be masqueraded is dropped`;
  return { family, state: 'blocked', reason: dropped };
}

/** A family that the policy or the kernel does not have. */
function planUnserved(
  plan: Plan,
  policy: Policy,
  {
    family,
    missing,
    internalGateway,
    externalGateway,
    peers,
  }: {
    family: Family;
    /** The policy asks for it, and the kernel does not have it. */
    missing: boolean;
    internalGateway: Address | undefined;
    externalGateway: Address | undefined;
    peers: readonly Address[];
  },
): FamilyStatus {
  // With another family to serve, the gateway works without this one.
  if (missing && !FAMILIES.some((other) => other !== family && asksFor(policy, other))) {
    plan.leftAlone.push(family);
    return { family, state: 'blocked', reason: noFamily(family) };
  }
  if (missing) plan.notes.push(`IPv${family} is left out: ${noFamily(family)}`);
  else if (internalGateway !== externalGateway) {
    const lacking = internalGateway === undefined ? 'internal' : 'external';
    plan.notes.push(`IPv${family} is left out: the ${lacking} network has no IPv${family} gateway`);
  }
  for (const peer of peers) {
    plan.notes.push(`BFD peer ${peer} is left out: IPv${family} is not programmed`);
  }
  return { family, state: 'unused' };
}

/**
 * The blocks of the rules that lead into the VPC, and those that lead outside: they hold a network of the external
 * interface, or are wider than any private network. `networks`: those of the external interface.
 */
function splitBlocks(
  { rules }: Policy,
  facts: Facts,
  external: string,
  gateway: Address,
): Record<'inwards' | 'outwards' | 'networks', Prefix[]> {
  const family = familyOf(gateway);
  const blocks = [...new Set(rules.flatMap(({ ipBlocks }) => ipBlocks))].filter(
    (block) => familyOf(block) === family,
  );
  const networks = [
    ...usableAddresses(facts, external, family).map(networkOf),
    ...facts.connected.filter(({ dev }) => dev === external).map(({ network }) => network),
    hostPrefix(gateway),
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

/** The sessions of one family, from the internal interface's own address. */
function sessions(
  { bfd }: Policy,
  facts: Facts,
  internal: string,
  peers: readonly Address[],
  gateway: Address,
): PeerIntent[] {
  const own = ownAddresses(facts, internal, { family: familyOf(gateway), gateway });
  const mac = facts.links.find(({ name }) => name === internal)?.mac ?? '';
  return peers.map((remote) => ({
    local: own[0]!.address,
    remote,
    desiredMinTx: milliseconds(bfd.minTX),
    requiredMinRx: milliseconds(bfd.minRX),
    detectMult: bfd.multiplier,
    role: bfd.mode,
    minTTL: bfd.minTTL,
    interface: internal,
    multihop: false,
    adoptDiscriminator: bfd.adoptDiscriminator,
    // A peer of the internal network itself speaks for itself.
    ...(!bfd.anySource && mac !== '' && !own.some((address) => contains(networkOf(address), remote))
      ? { via: { gateway, mac } }
      : {}),
    ...(bfd.auth && { auth: { type: bfd.auth.type, keyId: bfd.auth.keyID, keyFile: bfd.auth.keyFile } }),
  }));
}

/** One family of Kube-OVN's BGP mode: nothing is in the plan but the sessions. */
function planForwardOnly(plan: Plan, policy: Policy, facts: Facts, family: Family): FamilyStatus {
  const gateway = gatewayOf(policy.internal, family);
  if (gateway === undefined || facts.missing.includes(family)) return { family, state: 'unused' };
  const { internal } = plan.interfaces;
  const reason = insideObstacle(facts, internal, family);
  if (reason !== undefined) {
    plan.leftAlone.push(family);
    return { family, state: 'blocked', reason };
  }
  const peers = policy.bfd.peers.filter((peer) => familyOf(peer) === family);
  plan.peers.push(...sessions(policy, facts, internal, peers, gateway));
  return { family, state: 'programmed' };
}

/** The ways out that are in force, of each family that is used: as the policy says that the family is at. */
export const waysOut = (plan: Plan, policies: Readonly<Record<Family, Policy>>): WayOut[] =>
  plan.families.flatMap(({ family, state }) => {
    const { external, uplink = DEFAULT_UPLINK } = policies[family];
    const gateway = gatewayOf(external, family);
    if (state === 'unused' || gateway === undefined) return [];
    return {
      ...{ gateway, interface: plan.interfacesOf[family].external, gatewayMacs: external.gatewayMacs ?? [] },
      ...{ masquerades: masquerades(policies[family], family), policy: uplink },
    };
  });

/** What keeps a family from being programmed at all; undefined when nothing does. */
const obstacle = (facts: Facts, { internal, external }: Interfaces, family: Family): string | undefined =>
  insideObstacle(facts, internal, family) ?? linkObstacle(facts, external, 'external');

/** What keeps packets of a family from coming in or BFD from answering. */
function insideObstacle(facts: Facts, internal: string, family: Family): string | undefined {
  const link = linkObstacle(facts, internal, 'internal');
  if (link !== undefined) return link;
  const lacking = usableAddresses(facts, internal, family).length === 0;
  return lacking ? noAddress(facts, internal, family, 'internal') : undefined;
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

/** What masquerading gives. */
function masqueradeWith(
  facts: Facts,
  side: {
    external: string;
    family: Family;
    gateway: Address;
    own: InterfaceAddress[];
    given: Given;
  },
): Masquerade {
  const [first] = side.own;
  if (first === undefined) return 'none';
  if (masqueradeChoosesOwn(facts, side.external, side)) return 'chosen';
  return { interface: side.external, address: first.address };
}
