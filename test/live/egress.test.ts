/** Addresses beyond masquerade, with the whole agent: which source the server sees, which client the pod. */
import t from 'tap';
import { stringify } from 'yaml';
import { FAMILIES, type Family } from '../../lib/prefix.ts';
import { Agent, gatewayPolicy, PolicyDirectory, WEB } from '../support/agent.ts';
import { type Namespace, until } from '../support/netns.ts';
import { associate } from '../support/sctp.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { sourceSeen, startEchoServer } from '../support/traffic.ts';
import { ask, startMirror } from './nat-lab.ts';

const MIRROR = 9999;
const BOTH = { 4: '172.17.0.50', 6: 'fd00:172:17::50' } as const;
const OTHER = { 4: '172.17.0.51', 6: 'fd00:172:17::51' } as const;
const EIP = { 4: '172.17.0.60', 6: 'fd00:172:17::60' } as const;
const OUTSIDE = ['172.17.0.0/16', 'fd00:172:17::/64'];
const CLIENT2 = ['10.18.0.0/16', 'fd00:10:18::/64'];
const values = (address: Record<Family, string>): string[] => [address[4], address[6]];

const scope = scopeOf(t);
const { client, client2, gateway, server } = topology(scope);
const policy = new PolicyDirectory(scope);
policy.set();
const options = {
  policyDir: policy.dir,
  stateDir: scope.directory('state'),
  env: { POD_NAME: 'gateway1-0', NODE_NAME: 'node1' },
};
let agent = new Agent(gateway, options);
await agent.synced();
await startEchoServer(server);
for (const ns of [server, client, client2]) await startMirror(ns, MIRROR);
const LISTING = `ip -4 addr show net1
ip -6 addr show net1 scope global
ip rule
ip -6 rule
ip route
ip -6 route
ipset list -n
iptables -t nat -S
iptables -t mangle -S
ip6tables -t nat -S
ip6tables -t mangle -S`.split('\n');
const listing = (): string => LISTING.map((command) => gateway.sh(command)).join('');
const first = listing();

let written = gatewayPolicy();
/** Puts a policy into force and waits until it is in the kernel. */
async function edit(spec: object): Promise<void> {
  const text = gatewayPolicy(spec);
  if (text !== written) {
    const { generation } = (await agent.status()).policy;
    policy.write({ 'gateway.yaml': text });
    written = text;
    await agent.statusUntil(
      `in force: ${stringify(spec)}`,
      ({ policy: seen }) => seen.valid && seen.generation > generation,
    );
  }
  const { body } = await agent.ask('POST', '/v1/reconcile');
  if (!(JSON.parse(body) as { ok: boolean }).ok) throw new Error(body);
}

const held = (address: string): boolean =>
  gateway
    .sh('ip -o addr show dev net1')
    .split(/\s+/)
    .some((word) => word.startsWith(`${address}/`));
const taken = (addresses: Record<Family, string>) =>
  until(() => values(addresses).every(held), { what: `${values(addresses)} on net1` });
/** The source that the server sees. */
const seen = (ns: Namespace, family: Family): string => ask(ns, ADDRESS.server[family], MIRROR);

