/**
 * The kernel's routing over netlink: reads it whole, and makes the changes that diff.ts asks for. What it needs
 * of the transport is declared here; lib/netlink.ts has it.
 */
import { NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE } from '../lib/linux.ts';
import { type Address, contains, FAMILIES, type Family, parsePrefix } from '../lib/prefix.ts';
import type { RoutingStep } from './diff.ts';
import { GROUP_RULE_PRIORITY, TABLES } from './numbers.ts';
import {
  addressDump,
  formatAddress,
  formatProxy,
  formatRoute,
  formatRule,
  linkDump,
  MessageType,
  parseInterfaceAddress,
  parseLink,
  parseProxy,
  parseRoute,
  parseRule,
  proxyDump,
  routeDump,
  ruleDump,
} from './parse.ts';
import { renderStep } from './render.ts';
import type { Link, Route, RoutingState, Rule } from './state.ts';

/** What is needed of a NETLINK_ROUTE socket. Errors carry the errno's name. */
export interface RoutingNetlink {
  dump<T>(type: number, data: Uint8Array, parse: (payload: Buffer) => T | undefined): T[];
  transact(
    requests: Iterable<{ type: number; flags?: number; data: Uint8Array }>,
  ): Promise<((Error & { code: string }) | undefined)[]>;
}

/** A step that the kernel refused. The message is the step as a command line, and the kernel's reason. */
export class RoutingError extends Error {
  readonly step: RoutingStep;
  /** The errno's name. */
  readonly code: string;

  constructor(step: RoutingStep, code: string, reason: string) {
    super(`${renderStep(step)}: ${reason}`);
    this.name = 'RoutingError';
    this.step = step;
    this.code = code;
  }
}

export interface RoutingKernel {
  /** Reads links, addresses, rules and our tables. Rejects with what the transport throws. */
  observe(): Promise<RoutingState>;
  /**
   * Makes the changes in order; one that fails does not keep the others from being made. Returns the
   * failures. A thing that is there already, or gone already, is no failure.
   */
  apply(steps: readonly RoutingStep[]): Promise<RoutingError[]>;
}

/**
 * A rule is added without NLM_F_EXCL: the kernel would take an inverted rule, or one that differs in its
 * protocol only, for the same and refuse.
 */
const REQUESTS = {
  addRoute: { type: MessageType.NEWROUTE, flags: NLM_F_CREATE | NLM_F_EXCL },
  prependRoute: { type: MessageType.NEWROUTE, flags: NLM_F_CREATE },
  replaceRoute: { type: MessageType.NEWROUTE, flags: NLM_F_CREATE | NLM_F_REPLACE },
  delRoute: { type: MessageType.DELROUTE, flags: 0 },
  addRule: { type: MessageType.NEWRULE, flags: NLM_F_CREATE },
  delRule: { type: MessageType.DELRULE, flags: 0 },
  addAddress: { type: MessageType.NEWADDR, flags: NLM_F_CREATE | NLM_F_EXCL },
  delAddress: { type: MessageType.DELADDR, flags: 0 },
  addProxy: { type: MessageType.NEWNEIGH, flags: NLM_F_CREATE | NLM_F_REPLACE },
  delProxy: { type: MessageType.DELNEIGH, flags: 0 },
} as const;

/** Answers that mean that the step is done: there already, or gone already (with its link, with its table). */
const DONE_ALREADY: Readonly<Record<RoutingStep['kind'], readonly string[]>> = {
  addRoute: ['EEXIST'],
  prependRoute: ['EEXIST'],
  replaceRoute: ['EEXIST'],
  delRoute: ['ESRCH', 'ENOENT'],
  addRule: ['EEXIST'],
  delRule: ['ENOENT', 'ESRCH'],
  addAddress: ['EEXIST'],
  delAddress: ['EADDRNOTAVAIL', 'ENODEV'],
  addProxy: ['EEXIST'],
  delProxy: ['ENOENT', 'ENODEV'],
};

/** Answers to a route whose gateway is not on the link: of IPv4, of IPv6. */
const UNREACHED: readonly string[] = ['ENETUNREACH', 'EHOSTUNREACH'];

/** Answers to a dump that mean that there is nothing: no such table, no such family in this kernel. */
const NOTHING_THERE: readonly string[] = ['ENOENT', 'ENOTSUP', 'EAFNOSUPPORT'];

/** The interface of a step, where it has one. */
function deviceOf(step: RoutingStep): string | undefined {
  if ('rule' in step) return undefined;
  if ('route' in step) return step.route.dev;
  return 'proxy' in step ? step.proxy.dev : step.address.dev;
}

