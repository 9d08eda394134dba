/** From what the gateway is meant to translate to the chains, rules and sets that do it. */
import {
  BFD_PORTS,
  CHAIN_MASQUERADE,
  CHAIN_NOTRACK,
  FORWARD_SET,
  MAX_FORWARD_RULES,
} from '../routing/numbers.ts';
import { anyPrefix, type Family, type Prefix, prefix } from '../routing/prefix.ts';
import { jump, markRule, masqueradeChain, notrackRules, returnPair, returnPairOfSet } from './rules.ts';
import { type AddressSet, type Chain, emptyState, type NatState, type Tables } from './state.ts';

/** What NAT has to do in one family. */
export interface FamilyNat {
  family: Family;
  internalInterface: string;
  /** Blocks that are forwarded unchanged in both directions, in the policy's order, without repetitions. */
  forward: Prefix[];
  /** Keep BFD out of connection tracking. */
  notrackBfd: boolean;
}

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

const hashNet = (name: string, family: Family, elements: Prefix[]): AddressSet => ({
  name,
  family,
  type: 'hash:net',
  maxelem: Math.max(MIN_MAXELEM, 2 ** Math.ceil(Math.log2(elements.length + 1))),
  elements: new Set(elements),
  plain: true,
});

/**
 * The state that an intent asks for. Nothing for a family that is not in the intent.
 * Throws `RangeError` for an interface name that iptables cannot express.
 */
export function desiredNat(intent: NatIntent): NatState {
  const state = emptyState();
  for (const { family, internalInterface, forward, notrackBfd } of intent) {
    const tables: Tables = state.tables[family];
    const blocks = expressible(forward, family);
    let forwarded = blocks.flatMap(returnPair);
    if (blocks.length > MAX_FORWARD_RULES) {
      const set = hashNet(FORWARD_SET[family], family, blocks);
      state.sets.set(set.name, set);
      forwarded = returnPairOfSet(set.name);
    }
    tables.set(
      'nat',
      new Map([
        [CHAIN_MASQUERADE, chain('-', masqueradeChain)],
        ['PREROUTING', chain('ACCEPT', [markRule(internalInterface)])],
        ['POSTROUTING', chain('ACCEPT', [...forwarded, jump(CHAIN_MASQUERADE)])],
      ]),
    );
    if (notrackBfd) {
      const hook = `-p udp ${jump(CHAIN_NOTRACK)}`;
      tables.set(
        'raw',
        new Map([
          [CHAIN_NOTRACK, chain('-', BFD_PORTS.flatMap(notrackRules))],
          ['PREROUTING', chain('ACCEPT', [hook])],
          ['OUTPUT', chain('ACCEPT', [hook])],
        ]),
      );
    }
  }
  return state;
}
