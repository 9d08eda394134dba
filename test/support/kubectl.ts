/** Documents with all that a cluster writes into them, and lists of them as `kubectl get -o yaml` and `-o json` print. */
import { stringify } from 'yaml';

const TIME = '2026-01-02T03:04:05Z';
const uid = (i: number): string => `5d2f1a7e-0000-4000-8000-${`${i}`.padStart(12, '0')}`;
/** An address of the network 10.<second>.0.0/16 and those after it. */
const addressOf = (second: number, i: number): string =>
  `10.${second + (i >> 14)}.${(i >> 8) & 63}.${i & 255}`;

/** A running pod of two containers, one of fifty apps. */
export function pod(i: number): object {
  const ip = addressOf(17, i);
  const container = (c: number) => ({
    command: ['/bin/sh', '-c', 'set -e\nwhile true; do\n  status: sleep 1\ndone\n'],
    env: Array.from({ length: 8 }, (_, e) => ({ name: `VARIABLE_${e}`, value: `value ${e}: "x"` })),
    image: `registry.example/web:${c}`,
    imagePullPolicy: 'IfNotPresent',
    livenessProbe: { failureThreshold: 3, httpGet: { path: '/livez', port: 8080, scheme: 'HTTP' } },
    name: `c${c}`,
    ports: [{ containerPort: 8080, name: 'http', protocol: 'TCP' }],
    resources: { limits: { cpu: '1', memory: '256Mi' }, requests: { cpu: '100m', memory: '64Mi' } },
    securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] } },
    terminationMessagePath: '/dev/termination-log',
    terminationMessagePolicy: 'File',
    volumeMounts: [{ mountPath: '/var/run/secrets/kubernetes.io/serviceaccount', name: 'token' }],
  });
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      annotations: {
        'ovn.kubernetes.io/allocated': 'true',
        'ovn.kubernetes.io/ip_address': ip,
        'ovn.kubernetes.io/logical_switch': 'subnet1',
        'ovn.kubernetes.io/mac_address': '00:00:00:53:6B:BB',
      },
      creationTimestamp: TIME,
      generateName: 'web-6d4cf56db6-',
      labels: {
        app: `app-${i % 50}`,
        'app.kubernetes.io/instance': `release-${i % 20}`,
        'app.kubernetes.io/name': 'web',
        'pod-template-hash': '6d4cf56db6',
        tier: 'front',
      },
      name: `web-6d4cf56db6-${i}`,
      namespace: `team-${i % 30}`,
      ownerReferences: [
        { apiVersion: 'apps/v1', controller: true, kind: 'ReplicaSet', name: 'web', uid: uid(0) },
      ],
      resourceVersion: `${1_000_000 + i}`,
      uid: uid(i),
    },
    spec: {
      containers: [container(0), container(1)],
      dnsPolicy: 'ClusterFirst',
      nodeName: `node-${i % 9}`,
      priority: 0,
      restartPolicy: 'Always',
      schedulerName: 'default-scheduler',
      securityContext: {},
      serviceAccountName: 'default',
      terminationGracePeriodSeconds: 30,
      tolerations: [{ effect: 'NoExecute', key: 'node.kubernetes.io/not-ready', operator: 'Exists' }],
      volumes: [{ name: 'token', projected: { defaultMode: 420, sources: [{ configMap: { name: 'ca' } }] } }],
    },
    status: {
      conditions: ['Initialized', 'Ready', 'ContainersReady', 'PodScheduled'].map((type) => ({
        lastProbeTime: null,
        lastTransitionTime: TIME,
        status: 'True',
        type,
      })),
      containerStatuses: [0, 1].map((c) => ({
        containerID: `containerd://${'0123456789abcdef'.repeat(4)}`,
        imageID: `registry.example/web@sha256:${'0123456789abcdef'.repeat(4)}`,
        lastState: {},
        name: `c${c}`,
        ready: true,
        restartCount: 0,
        state: { running: { startedAt: TIME } },
      })),
      hostIP: '192.168.0.9',
      phase: 'Running',
      podIP: ip,
      podIPs: [{ ip }],
      qosClass: 'Burstable',
      startTime: TIME,
    },
  };
}

