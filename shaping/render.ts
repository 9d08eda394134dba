/** Steps as the tc and nft command lines that would do the same. Pure. */
import { BANDWIDTH_HANDLE } from '../routing/numbers.ts';
import type { ShapingStep } from './diff.ts';
import { BANDWIDTH_TABLE } from './filter.ts';
import type { ClassRange, Leaf } from './state.ts';

const id = (minor: number): string =>
  `${BANDWIDTH_HANDLE.toString(16)}:${minor === 0 ? '' : minor.toString(16)}`;
const ids = (first: number, count: number): string =>
  count === 1 ? id(first) : `${id(first)} to ${id(first + count - 1)}`;

/** Octets per second as tc prints them. */
const rate = (octets: number): string => {
  const bits = octets * 8;
  const [unit, size] = bits >= 1e9 ? ['Gbit', 1e9] : bits >= 1e6 ? ['Mbit', 1e6] : ['Kbit', 1e3];
  return `${Number((bits / size).toFixed(3))}${unit}`;
};

const leafWords = (leaf: Leaf): string =>
  leaf.kind === 'bfifo'
    ? `bfifo limit ${leaf.limit}`
    : `fq_codel target ${leaf.target}us interval ${leaf.interval}us flows ${leaf.flows}`;

function classLine(
  dev: string,
  { first, count, parent, rate: own, ceil, burst, quantum, leaves }: ClassRange,
) {
  const parts = `htb rate ${rate(own)} ceil ${rate(ceil)} burst ${burst}b cburst ${burst}b quantum ${quantum}`;
  const queue = leaves === undefined ? '' : ` # queue: ${leafWords(leaves[0])}`;
  return `tc class replace dev ${dev} parent ${id(parent)} classid ${ids(first, count)} ${parts}${queue}`;
}

/** A step as one line: `tc qdisc add dev net1 root handle 178: htb`. A ring is one line. */
export function renderShapingStep(step: ShapingStep): string {
  switch (step.kind) {
    case 'add-root':
      return `tc qdisc add dev ${step.dev} root handle ${id(0)} htb`;
    case 'delete-root':
      return `tc qdisc del dev ${step.dev} root handle ${id(0)}`;
    case 'put-classes':
      return classLine(step.dev, step.range);
    case 'delete-classes':
      return `tc class del dev ${step.dev} classid ${ids(step.first, step.count)}`;
    case 'put-filter':
      return `nft add table inet ${BANDWIDTH_TABLE}${step.replace ? ' # in place of the one that is there' : ''}`;
    case 'delete-filter':
      return `nft delete table inet ${BANDWIDTH_TABLE}`;
  }
}
