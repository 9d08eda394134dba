/** From what the gateway is meant to translate to the chains, rules and sets that do it. Pure. */

import { IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP } from '../lib/linux.ts';
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
  NOWHERE_SET,
} from '../routing/numbers.ts';
import {
  type DefaultAction,
  type EgressChains,
  type EgressPolicy,
  egressChains,
  SOURCE_SET,
} from './egress.ts';
import { type Gate, type GateTable, gateTable } from './gate.ts';
import { CHAIN_DNAT, CHAIN_INBOUND, type Dnat, type Eip, EXTERNAL_SET, inboundChains } from './inbound.ts';
import { isOurs } from './marks.ts';
import { sumOf } from './nftables.ts';
import {
  CHAIN_BGP,
  CHAIN_EGRESS,
  CHAIN_GROUP,
  CHAIN_GROUP_ICMP,
  CHAIN_GROUP_OWN,
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
  inwardsRule,
  jump,
  type MasqueradeSource,
  markRule,
  masqueradeChain,
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
  /** External addresses that no interface has: what comes for one and belongs to no connection goes no further. */
  nowhere?: Address[];
  /** BGP sessions of the pod: from its external addresses to routers. Absent: none. */
  bgp?: { own: Address[]; routers: Address[] };
  /** What a gateway of a group does besides. */
  group?: GroupNat;
  /** What arrives of ICMP for other members goes on to them. */
  groupIcmp?: boolean;
  /** Maximum number of open connections of one source inside; absent: no limit. */
  connectionsPerSource?: number;
}

