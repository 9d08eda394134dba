/**
 * The nf_tables table that counts what each policy's connections carry (docs/design/0012): its chains and sets. Pure.
 *
 *     table ip VEG-COUNTERS
 *       chain postrouting  filter, POSTROUTING, behind NAT: counts the first mark (`primary`) itself, others → dispatch
 *       chain others       packets of the first mark that are of no established connection
 *       chain dispatch     mark of the connection → its counters; no mark → begins
 *       chain input        filter, INPUT: answers to the gateway's own connections
 *       chain begins       what NAT did → translated, unchanged or own: finds the policy
 *       chain rules-HASH   the policies of some addresses, the first of which decides → begin-MARK
 *       chain begin-MARK   gives the connection its mark (policy-marks.ts); counts the packets that begin one
 *       chain count-MARK   counts all others, answers first
 *
 * The counters are those of rules that never change: an edit of the policy exchanges what leads to them. So the primary
 * mark stays the one that the table was made with. Chains, sets and maps named by a hash never change either.
 */
import { NF_INET_LOCAL_IN, NF_INET_POST_ROUTING } from '../../lib/nft-codec.ts';
import {
  addressBits,
  addressNumber,
  anyPrefix,
  type Family,
  networkAddress,
  type Prefix,
  prefixLength,
} from '../../lib/prefix.ts';
import { DEFAULT_POLICY } from '../conntrack/names.ts';
import {
  accept,
  byEnd,
  byMark,
  counter,
  counterOf,
  type Direction,
  goTo,
  hasDirection,
  hasMark,
  hasOtherMark,
  hasSource,
  isEstablished,
  isFrom,
  isIn,
  isInSet,
  isNotEstablished,
  isNotRelated,
  isOwn,
  isToItself,
  isTracked,
  isUnchanged,
  isUnconfirmed,
  keepsSource,
  type Part,
  setMark,
} from '../expressions.ts';
import { hash, hex8 } from '../marks.ts';
import { hex6, type OwnRule, type OwnTable } from '../own-table.ts';
import { POLICY_MARK_PRIORITY, type PolicyLabel, policyMark, policyNumbers } from '../policy-marks.ts';
import { merged, policiesOfSources } from '../source-policies.ts';

/** A policy in one family. Empty sources or destinations mean any. */
export interface CountedPolicy {
  name: string;
  /** Translates; else forwards unchanged. */
  snat: boolean;
  sources: readonly Prefix[];
  destinations: readonly Prefix[];
  excluded: readonly Prefix[];
}

/** What is counted in one family. */
export interface CounterIntent {
  family: Family;
  internalInterface: string;
  /** In the order in which they decide. */
  policies: readonly CountedPolicy[];
  /** All policies, also those that the other family has alone: each has its number, and is counted as 0. */
  all: readonly Pick<CountedPolicy, 'name' | 'snat'>[];
  /** There may be connections that were opened from outside. */
  fromOutside: boolean;
  /** Connections of no policy may be forwarded unchanged. */
  forwardsRest: boolean;
}

/** The name of the gateway's own connections. */
export const OWN_POLICY = '';
/** The mark of what is not counted: no policy has the number 0, and what has no mark yet has none of the other bits. */
export const UNCOUNTED_MARK = policyMark(0, { inbound: true, forwarded: true });

/** Rules by chain. Those of a chain whose name ends in a hash or a mark never change. */
export type CounterRule = OwnRule;

/** An interval of addresses, both ends included, and the chain that it leads to; none in a set. */
export interface Interval {
  first: bigint;
  last: bigint;
  chain?: string;
}

/** A set or map: of intervals, or of marks. */
export type CounterSet = { intervals: readonly Interval[]; isMap: boolean } | { marks: readonly number[] };

export interface CounterTable {
  family: Family;
  chains: Map<string, CounterRule[]>;
  sets: Map<string, CounterSet>;
}

export const COUNTER_TABLE: OwnTable = {
  name: 'VEG-COUNTERS',
  hooks: {
    input: { hook: NF_INET_LOCAL_IN, priority: POLICY_MARK_PRIORITY },
    postrouting: { hook: NF_INET_POST_ROUTING, priority: POLICY_MARK_PRIORITY },
  },
};

export const countChain = (mark: number): string => `count-${hex6(mark)}`;
export const beginChain = (mark: number): string => `begin-${hex6(mark)}`;
/** The mark in the name of a chain with counters. */
export function markOfChain(chain: string): { kind: 'count' | 'begin'; mark: number } | undefined {
  const match = /^(count|begin)-([0-9a-f]{6})$/.exec(chain);
  return match === null
    ? undefined
    : { kind: match[1] as 'count' | 'begin', mark: Number.parseInt(match[2]!, 16) };
}

