// The file set as a whole: what is read, in which order errors come, how they are printed, what is refused.
import { readFileSync } from 'node:fs';
import t from 'tap';
import { MAX_FILE_SIZE } from '../../../agent/policy/bounds.ts';
import { formatError } from '../../../agent/policy/error-text.ts';
import { loadPolicy } from '../../../agent/policy/load.ts';
import type { PolicyFile } from '../../../agent/policy/model.ts';
import { DOCUMENT, GATEWAY, load, policyOf, printed } from './support.ts';

const NO_GATEWAY = '.: no gateway: one GatewayPolicy or VpcEgressGateway document is needed';

t.test('a good policy is read', async (t) => {
  t.match(load({ 'gateway.yaml': GATEWAY }), {
    ok: true,
    policy: { name: 'default/gateway1', origin: { file: 'gateway.yaml', kind: 'GatewayPolicy' } },
  });
  t.match(load({ 'gateway.json': JSON.stringify(DOCUMENT) }), {
    ok: true,
    policy: { name: 'default/gateway1' },
  });
});

t.test('nothing to read is an error of the directory', async (t) => {
  t.same(loadPolicy([]), {
    ok: false,
    errors: [
      {
        file: '.',
        line: 0,
        col: 0,
        path: '',
        message: 'no policy: the directory holds no .yaml, .yml or .json file',
      },
    ],
  });
  t.same(printed({ 'a.yaml': '{ apiVersion: kubeovn.io/v1, kind: Vpc, metadata: { name: x } }' }), [
    NO_GATEWAY,
  ]);
});

t.test('a file without a document is an error', async (t) => {
  for (const text of ['', '\n\n', '# nothing\n', '---\n', 'null\n']) {
    t.same(printed({ 'a.yaml': text }), ['a.yaml:1:1: no YAML document'], JSON.stringify(text));
  }
  t.same(printed({ 'empty.yaml': '', 'gateway.yaml': GATEWAY }), ['empty.yaml:1:1: no YAML document']);
});

t.test('what is no map, and what is not YAML, is an error at its place', async (t) => {
  t.same(printed({ 'a.yaml': 'hello\n' }), [
    'a.yaml:1:1: must be a map of fields with apiVersion and kind, is "hello"',
  ]);
  t.same(printed({ 'a.yaml': '- 1\n' }), [
    'a.yaml:1:1: must be a map of fields with apiVersion and kind, is a list',
  ]);
  t.same(printed({ 'a.yaml': `${GATEWAY}  bfd: { enabled: true\n` }), [
    'a.yaml:8:1: invalid YAML: Flow map in block collection must be sufficiently indented and end with a }',
  ]);
});

t.test('the network attachment in the manifests of a gateway is read and says nothing to it', async (t) => {
  const network = `apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: { name: macvlan1, namespace: default }
spec:
  config: '{ "cniVersion": "0.3.0", "type": "macvlan", "master": "eth1", "mode": "bridge" }'
`;
  t.strictSame(policyOf({ 'a.yaml': GATEWAY, 'b.yaml': network }), policyOf({ 'a.yaml': GATEWAY }));
  t.same(printed({ 'a.yaml': `${GATEWAY}---\n${network}specs: {}\n` }).length, 1, 'its fields are checked');
});

t.test('apiVersion and kind: missing, of a wrong type, unknown, not belonging together', async (t) => {
  t.same(printed({ 'a.yaml': 'metadata: { name: x }\n' }), [
    'a.yaml:1:1: apiVersion: this field is required',
    'a.yaml:1:1: kind: this field is required',
  ]);
  t.same(printed({ 'a.yaml': 'apiVersion: 1\nkind: [Vpc]\n' }), [
    'a.yaml:1:13: apiVersion: must be a string, is 1',
    'a.yaml:2:7: kind: must be a string, is a list',
  ]);
  t.same(printed({ 'a.yaml': 'apiVersion: v1\nkind: ConfigMap\n' }), [
    'a.yaml:2:7: kind: ConfigMap is not supported: a ConfigMap is mounted as the policy directory, each key of it a file; put those files here',
  ]);
  t.match(printed({ 'a.yaml': 'apiVersion: kubeovn.io/v1\nkind: VpcEgressGatway\n' }), [
    /^a.yaml:2:7: kind: unknown kind "VpcEgressGatway" \(did you mean "VpcEgressGateway"\?\); supported kinds: /,
  ]);
  t.same(printed({ 'a.yaml': 'apiVersion: v1\nkind: EgressGateway\n' }), [
    'a.yaml:1:13: apiVersion: "v1" is not the apiVersion of EgressGateway: write network.deckhouse.io/v1alpha1 or egressgateway.spidernet.io/v1beta1',
  ]);
  t.same(printed({ 'a.yaml': 'apiVersion: kubeovn.io/v2\nkind: Subnet\n' }), [
    'a.yaml:1:13: apiVersion: "kubeovn.io/v2" is not the apiVersion of Subnet: write kubeovn.io/v1',
  ]);
});