/** A gateway of a group, in one family: the addresses that it shares, and whose ports are other members'. */
export interface GroupNat {
  /** This gateway's address on the internal interface. */
  self: Address;
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
 * refuses length 0, and a rule with it prints as one without an address, indistinguishable from a foreign
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

/** Whether the intent needs more than `forward` and the chain VEG-MASQUERADE. */
const needsDecisions = ({ policies = [], defaultAction = 'masquerade', eips = [] }: FamilyNat): boolean =>
  policies.length > 0 || eips.length > 0 || defaultAction !== 'masquerade';

/** Packets that a host without the connection answers with a reset. */
const RESETTING = ['tcp', 'sctp'];

/**
 * What can be left out, with its table and chain and what it needs of the kernel: without it every packet is still
 * translated by the policy. The clamp keeps segments small, the limit keeps room for others; BFD that is tracked may leave with
 * another source port, as upstream's does; answers to pings and errors may not find the member of a group that waits for them.
 */
export const OPTIONAL_PARTS = [
  { part: 'mssClamp', table: 'mangle', chain: CHAIN_MSS, module: 'xt_TCPMSS' },
  { part: 'connectionsPerSource', table: 'mangle', chain: CHAIN_LIMIT, module: 'xt_connlimit' },
  { part: 'notrackBfd', table: 'raw', chain: CHAIN_NOTRACK, module: 'xt_CT and xt_addrtype' },
  { part: 'groupIcmp', table: 'raw', chain: CHAIN_GROUP_ICMP, module: 'xt_u32' },
] as const;
export type OptionalPart = (typeof OPTIONAL_PARTS)[number]['part'];

const portTable = ({ ports, slices }: EgressChains, family: Family): PortTable => ({
  intact: true,
  hasSlices: slices.size > 0,
  policies: new Map([...ports].map(([mark, blocks]) => [mark, { ...sumOf(blocks, family), blocks }])),
  slices,
});

/** The protocols whose ports a slice divides, as iptables names them; ICMP's identifiers are divided too. */
const DIVIDED = ['tcp', 'udp', 'sctp'];
/** Their numbers, as xt_u32 compares them. */
const DIVIDED_NUMBERS = [IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP].map(hex).join();

/**
 * ICMP in the words of xt_u32. `start` leads to the ICMP header (the IP header of IPv4 has options, that of IPv6 has none
 * here), `inner` from there to the transport header of the packet that an error is about. `errors`: their types;
 * `protocol`: that of the packet.
 */
const ICMP = {
  4: {
    ...{ name: 'icmp', start: '0x0>>0x16&0x3c@', identifier: '0x4>>0x10', echo: IPPROTO_ICMP },
    ...{ reply: '-m icmp --icmp-type 0', errors: '0x0>>0x18=0x3,0xb:0xc', protocol: '0x10>>0x10&0xff' },
    inner: { port: '0x8>>0x16&0x3c@0x8>>0x10', identifier: '0x8>>0x16&0x3c@0xc>>0x10' },
  },
  6: {
    ...{ name: 'ipv6-icmp', start: '', identifier: '0x2c>>0x10', echo: IPPROTO_ICMPV6 },
    ...{ reply: '-m icmp6 --icmpv6-type 129', errors: '0x28>>0x18=0x1:0x4', protocol: '0x34>>0x8&0xff' },
    inner: { port: '0x58>>0x10', identifier: '0x5c>>0x10' },
  },
} as const;

const groupChain = (slot: number): string => `${CHAIN_GROUP}-${slot}`;

/** The chains that mark packets for the ports of other members, which the routing then sends on to them. */
const groupChains = ({ forward }: GroupNat): [name: string, texts: string[]][] => [
  [
    CHAIN_GROUP,
    forward.flatMap(({ slot, first, last }) =>
      DIVIDED.map((name) => `-p ${name} -m ${name} --dport ${first}:${last} -g ${groupChain(slot)}`),
    ),
  ],
  ...forward.map(({ slot }): [string, string[]] => [
    groupChain(slot),
    [`-j MARK --set-xmark ${hex(groupMark(slot))}/${hex(GROUP_MARK_MASK)}`, '-j CT --notrack'],
  ]),
];

/**
 * The same for ICMP: echo replies by their identifier, and errors by the port or identifier of the packet that they are
 * about. A member has no replica of a flow without an answer, and an error may be the first one.
 */
function groupIcmpRules(family: Family, { forward }: GroupNat): string[] {
  const { name, start, identifier, echo, reply, errors, protocol, inner } = ICMP[family];
  const all = (...tests: string[]): string => tests.map((test) => start + test).join('&&');
  return forward.flatMap(({ slot, first, last }) => {
    const own = `=${hex(first)}:${hex(last)}`;
    return [
      `${reply} -m u32 --u32 "${all(identifier + own)}"`,
      `-m u32 --u32 "${all(errors, `${protocol}=${DIVIDED_NUMBERS}`, inner.port + own)}"`,
      `-m u32 --u32 "${all(errors, `${protocol}=${hex(echo)}`, inner.identifier + own)}"`,
    ].map((match) => `-p ${name} ${match} -g ${groupChain(slot)}`);
  });
}

/**
 * What nf_tables drops of a family's packets that belong to no connection. Undefined where more is done with them than to drop
 * them, or they are compared with a set: policies that decide, groups, limits, many forwarded blocks and addresses that are on no
 * interface need the chain VEG-NEW. So does a primary network, to which the pod's Neighbor Discovery has to pass and nothing that it forwards.
 */
function gateOf(nat: FamilyNat, blocks: readonly Prefix[]): Gate | undefined {
  const { family, internalInterface, inbound = 'forwarded', connectionsPerSource = 0 } = nat;
  const hasOthers = nat.group !== undefined || nat.primary !== undefined || nat.nowhere !== undefined;
  const isMore = needsDecisions(nat) || hasOthers || connectionsPerSource > 0;
  if (!nat.dropInvalid || isMore || blocks.length > MAX_FORWARD_RULES) return undefined;
  return { family, internalInterface, closed: inbound === 'forwarded', open: blocks };
}

/** The tables and sets of one family. */
interface FamilyState {
  tables: Tables;
  sets: AddressSet[];
  ports?: PortTable;
  gate?: GateTable;
}

/** Builds the state of one family. Rules that hook chains are in the order in which the parts add them. */
class FamilyBuilder {
  readonly #nat: FamilyNat;
  readonly #internal: string;
  readonly #state: FamilyState = { tables: new Map(), sets: [] };
  /** Blocks that are forwarded, and the rules that let them pass: to them and from them by turns. */
  readonly #blocks: Prefix[];
  readonly #forwarded: string[];
  /** Whether policies decide beyond `forward` and masquerading; whether only what is open may come in. */
  readonly #decides: boolean;
  readonly #closed: boolean;
  /** What comes in from outside keeps its source. */
  #keepsSource: boolean;
  /** The rules for packets that belong to no connection yet. */
  readonly #starts: string[] = [];

