/** Links that are not one network with the gateway and the pod in it: host addresses, no address, routes elsewhere. */
import t, { type Test } from 'tap';
import { FAMILIES } from '../../lib/prefix.ts';
import { Agent, type GatewaySpec, PolicyDirectory, WEB } from '../support/agent.ts';
import { until } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { sourceSeen, startEchoServer } from '../support/traffic.ts';
import { ask, startMirror } from './nat-lab.ts';

const MIRROR = 9999;
const EIP = { 4: '172.17.0.60', 6: 'fd00:172:17::60' } as const;
const eips = FAMILIES.map((family) => ({ externalIP: EIP[family], internalIP: ADDRESS.client[family] }));

async function lab(t: Test) {
  const scope = scopeOf(t);
  const net = topology(scope);
  const policy = new PolicyDirectory(scope);
  await startMirror(net.server, MIRROR);
  const directories = { policyDir: policy.dir, stateDir: scope.directory('state') };
  const { gateway, client } = net;
  let generation = 0;
  let agent: Agent | undefined;
  const look = async () => {
    await agent!.ask('POST', '/v1/reconcile');
    return agent!.status();
  };
  return {
    ...net,
    /** Puts a policy into force and returns what the agent says of it. */
    async obey(spec: GatewaySpec = {}) {
      policy.set(spec);
      generation++;
      agent ??= new Agent(gateway, directories);
      await agent.statusUntil(
        'the policy',
        ({ policy: seen }) => seen.valid && seen.generation === generation,
      );
      return look();
    },
    look,
    ready: () => agent!.statusUntil('ready', ({ ready }) => ready),
    readyz: () => agent!.http('/readyz'),
    plan: () => agent!.cli('plan').stdout,
    /** What the server sees of the client. */
    seen: (family: 4 | 6) => ask(client, ADDRESS.server[family], MIRROR),
    routes: (family: 4 | 6, table = 'main') =>
      gateway
        .sh(`ip -${family} route show table ${table}`)
        .split('\n')
        .map((line) => line.trim().replace(/ proto 178| metric 1024| pref medium/g, ''))
        .filter(Boolean),
    flushExternal: () => {
      for (const family of FAMILIES) gateway.sh(`ip -${family} addr flush dev net1 scope global`);
      for (const family of FAMILIES) gateway.sh(`ip -${family} route flush dev net1 proto boot`);
    },
  };
}

t.test('host addresses outside, with the gateways off their link', async (t) => {
  const { flushExternal, gateway, obey, look, plan, ready, routes, seen } = await lab(t);
  flushExternal();
  gateway.ip(`
    addr add 172.17.0.11/32 dev net1
    addr add fd00:172:17::11/128 dev net1 nodad`);
  await obey();
  await ready();
  t.ok(routes(4).includes('default via 172.17.0.1 dev net1 onlink'), routes(4).join('\n'));
  t.ok(routes(6).includes('default via fd00:172:17::1 dev net1 onlink'), routes(6).join('\n'));
  for (const family of FAMILIES) t.equal(seen(family), ADDRESS.gatewayExternal[family]);
  t.equal(plan(), '');

  // Routes that somebody else has made that way serve, whether they say so or not.
  gateway.ip('route del default via 172.17.0.1\nroute add default via 172.17.0.1 dev net1 onlink');
  await look();
  t.match(gateway.sh('ip -4 route show default'), /^default via 172\.17\.0\.1 dev net1 onlink *\n$/);
  gateway.ip('route del default via 172.17.0.1');
  await look();

  // With the networks on the link the routes are the usual ones.
  gateway.ip(`
    addr add 172.17.0.12/16 dev net1
    addr add fd00:172:17::12/64 dev net1 nodad`);
  await look();
  t.ok(routes(4).includes('default via 172.17.0.1 dev net1'), routes(4).join('\n'));
  t.ok(routes(6).includes('default via fd00:172:17::1 dev net1'), routes(6).join('\n'));
  t.equal(plan(), '');
});

t.test('a link-local gateway outside, and networks that are in another table (sbr)', async (t) => {
  const { gateway, server, obey, look, plan, ready, routes, seen } = await lab(t);
  server.ip('addr add fe80::1/64 dev eth0 nodad');
  gateway.ip(`
    route del default via 172.17.0.1
    route del default via fd00:172:17::1
    route del 172.17.0.0/16 dev net1
    route add 172.17.0.0/16 dev net1 table 100
    route add default via 172.17.0.1 dev net1 table 100
    rule add from 172.17.0.11 lookup 100`);
  await obey({ external: { gateways: ['172.17.0.1', 'fe80::1'] } });
  await ready();
  t.ok(routes(4).includes('default via 172.17.0.1 dev net1 onlink'), routes(4).join('\n'));
  t.ok(routes(6).includes('default via fe80::1 dev net1'), routes(6).join('\n'));
  for (const family of FAMILIES) t.equal(seen(family), ADDRESS.gatewayExternal[family]);
  await look();
  t.equal(plan(), '');
});

