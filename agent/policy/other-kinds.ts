/**
 * Kinds that are not read: those that occur beside a gateway in a cluster, which are ignored, and those that are a
 * mistake, with advice. Pure.
 */

import { KINDS, KUBE_OVN } from './kinds.ts';
import { closest, quote } from './quote.ts';

/** What a gateway has no use for, by apiVersion. */
const PASSED_OVER: Readonly<Record<string, string>> = {
  [KUBE_OVN]: `DNSNameResolver IP OvnDnatRule OvnEip OvnFip OvnSnatRule ProviderNetwork
    SecurityGroup SwitchLBRule Vip Vlan VpcDns VpcNatGateway`,
  'egressgateway.spidernet.io/v1beta1': 'EgressClusterInfo EgressTunnel',
  v1: 'Endpoints Event LimitRange Node PersistentVolume PersistentVolumeClaim ResourceQuota Service ServiceAccount',
  'apps/v1': 'DaemonSet Deployment ReplicaSet StatefulSet',
  'autoscaling/v2': 'HorizontalPodAutoscaler',
  'batch/v1': 'CronJob Job',
  'discovery.k8s.io/v1': 'EndpointSlice',
  'networking.k8s.io/v1': 'Ingress NetworkPolicy',
  'policy/v1': 'PodDisruptionBudget',
  'policy.networking.k8s.io/v1alpha1': 'AdminNetworkPolicy BaselineAdminNetworkPolicy',
  'rbac.authorization.k8s.io/v1': 'ClusterRole ClusterRoleBinding Role RoleBinding',
  'apiextensions.k8s.io/v1': 'CustomResourceDefinition',
  'monitoring.coreos.com/v1': 'PodMonitor PrometheusRule ServiceMonitor',
};

/** Whether a document is ignored. */
export const isPassedOver = (apiVersion: string, kind: string): boolean =>
  PASSED_OVER[apiVersion]?.split(/\s+/).includes(kind) ?? false;

/** What to do instead, by kind. */
const ADVICE: Readonly<Record<string, string>> = {
  ConfigMap: 'a ConfigMap is mounted as the policy directory, each key of it a file; put those files here',
  Secret: 'keys are files that the policy names; mount the Secret beside the policy directory',
  Kustomization: 'put here what `kubectl kustomize` prints',
  HelmChart: 'put here what `helm template` prints',
  Application: 'put here the manifests that it leads to',
};

const groupOf = (apiVersion: string): string => apiVersion.split('/').at(-2) ?? '';

/** Why a kind is refused, and the field that is wrong. */
export function refusal(apiVersion: string, kind: string): { field: 'apiVersion' | 'kind'; message: string } {
  const sameKind = KINDS.filter((known) => known.kind === kind);
  const right = sameKind.map((known) => known.apiVersion).join(' or ');
  if (
    sameKind.some((known) => groupOf(known.apiVersion) === groupOf(apiVersion) || !apiVersion.includes('.'))
  ) {
    const message = `${quote(apiVersion)} is not the apiVersion of ${kind}: write ${right}`;
    return { field: 'apiVersion', message };
  }
  const names = [...new Set(KINDS.map((known) => known.kind))];
  const read = `supported kinds: ${names.join(', ')} and List`;
  if (sameKind.length > 0) {
    const own = KINDS.filter((known) => groupOf(known.apiVersion) === groupOf(apiVersion));
    const message =
      own.length > 0
        ? `${groupOf(apiVersion)} has no ${kind} that is read here; it has ${own.map((one) => one.kind).join(', ')}`
        : `${kind} of ${quote(apiVersion)} belongs to another system and is not supported; use a GatewayPolicy instead`;
    return { field: 'apiVersion', message };
  }
  const advice = ADVICE[kind];
  if (advice !== undefined) return { field: 'kind', message: `${kind} is not supported: ${advice}` };
  const foreign =
    /^(Cilium|Antrea)?Egress/.test(kind) &&
    !KINDS.some((one) => groupOf(one.apiVersion) === groupOf(apiVersion));
  if (foreign) {
    const other = `${kind} of ${quote(apiVersion)} belongs to another system and is not supported`;
    return { field: 'kind', message: `${other}; use a GatewayPolicy instead` };
  }
  const meant = closest(kind, names);
  const help = meant === undefined ? '' : ` (did you mean ${quote(meant)}?)`;
  return { field: 'kind', message: `unknown kind ${quote(kind)}${help}; ${read}` };
}
