/**
 * The packet marks that carry a decision from mangle to nat, and the trees of comparisons that find what belongs to a
 * mark. A mark is a hash of what it means, so that it never changes its meaning. Pure.
 */
import { DECISION_MASK, hex } from './rules.ts';

/** The highest bit: the mark is ours. */
export const OURS = 0x80000000;
/** The mark is a class. */
export const CLASS = 0x20000000;
/** The first four bits are the kind of mark; one of them is free. */
const KIND = 0xf0000000;
/** The bits that distinguish meanings. */
const IDENTITY = (DECISION_MASK & ~KIND) >>> 0;
/** How many bits those are that all marks of a tree may share, but for one. */
const KIND_BITS = 2;
/** The identities of actions that need no hash. */
export const FORWARD = 1;
export const MASQUERADE = 2;
export const DROP = 3;

/** The most comparisons in one chain; more become a tree. */
const FANOUT = 16;
/** FNV-1a, 32 bits. */
export function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193) >>> 0;
  return value;
}

export const hex8 = (value: number): string => value.toString(16).padStart(8, '0');
export const setMark = (mark: number): string => `-j MARK --set-xmark ${hex(mark)}/${hex(DECISION_MASK)}`;
export const isMark = (mark: number, mask = DECISION_MASK): string =>
  `-m mark --mark ${hex(mark)}/${hex(mask)}`;

export const union = (...bits: number[]): number => bits.reduce((a, b) => a | b) >>> 0;

/** The condition of the jump to `CHAIN_TRANSLATE`. */
export const isOurs = isMark(OURS, OURS);

/** Gives each of the texts its own number within `bits`, the same each time unless two hashes meet. */
export function identities(known: Record<string, number> = {}, bits = IDENTITY): (text: string) => number {
  const texts = new Map(Object.entries(known).map(([text, number]) => [number, text]));
  return (text) => {
    if (known[text] !== undefined) return known[text];
    for (let salt = 0; ; salt++) {
      const number = (hash(salt === 0 ? text : `${text}#${salt}`) & bits) >>> 0;
      const owner = texts.get(number);
      if (owner !== undefined && owner !== text) continue;
      texts.set(number, text);
      return number;
    }
  };
}

/**
 * Adds to a chain the comparisons that lead from a mark to what belongs to it, over chains below it when there
 * are many: each looks at four more bits, the first also at the kind of mark. (Two or three
 * make fewer comparisons, but more chains to walk into, and are slower.)
 */
export function dispatch(chains: Map<string, string[]>, root: string, leaves: Map<number, string[]>): void {
  const node = (name: string, ids: number[], bits: number): void => {
    const rules = chains.get(name) ?? [];
    chains.set(name, rules);
    if (ids.length <= FANOUT) {
      for (const id of ids) for (const target of leaves.get(id)!) rules.push(`${isMark(id)} ${target}`);
      return;
    }
    const below = bits + 4;
    const mask = (0xffffffff << (32 - below)) >>> 0;
    const branches = Map.groupBy(ids, (id) => (id & mask) >>> 0);
    if (branches.size === 1) {
      node(name, ids, below);
      return;
    }
    for (const [head, members] of branches) {
      const child = `${root}-${hex8(head)}-${below}`;
      // A jump, not a goto: what is not found below may follow while a chain has two trees.
      rules.push(`${isMark(head, (mask & DECISION_MASK) >>> 0)} -j ${child}`);
      node(child, members, below);
    }
  };
  node(
    root,
    [...leaves.keys()].sort((a, b) => a - b),
    KIND_BITS,
  );
}
