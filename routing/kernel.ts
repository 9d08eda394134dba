/**
 * The kernel's routing over netlink: observes all of it, and applies the steps of diff.ts. The transport that it needs
 * is declared here; lib/netlink.ts implements it.
 */
import { NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, RTN_UNREACHABLE } from '../lib/linux.ts';
import { type Address, contains, FAMILIES, type Family, parsePrefix } from '../lib/prefix.ts';
import type { RoutingStep } from './diff.ts';
import type { LinkStep, WantedLink } from './links.ts';
import { GROUP_RULE_PRIORITY, GROUP_TABLES, TABLE_VPN, TABLES } from './numbers.ts';
import { isVrf } from './ownership.ts';
import {
  addressDump,
  formatAddress,
  formatDelLink,
  formatLinkChange,
  formatNewLink,
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
import type { ObservedProxy } from './proxies.ts';
import { renderStep } from './render.ts';
import type { InterfaceAddress, Link, Route, RoutingState } from './state.ts';

/** What is needed of a NETLINK_ROUTE socket. Errors carry the errno's name. */
export interface RoutingNetlink {
  dump<T>(type: number, data: Uint8Array, parse: (payload: Buffer) => T | undefined): T[];
  transact(requests: Iterable<Request>): Promise<Result[]>;
  /** The same before it returns. */
  transactSync(requests: readonly Request[]): Result[];
}

interface Request {
  type: number;
  flags?: number;
  data: Uint8Array;
}

type Result = (Error & { code: string }) | undefined;

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
   * Applies the steps in order, also those after one that fails. Returns the failures; to add what exists and to
   * delete what does not is none. Rejects with what the transport throws.
   */
  apply(steps: readonly RoutingStep[]): Promise<RoutingError[]>;
  /** The same, done when it returns: nothing else runs meanwhile. Throws what the transport throws. */
  applyAtOnce(steps: readonly RoutingStep[]): RoutingError[];
}

/**
 * A rule is added without NLM_F_EXCL: with it the kernel refuses a rule as a duplicate of one that differs only in its
 * inversion or its protocol.
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
  addLink: { type: MessageType.NEWLINK, flags: NLM_F_CREATE | NLM_F_EXCL },
  setLink: { type: MessageType.NEWLINK, flags: 0 },
  delLink: { type: MessageType.DELLINK, flags: 0 },
} as const;

/** Errors after which the step is done: the object exists, or was removed (perhaps with its link or its table). */
const ALREADY_DONE: Readonly<Record<RoutingStep['kind'], readonly string[]>> = {
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
  addLink: [],
  setLink: [],
  delLink: ['ENODEV'],
};

/** Errors of a route whose gateway is not on the link: IPv4, IPv6. */
const OFF_LINK: readonly string[] = ['ENETUNREACH', 'EHOSTUNREACH'];

/** Errors of a dump with nothing to return: no such table, no such family in this kernel. */
const NOTHING_THERE: readonly string[] = ['ENOENT', 'ENOTSUP', 'EAFNOSUPPORT'];

/** The interface of a step, where it has one. */
function deviceOf(step: RoutingStep): string | undefined {
  if ('rule' in step) return undefined;
  if ('route' in step) return step.route.dev;
  // A new device has none yet: it needs the one that it belongs to.
  if ('link' in step) return step.kind === 'addLink' ? step.link.master : step.link.name;
  return 'proxy' in step ? step.proxy.dev : step.address.dev;
}

/** A route that leads nowhere, a device that belongs to none. */
const needsNoDevice = (step: RoutingStep): boolean =>
  ('route' in step && step.route.type === RTN_UNREACHABLE) ||
  (step.kind === 'addLink' && step.link.master === undefined);

function linkPayload(step: LinkStep, indexes: ReadonlyMap<string, number>): Uint8Array {
  const ifindex = indexes.get(step.link.name) ?? 0;
  if (step.kind === 'delLink') return formatDelLink(ifindex);
  const { device, master, ...link } = step.link;
  const belongsTo = master === undefined ? undefined : indexes.get(master);
  return device === undefined
    ? formatLinkChange(link, ifindex, belongsTo)
    : formatNewLink({ ...link, device }, belongsTo);
}

