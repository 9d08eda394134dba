/**
 * The Kubernetes resources of a gateway: its policy as a ConfigMap, and pods that obey it without a controller. Pure.
 *
 * The pod knows no routes and no rules: the agent makes them from the policy. So a change of the policy changes the
 * ConfigMap and nothing else, and rolls no pod.
 */
import { stringify } from 'yaml';
import { DEFAULT_VPC, type Gateway, type NodeSelector, RenderError } from './gateway.ts';

export interface KubernetesOptions {
  image: string;
  /** Also what Prometheus' operator reads. */
  serviceMonitor: boolean;
}

/** The port for metrics and probes. */
const PORT = { name: 'metrics', containerPort: 10_669 };
/** As Kube-OVN limits its supervisor. */
const RESOURCES = {
  requests: { cpu: '300m', memory: '64Mi' },
  limits: { cpu: '300m', memory: '64Mi' },
};
const STATE = '/run/veg-agent';

/** The documents, for `kubectl apply -f -`. Throws `RenderError`. */
export function renderKubernetes(gateway: Gateway, options: KubernetesOptions): string {
  const resources: object[] = [configMap(gateway), deployment(gateway, options.image)];
  if (gateway.replicas > 1) resources.push(disruptionBudget(gateway));
  if (options.serviceMonitor) resources.push(service(gateway), serviceMonitor(gateway));
  return resources
    .map((resource) => stringify(resource, { lineWidth: 0, aliasDuplicateObjects: false }))
    .join('---\n');
}

const labels = ({ name }: Gateway) => ({
  'app.kubernetes.io/name': 'veg-agent',
  'app.kubernetes.io/instance': name,
});

const metadata = (gateway: Gateway) => ({
  name: gateway.workload,
  namespace: gateway.namespace,
  labels: labels(gateway),
});

/** The policy directory: every document under the name of its file. Throws `RenderError`. */
function configMap(gateway: Gateway): object {
  const data: Record<string, string> = {};
  for (const { name, text } of gateway.files) {
    const base = name.replace(/^.*\//, '');
    const key = /\.(ya?ml|json)$/.test(base) ? base : `${base}.yaml`;
    if (key in data) throw new RenderError(`two files are called ${key}; rename one`);
    data[key] = text;
  }
  return { apiVersion: 'v1', kind: 'ConfigMap', metadata: metadata(gateway), data };
}

function deployment(gateway: Gateway, image: string): object {
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: metadata(gateway),
    spec: {
      replicas: gateway.replicas,
      selector: { matchLabels: labels(gateway) },
      // One after the other, each in the place of the one before: the addresses are fixed.
      strategy: { type: 'RollingUpdate', rollingUpdate: { maxUnavailable: 1, maxSurge: 0 } },
      // OVN may take 5 s to notice that a session is Up; the next is not taken away before.
      minReadySeconds: 10,
      template: {
        metadata: { labels: labels(gateway), annotations: annotations(gateway) },
        spec: podSpec(gateway, image),
      },
    },
  };
}

/** What Multus and Kube-OVN's CNI make of the pod's network. */
function annotations(gateway: Gateway): Record<string, string> {
  const [attachment, namespace] = gateway.externalProvider.split('.');
  const pool = (list: string[][], name: string | undefined) =>
    list.length > 0 ? list.map((pair) => pair.join(',')).join(';') : name;
  const internal = pool(gateway.internalIPs, gateway.internalIPPool);
  const external = pool(gateway.externalIPs, gateway.externalIPPool);
  return {
    'k8s.v1.cni.cncf.io/networks': `${namespace}/${attachment}`,
    'ovn.kubernetes.io/logical_switch': gateway.internalSubnet,
    ...(internal === undefined ? {} : { 'ovn.kubernetes.io/ip_pool': internal }),
    ...(external === undefined ? {} : { [`${gateway.externalProvider}.kubernetes.io/ip_pool`]: external }),
  };
}

