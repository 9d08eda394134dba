/** What a reconcile is going to change, step by step: as lines for people, and counted for metrics. Pure. */
import type { Family } from '../../lib/prefix.ts';
import { type CounterStep, counterLine } from '../../nat/counters/diff.ts';
import type { NatStep } from '../../nat/diff.ts';
import { type FastPathStep, fastPathLine } from '../../nat/fast-path/table.ts';
import { commandLines, eachCommandLine, isGateStep, isRuleStep } from '../../nat/render.ts';
import type { RoutingStep } from '../../routing/diff.ts';
import { isAnnouncement } from '../../routing/ownership.ts';
import { renderStep } from '../../routing/render.ts';
import type { ShapingStep } from '../../shaping/diff.ts';
import { renderShapingStep } from '../../shaping/render.ts';
import type { SysctlStep } from '../pod/sysctl.ts';
import type { Neighbour } from '../uplink/neighbours.ts';

/** The steps by part; the order between the parts is the executor's. */
export interface Changes {
  nat: NatStep[];
  counters: CounterStep[];
  fastPath: FastPathStep[];
  routing: RoutingStep[];
  sysctl: SysctlStep[];
  shaping: ShapingStep[];
  /** Neighbour entries to remove; only `cleanup` does. */
  neighbours?: PermanentNeighbour[];
}

/** A neighbour entry that the agent made permanent. `line`: the command that removes it. */
export interface PermanentNeighbour extends Neighbour {
  line: string;
}

/** The number of steps. */
export const countChanges = ({ neighbours = [], ...changes }: Changes): number =>
  [...Object.values(changes), neighbours].reduce((sum, steps) => sum + steps.length, 0);

/** The first `most` steps as the lines a person would type, in the order in which they are applied. */
export function changeLines(changes: Changes, most = Number.POSITIVE_INFINITY): string[] {
  const lines: string[] = [];
  for (const line of eachChangeLine(changes)) {
    if (lines.length >= most) break;
    lines.push(line);
  }
  return lines;
}

function* eachChangeLine({ nat, counters, fastPath, routing, sysctl, shaping }: Changes): Generator<string> {
  yield* eachCommandLine(nat);
  for (const step of counters) yield counterLine(step);
  for (const step of routing) yield renderStep(step);
  for (const { line } of sysctl) yield line;
  for (const step of shaping) yield renderShapingStep(step);
  for (const step of fastPath) yield fastPathLine(step);
}

/** The same for `cleanup`. */
export function cleanupLines({
  nat,
  counters,
  fastPath,
  routing,
  sysctl,
  shaping,
  neighbours = [],
}: Changes): string[] {
  const [settings, entries] = [sysctl, neighbours].map((steps) => steps.map(({ line }) => line));
  return [
    ...fastPath.map(fastPathLine),
    ...settings!,
    ...routing.map(renderStep),
    ...entries!,
    ...shaping.map(renderShapingStep),
    ...counters.map(counterLine),
    ...commandLines(nat),
  ];
}

const OBJECTS = ['rule', 'route', 'address', 'link'] as const;

/** How many objects of each kind the steps touch: the label `object` of `veg_agent_drift_repairs_total`. */
export function countObjects({
  nat,
  counters,
  fastPath,
  routing,
  sysctl,
  shaping,
}: Changes): Record<string, number> {
  const objects = [
    ...nat.map((step) => (isRuleStep(step) || isGateStep(step) ? 'chain' : 'set')),
    ...[...counters, ...fastPath].map(() => 'set'),
    // A proxy entry is for an address.
    ...routing.map(({ kind }) => OBJECTS.find((object) => kind.toLowerCase().endsWith(object)) ?? 'address'),
    ...sysctl.map(() => 'sysctl'),
    ...shaping.map(shapingObject),
  ];
  const counts: Record<string, number> = {};
  for (const object of objects) counts[object] = (counts[object] ?? 0) + 1;
  return counts;
}

/** The kind of object of a step of traffic control. */
export function shapingObject({ kind }: ShapingStep): 'qdisc' | 'class' | 'classifier' {
  if (kind.endsWith('root')) return 'qdisc';
  return kind.endsWith('classes') ? 'class' : 'classifier';
}

/** Whether a step makes others send no packets here any more: it takes away what answers for an address, or announces a prefix. */
export const endsOffer = (step: RoutingStep): boolean =>
  step.kind === 'delProxy' || (step.kind === 'delRoute' && isAnnouncement(step.route));

/** The family of a routing step. */
export function routingFamily(step: RoutingStep): Family {
  if ('address' in step) return step.address.family;
  if ('proxy' in step) return step.proxy.family;
  if ('link' in step) return step.family;
  return 'route' in step ? step.route.family : step.rule.family;
}
