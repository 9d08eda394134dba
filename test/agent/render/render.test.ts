import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { parseAllDocuments } from 'yaml';
import { readDocuments } from '../../../agent/policy/documents.ts';
import { loadPolicy } from '../../../agent/policy/load.ts';
import type { PolicyFile } from '../../../agent/policy/model.ts';
import { DEFAULT_TOKENS } from '../../../agent/policy/parse.ts';
import { type Gateway, readGateway } from '../../../agent/render/gateway.ts';
import { renderKubernetes } from '../../../agent/render/kubernetes.ts';
import { renderOvn } from '../../../agent/render/ovn.ts';
import { run } from '../../support/netns.ts';
import { faults } from './kubernetes-schema.ts';

const DIRECTORY = fileURLToPath(new URL('../../../images/kubernetes', import.meta.url));
const MAIN = fileURLToPath(new URL('../../../agent/main.ts', import.meta.url));
const EXAMPLE = readFileSync(join(DIRECTORY, 'veg.yaml'), 'utf8');

// biome-ignore lint/suspicious/noExplicitAny: parsed YAML
type Resource = any;

const example = (change: (text: string) => string = (text) => text): PolicyFile[] => [
  { name: 'veg.yaml', text: change(EXAMPLE) },
];

function read(files: PolicyFile[]): Gateway {
  const result = loadPolicy(files);
  if (!result.ok) throw new Error(JSON.stringify(result.errors));
  return readGateway(result.policy, readDocuments(files, [], { tokens: DEFAULT_TOKENS }), files);
}

/** The resources by kind, each of which is sound. */
function kubernetes(t: Test, files: PolicyFile[], serviceMonitor = false): Record<string, Resource> {
  const text = renderKubernetes(read(files), { image: 'veg-agent:test', serviceMonitor });
  const resources = parseAllDocuments(text).map((document) => document.toJS() as Resource);
  for (const resource of resources) t.same(faults(resource), [], resource.kind);
  return Object.fromEntries(resources.map((resource) => [resource.kind, resource]));
}

/** The example with `spec` fields put first. */
const withSpec = (fields: string) =>
  example((text) => text.replace('\nspec:\n  replicas: 2\n', `\nspec:\n  replicas: 2\n${fields}`));

const ovn = (files: PolicyFile[]): string => renderOvn(read(files), () => '0123456789abcdef');

