/** From what the gateway is meant to translate to the chains, rules and sets that do it. Pure. */

import {
  type Address,
  addressBits,
  anyPrefix,
  type Family,
  hostPrefix,
  type Prefix,
  prefix,
} from '../lib/prefix.ts';
import {
  BFD_PORTS,
  CHAIN_MASQUERADE,
  CHAIN_NOTRACK,
  FORWARD_SET,
  GROUP_MARK_MASK,
  groupMark,
  MAX_FORWARD_RULES,
} from '../routing/numbers.ts';
import {
  type DefaultAction,
  type EgressChains,
  type EgressPolicy,
  egressChains,
  SOURCE_SET,
} from './egress.ts';
import { CHAIN_DNAT, CHAIN_INBOUND, type Dnat, type Eip, EXTERNAL_SET, inboundChains } from './inbound.ts';
import { isOurs } from './marks.ts';
import { sumOf } from './nftables.ts';
import {
  CHAIN_EGRESS,
  CHAIN_GROUP,
  CHAIN_INGRESS,
  CHAIN_INVALID,
  CHAIN_INWARDS,
  CHAIN_LIMIT,
  CHAIN_MSS,
  CHAIN_NEW,
  CHAIN_PRIMARY,
  CHAIN_REDIRECT,
  CHAIN_REFUSED,
  CHAIN_STRAY,
  CHAIN_TRANSLATE,
  hex,
  ingressRules,
  interfaceName,
  jump,
  type MasqueradeSource,
  markRule,
  masqueradeChain,
  notFromInside,
  notrackRules,
  returnPair,
  returnPairOfSet,
} from './rules.ts';
import {
  type AddressSet,
  type Chain,
  emptyState,
  type NatState,
  type PortTable,
  type Tables,
} from './state.ts';

/** What NAT has to do in one family. */
export interface FamilyNat {
  family: Family;
  internalInterface: string;
  /** Blocks that are forwarded unchanged in both directions, in the policy's order, without repetitions. */
  forward: Prefix[];
  /** Keep BFD out of connection tracking. */
  notrackBfd: boolean;
  /** For what is not in `forward`: the first policy that speaks about a packet decides. */
  policies?: EgressPolicy[];
  /** For what none speaks about; absent: masquerade. */
  defaultAction?: DefaultAction;
  /** What is masqueraded gets this address; absent: the one that the kernel chooses. */
  source?: MasqueradeSource;
  /** Come before `forward` and `policies`. */
  eips?: Eip[];
  dnats?: Dnat[];
  /** Keep TCP segments of forwarded connections within the smaller of the two networks. */
  mssClamp?: boolean;
  /**
   * Drop what belongs to no connection, because NAT passes it by. From the VPC it would leave with the address of
   * its sender, unless it is forwarded unchanged; what comes to an address of this pod instead of to whom it was
   * meant for would be answered with a reset, which ends the connection that it was part of.
   */
  dropInvalid?: boolean;
  /**
   * Where connections from outside may come to: what is forwarded, EIPs and DNATs, or everything inside. Absent:
   * the former.
   */
  inbound?: InboundAccess;
  /**
   * The pod's primary network, where it is neither side: what the pod sends from its addresses there stays as it is, and
   * nothing is forwarded to that network or from it.
   */
  primary?: { interface: string; addresses: Address[] };
  /** What a gateway of a group does besides. */
  group?: GroupNat;
  /** So many connections each source inside may have at once; absent: any number. */
  connectionsPerSource?: number;
}

/** A gateway of a group, in one family: the addresses that it shares, and whose ports are other members'. */
export interface GroupNat {
  shared: Address[];
  externalInterface: string;
  /** The slices of other members: what arrives for their ports goes on to them. */
  forward: { slot: number; first: number; last: number }[];
}

export type InboundAccess = 'forwarded' | 'any';

/** The families that are programmed; one that is not in it is taken away. */
export type NatIntent = FamilyNat[];

/** The least room of a set: 2^20 elements, so that a growing policy needs no new set. Costs nothing by itself. */
export const MIN_MAXELEM = 1 << 20;

/** The two halves of an address space. */
const HALVES: Record<Family, Prefix[]> = {
  4: ['0.0.0.0/1', '128.0.0.0/1'].map(prefix),
  6: ['::/1', '8000::/1'].map(prefix),
};