function payload(step: RoutingStep, indexes: ReadonlyMap<string, number>): Uint8Array {
  if ('rule' in step) return formatRule(step.rule);
  const ifindex = indexes.get(deviceOf(step) ?? '');
  if ('route' in step) return formatRoute(step.route, ifindex);
  return 'proxy' in step ? formatProxy(step.proxy, ifindex ?? 0) : formatAddress(step.address, ifindex ?? 0);
}

function* requestsFor(
  steps: readonly RoutingStep[],
  indexes: ReadonlyMap<string, number>,
): Iterable<{ type: number; flags: number; data: Uint8Array }> {
  for (const step of steps) {
    yield { ...REQUESTS[step.kind], data: payload(step, indexes) };
  }
}

export function createRoutingKernel(netlink: RoutingNetlink): RoutingKernel {
  /** A dump that may have no answer. */
  const tryDump = <T>(type: number, data: Uint8Array, parse: (payload: Buffer) => T | undefined): T[] => {
    try {
      return netlink.dump(type, data, parse);
    } catch (error) {
      if (NOTHING_THERE.includes((error as { code?: string }).code ?? '')) return [];
      throw error;
    }
  };
  const dumpLinks = (): Link[] => netlink.dump(MessageType.GETLINK, linkDump(), parseLink);
  const dumpRules = (family: Family): Rule[] => tryDump(MessageType.GETRULE, ruleDump(family), parseRule);

  return {
    async observe() {
      const links = dumpLinks();
      const names = new Map(links.map(({ index, name }) => [index, name]));
      let gateway: Address | undefined;
      const dumpRoutes = (family: Family, table: number): Route[] =>
        tryDump(MessageType.GETROUTE, routeDump(family, table), (payload) => {
          const route = parseRoute(payload, (ifindex) => names.get(ifindex));
          // Ten thousand routes by one gateway share its text.
          if (route?.gateway !== undefined && route.gateway === gateway) route.gateway = gateway;
          gateway = route?.gateway;
          // Asked for a family that it does not have, the kernel tells of all others (rtnetlink_rcv_msg).
          return route?.family === family ? route : undefined;
        });
      const rules = FAMILIES.flatMap(dumpRules);
      // A table of a group is reached by its rule alone.
      const groupTables = (family: Family): number[] =>
        rules
          .filter((rule) => rule.family === family && rule.priority === GROUP_RULE_PRIORITY)
          .map(({ table }) => table);
      return {
        links,
        addresses: netlink.dump(MessageType.GETADDR, addressDump(), parseInterfaceAddress),
        routes: FAMILIES.flatMap((family) =>
          [...new Set([...TABLES, ...groupTables(family)])].flatMap((table) => dumpRoutes(family, table)),
        ),
        rules,
        proxies: FAMILIES.flatMap((family) =>
          tryDump(MessageType.GETNEIGH, proxyDump(family), (payload) =>
            parseProxy(payload, (ifindex) => names.get(ifindex)),
          ),
        ),
      };
    },

    async apply(steps) {
      if (steps.length === 0) return [];
      const indexes = new Map(dumpLinks().map(({ index, name }) => [name, index]));
      const failures: RoutingError[] = [];
      const possible = steps.filter((step) => {
        const dev = deviceOf(step);
        if ('rule' in step || step.kind.startsWith('del') || indexes.has(dev ?? '')) return true;
        failures.push(new RoutingError(step, 'ENODEV', `there is no interface ${dev}`));
        return false;
      });
      const results = await netlink.transact(requestsFor(possible, indexes));
      /** That a gateway is on no network of its interface. */
      const offLink = (step: RoutingStep): string => {
        if (!('route' in step) || step.route.gateway === undefined) return '';
        const { family, dev, gateway } = step.route;
        const on = netlink
          .dump(MessageType.GETADDR, addressDump(), parseInterfaceAddress)
          .filter((found) => found.family === family && found.ifindex === indexes.get(dev ?? ''))
          .map(({ address, prefixLength }) => `${address}/${prefixLength}`);
        if (on.some((network) => contains(parsePrefix(network)!, gateway))) return '';
        return `; ${gateway} is on no network of ${dev} (${on.join(', ') || 'no address'})`;
      };
      for (const [i, step] of possible.entries()) {
        const error = results[i];
        if (error !== undefined && !DONE_ALREADY[step.kind].includes(error.code)) {
          const cause =
            error.code === 'EPERM'
              ? '; the container needs the capability NET_ADMIN'
              : UNREACHED.includes(error.code)
                ? offLink(step)
                : '';
          failures.push(new RoutingError(step, error.code, `${error.message}${cause}`));
        }
      }
      return failures;
    },
  };
}
