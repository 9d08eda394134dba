/**
 * The Kubernetes resources of a gateway: its policy as a ConfigMap, and pods that obey it without a controller. Pure.
 *
 * The pod knows no routes and no rules: the agent makes them from the policy. So a change of the policy changes the
 * ConfigMap and nothing else, and rolls no pod.
 */
import { stringify } from 'yaml';
import { DEFAULT_VPC } from '../policy/kube-ovn/gateway.ts';
import type { PolicyFile } from '../policy/model.ts';
import { sieve } from '../policy/sieve.ts';
import { type FrrParts, frrParts } from './frr-container.ts';
import { type Gateway, type NodeSelector, OVN_PROVIDER, RenderError } from './gateway.ts';
import { groupSecret, SECRET_DIRECTORY, SECRET_KEY } from './group.ts';
import { fileKey, type Hash, labelValue, objectName, serviceName } from './names.ts';

export interface KubernetesOptions {
  image: string;
  /** Of FRR's container; for a gateway with BGP. */
  frrImage?: string;
  /** Also what Prometheus' operator reads. */
  serviceMonitor: boolean;
  hash: Hash;
  /** The policy is that of a group (group.ts), whose key is in a Secret. */
  isGroup?: boolean;
}

/** The port for metrics and probes. */
const PORT = { name: 'metrics', containerPort: 10_669 };
/** As Kube-OVN limits its supervisor. */
const RESOURCES = {
  requests: { cpu: '300m', memory: '64Mi' },
  limits: { cpu: '300m', memory: '64Mi' },
};
/** The agent's user and group. */
const USER = 65_534;
const STATE = '/run/veg-agent';
/**
 * What the state directory may come to. It is memory, because BFD writes there with every packet, and counts towards
 * the container's; a tenth of it is for translations.
 */
const STATE_SIZE = '64Mi';
/** Timeout of a drain, s: OVN takes up to five to notice, then traffic has to move. */
const DRAIN = 20;
/** The drain, a second one of 5 s after SIGTERM, and 3 s to exit, s. */
const GRACE = 30;
/** What a ConfigMap may hold, octets. */
const MAX_CONFIG_MAP = 1 << 20;

/** The names of a gateway's objects. */
interface Names {
  object: string;
  service: string;
  /** The Secret with the key of the group; absent: no group. */
  secret?: string;
  labels: Record<string, string>;
  /** Absent: no BGP. */
  frr?: FrrParts;
}

/** The documents, for `kubectl apply -f -`. Throws `RenderError`. */
export function renderKubernetes(
  gateway: Gateway,
  { image, frrImage, serviceMonitor, hash, isGroup = false }: KubernetesOptions,
): string {
  const { namespace, policy } = gateway;
  const labels = {
    'app.kubernetes.io/name': 'veg-agent',
    'app.kubernetes.io/instance': labelValue(gateway.name, hash),
  };
  const names: Names = {
    object: objectName(gateway.workload, hash),
    service: serviceName(gateway.workload, hash),
    ...(isGroup && { secret: groupSecret(gateway, hash) }),
    labels,
    ...(policy.bgp &&
      frrImage !== undefined && {
        frr: frrParts(gateway, policy.bgp, {
          image: frrImage,
          metadata: { namespace, labels },
          user: USER,
          hash,
        }),
      }),
  };
  const resources: object[] = [
    configMap(gateway, names, hash),
    ...(names.frr?.resources ?? []),
    deployment(gateway, names, image),
  ];
  if (gateway.replicas > 1) resources.push(disruptionBudget(gateway, names));
  if (serviceMonitor) resources.push(service(gateway, names), monitor(gateway, names));
  return resources
    .map((resource) => stringify(resource, { lineWidth: 0, aliasDuplicateObjects: false }))
    .join('---\n');
}

const metadata = ({ namespace }: Gateway, { object, labels }: Names) => ({ name: object, namespace, labels });

/**
 * The policy directory: every document under the name of its file, without unused fields when it would be too large.
 * Throws `RenderError`.
 */
function configMap(gateway: Gateway, names: Names, hash: Hash): object {
  const whole = policyFiles(gateway.files, hash);
  const data = sizeOf(whole) <= MAX_CONFIG_MAP ? whole : policyFiles(gateway.files.map(withoutUnread), hash);
  if (sizeOf(data) > MAX_CONFIG_MAP) {
    throw new RenderError(
      `the documents hold ${Math.ceil(sizeOf(data) / 1024)} KiB, and a ConfigMap holds 1024: leave out what the gateway does not name`,
    );
  }
  return { apiVersion: 'v1', kind: 'ConfigMap', metadata: metadata(gateway, names), data };
}