t.test('a List is read as its items, with the places in the list', async (t) => {
  const list = (items: unknown[], fields = {}) =>
    JSON.stringify({ apiVersion: 'v1', kind: 'List', metadata: { resourceVersion: '' }, items, ...fields });
  t.match(load({ 'a.json': list([DOCUMENT]) }), { ok: true });
  const wrong = structuredClone(DOCUMENT) as { spec: Record<string, unknown> };
  wrong.spec.bfd = { multiplier: 300 };
  t.match(printed({ 'a.json': list([DOCUMENT, wrong]) }), [
    /^a.json:1:\d+: items\[1\].kind: a second gateway; GatewayPolicy "default\/gateway1" in a.json/,
    /^a.json:1:\d+: items\[1\].spec.bfd.multiplier: must be between 1 and 255, is 300$/,
  ]);
  t.match(printed({ 'a.json': list([DOCUMENT, 1, null]) }), [
    /items\[1\]: must be a map of fields with apiVersion and kind, is 1$/,
    /items\[2\]: must be a map of fields with apiVersion and kind, is empty$/,
  ]);
  t.match(printed({ 'a.json': list([DOCUMENT], { extra: 1 }) }), [/extra: unknown field "extra"/]);
  t.match(printed({ 'a.json': JSON.stringify({ apiVersion: 'v1', kind: 'List' }) }), [
    /items: must be a list, is empty$/,
  ]);
});

t.test('a typed list, as the API prints it, gives its items their kind', async (t) => {
  const { metadata, spec } = DOCUMENT;
  const items = [{ metadata, spec }];
  const list = { apiVersion: 'veg-agent.io/v1alpha1', kind: 'GatewayPolicyList', metadata: {}, items };
  t.match(load({ 'a.json': JSON.stringify(list) }), { ok: true, policy: { name: 'default/gateway1' } });
});

t.test('one gateway a directory', async (t) => {
  const second = GATEWAY.replace('name: gateway1', 'name: gateway2');
  t.same(printed({ 'a.yaml': GATEWAY, 'b.yaml': second }), [
    'b.yaml:2:7: kind: a second gateway; GatewayPolicy "default/gateway1" in a.yaml is the first, and a pod is one gateway',
  ]);
  t.same(printed({ 'a.yaml': `${GATEWAY}---\n${GATEWAY}` }), [
    'a.yaml:9:7: kind: a second gateway; GatewayPolicy "default/gateway1" in a.yaml is the first, and a pod is one gateway',
  ]);
});

t.test('no gateway is not claimed missing when a file could not be read', async (t) => {
  t.same(printed({ 'a.yaml': ']' }), [
    'a.yaml:1:1: invalid YAML: Unexpected flow-seq-end token in YAML document: "]"',
  ]);
});

t.test('the errors of all files come at once, in the order of files and lines', async (t) => {
  const first = GATEWAY.replace('10.16.0.1', '10.16.0.999').replace('spec:', 'sepc: 1\nspec:');
  const errors = printed({
    'a.yaml': first,
    'b.yaml': 'a: [\n',
    'c.yaml': '',
    'd.yaml': 'apiVersion: v1\nkind: Secret\n',
    'e.yaml': 'apiVersion: kubeovn.io/v1\nkind: Vpc\nmetadata: { name: A }\n',
  });
  t.same(
    errors.map((error) => error.split(': ')[0]),
    ['a.yaml:4:1', 'a.yaml:6:26', 'b.yaml:2:1', 'c.yaml:1:1', 'd.yaml:2:7', 'e.yaml:3:19'],
  );
});

