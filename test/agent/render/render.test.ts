import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { parseAllDocuments, stringify } from 'yaml';
import { parseTimeout, RUN_OPTIONS } from '../../../agent/options.ts';
import { DEFAULT_TOKENS } from '../../../agent/policy/bounds.ts';
import { readDocuments } from '../../../agent/policy/documents.ts';
import { loadPolicy } from '../../../agent/policy/load.ts';
import type { PolicyFile } from '../../../agent/policy/model.ts';
import { type Gateway, readGateway } from '../../../agent/render/gateway.ts';
import { renderKubernetes } from '../../../agent/render/kubernetes.ts';
import { renderOvn } from '../../../agent/render/ovn.ts';
import { parseDuration } from '../../../lib/units.ts';
import { VERSION } from '../../../lib/version.ts';
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

const hash = (text: string): string => createHash('sha256').update(text).digest('hex');
const IMAGE = 'registry.example/veg-agent:test';

/** The resources by kind, each of which is sound. */
function kubernetes(t: Test, files: PolicyFile[], serviceMonitor = false): Record<string, Resource> {
  const text = renderKubernetes(read(files), { image: IMAGE, serviceMonitor, hash });
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
      ...['-f', join(DIRECTORY, 'veg.yaml')],
      ...(what === 'kubernetes' ? ['--image', `registry.example/veg-agent:${VERSION}`] : []),
    ]);
    t.equal(code, 0, stderr);
    t.equal(readFileSync(join(DIRECTORY, file), 'utf8').replace(/^# Made by .*\n/, ''), stdout);
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

for (const name of ['gw.v1', '1gw', 'a'.repeat(70), `${'1'.repeat(100)}.${'b'.repeat(152)}`]) {
  t.test(
    `a gateway called ${name.slice(0, 8)} (${name.length}) becomes objects that Kubernetes takes`,
    async (t) => {
      const files = example((text) => text.replace('name: gateway1', `name: ${name}`));
      const { Deployment, Service, ServiceMonitor, ConfigMap, PodDisruptionBudget } = kubernetes(
        t,
        files,
        true,
      );
      const { labels } = Deployment.spec.template.metadata;
      t.same(Deployment.spec.selector.matchLabels, labels);
      t.same(Service.spec.selector, labels);
      t.same(PodDisruptionBudget.spec.selector.matchLabels, labels);
      t.same(ServiceMonitor.spec.selector.matchLabels, Service.metadata.labels);
      t.match(Deployment.spec.template.spec.volumes, [{ configMap: { name: ConfigMap.metadata.name } }]);
      if (name.length <= 63)
        t.equal(labels['app.kubernetes.io/instance'], name, 'a label that was fit stays');
      t.same(kubernetes(t, files, true).Service.metadata.name, Service.metadata.name, 'the same each time');
    },
  );
}

t.test('files whose names are no keys of a ConfigMap come under ones that are read', async (t) => {
  for (const name of ['my gateway.yaml', 'größe.yml', '-', '.hidden.yaml', '..yaml']) {
    const { ConfigMap } = kubernetes(t, [{ name, text: EXAMPLE }]);
    t.match(Object.keys(ConfigMap.data), [/^[^.].*\.ya?ml$/], name);
  }
});

t.test(
  'what nobody reads is left out where a ConfigMap does not hold it, and what is left is refused',
  async (t) => {
    const pods = (count: number, note: string) => ({
      apiVersion: 'v1',
      kind: 'List',
      items: Array.from({ length: count }, (_, i) => ({
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name: `pod-${i}`, namespace: 'default', annotations: { note } },
        status: { podIP: `10.17.${i >> 8}.${i & 255}` },
      })),
    });
    for (const [name, print] of [
      ['pods.yaml', stringify],
      ['pods.json', (value: unknown) => JSON.stringify(value, undefined, 4)],
    ] as const) {
      const files = [...example(), { name, text: print(pods(1000, 'x'.repeat(1200))) }];
      const { ConfigMap } = kubernetes(t, files);
      const left = Object.entries(ConfigMap.data).map(([name, text]) => ({ name, text: String(text) }));
      t.notMatch(JSON.stringify(left), 'xxx');
      t.equal(loadPolicy(left).ok, true);
    }
    const large = { ...read(example()), files: [{ name: 'pods.yaml', text: stringify(pods(12_000, '')) }] };
    t.throws(
      () => renderKubernetes(large, { image: IMAGE, serviceMonitor: false, hash }),
      /hold \d{4} KiB, and a ConfigMap holds 1024: leave out/,
    );
  },
);

t.test('the internal subnet is the one that the policy was checked with', async (t) => {
  const other = (text: string) =>
    text
      .replace('  internalSubnet: ovn-default\n', '  vpc: vpc1\n')
      .replaceAll('ovn-cluster', 'vpc1')
      .replace('name: ovn-default }', 'name: inside }');
  const subnets = (files: PolicyFile[]) =>
    kubernetes(t, files).Deployment.spec.template.metadata.annotations['ovn.kubernetes.io/logical_switch'];
  t.equal(subnets(example((text) => text.replace('  internalSubnet: ovn-default\n', ''))), 'ovn-default');
  for (const [vpc, subnet] of [
    ['spec:\n  defaultSubnet: inside\n  bfdPort', 'spec: { protocol'],
    ['status: { defaultLogicalSwitch: inside }\nspec:\n  bfdPort', 'spec: { protocol'],
    ['spec:\n  bfdPort', 'spec: { vpc: vpc1, protocol'],
  ] as const) {
    const files = example((text) =>
      other(text)
        .replace('spec:\n  bfdPort', vpc)
        .replace('name: inside }\nspec: { protocol', `name: inside }\n${subnet}`),
    );
    t.equal(subnets(files), 'inside', vpc);
  }
});

t.test('limits are annotations of the pod, whose directions are the other way round', async (t) => {
  const rates = (bandwidth: string) => {
    const { annotations } = kubernetes(t, withSpec(`  bandwidth: ${bandwidth}\n`)).Deployment.spec.template
      .metadata;
    return [annotations['ovn.kubernetes.io/ingress_rate'], annotations['ovn.kubernetes.io/egress_rate']];
  };
  t.same(rates('{ egress: 100, ingress: 20 }'), ['100', '20']);
  t.same(rates('{ egress: "100" }'), ['100', undefined]);
  t.same(rates('{ ingress: 0, egress: 1G }'), ['1000', undefined]);
  t.same(rates('{ ingress: 1Gi, egress: 100Mi }'), ['105', '1074'], 'rounded up');
  t.same(rates('{ ingress: 0.1M, egress: 1.1G }'), ['1100', '1'], 'a small limit is one');
  t.same(rates('{ ingress: .5G, egress: 9223372036854 }'), ['9223372036854', '500']);
  t.same(rates('{}'), [undefined, undefined]);
});

t.test(
  'where Kube-OVN is a secondary CNI its network becomes the first, under its own annotations',
  async (t) => {
    const files = example((text) =>
      text.replace(
        'spec: { protocol: IPv4, cidrBlock: 10.16',
        'spec: { provider: net1.cni.ovn, protocol: IPv4, cidrBlock: 10.16',
      ),
    );
    const { spec, metadata } = kubernetes(t, files).Deployment.spec.template;
    t.same(metadata.annotations, {
      'v1.multus-cni.io/default-network': 'cni/net1',
      'k8s.v1.cni.cncf.io/networks': 'default/macvlan1',
      'net1.cni.ovn.kubernetes.io/logical_switch': 'ovn-default',
      'net1.cni.ovn.kubernetes.io/ip_pool': '10.16.0.102;10.16.0.103',
      'macvlan1.default.kubernetes.io/ip_pool': '172.17.0.11;172.17.0.12',
    });
    t.match(spec.containers[0].livenessProbe, { exec: {} }, 'the kubelet does not reach that network');
  },
);

t.test('the pod has the time for the drain before it and the one of SIGTERM', async (t) => {
  const { spec } = kubernetes(t, example()).Deployment.spec.template;
  const { command } = spec.containers[0].lifecycle.preStop.exec;
  const asked = new URL(command.at(-1)).searchParams.get('timeout');
  const drain = parseTimeout(asked!)! / 1000;
  t.ok(drain > 5, 'OVN takes up to 5 s to notice');
  t.ok(Number(command[command.indexOf('-m') + 1]) > drain, 'the answer comes after the drain');
  const { fallback } = RUN_OPTIONS['drain-timeout'];
  t.ok(spec.terminationGracePeriodSeconds > drain + parseDuration(fallback)! / 1000 + 3);
});

t.test('what BFD writes with every packet is in memory, and bounded', async (t) => {
  const { volumes } = kubernetes(t, example()).Deployment.spec.template.spec;
  t.same(
    volumes.find(({ name }: Resource) => name === 'state'),
    { name: 'state', emptyDir: { medium: 'Memory', sizeLimit: '64Mi' } },
  );
});

t.test('what cannot be rendered is said with its field', async (t) => {
  const of = (from: string | RegExp, to: string) => () => ovn(example((text) => text.replace(from, to)));
  t.throws(of(/ {2}internalIPs: .*\n/, ''), /spec\.internalIPs must have an IPv4 address for each of the 2/);
  t.throws(of('provider: macvlan1.default', 'provider: ""'), /spec\.provider .* NAME\.NAMESPACE/);
  t.throws(of('  replicas: 2', '  bgpConf: bgp\n  replicas: 2'), /spec\.bgpConf: BgpConf "bgp" is not among/);
  t.match(read(withSpec('  trafficPolicy: Local\n')).warnings, [/^spec\.trafficPolicy Local/]);
  const twice = example().concat({ name: 'more/veg.yaml', text: 'apiVersion: v1\nkind: List\nitems: []\n' });
  t.throws(
    () => renderKubernetes(read(twice), { image: IMAGE, serviceMonitor: false, hash }),
    /two files are called veg\.yaml/,
  );
});

t.test('one gateway out of a list of several', async (t) => {
  const names = (texts: Record<string, string>) =>
    Object.values(texts)
      .flatMap((text) => parseAllDocuments(text).map((document) => document.toJS() as Resource))
      .flatMap((value) => value.items ?? [value])
      .map(({ kind, metadata }) => `${kind} ${metadata.name}`)
      .filter((name) => !/^(Vpc|Subnet) /.test(name));
  const [first, ...rest] = EXAMPLE.split('---\n') as [string, ...string[]];
  const second = first.replace('name: gateway1\n  namespace: default', 'name: gateway1\n  namespace: prod');
  const third = first.replace('name: gateway1', 'name: gateway3').replace('10.18.0.0/16', '10.33.0.0/16');
  const toJson = (texts: string[]) => texts.map((text) => parseAllDocuments(text)[0]!.toJS() as Resource);
  const list = { apiVersion: 'v1', kind: 'List', items: toJson([first, second, third, ...rest]) };
  const typed = {
    apiVersion: 'kubeovn.io/v1',
    kind: 'VpcEgressGatewayList',
    items: toJson([first, second, third]).map(({ spec, metadata }) => ({ spec, metadata })),
  };
  for (const [what, files] of Object.entries({
    documents: { 'all.yaml': [first, second, third, ...rest].join('---\n') },
    files: { 'a.yaml': first, 'b.yaml': second, 'c.yaml': third, 'd.yaml': rest.join('---\n') },
    'a list in YAML': { 'list.yaml': stringify(list) },
    'a list in JSON': { 'list.json': JSON.stringify(list) },
    'a list of gateways': { 'veg.json': JSON.stringify(typed), 'rest.yaml': rest.join('---\n') },
  })) {
    const path = t.testdir(files);
    const render = (...args: string[]) =>
      run(process.execPath, [MAIN, 'render', 'kubernetes', '-f', path, '--image', IMAGE, ...args]);
    t.match(
      render(),
      { code: 1, stderr: /default\/gateway1, prod\/gateway1, default\/gateway3: choose one/ },
      what,
    );
    const { code, stdout, stderr } = render('--gateway', 'default/gateway3');
    t.equal(code, 0, stderr);
    const [ConfigMap, Deployment] = parseAllDocuments(stdout).map((document) => document.toJS() as Resource);
    t.same(faults(ConfigMap), []);
    t.equal(Deployment.metadata.name, 'gateway3');
    t.equal(names(ConfigMap.data).length, 1, 'a pod is one gateway');
    const mounted = Object.entries(ConfigMap.data).map(([name, text]) => ({ name, text: String(text) }));
    t.match(loadPolicy(mounted), { ok: true, policy: { name: 'default/gateway3' } });
    t.match(JSON.stringify(mounted), '10.33.0.0/16');
    t.match(render('--gateway', 'prod/gateway3'), { code: 1, stderr: /no VpcEgressGateway prod\/gateway3 / });
  }
  const ovnOf = run(process.execPath, [...[MAIN, 'render', 'ovn', '--gateway', 'prod/gateway1', '-f', '-']], {
    input: JSON.stringify(list),
  });
  t.match(ovnOf, { code: 0, stdout: /^gateway=prod\/gateway1$/m });
});

t.test('documents come from standard input too', async (t) => {
  const { code, stdout, stderr } = run(
    process.execPath,
    [MAIN, 'render', 'kubernetes', '-f', '-', '--image', IMAGE],
    { input: EXAMPLE },
  );
  t.equal(code, 0, stderr);
  const [ConfigMap] = parseAllDocuments(stdout).map((document) => document.toJS() as Resource);
  t.same(ConfigMap.data, { 'stdin.yaml': EXAMPLE });
});

t.test('an image has to be named', async (t) => {
  const render = (text: string, ...args: string[]) =>
    run(process.execPath, [MAIN, 'render', 'kubernetes', '-f', '-', ...args], { input: text });
  t.match(render(EXAMPLE), { code: 2, stdout: '', stderr: /--image registry\.example\/veg-agent:/ });
  const named = EXAMPLE.replace('  replicas: 2', '  image: of.spec/veg:2\n  replicas: 2');
  t.match(render(named), { code: 0, stdout: /image: of\.spec\/veg:2\n/ });
  t.match(render(named, '--image', 'of.flag/veg:3'), { code: 0, stdout: /image: of\.flag\/veg:3\n/ });
  t.match(run(process.execPath, [MAIN, 'render', 'ovn', '-f', '-'], { input: EXAMPLE }), { code: 0 });
});

t.test('the command says what is wrong, by its exit code too', async (t) => {
  const render = (...args: string[]) => run(process.execPath, [MAIN, 'render', ...args]);
  t.match(render('terraform', '-f', DIRECTORY), { code: 2, stderr: /kubernetes or ovn/ });
  t.match(render('ovn'), { code: 2, stderr: /--file/ });
  t.match(render('ovn', '-f', '/nonexistent'), {
    code: 1,
    stderr: /\/nonexistent cannot be read: no such file/,
  });
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

t.test('the command reads standard input for -, once', async (t) => {
  const render = (input: string) =>
    spawnSync(process.execPath, [MAIN, 'render', 'ovn', '-f', '-'], { input, encoding: 'utf8' });
  const files = run(process.execPath, [MAIN, 'render', 'ovn', '-f', join(DIRECTORY, 'veg.yaml')]);
  t.match(render(EXAMPLE), { status: 0, stdout: files.stdout });
  t.match(render(EXAMPLE.replace('10.18.0.0/16', '10.18.0.0/33')), {
    status: 3,
    stderr: /^-:\d+:\d+: spec\.policies/,
  });
});
