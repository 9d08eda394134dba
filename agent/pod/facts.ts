/** Gathers what the plan needs to know about the pod: the kernel's links, addresses and networks, Multus' annotation. */
import { existsSync } from 'node:fs';
import { readMounted } from '../../lib/files.ts';
import { TABLE_MAIN } from '../../routing/numbers.ts';
import type { Route, RoutingState } from '../../routing/state.ts';
import { type Facts, type NetworkStatus, parseNetworkStatus } from './interfaces.ts';

/** There as long as the kernel has IPv6, be it disabled on every interface; `ipv6.disable=1` takes it away. */
const IPV6_ADDRESSES = '/proc/self/net/if_inet6';

/** Whether this kernel has IPv6 at all. */
export const hasIPv6 = (file = IPV6_ADDRESSES): boolean => existsSync(file);

/** The annotation that it holds is smaller, octets. */
export const MAX_NETWORK_STATUS = 1 << 18;

// rtm_type
const UNICAST = 1;

/** The network that a route finds on a link. */
function connectedBy(route: Route): Facts['connected'] {
  const { table, type, dev, gateway, foreign, qualifier, destination } = route;
  const plain = table === TABLE_MAIN && type === UNICAST && !foreign && qualifier === undefined;
  return plain && dev !== undefined && gateway === undefined ? [{ dev, network: destination }] : [];
}

/**
 * The facts. A network-status file that is not there is no surprise (Multus is optional); one that cannot be
 * read or understood is noted and left aside.
 */
export async function readFacts(
  observed: Pick<RoutingState, 'links' | 'addresses' | 'routes'>,
  networkStatusPath: string,
  ipv6 = hasIPv6(),
): Promise<Facts> {
  const { links, addresses, routes } = observed;
  let networks: NetworkStatus[] = [];
  const notes: string[] = [];
  const ignored = (why: string) =>
    notes.push(`network-status file ${networkStatusPath} is left aside: ${why}`);
  try {
    const result = parseNetworkStatus(readMounted(networkStatusPath, MAX_NETWORK_STATUS).toString());
    if ('networks' in result) networks = result.networks;
    else ignored(result.problem);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') ignored((error as Error).message);
  }
  const names = [process.env.POD_NAME, process.env.NODE_NAME].filter((name) => !!name) as string[];
  const connected = routes.flatMap(connectedBy);
  return { links, addresses, connected, networks, names, missing: ipv6 ? [] : [6], notes };
}
