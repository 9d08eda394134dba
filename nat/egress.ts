/**
 * Policies that say more than "forward these blocks": by destination, with an address of their own, in an order.
 * Pure.
 *
 * At a connection's first packet, mangle FORWARD looks its source up in one set. What it finds there is a mark:
 * either what is to be done, where the source alone decides, or a class, the list of the policies of this source.
 * nat POSTROUTING finds what belongs to the mark in a tree of comparisons. So the cost of a new connection grows
 * neither with the number of blocks nor, but for the depth of the tree, with that of policies.
 *
 *     mangle  FORWARD      not known      → VEG-NEW
 *             VEG-NEW      -i eth0, new   → VEG-EGRESS     source → mark; what no policy allows is dropped here
 *             VEG-NEW      -o eth0        → VEG-INGRESS    the same by destination; what is not forwarded is dropped
 *     nat     POSTROUTING  -o eth0        → VEG-INWARDS    what came in keeps its source
 *             POSTROUTING  mark is ours   → VEG-TRANSLATE  mark → ACCEPT, VEG-MASQUERADE, SNAT, or a class's chain
 *
 * A source with a block of ports of its own is accepted there with a mark that nftables.ts looks up next.
 *
 * A mark is a hash of what it means, so that it never changes its meaning: old and new stand side by side while
 * policies change (diff.ts).
 */

import {
  type Address,
  addressNumber,
  anyPrefix,
  type Family,
  networkAddress,
  type Prefix,
  prefixLength,
} from '../lib/prefix.ts';
import { CHAIN_MASQUERADE } from '../routing/numbers.ts';
import type { PortBlock, PortBlocks } from './port-blocks.ts';
import {
  CHAIN_EGRESS,
  CHAIN_INGRESS,
  CHAIN_INVALID,
  CHAIN_REFUSED,
  CHAIN_TRANSLATE,
  DECISION_MASK,
  hex,
  ingressRules,
  PORT_BLOCKS_MARK,
  REFUSE,
} from './rules.ts';

/** What is done to the source address of a connection. */
export type EgressAction =
  | 'masquerade'
  | 'drop'
  /** Nothing, in both directions. */
  | 'forward'
  /**
   * Translated to one of these addresses, the same for all connections of a source. `keepPorts`: the address
   * belongs to one source alone, whose ports are kept. `portBlockSize`: each source has so many ports of its own. `slice`: all sources have these ports
   * of the one address in common.
   */
  | {
      snat: Address[];
      keepPorts?: boolean;
      portBlockSize?: number;
      slice?: Pick<PortBlock, 'first' | 'last'>;
    };

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
  /** Port blocks by mark. */
  ports: Map<number, PortBlocks>;
  /** Slices by mark. */
  slices: Map<number, PortBlock>;
  /** Whether something is forwarded, so that connections from outside may come to it. */
  forwards: boolean;
}

const CHAIN_ALLOW = 'VEG-ALLOW';
const CHAIN_INVALID_CLASS = 'VEG-INVALID-C';
const CHAIN_INGRESS_CLASS = 'VEG-INGRESS-C';

/** Those that are reached by a mark, with what is behind it, and where such chains lead to. */
const BY_MARK = [CHAIN_TRANSLATE, CHAIN_ALLOW, CHAIN_INVALID_CLASS, CHAIN_INGRESS_CLASS, CHAIN_REFUSED];

/** Whether a chain is reached by a mark, so that old and new can stand in it beside each other. */
export const isByMark = (chain: string): boolean => BY_MARK.some((name) => chain.startsWith(name));

/** The set of sources of a family. */
export const SOURCE_SET = { 4: 'VEG-SOURCE-4', 6: 'VEG-SOURCE-6' } as const;

/** The highest bit: the mark is ours. */
const OURS = 0x80000000;
/** The mark is a class. */
const CLASS = 0x20000000;
/** The first four bits say what kind of mark it is; one of them is free. */
const KIND = 0xf0000000;
/** The bits that tell one meaning from another. */
const IDENTITY = (DECISION_MASK & ~KIND) >>> 0;
/** How many bits those are that all marks of a tree may share, but for one. */
const KIND_BITS = 2;
/** What needs no hash. */
const FORWARD = 1;
const MASQUERADE = 2;
const DROP = 3;

