/**
 * The rules that the agent writes, as text, and how a rule found in the kernel is recognised as the agent's. Pure.
 *
 * Ours are: all rules in a chain named VEG-*, all that jump to such a chain or match such a set, and the
 * two forms that carry no name of ours because upstream's listing has none: the mark rule in nat PREROUTING and
 * the pairs of RETURN rules in nat POSTROUTING.
 */

import type { Address, Prefix } from '../lib/prefix.ts';
import { CHAIN_MASQUERADE, MARK, MARK_MASK, OWNED_NAME_PREFIX } from '../routing/numbers.ts';

/** A number as iptables and ipset print it. */
export const hex = (value: number): string => `0x${value.toString(16)}`;

/**
 * The bits of the mark in which a policy's decision travels from mangle to nat: all but upstream's, which goes on
 * saying that the packet came from the VPC.
 */
export const DECISION_MASK = (0xffffffff ^ MARK) >>> 0;

/** A decision with these bits means: the source gets its block of ports (port-blocks.ts). */
export const PORT_BLOCKS_MARK = 0x90000000;

/** Linux interface names that are valid in a rule: no blanks, quotes, `!`, and not the wildcard `+`. */
const INTERFACE = /^[A-Za-z0-9_][\w.@:-]{0,14}$/;

/** The name of an interface in a rule. Throws `RangeError` for one that iptables cannot express. */
export function interfaceName(name: string): string {
  if (INTERFACE.test(name)) return name;
  throw new RangeError(`not an interface name that iptables can match: ${JSON.stringify(name)}`);
}

/** Marks what comes from the VPC. */
export function markRule(internalInterface: string): string {
  return `-i ${internalInterface} -j MARK --set-xmark ${hex(MARK)}/${hex(MARK_MASK)}`;
}

/** The condition that a packet does not come from the VPC, behind `markRule`. */
export const notFromInside = `-m mark ! --mark ${hex(MARK)}/${hex(MARK_MASK)}`;

export const jump = (chain: string): string => `-j ${chain}`;

/*
 * Our chains, but for those of one file alone, and where packets come to them. `desiredNat` hooks them, in the
 * order in which they are here; docs/ownership.md shows the same.
 */

/** mangle INPUT: what belongs to no connection and that this pod would answer with a reset. */
export const CHAIN_STRAY = 'VEG-STRAY';
/**
 * mangle FORWARD: what belongs to no connection yet. What does belong to one meets this one rule of it, and no other of
 * those below.
 */
export const CHAIN_NEW = 'VEG-NEW';
/** From the VPC: what belongs to no connection. */
export const CHAIN_INVALID = 'VEG-INVALID';
/** From the VPC: what begins a connection. */
export const CHAIN_EGRESS = 'VEG-EGRESS';
/**
 * From the VPC: what begins a connection that the policy allows. One rule drops it where its source
 * has as many as it may.
 */
export const CHAIN_LIMIT = 'VEG-LIMIT';
/** Into the VPC: what begins a connection, or belongs to none. */
export const CHAIN_INGRESS = 'VEG-INGRESS';
/** The end of the chain for refused packets: one rule, whose counter is their number. */
export const CHAIN_REFUSED = 'VEG-REFUSED';
/**
 * mangle FORWARD: from and to the pod's primary network where it is neither side: dropped. nat POSTROUTING: the pod's own
 * packets to it, from its own address there: left as they are.
 */
export const CHAIN_PRIMARY = 'VEG-PRIMARY';
/**
 * nat POSTROUTING: the pod's own BGP sessions: left as they are. Masquerading gives them other source ports, and the digest of
 * TCP-MD5 covers ports.
 */
export const CHAIN_BGP = 'VEG-BGP';
/** mangle FORWARD: TCP. */
export const CHAIN_MSS = 'VEG-MSS';
/** raw PREROUTING, to a shared address: what is for the ports of another member of the group. */
export const CHAIN_GROUP = 'VEG-GROUP';
/** Likewise of ICMP. */
export const CHAIN_GROUP_ICMP = 'VEG-GROUP-ICMP';
/** nat POSTROUTING, by the internal interface: what the pod itself sends to other members of the group. It is not translated. */
export const CHAIN_GROUP_OWN = 'VEG-GROUP-OWN';
/** raw OUTPUT: ICMPv6 redirects, which would lead the network outside past the holder of a shared address. */
export const CHAIN_REDIRECT = 'VEG-REDIRECT';
/** nat POSTROUTING, into the VPC from outside: it keeps its source. */
export const CHAIN_INWARDS = 'VEG-INWARDS';
/** nat POSTROUTING, with a mark of ours. */
export const CHAIN_TRANSLATE = 'VEG-TRANSLATE';

