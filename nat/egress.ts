/**
 * Policies that say more than "forward these blocks": by destination, with an address of their own, in an order.
 *
 * What happens to a connection is decided in mangle FORWARD, at its first packet, and carried out in nat
 * POSTROUTING; the decision travels in the mark. The cost does not grow with the number of blocks or policies:
 * one look into a set gives the mark for the packet's source. Where the source alone decides, that mark is the
 * decision. Where destinations matter it is a class: the list of policies that this source has, which is a chain
 * of its own, found by comparing the mark in a tree.
 *
 *     mangle  FORWARD      -i eth0, new      → VEG-EGRESS    source → decision or class → VEG-EGRESS-<class>
 *             FORWARD      -o eth0, new      → VEG-INGRESS   the same for what comes to a forwarded block
 *     nat     POSTROUTING  mark is decided   → VEG-TRANSLATE decision → ACCEPT, MASQUERADE or SNAT
 *
 * Marks and names of classes and decisions are hashes of what they mean: a mark never changes its meaning, so old
 * and new can stand side by side while a policy changes.
 */
import {
  type Address,
  addressNumber,
  anyPrefix,
  type Family,
  networkAddress,
  type Prefix,
  prefixLength,
} from '../routing/prefix.ts';
import { DECISION_MASK, hex } from './rules.ts';

/** What is done to the source address of a connection. */
export type EgressAction =
  | 'masquerade'
  /** Nothing, in both directions. */
  | 'forward'
  /**
   * Translated to one of these addresses, the same for all connections of a source. `keepPorts`: the address
   * belongs to one source alone, whose ports are kept.
   */
  | { snat: Address[]; keepPorts?: boolean };

/** A policy in one family. Empty sources or destinations mean any. */
export interface EgressPolicy {
  /** Unique; names its sets. */
  name: string;
  action: EgressAction;
  sources: Prefix[];
  destinations: Prefix[];
  /** Destinations that it does not speak about. */
  excluded: Prefix[];
}

export type DefaultAction = 'masquerade' | 'forward' | 'drop';

/** The text of the rules of each chain by name, and the sets that they use. */
export interface EgressChains {
  mangle: Map<string, string[]>;
  nat: Map<string, string[]>;
  /** Sets of destinations by name. */
  destinations: Map<string, Prefix[]>;
  /** The set of sources: each with its decision or class. */
  sources: Map<Prefix, number>;
  /** Whether what comes from outside needs a decision: something is forwarded that nat's RETURN rules do not know. */
  ingress: boolean;
}

export const CHAIN_EGRESS = 'VEG-EGRESS';
export const CHAIN_INGRESS = 'VEG-INGRESS';
export const CHAIN_TRANSLATE = 'VEG-TRANSLATE';

/** The set of sources of a family. */
export const SOURCE_SET = { 4: 'VEG-SOURCE-4', 6: 'VEG-SOURCE-6' } as const;

/** The highest bit: somebody decided. With the next one: the mark is a class, and the class decides. */
const DECIDED = 0x80000000;
const CLASS = 0xc0000000;
/** The bits that tell one decision or class from another. */
const IDENTITY = (DECISION_MASK & ~CLASS) >>> 0;

/** So many comparisons stand in one chain; more become a tree. */
const FANOUT = 16;

/** The seed of the hash that gives a source its address; any number, as long as all gateways have the same. */
const CLUSTER_SEED = 0x56454721;
/** xt_cluster tells up to so many apart. */
const MAX_ADDRESS_CHOICES = 32;

/** FNV-1a, 32 bits. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193) >>> 0;
  return value;
}

const hex8 = (value: number): string => value.toString(16).padStart(8, '0');
const setMark = (mark: number): string => `-j MARK --set-xmark ${hex(mark)}/${hex(DECISION_MASK)}`;
const isMark = (mark: number, mask = DECISION_MASK): string => `-m mark --mark ${hex(mark)}/${hex(mask)}`;

/** The decisions that every gateway knows; the others are hashes. */
const FORWARD = (DECIDED | 1) >>> 0;
const MASQUERADE = (DECIDED | 2) >>> 0;