t.test('an egress address is taken, seen outside, and given up', async (t) => {
  const web = (more: object) => ({ policies: [{ ...WEB, ...more }] });
  await edit(web({ egressIP: { address: values(BOTH) } }));
  await taken(BOTH);
  for (const family of FAMILIES) {
    t.equal(seen(client, family), BOTH[family]);
    t.match(await sourceSeen(client, ADDRESS.server[family]), BOTH[family], 'TCP');
    t.equal(seen(client2, family), ADDRESS.gatewayExternal[family], 'others are masqueraded');
    t.equal(seen(gateway, family), ADDRESS.gatewayExternal[family], "the pod's own packets are not touched");
  }
  t.notMatch(gateway.sh('ip rule') + gateway.sh('ip -6 rule'), /172\.17\.0\.50|:17::50/, 'no rule is for it');

  await edit(web({ egressIP: { address: values(OTHER) } }));
  await taken(OTHER);
  for (const family of FAMILIES) {
    t.equal(seen(client, family), OTHER[family], 'after an edit');
    t.notOk(held(BOTH[family]), 'the one before is given up');
  }
  for (const owner of ['gateway1-0', 'node1']) {
    await edit(web({ egressIP: { address: values(BOTH), owner } }));
    await taken(BOTH);
  }
  for (const owner of ['gateway1-1', '']) {
    await edit(web({ egressIP: { address: values(BOTH), owner } }));
    for (const family of FAMILIES) t.notOk(held(BOTH[family]), `owned by ${owner || 'nobody'}`);
  }
  await edit(web({ egressIP: { address: values(OTHER), announce: false } }));
  server.ip('route add 172.17.0.51/32 via 172.17.0.11\nroute add fd00:172:17::51/128 via fd00:172:17::11');
  for (const family of FAMILIES) {
    t.equal(seen(client, family), OTHER[family], 'not announced, but used');
    t.notOk(held(OTHER[family]));
  }
  server.ip('route del 172.17.0.51/32\nroute del fd00:172:17::51/128');
});

t.test('of several egress addresses a source keeps one, whatever the protocol and the time', async (t) => {
  const several = [...values(OTHER), '172.17.0.53', '172.17.0.56', 'fd00:172:17::53', 'fd00:172:17::56'];
  await edit({ policies: [{ name: 'all', egressIP: { address: several } }] });
  await until(() => several.every(held), { what: 'all of them on net1' });
  for (const family of FAMILIES) {
    for (const ns of [client, client2]) {
      const one = seen(ns, family);
      t.ok(several.includes(one), one);
      t.equal(seen(ns, family), one, 'UDP again');
      t.match(await sourceSeen(ns, ADDRESS.server[family]), one, 'TCP');
      const listener = { ns: server, ports: [9] };
      t.equal(await associate(ns, { host: ADDRESS.server[family], port: 9 }, listener), `${one} 9`, 'SCTP');
    }
  }
});

t.test('an address of another host is not added until it is released', async (t) => {
  server.ip('addr add 172.17.0.50/32 dev eth0\naddr add fd00:172:17::50/128 dev eth0 nodad');
  await edit({ policies: [{ ...WEB, egressIP: { address: values(BOTH) } }] });
  await until(
    async () => {
      const { kernel } = await agent.status();
      return values(BOTH).every((address) =>
        kernel.notes.some((note) => note.startsWith(`${address} is not taken`)),
      );
    },
    { what: 'the notes' },
  );
  for (const family of FAMILIES) t.notOk(held(BOTH[family]));
  server.ip('addr del 172.17.0.50/32 dev eth0\naddr del fd00:172:17::50/128 dev eth0');
  await taken(BOTH);
  t.same((await agent.status()).kernel.notes, []);
});

t.test('destinations, exclusions, priority', async (t) => {
  const excluded = values(ADDRESS.server);
  for (const [policies, expected] of [
    [[{ ...WEB, destinationCIDRs: OUTSIDE, egressIP: { address: values(BOTH) } }], BOTH],
    [
      [{ ...WEB, destinationCIDRs: ['192.0.2.0/24'], egressIP: { address: values(BOTH) } }],
      ADDRESS.gatewayExternal,
    ],
    [[{ ...WEB, excludedCIDRs: excluded, egressIP: { address: values(BOTH) } }], ADDRESS.gatewayExternal],
    [
      [
        { ...WEB, name: 'late', egressIP: { address: values(BOTH) } },
        { ...WEB, name: 'early', priority: 10, egressIP: { address: values(OTHER) } },
      ],
      OTHER,
    ],
    [[WEB, { ...WEB, name: 'forward', snat: false }], ADDRESS.gatewayExternal],
  ] as const) {
    await edit({ policies });
    for (const family of FAMILIES) t.equal(seen(client, family), expected[family], stringify(policies));
  }
});

