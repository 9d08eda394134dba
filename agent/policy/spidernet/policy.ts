/**
 * Spidernet's `EgressGateway`, `EgressPolicy`, `EgressClusterPolicy` and endpoint slices as rules of the policy.
 * Pure.
 *
 * Its webhook refuses what is refused here. Allocation is its control plane's: the pod obeys `status.eip` and
 * `status.node`. As with Deckhouse's, another document defines the two sides of the gateway.
 */
import { type Address, hostPrefix, type Prefix, parseAddress } from '../../../lib/prefix.ts';
import type { DocumentSet, PolicyDocument } from '../documents.ts';
import { SPIDERNET } from '../kinds.ts';
import { checkSelector, type LabelSelector, type Pods, selects } from '../kubernetes/selectors.ts';
import type { EgressIP, Policy } from '../model.ts';
import { quote } from '../quote.ts';
import { byName, each, missingDocument, prefixes, unheld } from '../resolve.ts';
import { inPool, parsePoolItem, poolSize } from './ip-pool.ts';

interface GatewayResource {
  spec?: {
    clusterDefault?: boolean;
    ippools?: { ipv4?: string[]; ipv6?: string[]; ipv4DefaultEIP?: string; ipv6DefaultEIP?: string };
    nodeSelector?: { selector?: LabelSelector };
  };
}

interface PolicyResource {
  metadata?: { name?: string; namespace?: string };
  spec?: {
    egressGatewayName?: string;
    egressIP?: { ipv4?: string; ipv6?: string; useNodeIP?: boolean };
    appliedTo?: { podSelector?: LabelSelector; podSubnet?: string[]; namespaceSelector?: LabelSelector };
    destSubnet?: string[];
    priority?: number;
  };
  status?: { eip?: { ipv4?: string; ipv6?: string }; node?: string };
}

interface SliceResource {
  metadata?: { name?: string; namespace?: string; labels?: Record<string, string> };
  endpoints?: { ipv4?: string[]; ipv6?: string[] }[];
}

type Gateway = PolicyDocument<GatewayResource>;
type EgressPolicy = PolicyDocument<PolicyResource>;

/** The label of a slice that names its policy. */
const POLICY_LABEL = 'spidernet.io/policy-name';
/** The label of a namespace that names the gateway of policies that name none. */
const DEFAULT_GATEWAY_LABEL = 'spidernet.io/egressgateway-default';
const FAMILIES = ['ipv4', 'ipv6'] as const;

/** Adds the rules of Spidernet's documents to the policy. */
export function addSpidernet(policy: Policy, set: DocumentSet, pods: Pods): void {
  const gateways = byName<GatewayResource>(set, SPIDERNET, 'EgressGateway');
  for (const gateway of gateways.values()) checkGateway(gateway);
  const fallback = clusterDefault([...gateways.values()]);
  for (const [kind, sliceKind] of [
    ['EgressPolicy', 'EgressEndpointSlice'],
    ['EgressClusterPolicy', 'EgressClusterEndpointSlice'],
  ] as const) {
    const slices = endpointsByPolicy(byName<SliceResource>(set, SPIDERNET, sliceKind));
    const policies = byName<PolicyResource>(set, SPIDERNET, kind);
    for (const [name, { document }] of slices) {
      if (policies.has(name) || set.incomplete) continue;
      policy.warnings.push({
        message: `the ${sliceKind} documents of ${kind} ${quote(name)} have no effect: it is not in the policy directory`,
        about: { document, path: ['metadata', 'name'] },
      });
    }
    for (const document of policies.values()) {
      checkPolicy(document);
      const gateway = gatewayOf(document, gateways, fallback, set, pods);
      const ipBlocks = sourcesOf(document, slices.get(document.name)?.addresses, set, pods);
      if (gateway === undefined || ipBlocks === undefined) continue;
      const egressIP = egressAddress(document, gateway);
      if (ipBlocks.length === 0) {
        policy.warnings.push({
          message: `${kind} ${quote(document.name)} applies to no pod with an address`,
          about: { document, path: ['spec', 'appliedTo'] },
        });
        continue;
      }
      if (egressIP?.owner === '') {
        const message = unheld(kind, document.name, 'status.node');
        policy.warnings.push({ message, about: { document, path: ['status', 'node'] } });
      }
      const { destSubnet, priority } = document.value.spec ?? {};
      policy.rules.push({
        name: `spidernet/${document.name}`,
        snat: true,
        ipBlocks,
        ...(destSubnet?.length && { destinationCIDRs: prefixes(destSubnet) }),
        ...(priority !== undefined && { priority }),
        ...(egressIP && { egressIP }),
      });
    }
  }
}

