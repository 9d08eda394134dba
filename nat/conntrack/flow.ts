/**
 * What a flow is to the gateway: translated, forwarded or the pod's own, and which policy it belongs to. Pure.
 */
import type { Address, Family, Prefix } from '../../lib/prefix.ts';
import { isOpenedFromOutside, POLICY_NUMBER_MASK } from '../policy-marks.ts';
import { PrefixMatcher, prefixMatcher } from '../prefix-matcher.ts';
import { DEFAULT_POLICY } from './names.ts';
import type { Flow, Verdict } from './table.ts';
import { type Counters, PROTOCOL } from './wire.ts';

export type NatType = 'snat' | 'dnat';

/** The rules of a policy for sources, in the order in which they are tried. */
export interface PolicyRule {
  name: string;
  /** True: translated. False: forwarded unchanged. */
  snat: boolean;
  /** Sources; empty means any. */
  ipBlocks: readonly Prefix[];
  /** Destinations; empty means any. */
  destinationCIDRs?: readonly Prefix[];
  /** Destinations that the rule is not for. */
  excludedCIDRs?: readonly Prefix[];
  /** Ports that each source has for itself; absent: they share all. */
  portBlockSize?: number;
  /** Addresses that sources are translated to; `shared`: with other gateways of a group. */
  egressIP?: { addresses: readonly Address[]; shared?: boolean };
}

/** A flow as records and answers show it. Addresses have 4 or 16 octets; ports as in `Tuple`. */
export interface FlowView {
  family: Family;
  /** IP protocol number. */
  protocol: number;
  zone: number;
  /** The kernel's id of the entry; absent for what comes from the store. */
  id?: number;
  verdict: Verdict;
  /** Sorted. */
  natType: NatType[];
  policy: string;
  source: Uint8Array;
  sourcePort: number;
  destination: Uint8Array;
  destinationPort: number;
  translatedSource: Uint8Array;
  translatedSourcePort: number;
  translatedDestination: Uint8Array;
  translatedDestinationPort: number;
  /** Unix time in ms. */
  start: number;
  /** Unix time in ms; absent while it lives. */
  end?: number;
  /** Its end was not seen: it was no longer there when the table was read, at `end`. */
  endEstimated?: true;
  counters?: Counters;
}

/** The names of policies by the number in the connection mark (policy-marks.ts), also of those that were removed. */
export type PolicyNumbers = ReadonlyMap<number, string>;

/** A view of a flow that lives on when the cursor moves. */
export function viewFlow(flow: Flow, policy: string, end?: number): FlowView {
  const { counters } = flow;
  return {
    family: flow.family,
    protocol: flow.protocol,
    zone: flow.zone,
    id: flow.id,
    verdict: flow.verdict,
    natType: natTypes(flow.snat, flow.dnat),
    policy,
    source: Uint8Array.from(flow.source),
    sourcePort: flow.sourcePort,
    destination: Uint8Array.from(flow.destination),
    destinationPort: flow.destinationPort,
    translatedSource: Uint8Array.from(flow.translatedSource),
    translatedSourcePort: flow.translatedSourcePort,
    translatedDestination: Uint8Array.from(flow.translatedDestination),
    translatedDestinationPort: flow.translatedDestinationPort,
    start: flow.start,
    ...(end === undefined ? {} : { end }),
    ...(counters === undefined ? {} : { counters }),
  };
}

export const natTypes = (snat: boolean, dnat: boolean): NatType[] => [
  ...(dnat ? (['dnat'] as const) : []),
  ...(snat ? (['snat'] as const) : []),
];

const NAMED: Record<number, string> = {
  [PROTOCOL.tcp]: 'tcp',
  [PROTOCOL.udp]: 'udp',
  [PROTOCOL.sctp]: 'sctp',
  [PROTOCOL.icmp]: 'icmp',
  [PROTOCOL.icmpv6]: 'icmpv6',
};

/** The protocol as metrics and records name it: the rest is `other`. */
export const protocolName = (protocol: number): string => NAMED[protocol] ?? 'other';

/** Says which rule a flow belongs to, however many blocks the rules have. */
export class PolicyIndex {
  readonly #rules: {
    name: string;
    snat: boolean;
    destinations: PrefixMatcher | undefined;
    excluded: PrefixMatcher | undefined;
  }[];
  readonly #sources = new PrefixMatcher();
  /** The rules for any source. */
  readonly #any: number[] = [];

  constructor(rules: readonly PolicyRule[]) {
    this.#rules = rules.map(({ name, snat, destinationCIDRs, excludedCIDRs }) => ({
      name,
      snat,
      destinations: prefixMatcher(destinationCIDRs),
      excluded: prefixMatcher(excludedCIDRs),
    }));
    for (const [i, { ipBlocks }] of rules.entries()) {
      if (ipBlocks.length === 0) this.#any.push(i);
      for (const block of ipBlocks) this.#sources.add(block, i);
    }
  }

  /**
   * The first rule with that `snat` that names the inner address; `named` is false when it was a rule for any
   * source. Undefined when there is none.
   */
  find(inner: Uint8Array, outer: Uint8Array, snat: boolean): { name: string; named: boolean } | undefined {
    const named = this.#sources.find(inner);
    for (const i of [...named, ...this.#any].sort((a, b) => a - b)) {
      const rule = this.#rules[i]!;
      if (rule.snat !== snat) continue;
      if (rule.destinations?.has(outer) === false || rule.excluded?.has(outer)) continue;
      return { name: rule.name, named: named.includes(i) };
    }
    return undefined;
  }
}

/**
 * Decides on a new flow: verdict, policy and direction. The pod's own connections to the outside are translated as
 * others are, and belong to no policy. Where the kernel counts, the policy is the one of the connection mark, which the flow
 * began with, so that both count it for the same.
 * @param isLocal whether an address is the pod's own
 * @param number the number of a policy's name
 * @param mark the connection mark, and what policies its number has stood for
 */
export function classify(
  flow: Flow,
  policies: PolicyIndex,
  isLocal: (address: Uint8Array) => boolean,
  number: (name: string) => number,
  { mark, marked }: { mark: number; marked: PolicyNumbers } = { mark: 0, marked: new Map() },
): void {
  const { snat, dnat, source, translatedDestination: destination } = flow;
  const translated = snat || dnat;
  const own = isLocal(source);
  const toOwn = isLocal(destination);
  flow.verdict =
    (own && toOwn) || (!translated && (own || toOwn)) ? 'local' : translated ? 'translated' : 'forwarded';
  if (own || toOwn) return;
  const known = marked.get(mark & POLICY_NUMBER_MASK);
  if (known !== undefined) {
    flow.inbound = isOpenedFromOutside(mark);
    flow.policy = number(known);
    return;
  }
  const outward = policies.find(source, destination, translated);
  // A flow that was opened from outside has its pod at the other end.
  const inward = outward?.named ? undefined : policies.find(destination, source, translated);
  flow.inbound = inward?.named === true || (dnat && !outward?.named);
  flow.policy = number((flow.inbound ? inward : outward)?.name ?? DEFAULT_POLICY);
}
