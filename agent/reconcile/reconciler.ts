/**
 * One reconcile: observe the kernel, compare it with the plan (observer.ts), apply the difference; and when the kernel
 * refuses a part, find out how much of the rest it accepts (targets.ts defines what counts as intact). Remembers what
 * it needs to distinguish drift from change, and what was last applied in each family; loop.ts decides when to run,
 * gateway.ts what follows from the outcome.
 */
import { uptime } from '../../lib/clock.ts';
import { type Address, FAMILIES, type Family } from '../../lib/prefix.ts';
import { OPTIONAL_PARTS } from '../../nat/desired.ts';
import { CHANGED } from '../../nat/errors.ts';
import { GateError } from '../../nat/gate-kernel.ts';
import type { NatState } from '../../nat/state.ts';
import { precedesTranslation, type RoutingStep } from '../../routing/diff.ts';
import type { Trigger } from '../cadence.ts';
import type { InterfaceFlags } from '../pod/interfaces.ts';
import { type LastGood, type Missing, NOTHING_MISSING } from '../policy/last-good.ts';
import type { Policy } from '../policy/model.ts';
import { endsOffer, routingFamily } from './changes.ts';
import { CounterComparison } from './counter-comparison.ts';
import { distinct, type Failure } from './failures.ts';
import { FastPathComparison } from './fast-path-comparison.ts';
import {
  type ApplyFailure,
  bareFailure,
  natFailure,
  routingFailure,
  shapingFailure,
  sysctlFailure,
} from './kernel-errors.ts';
import type { Kernels, Observation, Unchanged } from './observation.ts';
import { Observer, type Refusal } from './observer.ts';
import { TargetPlanner } from './target-planner.ts';
import {
  type FamilyOutcome,
  fallbacks,
  INTACT,
  leftoverKey,
  missingOf,
  sameTarget,
  stepKey,
  sysctlFamily,
  type Target,
  targetAt,
} from './targets.ts';

/** The outcome of a run. */
export interface Outcome {
  /** The last one of the run. */
  observation: Observation;
  failures: Failure[];
  families: Record<Family, FamilyOutcome>;
  /** The policy that is in force in each family. */
  policies: Record<Family, Policy>;
  /** What the families at the newest policy lack of it. */
  missing: Missing;
  /**
   * Whether the newest policy may replace the last good one: every family that worked with that one works with the newest.
   * A family that could not be observed may be at either.
   */
  inForce: boolean;
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

/** A VRF and a refused gate are an attempt each, and so is a change by another program; who changes more is at work against the agent. */
const MOST_ATTEMPTS = 4;

/** The outcome of an attempt in one family, and the steps that were refused. */
interface Attempt {
  result: FamilyOutcome;
  failures: ApplyFailure[];
  /**
   * Not all is applied, and the rest has to be compared anew: the internal interface has entered or left a VRF, and addresses
   * and routes have moved with it; or nf_tables has refused the gate, whose work iptables does then.
   */
  moved?: true;
}

export class Reconciler {
  readonly #kernels: Kernels;
  readonly #targets: TargetPlanner;
  readonly #observer: Observer;
  /** What the last full attempt was refused. */
  #refused: Failure[] = [];

  /**
   * `lastGood`: what an earlier process applied. Called only when the kernel refuses something. `now`: a monotonic clock, ms.
   */
  constructor(
    kernels: Kernels,
    flags: InterfaceFlags,
    lastGood: () => LastGood | undefined = () => undefined,
    now: () => number = uptime,
  ) {
    this.#kernels = kernels;
    this.#targets = new TargetPlanner(flags, lastGood, () => kernels.nat.gateLack());
    this.#observer = new Observer(
      kernels,
      this.#targets,
      new CounterComparison(kernels.counters),
      new FastPathComparison(kernels.fastPath, now),
    );
  }

  /** The translation that was last applied; undefined: none yet. */
  get previousNat(): NatState | undefined {
    return this.#observer.previousNat;
  }

