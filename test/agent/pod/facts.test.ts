import { execFileSync } from 'node:child_process';
import { truncateSync } from 'node:fs';
import t from 'tap';
import { hasIPv6, readFacts } from '../../../agent/pod/facts.ts';
import { address, prefix } from '../../../lib/prefix.ts';
import type { Route } from '../../../routing/state.ts';

const observed = { links: [], addresses: [], routes: [] };
const found = {
  links: [],
  addresses: [],
  connected: [],
  announced: [],
  routes: [],
  podIPs: [],
  services: [],
};
const NO_RESOLV_CONF = '/nonexistent';

t.test('a network-status file is optional, and an invalid one is noted and ignored', async (t) => {
  const dir = t.testdir({
    good: '[{"name": "a", "interface": "net1", "ips": ["172.17.0.11"]}]',
    bad: '[{"name": "a", ',
    directory: {},
  });
  t.strictSame(await readFacts(observed, `${dir}/missing`, true, NO_RESOLV_CONF), {
    ...found,
    networks: [],
    names: [],
    missing: [],
    notes: [],
  });
  t.strictSame(await readFacts(observed, `${dir}/good`, true, NO_RESOLV_CONF), {
    ...found,
    networks: [{ name: 'a', interface: 'net1', default: false, gateways: [] }],
    names: [],
    missing: [],
    notes: [],
  });
  const bad = await readFacts(observed, `${dir}/bad`);
  t.strictSame(bad.networks, []);
  t.match(bad.notes, [/^ignoring network-status file .*\/bad: not JSON: /]);
  t.match((await readFacts(observed, `${dir}/directory`)).notes, [/is a directory, not a regular file/]);
  execFileSync('mkfifo', [`${dir}/fifo`]);
  t.match((await readFacts(observed, `${dir}/fifo`)).notes, [/is a FIFO, not a regular file/]);
  t.match((await readFacts(observed, '/dev/zero')).notes, [/is a device, not a regular file/]);
  truncateSync(`${dir}/good`, 2 ** 40);
  t.match((await readFacts(observed, `${dir}/good`)).notes, [/is larger than/]);
});

t.test('a kernel without IPv6 is known by what /proc/net lacks', async (t) => {
  t.equal(hasIPv6(), true, 'this one has it');
  t.equal(hasIPv6('/proc/self/net/nothing'), false);
  t.strictSame((await readFacts(observed, '/nonexistent', false)).missing, [6]);
});

t.test(
  "the pod's addresses, the API server and the name servers are what Kubernetes gave the pod",
  async (t) => {
    const dir = t.testdir({
      'resolv.conf': `search default.svc.cluster.local
nameserver 10.53.0.10
nameserver 127.0.0.53
nameserver\tfd00:53::a
#nameserver 192.0.2.1
options ndots:5
nameserver 10.53.0.11
`,
    });
    const before = { ...process.env };
    t.teardown(() => {
      process.env = before;
    });
    Object.assign(process.env, { POD_IPS: '10.52.0.189,fd00:52::bd', KUBERNETES_SERVICE_HOST: '10.53.0.1' });
    const facts = await readFacts(observed, '/nonexistent', true, `${dir}/resolv.conf`);
    t.strictSame(facts.podIPs, ['10.52.0.189', 'fd00:52::bd']);
    t.strictSame(
      facts.services,
      ['10.53.0.1', '10.53.0.10', 'fd00:53::a'],
      'the first three, none of this pod',
    );
    Object.assign(process.env, { POD_IPS: 'x,,10.52.0.190', KUBERNETES_SERVICE_HOST: 'kubernetes.default' });
    const odd = await readFacts(observed, '/nonexistent', true, '/dev/zero');
    t.strictSame([odd.podIPs, odd.services, odd.notes], [['10.52.0.190'], [], []]);
  },
);

t.test('the agent’s own routes are no facts: what it applies must not make a new plan', async (t) => {
  const route = (protocol: number, table = 254): Route => ({
    ...{ family: 4, table, destination: prefix('10.17.0.0/16'), gateway: address('10.16.0.1'), dev: 'eth0' },
    ...{ protocol, scope: 0, type: 1, metric: 0, foreign: false },
  });
  const routes = [route(178), route(3), route(3, 1000)];
  const facts = await readFacts({ ...observed, routes }, '/nonexistent', true, NO_RESOLV_CONF);
  t.strictSame(facts.routes, [route(3)]);
});