function podSpec(gateway: Gateway, image: string): object {
  const mounts = [
    { name: 'policy', mountPath: '/etc/veg-agent/policy', readOnly: true },
    { name: 'state', mountPath: STATE },
    { name: 'podinfo', mountPath: '/etc/podinfo', readOnly: true },
  ];
  const { nodeSelector, tolerations } = gateway;
  return {
    automountServiceAccountToken: false,
    enableServiceLinks: false,
    terminationGracePeriodSeconds: 30,
    securityContext: { seccompProfile: { type: 'RuntimeDefault' } },
    affinity: {
      podAntiAffinity: antiAffinity(gateway),
      ...(nodeSelector.length > 0 && {
        nodeAffinity: {
          requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: nodeSelector.map(nodeTerm) },
        },
      }),
    },
    ...(tolerations.length > 0 && { tolerations }),
    // Privileged for the sysctls, which it alone can set; the rules are in place before any traffic comes.
    initContainers: [
      {
        name: 'init',
        image,
        command: ['veg-agent', 'apply'],
        securityContext: { privileged: true, runAsUser: 0 },
        volumeMounts: mounts,
      },
    ],
    containers: [
      {
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
        lifecycle: {
          preStop: { exec: { command: curl('--unix-socket', `${STATE}/control.sock`, ...DRAIN) } },
        },
        resources: gateway.resources ?? RESOURCES,
        // allowPrivilegeEscalation: without it, file capabilities count for nothing (docs/image.md).
        securityContext: {
          runAsUser: 65534,
          runAsGroup: 65534,
          runAsNonRoot: true,
          readOnlyRootFilesystem: true,
          allowPrivilegeEscalation: true,
          capabilities: { drop: ['ALL'], add: ['NET_ADMIN', 'NET_RAW'] },
        },
        volumeMounts: mounts,
      },
    ],
    volumes: [
      { name: 'policy', configMap: { name: gateway.workload } },
      { name: 'state', emptyDir: {} },
      {
        name: 'podinfo',
        downwardAPI: {
          items: [
            {
              path: 'network-status',
              fieldRef: { fieldPath: "metadata.annotations['k8s.v1.cni.cncf.io/network-status']" },
            },
          ],
        },
      },
    ],
  };
}

const curl = (...args: string[]): string[] => ['curl', '-fsS', '-o', '/dev/null', ...args];
const DRAIN = ['-m', '20', '-X', 'POST', 'http://veg-agent/v1/drain'];

const environment = (name: string, fieldPath: string) => ({ name, valueFrom: { fieldRef: { fieldPath } } });

/** The kubelet reaches pods of the default VPC only; into the others it has to go by exec. */
const probe = ({ vpc }: Gateway, path: string): object =>
  vpc === DEFAULT_VPC
    ? { httpGet: { path, port: PORT.name } }
    : { exec: { command: curl('-m', '5', `http://127.0.0.1:${PORT.containerPort}${path}`) } };

function antiAffinity(gateway: Gateway): object {
  const term = { labelSelector: { matchLabels: labels(gateway) }, topologyKey: 'kubernetes.io/hostname' };
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

const disruptionBudget = (gateway: Gateway): object => ({
  apiVersion: 'policy/v1',
  kind: 'PodDisruptionBudget',
  metadata: metadata(gateway),
  spec: { maxUnavailable: 1, selector: { matchLabels: labels(gateway) } },
});

const service = (gateway: Gateway): object => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: metadata(gateway),
  spec: {
    clusterIP: 'None',
    // Metrics of a gateway that is not ready are the ones of interest.
    publishNotReadyAddresses: true,
    selector: labels(gateway),
    ports: [{ name: PORT.name, port: PORT.containerPort, targetPort: PORT.name }],
  },
});

const serviceMonitor = (gateway: Gateway): object => ({
  apiVersion: 'monitoring.coreos.com/v1',
  kind: 'ServiceMonitor',
  metadata: metadata(gateway),
  spec: {
    selector: { matchLabels: labels(gateway) },
    endpoints: [{ port: PORT.name, path: '/metrics', interval: '15s' }],
  },
});
