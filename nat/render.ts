/**
 * Steps as text: as the commands that a person would type (`plan`), and as input of the restore programs. Lines are
 * made one by one as they are read: ten thousand at once are more than the heap of a small container has room for.
 * Pure.
 */
import type { Family } from '../lib/prefix.ts';
import type { NatStep, RuleStep } from './diff.ts';
import { type GateStep, gateLine } from './gate.ts';
import { portLine } from './port-steps.ts';
import { DECISION_MASK, hex } from './rules.ts';
import type { SetStep } from './sets.ts';

/** Whether a step is one of iptables'. */
export const isRuleStep = (step: NatStep): step is RuleStep => 'chain' in step;

/** Whether a step is one of ipset's. */
export const isSetStep = (step: NatStep): step is SetStep => 'set' in step;

/** Whether a step is one of the gate's. */
export const isGateStep = (step: NatStep): step is GateStep => step.type.endsWith('-gate');

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
function* setCommands(step: SetStep): Generator<string> {
  const { set } = step;
  switch (step.type) {
    case 'create-set': {
      const family = step.family === 4 ? 'inet' : 'inet6';
      const options = `hashsize ${step.hashsize} maxelem ${step.maxelem}${step.marked ? ' skbinfo' : ''}`;
      yield `create ${set} hash:net family ${family} ${options}`;
      break;
    }
    case 'add-elements': {
      const { elements, marks } = step;
      const mask = hex(DECISION_MASK);
      for (const element of elements) {
        yield marks === undefined
          ? `add ${set} ${element}`
          : `add ${set} ${element} skbmark ${hex(marks.get(element)!)}/${mask}`;
      }
      break;
    }
    case 'delete-elements':
      for (const element of step.elements) yield `del ${set} ${element}`;
      break;
    case 'swap-sets':
      yield `swap ${step.other} ${set}`;
      break;
    case 'destroy-set':
      yield `destroy ${set}`;
      break;
  }
}

const program = (family: Family): string => (family === 4 ? 'iptables' : 'ip6tables');

/** The steps as command lines, in order: `iptables -t nat -I POSTROUTING 1 …`, `ipset add …`. */
export const commandLines = (steps: readonly NatStep[]): string[] => [...eachCommandLine(steps)];

/** The same one by one. */
export function* eachCommandLine(steps: readonly NatStep[]): Generator<string> {
  for (const step of steps) {
    if (isRuleStep(step)) yield `${program(step.family)} -t ${step.table} ${ruleArguments(step)}`;
    else if (isSetStep(step)) for (const command of setCommands(step)) yield `ipset ${command}`;
    else yield isGateStep(step) ? gateLine(step) : portLine(step);
  }
}

/** Input of `iptables-restore --noflush`: each table's steps between `*table` and `COMMIT`. */
export function rulesInput(steps: readonly RuleStep[]): string {
  const byTable = Map.groupBy(steps, (step) => step.table);
  return [...byTable]
    .map(([table, list]) => [`*${table}`, ...list.map(ruleArguments), 'COMMIT', ''].join('\n'))
    .join('');
}

/** Lines that become one string before the next are made. */
const LINES_PER_PIECE = 512;

/** Input of `ipset restore`. */
export function setsInput(steps: readonly SetStep[]): string {
  const pieces: string[] = [];
  let lines: string[] = [];
  for (const step of steps) {
    for (const command of setCommands(step)) {
      if (lines.push(command) < LINES_PER_PIECE) continue;
      pieces.push(lines.join('\n'));
      lines = [];
    }
  }
  return [...pieces, ...lines, ''].join('\n');
}
