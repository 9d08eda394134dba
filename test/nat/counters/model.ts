/** A model of the kernel's tables of counters, which count nothing. */
import type { CounterStep, ObservedCounters } from '../../../nat/counters/diff.ts';
import type { CounterKernel } from '../../../nat/counters/kernel.ts';
import { setSum } from '../../../nat/counters/messages.ts';
import type { CounterTable } from '../../../nat/counters/table.ts';
import { ruleMark } from '../../../nat/own-table.ts';

/** A table as the kernel would show it. */
export const observedOf = ({ family, chains, sets }: CounterTable): ObservedCounters => ({
  hooked: true,
  rules: new Map([...chains].map(([name, rules]) => [name, rules.map(ruleMark)])),
  sets: new Map([...sets].map(([name, set]) => [name, setSum(family, set)])),
});

export interface CounterModel extends CounterKernel {
  /** What the kernel answers to each step of a family. */
  refuses: Partial<Record<4 | 6, string>>;
  /** The steps that it was asked for. */
  asked: CounterStep[];
  /** Another program deletes the tables: `nft flush ruleset`. */
  flush(): void;
}

const refuse = (code: string): never => {
  throw Object.assign(new Error(`refused (${code})`), { code });
};

export function createCounterModel(): CounterModel {
  /** Replaced by each change, as the kernel's is. */
  let tables: Partial<Record<4 | 6, ObservedCounters>> = {};
  const apply = (step: CounterStep): void => {
    const { [step.family]: table, ...others } = tables;
    model.asked.push(step);
    const refusal = model.refuses[step.family];
    if (refusal !== undefined) refuse(refusal);
    if (table === undefined && (step.type !== 'create-counters' || step.replace)) refuse('ENOENT');
    tables = step.type === 'delete-counters' ? others : { ...others, [step.family]: observedOf(step.table) };
  };
  const model: CounterModel = {
    ...{ refuses: {}, asked: [] },
    flush() {
      tables = {};
    },
    observe: async () => tables,
    read: async () => [],
    apply: async (steps) => steps.forEach(apply),
  };
  return model;
}