  constructor(nat: FamilyNat, hasGate: HasGate) {
    const { family, forward, inbound = 'forwarded' } = nat;
    this.#nat = nat;
    this.#internal = interfaceName(nat.internalInterface);
    this.#blocks = expressible(forward, family);
    const asSet = this.#blocks.length > MAX_FORWARD_RULES;
    if (asSet) this.#addSet(FORWARD_SET[family], unmarked(this.#blocks));
    this.#forwarded = asSet ? returnPairOfSet(FORWARD_SET[family]) : this.#blocks.flatMap(returnPair);
    this.#decides = needsDecisions(nat);
    this.#closed = inbound === 'forwarded';
    this.#keepsSource = !this.#closed;
    const gate = gateOf(nat, this.#blocks);
    if (gate === undefined || !hasGate(gate)) return;
    const instead = new FamilyBuilder(nat, () => false).build().tables.get('mangle')!;
    this.#state.gate = { ...gateTable(gate), source: { gate, instead } };
  }

  build(): FamilyState {
    const { source } = this.#nat;
    this.#add('nat', CHAIN_MASQUERADE, masqueradeChain(source));
    this.#hook('nat', 'PREROUTING', markRule(this.#internal));
    this.#addPrimary();
    this.#addBgp();
    this.#addInbound();
    this.#addStray();
    this.#addInvalid();
    this.#addDecisions();
    this.#addGroup();
    this.#addLimit();
    this.#addStarts();
    this.#addTranslation();
    this.#addNotrack();
    return this.#state;
  }

  #add(table: string, name: string, texts: readonly string[], policy = '-'): void {
    const { tables } = this.#state;
    const chains = tables.get(table) ?? new Map<string, Chain>();
    tables.set(table, chains);
    const made = chain(policy, texts);
    const there = chains.get(name);
    if (there === undefined) chains.set(name, made);
    else there.rules.push(...made.rules);
  }

  /** Adds rules to a built-in chain. */
  #hook(table: string, name: string, ...texts: string[]): void {
    this.#add(table, name, texts, 'ACCEPT');
  }