function policyFiles(files: readonly PolicyFile[], hash: Hash): Record<string, string> {
  const data: Record<string, string> = {};
  for (const { name, text } of files) {
    const key = fileKey(name, hash);
    if (key in data) throw new RenderError(`two files are called ${key}; rename one`);
    data[key] = text;
  }
  return data;
}

const withoutUnread = (file: PolicyFile): PolicyFile => ({ ...file, text: sieve(file.text).text });

const sizeOf = (data: Record<string, string>): number =>
  Object.values(data).reduce((sum, text) => sum + Buffer.byteLength(text), 0);

function deployment(gateway: Gateway, names: Names, image: string): object {
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: metadata(gateway, names),
    spec: {
      replicas: gateway.replicas,
      selector: { matchLabels: names.labels },
      // One pod at a time, the new one after the old one: the addresses are fixed.
      strategy: { type: 'RollingUpdate', rollingUpdate: { maxUnavailable: 1, maxSurge: 0 } },
      // OVN may take 5 s to see a session Up; the next pod is not replaced before.
      minReadySeconds: 10,
      template: {
        metadata: {
          labels: names.labels,
          annotations: { ...annotations(gateway), ...names.frr?.annotations },
        },
        spec: podSpec(gateway, names, image),
      },
    },
  };
}

/** The annotations that Multus and Kube-OVN's CNI read. */
function annotations(gateway: Gateway): Record<string, string> {
  const { internalProvider, externalProvider, bandwidth } = gateway;
  const pool = (list: string[][], name: string | undefined) =>
    list.length > 0 ? list.map((pair) => pair.join(',')).join(';') : name;
  const values = {
    ...(internalProvider !== OVN_PROVIDER && {
      'v1.multus-cni.io/default-network': attachmentOf(internalProvider),
    }),
    'k8s.v1.cni.cncf.io/networks': attachmentOf(externalProvider),
    [`${internalProvider}.kubernetes.io/logical_switch`]: gateway.internalSubnet,
    [`${internalProvider}.kubernetes.io/ip_pool`]: pool(gateway.internalIPs, gateway.internalIPPool),
    // Crossed: egress of the VPC is ingress of the pod's internal interface.
    [`${internalProvider}.kubernetes.io/ingress_rate`]: bandwidth.egress?.toString(),
    [`${internalProvider}.kubernetes.io/egress_rate`]: bandwidth.ingress?.toString(),
    [`${externalProvider}.kubernetes.io/ip_pool`]: pool(gateway.externalIPs, gateway.externalIPPool),
  };
  return Object.fromEntries(
    Object.entries(values).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
}

/** `NAMESPACE/NAME` of the network attachment that a provider names as `NAME.NAMESPACE`. */
function attachmentOf(provider: string): string {
  const [name, namespace] = provider.split('.');
  return `${namespace}/${name}`;
}

const MOUNTS = [
  { name: 'policy', mountPath: '/etc/veg-agent/policy', readOnly: true },
  { name: 'state', mountPath: STATE },
  { name: 'podinfo', mountPath: '/etc/podinfo', readOnly: true },
];

const SECRET = 'secret';
const mounts = ({ secret }: Names): object[] =>
  secret === undefined ? MOUNTS : [...MOUNTS, { name: SECRET, mountPath: SECRET_DIRECTORY, readOnly: true }];

/** Nobody else may read the key; with an fsGroup the kubelet adds the group's right to read. */
const secretVolume = (secretName: string): object => ({
  name: SECRET,
  secret: { secretName, defaultMode: 0o400, items: [{ key: SECRET_KEY, path: SECRET_KEY }] },
});

const NETWORK_STATUS = {
  path: 'network-status',
  fieldRef: { fieldPath: "metadata.annotations['k8s.v1.cni.cncf.io/network-status']" },
};

function podSpec(gateway: Gateway, names: Names, image: string): object {
  const { nodeSelector, tolerations } = gateway;
  return {
    automountServiceAccountToken: false,
    enableServiceLinks: false,
    terminationGracePeriodSeconds: GRACE,
    securityContext: {
      seccompProfile: { type: 'RuntimeDefault' },
      // The user of the containers reads keys by its group: files of a Secret are root's.
      ...((names.secret !== undefined || names.frr?.hasSecret) && { fsGroup: USER }),
    },
    affinity: {
      podAntiAffinity: antiAffinity(gateway, names),
      ...(nodeSelector.length > 0 && {
        nodeAffinity: {
          requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: nodeSelector.map(nodeTerm) },
        },
      }),
    },
    ...(tolerations.length > 0 && { tolerations }),
    initContainers: [initContainer(names, image)],
    containers: [agentContainer(gateway, names, image), ...(names.frr ? [names.frr.container] : [])],
    volumes: [
      { name: 'policy', configMap: { name: names.object } },
      { name: 'state', emptyDir: { medium: 'Memory', sizeLimit: STATE_SIZE } },
      { name: 'podinfo', downwardAPI: { items: [NETWORK_STATUS] } },
      ...(names.secret === undefined ? [] : [secretVolume(names.secret)]),
      ...(names.frr?.volumes ?? []),
    ],
  };
}