  /**
   * What a full reconcile would change now. It forks the memory of this reconciler, and leaves it unchanged. Not while
   * another call is in flight.
   */
  preview(policy: Policy): Promise<Observation> {
    const targets = this.#targets.fork();
    targets.start(policy);
    return this.#observer
      .fork({ ...this.#kernels, claims: readOnly(this.#kernels.claims) }, targets)
      .observe();
  }

  /** Observes when it is decided which virtual addresses are free. */
  async observeSettled(policy: Policy): Promise<Observation> {
    await this.observe(policy);
    await this.#kernels.claims.settled();
    return this.observe(policy);
  }

  /**
   * Observes and compares; changes nothing. Throws when the kernel's routing cannot be read.
   * @param unchanged what need not be read again
   * @param retry whether refused steps are tried again; if not, each family keeps the target that was applied
   */
  async observe(policy: Policy, unchanged?: Unchanged, retry = true): Promise<Observation> {
    let retries = false;
    if (retry || !this.#targets.follows(policy)) {
      this.#targets.start(policy);
      retries = this.#observer.retryRefused();
      this.#refused = [];
    }
    return { ...(await this.#observer.observe(unchanged)), retries };
  }

  /**
   * Applies the changes, each family by itself. What the kernel refuses is left out, or the family is brought back to
   * what was applied before, so that it stays intact where it can.
   */
  async apply(observation: Observation): Promise<Outcome> {
    const { policy } = this.#targets.newest;
    const outcome: Outcome = {
      observation,
      failures: [],
      families: { 4: 'applied', 6: 'applied' },
      policies: { 4: policy, 6: policy },
      missing: NOTHING_MISSING,
      inForce: false,
    };
    const refused = await this.#applySysctls(observation, undefined);
    for (const family of FAMILIES) {
      const { result, failures } = await this.#applyFamily(family, outcome);
      outcome.families[family] = result;
      refused.push(...failures);
    }
    refused.push(...(await this.#applyShaping(outcome.observation)));
    refused.push(...(await this.#applyCounters(outcome.observation)));
    refused.push(...(await this.#applyFastPath(outcome.observation)));
    this.#refused = [...this.#refused, ...refused.map(bareFailure)];
    outcome.failures = distinct([...outcome.observation.failed.map(bareFailure), ...this.#refused]);
    for (const family of FAMILIES) outcome.policies[family] = this.#targets.of(family).policy;
    const broken = FAMILIES.filter((family) => !INTACT.has(outcome.families[family]));
    const applied = { 4: this.#targets.appliedNewest(4), 6: this.#targets.appliedNewest(6) };
    outcome.missing = missingOf(applied, broken);
    outcome.inForce = FAMILIES.every((family) =>
      broken.includes(family)
        ? this.#targets.applied(family) === undefined
        : outcome.policies[family] === policy,
    );
    return outcome;
  }

  /** Brings one family to its target, or to the best that the kernel accepts. */
  async #applyFamily(family: Family, outcome: Outcome): Promise<Attempt> {
    const first = await this.#attempt(family, outcome);
    if (first.result !== 'broken') return first;
    const nat = first.failures.find(({ kind }) => kind !== undefined);
    const { newest } = this.#targets;
    const wasNewest = sameTarget(this.#targets.of(family), newest);
    const good = this.#targets.applied(family)?.target;
    const targets = wasNewest ? fallbacks(newest, nat?.parts ?? [], nat?.kind, good) : [];
    for (const target of targets) {
      const next = await this.#attemptTarget(target, family, outcome);
      if (next.result === 'broken') continue;
      if (target !== good) return this.#addParts(family, outcome, target);
      return { result: 'held', failures: [...first.failures, ...next.failures] };
    }
    if (targets.length > 0) this.#targets.set(family, newest);
    // Devices that were made before the refused one are there for the other family.
    const isLink = first.failures.some(({ step }) => step !== undefined && 'link' in step);
    if (targets.length > 0 || isLink) outcome.observation = await this.#observer.observe();
    return first;
  }

  /** Adds the optional parts that were left out one by one: those that are refused stay out. */
  async #addParts(family: Family, outcome: Outcome, { policy, without }: Target): Promise<Attempt> {
    const failures: ApplyFailure[] = [];
    let last: Attempt = { result: 'held', failures: [] };
    let out = without;
    for (const part of without) {
      const rest = out.filter((other) => other !== part);
      last = await this.#attemptTarget(targetAt(policy, rest), family, outcome);
      if (last.result !== 'broken') {
        out = rest;
        continue;
      }
      const { chain, module } = OPTIONAL_PARTS.find((optional) => optional.part === part)!;
      const needs = `${chain} needs ${module}, and is left out`;
      const refused = last.failures.map(({ message, ...failure }) => ({
        ...{ ...failure, name: chain, message: `${needs}: ${message}` },
      }));
      failures.push(...refused);
      last = await this.#attemptTarget(targetAt(policy, out), family, outcome);
    }
    if (failures.length === 0) return last;
    return {
      result: last.result === 'applied' ? 'held' : last.result,
      failures: [...failures, ...last.failures],
    };
  }

  async #attemptTarget(target: Target, family: Family, outcome: Outcome): Promise<Attempt> {
    this.#targets.set(family, target);
    outcome.observation = await this.#observer.observe();
    return this.#attempt(family, outcome);
  }

  /** Applies the last observation; again after another one, as long as that was not all or the kernel has changed in between. */
  async #attempt(family: Family, outcome: Outcome): Promise<Attempt> {
    for (let left = MOST_ATTEMPTS; ; left--) {
      const attempt = await this.#applyOnce(family, outcome.observation);
      const again = attempt.moved || attempt.failures.some(({ kind }) => kind === 'changed');
      if (!again || left === 1) return attempt;
      outcome.observation = await this.#observer.observe();
    }
  }

  /**
   * Applies the changes of one family: translation first, then the routes that lead packets to it, then forwarding, so
   * that no packet is forwarded before it is translated. The ways to other members of the group come before the rules that
   * mark packets for them, which would be lost without. A VRF comes before the translation is removed, and goes when it is
   * there again.
   */
  async #applyOnce(family: Family, observation: Observation): Promise<Attempt> {
    const { plan } = observation;
    // Nothing is planned for a family that lacks an interface or an address, but that packets are not sent here any more.
    const blocked = plan.families.some((one) => one.family === family && one.state === 'blocked');
    if (blocked && !plan.nat.some((one) => one.family === family)) {
      const failures = await this.#applyRouting(family, observation, endsOffer);
      return { result: 'applied', failures };
    }
    const failed = observation.failed.find((one) => one.family === family && one.verdict !== 'harmless');
    if (failed?.verdict === 'unknown') return { result: 'unknown', failures: [] };
    if (failed !== undefined) return { result: 'broken', failures: [failed] };

    const isVpn = plan.routing.some((one) => one.family === family && 'vpn' in one);
    const made = isVpn ? await this.#applyLinks(observation) : undefined;
    if (made !== undefined) return made;
    const failures = await this.#applyRouting(family, observation, precedesTranslation);
    const error = await this.#applyNat(family, observation);
    if (error instanceof GateError) {
      this.#targets.refuseGate(family, error.message);
      return { result: 'broken', failures: [], moved: true };
    }
    // Routes must not lead packets past a translation that is not there. A set that is left over is in nobody's way.
    if (error?.kind === 'in-use') failures.push(error);
    else if (error !== undefined) return { result: 'broken', failures: [error] };
    const removed = isVpn ? undefined : await this.#applyLinks(observation, family);
    if (removed !== undefined) return removed;
    failures.push(...(await this.#applyRouting(family, observation, (step) => !precedesTranslation(step))));
    const refused = failures.flatMap(({ step }) => step ?? []);
    if (!this.#targets.routesWithout(refused, family)) return { result: 'broken', failures };
    failures.push(...(await this.#applySysctls(observation, family)));
    if (failures.some(({ required }) => required !== undefined)) return { result: 'broken', failures };

    const lacking = refused.map(stepKey);
    if (error !== undefined) lacking.push(leftoverKey(error.name));
    const target = this.#targets.recordApplied(family, lacking, observation.desiredNat.tables[family]);
    const unread = observation.failed.some((failure) => failure.family === family);
    const whole = sameTarget(target, this.#targets.newest) && target.lacking.size === 0;
    return { result: whole && failures.length === 0 && !unread ? 'applied' : 'held', failures };
  }

  /** Applies the translation of a family as a whole. Returns why it was refused. */
  async #applyNat(
    family: Family,
    { changes, desiredNat }: Observation,
  ): Promise<ApplyFailure | GateError | undefined> {
    const steps = changes.nat.filter((step) => step.family === family);
    try {
      if (steps.length > 0) await this.#kernels.nat.apply(steps);
      return undefined;
    } catch (error) {
      return error instanceof GateError ? error : natFailure(error as Error, family, steps);
    } finally {
      this.#observer.recordNat(desiredNat);
    }
  }

  /**
   * Applies the changes of devices one by one, up to one that is refused: each needs the one before. Undefined: none.
   * @param family only those that come with this family; a family with a VRF needs all
   */
  async #applyLinks({ changes }: Observation, family?: Family): Promise<Attempt | undefined> {
    const steps = changes.routing.filter(
      (step) => 'link' in step && (family === undefined || step.family === family),
    );
    for (const step of steps) {
      const refused = await this.#kernels.routing.apply([step]);
      if (refused.length > 0) return { result: 'broken', failures: refused.map(routingFailure) };
    }
    return steps.length === 0 ? undefined : { result: 'broken', failures: [], moved: true };
  }

  /** Applies those routing steps of a family one by one. Returns the ones that were refused. */
  async #applyRouting(
    family: Family,
    { changes }: Observation,
    which: (step: RoutingStep) => boolean,
  ): Promise<ApplyFailure[]> {
    const { claims, routing } = this.#kernels;
    // An address that another host has claimed since the observation is not assigned.
    const isDue = (step: RoutingStep) => {
      if ('link' in step || !which(step)) return false;
      if (step.kind === 'addAddress') return claims.isFree(step.address.address);
      return step.kind !== 'addProxy' || step.proxy.contested || claims.isFree(step.proxy.address);
    };
    const steps = changes.routing.filter((step) => routingFamily(step) === family && isDue(step));
    const refused = steps.length > 0 ? await routing.apply(steps) : [];
    // Only addresses that the kernel has are announced.
    for (const step of steps) {
      const address = claimedBy(step);
      if (address === undefined) continue;
      if (step.kind.startsWith('del')) claims.removed(address);
      else if (refused.some((error) => error.step === step)) claims.refused(address);
      else claims.assigned(address);
    }
    return refused.map(routingFailure);
  }

  /** Applies the limits of bandwidth; no family depends on them. Returns the steps that were refused. */
  async #applyShaping({ changes }: Observation): Promise<ApplyFailure[]> {
    if (changes.shaping.length === 0) return [];
    const refused = await this.#kernels.shaping.apply(changes.shaping);
    for (const { step } of refused) this.#observer.recordRefusedShaping(step);
    return refused.map(shapingFailure);
  }

  /** Counting is not what a gateway is for: without it the rest goes on, also the other family's. Returns what was refused. */
  async #applyCounters(observation: Observation): Promise<ApplyFailure[]> {
    const failures: ApplyFailure[] = [];
    for (const step of observation.changes.counters) {
      const refused = await applyStep(
        step,
        (one) => this.#kernels.counters.apply([one]),
        () => this.#observer.compareCounters(observation, step.family),
      );
      if (refused !== undefined) failures.push(...this.#observer.recordRefusedCounters(observation, refused));
    }
    return failures;
  }

  /** Nor is the fast path. */
  async #applyFastPath(observation: Observation): Promise<ApplyFailure[]> {
    const failures: ApplyFailure[] = [];
    for (const step of observation.changes.fastPath) {
      const refused = await applyStep(
        step,
        async (one) => this.#kernels.fastPath.apply([one]),
        () => this.#observer.compareFastPath(observation),
      );
      if (refused !== undefined) failures.push(...this.#observer.recordRefusedFastPath(observation, refused));
    }
    return failures;
  }

  /** Applies the sysctls of a family, or those of both. Returns those that were refused. */
  async #applySysctls({ changes }: Observation, family: Family | undefined): Promise<ApplyFailure[]> {
    const failures: ApplyFailure[] = [];
    for (const step of changes.sysctl.filter(({ path }) => sysctlFamily(path) === family)) {
      await this.#kernels.sysctls.apply([step]).catch((error: NodeJS.ErrnoException) => {
        this.#observer.recordRefusedSysctl(step.path);
        failures.push(sysctlFailure(error, step));
      });
    }
    return failures;
  }
}

/** Applies a step; once more after another comparison, if the kernel has changed in between. Returns what it refused. */
async function applyStep<Step>(
  step: Step,
  apply: (step: Step) => Promise<void>,
  compare: () => Promise<Step | undefined>,
): Promise<Refusal<Step> | undefined> {
  const attempt = (one: Step): Promise<Refusal<Step> | undefined> =>
    apply(one).then(
      () => undefined,
      (error: NodeJS.ErrnoException) => ({ step: one, error }),
    );
  const refused = await attempt(step);
  if (!CHANGED.has(refused?.error.code ?? '')) return refused;
  const next = await compare();
  return next && attempt(next);
}

/** The address that a step takes or gives up on its link; undefined for others. */
function claimedBy(step: RoutingStep): Address | undefined {
  if ('address' in step) return step.address.address;
  return 'proxy' in step && !step.proxy.contested ? step.proxy.address : undefined;
}

/** Claims that send no probe and record nothing: an address that no other host is known to have counts as free. */
function readOnly(claims: Kernels['claims']): Kernels['claims'] {
  const nothing = () => {};
  return {
    probe(wanted) {
      const taken = new Set(claims.conflicts().map(({ address }) => address));
      return new Set([...wanted.keys()].filter((address) => !taken.has(address)));
    },
    ...{ notes: () => claims.notes(), conflicts: () => claims.conflicts(), settled: () => claims.settled() },
    ...{ isFree: (address) => claims.isFree(address), setAssigned: nothing, assigned: nothing },
    ...{ refused: nothing, removed: nothing },
  };
}
