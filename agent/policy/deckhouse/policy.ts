/**
 * Deckhouse's `EgressGateway` and `EgressGatewayPolicy` as rules of the policy. Pure.
 *
 * They define which pods leave with which address. The two sides of the gateway come from the `GatewayPolicy` or
 * `VpcEgressGateway` of the directory, whose rules theirs are added to.
 */
import { type Address, parseAddress } from '../../../lib/prefix.ts';
import type { DocumentSet, PolicyDocument } from '../documents.ts';
import { DECKHOUSE } from '../kinds.ts';
import { checkSelector, type LabelSelector, type Pods, selects } from '../kubernetes/selectors.ts';
import type { EgressIP, Policy } from '../model.ts';
import { quote } from '../quote.ts';
import { byName, each, missingDocument, prefixes, unheld } from '../resolve.ts';

interface GatewayResource {
  spec?: {
    sourceIP?: {
      mode?: 'VirtualIPAddress' | 'PrimaryIPFromEgressGatewayNodeInterface';
      virtualIPAddress?: { ip?: string; interfaces?: string[] };
      primaryIPFromEgressGatewayNodeInterface?: { interfaceName?: string };
    };
  };
  status?: { activeNodeName?: string };
}

interface PolicyResource {
  spec?: {
    egressGatewayName?: string;
    destinationCIDRs?: string[];
    excludedCIDRs?: string[];
    selectors?: { podSelector?: LabelSelector }[];
  };
}

type Gateway = PolicyDocument<GatewayResource>;

/** The label by which Deckhouse's selectors name the namespace of a pod. */
const NAMESPACE_LABEL = 'io.kubernetes.pod.namespace';

/** Adds the rules of Deckhouse's documents to the policy. */
export function addDeckhouse(policy: Policy, set: DocumentSet, pods: Pods): void {
  const gateways = byName<GatewayResource>(set, DECKHOUSE, 'EgressGateway');
  const policies = byName<PolicyResource>(set, DECKHOUSE, 'EgressGatewayPolicy');
  for (const gateway of gateways.values()) checkMode(gateway);
  for (const document of policies.values()) {
    const { egressGatewayName, destinationCIDRs, excludedCIDRs } = document.value.spec ?? {};
    const gateway = egressGatewayName === undefined ? undefined : gateways.get(egressGatewayName);
    if (egressGatewayName !== undefined && gateway === undefined) {
      const missing = missingDocument(
        'EgressGateway',
        egressGatewayName,
        [...gateways.keys()],
        set.incomplete,
      );
      document.fail(['spec', 'egressGatewayName'], missing);
    }
    const ipBlocks = sourcesOf(document, set, pods);
    if (gateway === undefined || ipBlocks === undefined) continue;
    useInterface(policy, gateway);
    if (ipBlocks.length === 0) {
      policy.warnings.push({
        message: `EgressGatewayPolicy ${quote(document.name)} selects no pod with an address`,
        about: { document, path: ['spec', 'selectors'] },
      });
      continue;
    }
    const egressIP = virtualAddress(gateway);
    const message = unheld(gateway.kind, gateway.name, 'status.activeNodeName');
    if (egressIP?.owner === '' && !policy.warnings.some((warning) => warning.message === message)) {
      policy.warnings.push({ message, about: { document: gateway, path: ['status', 'activeNodeName'] } });
    }
    policy.rules.push({
      name: `deckhouse/${document.name}`,
      snat: true,
      ipBlocks,
      ...(destinationCIDRs?.length && { destinationCIDRs: prefixes(destinationCIDRs) }),
      ...(excludedCIDRs?.length && { excludedCIDRs: prefixes(excludedCIDRs) }),
      ...(egressIP && { egressIP }),
    });
  }
}

/** The block of the mode must be there. */
function checkMode(gateway: Gateway): void {
  const sourceIP = gateway.value.spec?.sourceIP;
  if (sourceIP?.mode === undefined || !gateway.sound) return;
  const block =
    sourceIP.mode === 'VirtualIPAddress' ? 'virtualIPAddress' : 'primaryIPFromEgressGatewayNodeInterface';
  if (sourceIP[block] !== undefined) return;
  gateway.fail(['spec', 'sourceIP', block], `this field is required by mode ${sourceIP.mode}`, 'key');
}

/** The addresses of the selected pods; undefined when they are unknown, which has been reported. */
function sourcesOf(document: PolicyDocument<PolicyResource>, set: DocumentSet, pods: Pods) {
  const selectors = each(document.value.spec?.selectors, ({ podSelector = {} }, i) => {
    checkSelector(document, ['spec', 'selectors', i, 'podSelector'], podSelector);
    return podSelector;
  });
  if (selectors.length > 0 && !pods.known) {
    if (!set.incomplete) {
      document.fail(
        ['spec', 'selectors'],
        'selects pods by their labels, so Pod documents are needed in the policy directory',
        'key',
      );
    }
    return undefined;
  }
  return pods.addresses(({ namespace, labels }) =>
    selectors.some((selector) => selects(selector, { ...labels, [NAMESPACE_LABEL]: namespace })),
  );
}

/** The virtual address, held while this node is the active one; undefined in the mode without one. */
function virtualAddress({ value: { spec, status } }: Gateway): EgressIP | undefined {
  if (spec?.sourceIP?.mode !== 'VirtualIPAddress') return undefined;
  const address = parseAddress(spec.sourceIP.virtualIPAddress?.ip ?? '') as Address;
  return { addresses: [address], announce: true, owner: status?.activeNodeName ?? '' };
}

/** The interface that the gateway names is the external one: the policy's own must be it, or none. */
function useInterface(policy: Policy, gateway: Gateway): void {
  const { mode, virtualIPAddress, primaryIPFromEgressGatewayNodeInterface } =
    gateway.value.spec?.sourceIP ?? {};
  const virtual = mode === 'VirtualIPAddress';
  const names = virtual
    ? each(virtualIPAddress?.interfaces, (name) => name)
    : each([primaryIPFromEgressGatewayNodeInterface?.interfaceName ?? ''].filter(Boolean), (name) => name);
  if (names.length === 0) return;
  policy.external.interface ??= names[0]!;
  if (names.includes(policy.external.interface)) return;
  const path = virtual
    ? ['virtualIPAddress', 'interfaces']
    : ['primaryIPFromEgressGatewayNodeInterface', 'interfaceName'];
  gateway.fail(
    ['spec', 'sourceIP', ...path],
    `the external interface of this gateway is ${policy.external.interface}`,
  );
}
