/**
 * Which entries of the connection tracking table contradict the policy: flows that began before its rules existed, or
 * under others. An entry fixes the translation of a flow for its whole life, so that UDP without pauses and TCP that keeps
 * retrying would never follow the policy. Pure.
 *
 * Established TCP stays: it cannot change its address and live. The exception is a flow whose address is no longer here:
 * no answer can come back, and both ends should know soon.
 */

import { type Address, addressBytes, type Family, familyOf, type Prefix } from '../../lib/prefix.ts';
import {
  type ConntrackEntry,
  IPS_OFFLOAD,
  isIcmp,
  isReplica,
  PROTOCOL,
  TCP_SYN_RECV,
  TCP_TIME_WAIT,
} from '../../nat/conntrack/wire.ts';
import type { FamilyNat, NatIntent } from '../../nat/desired.ts';
import type { EgressAction } from '../../nat/egress.ts';
import { BlockIndex, isDivided, type PortBlock } from '../../nat/port-blocks.ts';
import { PrefixMatcher, prefixMatcher } from '../../nat/prefix-matcher.ts';

/** What the policy does to the source of a flow from the VPC. */
type Action = 'masquerade' | 'forward' | 'drop' | ReadonlySet<string> | PortBlock;

const key = (octets: Uint8Array): string => String.fromCharCode(...octets);
const keyOf = (address: Address): string => key(addressBytes(address));
const keys = (addresses: readonly Address[]): Set<string> => new Set(addresses.map(keyOf));

/** Multicast, link-local, loopback and the limited broadcast: never forwarded. */
function isLinkScope(octets: Uint8Array): boolean {
  const [a = 0, b = 0] = octets;
  if (octets.length === 4) return a >= 224 || a === 127 || (a === 169 && b === 254);
  if (a === 0xff || (a === 0xfe && (b & 0xc0) === 0x80)) return true;
  return octets[15] === 1 && octets.subarray(0, 15).every((octet) => octet === 0);
}

function compileAction(action: EgressAction, sources: readonly Prefix[]): Action | BlockIndex {
  if (typeof action === 'string') return action;
  const { snat: addresses, portBlockSize: size } = action;
  return size === undefined ? keys(addresses) : new BlockIndex({ sources, addresses, size });
}

/** Where ports of an external address lead; `first` leads to `port`. */
interface DnatTarget {
  first: number;
  last: number;
  address: string;
  port: number;
}

/** The DNATs of an external address and a protocol. */
interface DnatPorts {
  single: Map<number, DnatTarget>;
  ranges: DnatTarget[];
}

const dnatKey = (protocol: number, external: string): string => `${protocol} ${external}`;

