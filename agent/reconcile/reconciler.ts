/**
 * One reconcile: observe the kernel, compare with the plan, apply the difference; and when the kernel refuses a part
 * of it, find out what of the rest it takes (targets.ts says what counts as intact). Holds no state but what it needs to
 * tell drift from change, and what each family was last brought to; loop.ts decides when, process.ts what to make of
 * it.
 */
import { isDeepStrictEqual } from 'node:util';
import { type Address, FAMILIES, type Family, familyOf } from '../../lib/prefix.ts';
import { desiredNat, OPTIONAL_PARTS, type OptionalPart } from '../../nat/desired.ts';
import { diffNat, type NatStep } from '../../nat/diff.ts';
import { NatError, type NatErrorKind } from '../../nat/errors.ts';
import { type NatKernel, type NatNeeds, type ObservedNat, OUR_TABLES } from '../../nat/kernel.ts';
import { commandLines, isRuleStep, isSetStep } from '../../nat/render.ts';
import type { NatState, Tables } from '../../nat/state.ts';
import { diffAddresses, type VirtualAddress } from '../../routing/addresses.ts';
import { type DesiredRouting, desiredRouting } from '../../routing/desired.ts';
import { diffRouting, type RoutingStep } from '../../routing/diff.ts';
import type { RoutingError, RoutingKernel } from '../../routing/kernel.ts';
import { ownsAddress } from '../../routing/ownership.ts';
import { renderStep } from '../../routing/render.ts';
import type { RoutingState } from '../../routing/state.ts';
import type { Trigger } from '../cadence.ts';
import { makePlan, type Plan } from '../plan/plan.ts';
import type { Facts, InterfaceFlags } from '../pod/interfaces.ts';
import { isUsable } from '../pod/own-address.ts';
import type { SysctlStep, Sysctls } from '../pod/sysctl.ts';
import { type LastGood, type Missing, NOTHING_MISSING } from '../policy/last-good.ts';
import type { Policy } from '../policy/model.ts';
import type { Claims, Place } from '../uplink/claims.ts';
import type { Neighbour } from '../uplink/neighbours.ts';
import type { Failure, FailureReason } from './failures.ts';
import {
  type Aim,
  aimAt,
  aimLacking,
  fallbacks,
  hooksOf,
  isOptionalStep,
  missingOf,
  natOf,
  partsIn,
  routeKey,
  ruleKey,
  sameAim,
  sameEssentials,
  stepKey,
  sysctlFamily,
} from './targets.ts';

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

/** What became of a family in a run. */
export type FamilyOutcome =
  /** As the newest policy says. */
  | 'done'
  /** Intact, and not all is as the newest policy says. */
  | 'held'
  /** It does not translate or route as any good policy said. */
  | 'lost'
  /** It could not be looked at. */
  | 'unknown';

/** What a run came to. */
export interface Outcome {
  /** The last look. */
  look: Look;
  failures: Failure[];
  families: Record<Family, FamilyOutcome>;
  /** The policy that each is at. */
  policies: Record<Family, Policy>;
  /** What the families that are at the newest policy lack of it. */
  missing: Missing;
}

