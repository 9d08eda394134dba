/**
 * From the policy and the facts of the pod to what routing, NAT and BFD have to do. Pure.
 */
import type { PeerIntent } from '../../bfd/intent.ts';
import { type Address, contains, FAMILIES, type Family, familyOf, type Prefix } from '../../lib/prefix.ts';
import type { CounterIntent } from '../../nat/counters/table.ts';
import type { FamilyNat, NatIntent } from '../../nat/desired.ts';
import type { FastPathIntent } from '../../nat/fast-path/table.ts';
import type { VirtualAddress } from '../../routing/addresses.ts';
import type { RoutingIntent } from '../../routing/desired.ts';
import { isVrf } from '../../routing/ownership.ts';
import type { ProxyNeighbour } from '../../routing/proxies.ts';
import type { ShapingIntent } from '../../shaping/state.ts';
import type { GroupConfig } from '../group/model.ts';
import { desiredSysctls, type Sysctl, vpnSysctls } from '../pod/desired-sysctls.ts';
import { type Facts, findInterfaces, type InterfaceFlags, linkObstacle } from '../pod/interfaces.ts';
import {
  masqueradeChoosesOwn,
  networkOf,
  noAddress,
  ownAddresses,
  usableAddresses,
} from '../pod/own-address.ts';
import { primaryInterface } from '../pod/primary.ts';
import { DEFAULT_UPLINK, type GroupPolicy, type Policy, type Side } from '../policy/model.ts';
import type { WayOut } from '../uplink/way-out.ts';
import { NO_SHAPING, shapingOf } from './bandwidth.ts';
import { type AnnouncedPrefix, bgpRouters, familyBgp } from './bgp.ts';
import { familyCounters } from './counters.ts';
import { familyVpn, vpnLinks } from './evpn.ts';
import { fastPathOf } from './fast-path.ts';
import {
  type FamilyGroup,
  familyGroup,
  groupNat,
  groupObstacle,
  groupProxies,
  groupSessions,
} from './group.ts';
import {
  egressNotes,
  familyNat,
  heldAddresses,
  inboundTargets,
  type Masquerade,
  masquerades,
  nowhereAddresses,
  ownerNotes,
  portNotes,
} from './nat.ts';
import { familyRouting } from './routing.ts';
import { bfdPeers, type Interfaces, type ServedFamily, servedFamily } from './served-family.ts';

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
  /** In EVPN mode: the tunnel, and the address of its end here. */
  tunnel?: { vni: number; local: Address };
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
  /** What is counted, of the programmed families. */
  counters: CounterIntent[];
  /** What has to be held on the external interface besides the addresses that the pod has. */
  addresses: VirtualAddress[];
  /** The limits of bandwidth, those of the newest policy. */
  shaping: ShapingIntent;
  /** The fast path, that of the newest policy; absent: none. */
  fastPath?: FastPathIntent;
  /** Addresses that this gateway answers for without having them: shared ones of a group, and announced ones. */
  proxies: ProxyNeighbour[];
  /** What the policy announces by BGP. */
  announcements: AnnouncedPrefix[];
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
  /** Parts of the policy that the plan leaves out, and why. */
  notes: string[];
  /** Addresses that the policy gives to other gateways: notes about nothing that is amiss. */
  elsewhere: { family: Family; note: string }[];
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
    counters: [],
    addresses: [],
    shaping: NO_SHAPING,
    proxies: [],
    announcements: [],
    groups: [],
    sysctls: [],
    peers: [],
    families: [],
    leftAlone: [],
    notes: [],
    elsewhere: [],
  };
  for (const family of FAMILIES) {
    plan.families.push(
      policy.forwardOnly
        ? planForwardOnly(plan, policy, facts, family)
        : planFamily(plan, policy, facts, family, primary),
    );
  }
  const used = plan.families.filter(({ state }) => state !== 'unused').map(({ family }) => family);
  if (policy.evpn === undefined) {
    const { shaping, notes } = shapingOf(policy, facts, { internal, external }, used);
    plan.shaping = shaping;
    plan.notes.push(...notes);
  }
  if (plan.nat.length > 0) {
    const { fastPath, notes } = fastPathOf(policy, facts, { internal, external });
    if (fastPath !== undefined) plan.fastPath = fastPath;
    plan.notes.push(...notes);
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
    [...plan.groups, ...plan.proxies].map(({ family }) => family),
  );
  const vpn = plan.routing.flatMap((one) => ('vpn' in one ? [one.family] : []));
  plan.sysctls.push(...vpnSysctls(vpn, internal, facts.links.some(isVrf)));
  return plan;
}

