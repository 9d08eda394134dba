/**
 * Observes the kernel and compares it with the plan; changes nothing. Remembers what was observed while nothing
 * differed: without a change event it counts for the next comparison, because reading takes most of the time of a
 * small change.
 */
import { digest } from '../../lib/digest.ts';
import { type Address, FAMILIES, type Family, familyOf } from '../../lib/prefix.ts';
import type { CounterStep } from '../../nat/counters/diff.ts';
import { diffNat, type NatStep } from '../../nat/diff.ts';
import type { FastPathStep } from '../../nat/fast-path/table.ts';
import type { NatNeeds, ObservedNat } from '../../nat/kernel.ts';
import type { NatState } from '../../nat/state.ts';
import { diffAddresses, type VirtualAddress } from '../../routing/addresses.ts';
import { desiredRules, eachDesiredRoute, wantedVpn } from '../../routing/desired.ts';
import { diffRouting, type RoutingStep } from '../../routing/diff.ts';
import { diffLinks, type LinkStep } from '../../routing/links.ts';
import { diffProxies, type ProxyStep } from '../../routing/proxies.ts';
import type { RoutingState } from '../../routing/state.ts';
import { desiredShaping } from '../../shaping/desired.ts';
import { diffShaping, type ForeignRoot, foreignRoots, type ShapingStep } from '../../shaping/diff.ts';
import { renderShapingStep } from '../../shaping/render.ts';
import { isShortQueue, type ShapingIntent } from '../../shaping/state.ts';
import type { FamilyStatus, Plan } from '../plan/plan.ts';
import type { SysctlObservation } from '../pod/sysctl.ts';
import { type Changes, endsOffer, routingFamily } from './changes.ts';
import type { CounterComparison } from './counter-comparison.ts';
import type { Failure } from './failures.ts';
import type { FastPathComparison } from './fast-path-comparison.ts';
import { type ApplyFailure, explain, listingFailure, natReason } from './kernel-errors.ts';
import { assignedAddresses, missingAddresses, unheldAddresses } from './link-addresses.ts';
import type { Kernels, Observation, ObserveFailure, Unchanged } from './observation.ts';
import type { Planned, TargetPlanner } from './target-planner.ts';
import { hooksOf, leftoverKey, sameEssentials, stepKey, sysctlFamily } from './targets.ts';

const NOTHING_UNCHANGED: Unchanged = { routing: false, nat: false };

const hasCounters = (step: NatStep): boolean => step.type === 'insert-rule' && step.rule.packets > 0;

/** A step that the kernel refused, and what it answered. */
export interface Refusal<Step> {
  step: Step;
  error: NodeJS.ErrnoException;
}

/** The translation, compared. */
interface NatComparison {
  observed: ObservedNat;
  steps: NatStep[];
  failed: ObserveFailure[];
}

/** The virtual addresses, compared. */
interface AddressComparison {
  remove: RoutingStep[];
  /** The missing ones that no other host has. */
  add: RoutingStep[];
  /** Whether it is not known yet that an address is free. */
  isPending(address: Pick<VirtualAddress, 'address'>): boolean;
}

export class Observer {
  readonly #kernels: Kernels;
  readonly #targets: TargetPlanner;
  readonly #counters: CounterComparison;
  readonly #fastPath: FastPathComparison;
  /** What was last applied, so that half of a damaged pair of rules is still known as the agent's. */
  #previousNat: NatState | undefined;
  /** What was observed while nothing differed, and what was asked for; undefined since something did. */
  #settledNat: { observed: ObservedNat; needs: string } | undefined;
  #settledRouting: RoutingState | undefined;
  readonly #refusedSysctls = new Set<string>();
  readonly #refusedShaping = new Set<string>();
  /** The planned virtual addresses that were there or known to be free, by `placeOf`. */
  readonly #ownable = new Map<string, Pick<VirtualAddress, 'family' | 'address'>>();
  /** The tables that held something of the agent's, or were to. */
  readonly #tables = new Set<string>();