/** Privileged, because only it can set sysctls. The rules are in place before any traffic arrives. */
const initContainer = (names: Names, image: string): object => ({
  name: 'init',
  image,
  command: ['veg-agent', 'apply'],
  securityContext: { privileged: true, runAsUser: 0 },
  volumeMounts: mounts(names),
});

const agentContainer = (gateway: Gateway, names: Names, image: string): object => ({
  name: 'agent',
  image,
  command: ['veg-agent', 'run'],
  env: [
    environment('POD_NAME', 'metadata.name'),
    environment('POD_NAMESPACE', 'metadata.namespace'),
    environment('NODE_NAME', 'spec.nodeName'),
  ],
  ports: [{ ...PORT, protocol: 'TCP' }],
  startupProbe: { ...probe(gateway, '/livez'), periodSeconds: 1, failureThreshold: 60 },
  livenessProbe: { ...probe(gateway, '/livez'), periodSeconds: 5, timeoutSeconds: 5 },
  readinessProbe: { ...probe(gateway, '/readyz'), periodSeconds: 3, timeoutSeconds: 5 },
  lifecycle: { preStop: { exec: { command: drain } } },
  resources: gateway.resources ?? RESOURCES,
  // allowPrivilegeEscalation: false disables file capabilities (docs/image.md).
  securityContext: {
    runAsUser: USER,
    runAsGroup: USER,
    runAsNonRoot: true,
    readOnlyRootFilesystem: true,
    allowPrivilegeEscalation: true,
    capabilities: { drop: ['ALL'], add: ['NET_ADMIN', 'NET_RAW'] },
  },
  volumeMounts: [...mounts(names), ...(names.frr ? [names.frr.agentMount] : [])],
});

const curl = (...args: string[]): string[] => ['curl', '-fsS', '-o', '/dev/null', ...args];
/** The reply comes when the drain has ended, at the timeout at the latest. */
const drain = curl(
  ...['-m', `${DRAIN + 2}`, '--unix-socket', `${STATE}/control.sock`],
  ...['-X', 'POST', `http://veg-agent/v1/drain?timeout=${DRAIN}s`],
);

const environment = (name: string, fieldPath: string) => ({ name, valueFrom: { fieldRef: { fieldPath } } });

/** The kubelet reaches only pods of the default VPC; others need exec probes. */
const probe = ({ vpc, internalProvider }: Gateway, path: string): object =>
  vpc === DEFAULT_VPC && internalProvider === OVN_PROVIDER
    ? { httpGet: { path, port: PORT.name } }
    : { exec: { command: curl('-m', '5', `http://127.0.0.1:${PORT.containerPort}${path}`) } };

function antiAffinity(gateway: Gateway, { labels }: Names): object {
  const term = { labelSelector: { matchLabels: labels }, topologyKey: 'kubernetes.io/hostname' };
  return gateway.spread === 'Required'
    ? { requiredDuringSchedulingIgnoredDuringExecution: [term] }
    : { preferredDuringSchedulingIgnoredDuringExecution: [{ weight: 100, podAffinityTerm: term }] };
}

function nodeTerm({ matchLabels = {}, matchExpressions = [], matchFields = [] }: NodeSelector): object {
  const wanted = Object.entries(matchLabels).map(([key, value]) => ({
    key,
    operator: 'In',
    values: [value],
  }));
  const expressions = [...matchExpressions, ...wanted];
  return {
    ...(expressions.length > 0 && { matchExpressions: expressions }),
    ...(matchFields.length > 0 && { matchFields }),
  };
}

const disruptionBudget = (gateway: Gateway, names: Names): object => ({
  apiVersion: 'policy/v1',
  kind: 'PodDisruptionBudget',
  metadata: metadata(gateway, names),
  spec: { maxUnavailable: 1, selector: { matchLabels: names.labels } },
});

const service = (gateway: Gateway, names: Names): object => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { ...metadata(gateway, names), name: names.service },
  spec: {
    clusterIP: 'None',
    // Metrics matter most when a gateway is not ready.
    publishNotReadyAddresses: true,
    selector: names.labels,
    ports: [{ name: PORT.name, port: PORT.containerPort, targetPort: PORT.name }],
  },
});

const monitor = (gateway: Gateway, names: Names): object => ({
  apiVersion: 'monitoring.coreos.com/v1',
  kind: 'ServiceMonitor',
  metadata: metadata(gateway, names),
  spec: {
    selector: { matchLabels: names.labels },
    endpoints: [{ port: PORT.name, path: '/metrics', interval: '15s' }],
  },
});