  #addSet(name: string, elements: Map<Prefix, number>, marked = false): void {
    this.#state.sets.push(hashNet(name, this.#nat.family, elements, marked));
  }

  /** The pod's primary network, where it is neither side: nothing is translated there, and nothing forwarded. */
  #addPrimary(): void {
    const { primary } = this.#nat;
    if (primary === undefined) return;
    const name = interfaceName(primary.interface);
    this.#add('nat', CHAIN_PRIMARY, ['-j ACCEPT']);
    const out = `-o ${name} ${jump(CHAIN_PRIMARY)}`;
    this.#hook(
      'nat',
      'POSTROUTING',
      ...primary.addresses.map((address) => `-s ${hostPrefix(address)} ${out}`),
    );
    this.#add('mangle', CHAIN_PRIMARY, ['-j DROP']);
    this.#starts.push(`-i ${name} ${jump(CHAIN_PRIMARY)}`, out);
  }

  /** BGP sessions of the pod. */
  #addBgp(): void {
    const { own = [], routers = [] } = this.#nat.bgp ?? {};
    if (own.length === 0 || routers.length === 0) return;
    this.#add('nat', CHAIN_BGP, ['-j ACCEPT']);
    const sessions = own.flatMap((from) =>
      routers.map((to) => `-s ${hostPrefix(from)} -d ${hostPrefix(to)} -p tcp -m tcp --dport 179`),
    );
    this.#hook('nat', 'POSTROUTING', ...sessions.map((match) => `${match} ${jump(CHAIN_BGP)}`));
  }

  /** EIPs and DNATs. */
  #addInbound(): void {
    const { family, eips = [], dnats = [] } = this.#nat;
    if (eips.length === 0 && dnats.length === 0) return;
    const { dnat, inbound, externals } = inboundChains(family, eips, dnats);
    this.#add('nat', CHAIN_DNAT, dnat);
    this.#add('nat', CHAIN_INBOUND, inbound);
    const asSet = externals.length > MAX_FORWARD_RULES;
    if (asSet) this.#addSet(EXTERNAL_SET[family], unmarked(externals.map(hostPrefix)));
    const matches = asSet
      ? [`-m set --match-set ${EXTERNAL_SET[family]} dst`]
      : externals.map((address) => `-d ${hostPrefix(address)}`);
    this.#hook('nat', 'PREROUTING', ...matches.map((match) => `${match} ${jump(CHAIN_DNAT)}`));
    this.#hook('nat', 'POSTROUTING', `-m conntrack --ctstate DNAT ${jump(CHAIN_INBOUND)}`);
  }

  /** What belongs to no connection and comes to the pod. */
  #addStray(): void {
    if (!this.#nat.dropInvalid) return;
    this.#add('mangle', CHAIN_STRAY, ['-j DROP']);
    for (const protocol of RESETTING) {
      this.#hook('mangle', 'INPUT', `-p ${protocol} -m conntrack --ctstate INVALID ${jump(CHAIN_STRAY)}`);
    }
  }

  /** The same on its way out. */
  #addInvalid(): void {
    if (!this.#nat.dropInvalid || this.#state.gate !== undefined) return;
    this.#starts.push(`-i ${this.#internal} -m conntrack --ctstate INVALID ${jump(CHAIN_INVALID)}`);
    if (this.#decides) return;
    const from = this.#forwarded.filter((_, i) => i % 2 === 1);
    this.#add('mangle', CHAIN_INVALID, [...from, '-j DROP']);
  }

  #addDecisions(): void {
    if (this.#state.gate !== undefined) return;
    if (!this.#decides) {
      const to = this.#forwarded.filter((_, i) => i % 2 === 0);
      if (this.#closed) this.#add('mangle', CHAIN_INGRESS, ingressRules(to));
      return;
    }
    const { family, defaultAction = 'masquerade', dropInvalid = false } = this.#nat;
    const options = { dropInvalid, closed: this.#closed };
    const egress = egressChains(family, this.#egressPolicies(), defaultAction, options);
    for (const [name, texts] of egress.mangle) this.#add('mangle', name, texts);
    for (const [name, texts] of egress.nat) this.#add('nat', name, texts);
    if (egress.ports.size + egress.slices.size > 0) this.#state.ports = portTable(egress, family);
    for (const [name, list] of egress.destinations) this.#addSet(name, unmarked(expressible(list, family)));
    if (egress.sources.size > 0) this.#addSet(SOURCE_SET[family], egress.sources, true);
    this.#starts.push(`-i ${this.#internal} -m conntrack --ctstate NEW ${jump(CHAIN_EGRESS)}`);
    this.#keepsSource ||= egress.forwards;
  }

  /** All policies: EIPs first, then what is forwarded whatever its destination. */
  #egressPolicies(): EgressPolicy[] {
    const { eips = [], policies = [] } = this.#nat;
    const anywhere = { destinations: [], excluded: [] };
    const forward: EgressPolicy = { name: 'forward', action: 'forward', sources: this.#blocks, ...anywhere };
    return [
      ...eips.map(
        ({ externalIP, internalIP }): EgressPolicy => ({
          name: `eip ${externalIP}`,
          action: { snat: [externalIP], keepPorts: true },
          sources: [hostPrefix(internalIP)],
          ...anywhere,
        }),
      ),
      ...(this.#blocks.length > 0 ? [forward] : []),
      ...policies,
    ];
  }

  #addGroup(): void {
    const { family, group, groupIcmp } = this.#nat;
    if (group === undefined) return;
    const { externalInterface, self, shared } = group;
    this.#add('nat', CHAIN_GROUP_OWN, ['-j ACCEPT']);
    this.#hook('nat', 'POSTROUTING', `-s ${hostPrefix(self)} -o ${this.#internal} ${jump(CHAIN_GROUP_OWN)}`);
    const external = interfaceName(externalInterface);
    for (const [name, texts] of groupChains(group)) this.#add('raw', name, texts);
    if (groupIcmp) {
      this.#add('raw', CHAIN_GROUP_ICMP, groupIcmpRules(family, group));
      this.#add('raw', CHAIN_GROUP, [`-p ${ICMP[family].name} ${jump(CHAIN_GROUP_ICMP)}`]);
    }
    this.#hook(
      'raw',
      'PREROUTING',
      ...shared.map((to) => `-d ${hostPrefix(to)} -i ${external} ${jump(CHAIN_GROUP)}`),
    );
    // IPv4 has a setting for it.
    if (family === 6) {
      this.#add('raw', CHAIN_REDIRECT, ['-j DROP']);
      this.#hook(
        'raw',
        'OUTPUT',
        `-o ${external} -p ipv6-icmp -m icmp6 --icmpv6-type 137 ${jump(CHAIN_REDIRECT)}`,
      );
    }
    // What is for a shared address and belongs to no connection is routed inside, and goes no further.
    this.#starts.push(...shared.map((to) => `-d ${hostPrefix(to)} -o ${this.#internal} -j DROP`));
  }

  #addLimit(): void {
    const { family, connectionsPerSource = 0 } = this.#nat;
    if (connectionsPerSource === 0) return;
    const above = `--connlimit-above ${connectionsPerSource} --connlimit-mask ${addressBits(family)}`;
    this.#add('mangle', CHAIN_LIMIT, [`-m connlimit ${above} --connlimit-saddr -j DROP`]);
    this.#starts.push(`-i ${this.#internal} -m conntrack --ctstate NEW ${jump(CHAIN_LIMIT)}`);
  }

  /** One rule of mangle FORWARD leads to all that is asked of packets without a connection. */
  #addStarts(): void {
    if (this.#state.gate !== undefined) return;
    if (this.#closed) {
      this.#add('mangle', CHAIN_REFUSED, ['-j DROP']);
      this.#starts.push(`! -i ${this.#internal} -o ${this.#internal} ${jump(CHAIN_INGRESS)}`);
    }
    this.#addNowhere();
    if (this.#starts.length === 0) return;
    this.#add('mangle', CHAIN_NEW, this.#starts);
    this.#hook('mangle', 'FORWARD', `-m conntrack ! --ctstate RELATED,ESTABLISHED ${jump(CHAIN_NEW)}`);
  }

  /** Routers lead packets for these addresses here, and the VPC's router would send back what it gets of them. */
  #addNowhere(): void {
    const { family, nowhere = [] } = this.#nat;
    const asSet = nowhere.length > MAX_FORWARD_RULES;
    if (asSet) this.#addSet(NOWHERE_SET[family], unmarked(nowhere.map(hostPrefix)));
    const out = `-o ${this.#internal}`;
    const matches = asSet
      ? [`${out} -m set --match-set ${NOWHERE_SET[family]} dst`]
      : nowhere.map((address) => `-d ${hostPrefix(address)} ${out}`);
    this.#starts.push(...matches.map((match) => `${match} -j DROP`));
  }

  #addTranslation(): void {
    if (this.#keepsSource) {
      this.#add('nat', CHAIN_INWARDS, ['-j ACCEPT']);
      this.#hook('nat', 'POSTROUTING', inwardsRule(this.#internal));
    }
    if (this.#decides) this.#hook('nat', 'POSTROUTING', `${isOurs} ${jump(CHAIN_TRANSLATE)}`);
    if (this.#nat.mssClamp) {
      this.#add('mangle', CHAIN_MSS, ['-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu']);
      this.#hook('mangle', 'FORWARD', `-p tcp ${jump(CHAIN_MSS)}`);
    }
    this.#hook('nat', 'POSTROUTING', ...this.#forwarded, jump(CHAIN_MASQUERADE));
  }

  /** BFD past connection tracking. */
  #addNotrack(): void {
    if (!this.#nat.notrackBfd) return;
    const rules = BFD_PORTS.flatMap((port) => notrackRules(this.#internal, port));
    this.#add('raw', CHAIN_NOTRACK, rules);
    for (const name of ['PREROUTING', 'OUTPUT']) this.#hook('raw', name, `-p udp ${jump(CHAIN_NOTRACK)}`);
  }
}

/** Whether nf_tables has, or takes, such a table. */
export type HasGate = (gate: Gate) => boolean;

/**
 * The state that an intent asks for. Nothing for a family that is not in the intent.
 * @param hasGate default: no family has one, and iptables does its work
 * Throws `RangeError` for what iptables cannot express: an interface name, an egress IP of too many ranges.
 */
export function desiredNat(intent: NatIntent, hasGate: HasGate = () => false): NatState {
  const state = emptyState();
  for (const nat of intent) {
    const { tables, sets, ports, gate } = new FamilyBuilder(nat, hasGate).build();
    state.tables[nat.family] = tables;
    for (const set of sets) state.sets.set(set.name, set);
    if (ports !== undefined) state.ports = { ...state.ports, [nat.family]: ports };
    if (gate !== undefined) state.gates = { ...state.gates, [nat.family]: gate };
  }
  return state;
}