t.test('files beyond the bounds are refused before they are parsed', async (t) => {
  const large: PolicyFile = { name: 'large.yaml', text: ' '.repeat(MAX_FILE_SIZE + 1) };
  t.match(loadPolicy([large]), {
    errors: [{ file: 'large.yaml', line: 1, col: 1, path: '', message: 'holds 4.01 MiB, more than 4 MiB' }],
  });
  t.match(loadPolicy([{ name: 'a.yaml', text: '', size: 104_857_600 }]), {
    errors: [{ file: 'a.yaml', message: 'holds 100 MiB, more than 4 MiB' }],
  });
  const half: PolicyFile = { name: 'half.yaml', text: ' '.repeat(3 << 20) };
  t.match(loadPolicy([half, half, half]), {
    errors: [{ file: 'half.yaml', message: 'the files together hold 9 MiB, more than 8 MiB' }],
  });
});

t.test('2 MB of junk of every kind is refused', async (t) => {
  let seed = 1;
  const octets = Buffer.alloc(2_000_000);
  for (let i = 0; i < octets.length; i++) {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    octets[i] = seed >> 16;
  }
  for (const text of [octets.toString('utf8'), octets.toString('latin1'), octets.toString('base64')]) {
    const errors = printed({ 'junk.yaml': text });
    t.ok(errors.length > 0 && errors.length < 30);
    t.match(errors[0], /^junk.yaml:\d+:\d+: /);
  }
});

t.test('a hundred thousand blocks are one policy', async (t) => {
  const blocks = Array.from({ length: 100_000 }, (_, i) => `10.${i >> 16}.${(i >> 8) & 255}.${i & 255}/32`);
  const text = `${GATEWAY}  policies:\n    - ipBlocks:\n${blocks.map((block) => `      - ${block}\n`).join('')}`;
  const result = load({ 'a.yaml': text });
  t.ok(result.ok);
  if (result.ok) t.strictSame(result.policy.rules[0]!.ipBlocks, blocks);
  const wrong = text.replaceAll('/32', '/33');
  const errors = printed({ 'a.yaml': wrong });
  t.equal(errors.length, 501);
  t.match(
    errors.at(-2),
    /^a.yaml:508:9: spec.policies\[0\].ipBlocks\[499\]: "10.0.1.243\/33" is not an address/,
  );
  t.equal(errors.at(-1), 'a.yaml:509:9: more errors follow');
});

t.test('an error is one line: file:line:col: field.path: message', async (t) => {
  const error = { file: 'a.yaml', line: 3, col: 5, path: 'spec.bfd', message: 'm' };
  t.equal(formatError(error), 'a.yaml:3:5: spec.bfd: m');
  t.equal(formatError({ ...error, path: '' }), 'a.yaml:3:5: m');
  t.equal(formatError({ ...error, col: 0 }), 'a.yaml:3: spec.bfd: m');
  t.equal(
    formatError({ ...error, line: 0, col: 0, file: 'environment', path: 'BFD_MULTI' }),
    'environment: BFD_MULTI: m',
  );
  t.equal(formatError({ ...error, file: 'a\nb.yaml' }), '"a\\nb.yaml":3:5: spec.bfd: m');
  for (const line of printed({ 'x.yaml': '"a\nb\u2028": 1\n"\\e[31m": 2\n' }))
    t.notMatch(line, /[\n\u2028\x1b]/);
});

t.test('whatever is done to a policy, it is a policy or has placed errors', async (t) => {
  const pieces = [
    'null',
    '[]',
    '{',
    '"',
    '- ',
    '  ',
    '\n',
    '*a',
    '&a ',
    ': ',
    ',',
    'fd00::',
    '---\n',
    '\t',
    '__proto__',
    '|',
    '10.0.0.0/8',
  ];
  const fixtures = ['gateway1', 'every-field'].map((name) =>
    readFileSync(new URL(`../../fixtures/policy/gateway-policy/${name}.yaml`, import.meta.url), 'utf8'),
  );
  let seed = 5;
  const next = (below: number) => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return (seed >> 8) % below;
  };
  for (let run = 0; run < 1000; run++) {
    let text = fixtures[next(fixtures.length)]!;
    for (let change = next(4); change >= 0; change--) {
      const at = next(text.length + 1);
      text = text.slice(0, at) + pieces[next(pieces.length)] + text.slice(at + next(30));
    }
    const result = load({ 'a.yaml': text });
    if (result.ok) continue;
    const lines = text.split('\n');
    const misplaced = result.errors.filter(
      ({ file, line, col }) =>
        file === 'a.yaml' && !(line >= 1 && col >= 1 && col <= (lines[line - 1]?.length ?? -2) + 2),
    );
    if (result.errors.length === 0 || misplaced.length > 0) t.fail(text, { misplaced });
  }
});