t.test('the files of images/kubernetes are what the example comes to', async (t) => {
  for (const [what, file] of [
    ['kubernetes', 'gateway.yaml'],
    ['ovn', 'ovn.sh'],
  ] as const) {
    const { code, stdout, stderr } = run(process.execPath, [
      MAIN,
      'render',
      what,
      '-f',
      join(DIRECTORY, 'veg.yaml'),
    ]);
    t.equal(code, 0, stderr);
    const text = readFileSync(join(DIRECTORY, file), 'utf8');
    t.equal(
      text.replace(/^# Made by .*\n/, '').replace(/veg-agent:\d\S*/g, 'veg-agent:V'),
      stdout.replace(/veg-agent:\d\S*/g, 'veg-agent:V'),
    );
  }
});

t.test('the pod of the Deployment reads the policy that it was rendered from', async (t) => {
  const { ConfigMap, Deployment } = kubernetes(t, example());
  t.same(ConfigMap.data, { 'veg.yaml': EXAMPLE });
  const files = Object.entries(ConfigMap.data).map(([name, text]) => ({ name, text: String(text) }));
  t.equal(loadPolicy(files).ok, true);
  t.match(Deployment.spec.template.spec.volumes, [{ configMap: { name: ConfigMap.metadata.name } }]);
  t.match(Deployment.spec.template.spec.containers[0].volumeMounts, [{ mountPath: '/etc/veg-agent/policy' }]);
});

t.test('one after the other is replaced, and never two are missing', async (t) => {
  const { Deployment, PodDisruptionBudget } = kubernetes(t, example());
  t.match(Deployment.spec, {
    replicas: 2,
    strategy: { rollingUpdate: { maxUnavailable: 1, maxSurge: 0 } },
    minReadySeconds: 10,
  });
  t.equal(PodDisruptionBudget.spec.maxUnavailable, 1);
  const single = kubernetes(
    t,
    example((text) => text.replace('replicas: 2', 'replicas: 1')),
  );
  t.notOk(single.PodDisruptionBudget, 'one replica could never be evicted with a budget');
});

t.test('a change of the policy changes nothing of the pods', async (t) => {
  const before = kubernetes(t, example());
  const after = kubernetes(
    t,
    example((text) => text.replace('10.18.0.0/16', '10.19.0.0/16')),
  );
  t.not(after.ConfigMap.data['veg.yaml'], before.ConfigMap.data['veg.yaml']);
  t.same(after.Deployment, before.Deployment);
});

t.test('what the controller does with spec is in the Deployment', async (t) => {
  const { Deployment } = kubernetes(
    t,
    withSpec(`  prefix: egress-
  podAntiAffinity: Preferred
  nodeSelector: [{ matchLabels: { role: egress }, matchExpressions: [{ key: zone, operator: Exists }] }]
  tolerations: [{ key: egress, operator: Exists, effect: NoSchedule }]
  resources: { limits: { memory: 128Mi } }
`),
  );
  t.equal(Deployment.metadata.name, 'egress-gateway1');
  const { spec, metadata } = Deployment.spec.template;
  t.same(metadata.annotations, {
    'k8s.v1.cni.cncf.io/networks': 'default/macvlan1',
    'ovn.kubernetes.io/logical_switch': 'ovn-default',
    'ovn.kubernetes.io/ip_pool': '10.16.0.102;10.16.0.103',
    'macvlan1.default.kubernetes.io/ip_pool': '172.17.0.11;172.17.0.12',
  });
  t.match(spec.affinity, {
    podAntiAffinity: { preferredDuringSchedulingIgnoredDuringExecution: [{ weight: 100 }] },
    nodeAffinity: {
      requiredDuringSchedulingIgnoredDuringExecution: {
        nodeSelectorTerms: [
          {
            matchExpressions: [
              { key: 'zone', operator: 'Exists' },
              { key: 'role', operator: 'In', values: ['egress'] },
            ],
          },
        ],
      },
    },
  });
  t.same(spec.tolerations, [{ key: 'egress', operator: 'Exists', effect: 'NoSchedule' }]);
  t.same(spec.containers[0].resources, { limits: { memory: '128Mi' } });
});

t.test('addresses may come from pools of the cluster', async (t) => {
  const { Deployment } = kubernetes(
    t,
    example((text) => text.replace(/ {2}(in|ex)ternalIPs: .*\n/g, '  $1ternalIPPool: pool-$1\n')),
  );
  t.match(Deployment.spec.template.metadata.annotations, {
    'ovn.kubernetes.io/ip_pool': 'pool-in',
    'macvlan1.default.kubernetes.io/ip_pool': 'pool-ex',
  });
});

t.test('the kubelet probes the default VPC by HTTP and others by exec', async (t) => {
  const probes = ({ Deployment }: Record<string, Resource>) => {
    const [container] = Deployment.spec.template.spec.containers;
    return [container.startupProbe, container.livenessProbe, container.readinessProbe];
  };
  t.match(probes(kubernetes(t, example())), [
    { httpGet: { path: '/livez' } },
    { httpGet: { path: '/livez' } },
    { httpGet: { path: '/readyz' } },
  ]);
  const other = example((text) =>
    text.replace('\nspec:\n  replicas', '\nspec:\n  vpc: vpc1\n  replicas').replaceAll('ovn-cluster', 'vpc1'),
  );
  t.match(
    probes(kubernetes(t, other)).map(({ exec }) => exec.command.at(-1)),
    ['http://127.0.0.1:10669/livez', 'http://127.0.0.1:10669/livez', 'http://127.0.0.1:10669/readyz'],
  );
});

t.test('a ServiceMonitor finds its Service', async (t) => {
  t.notOk(kubernetes(t, example()).ServiceMonitor);
  const { Service, ServiceMonitor, Deployment } = kubernetes(t, example(), true);
  t.same(ServiceMonitor.spec.selector.matchLabels, Service.metadata.labels);
  t.same(Service.spec.selector, Deployment.spec.template.metadata.labels);
  t.equal(ServiceMonitor.spec.endpoints[0].port, Service.spec.ports[0].name);
});

t.test('OVN is told the sources, the gateways, and its own minimum intervals', async (t) => {
  const script = ovn(example((text) => text.replace('minTX: 100', 'minTX: 200')));
  t.match(script, `name=VEG.0123456789ab.ipv4 addresses='["10.17.0.0/16","10.18.0.0/16"]'`);
  t.match(
    script,
    `match='"ip4.src == $VEG.0123456789ab.ipv4"' action=reroute nexthops='["10.16.0.102","10.16.0.103"]'`,
  );
  t.match(script, /bfd_sessions="\[\$sessions\]"/);
  t.match(script, 'min_tx=100 min_rx=200 detect_mult=5');
  t.match(script, 'port=bfd@ovn-cluster');
  t.match(script, 'priority=29100');
  t.match(script, 'priority=29090');
});

t.test('without BFD nothing is watched and nothing dropped', async (t) => {
  const script = ovn(example((text) => text.replace('enabled: true, minTX', 'enabled: false, minTX')));
  t.notMatch(script, /create BFD|bfd_sessions|priority=29090/);
  t.match(script, 'priority=29100');
});

t.test('both families where both are', async (t) => {
  const both = example((text) =>
    text
      .replace('[10.16.0.102, 10.16.0.103]', '["10.16.0.102,fd00:10:16::102", "10.16.0.103,fd00:10:16::103"]')
      .replace('ip: 10.255.255.255', 'ip: "10.255.255.255,fd00:ffff::1"')
      .replaceAll('protocol: IPv4', 'protocol: Dual')
      .replace(
        '10.16.0.0/16, gateway: 10.16.0.1',
        '"10.16.0.0/16,fd00:10:16::/64", gateway: "10.16.0.1,fd00:10:16::1"',
      )
      .replace(
        '10.17.0.0/16, gateway: 10.17.0.1',
        '"10.17.0.0/16,fd00:10:17::/64", gateway: "10.17.0.1,fd00:10:17::1"',
      )
      .replace(
        '172.17.0.0/16, gateway: 172.17.0.1',
        '"172.17.0.0/16,fd00:172:17::/64", gateway: "172.17.0.1,fd00:172:17::1"',
      ),
  );
  const script = ovn(both);
  t.match(script, `nexthops='["fd00:10:16::102","fd00:10:16::103"]'`);
  t.match(script, `addresses='["fd00:10:17::/64"]'`);
  t.match(script, `ip6.src == $VEG.0123456789ab.ipv6`);
  const { Deployment } = kubernetes(t, both);
  t.match(Deployment.spec.template.metadata.annotations, {
    'ovn.kubernetes.io/ip_pool': '10.16.0.102,fd00:10:16::102;10.16.0.103,fd00:10:16::103',
  });
});

t.test('what cannot be rendered is said with its field', async (t) => {
  const of = (from: string | RegExp, to: string) => () => ovn(example((text) => text.replace(from, to)));
  t.throws(of(/ {2}internalIPs: .*\n/, ''), /spec\.internalIPs must have an IPv4 address for each of the 2/);
  t.throws(of('provider: macvlan1.default', 'provider: ovn'), /spec\.provider .* NAME\.NAMESPACE, is "ovn"/);
  t.throws(of('  replicas: 2', '  bgpConf: bgp\n  replicas: 2'), /spec\.bgpConf/);
  const gateway = read(withSpec('  trafficPolicy: Local\n  bandwidth: { egress: 100 }\n'));
  t.same(
    gateway.warnings.map((warning) => warning.split(/[: ]/, 1)[0]),
    ['spec.trafficPolicy', 'spec.bandwidth'],
  );
  const twice = example().concat({ name: 'more/veg.yaml', text: 'apiVersion: v1\nkind: List\nitems: []\n' });
  t.throws(
    () => renderKubernetes(read(twice), { image: 'x', serviceMonitor: false }),
    /two files are called veg\.yaml/,
  );
});

t.test('the command says what is wrong, by its exit code too', async (t) => {
  const render = (...args: string[]) => run(process.execPath, [MAIN, 'render', ...args]);
  t.match(render('terraform', '-f', DIRECTORY), { code: 2, stderr: /kubernetes or ovn/ });
  t.match(render('ovn'), { code: 2, stderr: /--file/ });
  t.match(render('ovn', '-f', '/nonexistent'), { code: 1, stderr: /cannot read/ });
  const invalid = join(
    t.testdir({ 'veg.yaml': EXAMPLE.replace('10.18.0.0/16', '10.18.0.0/33') }),
    'veg.yaml',
  );
  t.match(render('kubernetes', '-f', invalid), { code: 3, stderr: /veg\.yaml:\d+:\d+: spec\.policies/ });
  t.match(render('kubernetes', '-f', join(DIRECTORY, 'veg.yaml'), '--image', 'here/veg:1'), {
    code: 0,
    stdout: /image: here\/veg:1\n/,
  });
});
