/**
 * From the policy and the facts of the pod to what routing, NAT and BFD have to do. Pure.
 */
import type { PeerIntent } from '../bfd/intent.ts';
import type { NatIntent } from '../nat/desired.ts';
import type { VirtualAddress } from '../routing/addresses.ts';
import type { RoutingIntent, RoutingSide } from '../routing/desired.ts';
import { ownsAddress } from '../routing/ownership.ts';
import {
  type Address,
  contains,
  FAMILIES,
  type Family,
  familyOf,
  hostPrefix,
  type Prefix,
  parsePrefix,
  prefixLength,
} from '../routing/prefix.ts';
import type { InterfaceAddress } from '../routing/state.ts';
import { desiredSysctls, type Sysctl } from './desired-sysctls.ts';
import { type Facts, findInterfaces, type InterfaceFlags } from './interfaces.ts';
import { egressNotes, familyNat, heldAddresses, inboundTargets, portNotes } from './plan-nat.ts';
import type { Policy, Side } from './policy/model.ts';

/** What became of one address family. */
export interface FamilyStatus {
  family: Family;
  /**
   * `programmed`: as the policy says. `blocked`: the pod lacks something that the policy needs; what is in the
   * kernel is left alone until it is there. `unused`: the policy does not ask for it, or this kernel does not have
   * it; nothing of ours remains.
   */
  state: 'programmed' | 'blocked' | 'unused';
  reason?: string;
}

export interface Plan {
  interfaces: { internal: string; external: string };
  /** The pod's addresses on the internal interface, of every family. */
  internalAddresses: Address[];
  routing: RoutingIntent;
  nat: NatIntent;
  /** What has to be held on the external interface besides the addresses that the pod has. */
  addresses: VirtualAddress[];
  sysctls: Sysctl[];
  /** The sessions of the programmed families. */
  peers: PeerIntent[];
  families: FamilyStatus[];
  /** What the policy says and the plan leaves out, and why. */
  notes: string[];
}

// linux/if_addr.h
const IFA_F_DADFAILED = 0x08;
const IFA_F_TENTATIVE = 0x40;
// rt_scope_t
const SCOPE_UNIVERSE = 0;

const milliseconds = (value: number): number => value * 1000;

type LinkFacts = Pick<Facts, 'links' | 'addresses'>;

/** Whether packets can be sent from an address: it is global, and nobody else on the link has it. */
export const isUsable = ({ scope, flags }: Pick<InterfaceAddress, 'scope' | 'flags'>): boolean =>
  scope === SCOPE_UNIVERSE && (flags & (IFA_F_DADFAILED | IFA_F_TENTATIVE)) === 0;

/** The pod's own addresses on an interface that packets can be sent from; virtual ones are none of them. */
export function usableAddresses(facts: LinkFacts, name: string, family: Family): InterfaceAddress[] {
  const link = facts.links.find((candidate) => candidate.name === name);
  return facts.addresses.filter(
    (address) =>
      address.ifindex === link?.index &&
      address.family === family &&
      !ownsAddress(address) &&
      isUsable(address),
  );
}

const onLinkPrefix = ({ address, prefixLength }: InterfaceAddress): Prefix =>
  parsePrefix(`${address}/${prefixLength}`)!;

/** What keeps one side from being programmed; undefined when nothing does. */
export function obstacle(facts: LinkFacts, name: string, family: Family, role: string): string | undefined {
  const link = facts.links.find((candidate) => candidate.name === name);
  if (link === undefined) {
    return `the ${role} interface ${name} does not exist; attach it to the pod, or name another with --${role}-interface`;
  }
  if (!link.up) return `the ${role} interface ${name} is down`;
  if (usableAddresses(facts, name, family).length === 0) {
    const duplicate = facts.addresses.find(
      (address) =>
        address.ifindex === link.index && address.family === family && address.flags & IFA_F_DADFAILED,
    );
    const why = duplicate === undefined ? '' : `: somebody else on the link has ${duplicate.address}`;
    return `the ${role} interface ${name} has no usable IPv${family} address${why}`;
  }
  return undefined;
}

