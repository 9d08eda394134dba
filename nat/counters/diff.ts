/**
 * The steps from the observed table of counters to the desired one. Pure.
 *
 * Counters are never lost to an edit: rules with counters are made once and stay, also those of a policy that is gone,
 * whose connections may live. What leads to them is made first, then exchanged in one transaction, then the former is
 * removed.
 */
import type { Family } from '../../lib/prefix.ts';
import { markOfRule, ruleMark } from '../own-table.ts';
import { setSum } from './messages.ts';
import {
  COUNTER_TABLE,
  type CounterIntent,
  type CounterTable,
  counterTable,
  markOfChain,
  marksOf,
  UNCOUNTED_MARK,
} from './table.ts';

/** The table as the kernel has it. */
export interface ObservedCounters {
  /** Whether the base chains are hooked where they must be. */
  hooked: boolean;
  /** The comments of the rules of each chain. */
  rules: Map<string, string[]>;
  /** The sum of the elements of each set. */
  sets: Map<string, string>;
}

export type CounterStep =
  | { type: 'create-counters'; family: Family; table: CounterTable; replace: boolean }
  | {
      type: 'edit-counters';
      family: Family;
      table: CounterTable;
      /** Chains and sets that are made, that get other rules, and that are removed. */
      add: { chains: string[]; sets: string[] };
      rewrite: string[];
      remove: { chains: string[]; sets: string[] };
    }
  | { type: 'delete-counters'; family: Family };

/** The most marks of former policies that are counted on; the counters of others end. */
export const KEPT_MARKS = 1000;

/** The marks that are counted and not the intent's, those with the highest numbers left out when there are too many. */
function formerMarks(observed: ObservedCounters, intent: CounterIntent): number[] {
  const current = new Set([...marksOf(intent).keys(), UNCOUNTED_MARK]);
  const found = new Set<number>();
  for (const chain of observed.rules.keys()) {
    const mark = markOfChain(chain)?.mark;
    if (mark !== undefined && !current.has(mark)) found.add(mark);
  }
  return [...found].sort((a, b) => a - b).slice(0, KEPT_MARKS);
}

/** The mark that the base chain counts itself. */
const primaryMark = ({ rules }: ObservedCounters): number | undefined =>
  rules
    .get('postrouting')
    ?.map(markOfRule)
    .find((mark) => mark !== undefined);

/** The last table of an intent: making one takes as long as the policy is. */
const made = new WeakMap<CounterIntent, { former: string; table: CounterTable }>();

function tableOf(intent: CounterIntent, former: readonly number[], primary?: number): CounterTable {
  const last = made.get(intent);
  const key = [primary, ...former].join();
  if (last?.former === key) return last.table;
  const table = counterTable(intent, former, primary);
  made.set(intent, { former: key, table });
  return table;
}

const isSame = (a: readonly string[] | undefined, b: readonly string[]): boolean =>
  a !== undefined && a.length === b.length && a.every((one, i) => one === b[i]);

/** The steps of one family; `intent` undefined: nothing is counted. */
export function diffCounters(
  family: Family,
  observed: ObservedCounters | undefined,
  intent: CounterIntent | undefined,
): CounterStep[] {
  if (intent === undefined) return observed === undefined ? [] : [{ type: 'delete-counters', family }];
  if (observed === undefined || !observed.hooked) {
    return [{ type: 'create-counters', family, table: tableOf(intent, []), replace: observed !== undefined }];
  }
  const table = tableOf(intent, formerMarks(observed, intent), primaryMark(observed));
  const { rules, sets } = observed;
  const chains = [...table.chains];
  const wrongSets = [...table.sets].filter(([name, set]) => sets.get(name) !== setSum(family, set));
  if (wrongSets.some(([name]) => sets.has(name))) {
    // Another program has changed elements that rules use.
    return [{ type: 'create-counters', family, table, replace: true }];
  }
  const add = {
    chains: chains.flatMap(([name]) => (rules.has(name) ? [] : [name])),
    sets: wrongSets.map(([name]) => name),
  };
  const rewrite = chains.flatMap(([name, wanted]) =>
    rules.has(name) && !isSame(rules.get(name), wanted.map(ruleMark)) ? [name] : [],
  );
  const remove = {
    chains: [...rules.keys()].filter((name) => !table.chains.has(name)),
    sets: [...sets.keys()].filter((name) => !table.sets.has(name)),
  };
  const nothing = [add.chains, add.sets, rewrite, remove.chains, remove.sets].every(
    (list) => list.length === 0,
  );
  return nothing ? [] : [{ type: 'edit-counters', family, table, add, rewrite, remove }];
}

/** A step as a line: in nft's syntax but for the numbers of chains and sets. */
export function counterLine(step: CounterStep): string {
  const table = `${step.family === 4 ? 'ip' : 'ip6'} ${COUNTER_TABLE.name}`;
  switch (step.type) {
    case 'delete-counters':
      return `nft delete table ${table}`;
    case 'create-counters': {
      const { chains, sets } = step.table;
      return `nft ${step.replace ? 'replace' : 'add'} table ${table}: ${chains.size} chains, ${sets.size} sets`;
    }
    case 'edit-counters': {
      const { add, rewrite, remove } = step;
      const made = `${add.chains.length} chains and ${add.sets.length} sets more`;
      const gone = `${remove.chains.length} chains and ${remove.sets.length} sets less`;
      return `nft edit table ${table}: ${made}, ${rewrite.length} chains changed, ${gone}`;
    }
  }
}

/** Whether a chain of the table is hooked. */
export const isBase = (chain: string): boolean => chain in COUNTER_TABLE.hooks;