t.test('the default action', async (t) => {
  for (const [defaultAction, expected] of [
    ['drop', { 4: '', 6: '' }],
    ['forward', ADDRESS.client2],
    ['masquerade', ADDRESS.gatewayExternal],
  ] as const) {
    await edit({ policies: [WEB], defaultAction });
    for (const family of FAMILIES) {
      t.equal(seen(client2, family), expected[family], defaultAction);
      t.equal(seen(client, family), ADDRESS.gatewayExternal[family]);
    }
  }
});

t.test('an EIP: both ways, and from inside', async (t) => {
  const eips = FAMILIES.map((family) => ({ externalIP: EIP[family], internalIP: ADDRESS.client[family] }));
  await edit({ policies: [{ name: 'direct', snat: false, ipBlocks: CLIENT2 }], eips });
  await taken(EIP);
  for (const family of FAMILIES) {
    t.equal(seen(client, family), EIP[family], 'outwards');
    t.equal(
      ask(server, EIP[family], MIRROR),
      ADDRESS.gatewayInternal[family],
      'inwards, by way of the gateway',
    );
    t.equal(ask(client2, EIP[family], MIRROR), ADDRESS.gatewayInternal[family], 'hairpin');
    t.equal(seen(client2, family), ADDRESS.client2[family], 'the forwarded block is still forwarded');
  }
  const moved = eips.map((eip, i) => ({ ...eip, internalIP: values(ADDRESS.client2)[i] }));
  await edit({ policies: [], eips: moved });
  for (const family of FAMILIES) {
    t.equal(seen(client2, family), EIP[family], 'after an edit it is another pod’s');
    t.equal(seen(client, family), ADDRESS.gatewayExternal[family]);
  }
  await edit({ policies: [], eips: moved.map((eip) => ({ ...eip, owner: 'gateway1-1' })) });
  for (const family of FAMILIES) {
    t.notOk(held(EIP[family]), 'another gateway is the owner');
    server.sh(`ip neigh flush to ${EIP[family]} dev eth0`);
    t.equal(ask(server, EIP[family], MIRROR), '', 'nobody here answers for it');
  }
  await edit({ policies: [], eips: moved.map((eip) => ({ ...eip, owner: 'node1' })) });
  await taken(EIP);
  for (const family of FAMILIES) t.equal(ask(server, EIP[family], MIRROR), ADDRESS.gatewayInternal[family]);
});

t.test('DNAT, with and without the address of the client', async (t) => {
  await startEchoServer(client);
  const dnats = FAMILIES.flatMap((family) =>
    [false, true].flatMap((preserveClientIP, i) =>
      (['udp', 'tcp'] as const).map((protocol) => ({
        ...{ externalIP: ADDRESS.gatewayExternal[family], protocol, preserveClientIP },
        ...{ externalPort: 7000 + i, internalIP: ADDRESS.client[family] },
        internalPort: protocol === 'udp' ? MIRROR : 8000,
      })),
    ),
  );
  const greeting = (ns: Namespace, host: string, port: number): string =>
    ns.run('timeout', ['20', 'bash', '-c', `read -t 10 line < /dev/tcp/${host}/${port}; echo $line`]).stdout;
  const ranges = FAMILIES.flatMap((family) =>
    (['udp', 'sctp'] as const).map((protocol) => ({
      ...{ externalIP: ADDRESS.gatewayExternal[family], protocol, preserveClientIP: protocol === 'sctp' },
      ...{ externalPort: '7100-7109', internalIP: ADDRESS.client2[family], internalPort: '9993-10002' },
    })),
  );
  await edit({ policies: [WEB], dnats: [...dnats, ...ranges] });
  for (const family of FAMILIES) {
    const external = ADDRESS.gatewayExternal[family];
    t.equal(ask(server, external, 7000), ADDRESS.gatewayInternal[family]);
    t.equal(ask(server, external, 7001), ADDRESS.server[family], 'preserved');
    t.match(greeting(server, external, 7000), `${ADDRESS.gatewayInternal[family]} `, 'TCP');
    t.match(greeting(server, external, 7001), `${ADDRESS.server[family]} `, 'TCP, preserved');
    t.equal(ask(server, external, 7106), ADDRESS.gatewayInternal[family], 'the seventh port of a range');
    t.equal(ask(client, external, 7106), ADDRESS.gatewayInternal[family], 'hairpin');
    const ports = { ns: client2, ports: [9993, 10002] };
    const sctp = (ns: Namespace, port: number) => associate(ns, { host: external, port }, ports);
    t.equal(await sctp(server, 7100), `${ADDRESS.server[family]} 9993`, 'SCTP, preserved');
    t.equal(await sctp(client, 7109), `${ADDRESS.gatewayInternal[family]} 10002`, 'SCTP from inside');
  }
  await edit({
    policies: [WEB],
    dnats: dnats.map((dnat) => ({ ...dnat, externalPort: dnat.externalPort + 10 })),
  });
  for (const family of FAMILIES) {
    t.equal(ask(server, ADDRESS.gatewayExternal[family], 7000), '', 'after an edit');
    t.equal(ask(server, ADDRESS.gatewayExternal[family], 7011), ADDRESS.server[family]);
  }
});