/** In nat POSTROUTING: what comes in from outside keeps its source. */
export const inwardsRule = (internalInterface: string): string =>
  `-o ${internalInterface} ${notFromInside} ${jump(CHAIN_INWARDS)}`;

/** Ends the way of what may not come in. */
export const REFUSE = jump(CHAIN_REFUSED);

/**
 * The chain for what comes from outside: what an EIP, a DNAT (or the operator's own) has given a destination may
 * come in, and what `open` lets return.
 */
export const ingressRules = (open: readonly string[]): string[] => [
  '-m conntrack --ctstate DNAT -j RETURN',
  ...open,
  REFUSE,
];

/** The pair that forwards a block unchanged: to it, and from it. */
export const returnPair = (block: Prefix): string[] => [`-d ${block} -j RETURN`, `-s ${block} -j RETURN`];

/** The same for all blocks of a set. */
export const returnPairOfSet = (set: string): string[] => [
  `-m set --match-set ${set} dst -j RETURN`,
  `-m set --match-set ${set} src -j RETURN`,
];

/** Where the kernel cannot be left to choose the address that masquerading gives: out of which interface, and it. */
export interface MasqueradeSource {
  interface: string;
  address: Address;
}

/**
 * The chain that translates. Clearing the mark first is upstream's; `--random-fully` picks source ports that
 * cannot be foretold and that two connections racing for one port do not both get.
 */
export const masqueradeChain = (source?: MasqueradeSource): string[] => [
  '-j MARK --set-xmark 0x0/0xffffffff',
  ...(source === undefined
    ? []
    : [`-o ${interfaceName(source.interface)} -j SNAT --to-source ${source.address} --random-fully`]),
  '-j MASQUERADE --random-fully',
];

/** The source ports of BFD (RFC 5881 section 4, RFC 5883 section 5). */
const BFD_SOURCE_PORTS = '49152:65535';

/**
 * BFD of this pod, received or sent, past connection tracking. A packet of a client that happens to go to the
 * same port elsewhere is neither from nor to a local address, and must be tracked to be translated. So must the
 * answer to a flow that masquerading gave such a port: it is to a local address, but comes in outside.
 */
export const notrackRules = (internalInterface: string, port: number): string[] => [
  `-i ${internalInterface} -p udp -m udp --sport ${BFD_SOURCE_PORTS} --dport ${port} -m addrtype --dst-type LOCAL -j CT --notrack`,
  `-p udp -m udp --dport ${port} -m addrtype --src-type LOCAL -j CT --notrack`,
];

/** Options whose value iptables-save prints as it is, with quotation marks, backslashes and all. */
const BARE = /^(?:-[Ajgio]|--physdev-(?:in|out))$/;
/** Those whose value is the name of a set, in which there may be anything, and then directions. */
const SET_OPTION = /^--(?:match|map|add|del)-set$/;
const SET_NAME = /.+?(?= (?:src|dst)(?:,(?:src|dst))*(?: |$))/sy;
const QUOTED = /"(?:[^"\\]|\\.)*"(?= |$)/sy;
const WORD = /\S+/y;

/**
 * The words of a rule as iptables-save writes them: quoted when they hold more than letters, digits, `_` and `-`,
 * but for names. `open`: the text ends within a comment or the name of a set, which may hold line breaks.
 */
export function ruleWords(text: string): { words: string[]; open: boolean } {
  const words: string[] = [];
  let open = false;
  const match = (pattern: RegExp, at: number): string | undefined => {
    pattern.lastIndex = at;
    return pattern.exec(text)?.[0];
  };
  for (let at = 0; at < text.length; ) {
    if (/\s/.test(text[at]!)) {
      at++;
      continue;
    }
    const option = words.at(-1) ?? '';
    let word: string | undefined;
    if (SET_OPTION.test(option)) {
      word = match(SET_NAME, at);
      open = word === undefined;
    } else if (text[at] === '"' && !BARE.test(option)) {
      word = match(QUOTED, at);
      open = word === undefined && option === '--comment';
    }
    if (open) return { words, open };
    word ??= match(WORD, at)!;
    words.push(word);
    at += word.length;
  }
  return { words, open: SET_OPTION.test(words.at(-1) ?? '') };
}