/** The address that shares a network with the gateway, else the first. */
export function localAddress(addresses: InterfaceAddress[], gateway: Address): Address {
  const near = addresses.find((address) => contains(onLinkPrefix(address), gateway));
  return (near ?? addresses[0]!).address;
}

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
  const plan: Plan = {
    interfaces: { internal, external },
    internalAddresses: FAMILIES.flatMap((family) => usableAddresses(facts, internal, family)).map(
      ({ address }) => address,
    ),
    routing: [],
    nat: [],
    addresses: [],
    sysctls: [],
    peers: [],
    families: [],
    notes: [],
  };
  for (const family of FAMILIES) {
    plan.families.push(planFamily(plan, policy, facts, family));
  }
  // Kube-OVN's observer counts beside a gateway without a log of its own, and cannot set anything.
  const counting = policy.translationLog !== undefined || policy.origin.kind === 'Environment';
  const programmed = plan.families.filter(({ state }) => state === 'programmed');
  plan.sysctls = desiredSysctls(
    programmed.map(({ family }) => family),
    { internal, external },
    counting,
  );
  return plan;
}

/** Adds what one family needs to the plan. */
function planFamily(plan: Plan, policy: Policy, facts: Facts, family: Family): FamilyStatus {
  const { internal, external } = plan.interfaces;
  const internalGateway = gatewayOf(policy.internal, family);
  const externalGateway = gatewayOf(policy.external, family);
  const missing = facts.missing.includes(family) && asksFor(policy, family);
  // Where there is another family to serve, the gateway is one without this one.
  if (missing && !FAMILIES.some((other) => other !== family && asksFor(policy, other))) {
    return { family, state: 'blocked', reason: noFamily(family) };
  }
  const peers = policy.bfd.enabled ? policy.bfd.peers.filter((peer) => familyOf(peer) === family) : [];
  if (missing || internalGateway === undefined || externalGateway === undefined) {
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
  const reason =
    obstacle(facts, internal, family, 'internal') ?? obstacle(facts, external, family, 'external');
  if (reason !== undefined) return { family, state: 'blocked', reason };

  const internalAddresses = usableAddresses(facts, internal, family);
  const onLink = internalAddresses.map(onLinkPrefix);
  const isOnLink = (target: Address | Prefix) => onLink.some((network) => contains(network, target));
  const side = (name: string, gateway: Address): RoutingSide => ({
    interface: name,
    addresses: usableAddresses(facts, name, family).map(({ address }) => address),
    gateway,
  });
  const nat = familyNat(policy, family, internal);
  const blocks = [...new Set(policy.rules.flatMap(({ ipBlocks }) => ipBlocks))].filter(
    (block) => familyOf(block) === family,
  );
  plan.routing.push({
    family,
    internal: side(internal, internalGateway),
    external: side(external, externalGateway),
    internalBlocks: [
      ...blocks,
      ...inboundTargets(nat)
        .filter((target) => !blocks.some((block) => prefixLength(block) > 0 && contains(block, target)))
        .map(hostPrefix),
    ].filter((block) => !isOnLink(block)),
    peers: peers.filter((peer) => !isOnLink(peer)),
  });
  plan.nat.push(nat);
  const own = usableAddresses(facts, external, family).map(({ address }) => address);
  plan.notes.push(...egressNotes(policy, family), ...portNotes(policy, own));
  for (const address of heldAddresses(policy, family, facts.names)) {
    plan.addresses.push({ family, address, dev: external });
  }
  const { minTX, minRX, multiplier, mode, minTTL, adoptDiscriminator, anySource, auth } = policy.bfd;
  const ownMac = facts.links.find(({ name }) => name === internal)?.mac ?? '';
  for (const remote of peers) {
    plan.peers.push({
      local: localAddress(internalAddresses, internalGateway),
      remote,
      desiredMinTx: milliseconds(minTX),
      requiredMinRx: milliseconds(minRX),
      detectMult: multiplier,
      role: mode,
      minTTL,
      interface: internal,
      multihop: false,
      adoptDiscriminator,
      // A peer of the internal network itself speaks for itself.
      ...(!anySource && ownMac !== '' && !isOnLink(remote)
        ? { via: { gateway: internalGateway, mac: ownMac } }
        : {}),
      ...(auth === undefined ? {} : { auth: { type: auth.type, keyId: auth.keyID, keyFile: auth.keyFile } }),
    });
  }
  return { family, state: 'programmed' };
}
