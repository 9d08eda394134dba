/**
 * Policies beyond "forward these blocks": by destination, with an address of their own, in an order.
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
 * A mark is a hash of what it means, so that it never changes its meaning: old and new exist side by side while
 * policies change (diff.ts).
 */

import { type Address, addressNumber, anyPrefix, type Family, type Prefix } from '../lib/prefix.ts';
import { CHAIN_MASQUERADE } from '../routing/numbers.ts';
import {
  CLASS,
  DROP,
  dispatch,
  FORWARD,
  hex8,
  identities,
  isMark,
  MASQUERADE,
  OURS,
  setMark,
  union,
} from './marks.ts';
import type { PortBlock, PortBlocks } from './port-blocks.ts';
import {
  CHAIN_EGRESS,
  CHAIN_INGRESS,
  CHAIN_INVALID,
  CHAIN_REFUSED,
  CHAIN_TRANSLATE,
  hex,
  ingressRules,
  PORT_BLOCKS_MARK,
  REFUSE,
} from './rules.ts';
import { merged, policiesOfSources } from './source-policies.ts';

/** What is done to the source address of a connection. */
export type EgressAction =
  | 'masquerade'
  | 'drop'
  /** Nothing, in both directions. */
  | 'forward'
  /**
   * Translated to one of these addresses, the same for all connections of a source. `keepPorts`: the address
   * belongs to one source alone, whose ports are kept. `portBlockSize`: the number of ports of each source.
   * `slice`: all sources of an address have these ports of it in common.
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

/** Whether a chain is reached by a mark, so that it can have old and new rules at the same time. */
export const isByMark = (chain: string): boolean => BY_MARK.some((name) => chain.startsWith(name));

/** The set of sources of a family. */
export const SOURCE_SET = { 4: 'VEG-SOURCE-4', 6: 'VEG-SOURCE-6' } as const;

/** So few destinations are compared one by one: a set is spread over more memory than they are. */
const MAX_COMPARED = 4;

/** The seed of the hash that gives a source its address; any number, as long as all gateways have the same. */
const CLUSTER_SEED = 0x56454721;
/** The most addresses that xt_cluster can choose from. */
const MAX_ADDRESS_CHOICES = 32;

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

/** An action as rules know it: port blocks are a mark, slices one for each address, in the order of the addresses. */
type CompiledAction = EgressAction | { ports: number[] };

const portChain = (mark: number): string => `${CHAIN_TRANSLATE}-P-${hex8(mark)}`;

/**
 * The targets that translate for an action. Throws `RangeError` for more addresses than xt_cluster can choose from.
 */
function targets(action: Exclude<CompiledAction, 'drop'>): string[] {
  if (action === 'forward') return ['-j ACCEPT'];
  if (action === 'masquerade') return [`-g ${CHAIN_MASQUERADE}`];
  if ('ports' in action) return bySource(action.ports.map((mark) => `-g ${portChain(mark)}`));
  const snat = (to: string): string =>
    `-j SNAT --to-source ${to}${action.keepPorts ? '' : ' --random-fully'} --persistent`;
  const whole = ranges(action.snat);
  if (whole.length === 1) return [snat(whole[0]!)];
  const single = new Set(action.snat).size <= MAX_ADDRESS_CHOICES;
  // nat takes one range only; which of several is a matter of the source's hash.
  return bySource((single ? [...new Set(action.snat)].sort() : whole).map(snat));
}

/** Of these targets the one that a source's hash chooses. Throws `RangeError` for more than xt_cluster can choose from. */
function bySource(choices: readonly string[]): string[] {
  if (choices.length === 1) return [...choices];
  if (choices.length > MAX_ADDRESS_CHOICES) {
    throw new RangeError(
      `an egress IP of ${choices.length} separate ranges; at most ${MAX_ADDRESS_CHOICES} are possible`,
    );
  }
  const seed = hex(CLUSTER_SEED);
  return choices.map((choice, i) => {
    const node = `0x${hex8((1 << i) >>> 0)}`;
    return `-m cluster --cluster-local-nodemask ${node} --cluster-total-nodes ${choices.length} --cluster-hash-seed ${seed} ${choice}`;
  });
}

