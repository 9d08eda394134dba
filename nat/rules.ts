/**
 * The rules that the agent writes, as text, and how one tells that a rule found in the kernel is the agent's.
 *
 * Ours are: whatever stands in a chain named VEG-*, whatever jumps to such a chain or matches such a set, and the
 * two forms that carry no name of ours because upstream's listing has none: the mark rule in nat PREROUTING and
 * the pairs of RETURN rules in nat POSTROUTING.
 */
import { CHAIN_MASQUERADE, MARK, MARK_MASK, OWNED_NAME_PREFIX } from '../routing/numbers.ts';
import type { Prefix } from '../routing/prefix.ts';

/** A number as iptables and ipset print it. */
export const hex = (value: number): string => `0x${value.toString(16)}`;

/**
 * The bits of the mark in which a policy's decision travels from mangle to nat: all but upstream's, which goes on
 * saying that the packet came from the VPC.
 */
export const DECISION_MASK = (0xffffffff ^ MARK) >>> 0;

/** A decision with these bits means: the source gets its block of ports (port-blocks.ts). */
export const PORT_BLOCKS_MARK = 0x90000000;

/** Linux interface names that can stand in a rule: no blanks, quotes, `!`, and not the wildcard `+`. */
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

export const jump = (chain: string): string => `-j ${chain}`;

/** The pair that forwards a block unchanged: to it, and from it. */
export const returnPair = (block: Prefix): string[] => [`-d ${block} -j RETURN`, `-s ${block} -j RETURN`];

/** The same for all blocks of a set. */
export const returnPairOfSet = (set: string): string[] => [
  `-m set --match-set ${set} dst -j RETURN`,
  `-m set --match-set ${set} src -j RETURN`,
];

/**
 * The chain that translates. Clearing the mark first is upstream's; `--random-fully` picks source ports that
 * cannot be foretold and that two connections racing for one port do not both get.
 */
export const masqueradeChain: readonly string[] = [
  '-j MARK --set-xmark 0x0/0xffffffff',
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

/** The words of a rule as iptables-save writes them: quoted when they hold more than letters, digits, `_` and `-`. */
const words = (text: string): string[] => text.match(/"(?:[^"\\]|\\.)*"|\S+/gs) ?? [];

/** Whether a chain or a set is ours by its name. */
export const isOwnedName = (word: string | undefined): boolean =>
  word?.startsWith(OWNED_NAME_PREFIX) ?? false;

/** The sets that a rule uses. */
export function setsOf(text: string): string[] {
  if (!/ --(?:match|map)-set /.test(text)) return [];
  const list = words(text);
  return list.filter(
    (_, i) => /^--(?:match|map)-set$/.test(list[i - 1] ?? '') && list[i - 2] !== '--comment',
  );
}

/** Whether a rule names one of our chains or sets. */
export function namesOurs(text: string): boolean {
  // A comment with a line break cannot be said in a transaction: such a rule is left alone.
  if (!text.includes(` ${OWNED_NAME_PREFIX}`) || text.includes('\n')) return false;
  const list = words(text);
  return list.some(
    (word, i) =>
      isOwnedName(word) &&
      /^(?:-j|-g|--match-set|--map-set)$/.test(list[i - 1] ?? '') &&
      list[i - 2] !== '--comment',
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
    /** What stands above and is not about to go: a pair whose inside goes will be adjacent. */
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