/**
 * Blocks as rules and sets can hold them: the whole address space as its two halves. A set of type hash:net
 * refuses length 0, and a rule with it prints as one without an address, which nobody could tell from a foreign
 * `-j RETURN`.
 */
export function expressible(blocks: readonly Prefix[], family: Family): Prefix[] {
  const any = anyPrefix(family);
  return blocks.includes(any)
    ? [...new Set(blocks.flatMap((block) => (block === any ? HALVES[family] : [block])))]
    : [...blocks];
}

const chain = (policy: string, texts: readonly string[]): Chain => ({
  policy,
  rules: texts.map((text) => ({ text, packets: 0, bytes: 0 })),
});

function hashNet(name: string, family: Family, elements: Map<Prefix, number>, marked: boolean): AddressSet {
  const maxelem = Math.max(MIN_MAXELEM, 2 ** Math.ceil(Math.log2(elements.size + 1)));
  return { name, family, type: 'hash:net', maxelem, marked, elements, plain: true };
}

const unmarked = (blocks: readonly Prefix[]): Map<Prefix, number> =>
  new Map(blocks.map((block) => [block, 0]));

/** Whether anything is asked for that `forward` and the chain VEG-MASQUERADE cannot do. */
const needsDecisions = ({ policies = [], defaultAction = 'masquerade', eips = [] }: FamilyNat): boolean =>
  policies.length > 0 || eips.length > 0 || defaultAction !== 'masquerade';

/** What would be answered with a reset when it comes to somebody who does not know the connection. */
const RESETTING = ['tcp', 'sctp'];

/**
 * What can be left out, with its table and chain: without it every packet is still translated as the policy says. The
 * clamp keeps segments small, the limit keeps room for others; BFD that is tracked may leave with another source port,
 * as upstream's does.
 */
export const OPTIONAL_PARTS = [
  { part: 'mssClamp', table: 'mangle', chain: CHAIN_MSS },
  { part: 'connectionsPerSource', table: 'mangle', chain: CHAIN_LIMIT },
  { part: 'notrackBfd', table: 'raw', chain: CHAIN_NOTRACK },
] as const;
export type OptionalPart = (typeof OPTIONAL_PARTS)[number]['part'];

const portTable = ({ ports, slices }: EgressChains, family: Family): PortTable => ({
  intact: true,
  policies: new Map([...ports].map(([mark, blocks]) => [mark, { ...sumOf(blocks, family), blocks }])),
  slices,
});

/** The protocols whose ports a slice divides, as iptables names them; ICMP's identifiers are divided too. */
const DIVIDED = ['tcp', 'udp', 'sctp'];

/** The identifier of ICMP in the header: behind the IP header of either family, in the words of xt_u32. */
const ICMP_IDENTIFIER = { 4: '0x0>>0x16&0x3c@0x4>>0x10', 6: '0x2c>>0x10' } as const;
const ECHO_REPLY = {
  4: '-p icmp -m icmp --icmp-type 0',
  6: '-p ipv6-icmp -m icmp6 --icmpv6-type 129',
} as const;

/** The chains that mark packets for the ports of other members, which the routing then sends on to them. */
function groupChains(family: Family, { forward }: GroupNat): [name: string, texts: string[]][] {
  const chainOf = (slot: number): string => `${CHAIN_GROUP}-${slot}`;
  return [
    [
      CHAIN_GROUP,
      forward.flatMap(({ slot, first, last }) => {
        const identifiers = `${ICMP_IDENTIFIER[family]}=${hex(first)}:${hex(last)}`;
        return [
          ...DIVIDED.map((name) => `-p ${name} -m ${name} --dport ${first}:${last} -g ${chainOf(slot)}`),
          `${ECHO_REPLY[family]} -m u32 --u32 "${identifiers}" -g ${chainOf(slot)}`,
        ];
      }),
    ],
    ...forward.map(({ slot }): [string, string[]] => [
      chainOf(slot),
      [`-j MARK --set-xmark ${hex(groupMark(slot))}/${hex(GROUP_MARK_MASK)}`, '-j CT --notrack'],
    ]),
  ];
}