/** A Subnet of the VPC `vpc1`. */
export function subnet(i: number): object {
  const network = `10.${100 + (i >> 8)}.${i & 255}`;
  const spec = {
    cidrBlock: `${network}.0/24`,
    default: false,
    enableLb: true,
    excludeIps: [`${network}.1`],
    gateway: `${network}.1`,
    gatewayNode: '',
    gatewayType: 'distributed',
    namespaces: [`team-${i}`],
    natOutgoing: false,
    private: false,
    protocol: 'IPv4',
    provider: 'ovn',
    vpc: 'vpc1',
  };
  const applied = JSON.stringify({ apiVersion: 'kubeovn.io/v1', kind: 'Subnet', metadata: {}, spec });
  return {
    apiVersion: 'kubeovn.io/v1',
    kind: 'Subnet',
    metadata: {
      annotations: { 'kubectl.kubernetes.io/last-applied-configuration': `${applied}\n` },
      creationTimestamp: TIME,
      finalizers: ['kubeovn.io/kube-ovn-controller'],
      generation: 3,
      name: `subnet${i}`,
      resourceVersion: '1234',
      uid: uid(i),
    },
    spec,
    status: {
      activateGateway: '',
      conditions: ['Validated', 'Ready', 'EnableACL'].map((type) => ({
        lastTransitionTime: TIME,
        lastUpdateTime: TIME,
        reason: 'ResetLogicalSwitchAclSuccess',
        status: 'True',
        type,
      })),
      natOutgoingPolicyRules: [],
      v4availableIPs: 253,
      v4availableIPrange: `${network}.2-${network}.254`,
      v4usingIPs: 0,
    },
  };
}

/** A slice of Spidernet's with a hundred endpoints of the policy `policy1`, or of another. */
export const slice = (i: number, policy = 'policy1'): object => ({
  apiVersion: 'egressgateway.spidernet.io/v1beta1',
  endpoints: Array.from({ length: 100 }, (_, e) => ({
    ipv4: [addressOf(60, i * 100 + e)],
    node: `node-${e % 9}`,
    ns: 'default',
    pod: `client-${i * 100 + e}-abcde`,
  })),
  kind: 'EgressEndpointSlice',
  metadata: {
    creationTimestamp: TIME,
    generateName: `${policy}-`,
    generation: 1,
    labels: { 'spidernet.io/policy-name': policy },
    name: `${policy}-${i}`,
    namespace: 'default',
    resourceVersion: '1',
    uid: uid(i),
  },
});

/** A list of so many. */
export const listOf = (count: number, make: (i: number) => object): object => ({
  apiVersion: 'v1',
  items: Array.from({ length: count }, (_, i) => make(i)),
  kind: 'List',
  metadata: { resourceVersion: '' },
});

export const asYaml = (value: object): string => stringify(value, { indentSeq: false, lineWidth: 0 });
export const asJson = (value: object): string => `${JSON.stringify(value, null, 4)}\n`;

/** A gateway whose rules come from such lists. */
export const GATEWAY_OF_LISTS = `apiVersion: kubeovn.io/v1
kind: VpcEgressGateway
metadata: { name: gateway1, namespace: default }
spec:
  vpc: vpc1
  internalSubnet: internal
  externalSubnet: external
  policies: [{ snat: true, subnets: [subnet3, subnet499] }]
  selectors: [{ podSelector: { matchLabels: { app: app-3 } } }]
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: { name: internal }
spec: { protocol: IPv4, cidrBlock: 10.16.0.0/16, gateway: 10.16.0.1, vpc: vpc1 }
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: { name: external }
spec: { protocol: IPv4, cidrBlock: 172.17.0.0/16, gateway: 172.17.0.1 }
---
apiVersion: egressgateway.spidernet.io/v1beta1
kind: EgressGateway
metadata: { name: spider }
spec: { ippools: { ipv4: [172.17.0.70] }, nodeSelector: { selector: { matchLabels: { egress: "true" } } } }
---
apiVersion: egressgateway.spidernet.io/v1beta1
kind: EgressPolicy
metadata: { name: policy1, namespace: default }
spec: { egressGatewayName: spider, appliedTo: { podSelector: { matchLabels: { app: client } } } }
status: { eip: { ipv4: 172.17.0.70 }, node: node1 }
`;
