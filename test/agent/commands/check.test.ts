/** The command `check` as people type it. */
import { spawnSync } from 'node:child_process';
import { chmodSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { GATEWAY } from '../policy/support.ts';

const MAIN = join(import.meta.dirname, '../../../agent/main.ts');

const check = (paths: string[], input = '') => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, 'check', ...paths], {
    input,
    encoding: 'utf8',
  });
  return { status, stdout, stderr };
};

t.test('standard input is read for -, and one thing is one policy', async (t) => {
  t.same(check(['-'], `${GATEWAY}  policies: [{ name: a }]\n`), {
    status: 0,
    stdout: 'valid: GatewayPolicy default/gateway1, 1 policy, BFD off\n',
    stderr: '',
  });
  t.same(check(['-'], 'a: [\n').status, 3);
  t.match(check(['-'], `${GATEWAY}  x: 1\n`).stderr, /^-:7:3: spec.x: unknown field/);
});

t.test('a file of the directory that is not read is a warning, hidden ones are not', async (t) => {
  const policy = `${GATEWAY}  policies: [{ name: a }]\n`;
  const dir = t.testdir({ 'a.yaml': policy, 'b.txt': policy, '.c.txt': policy, '.d.yaml': policy });
  t.match(check([dir]), {
    status: 0,
    stderr: 'veg-agent: warning: ignoring file "b.txt": its name does not end in .yaml, .yml or .json\n',
  });
  t.equal(check([join(dir, 'b.txt')]).status, 0, 'named, it is read');
});

t.test('a warning has the place of what it is about, of paths and of the policy directory', async (t) => {
  const policy = `${GATEWAY}  bfd: { peers: [10.255.255.255] }\n`;
  const dir = t.testdir({ 'a.yaml': policy, 'b.txt': '' });
  const stderr = `a.yaml:7:10: warning: spec.bfd.peers has no effect without enabled: true
veg-agent: warning: ignoring file "b.txt": its name does not end in .yaml, .yml or .json
`;
  t.match(check([dir]), { status: 0, stderr });
  t.match(check(['--policy-dir', dir]), { status: 0, stderr });
});

t.test('what a directory lacks is said with its path', async (t) => {
  const dir = t.testdir({
    empty: {},
    vpc: { 'a.yaml': 'apiVersion: kubeovn.io/v1\nkind: Vpc\nmetadata: { name: x }\n' },
  });
  t.ok(check([join(dir, 'empty')]).stderr.startsWith(`${dir}/empty: no policy: the directory holds no `));
  t.ok(check(['--policy-dir', join(dir, 'empty')]).stderr.startsWith(`${dir}/empty: no policy: `));
  t.ok(check([join(dir, 'vpc')]).stderr.startsWith(`${dir}/vpc: no gateway: one `));
});

t.test('a file in UTF-16 is refused as such', async (t) => {
  const dir = t.testdir({
    'be.yaml': Buffer.from(`\ufeff${GATEWAY}`, 'utf16le').swap16(),
    'le.yaml': Buffer.from(`\ufeff${GATEWAY}`, 'utf16le'),
    'without-mark.yaml': Buffer.from(GATEWAY, 'utf16le'),
  });
  const message = 'is not UTF-8 text; save it as UTF-8';
  t.match(check([dir]), {
    status: 3,
    stderr: ['be', 'le', 'without-mark'].map((name) => `${name}.yaml:1:1: ${message}\n`).join(''),
  });
});