  constructor(
    kernels: Kernels,
    targets: TargetPlanner,
    counters: CounterComparison,
    fastPath: FastPathComparison,
  ) {
    this.#kernels = kernels;
    this.#targets = targets;
    this.#counters = counters;
    this.#fastPath = fastPath;
  }

  /** An observer with the same memory of what is the agent's. */
  fork(kernels: Kernels, targets: TargetPlanner): Observer {
    const fork = new Observer(kernels, targets, this.#counters.fork(), this.#fastPath.fork());
    fork.#previousNat = this.#previousNat;
    for (const table of this.#tables) fork.#tables.add(table);
    return fork;
  }

  get previousNat(): NatState | undefined {
    return this.#previousNat;
  }

  /** A translation was applied, or tried. */
  recordNat(state: NatState): void {
    this.#previousNat = state;
  }

  /** The kernel refused a step of the counters: it is no change until `retryRefused`. Returns the failure, if it may pass. */
  recordRefusedCounters({ plan, notes }: Observation, { step, error }: Refusal<CounterStep>): ApplyFailure[] {
    return failuresOf(this.#counters.refused(plan.counters, step, error), notes);
  }

  /** The same of the fast path. */
  recordRefusedFastPath(observation: Observation, { step, error }: Refusal<FastPathStep>): ApplyFailure[] {
    const { plan, notes } = observation;
    // A transaction that is refused changes nothing.
    observation.fastPath = this.#fastPath.isThere;
    return failuresOf(this.#fastPath.refused(plan.fastPath, step, error), notes);
  }

  /** The step of a family's counters, compared once more. */
  async compareCounters({ plan, failed }: Observation, family: Family): Promise<CounterStep | undefined> {
    const { steps } = await this.#counters.compare(plan.counters, leftAloneOf(plan, failed));
    return steps.find((step) => step.family === family);
  }

  /** The same of the fast path. */
  async compareFastPath(observation: Observation): Promise<FastPathStep | undefined> {
    const { steps, inForce } = await this.#fastPath.compare(observation.plan.fastPath);
    observation.fastPath = inForce;
    return steps[0];
  }

  /** The kernel refused a sysctl: it is not a change until `retryRefused`. */
  recordRefusedSysctl(path: string): void {
    this.#refusedSysctls.add(path);
  }

  /** The same for a step of traffic control. */
  recordRefusedShaping(step: ShapingStep): void {
    this.#refusedShaping.add(renderShapingStep(step));
  }

  /** What was refused is a change again. Returns whether that was counters or the fast path. */
  retryRefused(): boolean {
    this.#refusedSysctls.clear();
    this.#refusedShaping.clear();
    const refused = [this.#counters.retry(), this.#fastPath.retry()];
    return refused.includes(true);
  }

  /** Observes and compares. Throws when the kernel's routing cannot be read. */
  async observe(unchanged = NOTHING_UNCHANGED): Promise<Observation> {
    const { routing, sysctls, claims } = this.#kernels;
    if (!unchanged.routing) this.#settledRouting = undefined;
    const observed = this.#settledRouting ?? (await routing.observe());
    const { planned, heldBack } = this.#targets.plan(await this.#kernels.facts(observed));
    const plan = { ...planned.plan };
    // Routes are made as they are compared: ten thousand cost more memory than time.
    const desired = { rules: desiredRules(plan.routing), routes: eachDesiredRoute(plan.routing) };
    const nat = await this.#compareNat(plan, planned.nat, unchanged.nat);
    // A family that lacks something is left as it is: what is there may still work, and nothing better is known.
    // So is one that could not be observed, or where the desired state needs what could not be.
    const leftAlone = leftAloneOf(plan, nat.failed);
    const counters = await this.#counters.compare(plan.counters, leftAlone);
    const sysctl = await sysctls.observe(plan.sysctls);
    const addresses = this.#compareAddresses(plan, observed, leftAlone);
    const shaping = this.#compareShaping(plan.shaping);
    const fastPath = await this.#fastPath.compare(plan.fastPath);
    const proxies = this.#compareProxies(plan, observed, addresses);
    plan.families = blockWithoutForwarding(plan.families, sysctl);
    const changes: Changes = {
      // What is no longer the agent's goes first; addresses come when everything behind them is there.
      routing: [
        ...addresses.remove,
        ...proxies.filter(({ kind }) => kind === 'delProxy'),
        ...this.#compareLinks(plan, observed),
        ...diffRouting(observed, desired),
        ...addresses.add,
        ...proxies.filter(({ kind }) => kind === 'addProxy'),
      ].filter(
        (step) =>
          this.#isOpen(step, leftAlone) ||
          // Without one of its links a gateway forwards nothing, so it answers for nobody and announces nothing.
          (endsOffer(step) && plan.leftAlone.includes(routingFamily(step))),
      ),
      nat: nat.steps.filter((step) => !leftAlone.has(step.family) && !this.#isLeftover(step)),
      counters: counters.steps,
      fastPath: fastPath.steps,
      sysctl: sysctl.steps.filter(({ path }) => {
        const family = sysctlFamily(path);
        return !this.#refusedSysctls.has(path) && (family === undefined || !leftAlone.has(family));
      }),
      shaping: shaping.steps,
    };
    this.#settledRouting = changes.routing.length === 0 ? observed : undefined;
    const digests = this.#desiredDigests(planned, plan, addresses);
    return {
      plan,
      changes,
      failed: [...nat.failed, ...heldBack],
      desiredNat: planned.nat,
      desired: digests,
      awaits: [...this.#ownable.values()].some(addresses.isPending),
      backend: nat.observed.backend,
      notes: [
        ...plan.notes,
        ...planned.facts.notes,
        ...sysctl.notes,
        ...counters.notes,
        ...this.#targets.gateRefusals.map(gateNote),
        ...claims.notes(),
        ...shaping.notes,
        ...fastPath.notes,
      ],
      fastPath: fastPath.inForce,
      assigned: assignedAddresses(plan, observed),
      conflicts: [...claims.conflicts().map(addressConflict), ...shaping.foreign.map(qdiscConflict)],
    };
  }

  /** Whether a routing step may be applied: its family is not left alone, and it was not refused before. */
  #isOpen(step: RoutingStep, leftAlone: ReadonlySet<Family>): boolean {
    const family = routingFamily(step);
    const { lacking } = this.#targets.of(family);
    return !leftAlone.has(family) && (lacking.size === 0 || !lacking.has(stepKey(step)));
  }

  /** Whether a step would remove a set that was in use before. */
  #isLeftover(step: NatStep): boolean {
    return step.type === 'destroy-set' && this.#targets.of(step.family).lacking.has(leftoverKey(step.set));
  }

  async #compareNat(plan: Plan, desired: NatState, unchanged: boolean): Promise<NatComparison> {
    const needs = this.#needsOf(plan, desired);
    const asked = JSON.stringify({ ...needs, tables: [...this.#tables] });
    const settled = unchanged && this.#settledNat?.needs === asked ? this.#settledNat.observed : undefined;
    const compare = (observed: ObservedNat, failed: ObserveFailure[]): NatComparison => ({
      ...{ observed, failed, steps: diffNat(observed, desired, this.#previousNat) },
    });
    const read = async (): Promise<NatComparison> => {
      const observed = await this.#kernels.nat.observe(needs);
      return compare(observed, await this.#judgeUnreadable(observed, desired));
    };
    let found = settled === undefined ? await read() : compare(settled, []);
    // A rule that moves takes its counters along, and those have grown since.
    if (settled !== undefined && found.steps.some(hasCounters)) found = await read();
    this.#settledNat =
      found.steps.length === 0 && found.failed.length === 0
        ? { observed: { ...found.observed, sets: desired.sets }, needs: asked }
        : undefined;
    return found;
  }

  /** What an observation of the translation has to read. */
  #needsOf(plan: Plan, desired: NatState): NatNeeds {
    for (const family of FAMILIES) for (const table of desired.tables[family].keys()) this.#tables.add(table);
    return {
      families: plan.nat.map(({ family }) => family),
      tables: this.#tables,
      sets: FAMILIES.filter((family) => [...desired.sets.values()].some((set) => set.family === family)),
      ports: FAMILIES.filter((family) => desired.ports?.[family] !== undefined),
    };
  }

  /**
   * What could not be read. An unreadable table counts as last observed; in `observed` it is replaced by the desired
   * one when both agree and the jumps to the agent's chains are still there.
   */
  async #judgeUnreadable(observed: ObservedNat, desired: NatState): Promise<ObserveFailure[]> {
    const failures: ObserveFailure[] = [];
    for (const family of FAMILIES) {
      const error = observed.failed[family];
      if (error !== undefined) {
        failures.push({ ...listingFailure(error, family), family, verdict: 'unknown', kind: error.kind });
      }
      for (const [name, unreadable] of observed.unreadable[family]) {
        const wanted = desired.tables[family].get(name);
        const last = this.#targets.applied(family)?.tables.get(name);
        if (wanted === undefined && last === undefined) continue;
        const hooks = last === undefined ? [] : hooksOf(name, last);
        const missing = await this.#kernels.nat.missingHook(family, name, hooks);
        const harmless = sameEssentials(name, wanted, last) && missing === undefined;
        if (harmless && wanted !== undefined) observed.tables[family].set(name, wanted);
        failures.push({
          ...{ object: 'table', family, name, reason: natReason(unreadable), kind: unreadable.kind },
          message: missing
            ? `${missing.chain} no longer jumps to ${missing.target}, or that chain is empty; ${explain(unreadable)}`
            : explain(unreadable),
          verdict: harmless ? 'harmless' : 'unusable',
        });
      }
    }
    return failures;
  }

  #compareShaping(intent: ShapingIntent): { steps: ShapingStep[]; foreign: ForeignRoot[]; notes: string[] } {
    const desired = desiredShaping(intent);
    const observed = this.#kernels.shaping.observe(desired);
    const steps = diffShaping(observed, desired);
    const short = observed.qdiscs.some(isShortQueue);
    return {
      steps: steps.filter((step) => !this.#refusedShaping.has(renderShapingStep(step))),
      foreign: foreignRoots(observed, desired),
      notes: short
        ? [
            'this kernel has no fq_codel: packets that wait for bandwidth wait in one short queue, and a full connection delays the others of its limit; load sch_fq_codel on the node',
          ]
        : [],
    };
  }

  /** The devices of EVPN mode. They are removed with the last family that needs them, and stay while one is left alone. */
  #compareLinks({ routing, leftAlone }: Plan, { links }: RoutingState): LinkStep[] {
    const wanted = wantedVpn(routing);
    if (wanted === undefined && leftAlone.length > 0) return [];
    const family = routing.find((one) => wanted === undefined || 'vpn' in one)?.family ?? 4;
    return diffLinks(links, wanted, family);
  }

  /** Missing entries are added when it is known that no other host has the address, unless others may have it too. */
  #compareProxies(plan: Plan, observed: RoutingState, { isPending }: AddressComparison): ProxyStep[] {
    return diffProxies(observed, plan.proxies).filter(
      ({ kind, proxy }) => kind === 'delProxy' || proxy.contested || !isPending(proxy),
    );
  }

  #compareAddresses(plan: Plan, observed: RoutingState, leftAlone: ReadonlySet<Family>): AddressComparison {
    const steps = diffAddresses(observed, plan.addresses).filter(
      ({ address }) => !leftAlone.has(address.family),
    );
    const missing = unheldAddresses(plan, observed, steps).filter(({ family }) => !leftAlone.has(family));
    const links = missingAddresses(missing, observed);
    const free = this.#kernels.claims.probe(links);
    const isPending = ({ address }: Pick<VirtualAddress, 'address'>) =>
      links.has(address) && !free.has(address);
    return {
      isPending,
      remove: steps.filter(({ kind }) => kind === 'delAddress'),
      add: steps.filter(({ kind, address }) => kind === 'addAddress' && !isPending(address)),
    };
  }

  /**
   * A digest of the desired state of each family. A virtual address is part of it once it is known to be free, and stays when
   * another program deletes it and it is probed for again: its return is a repair.
   */
  #desiredDigests(
    planned: Planned,
    { addresses, proxies, leftAlone }: Plan,
    { isPending }: AddressComparison,
  ): Observation['desired'] {
    const digests: Observation['desired'] = {};
    const wanted = new Set([...addresses, ...proxies].map(placeOf));
    for (const [place, { family }] of this.#ownable) {
      if (!wanted.has(place) && !leftAlone.includes(family)) this.#ownable.delete(place);
    }
    const isOwnable = (one: Pick<VirtualAddress, 'family' | 'address' | 'dev'>): boolean => {
      const { family, address } = one;
      if (!isPending(one)) this.#ownable.set(placeOf(one), { family, address });
      return this.#ownable.has(placeOf(one));
    };
    for (const family of FAMILIES) {
      if (leftAlone.includes(family)) continue;
      const own = addresses.filter((address) => address.family === family && isOwnable(address));
      const answered = proxies.filter(
        (proxy) => proxy.family === family && (proxy.contested || isOwnable(proxy)),
      );
      digests[family] = digest(JSON.stringify([planned.digests[family], own, answered]));
    }
    return digests;
  }
}

/** An address on its interface. */
const placeOf = ({ address, dev }: Pick<VirtualAddress, 'address' | 'dev'>): string => `${address} ${dev}`;

const leftAloneOf = ({ leftAlone }: Plan, failed: readonly ObserveFailure[]): Set<Family> =>
  new Set([
    ...leftAlone,
    ...failed.filter(({ verdict }) => verdict !== 'harmless').map(({ family }) => family),
  ]);

/** A failure; what the kernel lacks is only noted. */
function failuresOf(refused: { note: string } | ApplyFailure, notes: string[]): ApplyFailure[] {
  if (!('note' in refused)) return [refused];
  notes.push(refused.note);
  return [];
}

/** A family is blocked when its forwarding is off and cannot be turned on from here. */
const blockWithoutForwarding = (
  families: readonly FamilyStatus[],
  { problems }: SysctlObservation,
): FamilyStatus[] =>
  families.map((status) => {
    const reason = problems[status.family];
    return reason === undefined ? status : { ...status, state: 'blocked', reason };
  });

const gateNote = (reason: string): string =>
  `what belongs to no connection is dropped by iptables (VEG-NEW in mangle), which costs each packet more than nf_tables (VEG-GATE): ${reason}${reason.includes('POSTROUTING') ? '' : '; load nf_tables and nft_ct on the node'}`;

const qdiscConflict = ({ dev, direction, qdisc }: ForeignRoot): Failure => ({
  ...{ object: 'qdisc', name: dev, reason: 'in_use' },
  message: `${direction} bandwidth is not limited: ${dev} has the root qdisc ${qdisc} of another program (the CNI’s rate limit, or an operator’s); remove it with "tc qdisc del dev ${dev} root", or the limit from the policy`,
});

const addressConflict = ({ address, holder }: { address: Address; holder: string }): Failure => ({
  ...{ object: 'address', family: familyOf(address), name: address, reason: 'in_use' },
  message: `${address} is not taken: ${holder} has it, or probes for it too; it is taken when it is free`,
});