/** Whether the packet was decided upon: the condition of the jump to `CHAIN_TRANSLATE`. */
export const isDecided = isMark(DECIDED, DECIDED);
/** Whether it was decided to leave it unchanged. */
export const isForwarded = isMark(FORWARD);

/** Gives each text a number of its own among those asked for, the same each time unless two hashes meet. */
function identities(known: Record<string, number> = {}): (text: string) => number {
  const texts = new Map(Object.entries(known).map(([text, number]) => [number, text]));
  return (text) => {
    if (known[text] !== undefined) return known[text];
    for (let salt = 0; ; salt++) {
      const number = (hash(salt === 0 ? text : `${text}#${salt}`) & IDENTITY) >>> 0;
      const owner = texts.get(number);
      if (owner !== undefined && owner !== text) continue;
      texts.set(number, text);
      return number;
    }
  };
}

/**
 * Adds to a chain the comparisons that lead from a mark to what belongs to it, over chains below it when there
 * are many: each looks at four more bits.
 */
function dispatch(chains: Map<string, string[]>, root: string, leaves: Map<number, string[]>): void {
  const node = (name: string, ids: number[], bits: number): void => {
    const rules = chains.get(name) ?? [];
    chains.set(name, rules);
    if (ids.length <= FANOUT) {
      for (const id of ids) for (const target of leaves.get(id)!) rules.push(`${isMark(id)} ${target}`);
      return;
    }
    const mask = (0xffffffff << (28 - bits)) >>> 0;
    for (const [head, members] of Map.groupBy(ids, (id) => (id & mask) >>> 0)) {
      const child = `${root}-T${hex8(head).slice(0, bits / 4 + 1)}`;
      rules.push(`${isMark(head, (mask & DECISION_MASK) >>> 0)} -g ${child}`);
      node(child, members, bits + 4);
    }
  };
  node(
    root,
    [...leaves.keys()].sort((a, b) => a - b),
    0,
  );
}

/** The addresses in as few ranges as they make, `a` or `a-b`. */
function ranges(addresses: readonly Address[]): string[] {
  const sorted = [...new Set(addresses)]
    .map((address) => ({ address, number: addressNumber(address) }))
    .sort((a, b) => (a.number < b.number ? -1 : 1));
  const found: { first: Address; last: Address; end: bigint }[] = [];
  for (const { address, number } of sorted) {
    const last = found.at(-1);
    if (last !== undefined && last.end + 1n === number) Object.assign(last, { last: address, end: number });
    else found.push({ first: address, last: address, end: number });
  }
  return found.map(({ first, last }) => (first === last ? first : `${first}-${last}`));
}

/**
 * The targets that translate as an action says. Throws `RangeError` for more addresses than can be told apart.
 */
function targets(action: EgressAction): string[] {
  if (action === 'forward') return ['-j ACCEPT'];
  if (action === 'masquerade') return ['-j MASQUERADE --random-fully'];
  const snat = (to: string): string =>
    `-j SNAT --to-source ${to}${action.keepPorts ? '' : ' --random-fully'} --persistent`;
  const whole = ranges(action.snat);
  if (whole.length === 1) return [snat(whole[0]!)];
  const single = new Set(action.snat).size <= MAX_ADDRESS_CHOICES;
  const choices = single ? [...new Set(action.snat)].sort() : whole;
  if (choices.length > MAX_ADDRESS_CHOICES) {
    throw new RangeError(
      `an egress IP of ${choices.length} separate ranges; at most ${MAX_ADDRESS_CHOICES} can be told apart`,
    );
  }
  // nat takes one range only; which of several is a matter of the source's hash.
  return choices.map((choice, i) => {
    const node = `0x${hex8((1 << i) >>> 0)}`;
    const seed = hex(CLUSTER_SEED);
    return `-m cluster --cluster-local-nodemask ${node} --cluster-total-nodes ${choices.length} --cluster-hash-seed ${seed} ${snat(choice)}`;
  });
}

