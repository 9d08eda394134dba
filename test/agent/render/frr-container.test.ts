/** FRR in the pod of a VpcEgressGateway with bgpConf. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { parseAllDocuments, stringify } from 'yaml';
import { loadPolicy } from '../../../agent/policy/load.ts';
import { run } from '../../support/netns.ts';
import { faults } from './kubernetes-schema.ts';

const MAIN = fileURLToPath(new URL('../../../agent/main.ts', import.meta.url));
const EXAMPLE = readFileSync(new URL('../../../images/kubernetes/veg.yaml', import.meta.url), 'utf8');
const PASSWORD = 'between-routers';

// biome-ignore lint/suspicious/noExplicitAny: parsed YAML
type Resource = any;

/** The example with a BgpConf; `fields`: of its spec. */
const withBgp = (fields = `password: ${PASSWORD}`, name = 'gateway1'): string => `${EXAMPLE.replace(
  'name: gateway1',
  `name: ${name}`,
).replace('\n  replicas: 2\n', '\n  replicas: 2\n  bgpConf: bgp\n')}---
apiVersion: kubeovn.io/v1
kind: BgpConf
metadata: { name: bgp }
spec: { localASN: 65001, peerASN: 65000, neighbours: [172.17.0.1, 172.17.0.2], ${fields} }
`;

function render(t: Test, input: string, ...args: string[]) {
  const output = run(
    process.execPath,
    [MAIN, 'render', 'kubernetes', '-f', '-', '--image', 'here/veg:1', '--frr-image', 'here/frr:1', ...args],
    { input },
  );
  t.equal(output.code, 0, output.stderr);
  const resources = parseAllDocuments(output.stdout).map((document) => document.toJS() as Resource);
  for (const resource of resources) t.same(faults(resource), [], resource.kind);
  const find = (kind: string, name: string) =>
    resources.find((resource) => resource.kind === kind && resource.metadata.name === name);
  return { ...output, find, spec: find('Deployment', 'gateway1')?.spec.template.spec };
}

t.test(
  'the container, its ConfigMap and Secret, and a pod that has no more rights than FRR needs',
  async (t) => {
    const { find, spec, stderr } = render(t, withBgp());
    t.equal(stderr, '');
    const config = find('ConfigMap', 'gateway1-frr');
    t.same(Object.keys(config.data), ['frr.conf', 'daemons', 'vtysh.conf']);
    t.match(config.data['frr.conf'], /^router bgp 65001$/m);
    t.match(config.data['frr.conf'], /^ neighbor 172\.17\.0\.2 remote-as 65000$/m);
    t.match(
      config.data['frr.conf'],
      /^ neighbor 172\.17\.0\.1 password @\/etc\/veg-frr\/secret\/password@$/m,
    );
    t.match(config.data.daemons, /^zebra=yes\nbgpd=yes\nbfdd=no\n/);
    t.same(find('Secret', 'gateway1-frr').stringData, { password: PASSWORD });

    const [agent, frr] = spec.containers;
    t.match(frr, {
      name: 'frr',
      image: 'here/frr:1',
      securityContext: {
        ...{ runAsUser: 65_534, runAsNonRoot: true, readOnlyRootFilesystem: true },
        capabilities: {
          drop: ['ALL'],
          add: ['NET_ADMIN', 'NET_BIND_SERVICE', 'NET_RAW', 'SYS_ADMIN'],
        },
      },
      volumeMounts: [
        { name: 'frr-config', mountPath: '/etc/frr', readOnly: true },
        { name: 'frr-run', mountPath: '/var/run/frr' },
        { name: 'frr-secret', mountPath: '/etc/veg-frr/secret', readOnly: true },
      ],
    });
    t.match(agent.volumeMounts.at(-1), { name: 'frr-run', mountPath: '/var/run/frr', readOnly: true });
    t.notMatch(agent.volumeMounts, [{ name: 'frr-secret' }], 'the password is FRR’s alone');
    t.same(spec.securityContext, { seccompProfile: { type: 'RuntimeDefault' }, fsGroup: 65_534 });
    const mounted = spec.containers.flatMap((container: Resource) => container.volumeMounts);
    for (const { name } of mounted) {
      t.ok(
        spec.volumes.some((volume: Resource) => volume.name === name),
        name,
      );
    }
  },
);

