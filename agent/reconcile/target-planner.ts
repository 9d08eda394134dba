/**
 * Which target each family has (targets.ts), and the plan that follows from the facts of the pod. Remembers what was
 * last applied in each family, by this process or by the one before it.
 *
 * Plans are made once for the same facts and targets: making one costs as much as the policy is long.
 */
import { isDeepStrictEqual } from 'node:util';
import { digest } from '../../lib/digest.ts';
import { FAMILIES, type Family } from '../../lib/prefix.ts';
import { desiredNat } from '../../nat/desired.ts';
import type { Gate } from '../../nat/gate.ts';
import type { NatState, Tables } from '../../nat/state.ts';
import { desiredRouting } from '../../routing/desired.ts';
import type { RoutingStep } from '../../routing/diff.ts';
import { makePlan, type Plan } from '../plan/plan.ts';
import type { Facts, InterfaceFlags } from '../pod/interfaces.ts';
import type { LastGood } from '../policy/last-good.ts';
import type { Policy } from '../policy/model.ts';
import type { ObserveFailure } from './observation.ts';
import { replaceFamily } from './target-plan.ts';
import {
  isOptionalStep,
  routeKey,
  ruleKey,
  sameTarget,
  stepKey,
  type Target,
  targetAt,
  targetLacking,
  targetNat,
} from './targets.ts';

type Targets = Readonly<Record<Family, Target>>;

/** A plan, and the desired state that follows from it alone. */
export interface Planned {
  targets: Targets;
  facts: Facts;
  plan: Plan;
  nat: NatState;
  /** A digest of the desired routing and translation of each family. */
  digests: Record<Family, string>;
}

/** The plan of the newest policy. */
interface Newest {
  policy: Policy;
  facts: Facts;
  plan: Plan;
  /** The families that stay at their last good policy because the pod lacks what the newest one needs: what it lacks. */
  heldBack: Partial<Record<Family, string>>;
}

/** A target that was applied in a family, and the family's tables then. */
export interface Applied {
  target: Target;
  tables: Tables;
}

export class TargetPlanner {
  readonly #flags: InterfaceFlags;
  readonly #lastGood: () => LastGood | undefined;
  #newest: Target | undefined;
  #targets: Targets | undefined;
  #newestPlan: Newest | undefined;
  #planned: Planned | undefined;
  readonly #applied: Partial<Record<Family, Applied>> = {};
  #hasReadLastGood = false;
  readonly #gateLack: () => string | undefined;
  /** Why iptables does the work of a family's gate (nat/gate.ts). */
  #gateRefusals = new Map<Family, string>();

  /**
   * @param lastGood what an earlier process applied; called once, when it is needed
   * @param gateLack why no family can have a gate; undefined: each may
   */
  constructor(
    flags: InterfaceFlags,
    lastGood: () => LastGood | undefined,
    gateLack: () => string | undefined,
  ) {
    this.#flags = flags;
    this.#lastGood = lastGood;
    this.#gateLack = gateLack;
  }

