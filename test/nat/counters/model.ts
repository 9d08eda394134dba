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

export function createCounterModel(): CounterKernel {
  /** Replaced by each change, as the kernel's is. */
  let tables: Partial<Record<4 | 6, ObservedCounters>> = {};
  const apply = (step: CounterStep): void => {
    const { [step.family]: _, ...others } = tables;
    tables = step.type === 'delete-counters' ? others : { ...others, [step.family]: observedOf(step.table) };
  };
  return {
    observe: async () => tables,
    read: async () => [],
    apply: async (steps) => steps.forEach(apply),
  };
}
