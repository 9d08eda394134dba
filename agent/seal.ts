/**
 * What `apply` leaves for the daemon that starts after it in the same network namespace: a seal on the kernel. Pure.
 *
 * A seal promises: when `apply` had ended, the kernel was as this plan says, and it answered these questions like this. While
 * it still does, nothing that the plan speaks of has changed since: nf_tables numbers its transactions, and everything else
 * is compared whole; of ipsets their headers, as when the daemon looks for drift (nat/fingerprint.ts). So a daemon whose own
 * plan is the same knows what an observation would say.
 *
 * The init container of Kube-OVN's pods is not told of BFD. So the plans are compared without the parts that come with sessions.
 * `apply` makes the rules among them all the same (sealing.ts): a daemon with sessions would have to start programs for them before
 * its first packet, and one without removes them. The ways to the peers the daemon adds itself.
 */
import { FAMILIES, type Prefix } from '../lib/prefix.ts';
import { RTPROT_VEG_AGENT } from '../routing/numbers.ts';
import type { RoutingState } from '../routing/state.ts';
import type { Plan } from './plan/plan.ts';
import type { Policy } from './policy/model.ts';
import type { Observation } from './reconcile/observation.ts';

/** What the kernel answers. */
export interface KernelAnswers {
  /** The number of the last transaction of nf_tables. */
  generation: number;
  routing: RoutingState;
  /** The headers of the agent's ipsets. */
  sets: readonly string[];
  /** The values of the plan's sysctls, in its order. */
  sysctls: readonly string[];
}

export interface Seal {
  /** Of the program that made it. */
  version: string;
  plan: string;
  generation: number;
  /** The other answers of the kernel. */
  kernel: string;
  /** Whether the plan has ipsets. */
  hasSets: boolean;
}

/** The most that a seal holds, octets. */
export const MAX_SEAL = 16 << 20;

/** The plan of a policy as text, without sessions and what comes with them, and without where the daemon listens. */
function planText(policy: Policy, plan: Plan): string {
  const { bfd: _bfd, warnings: _warnings, ...wanted } = policy;
  const { peers: _peers, listenAddresses: _listen, notes: _notes, ...planned } = plan;
  const nat = planned.nat.map((family) => ({ ...family, notrackBfd: false }));
  const routing = planned.routing.map((family) => ({ ...family, peers: [] }));
  return JSON.stringify([wanted, { ...planned, nat, routing }]);
}

/** The answers but for the number, without the agent's routes to these destinations. */
function answersText({ routing, sets, sysctls }: KernelAnswers, added: ReadonlySet<Prefix>): string {
  const routes = routing.routes.filter(
    ({ destination, protocol }) => protocol !== RTPROT_VEG_AGENT || !added.has(destination),
  );
  return JSON.stringify([{ ...routing, routes }, sets, sysctls]);
}

/**
 * Whether an observation can be sealed: the policy is the environment's, everything is in the kernel, and nothing of it in legacy
 * tables, whose changes nobody numbers.
 */
export const canSeal = (policy: Policy, { plan, backend, failed }: Observation): boolean =>
  policy.origin.kind === 'Environment' &&
  !policy.forwardOnly &&
  failed.length === 0 &&
  plan.families.every(({ state, pending }) => state !== 'blocked' && pending === undefined) &&
  FAMILIES.every((family) => backend[family] !== 'legacy') &&
  plan.nat.every(({ family }) => backend[family] === 'nft');

/**
 * The seal on an observation without differences; undefined where there can be none.
 * @param answers what the kernel answered before the observation began, and after it had ended
 * @param transactions those of nf_tables that `apply` itself has made in between
 */
export function makeSeal(
  version: string,
  policy: Policy,
  observation: Observation,
  [before, after]: readonly [before: KernelAnswers, after: KernelAnswers],
  transactions: number,
): Seal | undefined {
  if (!canSeal(policy, observation)) return undefined;
  const hasSets = observation.desiredNat.sets.size > 0;
  const plan = planText(policy, observation.plan);
  const { generation } = after;
  const seal = { version, plan, generation, kernel: answersText(after, new Set()), hasSets };
  return isIntact(seal, { ...before, generation: before.generation + transactions }) ? seal : undefined;
}

/** Whether a seal of the same program is on this plan. */
export const isPlanned = (seal: Seal, version: string, policy: Policy, plan: Plan): boolean =>
  seal.version === version && seal.plan === planText(policy, plan);

/**
 * Whether the kernel still answers as it did.
 * @param added destinations that the agent has added a route to since
 */
export const isIntact = (
  seal: Seal,
  answers: KernelAnswers,
  added: ReadonlySet<Prefix> = new Set(),
): boolean => answers.generation === seal.generation && answersText(answers, added) === seal.kernel;

const isText = (value: unknown): value is string => typeof value === 'string';

/** A seal from a file; undefined for anything else. */
export function parseSeal(value: unknown): Seal | undefined {
  const { version, plan, generation, kernel, hasSets } = (value ?? {}) as Partial<Seal>;
  const isSeal =
    [version, plan, kernel].every(isText) && Number.isInteger(generation) && typeof hasSets === 'boolean';
  return isSeal ? (value as Seal) : undefined;
}
