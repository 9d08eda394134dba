/**
 * The steps from the observed routing to the desired routing. Pure.
 *
 * The agent owns the four rule priorities, table 1000, and what carries its protocol number among the routes of the
 * other tables (that of a VRF among them) and the rules of priorities 1000, 1005 and 1006; nothing else is ever removed. A
 * foreign route that equals a desired one is adopted: it satisfies the agent, and stays when it is no longer desired. A
 * foreign route with another next hop for a desired destination stays too; the agent's own precedes it (docs/ownership.md).
 */
import type { Prefix } from '../lib/prefix.ts';
import type { AddressStep } from './addresses.ts';
import type { LinkStep } from './links.ts';
import {
  GROUP_RULE_PRIORITY,
  GROUP_TABLES,
  RTPROT_KERNEL,
  RTPROT_VEG_AGENT,
  TABLE_INTERNAL,
} from './numbers.ts';
import { isAnnouncement, ownsRoute, ownsRule } from './ownership.ts';
import type { ProxyStep } from './proxies.ts';
import type { Route, RoutingState, Rule } from './state.ts';

/** One change. `prependRoute` is an add in front of routes with the same destination and metric (IPv4). */
export type RoutingStep =
  | { kind: 'addRoute' | 'prependRoute' | 'replaceRoute' | 'delRoute'; route: Route }
  | { kind: 'addRule' | 'delRule'; rule: Rule }
  | AddressStep
  | ProxyStep
  | LinkStep;

/** The IPv6 metric that wins against any other; 0 would mean the default. */
const FIRST_METRIC_6 = 1;

/**
 * The steps from `observed` to `desired`, in the order in which nothing is missing in between: add before
 * delete, and rules only while the table that they lead to is filled.
 */
export function diffRouting(
  observed: Pick<RoutingState, 'routes' | 'rules'>,
  desired: { rules: readonly Rule[]; routes: Iterable<Route> },
): RoutingStep[] {
  const routes = diffRoutes(observed.routes, desired.routes);
  const rules = diffRules(observed.rules, desired.rules);
  return [...routes.put, ...rules, ...routes.remove];
}

/**
 * Whether a step adds what only packets with the mark of another member of the group follow, or what keeps packets of a VRF in
 * it: the translation is changed after it.
 */
export const precedesTranslation = (step: RoutingStep): boolean =>
  (step.kind === 'addRule' &&
    (step.rule.priority === GROUP_RULE_PRIORITY || step.rule.l3mdev !== undefined)) ||
  (step.kind === 'replaceRoute' && GROUP_TABLES.includes(step.route.table));

// Rules ------------------------------------------------------------------------------------------------

const ruleKey = (rule: Rule): string =>
  `${rule.family} ${rule.priority} ${rule.from ?? 'all'} ${rule.to ?? 'all'} ${rule.iif ?? ''} ${rule.mark?.value ?? ''}/${rule.mark?.mask ?? ''} ${rule.l3mdev ?? rule.table}`;

function diffRules(observed: readonly Rule[], desired: readonly Rule[]): RoutingStep[] {
  const missing = new Map(desired.map((rule) => [ruleKey(rule), rule]));
  const own = observed.filter(ownsRule);
  const unwanted = own.filter((rule) => rule.foreign || !missing.delete(ruleKey(rule)));
  const steps: RoutingStep[] = [...missing.values()].map((rule) => ({ kind: 'addRule', rule }));
  // The kernel appends what is added and deletes the first rule that a request matches.
  const list = [...own, ...missing.values()];
  for (const rule of unwanted) {
    for (;;) {
      const at = list.findIndex((candidate) => couldDelete(rule, candidate));
      const [hit] = list.splice(at, 1);
      steps.push({ kind: 'delRule', rule });
      if (hit === undefined || hit === rule || sameRule(hit, rule)) break;
      // The request matches a more specific rule before it: that one moves behind it.
      steps.push({ kind: 'addRule', rule: hit });
      list.push(hit);
    }
  }
  return steps;
}

const sameRule = (a: Rule, b: Rule): boolean => !a.foreign && !b.foreign && ruleKey(a) === ruleKey(b);

/**
 * Whether a request to delete `rule` also means `candidate`: what the request leaves open matches anything, and
 * inversion and suppressors are not looked at (net/core/fib_rules.c, rule_find).
 */
const couldDelete = (rule: Rule, candidate: Rule): boolean =>
  rule === candidate ||
  (rule.family === candidate.family &&
    rule.priority === candidate.priority &&
    // A request for packets of a VRF names no table.
    (rule.l3mdev === undefined ? rule.table === candidate.table : rule.l3mdev === candidate.l3mdev) &&
    (rule.from === undefined || rule.from === candidate.from) &&
    (rule.to === undefined || rule.to === candidate.to) &&
    (rule.iif === undefined || rule.iif === candidate.iif) &&
    (rule.mark === undefined || rule.mark.value === candidate.mark?.value) &&
    (rule.qualifier === undefined || rule.qualifier === candidate.qualifier));

// Routes -----------------------------------------------------------------------------------------------

/**
 * The routes that compete with a wanted one: of its table, for its destination, and without a TOS or source, which
 * wanted routes never have. Routes that are alone at their place, nearly all of them, cost no list.
 */
