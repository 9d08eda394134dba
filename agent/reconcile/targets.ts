/**
 * What a family is brought to when the kernel refuses a part of the newest policy. Pure; reconciler.ts tries it out.
 *
 * **Intact** means: translation and routing of the family are, now and by a look at the kernel, what a good policy
 * says, but for what is named below. The good policy is the newest one or the one that the family was last brought
 * to, by this process or by the one before it. A family that is intact keeps its sessions Up, whatever else was
 * refused; one that is not is taken out of Up.
 *
 * What may be missing in an intact family, because every packet is still translated or dropped as the policy says:
 *
 * - the optional parts of the translation (nat/desired.ts): the MSS clamp, BFD past connection tracking;
 * - virtual addresses: who is translated to one that is not there gets no answer;
 * - routes and rules that were not there before either: the newest policy's, for blocks that the last one did not know;
 * - rules and routes of the pod's primary network (1005, 1006, table 1001): they are for the pod's own packets;
 * - sysctls that no family needs to forward;
 * - the look at a table that only `nft` can list: it counts as it was last seen, as long as it still has the rules that
 *   lead to ours, and something where they lead.
 *
 * A policy that needs what the pod has not (an interface that is not there, is down, or has no address) is refused as
 * a whole, as long as the last good one needs none of it.
 *
 * Everything else is one thing: what translates goes in as a whole, or what was there last stays as a whole. So a new
 * policy that is refused leaves no half of itself behind.
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
import { hasProtocol } from '../../routing/ownership.ts';
import { renderRule } from '../../routing/render.ts';
import type { Route, Rule } from '../../routing/state.ts';
import type { Missing } from '../policy/last-good.ts';
import type { Policy } from '../policy/model.ts';

export interface Aim {
  policy: Policy;
  /** Optional parts that are left out. */
  without: readonly OptionalPart[];
  /** Steps of routing that were refused, by `stepKey`: they are not tried again with this aim. */
  lacking: ReadonlySet<string>;
}

/** What the aims lack. An aim that is none lacks nothing. */
export const missingOf = (aims: Readonly<Record<Family, Aim | undefined>>): Missing => ({
  without: { 4: aims[4]?.without ?? [], 6: aims[6]?.without ?? [] },
  lacking: [...new Set([...(aims[4]?.lacking ?? []), ...(aims[6]?.lacking ?? [])])],
});

/** The aim of a family at a policy that lacks something. */
export const aimLacking = (policy: Policy, { without, lacking }: Missing, family: Family): Aim => ({
  ...{ policy, without: without[family], lacking: new Set(lacking) },
});

export const aimAt = (policy: Policy, without: readonly OptionalPart[] = []): Aim => ({
  ...{ policy, without, lacking: new Set<string>() },
});

/** Whether two aims ask the same of translation. */
export const sameAim = (a: Aim, b: Aim): boolean =>
  a.policy === b.policy && a.without.join() === b.without.join();

/** The translation that is aimed at, of what the whole policy asks. */
export const natOf = (nat: FamilyNat, { without }: Aim): FamilyNat => ({
  ...nat,
  ...Object.fromEntries(without.map((part) => [part, false])),
});

/** The optional parts that steps bring in. */
export const partsIn = (steps: readonly NatStep[]): OptionalPart[] =>
  OPTIONAL_PARTS.filter(({ table, chain }) =>
    steps.some((step) => step.type === 'insert-rule' && step.table === table && step.chain === chain),
  ).map(({ part }) => part);

/** What no other choice of rules would mend. */
const NOT_ABOUT_RULES: ReadonlySet<NatErrorKind> = new Set([
  ...(['not-installed', 'not-permitted', 'locked', 'lock-file', 'timed-out'] as const),
]);

/**
 * What to try, in order, after the newest policy was refused as a whole.
 * @param parts the optional parts among what was refused
 * @param kind why translation was refused; undefined when it was routing
 * @param good what the family was last brought to
 */
export function fallbacks(
  newest: Aim,
  parts: readonly OptionalPart[],
  kind: NatErrorKind | undefined,
  good: Aim | undefined,
): Aim[] {
  const aims: Aim[] = [];
  if (kind !== undefined && !NOT_ABOUT_RULES.has(kind) && parts.length > 0) {
    aims.push(aimAt(newest.policy, parts));
  }
  if (good !== undefined) aims.push(good);
  return aims;
}

export const ruleKey = (rule: Rule): string => `rule ${rule.family} ${renderRule(rule)}`;
export const routeKey = ({ table, destination, qualifier = '' }: Route): string =>
  `route ${table} ${destination} ${qualifier}`;

/** What a routing step is about: steps about one thing have one key. */
export function stepKey(step: RoutingStep): string {
  const removes = step.kind.startsWith('del') ? 'no ' : '';
  if ('address' in step) return `${removes}address ${step.address.address}`;
  return removes + ('rule' in step ? ruleKey(step.rule) : routeKey(step.route));
}

/** Whether a step is about the pod's primary network, which nothing that is forwarded uses. */
const isOfPrimary = (step: RoutingStep): boolean =>
  'rule' in step ? hasProtocol(step.rule.priority) : 'route' in step && step.route.table === TABLE_PRIMARY;

/** Whether a family routes without it. */
export const isOptionalStep = (step: RoutingStep): boolean =>
  'address' in step || step.kind === 'delRoute' || step.kind === 'delRule' || isOfPrimary(step);

/** A table without its optional chains and what jumps to them, as text. */
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

/** Whether two states of a table differ in nothing that translation needs. */
export const sameEssentials = (name: string, a: Table | undefined, b: Table | undefined): boolean =>
  essentials(name, a) === essentials(name, b);

/** The rules that lead from built-in chains to what translation needs of ours, and is not empty. */
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

/** The family that a setting is for; undefined: for either. */
export function sysctlFamily(path: string): Family | undefined {
  if (path.startsWith('net/ipv4/')) return 4;
  return path.startsWith('net/ipv6/') ? 6 : undefined;
}
