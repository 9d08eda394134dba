/**
 * The steps from the observed traffic control to the desired one. Pure.
 *
 * The agent owns the root qdiscs with its major number, with all below them, and the table VEG-BANDWIDTH. A root qdisc of
 * another program stays: the direction is then not limited, and the conflict is reported. The kernel's own default
 * (handle 0) is nobody's.
 */
import { BANDWIDTH_HANDLE } from '../routing/numbers.ts';
import type { DesiredDevice, DesiredShaping } from './desired.ts';
import { isFilterIntact } from './filter.ts';
import type { ClassRange, Leaf, ObservedClass, ObservedQdisc, ShapingState } from './state.ts';
import { classId, majorOf, TC_H_ROOT, ticks } from './tc-codec.ts';

export type ShapingStep =
  | { kind: 'add-root'; dev: string }
  | { kind: 'delete-root'; dev: string }
  /** Makes the classes of a range with their queues, or changes them in place. */
  | { kind: 'put-classes'; dev: string; range: ClassRange }
  | { kind: 'delete-classes'; dev: string; first: number; count: number }
  | { kind: 'put-filter'; shaping: DesiredShaping; replace: boolean }
  | { kind: 'delete-filter' };

/** A root qdisc of another program where the agent's would have to be. */
export interface ForeignRoot {
  dev: string;
  direction: string;
  /** `tbf 8001:` */
  qdisc: string;
}

const isRoot = ({ parent }: ObservedQdisc): boolean => parent === TC_H_ROOT;
/** Whether a qdisc is a root of the agent. */
export const isOwnRoot = (qdisc: ObservedQdisc): boolean =>
  isRoot(qdisc) && qdisc.kind === 'htb' && qdisc.handle === classId(BANDWIDTH_HANDLE, 0);

const foreignRootOn = (dev: string, { qdiscs }: ShapingState): ObservedQdisc | undefined =>
  qdiscs.find((one) => one.dev === dev && isRoot(one) && one.handle !== 0 && !isOwnRoot(one));

/** The interfaces where a root qdisc of another program keeps the agent from limiting. */
export const foreignRoots = (observed: ShapingState, { devices }: DesiredShaping): ForeignRoot[] =>
  devices.flatMap(({ device: { name, direction } }) => {
    const root = foreignRootOn(name, observed);
    if (root === undefined) return [];
    return [{ dev: name, direction, qdisc: `${root.kind} ${majorOf(root.handle).toString(16)}:` }];
  });

/** The steps in the order in which no packet is without its class: what is no longer desired goes last. */
export function diffShaping(observed: ShapingState, desired: DesiredShaping): ShapingStep[] {
  const devices = desired.devices.filter(({ device }) => foreignRootOn(device.name, observed) === undefined);
  const kept = devices.length === desired.devices.length ? desired : { ...desired, devices };
  const put = devices.flatMap((device) => putSteps(observed, device));
  const intact = isFilterIntact(kept, observed.filter);
  const filter: ShapingStep[] = intact
    ? []
    : devices.length === 0
      ? [{ kind: 'delete-filter' }]
      : [{ kind: 'put-filter', shaping: kept, replace: observed.filter !== undefined }];
  return [...put, ...filter, ...deleteSteps(observed, devices)];
}

function putSteps({ qdiscs, classes }: ShapingState, { device, ranges }: DesiredDevice): ShapingStep[] {
  const dev = device.name;
  const there = classes.get(dev);
  const leaves = new Map(qdiscs.flatMap((one) => (one.dev === dev ? [[one.parent, one] as const] : [])));
  return [
    ...(there === undefined ? [{ kind: 'add-root', dev } as const] : []),
    ...ranges.flatMap((range): ShapingStep[] =>
      there !== undefined && hasRange(there, leaves, range) ? [] : [{ kind: 'put-classes', dev, range }],
    ),
  ];
}

function deleteSteps({ qdiscs, classes }: ShapingState, devices: readonly DesiredDevice[]): ShapingStep[] {
  return qdiscs.filter(isOwnRoot).flatMap(({ dev }): ShapingStep[] => {
    const desired = devices.find(({ device }) => device.name === dev);
    if (desired === undefined) return [{ kind: 'delete-root', dev }];
    const wanted = (minor: number): boolean =>
      desired.ranges.some(({ first, count }) => minor >= first && minor < first + count);
    const unwanted = [...(classes.get(dev)?.keys() ?? [])]
      .filter((minor) => !wanted(minor))
      .sort((a, b) => a - b);
    return runs(unwanted).map(({ first, count }) => ({ kind: 'delete-classes', dev, first, count }));
  });
}

/** Ascending numbers as runs without gaps. */
function runs(numbers: readonly number[]): { first: number; count: number }[] {
  const found: { first: number; count: number }[] = [];
  for (const number of numbers) {
    const last = found.at(-1);
    if (last !== undefined && last.first + last.count === number) last.count++;
    else found.push({ first: number, count: 1 });
  }
  return found;
}

function hasRange(
  classes: ReadonlyMap<number, ObservedClass>,
  leaves: ReadonlyMap<number, ObservedQdisc>,
  range: ClassRange,
): boolean {
  for (let minor = range.first; minor < range.first + range.count; minor++) {
    const found = classes.get(minor);
    if (found === undefined || !isClass(found, range)) return false;
    const queue = leaves.get(classId(BANDWIDTH_HANDLE, minor))?.leaf;
    if (range.leaves !== undefined && !range.leaves.some((leaf) => isLeaf(queue, leaf))) return false;
  }
  return true;
}

/** The kernel sets a quantum only while a class has no others below it (htb_change_class), and uses it only then. */
const isClass = (found: ObservedClass, { parent, rate, ceil, burst, quantum, leaves }: ClassRange): boolean =>
  found.parent === parent &&
  found.rate === rate &&
  found.ceil === ceil &&
  found.buffer === ticks(burst, rate) &&
  found.cbuffer === ticks(burst, ceil) &&
  (leaves === undefined || found.quantum === quantum);

/** fq_codel keeps times in units of 1024 ns (net/codel.h), and returns them rounded down. */
const isTime = (found: number, us: number): boolean => found <= us && found >= us - 2;

/** `flows` is set when a queue is made, and stays. */
function isLeaf(found: Leaf | undefined, leaf: Leaf): boolean {
  if (found?.kind === 'bfifo' && leaf.kind === 'bfifo') return found.limit === leaf.limit;
  return (
    found?.kind === 'fq_codel' &&
    leaf.kind === 'fq_codel' &&
    isTime(found.target, leaf.target) &&
    isTime(found.interval, leaf.interval)
  );
}