/** The rule that counts answers. */
export const ANSWERS: CounterRule = [hasDirection('reply'), isEstablished, counter, accept];
/** The same of the primary mark, whose packets are known to be of an established connection there. */
export const primaryAnswers = (mark: number): CounterRule => [hasDirection('reply'), counterOf(mark), accept];

/** So many marks are compared one by one; more are looked up in a map. */
const MAX_COMPARED_MARKS = 6;
/** With so many policies the first is compared before all others. */
const MAX_POLICIES_WITH_FIRST = 8;
/** So many destinations are compared one by one; more are looked up in a set. */
const MAX_COMPARED = 4;

const hashed = (kind: string, text: string): string => `${kind}-${hex8(hash(text))}${hex8(hash(`${text}#`))}`;

/** The marks that connections can get, by what they count for. */
export function marksOf({ policies, all, fromOutside }: CounterIntent): Map<number, PolicyLabel> {
  const numbers = policyNumbers([OWN_POLICY, DEFAULT_POLICY, ...all.map(({ name }) => name)]);
  const marks = new Map<number, PolicyLabel>();
  const add = (policy: string, inbound: boolean, forwarded: boolean): void => {
    const label = { policy, inbound, forwarded };
    marks.set(policyMark(numbers.get(policy)!, label), label);
  };
  const ways = fromOutside ? [false, true] : [false];
  for (const inbound of ways) {
    add(DEFAULT_POLICY, inbound, false);
    for (const { name, snat } of policies) add(name, inbound, !snat);
    add(DEFAULT_POLICY, inbound, true);
  }
  add(OWN_POLICY, false, false);
  return marks;
}

/**
 * The table. `kept`: marks of connections that policies of the past have begun; they are counted on. `primary`: the
 * primary mark of the table that is there.
 */
export const counterTable = (
  intent: CounterIntent,
  kept: Iterable<number> = [],
  primary?: number,
): CounterTable => new TableBuilder(intent).build(kept, primary);

/** One way through the policies: those that translate or those that do not, and which end of the connection is inside. */
interface Way {
  policies: readonly CountedPolicy[];
  inbound: boolean;
  forwarded: boolean;
}

class TableBuilder {
  readonly #intent: CounterIntent;
  readonly #family: Family;
  readonly #numbers: Map<string, number>;
  readonly #chains = new Map<string, CounterRule[]>();
  readonly #sets = new Map<string, CounterSet>();

  constructor(intent: CounterIntent) {
    this.#intent = intent;
    this.#family = intent.family;
    this.#numbers = policyNumbers([OWN_POLICY, DEFAULT_POLICY, ...intent.all.map(({ name }) => name)]);
  }

  build(kept: Iterable<number>, primary: number | undefined): CounterTable {
    const marks = [...marksOf(this.#intent).keys(), UNCOUNTED_MARK];
    const known = [...new Set([...marks, ...kept, ...(primary === undefined ? [] : [primary])])];
    for (const mark of known) this.#addCounters(mark);
    const own = this.#mark(OWN_POLICY, false, false);
    this.#chains.set('own', [
      [isToItself, goTo(beginChain(UNCOUNTED_MARK))],
      [hasDirection('original'), hasSource, goTo(beginChain(own))],
      [goTo(beginChain(UNCOUNTED_MARK))],
    ]);
    const translated = this.#enter('translated', this.#ways('translated', false));
    const unchanged = this.#enter('unchanged', this.#ways('unchanged', true));
    this.#chains.set('begins', [[isOwn, goTo('own')], [isUnchanged, unchanged], [translated]]);
    this.#chains.set('input', [[hasMark(own), goTo(countChain(own))]]);
    this.#addPostrouting(known, primary);
    return { family: this.#family, chains: this.#chains, sets: this.#sets };
  }

  /** The way into these rules: where there is but one target, that. */
  #enter(chain: string, rules: readonly CounterRule[]): Part {
    const [only, ...more] = rules;
    if (more.length === 0 && only?.length === 1) return only[0]!;
    this.#chains.set(chain, [...rules]);
    return goTo(chain);
  }

  #mark(policy: string, inbound: boolean, forwarded: boolean): number {
    return policyMark(this.#numbers.get(policy)!, { inbound, forwarded });
  }