function checkGateway(gateway: Gateway): void {
  const { ippools = {}, nodeSelector } = gateway.value.spec ?? {};
  const path = ['spec', 'ippools'];
  const selector = nodeSelector?.selector;
  checkSelector(gateway, ['spec', 'nodeSelector', 'selector'], selector);
  if (
    gateway.sound &&
    !Object.keys(selector?.matchLabels ?? {}).length &&
    !selector?.matchExpressions?.length
  ) {
    gateway.fail(
      ['spec', 'nodeSelector', 'selector'],
      'must not be empty: it selects the nodes of the gateway',
    );
  }
  const sizes = FAMILIES.map((family) => {
    const ranges = each(ippools[family], (text, i) => {
      const item = parsePoolItem(text, family === 'ipv4' ? 4 : 6);
      if (typeof item !== 'string') return [item];
      gateway.fail([...path, family, i], `${quote(text)} ${item}`);
      return [];
    }).flat();
    const field = `${family}DefaultEIP` as const;
    const chosen = ippools[field];
    if (chosen && !inPool(ranges, parseAddress(chosen)!)) {
      gateway.fail([...path, field], `${chosen} is not in the pool spec.ippools.${family}`);
    }
    return poolSize(ranges);
  });
  const [v4, v6] = sizes as [bigint, bigint];
  if (ippools.ipv4?.length && ippools.ipv6?.length && v4 !== v6) {
    gateway.fail(path, `must have as many IPv4 as IPv6 addresses, has ${v4} and ${v6}`, 'key');
  }
}

/** The gateway for policies that name none: only one can be it. */
function clusterDefault(gateways: readonly Gateway[]): Gateway | undefined {
  const [first, ...more] = gateways.filter(({ value }) => value.spec?.clusterDefault);
  for (const other of more) {
    other.fail(
      ['spec', 'clusterDefault'],
      `EgressGateway ${quote(first!.name)} is the cluster's default already`,
    );
  }
  return first;
}

function checkPolicy(policy: EgressPolicy): void {
  const { egressIP, appliedTo } = policy.value.spec ?? {};
  for (const family of FAMILIES) {
    if (!egressIP?.useNodeIP || !egressIP[family]) continue;
    policy.fail(['spec', 'egressIP', family], 'useNodeIP and an address exclude each other', 'key');
  }
  const { podSelector, namespaceSelector, podSubnet } = appliedTo ?? {};
  checkSelector(policy, ['spec', 'appliedTo', 'podSelector'], podSelector);
  checkSelector(policy, ['spec', 'appliedTo', 'namespaceSelector'], namespaceSelector);
  const byLabels = Object.keys(podSelector?.matchLabels ?? {}).length > 0;
  if (byLabels && podSubnet?.length) {
    const message = 'podSelector.matchLabels and podSubnet exclude each other';
    policy.fail(['spec', 'appliedTo', 'podSubnet'], message, 'key');
  }
  if (policy.sound && !byLabels && !podSelector?.matchExpressions?.length && !podSubnet?.length) {
    const message = 'names no sources; give podSubnet, or matchLabels or matchExpressions of podSelector';
    policy.fail(['spec', 'appliedTo'], message, 'key');
  }
}

/** The gateway of a policy: the named one, that of its namespace, the cluster's. Reports when there is none. */
function gatewayOf(
  policy: EgressPolicy,
  gateways: Map<string, Gateway>,
  fallback: Gateway | undefined,
  set: DocumentSet,
  pods: Pods,
): Gateway | undefined {
  const { metadata, spec } = policy.value;
  const namespace = policy.kind === 'EgressPolicy' ? (metadata?.namespace ?? 'default') : undefined;
  const named =
    spec?.egressGatewayName || (namespace && pods.namespaceLabels(namespace)[DEFAULT_GATEWAY_LABEL]);
  const gateway = named ? gateways.get(named) : fallback;
  if (gateway === undefined && policy.sound && (named || !set.incomplete)) {
    const message = named
      ? missingDocument('EgressGateway', named, [...gateways.keys()], set.incomplete)
      : 'names no gateway, and no EgressGateway is the cluster default; name one';
    policy.fail(['spec', 'egressGatewayName'], message, spec?.egressGatewayName ? 'value' : 'key');
  }
  return gateway;
}