/**
 * Adds what one family needs to the plan.
 * @param primaryName the interface of the pod's primary network; undefined if that is a side of the gateway
 */
function planFamily(
  plan: Plan,
  policy: Policy,
  facts: Facts,
  family: Family,
  primaryName: string | undefined,
): FamilyStatus {
  const { internal, external } = plan.interfaces;
  const internalGateway = gatewayOf(policy.internal, family);
  const externalGateway = gatewayOf(policy.external, family);
  const missing = facts.missing.includes(family) && asksFor(policy, family);
  if (missing || internalGateway === undefined || externalGateway === undefined) {
    return planUnserved(plan, policy, { family, missing, internalGateway, externalGateway });
  }
  const reason = obstacle(facts, plan.interfaces, family);
  if (reason !== undefined) {
    plan.leftAlone.push(family);
    return { family, state: 'blocked', reason };
  }

  const gateways = { internal: internalGateway, external: externalGateway };
  const served = servedFamily(policy, facts, family, gateways, plan.interfaces, primaryName);
  const membership = membershipOf(served);
  const group = membership !== undefined && 'config' in membership ? membership : undefined;
  const bgp = familyBgp(served);
  const elsewhere = new Set([...bgp.proxied, ...bgp.remote]);
  const held = heldAddresses(policy, family, facts.names).filter((address) => !elsewhere.has(address));
  const nat = natOf(served, group, held);
  const { routing, notes } = familyRouting(served, inboundTargets(nat), group, bgp.routes);
  plan.nat.push(nat);
  plan.counters.push(familyCounters(policy, family, internal));
  plan.routing.push(routing);
  for (const address of held) plan.addresses.push({ family, address, dev: external });
  for (const address of bgp.proxied) plan.proxies.push({ family, address, dev: external });
  plan.announcements.push(...bgp.prefixes);
  // With one interface for both sides nothing distinguishes what is inside.
  if (internal !== external) plan.internalNetworks.push(...served.internalNetworks);
  const own = served.externalAddresses.map(({ address }) => address);
  plan.notes.push(...egressNotes(policy, family), ...portNotes(policy, own), ...notes, ...bgp.notes);
  const there = usableAddresses(facts, external, family).map(({ address }) => address);
  plan.elsewhere.push(...ownerNotes(policy, family, facts.names, there).map((note) => ({ family, note })));
  plan.peers.push(...sessions(policy, facts, internal, served.peers, internalGateway));
  if (group !== undefined) {
    plan.groups.push(group.config);
    plan.groupPolicy = policy.group!;
    const unheld = onlyByBgp(policy);
    plan.proxies.push(...groupProxies(group, external).filter(({ address }) => !unheld.has(address)));
    plan.peers.push(...groupSessions(group, policy.group!, internal));
  }
  return familyStatus(served, membership);
}

/** Egress addresses that no gateway holds on the external link. */
const onlyByBgp = ({ rules }: Policy): Set<Address> =>
  new Set(rules.flatMap(({ egressIP }) => (egressIP?.announce === 'bgp' ? egressIP.addresses : [])));

/** The group that the gateway is a member of in the family, or why it cannot be one; undefined without a group. */
const membershipOf = ({
  policy,
  facts,
  interfaces,
  family,
  internalAddresses,
  externalAddresses,
}: ServedFamily) =>
  familyGroup(
    policy,
    family,
    {
      internal: internalAddresses.map(({ address }) => address),
      external: externalAddresses[0]?.address,
      carrier: facts.links.some(({ name, carrier }) => name === interfaces.internal && carrier),
    },
    facts.groups?.[family],
  );

