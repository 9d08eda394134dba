/** Steps as text: as the commands that a person would type (`plan`), and as input of the restore programs. Pure. */
import type { Family } from '../lib/prefix.ts';
import type { NatStep, RuleStep } from './diff.ts';
import { portLine } from './port-steps.ts';
import type { SetStep } from './sets.ts';

/** Whether a step is one of iptables'. */
export const isRuleStep = (step: NatStep): step is RuleStep => 'chain' in step;

/** Whether a step is one of ipset's. */
export const isSetStep = (step: NatStep): step is SetStep => 'set' in step;

/** The iptables arguments of a step, without program and table. */
function ruleArguments(step: RuleStep): string {
  const { chain } = step;
  switch (step.type) {
    case 'new-chain':
      return `-N ${chain}`;
    case 'delete-rule':
      return `-D ${chain} ${step.text}`;
    case 'insert-rule': {
      const { text, packets, bytes } = step.rule;
      const where = step.position === undefined ? `-A ${chain}` : `-I ${chain} ${step.position}`;
      return `${where} ${text}${packets > 0 ? ` -c ${packets} ${bytes}` : ''}`;
    }
    case 'flush-chain':
      return `-F ${chain}`;
    case 'delete-chain':
      return `-X ${chain}`;
  }
}

/** The ipset commands of a step, one a line, without the program. */
function setCommands(step: SetStep): string[] {
  const { set } = step;
  switch (step.type) {
    case 'create-set': {
      const family = step.family === 4 ? 'inet' : 'inet6';
      const options = `hashsize ${step.hashsize} maxelem ${step.maxelem}${step.marked ? ' skbinfo' : ''}`;
      return [`create ${set} hash:net family ${family} ${options}`];
    }
    case 'add-elements':
      return step.elements.map((element) => `add ${set} ${element}`);
    case 'delete-elements':
      return step.elements.map((element) => `del ${set} ${element}`);
    case 'swap-sets':
      return [`swap ${step.other} ${set}`];
    case 'destroy-set':
      return [`destroy ${set}`];
  }
}

const program = (family: Family): string => (family === 4 ? 'iptables' : 'ip6tables');

/** The steps as command lines, in order: `iptables -t nat -I POSTROUTING 1 …`, `ipset add …`. */
export const commandLines = (steps: readonly NatStep[]): string[] =>
  steps.flatMap((step) =>
    isRuleStep(step)
      ? [`${program(step.family)} -t ${step.table} ${ruleArguments(step)}`]
      : isSetStep(step)
        ? setCommands(step).map((command) => `ipset ${command}`)
        : [portLine(step)],
  );

/** Input of `iptables-restore --noflush`: each table's steps between `*table` and `COMMIT`. */
export function rulesInput(steps: readonly RuleStep[]): string {
  const byTable = Map.groupBy(steps, (step) => step.table);
  return [...byTable]
    .map(([table, list]) => [`*${table}`, ...list.map(ruleArguments), 'COMMIT', ''].join('\n'))
    .join('');
}

/** Input of `ipset restore`. */
export const setsInput = (steps: readonly SetStep[]): string =>
  [...steps.flatMap(setCommands), ''].join('\n');