t.test('the password is in the Secret and nowhere else', async (t) => {
  const [veg = '', ...rest] = withBgp().split('---\n');
  const items = [veg, ...rest].map((text) => parseAllDocuments(text)[0]!.toJS() as Resource);
  const conf = items.at(-1);
  const applied = { 'kubectl.kubernetes.io/last-applied-configuration': JSON.stringify(conf) };
  conf.metadata.annotations = applied;
  const list = { apiVersion: 'v1', kind: 'List', items };
  const typed = {
    apiVersion: 'kubeovn.io/v1',
    kind: 'BgpConfList',
    items: [{ metadata: conf.metadata, spec: conf.spec }],
  };
  for (const [what, input] of Object.entries({
    documents: withBgp(),
    'a list in YAML': stringify(list),
    'a list in JSON': JSON.stringify(list),
    'a list of their kind': `${[veg, ...rest.slice(0, -1)].join('---\n')}---\n${stringify(typed)}`,
  })) {
    const { stdout, find } = render(t, input);
    t.equal(stdout.split(PASSWORD).length - 1, 1, what);
    t.same(find('Secret', 'gateway1-frr').stringData, { password: PASSWORD });
    const files = Object.entries(find('ConfigMap', 'gateway1').data);
    const result = loadPolicy(files.map(([name, text]) => ({ name, text: String(text) })));
    t.match(result, { ok: true, policy: { bgp: { localASN: 65_001 } } }, 'and the agent reads the rest');
  }
});

t.test(
  'without a password there is neither Secret nor fsGroup, and the documents are as they were',
  async (t) => {
    const { find, spec } = render(t, withBgp('holdTime: 9s'));
    t.notOk(find('Secret', 'gateway1-frr'));
    t.notOk(spec.securityContext.fsGroup);
    t.same(find('ConfigMap', 'gateway1').data, { 'stdin.yaml': withBgp('holdTime: 9s') });
    t.notMatch(find('ConfigMap', 'gateway1-frr').data['frr.conf'], / password /);
  },
);

t.test('a change of the sessions replaces the pods, one of what is announced does not', async (t) => {
  const template = (input: string) => render(t, input).find('Deployment', 'gateway1').spec.template;
  const before = template(withBgp());
  t.same(template(withBgp().replace('10.18.0.0/16', '10.19.0.0/16')), before);
  t.notSame(template(withBgp().replace('172.17.0.2]', '172.17.0.3]')), before);
  t.same(template(withBgp('password: another')), before, 'nothing of a password is in the Deployment');
});

t.test('FRR has ended before the pod’s time is over', async (t) => {
  const { spec } = render(t, withBgp());
  const { command } = spec.containers[1].lifecycle.preStop.exec;
  t.same(command, ['/usr/libexec/veg-frr/start', 'withdraw']);
  const start = readFileSync(
    new URL('../../../images/frr/rootfs/usr/libexec/veg-frr/start', import.meta.url),
    'utf8',
  );
  const patience = Number(/^patience=(\d+)$/m.exec(start)?.[1]);
  t.ok(patience > 5 && patience + 5 < spec.terminationGracePeriodSeconds);
});