/** One family's policy, compiled for queries about many flows. */
class FamilyPolicy {
  readonly #nat: FamilyNat;
  readonly #forward: PrefixMatcher | undefined;
  /** The external address of an internal one, and the other way round. */
  readonly #eips: Map<string, Set<string>>;
  readonly #eipTargets: Map<string, string>;
  readonly #dnats = new Map<string, DnatPorts>();
  readonly #policies: {
    action: Action | BlockIndex;
    destinations: PrefixMatcher | undefined;
    excluded: PrefixMatcher | undefined;
  }[];
  /** The policies by source; those for any source by destination, and those for any of both. */
  readonly #bySource = new PrefixMatcher();
  readonly #byDestination = new PrefixMatcher();
  readonly #any: number[] = [];
  /** Those that forward by source, and those that forward any. */
  readonly #forwarding = new PrefixMatcher();
  readonly #forwardingAny: number[] = [];
  /** Addresses that flows may be translated to besides the pod's own. */
  readonly given: Set<string>;

  constructor(nat: FamilyNat) {
    const { forward, policies = [], eips = [], dnats = [] } = nat;
    this.#nat = nat;
    this.#forward = prefixMatcher(forward);
    this.#eips = new Map(
      eips.map(({ internalIP, externalIP }) => [keyOf(internalIP), new Set([keyOf(externalIP)])]),
    );
    this.#eipTargets = new Map(
      eips.map(({ internalIP, externalIP }) => [keyOf(externalIP), keyOf(internalIP)]),
    );
    for (const dnat of dnats) {
      const name = dnatKey(PROTOCOL[dnat.protocol], keyOf(dnat.externalIP));
      const ports: DnatPorts = this.#dnats.get(name) ?? { single: new Map(), ranges: [] };
      this.#dnats.set(name, ports);
      const { first, last } = dnat.externalPorts;
      const target = { first, last, address: keyOf(dnat.internalIP), port: dnat.internalPorts.first };
      if (first < last) ports.ranges.push(target);
      else if (!ports.single.has(first)) ports.single.set(first, target);
    }
    this.#policies = policies.map(({ action, sources, destinations, excluded }, i) => {
      const forwards = action === 'forward';
      if (sources.length === 0) {
        if (destinations.length === 0) this.#any.push(i);
        for (const destination of destinations) this.#byDestination.add(destination, i);
        if (forwards) this.#forwardingAny.push(i);
      }
      for (const source of sources) {
        this.#bySource.add(source, i);
        if (forwards) this.#forwarding.add(source, i);
      }
      return {
        action: compileAction(action, sources),
        destinations: prefixMatcher(destinations),
        excluded: prefixMatcher(excluded),
      };
    });
    const snat = policies.flatMap(({ action }) => (typeof action === 'string' ? [] : action.snat));
    this.given = keys([...snat, ...eips.map(({ externalIP }) => externalIP)]);
  }

  /** Whether all that comes from outside may come in, with the source that it has. */
  get admitsAll(): boolean {
    return this.#nat.inbound === 'any';
  }

  /** The action for a flow that begins now. */
  action(source: Uint8Array, destination: Uint8Array): Action {
    const eip = this.#eips.get(key(source));
    if (eip !== undefined) return eip;
    if (this.#forward?.has(source) || this.#forward?.has(destination)) return 'forward';
    const found = [this.#bySource.find(source), this.#byDestination.find(destination), this.#any].flat();
    for (const i of found.sort((a, b) => a - b)) {
      const { action, destinations, excluded } = this.#policies[i]!;
      if (destinations?.has(destination) === false || excluded?.has(destination)) continue;
      return action instanceof BlockIndex ? (action.blockOf(source) ?? 'drop') : action;
    }
    return this.#nat.defaultAction ?? 'masquerade';
  }

  /**
   * Forwarding applies to both directions: of a flow from outside, the sources of the policy hold the destination. A
   * source that policies name is not outside.
   */
  forwardsInwards(source: Uint8Array, destination: Uint8Array): boolean {
    if (this.#bySource.find(source).length > 0) return false;
    return [this.#forwarding.find(destination), this.#forwardingAny].flat().some((i) => {
      const { destinations, excluded } = this.#policies[i]!;
      return destinations?.has(source) !== false && !excluded?.has(source);
    });
  }

  /** Whether an address belongs to one pod alone. */
  isEip(address: string): boolean {
    return this.#eipTargets.has(address);
  }

  /** Where a flow to an address of ours leads inside: the address, and the port when one port is meant. */
  inside({ protocol, original }: ConntrackEntry): { address: string; port: number } | undefined {
    const to = key(original.destination);
    const port = original.destinationPort;
    const ports = this.#dnats.get(dnatKey(protocol, to));
    const dnat =
      ports?.single.get(port) ?? ports?.ranges.find(({ first, last }) => port >= first && port <= last);
    if (dnat !== undefined) return { address: dnat.address, port: dnat.port + port - dnat.first };
    const address = this.#eipTargets.get(to);
    return address === undefined ? undefined : { address, port };
  }
}

/** What an entry says of its flow: from where, to where, and how it is translated. */
interface FlowKeys {
  /** The source, and what it became. */
  from: string;
  became: string;
  /** Where the entry leads: the address and the port. */
  leadsTo: string;
  port: number;
}

function keysOf({ original, reply, protocol }: ConntrackEntry): FlowKeys {
  return {
    from: key(original.source),
    became: key(reply.destination),
    leadsTo: key(reply.source),
    // An ICMP identifier replaces both ports and may be translated with the source.
    port: isIcmp(protocol) ? original.destinationPort : reply.sourcePort,
  };
}

const isSettled = ({ protocol, status, tcpState = 0 }: ConntrackEntry): boolean =>
  protocol === PROTOCOL.tcp &&
  ((status & IPS_OFFLOAD) !== 0 || (tcpState >= TCP_SYN_RECV && tcpState <= TCP_TIME_WAIT));

/** The flows of one family. */
class FamilyFlows {
  readonly #policy: FamilyPolicy;
  readonly #own: ReadonlySet<string>;
  readonly #internal: ReadonlySet<string>;
  readonly #isInside: (octets: Uint8Array) => boolean;

  constructor(
    policy: FamilyPolicy,
    own: ReadonlySet<string>,
    internal: ReadonlySet<string>,
    isInside: (octets: Uint8Array) => boolean,
  ) {
    this.#policy = policy;
    this.#own = own;
    this.#internal = internal;
    this.#isInside = isInside;
  }

  isStale(entry: ConntrackEntry): boolean {
    const { source, destination } = entry.original;
    const { from, became, leadsTo, port } = keysOf(entry);
    const translated = became !== from;
    // Its gateway removes it, and with it the copies of the other members.
    if (isReplica(entry)) return !this.#policy.given.has(became);
    if (this.#own.has(from) || isLinkScope(source) || isLinkScope(destination)) return false;
    if (isSettled(entry)) return translated && !this.#own.has(became) && !this.#policy.given.has(became);

    const target = this.#policy.inside(entry);
    if (target !== undefined) {
      return leadsTo !== target.address || (!isIcmp(entry.protocol) && port !== target.port);
    }
    const to = key(destination);
    if (leadsTo !== to || port !== entry.original.destinationPort) return true;
    if (this.#own.has(to)) return false;
    return translated ? this.#isMistranslated(entry, became) : this.#isUntranslated(entry);
  }

  /** Whether a flow without translation should have one. */
  #isUntranslated({ original: { source, destination } }: ConntrackEntry): boolean {
    // It may have come from outside. What is inside is not always known, so where it leads proves nothing.
    if (this.#policy.admitsAll && !this.#isInside(source)) return false;
    return (
      this.#policy.action(source, destination) !== 'forward' &&
      !this.#policy.forwardsInwards(source, destination)
    );
  }

  /** Whether the policy gives the source of a translated flow something else. */
  #isMistranslated({ original, reply, protocol }: ConntrackEntry, became: string): boolean {
    const { source, destination } = original;
    const action = this.#policy.action(source, destination);
    if (action === 'drop' || action === 'forward') return true;
    if (action === 'masquerade') {
      // An internal address is for what stays inside.
      const leavesInside = this.#internal.has(became) && !this.#isInside(destination);
      return !this.#own.has(became) || this.#policy.isEip(became) || leavesInside;
    }
    if (!('first' in action)) return !action.has(became);
    if (became !== keyOf(action.address)) return true;
    const becamePort = reply.destinationPort;
    return isDivided(protocol) && (becamePort < action.first || becamePort > action.last);
  }
}

/**
 * A function that returns whether an entry is stale. `own`: every address that the pod has; `blocks`: what is inside, as
 * far as it is known; `internal`: the addresses of the internal interface. Never stale: entries of a family that is not in
 * the intent, the pod's own flows, and what is never forwarded.
 */
export function staleFlows(
  intent: NatIntent,
  own: readonly Address[],
  blocks: readonly Prefix[] = [],
  internal: readonly Address[] = [],
): (entry: ConntrackEntry) => boolean {
  // Made when first needed: most policies never need it.
  let inside: PrefixMatcher | undefined;
  const isInside = (octets: Uint8Array): boolean => {
    inside ??= prefixMatcher(blocks) ?? new PrefixMatcher();
    return inside.has(octets);
  };
  const internalOwn = keys(internal);
  const families = new Map<Family, FamilyFlows>(
    intent.map((nat) => {
      const ownKeys = keys(own.filter((address) => familyOf(address) === nat.family));
      return [nat.family, new FamilyFlows(new FamilyPolicy(nat), ownKeys, internalOwn, isInside)];
    }),
  );
  return (entry) => families.get(entry.family)?.isStale(entry) ?? false;
}
