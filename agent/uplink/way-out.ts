/** The way out of a family: the external interface and gateway, and what is probed there. Pure. */
import { type Address, type Family, familyOf } from '../../lib/prefix.ts';
import type { InterfaceAddress, Link } from '../../routing/state.ts';
import { linkObstacle } from '../pod/interfaces.ts';
import { noAddress, ownAddresses, questionSource } from '../pod/own-address.ts';
import type { UplinkPolicy } from '../policy/model.ts';
import type { Method, Origin } from './probe.ts';

export interface WayOut {
  /** The external gateway; its family is that of the way. */
  gateway: Address;
  interface: string;
  /** The Ethernet addresses that it may answer from; empty: any. */
  gatewayMacs: readonly string[];
  /** Something is masqueraded: that needs an address of the gateway's own. */
  masquerades: boolean;
  policy: UplinkPolicy;
}

/** An address to probe, and how. */
export interface ProbeTarget {
  method: Method;
  address: Address;
  /** Probed only to learn where packets to it have to go; whether it answers does not count. */
  aside: boolean;
}

/**
 * What to probe: the gateway first, unless the policy disables that, then the targets of its family. A gateway that is
 * probed with ICMP is asked for its Ethernet address aside.
 */
export function probeTargets({ gateway, policy: { probe, targets } }: WayOut): ProbeTarget[] {
  const neighbour = { method: 'neighbour', address: gateway, aside: probe === 'icmp' } as const;
  const icmp = targets.filter((target) => familyOf(target) === familyOf(gateway) && target !== gateway);
  if (probe === 'icmp') icmp.unshift(gateway);
  return [
    ...(probe === 'arp' ? [neighbour] : []),
    ...[...new Set(icmp)].map((address) => ({ method: 'icmp', address, aside: false }) as const),
    ...(probe === 'icmp' ? [neighbour] : []),
  ];
}

/** Where probes leave, or why none can. */
export type LinkState = { origin: Origin } | { problem: string };

/**
 * The state of the external interface.
 * @param unspecified the source of a request from an interface without any address; undefined: there is none
 */
export function linkState(
  { gateway, interface: name, masquerades }: WayOut,
  facts: { links: Link[]; addresses: InterfaceAddress[] },
  unspecified: Address | undefined,
): LinkState {
  const family: Family = familyOf(gateway);
  const link = facts.links.find((candidate) => candidate.name === name);
  const lacking = masquerades && ownAddresses(facts, name, { family, gateway }).length === 0;
  const source = questionSource(facts, name, family, gateway) ?? unspecified;
  const problem =
    linkObstacle(facts, name, 'external') ??
    (lacking || source === undefined ? noAddress(facts, name, family, 'external') : undefined) ??
    (link?.carrier ? undefined : `the external interface ${name} has no carrier`);
  if (problem !== undefined || link === undefined || source === undefined) return { problem: problem ?? '' };
  return { origin: { ifindex: link.index, interface: name, mac: link.mac, source } };
}
