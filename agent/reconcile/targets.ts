/**
 * The state that a family is brought to when the kernel refuses a part of the newest policy. Pure; reconciler.ts
 * applies it.
 *
 * **Intact** means: translation and routing of the family are observed in the kernel now as a good policy says, except
 * for what is listed below. The good policy is the newest one or the one last applied in the family, by this process
 * or by the one before it. A family that is intact keeps its sessions Up, whatever else was refused; one that is not
 * is taken out of Up.
 *
 * An intact family may lack the following, because every packet is still translated or dropped as the policy says:
 *
 * - the optional parts of the translation (nat/desired.ts): the MSS clamp, the limit of a source, BFD past connection tracking,
 *   ICMP for other members of a group;
 * - virtual addresses: sources that are translated to a missing one get no answer;
 * - routes and rules that were missing before too: the newest policy's, for blocks that the last one did not have;
 * - rules and routes of the pod's primary network (1005, 1006, table 1001): they are for the pod's own packets;
 * - announced routes: routers learn less than the policy says;
 * - sysctls that no family needs to forward;
 * - the listing of a table that only `nft` can list: its last observed state counts, as long as it still has the rules
 *   that lead to the agent's chains, and those chains are not empty.
 *
 * A policy that needs what the pod lacks (an interface that does not exist, is down, or has no address) is refused as
 * a whole, as long as the last good one does not need it.
 *
 * Translation is all or nothing: it is applied as a whole, or the last state stays as a whole. So a refused policy
 * leaves no half of itself behind.
 */

import type { Family } from '../../lib/prefix.ts';
import { type FamilyNat, OPTIONAL_PARTS, type OptionalPart } from '../../nat/desired.ts';
import type { NatStep } from '../../nat/diff.ts';
import type { NatErrorKind } from '../../nat/errors.ts';
import type { Hook } from '../../nat/kernel.ts';
import { isOwnedName, ruleWords } from '../../nat/rules.ts';
import type { Chain, Table } from '../../nat/state.ts';
import type { RoutingStep } from '../../routing/diff.ts';
import { TABLE_PRIMARY } from '../../routing/numbers.ts';
import { hasProtocol, isAnnouncement } from '../../routing/ownership.ts';
import { renderRule } from '../../routing/render.ts';
import type { Route, Rule } from '../../routing/state.ts';
import { guardsAddresses } from '../pod/desired-sysctls.ts';
import type { Missing } from '../policy/last-good.ts';
import type { Policy } from '../policy/model.ts';

/** The outcome of a run in one family. */
export type FamilyOutcome =
  /** As the newest policy says. */
  | 'applied'
  /** Intact, but not all as the newest policy says. */
  | 'held'
  /** It does not translate or route as any good policy said. */
  | 'broken'
  /** It could not be observed. */
  | 'unknown';

/** The outcomes of a family that may carry traffic: it is intact. */
export const INTACT: ReadonlySet<FamilyOutcome> = new Set(['applied', 'held'] as const);

export interface Target {
  policy: Policy;
  /** Optional parts of the translation that are left out. */
  without: readonly OptionalPart[];
  /** Routing steps that were refused, by `stepKey`, and sets that could not go, by `leftoverKey`: not retried with this target. */
  lacking: ReadonlySet<string>;
}

/** What the targets lack, of which some families are `broken`. */
export const missingOf = (
  targets: Readonly<Record<Family, Target | undefined>>,
  broken: readonly Family[],
): Missing => ({
  without: { 4: targets[4]?.without ?? [], 6: targets[6]?.without ?? [] },
  lacking: [...new Set([...(targets[4]?.lacking ?? []), ...(targets[6]?.lacking ?? [])])],
  broken,
});

/** The target of a family at a policy of which something is missing. */
export const targetLacking = (policy: Policy, { without, lacking }: Missing, family: Family): Target => ({
  ...{ policy, without: without[family], lacking: new Set(lacking) },
});

export const targetAt = (policy: Policy, without: readonly OptionalPart[] = []): Target => ({
  ...{ policy, without, lacking: new Set<string>() },
});

/** Whether two targets have the same translation. */
export const sameTarget = (a: Target, b: Target): boolean =>
  a.policy === b.policy && a.without.join() === b.without.join();

/** The translation of a target, out of that of its whole policy. */
export const targetNat = (nat: FamilyNat, { without }: Target): FamilyNat => ({
  ...nat,
  ...Object.fromEntries(without.map((part) => [part, undefined])),
});

