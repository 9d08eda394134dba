/**
 * A small kernel for tests: lists of routes and rules that obey the kernel's own rules about what replaces
 * what, which of several is deleted, and which is used (net/ipv4/fib_trie.c, net/ipv6/ip6_fib.c,
 * net/core/fib_rules.c).
 */
import type { RoutingStep } from '../../routing/diff.ts';
import type { Route, Rule } from '../../routing/state.ts';

const place = (route: Route): string =>
  `${route.family} ${route.table} ${route.destination} ${route.qualifier ?? ''} ${route.metric}`;
const target = (route: Route): string =>
  `${place(route)} ${route.gateway} ${route.dev} ${route.protocol} ${route.type} ${route.foreign}`;

export class ModelKernel {
  routes: Route[] = [];
  rules: Rule[] = [];

  /** Carries steps out; throws where the kernel would refuse and the agent would call it a failure. */
  apply(steps: readonly RoutingStep[]): void {
    for (const step of steps) {
      if ('rule' in step) this.#applyRule(step.kind, step.rule);
      else if ('route' in step) this.#applyRoute(step.kind, step.route);
    }
  }

  /** The routes that packets for exactly this destination take: one, or several that share them (IPv6). */
  used(family: 4 | 6, table: number, destination: string): Route[] {
    const here = this.routes.filter(
      (route) =>
        route.family === family &&
        route.table === table &&
        route.destination === destination &&
        route.qualifier === undefined,
    );
    const metric = Math.min(...here.map((route) => route.metric));
    const best = here.filter((route) => route.metric === metric);
    return family === 4 ? best.slice(0, 1) : best;
  }

  #applyRule(kind: string, rule: Rule): void {
    if (kind === 'addRule') {
      const behind = this.rules.findLastIndex(({ priority }) => priority <= rule.priority);
      this.rules.splice(behind + 1, 0, rule);
      return;
    }
    const at = this.rules.findIndex(
      (other) =>
        other.family === rule.family &&
        other.priority === rule.priority &&
        (rule.l3mdev === undefined ? other.table === rule.table : other.l3mdev === rule.l3mdev) &&
        (rule.from === undefined || other.from === rule.from) &&
        (rule.iif === undefined || other.iif === rule.iif) &&
        (rule.qualifier === undefined || other.qualifier === rule.qualifier),
    );
    if (at >= 0) this.rules.splice(at, 1);
  }

  #applyRoute(kind: string, route: Route): void {
    const { routes } = this;
    const first = routes.findIndex((other) => place(other) === place(route));
    switch (kind) {
      case 'delRoute': {
        const at = routes.findIndex((other) => target(other) === target(route));
        if (at >= 0) routes.splice(at, 1);
        return;
      }
      case 'replaceRoute':
        if (first < 0) break;
        this.routes = routes.filter(
          (other, i) => i <= first || route.family === 4 || place(other) !== place(route),
        );
        this.routes[first] = route;
        return;
      case 'prependRoute':
        if (routes.some((other) => target(other) === target(route))) return;
        if (first >= 0) {
          routes.splice(first, 0, route);
          return;
        }
        break;
      default:
        if (first >= 0) throw new Error(`File exists: ${target(route)}`);
    }
    const behind = routes.findLastIndex((other) => other.metric <= route.metric);
    routes.splice(behind + 1, 0, route);
  }
}

/** A repeatable random source (mulberry32): numbers in [0, 1). */
export function randomSource(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}