/** So many comparisons stand in one chain; more become a tree. */
const FANOUT = 16;
/** So few destinations are compared one by one: a set is spread over more memory than they are. */
const MAX_COMPARED = 4;

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

const union = (...bits: number[]): number => bits.reduce((a, b) => a | b) >>> 0;

/** The condition of the jump to `CHAIN_TRANSLATE`. */
export const isOurs = isMark(OURS, OURS);

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
 * are many: each looks at four more bits, the first also at those that say what kind of mark it is. (Two or three
 * make fewer comparisons, but more chains to walk into, and are slower.)
 */
function dispatch(chains: Map<string, string[]>, root: string, leaves: Map<number, string[]>): void {
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
      // A jump, not a goto: what is not found below may stand further on while two trees are one.
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

/** An action as rules know it: port blocks are a mark. */
type CompiledAction = EgressAction | { ports: number };

const portChain = (mark: number): string => `${CHAIN_TRANSLATE}-P-${hex8(mark)}`;

/**
 * The targets that translate as an action says. Throws `RangeError` for more addresses than can be told apart.
 */
function targets(action: Exclude<CompiledAction, 'drop'>): string[] {
  if (action === 'forward') return ['-j ACCEPT'];
  if (action === 'masquerade') return [`-g ${CHAIN_MASQUERADE}`];
  if ('ports' in action) return [`-g ${portChain(action.ports)}`];
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

/** The first and last address of a block as numbers; for IPv4 without the cost of big ones. */
function bounds(block: Prefix, family: Family): { first: number | bigint; last: number | bigint } {
  const length = prefixLength(block);
  if (family === 6) {
    const first = addressNumber(networkAddress(block));
    return { first, last: first | ((1n << BigInt(128 - length)) - 1n) };
  }
  const first = networkAddress(block)
    .split('.')
    .reduce((value, octet) => value * 256 + Number(octet), 0);
  return { first, last: first + 2 ** (32 - length) - 1 };
}

/** Two ascending lists as one, without repetitions. */
const merged = (a: readonly number[], b: readonly number[]): readonly number[] =>
  a.length === 0 ? b : b.length === 0 ? a : [...new Set([...a, ...b])].sort((x, y) => x - y);

/**
 * The sources of all policies, each with the policies whose blocks it lies in (itself included), in order. Sources
 * that have but one policy share the list.
 */
function classify(policies: readonly EgressPolicy[], family: Family): Map<Prefix, readonly number[]> {
  const own = new Map<Prefix, readonly number[]>();
  policies.forEach(({ sources }, i) => {
    const alone = [i];
    for (const source of sources) {
      const list = own.get(source);
      own.set(source, list === undefined ? alone : merged(list, alone));
    }
  });
  const sorted = [...own]
    .map(([source, list]) => ({ source, list, ...bounds(source, family) }))
    .sort((a, b) => (a.first < b.first ? -1 : a.first > b.first ? 1 : a.last > b.last ? -1 : 1));
  const lists = new Map<Prefix, readonly number[]>();
  /** The blocks around the one at hand, each with its whole list. */
  const around: { last: number | bigint; list: readonly number[] }[] = [];
  for (const block of sorted) {
    while (around.length > 0 && around.at(-1)!.last < block.first) around.pop();
    const list = merged(around.at(-1)?.list ?? [], block.list);
    lists.set(block.source, list);
    around.push({ last: block.last, list });
  }
  return lists;
}

/** A policy as rules know it. */
interface Compiled {
  action: CompiledAction;
  /** Whether it takes every packet of its sources. */
  always: boolean;
  /** The matches for packets to its destinations (`d`) or from them (`s`), each followed by a blank; one must match. */
  match: { d: string[]; s: string[] };
}

/**
 * The chains and sets that carry out policies, the first that speaks about a packet deciding, and the default for
 * what none speaks about. Throws `RangeError` as `targets` does.
 * @param dropInvalid adds the chain that tells which packets without a connection may pass
 * @param closed adds the chain that tells which connections from outside may come in
 */
export function egressChains(
  family: Family,
  policies: readonly EgressPolicy[],
  defaultAction: DefaultAction,
  { dropInvalid, closed }: { dropInvalid: boolean; closed: boolean },
): EgressChains {
  const any = anyPrefix(family);
  const mangle = new Map<string, string[]>();
  const nat = new Map<string, string[]>();
  const destinations = new Map<string, Prefix[]>();
  const actionOf = identities({ forward: FORWARD, masquerade: MASQUERADE, drop: DROP });
  const classOf = identities();
  const setOf = identities();
  const portsOf = identities();
  const ports = new Map<number, PortBlocks>();
  const slices = new Map<number, PortBlock>();

  const speaking = policies
    .filter(({ excluded }) => !excluded.includes(any))
    .map((policy) => ({ ...policy, sources: policy.sources.includes(any) ? [] : policy.sources }));
  function compileAction({ action, sources }: EgressPolicy): CompiledAction {
    if (typeof action === 'string') return action;
    if (action.slice !== undefined) {
      const slice = { address: action.snat[0]!, ...action.slice };
      const mark = union(PORT_BLOCKS_MARK, portsOf(JSON.stringify(slice)));
      slices.set(mark, slice);
      return { ports: mark };
    }
    if (action.portBlockSize === undefined) return action;
    const blocks = { sources, addresses: action.snat, size: action.portBlockSize };
    const mark = union(PORT_BLOCKS_MARK, portsOf(JSON.stringify(blocks)));
    ports.set(mark, blocks);
    return { ports: mark };
  }
  const compiled = speaking.map((policy): Compiled => {
    const { name, destinations: wanted, excluded } = policy;
    const isIn = (kind: string, not: string, blocks: Prefix[], side: 'src' | 'dst'): string => {
      const set = `VEG-${kind}-${hex8(setOf(name))}-${family}`;
      destinations.set(set, blocks);
      return `-m set ${not}--match-set ${set} ${side} `;
    };
    const matches = (option: '-d' | '-s', side: 'src' | 'dst'): string[] => {
      const not = excluded.length > 0 ? isIn('NOT', '! ', excluded, side) : '';
      if (wanted.length === 0 || wanted.includes(any)) return [not];
      if (wanted.length > MAX_COMPARED) return [`${isIn('TO', '', wanted, side)}${not}`];
      return wanted.map((block) => `${option} ${block} ${not}`);
    };
    const match = { d: matches('-d', 'dst'), s: matches('-s', 'src') };
    return { action: compileAction(policy), always: match.d[0] === '', match };
  });
  const has = (wanted: DefaultAction): boolean =>
    defaultAction === wanted || compiled.some(({ action }) => action === wanted);
  const forwards = has('forward');
  const drops = has('drop');

  /** The rules of a list of policies, by what each action and the default lead to. */
  const rulesOf = (
    list: readonly Compiled[],
    side: 'd' | 's',
    lead: (action: CompiledAction) => string[],
  ): string[] => {
    const rules = list.flatMap(({ action, match }) =>
      match[side].flatMap((condition) => lead(action).map((target) => condition + target)),
    );
    return [...new Set(list.at(-1)?.always ? rules : [...rules, ...lead(defaultAction)])];
  };
  // What is to be dropped is dropped in mangle; should it come here all the same, it is translated.
  const outwards = (action: CompiledAction): string[] => {
    if (typeof action !== 'string' && 'ports' in action) {
      nat.set(portChain(action.ports), [setMark(action.ports), '-j ACCEPT']);
    }
    return targets(action === 'drop' ? 'masquerade' : action);
  };
  const admitted = (action: CompiledAction): string[] => [action === 'forward' ? '-j RETURN' : REFUSE];
  const allowed = (action: CompiledAction): string[] => [action === 'drop' ? '-j DROP' : '-j RETURN'];
  const unchanged = (action: CompiledAction): string[] => [action === 'forward' ? '-j RETURN' : '-j DROP'];

  /** What belongs to each mark, in each of the trees. */
  const translate = new Map<number, string[]>();
  const allow = new Map<number, string[]>();
  const invalid = new Map<number, string[]>();
  const ingress = new Map<number, string[]>();

  function markOfAction(action: CompiledAction): number {
    if (typeof action !== 'string' && 'ports' in action) {
      translate.set(action.ports, ['-j ACCEPT']);
      return action.ports;
    }
    const mark = union(OURS, actionOf(typeof action === 'string' ? action : targets(action).join('\n')));
    if (action !== 'drop') translate.set(mark, targets(action));
    return mark;
  }

  function markOfClass(list: Compiled[]): number {
    const out = rulesOf(list, 'd', outwards);
    const back = closed && forwards ? rulesOf(list, 's', admitted) : [];
    // What is dropped reads in nat as what is masqueraded.
    const passes = drops ? ['', ...rulesOf(list, 'd', allowed)] : [];
    const mark = union(OURS, CLASS, classOf([...out, '', ...back, ...passes].join('\n')));
    const chain = (chains: Map<string, string[]>, name: string, rules: string[]): string[] => {
      chains.set(`${name}-${hex8(mark)}`, rules);
      return [`-g ${name}-${hex8(mark)}`];
    };
    translate.set(mark, chain(nat, CHAIN_TRANSLATE, out));
    if (back.length > 0) ingress.set(mark, chain(mangle, CHAIN_INGRESS_CLASS, back));
    if (passes.length > 0) allow.set(mark, chain(mangle, CHAIN_ALLOW, passes.slice(1)));
    if (dropInvalid) {
      invalid.set(mark, chain(mangle, CHAIN_INVALID_CLASS, rulesOf(list, 'd', unchanged)));
    }
    return mark;
  }

  const anySource = speaking.flatMap(({ sources }, i) => (sources.length === 0 ? [i] : []));
  /** Marks by list of policies, as it is and as it reads: most sources share theirs with many. */
  const marks = new Map<readonly number[], number>();
  const known = new Map<string, number>();
  function markOf(list: readonly number[]): number {
    const same = marks.get(list);
    if (same !== undefined) return same;
    const indexes = merged(list, anySource);
    // Behind a policy that takes everything none is reached.
    const last = indexes.findIndex((i) => compiled[i]!.always);
    const reached = last < 0 ? indexes : indexes.slice(0, last + 1);
    const key = reached.join();
    let mark = known.get(key);
    if (mark === undefined) {
      const members = reached.map((i) => compiled[i]!);
      const [first] = members;
      mark =
        first === undefined
          ? markOfAction(defaultAction)
          : first.always
            ? markOfAction(first.action)
            : markOfClass(members);
      known.set(key, mark);
    }
    marks.set(list, mark);
    return mark;
  }

  const sources = new Map<Prefix, number>();
  for (const [source, list] of classify(speaking, family)) {
    sources.set(source, markOf(list));
  }
  const look = (side: 'src' | 'dst'): string[] => [
    setMark(markOf([])),
    ...(sources.size > 0 ? [`-j SET --map-set ${SOURCE_SET[family]} ${side} --map-mark`] : []),
  ];
  const isClass = isMark(union(OURS, CLASS), union(OURS, CLASS));

  const egress = look('src');
  if (drops) {
    egress.push(`${isMark(union(OURS, DROP))} -j DROP`, `${isClass} -j ${CHAIN_ALLOW}`);
    dispatch(mangle, CHAIN_ALLOW, allow);
  }
  mangle.set(CHAIN_EGRESS, egress);
  if (closed) {
    const isForward = isMark(union(OURS, FORWARD));
    const found = [...look('dst'), `${isForward} -j RETURN`, `${isClass} -g ${CHAIN_INGRESS_CLASS}`];
    mangle.set(CHAIN_INGRESS, ingressRules(forwards ? found : []));
    dispatch(mangle, CHAIN_INGRESS_CLASS, ingress);
  }
  if (dropInvalid) {
    mangle.set(CHAIN_INVALID, [
      `-j ${CHAIN_EGRESS}`,
      `${isMark(union(OURS, FORWARD))} -j RETURN`,
      `${isClass} -g ${CHAIN_INVALID_CLASS}`,
      '-j DROP',
    ]);
    dispatch(mangle, CHAIN_INVALID_CLASS, invalid);
  }
  dispatch(nat, CHAIN_TRANSLATE, translate);
  return { mangle, nat, destinations, sources, ports, slices, forwards };
}
