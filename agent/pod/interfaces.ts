/** Which of the pod's interfaces is the internal one and which the external one. Pure. */
import { RT_SCOPE_UNIVERSE } from '../../lib/linux.ts';
import {
  type Address,
  contains,
  type Family,
  type Prefix,
  parseAddress,
  parsePrefix,
} from '../../lib/prefix.ts';
import type { InterfaceAddress, Link, Route } from '../../routing/state.ts';
import type { GroupFacts } from '../group/model.ts';
import type { Policy } from '../policy/model.ts';

/** An entry of Multus' network-status annotation. */
export interface NetworkStatus {
  /** The network attachment, `namespace/name`. */
  name: string;
  /** The interface in the pod; empty when the annotation has none. */
  interface: string;
  /** True for the cluster's own network. */
  default: boolean;
  /** The gateways of its default routes, where Multus names them. */
  gateways: Address[];
}

/** What is known about the pod. */
export interface Facts {
  links: Link[];
  addresses: InterfaceAddress[];
  /** The networks that routes of the main table find on a link, without a gateway. */
  connected: { dev: string; network: Prefix }[];
  /** The main table, without the agent's own routes. */
  routes: Route[];
  /** POD_IPS: the addresses that Kubernetes knows the pod by, as far as they are known. */
  podIPs: Address[];
  /** What the pod was given of the cluster: the API server and the name servers. */
  services: Address[];
  /** Empty when there is no network-status file. */
  networks: NetworkStatus[];
  /** The names of the pod and of its node, as far as they are known: it is the owner of what names them. */
  names: string[];
  /** The address families that this kernel does not have. */
  missing: Family[];
  /** What the exchange of the group has reported, by family. */
  groups?: Partial<Record<Family, GroupFacts>>;
  /** Whether what the policy announces by BGP may be, by family; absent: not known, and what the kernel has stays. */
  announcing?: Partial<Record<Family, boolean>>;
  /** The fast path is out of force for now: while the gateway drains, or connections in it are removed. */
  fastPathPaused?: boolean;
  /** The destinations of the announced routes in the kernel. */
  announced?: Prefix[];
  /** What could not be learned, and why. */
  notes: string[];
}

/** The names from the command line. */
export interface InterfaceFlags {
  internalInterface?: string;
  externalInterface?: string;
}

export interface FoundInterfaces {
  internal: string;
  external: string;
  /** What each name was found by: `the policy`, `--internal-interface`, … */
  reasons: { internal: string; external: string };
}

/**
 * Parses the network-status file. Returns what is wrong with it instead when it is not a list of objects with
 * the types that Multus writes.
 */
export function parseNetworkStatus(text: string): { networks: NetworkStatus[] } | { problem: string } {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text.trim() === '' ? '[]' : text);
  } catch (error) {
    return { problem: `not JSON: ${(error as Error).message}` };
  }
  if (!Array.isArray(parsed)) return { problem: 'not a JSON list' };
  const networks: NetworkStatus[] = [];
  for (const [i, entry] of parsed.entries()) {
    const {
      name = '',
      interface: iface = '',
      default: isDefault = false,
      gateway = [],
    } = (entry ?? {}) as Record<string, unknown>;
    if (typeof name !== 'string' || typeof iface !== 'string' || typeof isDefault !== 'boolean') {
      return { problem: `entry ${i} has a name, interface or default of the wrong type` };
    }
    const gateways = (Array.isArray(gateway) ? gateway : []).flatMap(
      (one) => (typeof one === 'string' && parseAddress(one)) || [],
    );
    networks.push({ name, interface: iface, default: isDefault, gateways });
  }
  return { networks };
}

/**
 * The interface of each side: from the policy or the flag; else found; else eth0 and net1. Network-status has
 * the cluster's own network on the internal side and the others on the external one. Where a gateway is on the
 * network of an interface, that decides between several, and over network-status: with Kube-OVN as a secondary CNI the
 * internal interface is one of the others. The external one is looked for among what the internal one leaves.
 */
export function findInterfaces(
  policy: Pick<Policy, 'internal' | 'external'>,
  flags: InterfaceFlags,
  facts: Facts,
): FoundInterfaces {
  const find = (
    side: 'internal' | 'external',
    usual: readonly string[],
    taken?: string,
  ): [name: string, reason: string] => {
    const { interface: explicit, gateways } = policy[side];
    const flag = flags[`${side}Interface`];
    const near = onLink(facts, gateways);
    const named = facts.networks
      .filter((network) => network.default === (side === 'internal'))
      .map((network) => network.interface)
      .filter((name) => name !== '' && name !== taken);
    const agreed = named.find((name) => near.length === 0 || near.includes(name));
    if (explicit !== undefined) return [explicit, 'the policy'];
    if (flag !== undefined) return [flag, `--${side}-interface`];
    if (agreed !== undefined) return [agreed, 'network-status'];
    if (near[0] !== undefined) return [near[0], 'the network of the gateway'];
    return [usual.find((name) => name !== taken)!, 'the usual name'];
  };
  const [internal, internalReason] = find('internal', ['eth0']);
  const [external, externalReason] = find('external', ['net1', 'net2'], internal);
  return { internal, external, reasons: { internal: internalReason, external: externalReason } };
}

/** The interfaces with an address whose network holds one of the gateways; link-local ones prove nothing. */
function onLink({ links, addresses }: Facts, gateways: readonly Address[]): string[] {
  return links
    .filter(({ index }) =>
      addresses.some(
        ({ ifindex, address, prefixLength, scope }) =>
          ifindex === index &&
          scope === RT_SCOPE_UNIVERSE &&
          gateways.some((gateway) => contains(parsePrefix(`${address}/${prefixLength}`)!, gateway)),
      ),
    )
    .map(({ name }) => name);
}

/** Why nothing can leave by an interface; undefined when something can. */
export function linkObstacle(
  { links }: Pick<Facts, 'links'>,
  name: string,
  role: string,
): string | undefined {
  const link = links.find((candidate) => candidate.name === name);
  if (link === undefined) {
    return `the ${role} interface ${name} does not exist; attach it to the pod, or name another with --${role}-interface`;
  }
  return link.up ? undefined : `the ${role} interface ${name} is down`;
}