t.test('a group, both families, several gateways', async (t) => {
  const group = render(t, withBgp(), '--shared-address', '172.17.0.50');
  const files = Object.entries(group.find('ConfigMap', 'gateway1').data);
  t.match(loadPolicy(files.map(([name, text]) => ({ name, text: String(text) }))), {
    ok: true,
    policy: {
      group: { members: ['10.16.0.102', '10.16.0.103'] },
      bgp: { localASN: 65_001, neighbours: [{ address: '172.17.0.1', asn: 65_000 }, {}] },
    },
  });
  t.equal(group.stdout.split(PASSWORD).length - 1, 1);
  t.same(
    group.spec.volumes.map(({ name }: Resource) => name),
    ['policy', 'state', 'podinfo', 'secret', 'frr-config', 'frr-run', 'frr-secret'],
  );

  const dual = withBgp('ebgpMultiHop: true')
    .replace('neighbours: [172.17.0.1, 172.17.0.2]', 'neighbours: [172.17.0.1, "fd00:172::1"]')
    .replace(
      'protocol: IPv4, cidrBlock: 10.16.0.0/16, gateway: 10.16.0.1',
      'protocol: Dual, cidrBlock: "10.16.0.0/16,fd00:16::/64", gateway: "10.16.0.1,fd00:16::1"',
    )
    .replace(
      'cidrBlock: 172.17.0.0/16, gateway: 172.17.0.1',
      'cidrBlock: "172.17.0.0/16,fd00:172::/64", gateway: "172.17.0.1,fd00:172::1"',
    )
    .replace('protocol: IPv4, provider', 'protocol: Dual, provider');
  const conf = render(t, dual).find('ConfigMap', 'gateway1-frr').data['frr.conf'];
  t.match(conf, /^ neighbor fd00:172::1 ebgp-multihop 255$/m);
  t.match(conf, /^ address-family ipv6 unicast$/m);

  const other = withBgp('holdTime: 9s', 'gateway2').split('---\n')[0];
  const two = render(t, `${withBgp()}---\n${other}`, '--gateway', 'default/gateway2');
  t.ok(two.find('ConfigMap', 'gateway2-frr'));
  t.notOk(two.find('ConfigMap', 'gateway1-frr'));
});

t.test('FRR’s image has to be named, and a router ID is one replica’s', async (t) => {
  const of = (what: string, input: string, ...args: string[]) =>
    run(process.execPath, [MAIN, 'render', what, '-f', '-', ...args], { input });
  const image = ['--image', 'here/veg:1'];
  t.match(of('kubernetes', withBgp(), ...image), { code: 2, stdout: '', stderr: /has BGP: .*--frr-image/ });
  t.match(of('ovn', withBgp()), { code: 0, stderr: '' });
  t.match(of('ovn', withBgp(), '--frr-image', 'here/frr:1'), { code: 2, stderr: /goes with kubernetes/ });
  t.match(of('kubernetes', EXAMPLE, ...image, '--frr-image', 'here/frr:1'), {
    code: 0,
    stderr: /--frr-image has no effect/,
  });
  t.match(render(t, withBgp('routerId: 10.0.0.1')).stderr, /routerId 10\.0\.0\.1 .*all replicas use it/);
  t.equal(render(t, withBgp('routerId: 10.0.0.1').replace('replicas: 2', 'replicas: 1')).stderr, '');
});

t.test('with evpnConf its FRR has the VRF, and the policy keeps both documents', async (t) => {
  const evpn = `---
apiVersion: kubeovn.io/v1
kind: EvpnConf
metadata: { name: evpn }
spec: { vni: 1016, routeTargets: ["65000:1016"] }
`;
  const { find } = render(
    t,
    `${withBgp().replace('  bgpConf: bgp\n', '  bgpConf: bgp\n  evpnConf: evpn\n')}${evpn}`,
  );
  const { data } = find('ConfigMap', 'gateway1-frr');
  t.match(data['frr.conf'], /^vrf vrf-vpn\n vni 1016\nexit-vrf$/m);
  t.match(data['frr.conf'], /^ {2}route-target import 65000:1016$/m);
  const policy: Record<string, string> = find('ConfigMap', 'gateway1').data;
  const result = loadPolicy(Object.entries(policy).map(([name, text]) => ({ name, text })));
  t.match(result, { ok: true, policy: { evpn: { vni: 1016 }, forwardOnly: true } });
});
