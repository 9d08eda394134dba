/** The kernel as a reconcile sees it, and what it observed there. Types only. */
import type { Address, Family } from '../../lib/prefix.ts';
import type { CounterKernel } from '../../nat/counters/kernel.ts';
import type { NatErrorKind } from '../../nat/errors.ts';
import type { FastPathKernel } from '../../nat/fast-path/kernel.ts';
import type { NatKernel, ObservedNat } from '../../nat/kernel.ts';
import type { NatState } from '../../nat/state.ts';
import type { RoutingKernel } from '../../routing/kernel.ts';
import type { ShapingKernel } from '../../shaping/kernel.ts';
import type { Plan } from '../plan/plan.ts';
import type { Facts } from '../pod/interfaces.ts';
import type { Sysctls } from '../pod/sysctl.ts';
import type { Claims, LinkIdentity } from '../uplink/claims.ts';
import type { Neighbour } from '../uplink/neighbours.ts';
import type { Changes } from './changes.ts';
import type { Failure } from './failures.ts';

/** What a reconcile reads and writes; kernels.ts has the real one, tests a model. */
export interface Kernels {
  routing: Pick<RoutingKernel, 'observe' | 'apply'>;
  nat: NatKernel;
  counters: CounterKernel;
  fastPath: FastPathKernel;
  sysctls: Sysctls;
  shaping: Pick<ShapingKernel, 'observe' | 'apply'>;
  claims: Pick<
    Claims,
    | 'assigned'
    | 'conflicts'
    | 'isFree'
    | 'notes'
    | 'probe'
    | 'refused'
    | 'removed'
    | 'setAssigned'
    | 'settled'
  >;
  /** The neighbour entries that the agent made permanent. */
  neighbours: { permanent(): Neighbour[]; remove(entries: readonly Neighbour[]): void };
  facts(observed: Awaited<ReturnType<RoutingKernel['observe']>>): Promise<Facts>;
}

/** The observed state, compared with the plan. */
export interface Observation {
  plan: Plan;
  changes: Changes;
  /** What could not be observed, by family. A family with `unknown` or `unusable` here is not changed. */
  failed: ObserveFailure[];
  /** The desired translation; the next comparison needs it. */
  desiredNat: NatState;
  /** A digest of the desired state of each family: equal ones, equal states. Absent where the family is left alone. */
  desired: Partial<Record<Family, string>>;
  /** The iptables backend of each family. */
  backend: ObservedNat['backend'];
  notes: string[];
  /** The fast path is in the kernel when the changes are applied; if it cannot be read, as it was. */
  fastPath: boolean;
  /** What the counters or the fast path were refused before is among the changes again. */
  retries?: boolean;
  /** Another program has deleted a virtual address, and it is restored when a probe has found it free. */
  awaits?: boolean;
  /** The addresses to announce and defend, each with its link. */
  assigned: ReadonlyMap<Address, LinkIdentity>;
  /** Virtual addresses in use by another host, and interfaces with a root qdisc of another program. */
  conflicts: Failure[];
}

/** What has to be remembered of an observation until the next one: not each step that was applied. */
export type ObservedState = Pick<Observation, 'plan' | 'desired' | 'backend' | 'desiredNat'>;

/**
 * A failure to observe. `harmless`: of one table, as long as nothing is to be changed in it; or of what the newest
 * policy needs and the one that the family is held at does not. `unusable`: the family may not be intact. `unknown`:
 * nothing is known of the family now.
 */
export interface ObserveFailure extends Failure {
  family: Family;
  verdict: 'harmless' | 'unusable' | 'unknown';
  kind: NatErrorKind;
}

/** The parts without a change event since the last observation: what was observed then counts, if it was as desired. */
export interface Unchanged {
  routing: boolean;
  nat: boolean;
}