  #addCounters(mark: number): void {
    this.#chains.set(countChain(mark), [ANSWERS, [isNotRelated, counter]]);
    this.#chains.set(beginChain(mark), [
      [setMark(mark), isUnconfirmed, counter, accept],
      [goTo(countChain(mark))],
    ]);
  }

  /**
   * From a mark to its counters. What most packets have, in a gateway of few policies, is counted without leaving the base
   * chain.
   */
  #addPostrouting(known: readonly number[], former: number | undefined): void {
    const primary = former ?? this.#firstMark();
    if (primary === undefined) {
      this.#chains.set('postrouting', this.#dispatch(known));
      return;
    }
    this.#chains.set('postrouting', [
      [hasOtherMark(primary), goTo('dispatch')],
      [isNotEstablished, goTo('others')],
      primaryAnswers(primary),
      [counterOf(primary)],
    ]);
    // Packets of no connection come this way too.
    this.#chains.set('others', [[hasMark(primary), goTo(countChain(primary))]]);
    const marks = known.filter((mark) => mark !== primary);
    this.#chains.set('dispatch', [[hasMark(0), goTo('begins')], ...this.#dispatch(marks)]);
  }

  /** The mark of the first policy that translates; undefined where there are so many that it is hardly the busiest. */
  #firstMark(): number | undefined {
    const { policies } = this.#intent;
    if (policies.length > MAX_POLICIES_WITH_FIRST) return undefined;
    const first = policies.find(({ snat }) => snat);
    return this.#mark(first?.name ?? DEFAULT_POLICY, false, false);
  }

  #dispatch(marks: readonly number[]): CounterRule[] {
    if (marks.length <= MAX_COMPARED_MARKS) {
      const compared = marks.map((mark): CounterRule => [hasMark(mark), goTo(countChain(mark))]);
      return [...compared, [isTracked, goTo('begins')]];
    }
    const sorted = marks.toSorted((a, b) => a - b);
    const map = hashed('marks', sorted.join());
    this.#sets.set(map, { marks: sorted });
    return [[byMark(map)], [isTracked, goTo('begins')]];
  }

  /** The rules for what was translated, or was not. */
  #ways(chain: 'translated' | 'unchanged', forwarded: boolean): CounterRule[] {
    const { internalInterface, fromOutside } = this.#intent;
    const policies = this.#intent.policies.filter(({ snat }) => snat !== forwarded);
    const outward = this.#way({ policies, inbound: false, forwarded });
    if (!fromOutside) return outward;
    const inwards = `${chain}-in`;
    this.#chains.set(inwards, this.#way({ policies, inbound: true, forwarded }));
    return [
      // Only the destination: neither translated nor forwarded unchanged.
      ...(forwarded ? [] : [[keepsSource, goTo(beginChain(UNCOUNTED_MARK))]]),
      [hasDirection('original'), isFrom(internalInterface, false), goTo(inwards)],
      [hasDirection('reply'), isFrom(internalInterface, true), goTo(inwards)],
      ...outward,
    ];
  }

  /** The rules that find the first policy that speaks about a connection. */
  #way({ policies, inbound, forwarded }: Way): CounterRule[] {
    const any = anyPrefix(this.#family);
    const speaking = policies
      .filter(({ excluded }) => !excluded.includes(any))
      .map((policy) => ({ ...policy, sources: policy.sources.includes(any) ? [] : policy.sources }));
    const inside: Direction = inbound ? 'reply' : 'original';
    const [only, ...more] = speaking;
    // One policy has all that is forwarded unchanged, however many blocks it has.
    if (forwarded && only !== undefined && more.length === 0 && !this.#intent.forwardsRest) {
      return [[goTo(beginChain(this.#mark(only.name, inbound, forwarded)))]];
    }
    const anySource = speaking.flatMap(({ sources }, i) => (sources.length === 0 ? [i] : []));
    const rulesFor = (list: readonly number[]): CounterRule[] =>
      this.#rules(
        list.map((i) => speaking[i]!),
        inbound,
        forwarded,
      );
    const texts = new Map<string, string>();
    const chainFor = (list: readonly number[]): string => {
      const key = list.join();
      const known = texts.get(key);
      if (known !== undefined) return known;
      const found = this.#chainOf(rulesFor(merged(list, anySource)));
      texts.set(key, found);
      return found;
    };
    const intervals = flatten(policiesOfSources(speaking, this.#family), this.#family, chainFor);
    const rest = rulesFor(anySource);
    if (intervals.length === 0) return rest;
    const map = hashed(
      'inside',
      intervals.map(({ first, last, chain }) => `${first}-${last} ${chain}`).join('\n'),
    );
    this.#sets.set(map, { intervals, isMap: true });
    return [[byEnd(this.#family, inside, map)], ...rest];
  }

  /** The rules of a list of policies, up to the first that takes everything. */
  #rules(list: readonly CountedPolicy[], inbound: boolean, forwarded: boolean): CounterRule[] {
    const outside: Direction = inbound ? 'original' : 'reply';
    const rules: CounterRule[] = [];
    for (const policy of list) {
      const target = goTo(beginChain(this.#mark(policy.name, inbound, forwarded)));
      const conditions = this.#conditions(policy, outside);
      rules.push(...conditions.map((parts) => [...parts, target]));
      if (conditions.length === 1 && conditions[0]!.length === 0) return rules;
    }
    return [...rules, [goTo(beginChain(this.#mark(DEFAULT_POLICY, inbound, forwarded)))]];
  }

  /** The conditions on the end outside; one of them must hold, each as a whole. */
  #conditions({ destinations, excluded }: CountedPolicy, outside: Direction): Part[][] {
    const family = this.#family;
    const inSet = (blocks: readonly Prefix[], wanted: boolean): Part =>
      isInSet(family, outside, this.#addressSet(blocks), wanted);
    const not =
      excluded.length > MAX_COMPARED
        ? [inSet(excluded, false)]
        : excluded.map((block) => isIn(family, outside, block, false));
    if (destinations.length === 0 || destinations.includes(anyPrefix(family))) return [not];
    if (destinations.length > MAX_COMPARED) return [[inSet(destinations, true), ...not]];
    return destinations.map((block) => [isIn(family, outside, block), ...not]);
  }

  #addressSet(blocks: readonly Prefix[]): string {
    const intervals = union(blocks, this.#family);
    const set = hashed('outside', intervals.map(({ first, last }) => `${first}-${last}`).join('\n'));
    this.#sets.set(set, { intervals, isMap: false });
    return set;
  }

  /** The chain with these rules: where there is but one target, that. */
  #chainOf(rules: readonly CounterRule[]): string {
    const text = rules.map((rule) => rule.map((part) => part.text).join(' ')).join('\n');
    const only = /^goto (\S+)$/.exec(text)?.[1];
    if (only !== undefined) return only;
    const chain = hashed('rules', text);
    this.#chains.set(chain, [...rules]);
    return chain;
  }
}

const boundsOf = (block: Prefix, family: Family): { first: bigint; last: bigint } => {
  const first = addressNumber(networkAddress(block));
  return { first, last: first | ((1n << BigInt(addressBits(family) - prefixLength(block))) - 1n) };
};

const ascending = (a: { first: bigint; last: bigint }, b: { first: bigint; last: bigint }): number =>
  a.first < b.first ? -1 : a.first > b.first ? 1 : a.last > b.last ? -1 : a.last < b.last ? 1 : 0;

/** Blocks as intervals that neither overlap nor meet. */
function union(blocks: readonly Prefix[], family: Family): Interval[] {
  const found: Interval[] = [];
  for (const { first, last } of blocks.map((block) => boundsOf(block, family)).sort(ascending)) {
    const before = found.at(-1);
    if (before === undefined || before.last + 1n < first) found.push({ first, last });
    else if (before.last < last) before.last = last;
  }
  return found;
}

/** Blocks that lie in each other as intervals that do not, each with the chain of the innermost block. */
function flatten(
  lists: ReadonlyMap<Prefix, readonly number[]>,
  family: Family,
  chainFor: (list: readonly number[]) => string,
): Interval[] {
  const blocks = [...lists]
    .map(([block, list]) => ({ ...boundsOf(block, family), chain: chainFor(list) }))
    .sort(ascending);
  const found: Interval[] = [];
  const add = (first: bigint, last: bigint, chain: string): void => {
    if (first > last) return;
    const before = found.at(-1);
    if (before?.chain === chain && before.last + 1n === first) before.last = last;
    else found.push({ first, last, chain });
  };
  /** The blocks around the current one, and up to where they have been added. */
  const around: { last: bigint; chain: string }[] = [];
  let next = 0n;
  const close = (until: bigint): void => {
    while (around.length > 0 && around.at(-1)!.last < until) {
      const { last, chain } = around.pop()!;
      add(next, last, chain);
      if (last + 1n > next) next = last + 1n;
    }
  };
  for (const { first, last, chain } of blocks) {
    close(first);
    const outer = around.at(-1);
    if (outer !== undefined) add(next, first - 1n, outer.chain);
    next = first;
    around.push({ last, chain });
  }
  close(1n << BigInt(addressBits(family)));
  return found;
}