t.test('every error of all files comes at once, missing documents with unreadable ones', async (t) => {
  const dir = t.testdir({
    'a.yaml': `apiVersion: kubeovn.io/v1
kind: VpcEgressGateway
metadata: { name: gateway1 }
spec: { internalSubnet: a, externalSubnet: b, replicas: 11, policies: [{ snat: true, subnets: [c] }] }
`,
    'b.yaml': 'a: [\n',
    'c.yaml': 'apiVersion: kubeovn.io/v1\nkind: Subnt\nmetadata: { name: a }\n',
    'd.yaml': 'apiVersion: kubeovn.io/v1\nkind: Subnet\nmetadata: { name: d }\nspec: { cidrBlock: x }\n',
  });
  const { status, stderr } = check([dir]);
  t.equal(status, 3);
  const add = 'is not in the policy directory; add its document, unless it is one that cannot be read';
  t.same(
    stderr
      .split('\n')
      .filter((line) => !line.startsWith('b.yaml:'))
      .map((line) => line.slice(0, 100)),
    [
      `a.yaml:4:25: spec.internalSubnet: Subnet "a" ${add}`,
      `a.yaml:4:44: spec.externalSubnet: Subnet "b" ${add}`,
      'a.yaml:4:57: spec.replicas: must be between 0 and 10, is 11',
      `a.yaml:4:96: spec.policies[0].subnets[0]: Subnet "c" ${add}`,
      'c.yaml:2:7: kind: unknown kind "Subnt" (did you mean "Subnet"?); supported kinds: GatewayPolicy, VpcEgressGateway, Subnet, Vpc, IptablesE',
      'd.yaml:4:20: spec.cidrBlock: "x" is not a CIDR, or one of each family with a comma',
      '',
    ].map((line) => line.slice(0, 100)),
  );
  t.match(stderr, /^b\.yaml:/m);
});

t.test('several paths are one policy', async (t) => {
  const dir = t.testdir({
    'gateway.yaml': `apiVersion: kubeovn.io/v1
kind: VpcEgressGateway
metadata: { name: gateway1 }
spec: { internalSubnet: a, externalSubnet: b, policies: [{ snat: true, subnets: [a] }] }
`,
    subnets: {
      'a.yaml':
        'apiVersion: kubeovn.io/v1\nkind: Subnet\nmetadata: { name: a }\nspec: { cidrBlock: 10.16.0.0/16 }\n',
      'b.yaml':
        'apiVersion: kubeovn.io/v1\nkind: Subnet\nmetadata: { name: b }\nspec: { cidrBlock: 172.17.0.0/16 }\n',
    },
  });
  t.match(check([join(dir, 'gateway.yaml'), join(dir, 'subnets')]), {
    status: 0,
    stdout: 'valid: VpcEgressGateway default/gateway1, 1 policy, BFD off\n',
  });
  t.equal(check([join(dir, 'gateway.yaml'), join(dir, 'subnets/a.yaml')]).status, 3);
  t.match(
    check([join(dir, 'gateway.yaml'), join(dir, 'nothing')]).stderr,
    /nothing: cannot be read: no such file/,
  );
});

t.test('the key of a group is read: missing, short, readable by others', async (t) => {
  const dir = t.testdir({ good: `${'x'.repeat(32)}\n`, short: `${'x'.repeat(31)}\n`, open: 'x'.repeat(40) });
  for (const [name, mode] of [
    ['good', 0o640],
    ['short', 0o600],
    ['open', 0o644],
  ] as const) {
    chmodSync(join(dir, name), mode);
  }
  const policy = (name: string) =>
    `${GATEWAY}  group: { members: [10.16.0.12], keyFile: ${join(dir, name)} }\n  policies: [{ name: a }]\n`;
  t.match(check(['-'], policy('good')), { status: 0, stdout: /^valid: GatewayPolicy/ });
  const refused = (name: string, message: RegExp) => {
    const { status, stderr } = check(['-'], policy(name));
    t.equal(status, 3, name);
    t.match(stderr, message);
  };
  refused('short', /^-:7:\d+: spec.group.keyFile: .*short holds 31 octets; a key needs at least 32/);
  refused('open', /^-:7:\d+: spec.group.keyFile: .*open has mode 0644: other users can read it/);
  refused('missing', /^-:7:\d+: spec.group.keyFile: \S+ cannot be read: no such file or directory$/m);
  const certificates = `{ members: [10.16.0.12], certFile: ${dir}/c, certKeyFile: ${dir}/k, caFile: ${dir}/ca }`;
  const { status, stderr } = check(['-'], `${GATEWAY}  group: ${certificates}\n`);
  t.equal(status, 3);
  t.match(stderr, /spec.group.certFile: \S+ cannot be read: no such file or directory$/m);
});
