/** The kinds of documents that a policy directory may hold, without their schemas (schema.ts). Pure. */
import { condenseSlice } from './spidernet/endpoint-slice.ts';

/** A kind of document that is read. */
export interface Kind {
  apiVersion: string;
  kind: string;
  namespaced: boolean;
  /** A field without a value counts as absent, as for the Kubernetes API server. */
  emptyIsAbsent: boolean;
  /** Reduces a document of which there may be thousands to what is read of it. */
  condense?: (value: Record<string, unknown>) => Record<string, unknown>;
}

export const VEG_AGENT = 'veg-agent.io/v1alpha1';
export const KUBE_OVN = 'kubeovn.io/v1';
export const DECKHOUSE = 'network.deckhouse.io/v1alpha1';
export const SPIDERNET = 'egressgateway.spidernet.io/v1beta1';
const CORE = 'v1';
export const MULTUS = 'k8s.cni.cncf.io/v1';

const namespaced = (apiVersion: string, kind: string): Kind => ({
  ...{ apiVersion, kind, namespaced: true, emptyIsAbsent: true },
});
const clusterScoped = (apiVersion: string, kind: string): Kind => ({
  ...{ apiVersion, kind, namespaced: false, emptyIsAbsent: true },
});

export const POD = namespaced(CORE, 'Pod');

export const KINDS: readonly Kind[] = [
  // Blocks that were all commented out must not come to mean "any source".
  { ...namespaced(VEG_AGENT, 'GatewayPolicy'), emptyIsAbsent: false },
  namespaced(KUBE_OVN, 'VpcEgressGateway'),
  ...[
    'Subnet',
    'Vpc',
    'IPPool',
    'BgpConf',
    'EvpnConf',
    'IptablesEIP',
    'IptablesFIPRule',
    'IptablesDnatRule',
    'IptablesSnatRule',
    'QoSPolicy',
  ].map((kind) => clusterScoped(KUBE_OVN, kind)),
  clusterScoped(DECKHOUSE, 'EgressGateway'),
  clusterScoped(DECKHOUSE, 'EgressGatewayPolicy'),
  clusterScoped(SPIDERNET, 'EgressGateway'),
  namespaced(SPIDERNET, 'EgressPolicy'),
  clusterScoped(SPIDERNET, 'EgressClusterPolicy'),
  { ...namespaced(SPIDERNET, 'EgressEndpointSlice'), condense: condenseSlice },
  { ...clusterScoped(SPIDERNET, 'EgressClusterEndpointSlice'), condense: condenseSlice },
  POD,
  clusterScoped(CORE, 'Namespace'),
  namespaced(MULTUS, 'NetworkAttachmentDefinition'),
];
