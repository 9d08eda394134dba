/**
 * The edits that bring one chain's rules of ours into the desired order and touch nothing else. Pure.
 *
 * Rules are named by their text when they are deleted, never by number: a number may be that of a foreign rule
 * if the chain changed since it was read. iptables deletes the first rule with a text, so of a doubled rule only
 * the last one can be kept. A position is only used to insert; there a stale one costs no more than a wrong order
 * that the next reconcile sees.
 */
import type { Rule } from './state.ts';

export type ChainEdit =
  | { type: 'delete'; text: string }
  /** `position` is 1-based; absent: at the end. The counters go with the rule. */
  | { type: 'insert'; position?: number; rule: Rule };

/** The longest strictly increasing subsequence, as indexes into `values`. */
function longestIncreasing(values: number[]): Set<number> {
  /** tails[k]: the index of the smallest value that ends an increasing run of k + 1. */
  const tails: number[] = [];
  const before = new Array<number>(values.length).fill(-1);
  values.forEach((value, i) => {
    let low = 0;
    let high = tails.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[tails[middle]!]! < value) low = middle + 1;
      else high = middle;
    }
    if (low > 0) before[i] = tails[low - 1]!;
    tails[low] = i;
  });
  const kept = new Set<number>();
  for (let i = tails.at(-1) ?? -1; i >= 0; i = before[i]!) kept.add(i);
  return kept;
}

/**
 * Compares a chain as observed with what we want in it.
 * @param desired our rules in order, each text once
 * @param owned the texts in this chain that are ours beside the desired ones
 * @returns the edits in the order in which they must be carried out, and the chain as it is afterwards.
 *   What is in place stays (and keeps its counters); a rule that moves takes its counters along; a new rule goes
 *   right behind its predecessor, a new first one right before the next of ours, and the first of all to the end.
 *   Costs O(n log n) in the length of the chain.
 */
export function editChain(
  observed: readonly Rule[],
  desired: readonly string[],
  owned: ReadonlySet<string>,
): { edits: ChainEdit[]; rules: Rule[] } {
  const rank = new Map(desired.map((text, i) => [text, i]));
  /** By desired index: where it is found (its last place) and the counters it has. */
  const lastAt = new Map<number, number>();
  const counted = new Map<number, Rule>();
  observed.forEach((rule, i) => {
    const wanted = rank.get(rule.text);
    if (wanted === undefined) return;
    lastAt.set(wanted, i);
    const seen = counted.get(wanted);
    if (seen === undefined || rule.packets > seen.packets) counted.set(wanted, rule);
  });
  // A doubled rule stays in its last place, unless another of its places has counted more.
  const found = [...lastAt]
    .filter(([wanted, at]) => observed[at]!.packets === counted.get(wanted)!.packets)
    .sort(([, a], [, b]) => a - b);
  const inOrder = longestIncreasing(found.map(([wanted]) => wanted));
  /** Observed index → desired index, of the rules that stay. */
  const kept = new Map(found.filter((_, i) => inOrder.has(i)).map(([wanted, at]) => [at, wanted]));

  const edits: ChainEdit[] = [];
  const rest: { rule: Rule; wanted?: number }[] = [];
  observed.forEach((rule, i) => {
    const wanted = kept.get(i);
    if (wanted !== undefined) rest.push({ rule, wanted });
    else if (rank.has(rule.text) || owned.has(rule.text)) edits.push({ type: 'delete', text: rule.text });
    else rest.push({ rule });
  });

  const rules: Rule[] = [];
  let placed = 0;
  let length = rest.length;
  const insertUpTo = (end: number): void => {
    for (; placed < end; placed++) {
      const { packets, bytes } = counted.get(placed) ?? { packets: 0, bytes: 0 };
      const rule: Rule = { text: desired[placed]!, packets, bytes };
      const atEnd = rules.length === length++;
      rules.push(rule);
      edits.push(atEnd ? { type: 'insert', rule } : { type: 'insert', position: rules.length, rule });
    }
  };
  const keptRanks = [...kept.values()].sort((a, b) => a - b);
  let next = 0;
  for (const { rule, wanted } of rest) {
    if (wanted !== undefined && next++ === 0) insertUpTo(wanted);
    rules.push(rule);
    if (wanted === undefined) continue;
    placed = wanted + 1;
    insertUpTo(keptRanks[next] ?? desired.length);
  }
  insertUpTo(desired.length);
  return { edits, rules };
}