/** NAT's part of the plan of a family. `held`: the addresses of the policy on the external interface. */
function natOf(served: ServedFamily, group: FamilyGroup | undefined, held: readonly Address[]): FamilyNat {
  const { policy, family, interfaces, primary, externalAddresses } = served;
  const routers = bgpRouters(policy, family);
  const nowhere = nowhereAddresses(policy, family, held);
  return {
    ...familyNat(policy, family, interfaces.internal, masqueradeOf(served), group),
    ...(group && { group: groupNat(group, interfaces.external), groupIcmp: true }),
    ...(primary && { primary: { interface: primary.interface, addresses: primary.addresses } }),
    ...(nowhere.length > 0 && { nowhere }),
    ...(routers.length > 0 && { bgp: { own: externalAddresses.map(({ address }) => address), routers } }),
  };
}

/** What a family has come to that is in the plan. */
function familyStatus(
  { family, policy, facts, interfaces, externalAddresses: [source] }: ServedFamily,
  membership: ReturnType<typeof familyGroup>,
): FamilyStatus {
  if (membership !== undefined && 'reason' in membership) {
    return { family, state: 'blocked', reason: membership.reason };
  }
  const pending = membership && groupObstacle(membership);
  if (source !== undefined) {
    return { family, state: 'programmed', source: source.address, ...(pending !== undefined && { pending }) };
  }
  if (!masquerades(policy, family)) return { family, state: 'programmed' };
  const lacking = noAddress(facts, interfaces.external, family, 'external');
  return { family, state: 'blocked', reason: `${lacking}; what would be masqueraded is dropped` };
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
  }: {
    family: Family;
    /** The policy asks for it, and the kernel does not have it. */
    missing: boolean;
    internalGateway: Address | undefined;
    externalGateway: Address | undefined;
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
  for (const peer of bfdPeers(policy, family)) {
    plan.notes.push(`BFD peer ${peer} is left out: IPv${family} is not programmed`);
  }
  return { family, state: 'unused' };
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

/** One family of Kube-OVN's modes: in BGP mode nothing is in the plan but the sessions, in EVPN mode the VRF as well. */
function planForwardOnly(plan: Plan, policy: Policy, facts: Facts, family: Family): FamilyStatus {
  const gateway = gatewayOf(policy.internal, family);
  if (gateway === undefined || facts.missing.includes(family)) return { family, state: 'unused' };
  const { internal } = plan.interfaces;
  const links = policy.evpn && vpnLinks(policy.evpn, policy, facts, plan.interfaces);
  const reason =
    insideObstacle(facts, internal, family) ??
    (policy.evpn && !links ? tunnelObstacle(facts, plan.interfaces.external) : undefined);
  if (reason !== undefined) {
    plan.leftAlone.push(family);
    return { family, state: 'blocked', reason };
  }
  const peers = bfdPeers(policy, family);
  plan.peers.push(...sessions(policy, facts, internal, peers, gateway));
  if (links === undefined) return { family, state: 'programmed' };
  const gateways = { internal: gateway, external: gatewayOf(policy.external, family) };
  const { interfaces } = plan;
  const { routing, announcements } = familyVpn({
    ...{ family, policy, facts, interfaces, gateways, links, peers },
  });
  plan.routing.push(routing);
  plan.announcements.push(...announcements);
  return { family, state: 'programmed', tunnel: { vni: links.vni, local: links.local } };
}

/** Why there is no tunnel. */
const tunnelObstacle = (facts: Facts, external: string): string =>
  linkObstacle(facts, external, 'external') ??
  `the external interface ${external} has no usable address for the tunnel`;

/** The uplinks in force, of each family in use: those of the policy that the family is held at. */
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

/** What masquerading gives. */
function masqueradeOf(served: ServedFamily): Masquerade {
  const { family, facts, interfaces, gateways, given, externalAddresses } = served;
  const [first] = externalAddresses;
  if (first === undefined) return 'none';
  const { external } = interfaces;
  const side = { family, gateway: gateways.external, own: externalAddresses, given };
  return masqueradeChoosesOwn(facts, external, side)
    ? 'chosen'
    : { interface: external, address: first.address };
}
