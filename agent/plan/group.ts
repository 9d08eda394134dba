/**
 * What a group adds to the plan of one family: the slice that shared addresses are translated with, what goes on to other
 * members, the addresses that are held, and the sessions between members. All of it follows from the policy and from the
 * view that the exchange has (docs/design/0009-group.md). Pure.
 */
import type { PeerIntent } from '../../bfd/intent.ts';
import { type Address, type Family, familyOf } from '../../lib/prefix.ts';
import type { GroupNat } from '../../nat/desired.ts';
import type { EgressAction } from '../../nat/egress.ts';
import type { GroupRouting } from '../../routing/desired.ts';
import type { ProxyNeighbour } from '../../routing/proxies.ts';
import type { GroupSettings } from '../group/messages.ts';
import type { GroupConfig, GroupFacts } from '../group/model.ts';
import { portSlice, slotOf } from '../group/slices.ts';
import type { GroupPolicy, Policy } from '../policy/model.ts';
import type { Plan } from './plan.ts';

/** A family of a group that this gateway is a member of. */
export interface FamilyGroup {
  config: GroupConfig;
  /** Absent before the exchange has reported. */
  view: GroupFacts | undefined;
}

/** The pod's own addresses of the family on either side. */
export interface OwnAddresses {
  internal: readonly Address[];
  external: Address | undefined;
  /** The internal link has a carrier. */
  carrier: boolean;
}

const MICROSECONDS = 1000;

/** The addresses of a family that the policy shares. */
export const sharedAddresses = (policy: Policy, family: Family): Address[] => [
  ...new Set(
    policy.rules
      .flatMap(({ snat, egressIP }) => (snat && egressIP?.shared ? egressIP.addresses : []))
      .filter((address) => familyOf(address) === family),
  ),
];

/**
 * The group in a family; undefined if the policy has none there, and the reason if this gateway cannot be a member.
 */
export function familyGroup(
  policy: Policy,
  family: Family,
  own: OwnAddresses,
  view: GroupFacts | undefined,
): FamilyGroup | { reason: string } | undefined {
  const members = policy.group?.members.filter((member) => familyOf(member) === family) ?? [];
  if (members.length === 0) return undefined;
  const self = own.internal.find((address) => members.includes(address));
  if (self === undefined) {
    const isOutside = own.external !== undefined && members.includes(own.external);
    const hint = isOutside ? `; ${own.external} is the external one, name members by their internal one` : '';
    return {
      reason: `none of the internal addresses (${own.internal.join(', ')}) is among spec.group.members (${members.join(', ')})${hint}`,
    };
  }
  if (own.external === undefined) {
    return {
      reason: `the external interface has no IPv${family} address, and the other members of the group forward to it`,
    };
  }
  const shared = sharedAddresses(policy, family);
  const config: GroupConfig = {
    ...{ family, self, members, external: own.external, shared },
    ...(!own.carrier && { cutOff: true }),
  };
  return { config, view: view?.self === self ? view : undefined };
}

/**
 * How a shared address is translated: with ports of the member's own slice. That follows from the member's address alone,
 * so the rules are there before the exchange is; until the gateway is ready, its sessions are not Up.
 */
export function sharedAction({ config }: FamilyGroup, addresses: Address[]): EgressAction {
  const { firstPort, lastPort } = portSlice(slotOf(config.self));
  return { snat: addresses, slice: { first: firstPort, last: lastPort } };
}

/** NAT's part. */
export const groupNat = ({ config, view }: FamilyGroup, externalInterface: string): GroupNat => ({
  self: config.self,
  shared: [...config.shared],
  externalInterface,
  forward: (view?.forward ?? []).map(({ slice: { slot, firstPort, lastPort } }) => ({
    ...{ slot, first: firstPort, last: lastPort },
  })),
});

/** Routing's part. */
export const groupRouting = (
  { config, view }: FamilyGroup,
  isOnLink: (address: Address) => boolean,
): GroupRouting => ({
  shared: [...config.shared],
  neighbours: config.members.filter((member) => member !== config.self && isOnLink(member)),
  forward: (view?.forward ?? []).map(({ slice: { slot }, via }) => ({ slot, via })),
});

/**
 * The addresses to answer for. Another member may hold them for a while too, the one that takes them over, or one that
 * cannot be reached. So they are not defended: neighbours keep to the member that announced them last.
 */
export const groupProxies = ({ config, view }: FamilyGroup, dev: string): ProxyNeighbour[] =>
  (config.cutOff ? [] : (view?.held ?? []))
    .filter((address) => config.shared.includes(address))
    .map((address) => ({ family: config.family, address, dev, contested: true }));

/** Why the family may not carry traffic yet; undefined if it may. */
export function groupObstacle({ config, view }: FamilyGroup): string | undefined {
  if (config.shared.length === 0 || view?.ready) return undefined;
  if (view?.state === 'live') return 'waiting until the group forwards the answers for this gateway to it';
  if (view === undefined) return 'waiting until the exchange of the group starts';
  const from = view.takingOverFrom.length > 0 ? ` from ${view.takingOverFrom.join(', ')}` : '';
  const missing =
    view.notConnectedWith.length > 0 ? `, not connected with ${view.notConnectedWith.join(', ')}` : '';
  return `taking over the flows of the group${from}${missing}`;
}

/** What the exchange is to do; undefined: there is no group. */
export function groupSettings({ groups, groupPolicy, interfaces }: Plan): GroupSettings | undefined {
  if (groups.length === 0 || groupPolicy === undefined) return undefined;
  const { port, credentials } = groupPolicy;
  return { configs: groups, port, interface: interfaces.internal, credentials };
}

/** The sessions with the other members. They depend on the uplink, and not on the readiness of the gateway. */
export const groupSessions = (
  { config }: FamilyGroup,
  { minTX, minRX, multiplier }: GroupPolicy,
  internalInterface: string,
): PeerIntent[] =>
  config.members
    .filter((member) => member !== config.self)
    .map((remote) => ({
      local: config.self,
      remote,
      desiredMinTx: minTX * MICROSECONDS,
      requiredMinRx: minRX * MICROSECONDS,
      detectMult: multiplier,
      role: 'active',
      minTTL: 255,
      interface: internalInterface,
      multihop: false,
      adoptDiscriminator: true,
      unconditional: true,
    }));