function payload(step: RoutingStep, indexes: ReadonlyMap<string, number>): Uint8Array {
  if ('rule' in step) return formatRule(step.rule);
  if ('link' in step) return linkPayload(step, indexes);
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

/** A dump that may find no table or no family. */
function dumpIfThere<T>(
  netlink: RoutingNetlink,
  type: number,
  data: Uint8Array,
  parse: (payload: Buffer) => T | undefined,
): T[] {
  try {
    return netlink.dump(type, data, parse);
  } catch (error) {
    if (NOTHING_THERE.includes((error as { code?: string }).code ?? '')) return [];
    throw error;
  }
}

const readLinks = (netlink: RoutingNetlink): Link[] =>
  netlink.dump(MessageType.GETLINK, linkDump(), parseLink);

/** The interfaces by name. */
export const readIndexes = (netlink: RoutingNetlink): Map<string, number> =>
  new Map(readLinks(netlink).map(({ index, name }) => [name, index]));

const readAddresses = (netlink: RoutingNetlink): InterfaceAddress[] =>
  netlink.dump(MessageType.GETADDR, addressDump(), parseInterfaceAddress);

/** The proxy entries of both families. No event announces their changes. */
export const readProxies = (
  netlink: RoutingNetlink,
  nameOf: (ifindex: number) => string | undefined,
): ObservedProxy[] =>
  FAMILIES.flatMap((family) =>
    dumpIfThere(netlink, MessageType.GETNEIGH, proxyDump(family), (payload) => parseProxy(payload, nameOf)),
  );

function observe(netlink: RoutingNetlink): RoutingState {
  const links = readLinks(netlink);
  const names = new Map(links.map(({ index, name }) => [index, name]));
  const nameOf = (ifindex: number) => names.get(ifindex);
  let gateway: Address | undefined;
  const readRoutes = (family: Family, table: number): Route[] =>
    dumpIfThere(netlink, MessageType.GETROUTE, routeDump(family, table), (payload) => {
      const route = parseRoute(payload, nameOf);
      // Ten thousand routes through one gateway share its text.
      if (route?.gateway !== undefined && route.gateway === gateway) route.gateway = gateway;
      gateway = route?.gateway;
      // For a family that the kernel does not have, it dumps all others (rtnetlink_rcv_msg).
      return route?.family === family ? route : undefined;
    });
  const rules = FAMILIES.flatMap((family) =>
    dumpIfThere(netlink, MessageType.GETRULE, ruleDump(family), parseRule),
  );
  // Only a rule leads to a table of a group. With a VRF the kernel has one of table 0 there, which would mean all tables.
  const groupTables = (family: Family): number[] =>
    rules
      .filter((rule) => rule.family === family && rule.priority === GROUP_RULE_PRIORITY)
      .map(({ table }) => table)
      .filter((table) => GROUP_TABLES.includes(table));
  const vrfTables = links.some(isVrf) ? [TABLE_VPN] : [];
  return {
    links,
    addresses: readAddresses(netlink),
    routes: FAMILIES.flatMap((family) =>
      [...new Set([...TABLES, ...vrfTables, ...groupTables(family)])].flatMap((table) =>
        readRoutes(family, table),
      ),
    ),
    rules,
    proxies: readProxies(netlink, nameOf),
  };
}

/** That the gateway of a route is on no network of its interface; empty if it is, and for other steps. */
function offLinkReason(
  netlink: RoutingNetlink,
  step: RoutingStep,
  indexes: ReadonlyMap<string, number>,
): string {
  if (!('route' in step) || step.route.gateway === undefined) return '';
  const { family, dev, gateway } = step.route;
  const networks = readAddresses(netlink)
    .filter((found) => found.family === family && found.ifindex === indexes.get(dev ?? ''))
    .map(({ address, prefixLength }) => `${address}/${prefixLength}`);
  if (networks.some((network) => contains(parsePrefix(network)!, gateway))) return '';
  return `; ${gateway} is on no network of ${dev} (${networks.join(', ') || 'no address'})`;
}

/** What to do about a device that cannot be made; empty if that is not known. */
function newLinkHint({ device }: WantedLink, code: string): string {
  if (code === 'EEXIST') {
    return `; a device of another program has this name or this VNI: find it (ip -d link show), and remove it or choose another VNI`;
  }
  if (code !== 'ENOTSUP') return '';
  const { kind } = device!;
  return `; EVPN needs devices of kind ${kind}, which this kernel does not have: load the module ${kind} on the node (modprobe ${kind}), or run the gateway on a node whose kernel has it`;
}

/** The steps that can be asked for, and the failures of the others. */
interface Prepared {
  indexes: ReadonlyMap<string, number>;
  possible: RoutingStep[];
  failures: RoutingError[];
}

function prepare(netlink: RoutingNetlink, steps: readonly RoutingStep[]): Prepared {
  const indexes = readIndexes(netlink);
  const failures: RoutingError[] = [];
  const possible = steps.filter((step) => {
    const dev = deviceOf(step);
    // A device that is gone has no index to delete it by.
    if (step.kind === 'delLink' && !indexes.has(step.link.name)) return false;
    if ('rule' in step || step.kind.startsWith('del') || indexes.has(dev ?? '') || needsNoDevice(step))
      return true;
    failures.push(new RoutingError(step, 'ENODEV', `there is no interface ${dev}`));
    return false;
  });
  return { indexes, possible, failures };
}

/** All failures, with what the kernel answered. */
function failuresOf(
  netlink: RoutingNetlink,
  { indexes, possible, failures }: Prepared,
  results: readonly Result[],
): RoutingError[] {
  for (const [i, step] of possible.entries()) {
    const error = results[i];
    if (error === undefined || ALREADY_DONE[step.kind].includes(error.code)) continue;
    let hint = '';
    if (error.code === 'EPERM') hint = '; the container needs the capability NET_ADMIN';
    else if (step.kind === 'addLink') hint = newLinkHint(step.link, error.code);
    else if (OFF_LINK.includes(error.code)) hint = offLinkReason(netlink, step, indexes);
    failures.push(new RoutingError(step, error.code, `${error.message}${hint}`));
  }
  return failures;
}

export const createRoutingKernel = (netlink: RoutingNetlink): RoutingKernel => ({
  observe: async () => observe(netlink),
  apply: async (steps) => {
    if (steps.length === 0) return [];
    const prepared = prepare(netlink, steps);
    const requests = requestsFor(prepared.possible, prepared.indexes);
    return failuresOf(netlink, prepared, await netlink.transact(requests));
  },
  applyAtOnce: (steps) => {
    const prepared = prepare(netlink, steps);
    const requests = [...requestsFor(prepared.possible, prepared.indexes)];
    return failuresOf(netlink, prepared, netlink.transactSync(requests));
  },
});
