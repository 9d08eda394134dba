/**
 * The interface of the pod's primary network where it is neither side of the gateway: Kube-OVN is a secondary CNI, and
 * eth0 is another CNI's. The kubelet and Prometheus reach the pod there, and the API server and the name servers are
 * reached through it. Pure.
 *
 * The main table leads outside, so what the pod sends from an address of this interface needs a table of its own. It
 * holds the routes that the CNI has put on the interface. Multus may have removed the default route among them (the
 * annotation's `default-route`): then the gateway is inferred.
 */
import { RTN_UNICAST } from '../../lib/linux.ts';
import {
  type Address,
  addressBits,
  anyPrefix,
  contains,
  type Family,
  familyOf,
  hostPrefix,
  networkAddress,
  type Prefix,
  prefix,
  prefixLength,
} from '../../lib/prefix.ts';
import type { PrimaryNetwork } from '../../routing/desired.ts';
import { RTPROT_VEG_AGENT } from '../../routing/numbers.ts';
import type { Route } from '../../routing/state.ts';
import type { Facts } from './interfaces.ts';
import { usableAddresses } from './own-address.ts';

/** The interface that Kubernetes names so in every pod. */
const USUAL = 'eth0';

/** Link-local and multicast: of every interface, and never what a reply leaves the link by. */
const OF_THE_LINK = ['fe80::/10', 'ff00::/8', '224.0.0.0/4'].map(prefix);

/**
 * The interface: network-status' default network, else the one with an address of POD_IPS, else eth0. Undefined where
 * that is a side of the gateway, as in a pod whose primary CNI is Kube-OVN.
 */
export function primaryInterface(
  { links, addresses, networks, podIPs }: Facts,
  sides: { internal: string; external: string },
): string | undefined {
  const holder = addresses.find(({ address }) => podIPs.includes(address))?.ifindex;
  const name = [
    networks.find((network) => network.default)?.interface,
    links.find(({ index }) => index === holder)?.name,
    USUAL,
  ].find((candidate) => links.some((link) => link.name === candidate));
  return name === sides.internal || name === sides.external ? undefined : name;
}

/** What has to be routed through the interface in a family. Undefined where it has no address of that family. */
export function primaryNetwork(facts: Facts, name: string, family: Family): PrimaryNetwork | undefined {
  const addresses = usableAddresses(facts, name, family).map(({ address }) => address);
  if (addresses.length === 0) return undefined;
  const routes = new Map<Prefix, PrimaryNetwork['routes'][number]>();
  const own = addresses.map(hostPrefix);
  const theirs = facts.routes.filter(
    (route) => isTheirs(route, name, family) && !own.includes(route.destination),
  );
  for (const { destination, gateway } of theirs.toSorted((a, b) => a.metric - b.metric)) {
    if (routes.has(destination)) continue;
    routes.set(destination, { destination, ...(gateway !== undefined && { gateway }) });
  }
  const everywhere = anyPrefix(family);
  if (!routes.has(everywhere)) {
    const gateway = inferredGateway(facts, name, family, [...routes.values()]);
    if (gateway !== undefined) routes.set(everywhere, { destination: everywhere, gateway });
  }
  const elsewhere = facts.connected.filter(({ dev }) => dev !== name);
  return {
    interface: name,
    addresses,
    // What leads to a gateway comes last: the link has to be known first.
    routes: [...routes.values()].sort((a, b) => Number('gateway' in a) - Number('gateway' in b)),
    services: facts.services.filter(
      (service) =>
        familyOf(service) === family && !elsewhere.some(({ network }) => contains(network, service)),
    ),
  };
}

/** Whether a route of the main table is the CNI's, on the interface. */
const isTheirs = (
  { family, dev, type, protocol, foreign, qualifier, destination }: Route,
  name: string,
  of: Family,
) =>
  family === of &&
  dev === name &&
  type === RTN_UNICAST &&
  protocol !== RTPROT_VEG_AGENT &&
  !foreign &&
  qualifier === undefined &&
  !OF_THE_LINK.some((network) => contains(network, destination));

/**
 * The gateway of an interface without a default route: what network-status names, else that of another route, else the
 * host that a route finds on the link (169.254.1.1, as Calico writes it).
 */
function inferredGateway(
  { networks }: Facts,
  name: string,
  family: Family,
  routes: PrimaryNetwork['routes'],
): Address | undefined {
  const named = networks
    .filter((network) => network.interface === name)
    .flatMap(({ gateways }) => gateways)
    .find((gateway) => familyOf(gateway) === family);
  const host = routes.find(
    ({ destination, gateway }) => gateway === undefined && prefixLength(destination) === addressBits(family),
  );
  return (
    named ??
    routes.find(({ gateway }) => gateway !== undefined)?.gateway ??
    (host && networkAddress(host.destination))
  );
}
