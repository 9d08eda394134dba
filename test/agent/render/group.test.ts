// A VpcEgressGateway whose replicas share egress addresses.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { parseAllDocuments } from 'yaml';
import { DEFAULT_TOKENS } from '../../../agent/policy/bounds.ts';
import { readDocuments } from '../../../agent/policy/documents.ts';
import { loadPolicy } from '../../../agent/policy/load.ts';
import type { Policy, PolicyFile } from '../../../agent/policy/model.ts';
import { type Gateway, RenderError, readGateway } from '../../../agent/render/gateway.ts';
import { withGroup } from '../../../agent/render/group.ts';
import { renderKubernetes } from '../../../agent/render/kubernetes.ts';
import { address } from '../../../lib/prefix.ts';
import { run } from '../../support/netns.ts';
import { faults } from './kubernetes-schema.ts';

const EXAMPLE = fileURLToPath(new URL('../../../images/kubernetes/veg.yaml', import.meta.url));
const EVPN = new URL('../../../docs/examples/kube-ovn-evpn/', import.meta.url);
const MAIN = fileURLToPath(new URL('../../../agent/main.ts', import.meta.url));
const hash = (text: string): string => createHash('sha256').update(text).digest('hex');

// biome-ignore lint/suspicious/noExplicitAny: parsed YAML
type Resource = any;

function load(files: PolicyFile[]): Policy {
  const result = loadPolicy(files);
  if (!result.ok) throw new Error(JSON.stringify(result.errors));
  return result.policy;
}

function read(change: (text: string) => string = (text) => text): Gateway {
  const files = [{ name: 'veg.yaml', text: change(readFileSync(EXAMPLE, 'utf8')) }];
  return readGateway(load(files), readDocuments(files, [], { tokens: DEFAULT_TOKENS }), files);
}

/** The example with IPv6 beside IPv4. */
const dualStack = (text: string): string =>
  text
    .replace('[10.16.0.102, 10.16.0.103]', '["10.16.0.102,fd00:16::102", "10.16.0.103,fd00:16::103"]')
    .replace('[172.17.0.11, 172.17.0.12]', '["172.17.0.11,fd00:172::11", "172.17.0.12,fd00:172::12"]')
    .replace('10.18.0.0/16', '10.18.0.0/16, "fd00:18::/64"')
    .replace('ip: 10.255.255.255', 'ip: "10.255.255.255,fd00::ffff"')
    .replace(/protocol: IPv4/g, 'protocol: Dual')
    .replace(
      '10.16.0.0/16, gateway: 10.16.0.1',
      '"10.16.0.0/16,fd00:16::/64", gateway: "10.16.0.1,fd00:16::1"',
    )
    .replace(
      '10.17.0.0/16, gateway: 10.17.0.1',
      '"10.17.0.0/16,fd00:17::/64", gateway: "10.17.0.1,fd00:17::1"',
    )
    .replace(
      '172.17.0.0/16, gateway: 172.17.0.1',
      '"172.17.0.0/16,fd00:172::/64", gateway: "172.17.0.1,fd00:172::1"',
    );

function rendered(t: Test, gateway: Gateway): Record<string, Resource> {
  const text = renderKubernetes(gateway, {
    ...{ image: 'registry.example/veg-agent:test', serviceMonitor: false, hash, isGroup: true },
  });
  const resources = parseAllDocuments(text).map((document) => document.toJS() as Resource);
  for (const resource of resources) t.same(faults(resource), [], resource.kind);
  return Object.fromEntries(resources.map((resource) => [resource.kind, resource]));
}

const policyOf = ({ ConfigMap }: Record<string, Resource>): Policy =>
  load(Object.entries(ConfigMap.data).map(([name, text]) => ({ name, text: String(text) })));

t.test('the pods read a policy with the group, and the rest of it is as it was', async (t) => {
  const single = read();
  const group = withGroup(single, [address('172.17.0.50'), address('172.17.0.51')]);
  t.same(group.warnings, []);
  const policy = policyOf(rendered(t, group));
  t.match(policy.group, {
    members: ['10.16.0.102', '10.16.0.103'],
    credentials: { keyFile: '/etc/veg-agent/secret/group' },
  });
  const egressIP = { addresses: ['172.17.0.50', '172.17.0.51'], shared: true };
  t.match(policy.rules, [
    { name: 'policy-1', snat: false, ipBlocks: ['10.18.0.0/16'], egressIP: undefined },
    { name: 'policy-0', snat: true, ipBlocks: ['10.17.0.0/16'], egressIP },
    { name: 'others', snat: true, ipBlocks: [], egressIP },
  ]);
  for (const part of ['name', 'internal', 'external', 'bfd'] as const) {
    t.same(policy[part], single.policy[part], part);
  }
});

t.test('both families are in the group', async (t) => {
  const group = withGroup(read(dualStack), [address('172.17.0.50'), address('fd00:172::50')]);
  const policy = policyOf(rendered(t, group));
  t.same(policy.group?.members, ['10.16.0.102', 'fd00:16::102', '10.16.0.103', 'fd00:16::103']);
  t.same(policy.rules.at(-1)?.egressIP?.addresses, ['172.17.0.50', 'fd00:172::50']);
});