/** A policy as rules know it. */
interface Compiled {
  action: CompiledAction;
  /** Whether it takes every packet of its sources. */
  always: boolean;
  /** The matches for packets to its destinations (`d`) or from them (`s`), each followed by a blank; one must match. */
  match: { d: string[]; s: string[] };
}

const isPorts = (action: CompiledAction): action is { ports: number[] } =>
  typeof action !== 'string' && 'ports' in action;

// Where each action leads: for packets of connections that leave, that come in, and that begin.
const admitted = (action: CompiledAction): string[] => [action === 'forward' ? '-j RETURN' : REFUSE];
const allowed = (action: CompiledAction): string[] => [action === 'drop' ? '-j DROP' : '-j RETURN'];
const unchanged = (action: CompiledAction): string[] => [action === 'forward' ? '-j RETURN' : '-j DROP'];

const IS_CLASS = isMark(union(OURS, CLASS), union(OURS, CLASS));
const IS_FORWARD = isMark(union(OURS, FORWARD));
const IS_DROP = isMark(union(OURS, DROP));

/** Adds the chain of a class, and returns what leads to it. */
function addClassChain(chains: Map<string, string[]>, name: string, mark: number, rules: string[]): string[] {
  chains.set(`${name}-${hex8(mark)}`, rules);
  return [`-g ${name}-${hex8(mark)}`];
}

/** Which chains are asked for besides those that translate. */
export interface EgressOptions {
  /** The chain that lets packets without a connection pass. */
  dropInvalid: boolean;
  /** The chain that lets connections from outside in. */
  closed: boolean;
}

/**
 * The chains and sets that apply policies, of which the first that speaks about a packet decides, and the default for
 * packets that none speaks about. Throws `RangeError` as `targets` does.
 */
export const egressChains = (
  family: Family,
  policies: readonly EgressPolicy[],
  defaultAction: DefaultAction,
  options: EgressOptions,
): EgressChains => new EgressCompiler(family, defaultAction, options).compile(policies);

/** What belongs to each mark, by tree. */
type Leaves = Map<number, string[]>;

class EgressCompiler {
  readonly #family: Family;
  readonly #default: DefaultAction;
  readonly #options: EgressOptions;
  readonly #mangle = new Map<string, string[]>();
  readonly #nat = new Map<string, string[]>();
  readonly #destinations = new Map<string, Prefix[]>();
  readonly #ports = new Map<number, PortBlocks>();
  readonly #slices = new Map<number, PortBlock>();
  readonly #translate: Leaves = new Map();
  readonly #allow: Leaves = new Map();
  readonly #invalid: Leaves = new Map();
  readonly #ingress: Leaves = new Map();
  readonly #actionOf = identities({ forward: FORWARD, masquerade: MASQUERADE, drop: DROP });
  readonly #classOf = identities();
  readonly #setOf = identities();
  readonly #portsOf = identities();
  #compiled: Compiled[] = [];
  /** The policies for any source. */
  #anySource: number[] = [];
  #forwards = false;
  #drops = false;
  /** Marks by list of policies, as it is and as it reads: most sources share theirs with many. */
  readonly #marks = new Map<readonly number[], number>();
  readonly #marksByText = new Map<string, number>();

  constructor(family: Family, defaultAction: DefaultAction, options: EgressOptions) {
    this.#family = family;
    this.#default = defaultAction;
    this.#options = options;
  }

