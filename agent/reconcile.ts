/**
 * One reconcile: observe the kernel, compare with the plan, apply the difference. Holds no state but what it
 * needs to tell drift from change; loop.ts decides when, process.ts what to make of it.
 */
import { isDeepStrictEqual } from 'node:util';
import { desiredNat } from '../nat/desired.ts';
import { diffNat, type NatStep } from '../nat/diff.ts';
import { NatError } from '../nat/errors.ts';
import type { NatKernel, ObservedNat } from '../nat/kernel.ts';
import { commandLines, isRuleStep } from '../nat/render.ts';
import type { NatState } from '../nat/state.ts';
import { diffAddresses, type VirtualAddress } from '../routing/addresses.ts';
import { type DesiredRouting, desiredRouting } from '../routing/desired.ts';
import { diffRouting, type RoutingStep } from '../routing/diff.ts';
import type { RoutingError, RoutingKernel } from '../routing/kernel.ts';
import { ownsAddress } from '../routing/ownership.ts';
import { type Address, FAMILIES, type Family, familyOf } from '../routing/prefix.ts';
import { renderStep } from '../routing/render.ts';
import type { RoutingState } from '../routing/state.ts';
import type { Trigger } from './cadence.ts';
import type { Failure, FailureReason } from './failures.ts';
import type { Facts, InterfaceFlags } from './interfaces.ts';
import { isUsable, makePlan, type Plan } from './plan.ts';
import type { Policy } from './policy/model.ts';
import type { SysctlStep, Sysctls } from './sysctl.ts';
import type { Claims, Place } from './uplink/claims.ts';
import type { Neighbour } from './uplink/neighbours.ts';

/** What is to be done, by part, in no particular order between the parts. */
export interface Changes {
  nat: NatStep[];
  routing: RoutingStep[];
  sysctl: SysctlStep[];
  /** Neighbour entries to remove; only `cleanup` does. */
  neighbours?: HeldEntry[];
}

/** A neighbour entry that the agent keeps permanent. `line`: the command that removes it. */
export interface HeldEntry extends Neighbour {
  line: string;
}

/** What a look at the kernel found. */
export interface Look {
  plan: Plan;
  changes: Changes;
  /** The state of nat that is aimed at; the next look needs it. */
  desiredNat: NatState;
  /** What the plan asks of the kernel in each family, as text: equal texts, equal wishes. None where blocked. */
  wishes: Partial<Record<Family, string>>;
  /** The iptables backend of each family. */
  backend: ObservedNat['backend'];
  notes: string[];
  /** The addresses of the gateway that neighbours can be told of, each with its place. */
  held: ReadonlyMap<Address, Place>;
  /** Virtual addresses that another one has. */
  failures: Failure[];
}

/** Of what nobody has said since the last look that it changed. What was found then counts, if it was right. */
export interface Unchanged {
  routing: boolean;
  nat: boolean;
}

/** How a run ended, for status and metrics. */
export interface ReconcileResult {
  /** When it started, Unix milliseconds. */
  at: number;
  trigger: Trigger;
  ok: boolean;
  changes: number;
  durationMs: number;
  error?: string;
}

export interface Kernels {
  routing: RoutingKernel;
  nat: NatKernel;
  sysctls: Sysctls;
  claims: Pick<
    Claims,
    'ask' | 'hold' | 'isFree' | 'notes' | 'refused' | 'settled' | 'taken' | 'took' | 'withdraw'
  >;
  /** The neighbour entries that the agent keeps permanent. */
  neighbours: { held(): Neighbour[]; remove(entries: readonly Neighbour[]): void };
  facts(observed: Awaited<ReturnType<RoutingKernel['observe']>>): Promise<Facts>;
}

/** A plan, and what follows from it alone. */
interface Planned {
  policy: Policy;
  facts: Facts;
  plan: Plan;
  nat: NatState;
  routing: DesiredRouting;
  /** What is asked of routing and nat in each family, as text. */
  texts: Record<Family, string>;
}

/** The number of steps. */
export const countChanges = ({ nat, routing, sysctl, neighbours = [] }: Changes): number =>
  nat.length + routing.length + sysctl.length + neighbours.length;

/** The steps as the lines a person would type, in the order in which `apply` carries them out. */
export function changeLines({ nat, routing, sysctl }: Changes): string[] {
  return [...commandLines(nat), ...routing.map(renderStep), ...sysctl.map(({ line }) => line)];
}

/** The same for `cleanup`. */
export function cleanupLines({ nat, routing, sysctl, neighbours = [] }: Changes): string[] {
  const [settings, entries] = [sysctl, neighbours].map((steps) => steps.map(({ line }) => line));
  return [...settings!, ...routing.map(renderStep), ...entries!, ...commandLines(nat)];
}