/** The sources of all policies, each with the policies whose blocks it lies in (itself included), in order. */
function classify(policies: readonly EgressPolicy[], family: Family): Map<Prefix, number[]> {
  const own = new Map<Prefix, number[]>();
  policies.forEach(({ sources }, i) => {
    for (const source of new Set(sources)) {
      const list = own.get(source);
      if (list === undefined) own.set(source, [i]);
      else list.push(i);
    }
  });
  const width = family === 4 ? 32 : 128;
  const sorted = [...own.keys()]
    .map((source) => {
      const length = prefixLength(source);
      const first = addressNumber(networkAddress(source));
      return { source, length, first, last: first | ((1n << BigInt(width - length)) - 1n) };
    })
    .sort((a, b) => (a.first === b.first ? a.length - b.length : a.first < b.first ? -1 : 1));
  const lists = new Map<Prefix, number[]>();
  /** The blocks around the one at hand, each with its whole list. */
  const around: { last: bigint; list: number[] }[] = [];
  for (const { source, first, last } of sorted) {
    while (around.length > 0 && around.at(-1)!.last < first) around.pop();
    const outer = around.at(-1)?.list ?? [];
    const list = [...new Set([...outer, ...own.get(source)!])].sort((a, b) => a - b);
    lists.set(source, list);
    around.push({ last, list });
  }
  return lists;
}

/**
 * The chains and sets that carry out policies, the first that speaks about a packet deciding, and the default for
 * what none speaks about. Throws `RangeError` as `targets` does.
 */