  compile(policies: readonly EgressPolicy[]): EgressChains {
    const any = anyPrefix(this.#family);
    const speaking = policies
      .filter(({ excluded }) => !excluded.includes(any))
      .map((policy) => ({ ...policy, sources: policy.sources.includes(any) ? [] : policy.sources }));
    this.#compiled = speaking.map((policy) => this.#compilePolicy(policy, any));
    this.#anySource = speaking.flatMap(({ sources }, i) => (sources.length === 0 ? [i] : []));
    this.#forwards = this.#has('forward');
    this.#drops = this.#has('drop');
    const sources = new Map<Prefix, number>();
    for (const [source, list] of policiesOfSources(speaking, this.#family)) {
      sources.set(source, this.#markOf(list));
    }
    this.#addEntryChains(sources.size > 0);
    return {
      ...{ mangle: this.#mangle, nat: this.#nat, destinations: this.#destinations, sources },
      ...{ ports: this.#ports, slices: this.#slices, forwards: this.#forwards },
    };
  }

  #has(wanted: DefaultAction): boolean {
    return this.#default === wanted || this.#compiled.some(({ action }) => action === wanted);
  }

  #compilePolicy(policy: EgressPolicy, any: Prefix): Compiled {
    const { name, destinations, excluded } = policy;
    const isIn = (kind: string, not: string, blocks: Prefix[], side: 'src' | 'dst'): string => {
      const set = `VEG-${kind}-${hex8(this.#setOf(name))}-${this.#family}`;
      this.#destinations.set(set, blocks);
      return `-m set ${not}--match-set ${set} ${side} `;
    };
    const matches = (option: '-d' | '-s', side: 'src' | 'dst'): string[] => {
      const not = excluded.length > 0 ? isIn('NOT', '! ', excluded, side) : '';
      if (destinations.length === 0 || destinations.includes(any)) return [not];
      if (destinations.length > MAX_COMPARED) return [`${isIn('TO', '', destinations, side)}${not}`];
      return destinations.map((block) => `${option} ${block} ${not}`);
    };
    const match = { d: matches('-d', 'dst'), s: matches('-s', 'src') };
    return { action: this.#compileAction(policy), always: match.d[0] === '', match };
  }

  #compileAction({ action, sources }: EgressPolicy): CompiledAction {
    if (typeof action === 'string') return action;
    if (action.slice !== undefined) return { ports: this.#marksOfSlices(action.snat, action.slice) };
    if (action.portBlockSize === undefined) return action;
    const blocks = { sources, addresses: action.snat, size: action.portBlockSize };
    const mark = union(PORT_BLOCKS_MARK, this.#portsOf(JSON.stringify(blocks)));
    this.#ports.set(mark, blocks);
    return { ports: [mark] };
  }

  /** All members of a group give a source the same address, so the order of the policy does not matter. */
  #marksOfSlices(addresses: readonly Address[], ports: Pick<PortBlock, 'first' | 'last'>): number[] {
    return [...new Set(addresses)].sort().map((address) => {
      const slice = { address, ...ports };
      const mark = union(PORT_BLOCKS_MARK, this.#portsOf(JSON.stringify(slice)));
      this.#slices.set(mark, slice);
      return mark;
    });
  }

  /** The rules of a list of policies, by where each action and the default lead. */
  #rulesOf(list: readonly Compiled[], side: 'd' | 's', lead: (action: CompiledAction) => string[]): string[] {
    const rules = list.flatMap(({ action, match }) =>
      match[side].flatMap((condition) => lead(action).map((target) => condition + target)),
    );
    return [...new Set(list.at(-1)?.always ? rules : [...rules, ...lead(this.#default)])];
  }

  /** What mangle drops should not reach nat; if it does, it is translated. */
  readonly #outwards = (action: CompiledAction): string[] => {
    if (isPorts(action)) this.#addPortChains(action.ports);
    return targets(action === 'drop' ? 'masquerade' : action);
  };

  #addPortChains(marks: readonly number[]): void {
    for (const mark of marks) this.#nat.set(portChain(mark), [setMark(mark), '-j ACCEPT']);
  }

  #markOfAction(action: CompiledAction): number {
    if (isPorts(action)) {
      const [only, ...others] = action.ports;
      if (others.length === 0) {
        this.#translate.set(only!, ['-j ACCEPT']);
        return only!;
      }
      this.#addPortChains(action.ports);
    }
    const text = typeof action === 'string' ? action : targets(action).join('\n');
    const mark = union(OURS, this.#actionOf(text));
    if (action !== 'drop') this.#translate.set(mark, targets(action));
    return mark;
  }

  #markOfClass(list: readonly Compiled[]): number {
    const out = this.#rulesOf(list, 'd', this.#outwards);
    const back = this.#options.closed && this.#forwards ? this.#rulesOf(list, 's', admitted) : [];
    // What is dropped reads in nat as what is masqueraded.
    const passes = this.#drops ? ['', ...this.#rulesOf(list, 'd', allowed)] : [];
    const mark = union(OURS, CLASS, this.#classOf([...out, '', ...back, ...passes].join('\n')));
    this.#translate.set(mark, addClassChain(this.#nat, CHAIN_TRANSLATE, mark, out));
    if (back.length > 0) {
      this.#ingress.set(mark, addClassChain(this.#mangle, CHAIN_INGRESS_CLASS, mark, back));
    }
    if (passes.length > 0) {
      this.#allow.set(mark, addClassChain(this.#mangle, CHAIN_ALLOW, mark, passes.slice(1)));
    }
    if (this.#options.dropInvalid) {
      const rules = this.#rulesOf(list, 'd', unchanged);
      this.#invalid.set(mark, addClassChain(this.#mangle, CHAIN_INVALID_CLASS, mark, rules));
    }
    return mark;
  }

  /** The mark of a source that these policies speak about. */
  #markOf(list: readonly number[]): number {
    const same = this.#marks.get(list);
    if (same !== undefined) return same;
    const indexes = merged(list, this.#anySource);
    // Behind a policy that takes everything none is reached.
    const last = indexes.findIndex((i) => this.#compiled[i]!.always);
    const reached = last < 0 ? indexes : indexes.slice(0, last + 1);
    const text = reached.join();
    const mark = this.#marksByText.get(text) ?? this.#makeMark(reached.map((i) => this.#compiled[i]!));
    this.#marksByText.set(text, mark);
    this.#marks.set(list, mark);
    return mark;
  }

  #makeMark(members: readonly Compiled[]): number {
    const [first] = members;
    if (first === undefined) return this.#markOfAction(this.#default);
    return first.always ? this.#markOfAction(first.action) : this.#markOfClass(members);
  }

  /** The chains that packets come to first, and the trees below them. */
  #addEntryChains(hasSources: boolean): void {
    const [mangle, { dropInvalid, closed }] = [this.#mangle, this.#options];
    const lookUp = (side: 'src' | 'dst'): string[] => [
      setMark(this.#markOf([])),
      ...(hasSources ? [`-j SET --map-set ${SOURCE_SET[this.#family]} ${side} --map-mark`] : []),
    ];
    const egress = lookUp('src');
    if (this.#drops) {
      egress.push(`${IS_DROP} -j DROP`, `${IS_CLASS} -j ${CHAIN_ALLOW}`);
      dispatch(mangle, CHAIN_ALLOW, this.#allow);
    }
    mangle.set(CHAIN_EGRESS, egress);
    if (closed) {
      const found = [...lookUp('dst'), `${IS_FORWARD} -j RETURN`, `${IS_CLASS} -g ${CHAIN_INGRESS_CLASS}`];
      mangle.set(CHAIN_INGRESS, ingressRules(this.#forwards ? found : []));
      dispatch(mangle, CHAIN_INGRESS_CLASS, this.#ingress);
    }
    if (dropInvalid) {
      mangle.set(CHAIN_INVALID, [
        `-j ${CHAIN_EGRESS}`,
        `${IS_FORWARD} -j RETURN`,
        `${IS_CLASS} -g ${CHAIN_INVALID_CLASS}`,
        '-j DROP',
      ]);
      dispatch(mangle, CHAIN_INVALID_CLASS, this.#invalid);
    }
    dispatch(this.#nat, CHAIN_TRANSLATE, this.#translate);
  }
}