const OBJECTS = ['rule', 'route', 'address'] as const;

/** How many things of each kind the steps touch: the label `object` of `veg_agent_drift_repairs_total`. */
export function countObjects({ nat, routing, sysctl }: Changes): Record<string, number> {
  const objects = [
    ...nat.map((step) => (isRuleStep(step) ? 'chain' : 'set')),
    ...routing.map(({ kind }) => OBJECTS.find((object) => kind.toLowerCase().endsWith(object))!),
    ...sysctl.map(() => 'sysctl'),
  ];
  const counts: Record<string, number> = {};
  for (const object of objects) counts[object] = (counts[object] ?? 0) + 1;
  return counts;
}

/** An error with what to do about it, where that is known. */
export function explain(error: Error): string {
  const { hint } = error as { hint?: string };
  return hint === undefined ? error.message : `${error.message} (${hint})`;
}

function routingFamily(step: RoutingStep): Family {
  if ('address' in step) return step.address.family;
  return 'route' in step ? step.route.family : step.rule.family;
}

/** Where the addresses of an interface are to its neighbours; undefined where there are none to tell. */
function placeOn(name: string, { links }: Pick<RoutingState, 'links'>): Place | undefined {
  const link = links.find((candidate) => candidate.name === name);
  if (!link?.up || !link.carrier || link.mac === '') return undefined;
  return { ifindex: link.index, mac: link.mac, carrierChanges: link.carrierChanges ?? 0 };
}

/** The gateway's addresses on its two interfaces, but for those that it is about to withdraw. */
function heldAddresses(plan: Plan, observed: RoutingState): Map<Address, Place> {
  const used = plan.families.filter(({ state }) => state !== 'unused').map(({ family }) => family);
  const wanted = new Set(plan.addresses.map(({ address }) => address));
  const held = new Map<Address, Place>();
  for (const name of new Set(Object.values(plan.interfaces))) {
    const place = placeOn(name, observed);
    if (place === undefined) continue;
    for (const found of observed.addresses) {
      if (found.ifindex !== place.ifindex || !used.includes(found.family) || !isUsable(found)) continue;
      if (!ownsAddress(found) || wanted.has(found.address)) held.set(found.address, place);
    }
  }
  return held;
}

/** Where the addresses that are missing shall be, on a link that can hold them. */
function missingPlaces(missing: readonly VirtualAddress[], observed: RoutingState): Map<Address, Place> {
  return new Map(
    missing.flatMap(({ address, dev }) => {
      const place = placeOn(dev, observed);
      return place === undefined ? [] : [[address, place] as const];
    }),
  );
}

const hasCounters = (step: NatStep): boolean => step.type === 'insert-rule' && step.rule.packets > 0;

/** What could not be carried out, and the families that are not as the policy says because of it. */
export interface ApplyFailure extends Failure {
  families: readonly Family[];
}

/** What an errno says about why. */
const ERRNO_REASONS: Record<string, FailureReason> = {
  ...{ EPERM: 'not_permitted', EACCES: 'not_permitted', EROFS: 'not_permitted' },
  ...{ ENETUNREACH: 'unreachable', EHOSTUNREACH: 'unreachable', ENETDOWN: 'unreachable' },
  ...{ ENODEV: 'unreachable', EADDRINUSE: 'in_use', EBUSY: 'in_use', EEXIST: 'in_use' },
  ...{ EINVAL: 'invalid', EADDRNOTAVAIL: 'invalid', ERANGE: 'invalid', EOPNOTSUPP: 'unsupported' },
  ...{ ENOTSUP: 'unsupported', EAFNOSUPPORT: 'unsupported', ENOENT: 'unsupported' },
};

const reasonOf = (code: string | undefined): FailureReason => ERRNO_REASONS[code ?? ''] ?? 'failed';

/** What a routing step is about, by its kind and its name. */
function routingObject(step: RoutingStep): Pick<Failure, 'object' | 'name'> {
  if ('address' in step) return { object: 'address', name: step.address.address };
  return 'route' in step
    ? { object: 'route', name: step.route.destination }
    : { object: 'rule', name: `${step.rule.priority}` };
}

const routingFailure = (error: RoutingError): Failure => ({
  ...routingObject(error.step),
  family: routingFamily(error.step),
  reason: reasonOf(error.code),
  message: error.message,
});

const natReason = ({ kind }: NatError): FailureReason => kind.replace('-', '_') as FailureReason;

/** The failure of steps of nat in a family. */
const natFailure = (error: Error, family: Family, steps: readonly NatStep[]): Failure => ({
  object: steps.some(isRuleStep) ? 'chain' : 'set',
  family,
  name: [...new Set(steps.flatMap((step) => (isRuleStep(step) ? [step.table] : [])))].join(', '),
  reason: error instanceof NatError ? natReason(error) : 'failed',
  message: explain(error),
});