t.test('the log of translations goes along', async (t) => {
  const gateway = read((text) =>
    text.replace(
      '  policies:\n',
      '  observability: { conntrack: { log: { enabled: true, events: [end] } } }\n  policies:\n',
    ),
  );
  const policy = policyOf(rendered(t, withGroup(gateway, [address('172.17.0.50')])));
  t.same(policy.translationLog, gateway.policy.translationLog);
  t.same(policy.translationLog?.events, ['end']);
});

t.test(
  'the key is a file of a Secret that has to be there, and the agent’s user alone can read it',
  async (t) => {
    const { Deployment } = rendered(t, withGroup(read(), [address('172.17.0.50')]));
    const { spec } = Deployment.spec.template;
    t.match(spec.volumes.at(-1), {
      name: 'secret',
      secret: { secretName: 'gateway1-group', defaultMode: 0o400, items: [{ key: 'group', path: 'group' }] },
    });
    t.equal(spec.securityContext.fsGroup, spec.containers[0].securityContext.runAsGroup);
    for (const container of [...spec.initContainers, ...spec.containers]) {
      t.match(container.volumeMounts.at(-1), {
        name: 'secret',
        mountPath: '/etc/veg-agent/secret',
        readOnly: true,
      });
    }
  },
);

t.test('what makes no group is refused, with the field and what to do', async (t) => {
  const refused = (change: (text: string) => string, addresses: string[], message: RegExp) =>
    t.throws(
      () => withGroup(read(change), addresses.map(address)),
      Object.assign(new RenderError(), { message }),
      String(message),
    );
  const same = (text: string) => text;
  const shared = ['172.17.0.50'];
  refused(
    (text) => text.replace(/ {2}internalIPs: .*\n/, '  internalIPPool: pool\n'),
    shared,
    /^spec\.internalIPs: a group needs the IPv4 address of each replica; internalIPPool does not say them$/,
  );
  refused(
    (text) => text.replace(/ {2}internalIPs: .*\n/, ''),
    shared,
    /^spec\.internalIPs: a group needs the IPv4 address of each replica$/,
  );
  refused(
    (text) => text.replace('10.16.0.103', '10.16.0.118'),
    shared,
    /^spec\.internalIPs: 10\.16\.0\.118 and 10\.16\.0\.102 have the same last four bits/,
  );
  refused(
    (text) => dualStack(text).replace('fd00:16::103', 'fd00:16::112'),
    [...shared, 'fd00:172::50'],
    /^spec\.internalIPs: fd00:16::112 and fd00:16::102 have the same last four bits/,
  );
  refused(dualStack, shared, /^--shared-address: the gateway has IPv6 too/);
  refused(same, ['fd00:172::50'], /^--shared-address fd00:172::50: the gateway has no IPv6/);
  refused(same, ['172.17.0.11'], /^--shared-address 172\.17\.0\.11: is in spec\.externalIPs/);
  refused(same, ['10.16.0.102'], /is in spec\.internalIPs/);
  refused(same, ['172.17.0.1'], /is the external gateway/);
});

t.test('a gateway with EVPN translates nothing, and is no group', async (t) => {
  const files = ['gateway', 'cluster'].map((name) => ({
    name,
    text: readFileSync(new URL(`${name}.yaml`, EVPN), 'utf8')
      .replace(
        'externalSubnet: macvlan1',
        'externalSubnet: macvlan1\n  internalIPs: [10.16.0.102, 10.16.0.103]',
      )
      .replace('provider: eth1.default', 'provider: macvlan1.default'),
  }));
  const gateway = readGateway(load(files), readDocuments(files, [], { tokens: DEFAULT_TOKENS }), files);
  t.throws(
    () => withGroup(gateway, [address('172.17.0.50')]),
    Object.assign(new RenderError(), { message: /^--shared-address: with EVPN .*nothing is translated/ }),
  );
});

t.test('a member that no pod is has a warning', async (t) => {
  const group = withGroup(
    read((text) => text.replace('10.16.0.103]', '10.16.0.103, 10.16.0.104]')),
    [address('172.17.0.50')],
  );
  t.match(group.warnings, [/1 more than replicas/]);
});

t.test('the command takes several addresses, and none for ovn', async (t) => {
  const render = (what: string, ...args: string[]) =>
    run(process.execPath, [MAIN, 'render', what, '-f', EXAMPLE, ...args]);
  const image = ['--image', 'registry.example/veg-agent:test'];
  const shared = ['--shared-address', '172.17.0.50', '--shared-address', '172.17.0.51'];
  const { code, stdout, stderr } = render('kubernetes', ...image, ...shared);
  t.equal(code, 0, stderr);
  t.match(stdout, /secretName: gateway1-group/);
  t.match(stdout, /- 172\.17\.0\.50\n +- 172\.17\.0\.51\n/);
  t.match(render('ovn', ...shared), { code: 2, stderr: /--shared-address goes with kubernetes/ });
  t.match(render('kubernetes', ...image, '--shared-address', '172.17.0.0/24'), {
    code: 2,
    stderr: /takes an IP address, not "172\.17\.0\.0\/24"/,
  });
  t.match(render('kubernetes', ...image, '--shared-address', '::ffff:172.17.0.50'), {
    code: 2,
    stderr: /not "::ffff:172\.17\.0\.50": it is IPv4-mapped, write 172\.17\.0\.50/,
  });
  t.match(render('kubernetes', ...image, '--shared-address', '172.17.0.11'), {
    code: 1,
    stderr: /externalIPs/,
  });
});