const OWNED_NAME = new RegExp(`^${OWNED_NAME_PREFIX}[\\w.:-]+$`);

/**
 * Whether a chain or a set is ours by its name. A name that the restore programs cannot express (a blank, a
 * quotation mark) is none that the agent gave.
 */
export const isOwnedName = (word: string | undefined): boolean => word !== undefined && OWNED_NAME.test(word);

/**
 * Whether the restore programs can express a rule. A line break ends their line, a quotation mark outside of a
 * quoted word begins one, and what is no UTF-8 was lost when it was read.
 */
export function isSayable(text: string): boolean {
  if (!/["\n\ufffd]|-set \S+ (?!(?:src|dst)\b)/.test(text)) return true;
  if (/[\n\ufffd]/.test(text)) return false;
  const { words, open } = ruleWords(text);
  return (
    !open &&
    words.every((word, i) => {
      const option = words[i - 1] ?? '';
      const quoted = /^".*"$/s.test(word) && !BARE.test(option) && !SET_OPTION.test(option);
      return quoted || !/["\s]/.test(word);
    })
  );
}

/** The sets that a rule uses. */
export function setsOf(text: string): string[] {
  if (!/ --(?:match|map)-set /.test(text)) return [];
  const { words } = ruleWords(text);
  return words.filter(
    (_, i) => /^--(?:match|map)-set$/.test(words[i - 1] ?? '') && words[i - 2] !== '--comment',
  );
}

/** Whether a rule names one of our chains or sets. One that a transaction cannot express is ignored. */
export function namesOurs(text: string): boolean {
  if (!text.includes(` ${OWNED_NAME_PREFIX}`) || !isSayable(text)) return false;
  const { words } = ruleWords(text);
  return words.some(
    (word, i) =>
      isOwnedName(word) &&
      /^(?:-j|-g|--match-set|--map-set)$/.test(words[i - 1] ?? '') &&
      words[i - 2] !== '--comment',
  );
}

const MARK_RULE = new RegExp(`^-i \\S+ -j MARK --set-xmark ${hex(MARK)}/${hex(MARK_MASK)}$`);
const RETURN_TO = /^-d (\S+) -j RETURN$/;

/**
 * The texts of the rules in a built-in or foreign chain that are the agent's by their form. Two rules with one
 * text have one owner: a doubled rule of ours is ours twice.
 * @param known texts that are ours anyhow
 * @param wanted texts that are ours and will stay
 * @param hasMasquerade whether the table has the chain VEG-MASQUERADE
 */
export function ownedByForm(
  { table, chain }: { table: string; chain: string },
  rules: readonly string[],
  { known, wanted, hasMasquerade }: { known: Set<string>; wanted: Set<string>; hasMasquerade: boolean },
): Set<string> {
  const owned = new Set([...known, ...rules.filter(namesOurs)]);
  if (table !== 'nat') return owned;
  if (chain === 'PREROUTING') for (const text of rules) if (MARK_RULE.test(text)) owned.add(text);
  if (chain === 'POSTROUTING') {
    // Without its jump the chain is still a witness that the pairs are ours; without both there is none.
    const hook = rules.lastIndexOf(jump(CHAIN_MASQUERADE));
    const end = hook >= 0 ? hook : hasMasquerade ? rules.length : 0;
    /** The rule above that is not about to be removed: a pair becomes adjacent when the rules between are removed. */
    const above: string[] = [];
    for (const text of rules.slice(0, end)) {
      const first = above.at(-1);
      const block = first === undefined ? undefined : RETURN_TO.exec(first)?.[1];
      if (block !== undefined && text === `-s ${block} -j RETURN` && !wanted.has(text)) {
        owned.add(first!).add(text);
        above.pop();
      } else if (wanted.has(text) || !owned.has(text)) above.push(text);
    }
  }
  return owned;
}