class Places {
  readonly #tables = new Map<number, Map<Prefix, Route | Route[]>>();

  constructor(routes: readonly Route[]) {
    for (const route of routes) if (route.qualifier === undefined) this.#add(route);
  }

  #add(route: Route): void {
    let places = this.#tables.get(route.table);
    if (places === undefined) {
      places = new Map();
      this.#tables.set(route.table, places);
    }
    const there = places.get(route.destination);
    if (there === undefined) places.set(route.destination, route);
    else if (Array.isArray(there)) there.push(route);
    else places.set(route.destination, [there, route]);
  }

  at({ table, destination }: Route): readonly Route[] {
    const there = this.#tables.get(table)?.get(destination) ?? [];
    return Array.isArray(there) ? there : [there];
  }
}

/**
 * Whether a route leads where the desired one does, regardless of protocol and metric. `onlink` is ignored:
 * a foreign route satisfies the agent with it or without.
 */
const saysSame = (wanted: Route, route: Route): boolean =>
  !route.foreign &&
  route.type === wanted.type &&
  route.gateway === wanted.gateway &&
  (!ownsRoute(route) || route.onlink === wanted.onlink) &&
  route.dev === wanted.dev;

function diffRoutes(
  observed: readonly Route[],
  desired: Iterable<Route>,
): { put: RoutingStep[]; remove: RoutingStep[] } {
  const places = new Places(observed);
  const put: RoutingStep[] = [];
  const settled = new Set<Route>();
  for (const wanted of desired) {
    const here = places.at(wanted);
    // Nearly all of ten thousand: the agent's own, alone at its place.
    if (here.length === 1 && isThere(wanted, here[0]!)) {
      settled.add(here[0]!);
      continue;
    }
    const isOwn = wanted.table === TABLE_INTERNAL || GROUP_TABLES.includes(wanted.table);
    // What is announced stands beside other routes of the destination, and neither satisfies the other.
    const [announced, others] = here.some(isAnnouncement)
      ? [here.filter(isAnnouncement), here.filter((route) => !isAnnouncement(route))]
      : [[], here];
    const { steps, keep } = isAnnouncement(wanted)
      ? ownPlace(wanted, announced)
      : isOwn
        ? ownPlace(wanted, here)
        : sharedPlace(wanted, others);
    put.push(...steps);
    if (keep !== undefined) settled.add(keep);
  }
  const remove = observed
    .filter((route) => ownsRoute(route) && !settled.has(route))
    .map((route): RoutingStep => ({ kind: 'delRoute', route }));
  return { put, remove };
}

/** Whether an observed route of the agent's is exactly the wanted one. */
const isThere = (wanted: Route, route: Route): boolean =>
  route.protocol === wanted.protocol && route.metric === wanted.metric && saysSame(wanted, route);

/** The steps for one wanted route, and the observed one that is not to be removed afterwards. */
interface Place {
  steps: RoutingStep[];
  keep: Route | undefined;
}

/** A wanted route in a table that is wholly the agent's: exactly it, whatever was there. */
function ownPlace(wanted: Route, here: readonly Route[]): Place {
  const exact = here.find((route) => isThere(wanted, route));
  if (exact !== undefined) return { steps: [], keep: exact };
  return putAt(wanted, here);
}

/** A wanted route in the main table, which others use as well. */
function sharedPlace(wanted: Route, here: readonly Route[]): Place {
  const metric = Math.min(...here.map((route) => route.metric));
  const best = here.filter((route) => route.metric === metric);
  // IPv4 uses the first of them; IPv6 spreads over all of them.
  const used = wanted.family === 4 ? best.slice(0, 1) : best;
  const own = here.filter((route) => route.protocol === RTPROT_VEG_AGENT);
  if (used.length > 0 && used.every((route) => saysSame(wanted, route))) {
    return {
      steps: [],
      keep: used.find((route) => own.includes(route)) ?? own.find((route) => saysSame(wanted, route)),
    };
  }
  // The network is on a link of the pod itself: no gateway leads there.
  if (used.some((route) => route.protocol === RTPROT_KERNEL && route.gateway === undefined)) {
    return { steps: [], keep: undefined };
  }
  if (wanted.family === 6) {
    const contested = here.some((route) => !own.includes(route) && route.metric <= wanted.metric);
    return putAt(contested ? { ...wanted, metric: FIRST_METRIC_6 } : wanted, here);
  }
  const first = here.find((route) => route.metric === wanted.metric);
  if (first === undefined || own.includes(first)) return putAt(wanted, here);
  // An equal route further down would make the kernel refuse the one in front.
  const behind = own.find((route) => route.metric === wanted.metric && saysSame(wanted, route));
  return {
    steps: [
      ...(behind === undefined ? [] : [{ kind: 'delRoute' as const, route: behind }]),
      { kind: 'prependRoute', route: wanted },
    ],
    keep: behind,
  };
}

/** Puts a route in the place of the first one with its destination and metric, or adds it. */
function putAt(route: Route, here: readonly Route[]): Place {
  const replaced = here.find((other) => other.metric === route.metric);
  // A table of a group without its rule is not observed: a former process may have left a route in it.
  const kind = replaced === undefined && !GROUP_TABLES.includes(route.table) ? 'addRoute' : 'replaceRoute';
  return {
    steps: [{ kind, route }],
    keep: replaced,
  };
}