  /** A planner with the same memory and no targets yet. */
  fork(): TargetPlanner {
    const fork = new TargetPlanner(this.#flags, this.#lastGood, this.#gateLack);
    fork.#newest = this.#newest;
    fork.#gateRefusals = new Map(this.#gateRefusals);
    fork.#planned = this.#planned;
    fork.#newestPlan = this.#newestPlan;
    Object.assign(fork.#applied, this.#applied);
    fork.#hasReadLastGood = this.#hasReadLastGood;
    return fork;
  }

  /** Whether the targets come from this policy. */
  follows(policy: Policy): boolean {
    return this.#newest?.policy === policy && this.#targets !== undefined;
  }

  /** Makes the whole policy the target of both families. */
  start(policy: Policy): void {
    if (this.#newest?.policy !== policy) this.#gateRefusals.clear();
    this.#newest = targetAt(policy);
    this.#targets = { 4: this.#newest, 6: this.#newest };
  }

  /** The newest policy, whole. */
  get newest(): Target {
    return this.#newest!;
  }

  of(family: Family): Target {
    return this.#targets![family];
  }

  set(family: Family, target: Target): void {
    this.#targets = { ...this.#targets!, [family]: target };
  }

  /** The plan of the targets for these facts, and why families are held back from the newest policy. */
  plan(facts: Facts): { planned: Planned; heldBack: ObserveFailure[] } {
    const newest = this.#planNewest(facts);
    const heldBack = this.#holdBack(newest);
    return { planned: this.#planTargets(newest), heldBack };
  }

  /** The kernel has refused the gate of a family: iptables does its work until another policy comes. */
  refuseGate(family: Family, reason: string): void {
    this.#gateRefusals.set(family, reason);
    this.#planned = undefined;
  }

  /** Why iptables does the work of gates. */
  get gateRefusals(): string[] {
    return [...new Set(this.#gateRefusals.values())];
  }

  /** Whether nf_tables takes the gate of a family, as far as is known. */
  readonly #hasGate = ({ family }: Gate): boolean => {
    const lack = this.#gateRefusals.get(family) ?? this.#gateLack();
    if (lack !== undefined) this.#gateRefusals.set(family, lack);
    return lack === undefined;
  };

  /** What was last applied in a family; undefined: nothing. */
  applied(family: Family, facts = this.#planned?.facts): Applied | undefined {
    const known = this.#applied[family];
    if (known !== undefined || facts === undefined || this.#hasReadLastGood) return known;
    this.#hasReadLastGood = true;
    const last = this.#lastGood();
    if (last === undefined) return undefined;
    const { policy, missing } = last;
    const nat = desiredNat(makePlan(policy, facts, this.#flags).nat, this.#hasGate);
    for (const one of FAMILIES) {
      if (missing.broken.includes(one)) continue;
      this.#applied[one] ??= { target: targetLacking(policy, missing, one), tables: nat.tables[one] };
    }
    return this.#applied[family];
  }

  /** The target of the newest policy that was applied in a family by this process; undefined: none. */
  appliedNewest(family: Family): Target | undefined {
    const target = this.#applied[family]?.target;
    return target?.policy === this.newest.policy ? target : undefined;
  }

  /** The target of a family was applied, except for what has these keys. Returns what it is now. */
  recordApplied(family: Family, lacking: readonly string[], tables: Tables): Target {
    const before = this.of(family);
    const target = { ...before, lacking: new Set([...before.lacking, ...lacking]) };
    this.set(family, target);
    this.#applied[family] = { target, tables };
    return target;
  }

  /** Whether a family still routes as a good policy says: the refused steps are for what it did not route before. */
  routesWithout(refused: readonly RoutingStep[], family: Family): boolean {
    const missing = refused.filter((step) => !isOptionalStep(step)).map(stepKey);
    if (missing.length === 0) return true;
    const good = this.applied(family)?.target;
    if (good === undefined) return false;
    const plan = makePlan(good.policy, this.#planned!.facts, this.#flags);
    const { rules, routes } = desiredRouting(plan.routing.filter((one) => one.family === family));
    const had = new Set([...rules.map(ruleKey), ...routes.map(routeKey)]);
    return missing.every((key) => !had.has(key) || good.lacking.has(key));
  }

  #planNewest(facts: Facts): Newest {
    const { policy } = this.newest;
    const last = this.#newestPlan;
    if (last?.policy === policy && isDeepStrictEqual(last.facts, facts)) return last;
    const plan = makePlan(policy, facts, this.#flags);
    const heldBack: Newest['heldBack'] = {};
    for (const { family, state, reason } of plan.families) {
      if (state !== 'blocked') continue;
      const good = this.applied(family, facts)?.target.policy;
      if (good === undefined || good === policy) continue;
      const { families, interfaces } = makePlan(good, facts, this.#flags);
      const works = families.some((one) => one.family === family && one.state === 'programmed');
      // Without an own address on the same interface the newest policy drops what the pod cannot masquerade.
      const elsewhere = interfaces.external !== plan.interfaces.external;
      if (works && (elsewhere || plan.leftAlone.includes(family))) heldBack[family] = reason!;
    }
    this.#newestPlan = { policy, facts, plan, heldBack };
    return this.#newestPlan;
  }

  #holdBack({ policy, facts, plan, heldBack }: Newest): ObserveFailure[] {
    const name = Object.values(plan.interfaces).join(', ');
    return FAMILIES.flatMap((family): ObserveFailure[] => {
      const message = heldBack[family];
      if (message === undefined) return [];
      if (this.of(family).policy === policy) this.set(family, this.applied(family, facts)!.target);
      return [
        {
          ...{ object: 'interface', family, name, reason: 'unreachable', message },
          ...{ verdict: 'harmless', kind: 'failed' },
        },
      ];
    });
  }

  #planTargets({ facts, plan: newest }: Newest): Planned {
    const targets = this.#targets!;
    const last = this.#planned;
    const same = last && FAMILIES.every((family) => sameTarget(last.targets[family], targets[family]));
    if (same && isDeepStrictEqual(last.facts, facts)) return last;
    // There is no room for two with ten thousand sources each.
    this.#planned = undefined;
    const plan = { ...newest };
    for (const family of FAMILIES) {
      const { policy } = targets[family];
      if (policy !== this.newest.policy) replaceFamily(plan, makePlan(policy, facts, this.#flags), family);
    }
    plan.nat = plan.nat.map((nat) => targetNat(nat, targets[nat.family]));
    const nat = desiredNat(plan.nat, this.#hasGate);
    const digestOf = (family: Family): string => {
      const ofFamily = (part: { family: Family }) => part.family === family;
      const hasGate = nat.gates?.[family] !== undefined;
      const { routing, shaping, fastPath } = plan;
      const own = [routing.filter(ofFamily), plan.nat.filter(ofFamily)];
      return digest(JSON.stringify([...own, hasGate, shaping, fastPath]));
    };
    this.#planned = {
      ...{ targets, facts, plan, nat },
      digests: { 4: digestOf(4), 6: digestOf(6) },
    };
    return this.#planned;
  }
}