t.test('an internal gateway off the link is reached, or named', async (t) => {
  const { gateway, router, obey, ready, readyz, routes, seen } = await lab(t);
  await obey({ internal: { gateways: ['10.99.0.1'] }, external: { gateways: ['172.17.0.1'] } });
  const reason =
    /^kernel not in sync: .*default via 10\.99\.0\.1 dev eth0.*; 10\.99\.0\.1 is on no network of eth0 \(10\.16\.0\.12\/16\)$/m;
  t.match(readyz(), { status: 503, body: reason });

  // As Calico has it.
  gateway.ip('addr del 10.16.0.12/16 dev eth0\naddr add 10.16.0.12/32 dev eth0');
  router.ip('addr add 169.254.1.1/32 dev gateway');
  const off = await obey({
    internal: { gateways: ['169.254.1.1'] },
    external: { gateways: ['172.17.0.1'] },
  });
  t.match(off.kernel.notes, [
    /^the internal gateway 169\.254\.1\.1 is on no network of eth0 \(10\.16\.0\.12\/32\)/,
  ]);
  await ready();
  t.strictSame(routes(4, '1000'), ['default via 169.254.1.1 dev eth0 onlink']);
  t.equal(seen(4), ADDRESS.gatewayExternal[4]);
});

t.test('without an own address outside, what needs none goes on', async (t) => {
  const { flushExternal, gateway, client2, obey, ready, readyz, seen } = await lab(t);
  flushExternal();
  const dropped = { policies: [], eips, defaultAction: 'drop' } as GatewaySpec;
  await obey(dropped);
  await ready();
  await until(() => FAMILIES.every((family) => gateway.sh('ip addr show net1').includes(EIP[family])), {
    what: 'the EIPs are held',
  });
  for (const family of FAMILIES) {
    t.equal(seen(family), EIP[family], 'an EIP outwards');
  }
  const { kernel } = await obey({ policies: [WEB], eips });
  t.match(kernel.families, [{ state: 'blocked' }, { state: 'blocked' }]);
  t.match(readyz().body, /IPv4: the external interface net1 has no usable IPv4 address; what would be masq/);
  for (const family of FAMILIES) {
    t.equal(seen(family), EIP[family], 'the EIP still works');
    t.equal(ask(client2, ADDRESS.server[family], MIRROR), '', 'nobody else leaves as it');
  }
});

t.test('what is outside stays outside when a block holds the external network', async (t) => {
  const { client, gateway, server, obey, plan, ready, routes, seen } = await lab(t);
  await startEchoServer(server);
  server.ip('addr add 172.18.0.1/32 dev lo\naddr add fd00:18::1/128 dev lo');
  // As Kube-OVN's CNI has it from the pod's annotations.
  gateway.ip('route add 172.16.0.0/12 via 10.16.0.1 dev eth0');
  const ipBlocks = ['172.16.0.0/12', 'fd00::/16', '0.0.0.0/1'];
  const { policy, kernel } = await obey({ policies: [WEB, { name: 'wide', ipBlocks }] });
  await ready();
  t.match(policy.warnings, [
    /^policy wide: 172\.16\.0\.0\/12 holds the external gateway 172\.17\.0\.1/,
    /^policy wide: fd00::\/16 holds the external gateway fd00:172:17::1/,
  ]);
  t.match(kernel.notes, [/^0\.0\.0\.0\/1 is wider than any private network/]);
  t.match(await sourceSeen(client, '172.18.0.1'), `${ADDRESS.gatewayExternal[4]} `);
  t.match(await sourceSeen(client, 'fd00:18::1'), `${ADDRESS.gatewayExternal[6]} `);
  for (const family of FAMILIES) t.equal(seen(family), ADDRESS.gatewayExternal[family], 'the link itself');
  t.equal(plan(), '');
  await obey();
  t.ok(routes(4).includes('172.16.0.0/12 via 10.16.0.1 dev eth0'), 'the other route is there again');
  t.notMatch(routes(4).join('\n') + routes(6).join('\n'), /0\.0\.0\.0\/1|fd00::\/16/);
});