/** What the slices of a policy hold, and the first of them. */
interface Endpoints {
  document: PolicyDocument;
  addresses: Prefix[];
}

/**
 * The endpoints of the slices by the full name of their policy: by their label, without one by the name
 * that Spidernet's controller gives, the policy's with five random characters.
 */
function endpointsByPolicy(slices: Map<string, PolicyDocument<SliceResource>>): Map<string, Endpoints> {
  const found = new Map<string, Endpoints>();
  for (const slice of slices.values()) {
    const { metadata, endpoints } = slice.value;
    const policy = metadata?.labels?.[POLICY_LABEL] ?? metadata?.name?.replace(/-[a-z0-9]{5}$/, '');
    const inNamespace = slice.kind === 'EgressEndpointSlice' ? `${metadata?.namespace ?? 'default'}/` : '';
    const name = `${inNamespace}${policy}`;
    const addresses = each(endpoints, ({ ipv4, ipv6 }) =>
      [ipv4, ipv6].flatMap((texts) => each(texts, (text) => hostPrefix(parseAddress(text)!))),
    ).flat();
    const all = found.get(name) ?? { document: slice, addresses: [] };
    for (const address of addresses) all.addresses.push(address);
    found.set(name, all);
  }
  return found;
}

/** The sources of a policy; undefined when they are unknown, which has been reported. */
function sourcesOf(
  policy: EgressPolicy,
  endpoints: readonly Prefix[] | undefined,
  set: DocumentSet,
  pods: Pods,
): Prefix[] | undefined {
  const { podSelector, podSubnet, namespaceSelector } = policy.value.spec?.appliedTo ?? {};
  if (endpoints !== undefined || podSubnet?.length) {
    return [...new Set([...prefixes(podSubnet), ...(endpoints ?? [])])];
  }
  if (pods.known && podSelector !== undefined) {
    const own = policy.value.metadata?.namespace ?? 'default';
    const inScope = (namespace: string): boolean =>
      policy.kind === 'EgressPolicy'
        ? namespace === own
        : namespaceSelector === undefined || selects(namespaceSelector, pods.namespaceLabels(namespace));
    return pods.addresses(({ namespace, labels }) => inScope(namespace) && selects(podSelector, labels));
  }
  if (policy.sound && podSelector !== undefined && !set.incomplete) {
    const slices = policy.kind === 'EgressPolicy' ? 'EgressEndpointSlice' : 'EgressClusterEndpointSlice';
    policy.fail(
      ['spec', 'appliedTo', 'podSelector'],
      `selects pods by their labels, so its ${slices} documents (or Pod documents) are needed in the policy directory`,
      'key',
    );
  }
  return undefined;
}

/**
 * The address that sources get: the allocated one, else the one asked for, else the gateway's default; held
 * while `status.node` is this node. Undefined: that of the interface, or there is none, which is reported.
 */
function egressAddress(policy: EgressPolicy, gateway: Gateway): EgressIP | undefined {
  const { spec, status } = policy.value;
  const wanted = spec?.egressIP ?? {};
  if (wanted.useNodeIP) return undefined;
  const pools = gateway.value.spec?.ippools ?? {};
  for (const family of FAMILIES) {
    const text = wanted[family];
    const ranges = each(pools[family], (item) => parsePoolItem(item, family === 'ipv4' ? 4 : 6));
    const known = ranges.filter((range) => typeof range !== 'string');
    if (!text || !gateway.sound || inPool(known, parseAddress(text)!)) continue;
    policy.fail(
      ['spec', 'egressIP', family],
      `${text} is not in the pool of EgressGateway ${quote(gateway.name)}`,
    );
  }
  const defaults = { ipv4: pools.ipv4DefaultEIP, ipv6: pools.ipv6DefaultEIP };
  const choice = [status?.eip, wanted, defaults].find((eip) => eip?.ipv4 || eip?.ipv6);
  const addresses = [choice?.ipv4, choice?.ipv6].flatMap((text) =>
    text ? [parseAddress(text) as Address] : [],
  );
  if (addresses.length === 0) {
    if (policy.sound && gateway.sound) {
      const message = `has no address: neither status.eip, nor egressIP, nor a default EIP of EgressGateway ${quote(gateway.name)}`;
      policy.fail(['spec', 'egressIP'], message, 'key');
    }
    return undefined;
  }
  return { addresses, announce: true, owner: status?.node ?? '' };
}