t.test('ignored files are a warning, and a hint where nothing is read', async (t) => {
  const ignored = (...names: string[]) => names.map((name) => ({ name, text: '', ignored: true }) as const);
  const good = { name: 'a.yaml', text: GATEWAY };
  const warnings = (...names: string[]) => loadPolicy([good, ...ignored(...names)]);
  t.match(warnings('b.txt'), {
    ok: true,
    policy: {
      warnings: [{ message: 'ignoring file "b.txt": its name does not end in .yaml, .yml or .json' }],
    },
  });
  t.match(warnings('a', 'b', 'c', 'd', 'e', 'f', 'g'), {
    ok: true,
    policy: {
      warnings: [{ message: /^ignoring files "a", "b", "c", "d", "e" and 2 more: their names do not end / }],
    },
  });
  t.match(loadPolicy(ignored('gateway')), {
    ok: false,
    errors: [{ message: /^no policy: the directory holds no .*; ignoring file "gateway": / }],
  });
  const empty = { name: 'a.yaml', text: 'apiVersion: v1\nkind: List\nitems: []\n' };
  t.match(loadPolicy([empty, ...ignored('b')]), {
    ok: false,
    errors: [{ message: /^no gateway: .*; ignoring file "b": / }],
  });
});

t.test('other resources of a cluster are ignored', async (t) => {
  const beside = [
    ['kubeovn.io/v1', 'ProviderNetwork'],
    ['kubeovn.io/v1', 'Vlan'],
    ['kubeovn.io/v1', 'VpcNatGateway'],
    ['kubeovn.io/v1', 'IPPool'],
    ['v1', 'Service'],
    ['apps/v1', 'Deployment'],
  ].map(
    ([apiVersion, kind]) =>
      `apiVersion: ${apiVersion}\nkind: ${kind}\nmetadata: { name: x }\nspec: { any: thing }\n`,
  );
  t.same(printed({ 'a.yaml': GATEWAY, 'b.yaml': beside.join('---\n') }), []);
  const list = 'apiVersion: kubeovn.io/v1\nkind: VlanList\nmetadata: { resourceVersion: "1" }\nitems:\n';
  t.same(printed({ 'a.yaml': GATEWAY, 'b.yaml': `${list}  - { spec: { id: 100 } }\n` }), [], 'a typed list');
  t.match(printed({ 'a.yaml': GATEWAY, 'b.yaml': list.replace('VlanList', 'VlannList') }), [
    /^b.yaml:2:7: kind: unknown kind "VlannList"/,
  ]);
  const vpc = 'apiVersion: kubeovn.io/v1\nkind: Vpc\nmetadata: { name: a, namespace: default }\nspec: {}\n';
  t.same(printed({ 'a.yaml': GATEWAY, 'b.yaml': vpc }), [], 'a namespace of what has none');
});

t.test('a kind that is a mistake is refused in one line with what to do', async (t) => {
  const refused = (apiVersion: string, kind: string) =>
    printed({
      'a.yaml': GATEWAY,
      'b.yaml': `apiVersion: ${apiVersion}\nkind: ${kind}\nmetadata: { name: x }\n`,
    });
  const one = (message: RegExp, apiVersion: string, kind: string) => {
    const errors = refused(apiVersion, kind);
    t.equal(errors.length, 1);
    t.match(errors[0], message);
  };
  one(
    /^b.yaml:2:7: kind: Kustomization is not supported: put here what `kubectl kustomize`/,
    'kustomize.config.k8s.io/v1beta1',
    'Kustomization',
  );
  one(/^b.yaml:2:7: kind: Secret is not supported/, 'v1', 'Secret');
  const calico =
    /^b.yaml:1:13: apiVersion: EgressGatewayPolicy of "projectcalico.org\/v3" belongs to another system/;
  one(calico, 'projectcalico.org/v3', 'EgressGatewayPolicy');
  t.notMatch(refused('projectcalico.org/v3', 'EgressGatewayPolicy')[0], /deckhouse/);
  one(
    /apiVersion: egressgateway.spidernet.io has no EgressGatewayPolicy that is read here; it has EgressGateway, EgressPolicy/,
    'egressgateway.spidernet.io/v1',
    'EgressGatewayPolicy',
  );
  one(
    /kind: CiliumEgressGatewayPolicy of "cilium.io\/v2" belongs to another system/,
    'cilium.io/v2',
    'CiliumEgressGatewayPolicy',
  );
});
