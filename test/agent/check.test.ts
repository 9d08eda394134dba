/** The command `check` as people type it. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import t from 'tap';
import { GATEWAY } from './policy/support.ts';

const MAIN = join(import.meta.dirname, '../../agent/main.ts');

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
    /nothing: cannot read .*no such file/,
  );
});