/** The optional parts that steps add. */
export const partsIn = (steps: readonly NatStep[]): OptionalPart[] =>
  OPTIONAL_PARTS.filter(({ table, chain }) =>
    steps.some((step) => step.type === 'insert-rule' && step.table === table && step.chain === chain),
  ).map(({ part }) => part);

/** Errors that no other choice of rules avoids. */
const NOT_ABOUT_RULES: ReadonlySet<NatErrorKind> = new Set([
  ...(['not-installed', 'not-permitted', 'locked', 'lock-file', 'timed-out'] as const),
]);

/**
 * The targets to try, in order, after the newest policy was refused as a whole.
 * @param parts the optional parts among the refused steps
 * @param kind why translation was refused; undefined when routing was
 * @param good the target last applied in the family
 */
export function fallbacks(
  newest: Target,
  parts: readonly OptionalPart[],
  kind: NatErrorKind | undefined,
  good: Target | undefined,
): Target[] {
  const targets: Target[] = [];
  if (kind !== undefined && !NOT_ABOUT_RULES.has(kind) && parts.length > 0) {
    targets.push(targetAt(newest.policy, parts));
  }
  if (good !== undefined) targets.push(good);
  return targets;
}

export const ruleKey = (rule: Rule): string => `rule ${rule.family} ${renderRule(rule)}`;
export const routeKey = (route: Route): string => {
  const { table, destination, qualifier = '' } = route;
  return `${isAnnouncement(route) ? 'announced ' : ''}route ${table} ${destination} ${qualifier}`;
};

/** The object of a routing step: steps on one object have one key. */
export function stepKey(step: RoutingStep): string {
  const removes = step.kind.startsWith('del') ? 'no ' : '';
  if ('address' in step) return `${removes}address ${step.address.address}`;
  if ('proxy' in step) return `${removes}proxy ${step.proxy.address}`;
  if ('link' in step) return `${removes}link ${step.link.name}`;
  return removes + ('rule' in step ? ruleKey(step.rule) : routeKey(step.route));
}

/** Whether a step is for the pod's primary network, which nothing that is forwarded uses. */
const isOfPrimary = (step: RoutingStep): boolean =>
  'rule' in step ? hasProtocol(step.rule.priority) : 'route' in step && step.route.table === TABLE_PRIMARY;

/** A set that is in use and left over. */
export const leftoverKey = (set: string): string => `no set ${set}`;

/** Whether a family routes without the step. */
export const isOptionalStep = (step: RoutingStep): boolean =>
  'address' in step ||
  'proxy' in step ||
  step.kind === 'delRoute' ||
  ('route' in step && isAnnouncement(step.route)) ||
  step.kind === 'delRule' ||
  isOfPrimary(step);

/** A table without its optional chains and the jumps to them, as text. */
function essentials(name: string, table: Table | undefined): string {
  const optional = OPTIONAL_PARTS.filter((part) => part.table === name).map(({ chain }) => chain as string);
  const chains = [...(table ?? new Map<string, Chain>())]
    .filter(([chain]) => !optional.includes(chain))
    .map(([chain, { rules }]): [string, string[]] => [
      chain,
      rules.map(({ text }) => text).filter((text) => !optional.includes(ruleWords(text).words.at(-1) ?? '')),
    ])
    .filter(([, rules]) => rules.length > 0);
  return JSON.stringify(chains.sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Whether two states of a table agree in all that translation needs. */
export const sameEssentials = (name: string, a: Table | undefined, b: Table | undefined): boolean =>
  essentials(name, a) === essentials(name, b);

/** The jumps from built-in chains to the agent's chains that translation needs and that are not empty. */
export function hooksOf(name: string, table: Table): Hook[] {
  const optional = OPTIONAL_PARTS.filter((part) => part.table === name).map(({ chain }) => chain as string);
  return [...table]
    .filter(([chain]) => !isOwnedName(chain))
    .flatMap(([chain, { rules }]) =>
      rules.flatMap(({ text }) => {
        const target = ruleWords(text).words.at(-1) ?? '';
        const leads = !optional.includes(target) && (table.get(target)?.rules.length ?? 0) > 0;
        return leads ? [{ chain, target }] : [];
      }),
    );
}

/** The family of a sysctl; undefined: both, or that it comes before all of a family. */
export function sysctlFamily(path: string): Family | undefined {
  if (guardsAddresses(path)) return undefined;
  if (path.startsWith('net/ipv4/')) return 4;
  return path.startsWith('net/ipv6/') ? 6 : undefined;
}
