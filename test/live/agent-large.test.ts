/** Documents of real size, as kubectl prints them, in the memory of the image: read, changed, repaired, kept. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Agent, PolicyDirectory } from '../support/agent.ts';
import { asJson, asYaml, GATEWAY_OF_LISTS, listOf, pod, slice, subnet } from '../support/kubectl.ts';
import { ROOT, until } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { topology } from '../support/topology.ts';

/** Node's flags in a container of 64 MiB. */
const SMALL_FLAGS = readFileSync(
  join(ROOT, 'images/gateway/rootfs/usr/libexec/veg-agent/small-flags'),
  'utf8',
).trim();

t.test(
  '2000 Pods, 500 Subnets and 10 000 endpoints are read, half of them programmed, changed and repaired with the heap of 64 MiB',
  async (t) => {
    const scope = scopeOf(t);
    const { gateway } = topology(scope);
    const policy = new PolicyDirectory(scope);
    const lists = {
      'pods.yaml': asYaml(listOf(2000, pod)),
      'slices.json': asJson(listOf(100, (i) => slice(i, `policy${i % 2}`))),
      'subnets.yaml': asYaml(listOf(500, subnet)),
    };
    policy.write({ 'gateway.yaml': GATEWAY_OF_LISTS, ...lists });
    const agent = new Agent(gateway, {
      policyDir: policy.dir,
      stateDir: scope.directory('state'),
      wrapper: ['sh', '-c', `node=$1; shift; exec "$node" ${SMALL_FLAGS} "$@"`, 'sh'],
    });
    await agent.synced();
    const sources = () => gateway.sh('ipset save').match(/^add /gm)?.length ?? 0;
    const before = sources();
    t.ok(before >= 5000, 'the endpoints of the policy are in the kernel, with their egress address');

    // Another app is selected, and somebody takes a rule, a route and a source away.
    const selected = GATEWAY_OF_LISTS.replace('app: app-3', 'app: nothing-yet');
    policy.write({ 'gateway.yaml': selected, ...lists });
    await agent.statusUntil('the change', (status) => status.policy.generation === 2 && status.kernel.inSync);
    gateway.ip('rule del priority 1001', 4);
    await until(() => gateway.sh('ip rule').includes('1001:'), { what: 'the rule is back' });
    gateway.sh('ip route del 10.60.1.44');
    gateway.sh('ipset del VEG-SOURCE-4 10.60.1.45');
    await until(() => gateway.sh('ip route').includes('10.60.1.44 '), {
      what: 'the route is back',
    });
    await until(() => gateway.sh('ipset save').includes(' 10.60.1.45 '), {
      what: 'the source is back',
    });

    // An error is where it is in the file.
    const text = lists['subnets.yaml'].replace('cidrBlock: 10.101.243.0/24', 'cidrBlock: 10.101.243.0/33');
    policy.write({ 'gateway.yaml': selected, ...lists, 'subnets.yaml': text });
    const { policy: refused } = await agent.statusUntil('the error', (status) => !status.policy.valid);
    const line = text.slice(0, text.indexOf('10.101.243.0/33')).split('\n').length;
    t.same(agent.daemon.log().match(/the agent process ended/g), null, 'no process has died of it');
    t.match(refused.errors[0], `subnets.yaml:${line}:16: items[499].spec.cidrBlock: `);
  },
);