t.test('the MSS is clamped', async (t) => {
  await edit({ mssClamp: true });
  t.match(gateway.sh('iptables -t mangle -S'), /-A VEG-MSS -p tcp .*--clamp-mss-to-pmtu/);
});

t.test('a source that has as many connections as it may is named, but not in metrics', async (t) => {
  await edit({ limits: { connectionsPerSource: 3 } });
  const dropped = 'veg_connection_limit_dropped_packets_total{family="ipv4"}';
  t.equal(agent.metric(dropped), 0);
  const named = () =>
    agent.statusUntil('the source is named', ({ conntrack }) => {
      ask(client, ADDRESS.server[4], MIRROR);
      return conntrack?.busiest.some(({ source }) => source === ADDRESS.client[4]) ?? false;
    });
  const { conntrack } = await named();
  t.same(
    conntrack?.busiest.filter(({ source, connections }) => source !== ADDRESS.client[4] || connections < 3),
    [],
    'only sources of the VPC that are at the limit',
  );
  t.ok((agent.metric(dropped) ?? 0) > 0);
  t.match(agent.daemon.log(), /beyond limits\.connectionsPerSource are dropped/);
  t.match(agent.daemon.log(), new RegExp(`"source":"${ADDRESS.client[4]}"`));
  t.match(agent.cli('status').stdout, /crowded +most connections: .*10\.17\.0\.9 \d/);
  for (const path of ['/metrics', '/readyz']) t.notMatch(agent.http(path).body, ADDRESS.client[4], path);
});

t.test('the first policy again leaves nothing of all that', async (t) => {
  await edit({ policies: [{ ...WEB, egressIP: { address: values(BOTH) } }] });
  await edit({});
  t.equal(listing(), first);
  t.equal(agent.cli('apply').code, 0);
});

t.test('the commands that do one thing know virtual addresses', async (t) => {
  await edit({ policies: [{ ...WEB, egressIP: { address: values(BOTH) } }] });
  await taken(BOTH);
  await agent.stop('SIGTERM');
  t.equal(agent.cli('plan').code, 0, 'nothing to do: the daemon left them there');
  gateway.ip('addr del 172.17.0.50/32 dev net1');
  const plan = agent.cli('plan');
  t.equal(plan.code, 4);
  t.equal(plan.stdout, 'ip addr add 172.17.0.50/32 dev net1 metric 178 scope link\n');
  t.equal(agent.cli('apply').code, 0);
  t.ok(held(BOTH[4]));
  t.equal(agent.cli('cleanup').code, 0);
  for (const family of FAMILIES) t.notOk(held(BOTH[family]));
  agent = new Agent(gateway, options);
  await agent.synced();
});