/** The tables and sets of one family. */
function familyState(nat: FamilyNat): { tables: Tables; sets: AddressSet[]; ports?: PortTable } {
  const { family, forward, policies = [], defaultAction = 'masquerade', eips = [], dnats = [] } = nat;
  const internal = interfaceName(nat.internalInterface);
  const tables: Tables = new Map();
  const sets: AddressSet[] = [];
  let ports: PortTable | undefined;
  const add = (table: string, name: string, texts: readonly string[], policy = '-'): void => {
    const chains = tables.get(table) ?? new Map<string, Chain>();
    tables.set(table, chains);
    chains.get(name)?.rules.push(...chain(policy, texts).rules) ?? chains.set(name, chain(policy, texts));
  };
  const hook = (table: string, name: string, ...texts: string[]): void => add(table, name, texts, 'ACCEPT');
  const addSet = (name: string, elements: Map<Prefix, number>, marked = false): void =>
    void sets.push(hashNet(name, family, elements, marked));

  const blocks = expressible(forward, family);
  const asSet = blocks.length > MAX_FORWARD_RULES;
  if (asSet) addSet(FORWARD_SET[family], unmarked(blocks));
  const forwarded = asSet ? returnPairOfSet(FORWARD_SET[family]) : blocks.flatMap(returnPair);
  add('nat', CHAIN_MASQUERADE, masqueradeChain(nat.source));
  hook('nat', 'PREROUTING', markRule(internal));
  const { primary } = nat;
  if (primary !== undefined) {
    add('nat', CHAIN_PRIMARY, ['-j ACCEPT']);
    const out = `-o ${interfaceName(primary.interface)} ${jump(CHAIN_PRIMARY)}`;
    hook('nat', 'POSTROUTING', ...primary.addresses.map((address) => `-s ${hostPrefix(address)} ${out}`));
  }

  if (eips.length > 0 || dnats.length > 0) {
    const { dnat, inbound, externals } = inboundChains(family, eips, dnats);
    add('nat', CHAIN_DNAT, dnat);
    add('nat', CHAIN_INBOUND, inbound);
    if (externals.length > MAX_FORWARD_RULES) {
      addSet(EXTERNAL_SET[family], unmarked(externals.map(hostPrefix)));
      hook('nat', 'PREROUTING', `-m set --match-set ${EXTERNAL_SET[family]} dst ${jump(CHAIN_DNAT)}`);
    } else {
      hook(
        'nat',
        'PREROUTING',
        ...externals.map((address) => `-d ${hostPrefix(address)} ${jump(CHAIN_DNAT)}`),
      );
    }
    hook('nat', 'POSTROUTING', `-m conntrack --ctstate DNAT ${jump(CHAIN_INBOUND)}`);
  }

  const { dropInvalid = false, inbound = 'forwarded' } = nat;
  const decides = needsDecisions(nat);
  const closed = inbound === 'forwarded';
  let keepsSource = !closed;
  /** What is asked of packets that belong to no connection yet. */
  const starts: string[] = [];
  if (primary !== undefined) {
    add('mangle', CHAIN_PRIMARY, ['-j DROP']);
    const name = interfaceName(primary.interface);
    starts.push(`-i ${name} ${jump(CHAIN_PRIMARY)}`, `-o ${name} ${jump(CHAIN_PRIMARY)}`);
  }
  if (dropInvalid) {
    add('mangle', CHAIN_STRAY, ['-j DROP']);
    for (const protocol of RESETTING) {
      hook('mangle', 'INPUT', `-p ${protocol} -m conntrack --ctstate INVALID ${jump(CHAIN_STRAY)}`);
    }
    starts.push(`-i ${internal} -m conntrack --ctstate INVALID ${jump(CHAIN_INVALID)}`);
    if (!decides) add('mangle', CHAIN_INVALID, [...forwarded.filter((_, i) => i % 2 === 1), '-j DROP']);
  }
  if (decides) {
    const all: EgressPolicy[] = [
      ...eips.map(
        ({ externalIP, internalIP }): EgressPolicy => ({
          name: `eip ${externalIP}`,
          action: { snat: [externalIP], keepPorts: true },
          sources: [hostPrefix(internalIP)],
          destinations: [],
          excluded: [],
        }),
      ),
      ...(blocks.length > 0
        ? [{ name: 'forward', action: 'forward' as const, sources: blocks, destinations: [], excluded: [] }]
        : []),
      ...policies,
    ];
    const egress = egressChains(family, all, defaultAction, { dropInvalid, closed });
    for (const [name, texts] of egress.mangle) add('mangle', name, texts);
    for (const [name, texts] of egress.nat) add('nat', name, texts);
    if (egress.ports.size + egress.slices.size > 0) ports = portTable(egress, family);
    for (const [name, list] of egress.destinations) addSet(name, unmarked(expressible(list, family)));
    if (egress.sources.size > 0) addSet(SOURCE_SET[family], egress.sources, true);
    starts.push(`-i ${internal} -m conntrack --ctstate NEW ${jump(CHAIN_EGRESS)}`);
    keepsSource ||= egress.forwards;
  } else if (closed) {
    add('mangle', CHAIN_INGRESS, ingressRules(forwarded.filter((_, i) => i % 2 === 0)));
  }
  if (nat.group !== undefined) {
    const { externalInterface, shared } = nat.group;
    const external = interfaceName(externalInterface);
    for (const [name, texts] of groupChains(family, nat.group)) add('raw', name, texts);
    hook(
      'raw',
      'PREROUTING',
      ...shared.map((to) => `-d ${hostPrefix(to)} -i ${external} ${jump(CHAIN_GROUP)}`),
    );
    // IPv4 has a setting for it.
    if (family === 6) {
      add('raw', CHAIN_REDIRECT, ['-j DROP']);
      hook('raw', 'OUTPUT', `-o ${external} -p ipv6-icmp -m icmp6 --icmpv6-type 137 ${jump(CHAIN_REDIRECT)}`);
    }
    // What is for a shared address and belongs to no connection is routed inside, and goes no further.
    starts.push(...shared.map((to) => `-d ${hostPrefix(to)} -o ${internal} -j DROP`));
  }
  const { connectionsPerSource = 0 } = nat;
  if (connectionsPerSource > 0) {
    const mask = addressBits(family);
    const above = `--connlimit-above ${connectionsPerSource} --connlimit-mask ${mask} --connlimit-saddr`;
    add('mangle', CHAIN_LIMIT, [`-m connlimit ${above} -j DROP`]);
    starts.push(`-i ${internal} -m conntrack --ctstate NEW ${jump(CHAIN_LIMIT)}`);
  }
  if (closed) {
    add('mangle', CHAIN_REFUSED, ['-j DROP']);
    starts.push(`! -i ${internal} -o ${internal} ${jump(CHAIN_INGRESS)}`);
  }
  if (starts.length > 0) {
    add('mangle', CHAIN_NEW, starts);
    hook('mangle', 'FORWARD', `-m conntrack ! --ctstate RELATED,ESTABLISHED ${jump(CHAIN_NEW)}`);
  }
  if (keepsSource) {
    add('nat', CHAIN_INWARDS, ['-j ACCEPT']);
    hook('nat', 'POSTROUTING', `-o ${internal} ${notFromInside} ${jump(CHAIN_INWARDS)}`);
  }
  if (decides) hook('nat', 'POSTROUTING', `${isOurs} ${jump(CHAIN_TRANSLATE)}`);
  if (nat.mssClamp) {
    add('mangle', CHAIN_MSS, ['-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu']);
    hook('mangle', 'FORWARD', `-p tcp ${jump(CHAIN_MSS)}`);
  }

  hook('nat', 'POSTROUTING', ...forwarded, jump(CHAIN_MASQUERADE));
  if (nat.notrackBfd) {
    add(
      'raw',
      CHAIN_NOTRACK,
      BFD_PORTS.flatMap((port) => notrackRules(internal, port)),
    );
    for (const name of ['PREROUTING', 'OUTPUT']) hook('raw', name, `-p udp ${jump(CHAIN_NOTRACK)}`);
  }
  return { tables, sets, ...(ports && { ports }) };
}

/**
 * The state that an intent asks for. Nothing for a family that is not in the intent.
 * Throws `RangeError` for what iptables cannot express: an interface name, an egress IP of too many ranges.
 */
export function desiredNat(intent: NatIntent): NatState {
  const state = emptyState();
  for (const nat of intent) {
    const { tables, sets, ports } = familyState(nat);
    state.tables[nat.family] = tables;
    for (const set of sets) state.sets.set(set.name, set);
    if (ports !== undefined) state.ports = { ...state.ports, [nat.family]: ports };
  }
  return state;
}
