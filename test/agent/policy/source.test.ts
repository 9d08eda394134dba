// Which policy counts: the directory's, the environment's, or the last good one.
import fs from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Policy } from '../../../agent/policy/model.ts';
import { type KeptPolicy, type LoadedPolicy, readSource, watchSource } from '../../../agent/policy/source.ts';

const SINCE = Date.parse('2026-11-28T10:00:00Z');
const text = (name: string) => `
apiVersion: veg-agent.io/v1alpha1
kind: GatewayPolicy
metadata: { name: ${name}, namespace: default }
spec:
  internal: { gateways: [10.16.0.1] }
  external: { gateways: [172.17.0.1] }
`;
const ENVIRONMENT = {
  INTERNAL_GATEWAY_IPV4: '10.16.0.1',
  EXTERNAL_GATEWAY_IPV4: '172.17.0.1',
  NO_SNAT_SOURCES_IPV4: '10.18.0.0/16',
  BFD_PEER_IPS: '10.255.255.255',
  BFD_MULTI: '7',
  PATH: '/usr/bin',
};
const keptFiles = (source: string, name: string): KeptPolicy => ({
  source,
  since: SINCE,
  content: { files: [{ name: 'a.yaml', text: text(name) }] },
});

/** What is told at the start, as `source: name` or `source: invalid`. */
async function told(t: Test, directory: string, env: Record<string, string>, kept?: KeptPolicy) {
  const loaded: LoadedPolicy[] = [];
  const watch = await watchSource(directory, env, kept, (one) => loaded.push(one));
  t.teardown(() => watch.close());
  const summary = ({ source, result, since }: LoadedPolicy) =>
    `${source}: ${result.ok ? result.policy.name : 'invalid'}${since === undefined ? '' : ', as before'}`;
  return { loaded, watch, lines: () => loaded.map(summary) };
}

t.test('an invalid policy comes after the last good one, which is in force since it came', async (t) => {
  const dir = t.testdir({ 'a.yaml': 'kind: Nonsense' });
  const { lines, loaded, watch } = await told(t, dir, {}, keptFiles(dir, 'one'));
  t.same(lines(), [`${dir}: default/one, as before`, `${dir}: invalid`]);
  t.equal(loaded[0]?.since, SINCE);
  await watch.reread();
  t.same(lines().slice(2), [`${dir}: invalid`], 'it is told once');
  fs.writeFileSync(join(dir, 'a.yaml'), text('two'));
  await watch.reread();
  t.same(lines().slice(3), [`${dir}: default/two`], 'and the next good one takes over');
});

t.test('a valid policy comes alone; the very one of before is no newer', async (t) => {
  const dir = t.testdir({ 'a.yaml': text('one') });
  t.same((await told(t, dir, {}, keptFiles(dir, 'one'))).lines(), [`${dir}: default/one, as before`]);
  t.same((await told(t, dir, {}, keptFiles(dir, 'two'))).lines(), [`${dir}: default/one`]);
  t.same((await told(t, dir, {})).lines(), [`${dir}: default/one`]);
});

t.test('a directory whose policy was in force is not given up for the environment', async (t) => {
  const root = t.testdir({ empty: {} });
  for (const dir of [join(root, 'gone'), join(root, 'empty')]) {
    const kept = keptFiles(`${dir}/`, 'one');
    t.same((await told(t, dir, ENVIRONMENT, kept)).lines(), [
      `${dir}/: default/one, as before`,
      `${dir}: invalid`,
    ]);
    t.equal((await readSource(dir, ENVIRONMENT, kept)).result.ok, false, 'nor by a command');
    t.same((await told(t, dir, ENVIRONMENT)).lines(), ['environment: environment'], 'a first start takes it');
    t.same(
      (await told(t, dir, ENVIRONMENT, keptFiles('/another', 'one'))).lines(),
      ['environment: environment'],
      'and so does one that was given another directory',
    );
  }
});

t.test('the policy of the environment is kept as well: all of it, and nothing else', async (t) => {
  const root = t.testdir({ bad: { 'a.yaml': 'kind: Nonsense' } });
  const {
    loaded: [first],
  } = await told(t, join(root, 'gone'), ENVIRONMENT);
  const content = first!.content as { environment: Record<string, string> };
  t.notOk('PATH' in content.environment);
  const kept = { source: 'environment', since: SINCE, content };
  t.same((await told(t, join(root, 'gone'), ENVIRONMENT, kept)).lines(), [
    'environment: environment, as before',
  ]);
  const { lines, loaded } = await told(t, join(root, 'bad'), {}, kept);
  t.same(lines(), ['environment: environment, as before', `${join(root, 'bad')}: invalid`]);
  const policy = (one: LoadedPolicy) => (one.result as { policy: Policy }).policy;
  t.same(policy(loaded[0]!), policy(first!));
});

t.test('a last good policy that this version refuses is told with its errors, and not obeyed', async (t) => {
  const dir = t.testdir({ 'a.yaml': 'kind: Nonsense' });
  const content = { files: [{ name: 'a.yaml', text: text('one').replace('spec:', 'spec:\n  colour: red') }] };
  const { lines } = await told(t, dir, {}, { source: dir, since: SINCE, content });
  t.same(lines(), [`the last good policy, from ${dir}: invalid`, `${dir}: invalid`]);
});
