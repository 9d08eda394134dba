/** Reads what the plan needs to know about the pod: the kernel's links, addresses and networks, Multus' annotation. */
import { existsSync } from 'node:fs';
import { readMounted } from '../../lib/files.ts';
import { RTN_UNICAST } from '../../lib/linux.ts';
import { type Address, parseAddress } from '../../lib/prefix.ts';
import { RTPROT_VEG_AGENT, TABLE_MAIN } from '../../routing/numbers.ts';
import { isAnnouncement } from '../../routing/ownership.ts';
import type { Route, RoutingState } from '../../routing/state.ts';
import { type Facts, type NetworkStatus, parseNetworkStatus } from './interfaces.ts';

/** There as long as the kernel has IPv6, be it disabled on every interface; `ipv6.disable=1` takes it away. */
const IPV6_ADDRESSES = '/proc/self/net/if_inet6';

/** Whether this kernel has IPv6 at all. */
export const hasIPv6 = (file = IPV6_ADDRESSES): boolean => existsSync(file);

/** The annotation that it holds is smaller, octets. */
export const MAX_NETWORK_STATUS = 1 << 18;

/** The name servers that the kubelet gave the pod (resolv.conf(5)); glibc takes three. */
const RESOLV_CONF = '/etc/resolv.conf';
const MAX_RESOLV_CONF = 1 << 16;
const MAX_NAME_SERVERS = 3;

const addressesIn = (texts: readonly (string | undefined)[] = []): Address[] =>
  texts.flatMap((text) => (text !== undefined && parseAddress(text.trim())) || []);

/** The name servers that are not in the pod itself. Without them nothing but the pod's own look-ups is lost. */
function nameServers(file: string): Address[] {
  try {
    const text = readMounted(file, MAX_RESOLV_CONF).toString();
    const named = [...text.matchAll(/^nameserver[ \t]+(\S+)/gm)].slice(0, MAX_NAME_SERVERS);
    return addressesIn(named.map(([, server]) => server)).filter((server) => !isLoopback(server));
  } catch {
    return [];
  }
}

const isLoopback = (address: Address): boolean => address === '::1' || address.startsWith('127.');

/** The network that a route finds on a link. */
function connectedBy(route: Route): Facts['connected'] {
  const { table, type, dev, gateway, foreign, qualifier, destination } = route;
  if (isAnnouncement(route)) return [];
  const plain = table === TABLE_MAIN && type === RTN_UNICAST && !foreign && qualifier === undefined;
  return plain && dev !== undefined && gateway === undefined ? [{ dev, network: destination }] : [];
}

/** Whether routes of a protocol come from this agent or a routing daemon (linux/rtnetlink.h, iproute2's rt_protos). */
const isOfDaemon = (protocol: number): boolean =>
  protocol === RTPROT_VEG_AGENT || protocol === 11 || protocol === 12 || (protocol >= 186 && protocol <= 199);

/**
 * The facts. A missing network-status file is no problem (Multus is optional); one that cannot be read or parsed is
 * ignored, with a note.
 */
export async function readFacts(
  observed: Pick<RoutingState, 'links' | 'addresses' | 'routes'>,
  networkStatusPath: string,
  ipv6 = hasIPv6(),
  resolvConf = RESOLV_CONF,
): Promise<Facts> {
  const { links, addresses, routes } = observed;
  let networks: NetworkStatus[] = [];
  const notes: string[] = [];
  const ignored = (why: string) => notes.push(`ignoring network-status file ${networkStatusPath}: ${why}`);
  try {
    const result = parseNetworkStatus(readMounted(networkStatusPath, MAX_NETWORK_STATUS).toString());
    if ('networks' in result) networks = result.networks;
    else ignored(result.problem);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') ignored((error as Error).message);
  }
  const names = [process.env.POD_NAME, process.env.NODE_NAME].filter((name) => !!name) as string[];
  return {
    links,
    addresses,
    connected: routes.flatMap(connectedBy),
    // Not the agent's own and not those of a routing daemon, of which there may be ten thousand.
    routes: routes.filter(({ table, protocol }) => table === TABLE_MAIN && !isOfDaemon(protocol)),
    announced: routes.filter(isAnnouncement).map(({ destination }) => destination),
    podIPs: addressesIn(process.env.POD_IPS?.split(',')),
    services: [
      ...new Set([...addressesIn([process.env.KUBERNETES_SERVICE_HOST]), ...nameServers(resolvConf)]),
    ],
    networks,
    names,
    missing: ipv6 ? [] : [6],
    notes,
  };
}