/** The failure of a look. */
export const listingFailure = (error: Error): Failure => ({
  ...{ object: 'listing', name: 'kernel', message: explain(error) },
  reason: error instanceof NatError ? natReason(error) : reasonOf((error as NodeJS.ErrnoException).code),
});

export class Reconciler {
  readonly #kernels: Kernels;
  readonly #flags: InterfaceFlags;
  /** What was last applied, so that half of a damaged pair is still known as ours. */
  #previousNat: NatState | undefined;
  /** What was there when nothing was to do, and what had been asked; undefined when something was done since. */
  #settledNat: { observed: ObservedNat; asked: string } | undefined;
  #settledRouting: RoutingState | undefined;
  #planned: Planned | undefined;

  constructor(kernels: Kernels, flags: InterfaceFlags) {
    this.#kernels = kernels;
    this.#flags = flags;
  }

  /** The same when it is clear which virtual addresses can be had. */
  async lookSettled(policy: Policy): Promise<Look> {
    await this.look(policy);
    await this.#kernels.claims.settled();
    return this.look(policy);
  }

  /**
   * Observes and compares; changes nothing. Throws when the kernel cannot be observed.
   * @param unchanged what need not be read again: reading takes most of the time of a small change
   */
  async look(policy: Policy, unchanged: Unchanged = { routing: false, nat: false }): Promise<Look> {
    const { routing, nat, sysctls, claims } = this.#kernels;
    const observedRouting = (unchanged.routing && this.#settledRouting) || (await routing.observe());
    const planned = this.#planFor(policy, await this.#kernels.facts(observedRouting));
    const plan = { ...planned.plan };
    const programmed = plan.families
      .filter(({ state }) => state === 'programmed')
      .map(({ family }) => family);
    const wantedNat = planned.nat;
    const asked = JSON.stringify([programmed, wantedNat.ports !== undefined]);
    const known = unchanged.nat && this.#settledNat?.asked === asked ? this.#settledNat.observed : undefined;
    let observedNat = known ?? (await nat.observe(programmed, wantedNat.ports !== undefined));
    let natSteps = diffNat(observedNat, wantedNat, this.#previousNat);
    // A rule that moves takes its counters along, and those have been going on.
    if (known !== undefined && natSteps.some(hasCounters)) {
      observedNat = await nat.observe(programmed, wantedNat.ports !== undefined);
      natSteps = diffNat(observedNat, wantedNat, this.#previousNat);
    }
    this.#settledNat =
      natSteps.length === 0 ? { observed: { ...observedNat, sets: wantedNat.sets }, asked } : undefined;
    // A blocked family is left as it is: what is there may still work, and nothing better is known.
    const blocked = new Set(
      plan.families.filter(({ state }) => state === 'blocked').map(({ family }) => family),
    );
    const sysctl = await sysctls.look(plan.sysctls);
    const addresses = diffAddresses(observedRouting, plan.addresses).filter(
      (step) => !blocked.has(step.address.family),
    );
    const missing = addresses.filter(({ kind }) => kind === 'addAddress').map(({ address }) => address);
    const places = missingPlaces(missing, observedRouting);
    const free = claims.ask(places);
    const isPending = ({ address }: VirtualAddress) => places.has(address) && !free.has(address);
    const wishes: Look['wishes'] = {};
    for (const family of FAMILIES) {
      if (blocked.has(family)) continue;
      // An address is wished for when it is known that it can be had.
      const held = plan.addresses.filter((address) => address.family === family && !isPending(address));
      wishes[family] = planned.texts[family] + JSON.stringify(held);
    }
    // The gateway forwards nothing in a family whose forwarding is off and cannot be turned on from here.
    plan.families = plan.families.map((status) => {
      const reason = sysctl.problems[status.family];
      return reason === undefined ? status : { ...status, state: 'blocked', reason };
    });
    const changes: Changes = {
      // What is no longer ours goes first; what becomes ours comes when everything behind it is there.
      routing: [
        ...addresses.filter(({ kind }) => kind === 'delAddress'),
        ...diffRouting(observedRouting, planned.routing).filter((step) => !blocked.has(routingFamily(step))),
        ...addresses.filter(({ kind, address }) => kind === 'addAddress' && !isPending(address)),
      ],
      nat: natSteps.filter((step) => !blocked.has(step.family)),
      sysctl: sysctl.steps,
    };
    this.#settledRouting = changes.routing.length === 0 ? observedRouting : undefined;
    return {
      plan,
      changes,
      desiredNat: wantedNat,
      wishes,
      backend: observedNat.backend,
      notes: [...plan.notes, ...planned.facts.notes, ...sysctl.notes, ...claims.notes()],
      held: heldAddresses(plan, observedRouting),
      failures: claims.taken().map(({ address, holder }) => ({
        ...{ object: 'address', family: familyOf(address), name: address, reason: 'in_use' },
        message: `${address} is not taken: ${holder} has it, or asks for it too; it is taken when it is free`,
      })),
    };
  }

  /** The plan of a policy for these facts: made once, it costs as much as the policy is long. */
  #planFor(policy: Policy, facts: Facts): Planned {
    const last = this.#planned;
    if (last?.policy === policy && isDeepStrictEqual(last.facts, facts)) return last;
    const plan = makePlan(policy, facts, this.#flags);
    const textOf = (family: Family): string => {
      const ofFamily = (part: { family: Family }) => part.family === family;
      return JSON.stringify([plan.routing.filter(ofFamily), plan.nat.filter(ofFamily)]);
    };
    this.#planned = {
      ...{ policy, facts, plan, nat: desiredNat(plan.nat), routing: desiredRouting(plan.routing) },
      texts: { 4: textOf(4), 6: textOf(6) },
    };
    return this.#planned;
  }

  /**
   * Carries the changes out: translation first, then the routes that lead packets to it, then forwarding, so
   * that no packet is forwarded before it is translated. A part that fails does not hold up the others.
   * Returns what failed, by family; empty when all is done.
   */
  async apply({ changes, desiredNat }: Look): Promise<ApplyFailure[]> {
    const failures: ApplyFailure[] = [];
    const { routing, nat, sysctls } = this.#kernels;
    for (const family of FAMILIES) {
      const steps = changes.nat.filter((step) => step.family === family);
      if (steps.length === 0) continue;
      await nat.apply(steps).catch((error: Error) => {
        failures.push({ families: [family], ...natFailure(error, family, steps) });
      });
    }
    this.#previousNat = desiredNat;
    for (const family of FAMILIES) {
      const steps = changes.routing.filter((step) => routingFamily(step) === family && this.#isDue(step));
      // Routes must not lead packets past a translation that is not there.
      const untranslated = failures.some(({ families }) => families.includes(family));
      if (steps.length > 0 && !untranslated) {
        const refused = await routing.apply(steps);
        failures.push(...refused.map((error) => ({ families: [family], ...routingFailure(error) })));
        this.#tellClaims(
          steps,
          refused.map(({ step }) => step),
        );
      }
    }
    if (changes.sysctl.length > 0 && failures.length === 0) {
      await sysctls.apply(changes.sysctl).catch((error: NodeJS.ErrnoException) => {
        failures.push({
          ...{ families: FAMILIES, object: 'sysctl', name: error.path ?? '' },
          ...{ reason: reasonOf(error.code), message: error.message },
        });
      });
    }
    return failures;
  }

  /** An address that somebody has said is theirs since the look is not taken. */
  #isDue(step: RoutingStep): boolean {
    return step.kind !== 'addAddress' || this.#kernels.claims.isFree(step.address.address);
  }

  /** Says which addresses the kernel has now: neighbours are told of those, and of no others. */
  #tellClaims(steps: readonly RoutingStep[], refused: readonly RoutingStep[]): void {
    const { claims } = this.#kernels;
    for (const step of steps) {
      if (!('address' in step)) continue;
      const { address } = step.address;
      if (step.kind === 'delAddress') claims.withdraw(address);
      else if (refused.includes(step)) claims.refused(address);
      else claims.took(address);
    }
  }

  /** What removing everything that the agent owns comes to. */
  async lookForCleanup(): Promise<Changes> {
    const { routing, nat, sysctls, neighbours } = this.#kernels;
    const observed = await routing.observe();
    const nameOf = (ifindex: number) => observed.links.find(({ index }) => index === ifindex)?.name;
    return {
      neighbours: neighbours.held().map((entry) => ({
        ...entry,
        line: `ip neigh del ${entry.address} dev ${nameOf(entry.ifindex)}`,
      })),
      sysctl: await sysctls.lookForCleanup(),
      routing: [...diffAddresses(observed, []), ...diffRouting(observed, desiredRouting([]))],
      nat: diffNat(await nat.observe([]), desiredNat([]), this.#previousNat),
    };
  }

  /** Removes it: forwarding stops before routes go, and routes before the translation. */
  async cleanup(changes: Changes): Promise<void> {
    const { routing, nat, sysctls, neighbours } = this.#kernels;
    await sysctls.apply(changes.sysctl);
    neighbours.remove(changes.neighbours ?? []);
    const [first] = await routing.apply(changes.routing);
    if (first !== undefined) throw first;
    await nat.apply(changes.nat);
  }
}