export function egressChains(
  family: Family,
  policies: readonly EgressPolicy[],
  defaultAction: DefaultAction,
): EgressChains {
  const any = anyPrefix(family);
  const mangle = new Map<string, string[]>();
  const nat = new Map<string, string[]>();
  const destinations = new Map<string, Prefix[]>();
  const decisionOf = identities({ forward: FORWARD & IDENTITY, masquerade: MASQUERADE & IDENTITY });
  const classOf = identities();
  const setOf = identities();

  /** The mark of a decision; its chains come into being with it. */
  const leaves = new Map<number, string[]>();
  const decide = (action: EgressAction): number => {
    const list = targets(action);
    const mark = (DECIDED | decisionOf(typeof action === 'string' ? action : list.join('\n'))) >>> 0;
    leaves.set(mark, list);
    mangle.set(`VEG-DECIDE-${hex8(mark)}`, [setMark(mark)]);
    return mark;
  };
  const to = (mark: number): string => `-g VEG-DECIDE-${hex8(mark)}`;

  const speaking = policies.filter(({ excluded }) => !excluded.includes(any));
  const compiled = speaking.map(({ name, action, destinations: wanted, excluded }) => {
    const everywhere = wanted.length === 0 || wanted.includes(any);
    const setName = (kind: string): string => `VEG-${kind}-${hex8(setOf(name))}-${family}`;
    const matches: ((side: 'd' | 's') => string)[] = [];
    if (!everywhere && wanted.length === 1) matches.push((side) => `-${side} ${wanted[0]} `);
    if (!everywhere && wanted.length > 1) {
      destinations.set(setName('TO'), wanted);
      matches.push((side) => `-m set --match-set ${setName('TO')} ${side === 'd' ? 'dst' : 'src'} `);
    }
    if (excluded.length > 0) {
      destinations.set(setName('NOT'), excluded);
      matches.push((side) => `-m set ! --match-set ${setName('NOT')} ${side === 'd' ? 'dst' : 'src'} `);
    }
    return {
      mark: decide(action),
      forward: action === 'forward',
      always: matches.length === 0,
      match: (side: 'd' | 's') => matches.map((match) => match(side)).join(''),
    };
  });

  const ingress = defaultAction === 'forward' || compiled.some(({ forward }) => forward);
  mangle.set('VEG-DECIDE-NONE', [setMark(0)]);
  if (defaultAction === 'drop') mangle.set('VEG-DECIDE-DROP', ['-j DROP']);
  if (ingress) decide('forward');
  const byDefault = defaultAction === 'drop' ? '-g VEG-DECIDE-DROP' : to(decide(defaultAction));
  const ingressByDefault = defaultAction === 'forward' ? to(FORWARD) : '-g VEG-DECIDE-NONE';

  /** A source's policies as far as they can be reached: behind one that takes everything none is. */
  const reachable = (list: readonly number[]): number[] => {
    const end = list.findIndex((i) => compiled[i]!.always);
    return end < 0 ? [...list] : list.slice(0, end + 1);
  };
  const outRules = (list: readonly number[]): string[] => {
    const rules = list.map((i) => `${compiled[i]!.match('d')}${to(compiled[i]!.mark)}`);
    return [...new Set(compiled[list.at(-1) ?? -1]?.always ? rules : [...rules, byDefault])];
  };
  const inRules = (list: readonly number[]): string[] => {
    const rules = list.map(
      (i) => `${compiled[i]!.match('s')}${compiled[i]!.forward ? to(FORWARD) : '-g VEG-DECIDE-NONE'}`,
    );
    return [...new Set(compiled[list.at(-1) ?? -1]?.always ? rules : [...rules, ingressByDefault])];
  };

  const anySource = speaking.flatMap(({ sources }, i) =>
    sources.length === 0 || sources.includes(any) ? [i] : [],
  );
  const egressLeaves = new Map<number, string[]>();
  const ingressLeaves = new Map<number, string[]>();
  const sources = new Map<Prefix, number>();
  /** Marks by list: most sources share theirs with many. */
  const known = new Map<string, number>();
  const withSources = speaking.map((policy) =>
    policy.sources.includes(any) ? { ...policy, sources: [] } : policy,
  );
  for (const [source, list] of classify(withSources, family)) {
    const merged = reachable([...new Set([...list, ...anySource])].sort((a, b) => a - b));
    const key = merged.join();
    let mark = known.get(key);
    if (mark === undefined) {
      const first = compiled[merged[0]!]!;
      if (first.always) mark = first.mark;
      else {
        const out = outRules(merged);
        const back = inRules(merged);
        mark = (CLASS | classOf([...out, '', ...(ingress ? back : [])].join('\n'))) >>> 0;
        mangle.set(`${CHAIN_EGRESS}-${hex8(mark)}`, out);
        egressLeaves.set(mark, [`-g ${CHAIN_EGRESS}-${hex8(mark)}`]);
        if (ingress) {
          mangle.set(`${CHAIN_INGRESS}-${hex8(mark)}`, back);
          ingressLeaves.set(mark, [`-g ${CHAIN_INGRESS}-${hex8(mark)}`]);
        }
      }
      known.set(key, mark);
    }
    sources.set(source, mark);
  }

  const look = (side: string): string[] =>
    sources.size > 0 ? [`-j SET --map-set ${SOURCE_SET[family]} ${side} --map-mark`] : [];
  const rest = reachable(anySource);
  const byClass = (chain: string, list: Map<number, string[]>): string[] => {
    if (list.size === 0) return [];
    dispatch(mangle, `${chain}-CLASS`, list);
    return [`${isMark(CLASS, CLASS)} -g ${chain}-CLASS`];
  };
  mangle.set(CHAIN_EGRESS, [
    setMark(0),
    ...look('src'),
    ...byClass(CHAIN_EGRESS, egressLeaves),
    `${isDecided} -j RETURN`,
    ...outRules(rest),
  ]);
  if (ingress) {
    mangle.set(CHAIN_INGRESS, [
      setMark(0),
      ...look('dst'),
      ...byClass(CHAIN_INGRESS, ingressLeaves),
      `${isForwarded} -j RETURN`,
      `${isDecided} -g VEG-DECIDE-NONE`,
      ...inRules(rest),
    ]);
  }
  dispatch(nat, CHAIN_TRANSLATE, leaves);
  return { mangle, nat, destinations, sources, ingress };
}