/** What a look at the kernel found. */
export interface Look {
  plan: Plan;
  changes: Changes;
  /** What could not be looked at, by family. Nothing is changed in a family that has `unknown` or `refused` here. */
  failed: LookFailure[];
  /** The state of nat that is aimed at; the next look needs it. */
  desiredNat: NatState;
  /** What the plan asks of the kernel in each family, as text: equal texts, equal wishes. None where it is left alone. */
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

/**
 * A failure of a look. `table`: of one table, which does no harm as long as nothing is to be changed in it; or of what
 * the newest policy needs and the good one, which the family stays at, does not.
 */
interface LookFailure extends Failure {
  family: Family;
  verdict: 'table' | 'refused' | 'unknown';
  kind: NatErrorKind;
}

/** A failure to carry something out. */
interface ApplyFailure extends Failure {
  /** Of translation: why, and the optional parts among what was refused. */
  kind?: NatErrorKind;
  parts?: readonly OptionalPart[];
  /** Of routing: what. */
  step?: RoutingStep;
  /** Of a setting: the family that forwards nothing without it. */
  required?: Family | undefined;
}

/** A plan, and what follows from it alone. */
interface Planned {
  aims: Aims;
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

/** The gateway's addresses on its interfaces, but for those that it is about to withdraw. */
function heldAddresses(plan: Plan, observed: RoutingState): Map<Address, Place> {
  const used = plan.families.filter(({ state }) => state !== 'unused').map(({ family }) => family);
  const wanted = new Set(plan.addresses.map(({ address }) => address));
  const held = new Map<Address, Place>();
  for (const name of new Set(FAMILIES.flatMap((family) => Object.values(plan.interfacesOf[family])))) {
    const place = placeOn(name, observed);
    if (place === undefined) continue;
    for (const found of observed.addresses) {
      if (found.ifindex !== place.ifindex || !used.includes(found.family)) continue;
      // Virtual ones are not for packets of the pod's own, and neighbours know them all the same.
      if (ownsAddress(found) ? wanted.has(found.address) : isUsable(found)) held.set(found.address, place);
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

const routingFailure = (error: RoutingError): ApplyFailure => ({
  ...routingObject(error.step),
  step: error.step,
  family: routingFamily(error.step),
  reason: reasonOf(error.code),
  message: error.message,
});

/** At most so many tables or sets are named where it is not known which one was refused. */
const NAMED = 3;

const natReason = ({ kind }: NatError): FailureReason => kind.replace('-', '_') as FailureReason;

/** The failure of steps of nat in a family. */
function natFailure(error: Error, family: Family, steps: readonly NatStep[]): ApplyFailure {
  const { kind, object, subject } = error instanceof NatError ? error : new NatError('failed', error.message);
  const about = steps.flatMap((step) => {
    if (object === 'chain') return isRuleStep(step) ? [step.table] : [];
    return isSetStep(step) ? [step.set] : [];
  });
  return {
    ...{ object, family, name: subject ?? [...new Set(about)].slice(0, NAMED).join(', '), kind },
    parts: partsIn(steps),
    reason: error instanceof NatError ? natReason(error) : 'failed',
    message: explain(error),
  };
}

/** The failure of a look. */
export const listingFailure = (error: Error, family?: Family): Failure => ({
  ...{ object: 'listing', ...(family && { family }), name: 'kernel', message: explain(error) },
  reason: error instanceof NatError ? natReason(error) : reasonOf((error as NodeJS.ErrnoException).code),
});

/** A failure without what only this file needs of it. */
const bare = ({ object, family, name, reason, message }: Failure): Failure => ({
  ...{ object, ...(family && { family }), name, reason, message },
});

/** What became of a family, and what of it was refused. */
interface Brought {
  result: FamilyOutcome;
  failures: ApplyFailure[];
}

/** Puts into a plan what another one says about a family. */
function replaceFamily(plan: Plan, other: Plan, family: Family): void {
  const mix = <T>(
    ours: readonly T[],
    theirs: readonly T[],
    familyOfOne: (one: T) => Family | undefined,
  ): T[] => [
    ...ours.filter((one) => familyOfOne(one) !== family),
    ...theirs.filter((one) => familyOfOne(one) === family),
  ];
  const byFamily = (one: { family: Family }) => one.family;
  plan.routing = mix(plan.routing, other.routing, byFamily);
  plan.nat = mix(plan.nat, other.nat, byFamily);
  plan.addresses = mix(plan.addresses, other.addresses, byFamily);
  plan.sysctls = mix(plan.sysctls, other.sysctls, ({ path }) => sysctlFamily(path));
  plan.interfacesOf = { ...plan.interfacesOf, [family]: other.interfacesOf[family] };
  plan.peers = mix(plan.peers, other.peers, ({ remote }) => familyOf(remote as Address));
  plan.families = plan.families.map((one, i) => (one.family === family ? other.families[i]! : one));
  plan.leftAlone = mix(plan.leftAlone, other.leftAlone, (one) => one);
  // Where the families differ those of the first one are told.
  const isUsed = (one: Family) =>
    plan.families.some((status) => status.family === one && status.state !== 'unused');
  const first = FAMILIES.find(isUsed);
  if (first === family) {
    plan.interfaces = other.interfaces;
    plan.listenAddresses = other.listenAddresses;
  }
}

/** What each family is brought to. */
type Aims = Readonly<Record<Family, Aim>>;

/** What the newest policy comes to in a pod. */
interface Judged {
  policy: Policy;
  facts: Facts;
  plan: Plan;
  /** What the families lack that are blocked and would not be at their last good policy: they stay at that. */
  obstructed: Partial<Record<Family, string>>;
}

/** What a family was last brought to, and its tables then. */
interface Good {
  aim: Aim;
  tables: Tables;
}

const NOTHING_UNCHANGED: Unchanged = { routing: false, nat: false };

export class Reconciler {
  readonly #kernels: Kernels;
  readonly #flags: InterfaceFlags;
  /** What was last applied, so that half of a damaged pair is still known as ours. */
  #previousNat: NatState | undefined;
  /** What was there when nothing was to do, and what had been asked; undefined when something was done since. */
  #settledNat: { observed: ObservedNat; asked: string } | undefined;
  #settledRouting: RoutingState | undefined;
  #planned: Planned | undefined;
  #judged: Judged | undefined;
  #newest: Aim | undefined;
  #aims: Aims | undefined;
  readonly #good: Partial<Record<Family, Good>> = {};
  readonly #lastGood: () => LastGood | undefined;
  /** What the last attempt at the newest policy was refused, and the settings among it. */
  #standing: Failure[] = [];
  readonly #refusedSettings = new Set<string>();
  /** What could not be looked at when something was to be removed. */
  #unseen: NatError[] = [];
  /** The tables that held something of ours, or were to. */
  readonly #tables = new Set<string>();

  /** `lastGood`: what an earlier process brought the kernel to. Asked for only when the kernel refuses something. */
  constructor(
    kernels: Kernels,
    flags: InterfaceFlags,
    lastGood: () => LastGood | undefined = () => undefined,
  ) {
    this.#kernels = kernels;
    this.#flags = flags;
    this.#lastGood = lastGood;
  }

  /**
   * What a reconcile would change now that tries everything. It is another reconciler's look, which knows what this one
   * knows: the next look here goes by what it would have gone by. Not while one of them is in flight.
   */
  preview(policy: Policy): Promise<Look> {
    const { claims } = this.#kernels;
    // Nobody is asked, and nothing is forgotten: an address can be had that nobody is known to have.
    const ask: Kernels['claims']['ask'] = (wanted) => {
      const taken = new Set(claims.taken().map(({ address }) => address));
      return new Set([...wanted.keys()].filter((address) => !taken.has(address)));
    };
    const nothing = () => {};
    const onlooker: Kernels['claims'] = {
      ...{ ask, notes: () => claims.notes(), taken: () => claims.taken(), settled: () => claims.settled() },
      ...{ isFree: (address) => claims.isFree(address), hold: nothing, took: nothing },
      ...{ refused: nothing, withdraw: nothing },
    };
    const other = new Reconciler({ ...this.#kernels, claims: onlooker }, this.#flags, this.#lastGood);
    other.#previousNat = this.#previousNat;
    other.#planned = this.#planned;
    other.#judged = this.#judged;
    Object.assign(other.#good, this.#good);
    for (const table of this.#tables) other.#tables.add(table);
    return other.look(policy);
  }

  /** The same when it is clear which virtual addresses can be had. */
  async lookSettled(policy: Policy): Promise<Look> {
    await this.look(policy);
    await this.#kernels.claims.settled();
    return this.look(policy);
  }

  /**
   * Observes and compares; changes nothing. Throws when the kernel's routing cannot be observed.
   * @param unchanged what need not be read again: reading takes most of the time of a small change
   * @param anew whether what was refused is to be tried again; if not, each family stays at what it was brought to
   */
  async look(policy: Policy, unchanged = NOTHING_UNCHANGED, anew = true): Promise<Look> {
    if (anew || this.#newest?.policy !== policy || this.#aims === undefined) {
      this.#newest = aimAt(policy);
      this.#aims = { 4: this.#newest, 6: this.#newest };
      this.#refusedSettings.clear();
      this.#standing = [];
    }
    return this.#lookAt(unchanged);
  }

  /** Looks with the aims as they are. */
  async #lookAt(unchanged = NOTHING_UNCHANGED): Promise<Look> {
    const { routing, nat, sysctls, claims } = this.#kernels;
    const observedRouting = (unchanged.routing && this.#settledRouting) || (await routing.observe());
    const judged = this.#judge(await this.#kernels.facts(observedRouting));
    const obstructions = this.#holdObstructed(judged);
    const aims = this.#aims!;
    const planned = this.#planFor(aims, judged);
    const plan = { ...planned.plan };
    const wantedNat = planned.nat;
    const needs = this.#needsOf(plan, wantedNat);
    const asked = JSON.stringify({ ...needs, tables: [...this.#tables] });
    const known = unchanged.nat && this.#settledNat?.asked === asked ? this.#settledNat.observed : undefined;
    const failed: LookFailure[] = [];
    const observeNat = async (): Promise<ObservedNat> => {
      const observed = await nat.observe(needs);
      failed.splice(0, Infinity, ...(await this.#assume(observed, wantedNat)));
      return observed;
    };
    let observedNat = known ?? (await observeNat());
    let natSteps = diffNat(observedNat, wantedNat, this.#previousNat);
    // A rule that moves takes its counters along, and those have been going on.
    if (known !== undefined && natSteps.some(hasCounters)) {
      observedNat = await observeNat();
      natSteps = diffNat(observedNat, wantedNat, this.#previousNat);
    }
    this.#settledNat =
      natSteps.length === 0 && failed.length === 0
        ? { observed: { ...observedNat, sets: wantedNat.sets }, asked }
        : undefined;
    // A family that lacks something is left as it is: what is there may still work, and nothing better is known.
    // So is one that could not be looked at, or where what is wanted needs what could not be.
    const left = new Set([
      ...plan.leftAlone,
      ...failed.filter(({ verdict }) => verdict !== 'table').map(({ family }) => family),
    ]);
    const sysctl = await sysctls.look(plan.sysctls);
    const addresses = diffAddresses(observedRouting, plan.addresses).filter(
      (step) => !left.has(step.address.family),
    );
    const missing = addresses.filter(({ kind }) => kind === 'addAddress').map(({ address }) => address);
    const places = missingPlaces(missing, observedRouting);
    const free = claims.ask(places);
    const isPending = ({ address }: VirtualAddress) => places.has(address) && !free.has(address);
    const wishes: Look['wishes'] = {};
    for (const family of FAMILIES) {
      if (plan.leftAlone.includes(family)) continue;
      // An address is wished for when it is known that it can be had.
      const held = plan.addresses.filter((address) => address.family === family && !isPending(address));
      wishes[family] = planned.texts[family] + JSON.stringify(held);
    }
    // The gateway forwards nothing in a family whose forwarding is off and cannot be turned on from here.
    plan.families = plan.families.map((status) => {
      const reason = sysctl.problems[status.family];
      return reason === undefined ? status : { ...status, state: 'blocked', reason };
    });
    const isOpen = (step: RoutingStep) => {
      const family = routingFamily(step);
      return !left.has(family) && !aims[family].lacking.has(stepKey(step));
    };
    const changes: Changes = {
      // What is no longer ours goes first; what becomes ours comes when everything behind it is there.
      routing: [
        ...addresses.filter(({ kind }) => kind === 'delAddress'),
        ...diffRouting(observedRouting, planned.routing),
        ...addresses.filter(({ kind, address }) => kind === 'addAddress' && !isPending(address)),
      ].filter(isOpen),
      nat: natSteps.filter((step) => !left.has(step.family)),
      sysctl: sysctl.steps.filter(({ path }) => {
        const family = sysctlFamily(path);
        return !this.#refusedSettings.has(path) && (family === undefined || !left.has(family));
      }),
    };
    this.#settledRouting = changes.routing.length === 0 ? observedRouting : undefined;
    return {
      plan,
      changes,
      failed: [...failed, ...obstructions],
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

  /** What a look at translation may not miss. */
  #needsOf(plan: Plan, wanted: NatState): NatNeeds {
    for (const family of FAMILIES) for (const table of wanted.tables[family].keys()) this.#tables.add(table);
    return {
      families: plan.nat.map(({ family }) => family),
      tables: this.#tables,
      sets: FAMILIES.filter((family) => [...wanted.sets.values()].some((set) => set.family === family)),
      ports: FAMILIES.filter((family) => wanted.ports?.[family] !== undefined),
    };
  }

  /**
   * Tells what could not be read. A table that cannot be counts as it was last seen; in what was observed it is put
   * as it is wanted, if that comes to the same and what leads to ours is still there.
   */
  async #assume(observed: ObservedNat, wanted: NatState): Promise<LookFailure[]> {
    const failures: LookFailure[] = [];
    for (const family of FAMILIES) {
      const error = observed.failed[family];
      if (error !== undefined) {
        failures.push({ ...listingFailure(error, family), family, verdict: 'unknown', kind: error.kind });
      }
      for (const [name, unreadable] of observed.unreadable[family]) {
        const want = wanted.tables[family].get(name);
        const seen = this.#goodOf(family)?.tables.get(name);
        if (want === undefined && seen === undefined) continue;
        const hooks = seen === undefined ? [] : hooksOf(name, seen);
        const missing = await this.#kernels.nat.missingHook(family, name, hooks);
        const harmless = sameEssentials(name, want, seen) && missing === undefined;
        if (harmless && want !== undefined) observed.tables[family].set(name, want);
        failures.push({
          ...{ object: 'table', family, name, reason: natReason(unreadable), kind: unreadable.kind },
          message: missing
            ? `${missing.chain} does not lead to ${missing.target} any more, or nothing is there; ${explain(unreadable)}`
            : explain(unreadable),
          ...{ verdict: harmless ? 'table' : 'refused' },
        });
      }
    }
    return failures;
  }

  /** What a family was last brought to, by this process or by the one before it. */
  #goodOf(family: Family, facts = this.#planned?.facts): Good | undefined {
    const known = this.#good[family];
    if (known !== undefined || facts === undefined) return known;
    const last = this.#lastGood();
    if (last === undefined) return undefined;
    const { policy, missing } = last;
    const nat = desiredNat(makePlan(policy, facts, this.#flags).nat);
    for (const one of FAMILIES) {
      this.#good[one] ??= { aim: aimLacking(policy, missing, one), tables: nat.tables[one] };
    }
    return this.#good[family];
  }

  /** What the newest policy comes to with these facts. */
  #judge(facts: Facts): Judged {
    const { policy } = this.#newest!;
    const last = this.#judged;
    if (last?.policy === policy && isDeepStrictEqual(last.facts, facts)) return last;
    const plan = makePlan(policy, facts, this.#flags);
    const obstructed: Judged['obstructed'] = {};
    for (const { family, state, reason } of plan.families) {
      if (state !== 'blocked') continue;
      const good = this.#goodOf(family, facts)?.aim.policy;
      if (good === undefined || good === policy) continue;
      const { families, interfaces } = makePlan(good, facts, this.#flags);
      const works = families.some((one) => one.family === family && one.state === 'programmed');
      // Without an own address on the same interface the newest one drops what the pod cannot masquerade.
      const elsewhere = interfaces.external !== plan.interfaces.external;
      if (works && (elsewhere || plan.leftAlone.includes(family))) obstructed[family] = reason!;
    }
    this.#judged = { policy, facts, plan, obstructed };
    return this.#judged;
  }

  /** Has obstructed families stay at their last good policy. Returns what they lack. */
  #holdObstructed({ policy, facts, plan, obstructed }: Judged): LookFailure[] {
    const name = Object.values(plan.interfaces).join(', ');
    return FAMILIES.flatMap((family): LookFailure[] => {
      const message = obstructed[family];
      if (message === undefined) return [];
      if (this.#aims![family].policy === policy) {
        this.#aims = { ...this.#aims!, [family]: this.#goodOf(family, facts)!.aim };
      }
      return [
        {
          ...{ object: 'interface', family, name, reason: 'unreachable', message },
          ...{ verdict: 'table', kind: 'failed' },
        },
      ];
    });
  }

  /** The plan of the aims for these facts: made once, it costs as much as the policy is long. */
  #planFor(aims: Aims, { facts, plan: newest }: Judged): Planned {
    const last = this.#planned;
    const same = last && FAMILIES.every((family) => sameAim(last.aims[family], aims[family]));
    if (same && isDeepStrictEqual(last.facts, facts)) return last;
    const plan = { ...newest };
    for (const family of FAMILIES) {
      const { policy } = aims[family];
      if (policy !== this.#newest!.policy) replaceFamily(plan, makePlan(policy, facts, this.#flags), family);
    }
    plan.nat = plan.nat.map((nat) => natOf(nat, aims[nat.family]));
    const textOf = (family: Family): string => {
      const ofFamily = (part: { family: Family }) => part.family === family;
      return JSON.stringify([plan.routing.filter(ofFamily), plan.nat.filter(ofFamily)]);
    };
    this.#planned = {
      ...{ aims, facts, plan, nat: desiredNat(plan.nat), routing: desiredRouting(plan.routing) },
      texts: { 4: textOf(4), 6: textOf(6) },
    };
    return this.#planned;
  }

  /**
   * Carries the changes out, each family by itself. What the kernel refuses is left out, or the family is brought
   * back to what it was before, so that it stays intact where it can.
   */
  async carryOut(first: Look): Promise<Outcome> {
    const { policy } = this.#newest!;
    const outcome: Outcome = {
      ...{
        look: first,
        failures: [],
        families: { 4: 'done', 6: 'done' },
        policies: { 4: policy, 6: policy },
        missing: NOTHING_MISSING,
      },
    };
    const told = await this.#applySettings(first, undefined);
    for (const family of FAMILIES) {
      const { result, failures } = await this.#bring(family, outcome);
      outcome.families[family] = result;
      told.push(...failures);
    }
    this.#standing = [...this.#standing, ...told.map(bare)];
    outcome.failures = [...outcome.look.failed.map(bare), ...this.#standing];
    for (const family of FAMILIES) outcome.policies[family] = this.#aims![family].policy;
    const inForce = (family: Family): Aim | undefined => {
      const aim = this.#good[family]?.aim;
      return aim?.policy === policy ? aim : undefined;
    };
    outcome.missing = missingOf({ 4: inForce(4), 6: inForce(6) });
    return outcome;
  }

  /** Brings one family to its aim, or to the best that the kernel takes. `outcome.look` is then the last look. */
  async #bring(family: Family, outcome: Outcome): Promise<Brought> {
    const first = await this.#attempt(family, outcome);
    if (first.result !== 'lost') return first;
    const nat = first.failures.find(({ kind }) => kind !== undefined);
    const wasNewest = sameAim(this.#aims![family], this.#newest!);
    const good = this.#goodOf(family)?.aim;
    const tries = wasNewest ? fallbacks(this.#newest!, nat?.parts ?? [], nat?.kind, good) : [];
    for (const aim of tries) {
      const next = await this.#attemptAt(aim, family, outcome);
      if (next.result === 'lost') continue;
      if (aim !== good) return this.#addParts(family, outcome, aim);
      return { result: 'held', failures: [...first.failures, ...next.failures] };
    }
    if (tries.length > 0) {
      this.#aims = { ...this.#aims!, [family]: this.#newest! };
      outcome.look = await this.#lookAt();
    }
    return first;
  }

  /** Adds optional parts that were left out one by one: those that are refused stay out. */
  async #addParts(family: Family, outcome: Outcome, { policy, without }: Aim): Promise<Brought> {
    const failures: ApplyFailure[] = [];
    let last: Brought = { result: 'held', failures: [] };
    let out = without;
    for (const part of without) {
      const rest = out.filter((other) => other !== part);
      last = await this.#attemptAt(aimAt(policy, rest), family, outcome);
      if (last.result !== 'lost') {
        out = rest;
        continue;
      }
      const { chain } = OPTIONAL_PARTS.find((optional) => optional.part === part)!;
      failures.push(...last.failures.map((failure) => ({ ...failure, name: chain })));
      last = await this.#attemptAt(aimAt(policy, out), family, outcome);
    }
    if (failures.length === 0) return last;
    return {
      result: last.result === 'done' ? 'held' : last.result,
      failures: [...failures, ...last.failures],
    };
  }

  async #attemptAt(aim: Aim, family: Family, outcome: Outcome): Promise<Brought> {
    this.#aims = { ...this.#aims!, [family]: aim };
    outcome.look = await this.#lookAt();
    return this.#attempt(family, outcome);
  }

  /** Carries out what the last look found; once more after another look, if somebody was faster. */
  async #attempt(family: Family, outcome: Outcome): Promise<Brought> {
    const first = await this.#apply(family, outcome.look);
    if (!first.failures.some(({ kind }) => kind === 'changed')) return first;
    outcome.look = await this.#lookAt();
    return this.#apply(family, outcome.look);
  }

  /**
   * Carries out what a look found to do in one family: translation first, then the routes that lead packets to it,
   * then forwarding, so that no packet is forwarded before it is translated.
   */
  async #apply(family: Family, look: Look): Promise<Brought> {
    const { plan } = look;
    // Nothing is planned for a family that lacks an interface or an address, and nothing brought about.
    const blocked = plan.families.some((one) => one.family === family && one.state === 'blocked');
    if (blocked && !plan.nat.some((one) => one.family === family)) return { result: 'done', failures: [] };
    const unseen = look.failed.find((failure) => failure.family === family && failure.verdict !== 'table');
    if (unseen?.verdict === 'unknown') return { result: 'unknown', failures: [] };
    if (unseen !== undefined) return { result: 'lost', failures: [unseen] };
    const { routing, nat } = this.#kernels;
    const rules = look.changes.nat.filter((step) => step.family === family);
    if (rules.length > 0) {
      const error = await nat.apply(rules).then(
        () => undefined,
        (reason: Error) => reason,
      );
      this.#previousNat = look.desiredNat;
      // Routes must not lead packets past a translation that is not there.
      if (error !== undefined) return { result: 'lost', failures: [natFailure(error, family, rules)] };
    }
    this.#previousNat = look.desiredNat;
    const failures: ApplyFailure[] = [];
    const steps = look.changes.routing.filter((step) => routingFamily(step) === family && this.#isDue(step));
    if (steps.length > 0) failures.push(...(await routing.apply(steps)).map(routingFailure));
    const refused = failures.flatMap(({ step }) => step ?? []);
    this.#tellClaims(steps, refused);
    if (!this.#routesStill(family, refused)) return { result: 'lost', failures };
    failures.push(...(await this.#applySettings(look, family)));
    if (failures.some(({ required }) => required !== undefined)) return { result: 'lost', failures };
    const aim: Aim = {
      ...this.#aims![family],
      lacking: new Set([...this.#aims![family].lacking, ...refused.map(stepKey)]),
    };
    this.#aims = { ...this.#aims!, [family]: aim };
    this.#good[family] = { aim, tables: look.desiredNat.tables[family] };
    const unread = look.failed.some((failure) => failure.family === family);
    const whole = sameAim(aim, this.#newest!) && aim.lacking.size === 0 && failures.length === 0 && !unread;
    return { result: whole ? 'done' : 'held', failures };
  }

  /**
   * Whether a family routes as a good policy said although it was refused some steps: they are for what it did not
   * route before.
   */
  #routesStill(family: Family, refused: readonly RoutingStep[]): boolean {
    const missing = refused.filter((step) => !isOptionalStep(step)).map(stepKey);
    if (missing.length === 0) return true;
    const good = this.#goodOf(family);
    if (good === undefined) return false;
    const plan = makePlan(good.aim.policy, this.#planned!.facts, this.#flags);
    const { rules, routes } = desiredRouting(plan.routing.filter((one) => one.family === family));
    const had = new Set([...rules.map(ruleKey), ...routes.map(routeKey)]);
    return missing.every((key) => !had.has(key) || good.aim.lacking.has(key));
  }

  /** Makes the settings of a family, or those that are for neither, as they have to be. */
  async #applySettings({ changes }: Look, family: Family | undefined): Promise<ApplyFailure[]> {
    const failures: ApplyFailure[] = [];
    for (const step of changes.sysctl.filter(({ path }) => sysctlFamily(path) === family)) {
      await this.#kernels.sysctls.apply([step]).catch((error: NodeJS.ErrnoException) => {
        this.#refusedSettings.add(step.path);
        failures.push({
          ...{ object: 'sysctl', ...(family && { family }), name: step.path, required: step.required },
          ...{ reason: reasonOf(error.code), message: `${step.line}: ${error.message}` },
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
    const translation = await nat.observe({ families: [] });
    this.#unseen = FAMILIES.flatMap((family) => [
      ...(translation.failed[family] ? [translation.failed[family]] : []),
      ...OUR_TABLES.flatMap((table) => translation.unreadable[family].get(table) ?? []),
    ]);
    const nameOf = (ifindex: number) => observed.links.find(({ index }) => index === ifindex)?.name;
    return {
      neighbours: neighbours.held().map((entry) => ({
        ...entry,
        line: `ip neigh del ${entry.address} dev ${nameOf(entry.ifindex)}`,
      })),
      sysctl: await sysctls.lookForCleanup(),
      routing: [...diffAddresses(observed, []), ...diffRouting(observed, desiredRouting([]))],
      nat: diffNat(translation, desiredNat([]), this.#previousNat),
    };
  }

  /**
   * Removes it: forwarding stops before routes go, and routes before the translation. Throws what was refused, and
   * what could not be looked at for anything of the agent's.
   */
  async cleanup(changes: Changes): Promise<void> {
    const { routing, nat, sysctls, neighbours } = this.#kernels;
    await sysctls.apply(changes.sysctl);
    neighbours.remove(changes.neighbours ?? []);
    const [first] = await routing.apply(changes.routing);
    if (first !== undefined) throw first;
    await nat.apply(changes.nat);
    if (this.#unseen[0] !== undefined) throw this.#unseen[0];
  }
}
