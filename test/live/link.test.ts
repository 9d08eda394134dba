/** Who is on the external link: thieves of the gateway's address and of ours, routers that move, neighbours. */
import t, { type Test } from 'tap';
import { ARP_REPLY, ARP_REQUEST, encodeArp } from '../../lib/arp.ts';
import { checksum } from '../../lib/checksum.ts';
import { encodeAdvertisement, encodeSolicitation } from '../../lib/ndp.ts';
import { address, addressBytes, FAMILIES, type Family } from '../../lib/prefix.ts';
import { Agent, type GatewaySpec, PolicyDirectory } from '../support/agent.ts';
import { type Daemon, type Namespace, NODE, ROOT, until, veth } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { ask, startMirror } from './nat-lab.ts';

const MIRROR = 9999;
const ROUTER = '02:00:00:00:00:01';
const THIEF = '02:00:00:00:66:66';
const BROADCAST = 'ff:ff:ff:ff:ff:ff';

/** The topology, with the external network a bridge at the server, which has a third namespace on it. */
function link(t: Test) {
  const scope = scopeOf(t);
  const net = topology(scope);
  const { server, gateway } = net;
  const thief = scope.namespace('thief');
  veth(server, 'eth1', thief, 'eth0');
  server.ip(`
    link add br0 type bridge mcast_snooping 0
    link set br0 address ${ROUTER}
    link set br0 up
    addr flush dev eth0
    link set eth0 master br0
    link set eth1 master br0
    addr add 172.17.0.1/16 dev br0
    addr add fd00:172:17::1/64 dev br0 nodad
    route replace 10.18.0.0/16 via 172.17.0.11
    route replace fd00:10:18::/64 via fd00:172:17::11`);
  thief.ip(`
    link set eth0 address ${THIEF}
    addr add 172.17.0.66/16 dev eth0
    addr add fd00:172:17::66/64 dev eth0 nodad`);
  const policy = new PolicyDirectory(scope);
  const run = (spec: GatewaySpec = {}) => {
    policy.set(spec);
    return new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
  };
  return { ...net, scope, thief, policy, run };
}

const macOf = (ns: Namespace, device: string): string =>
  / link\/ether (\S+)/.exec(ns.sh(`ip link show ${device}`))![1]!;

/** An Ethernet frame in hex. */
const frame = (to: string, from: string, type: string, packet: Buffer): string =>
  to.replaceAll(':', '') + from.replaceAll(':', '') + type + packet.toString('hex');

/** ARP by the thief that says that `sender` is where it is. */
function arp(operation: number, sender: string, to: string, target: string): string {
  const packet = encodeArp({
    operation,
    senderMac: THIEF,
    senderAddress: address(sender),
    targetMac: to,
    targetAddress: address(target),
  });
  return frame(to, THIEF, '0806', packet);
}

/** A Neighbor Advertisement by the thief: to all nodes, or as if it had been asked. */
function advertisement(target: string, solicitedBy?: { mac: string; address: string }): string {
  const packet = encodeAdvertisement(address(target), THIEF);
  if (solicitedBy === undefined) return frame('33:33:00:00:00:01', THIEF, '86dd', packet);
  packet.set(addressBytes(address(solicitedBy.address)), 24);
  packet[44] = 0xe0;
  packet.writeUInt16BE(0, 42);
  const pseudo = Buffer.concat([
    packet.subarray(8, 40),
    Buffer.from([0, 0, 0, packet.length - 40, 0, 0, 0, 58]),
  ]);
  packet.writeUInt16BE(checksum(pseudo, packet.subarray(40)), 42);
  return frame(solicitedBy.mac, THIEF, '86dd', packet);
}

/** Makes the thief speak; without a count until it is stopped. */
function speak(thief: Namespace, frames: string[], everyMs: number, count = 0): Daemon {
  const args = [`${ROOT}/test/live/link-speaker.ts`, 'eth0', `${everyMs}`, `${count}`, ...frames];
  return thief.spawn(NODE, args, { name: 'speaker' });
}

/** Where a namespace sends what is for an address, and how sure it is: `02:00:00:00:00:01 PERMANENT`. */
const entryOf = (ns: Namespace, target: string, device: string): string =>
  / lladdr (\S+)(?: \S+)*? ([A-Z]+)/
    .exec(ns.sh(`ip neigh show ${target} dev ${device}`))
    ?.slice(1)
    .join(' ') ?? '';

t.test('the way out cannot be stolen', async (t) => {
  const { client, gateway, server, thief, run } = link(t);
  await startMirror(server, MIRROR);
  const agent = run();
  await agent.statusUntil('ready', ({ ready }) => ready);
  const net1 = macOf(gateway, 'net1');
  const attacks: [what: string, family: Family, frames: string[], everyMs: number, count: number][] = [
    ['one unsolicited advertisement', 6, [advertisement(ADDRESS.server[6])], 50, 1],
    ['gratuitous requests', 4, [arp(ARP_REQUEST, ADDRESS.server[4], BROADCAST, ADDRESS.server[4])], 50, 0],
    ['gratuitous replies', 4, [arp(ARP_REPLY, ADDRESS.server[4], BROADCAST, ADDRESS.server[4])], 50, 0],
    [
      'replies to no question',
      4,
      [arp(ARP_REPLY, ADDRESS.server[4], net1, ADDRESS.gatewayExternal[4])],
      50,
      0,
    ],
    ['unsolicited advertisements', 6, [advertisement(ADDRESS.server[6])], 50, 0],
    [
      'solicited advertisements',
      6,
      [advertisement(ADDRESS.server[6], { mac: net1, address: ADDRESS.gatewayExternal[6] })],
      50,
      0,
    ],
  ];
  for (const [what, family, frames, everyMs, count] of attacks) {
    const router = ADDRESS.server[family];
    const conflicts = () => agent.metric('veg_agent_link_conflicts_total{object="gateway"}')!;
    const before = conflicts();
    const speaker = speak(thief, frames, everyMs, count);
    await until(() => conflicts() > before, { what: `${what} are counted` });
    await until(() => entryOf(gateway, router, 'net1') === `${ROUTER} PERMANENT`, {
      what: `the kernel's entry under ${what}`,
    });
    for (let i = 0; i < 5; i++) {
      t.equal(ask(client, router, MIRROR), ADDRESS.gatewayExternal[family], `${what}: traffic goes on`);
    }
    t.equal(entryOf(gateway, router, 'net1'), `${ROUTER} PERMANENT`, `${what}: the entry holds`);
    const { uplink, ready } = await agent.status();
    t.ok(ready);
    t.match(
      uplink!.notes.join('\n'),
      new RegExp(`${THIEF} claimed to be the external gateway ${router} .*go to ${ROUTER}`),
    );
    t.match(uplink!.probes.find((probe) => probe.address === router)?.mac, ROUTER);
    if (count === 0) await speaker.stop('SIGKILL');
  }
  t.match(
    agent.daemon.log(),
    new RegExp(`"gateway":"${ADDRESS.server[4]}".*"${THIEF}".*another host claims to be`),
  );
  t.match(
    agent.daemon.log(),
    new RegExp(`"gateway":"${ADDRESS.server[6]}".*"${THIEF}".*another host claims to be`),
  );
  t.match(agent.cli('status').stdout, new RegExp(`${THIEF}.*${ROUTER}`));
  // What was held goes back to the kernel with the agent.
  await agent.stop('SIGTERM');
  t.notMatch(gateway.sh('ip neigh show dev net1'), /PERMANENT/);
});

t.test('nor while it is probed with ICMP, and whatever changes the entry', async (t) => {
  const { gateway, thief, run } = link(t);
  const agent = run({ uplink: { probe: 'icmp' } } as GatewaySpec);
  await agent.statusUntil(
    'ready',
    ({ uplink }) => uplink?.probes.filter(({ mac }) => mac === ROUTER).length === 2,
  );
  // A question that seems to come from the router says where the router is (RFC 4861 7.2.3).
  const question = encodeSolicitation({
    source: address(ADDRESS.server[6]),
    sourceMac: THIEF,
    destination: address(ADDRESS.gatewayExternal[6]),
    target: address(ADDRESS.gatewayExternal[6]),
  });
  const net1 = macOf(gateway, 'net1');
  const frames = [
    arp(ARP_REQUEST, ADDRESS.server[4], net1, ADDRESS.gatewayExternal[4]),
    frame(net1, THIEF, '86dd', question),
  ];
  const speaker = speak(thief, frames, 50);
  await until(() => routerEntries(gateway).join() === `${ROUTER} PERMANENT,${ROUTER} PERMANENT`, {
    what: 'the entries hold',
  });
  const { uplink, ready } = await agent.statusUntil('the notes', ({ uplink }) => uplink!.notes.length === 2);
  t.ok(ready);
  for (const note of uplink!.notes) t.match(note, new RegExp(`${THIEF} claimed.*${ROUTER}`));
  await speaker.stop('SIGKILL');
});

/** The entry of each family's gateway. */
const routerEntries = (ns: Namespace): string[] =>
  FAMILIES.map((family) => entryOf(ns, ADDRESS.server[family], 'net1'));

/** Waits for something while the uplink of both families has to stay up. */
async function upUntil(t: Test, agent: Agent, what: string, reached: () => boolean): Promise<void> {
  const states = new Set<string>();
  await until(
    async () => {
      for (const { state } of (await agent.status()).uplink!.families) states.add(state);
      return reached();
    },
    { what },
  );
  t.same([...states], ['up'], `${what}: the uplink stays up`);
}

t.test('a router that moves to another Ethernet address is followed', async (t) => {
  const { client, gateway, server, run } = link(t);
  await startMirror(server, MIRROR);
  const agent = run();
  await agent.statusUntil('ready', ({ ready }) => ready);
  for (const family of FAMILIES) t.ok(ask(client, ADDRESS.server[family], MIRROR), 'the kernel has an entry');
  const moved = '02:00:00:00:00:02';
  server.ip(`link set br0 address ${moved}`);
  await upUntil(t, agent, 'the entries', () =>
    routerEntries(gateway).every((entry) => entry.startsWith(moved) && !entry.endsWith('PERMANENT')),
  );
  for (const family of FAMILIES) {
    t.equal(ask(client, ADDRESS.server[family], MIRROR), ADDRESS.gatewayExternal[family]);
  }
  const { uplink } = await agent.status();
  t.same(uplink!.notes, [], 'nobody else claims to be it');
  t.match(agent.daemon.log(), new RegExp(`"mac":"${moved}","before":"${ROUTER}".*answers from another`));
});

t.test('of two routers that answer both are reported, and the first is kept', async (t) => {
  const { gateway, thief, run } = link(t);
  thief.ip(`
    addr add 172.17.0.1/16 dev eth0
    addr add fd00:172:17::1/64 dev eth0 nodad`);
  const agent = run();
  await agent.statusUntil('ready', ({ ready }) => ready);
  const macs = async () => (await agent.status()).uplink!.probes.map(({ mac }) => mac!);
  const chosen = await macs();
  const other = chosen.map((mac) => (mac === ROUTER ? THIEF : ROUTER));
  // The other one is heard when all are asked: here because somebody claims to be the gateway.
  const speaker = speak(
    thief,
    [
      arp(ARP_REQUEST, ADDRESS.server[4], BROADCAST, ADDRESS.server[4]).replaceAll(
        '000000006666',
        '000000007777',
      ),
      advertisement(ADDRESS.server[6]).replaceAll('x', 'x'),
    ],
    50,
  );
  await upUntil(t, agent, 'the other is noted', () => {
    const notes = agent.cli('status').stdout;
    return new RegExp(`${other[0]}.*claimed to be the external gateway ${ADDRESS.server[4]}`).test(notes);
  });
  t.same(await macs(), chosen, 'the first is kept');
  t.match(routerEntries(gateway)[0], chosen[0]);
  await speaker.stop('SIGKILL');
});

t.test('pinned gateways answer from there or not at all', async (t) => {
  const { gateway, policy, run } = link(t);
  const gateways = ['172.17.0.1', 'fd00:172:17::1'];
  const agent = run({ external: { gateways, gatewayMACs: [THIEF.toUpperCase()] } });
  const { reasons } = await agent.statusUntil('down', ({ uplink }) =>
    ['ARP', 'Neighbor Discovery'].every((question, i) =>
      uplink?.families[i]?.reason?.includes(`${question} from`),
    ),
  );
  for (const [i, question] of ['ARP', 'Neighbor Discovery'].entries()) {
    t.ok(
      reasons.includes(
        `IPv${FAMILIES[i]} uplink: the external gateway ${gateways[i]} does not answer ${question} from ${THIEF}, but ${ROUTER} claims to be it`,
      ),
      reasons.join('\n'),
    );
  }
  t.same(routerEntries(gateway), [`${THIEF} PERMANENT`, `${THIEF} PERMANENT`]);
  policy.set({ external: { gateways, gatewayMACs: ['02:00:00:00:00:05', ROUTER] } });
  await agent.statusUntil('up with the other pin', ({ ready }) => ready);
  t.same(routerEntries(gateway), [`${ROUTER} PERMANENT`, `${ROUTER} PERMANENT`]);
  policy.set();
  await until(() => !routerEntries(gateway).join().includes('PERMANENT'), { what: 'the pins are gone' });
  policy.set({ external: { gateways, gatewayMACs: [ROUTER] }, uplink: { probe: 'none' } } as GatewaySpec);
  await until(() => routerEntries(gateway).join() === `${ROUTER} PERMANENT,${ROUTER} PERMANENT`, {
    what: 'pins that nobody asks for',
  });
  await agent.stop();
  t.match(routerEntries(gateway), [/PERMANENT/, /PERMANENT/], 'forwarding goes on as it was');
  t.match(
    agent.cli('cleanup').stdout,
    /ip neigh del 172\.17\.0\.1 dev net1\nip neigh del fd00:172:17::1 dev net1/,
  );
  t.notMatch(gateway.sh('ip neigh show dev net1'), /PERMANENT/);
});

t.test('packets that go elsewhere than answers come from make the uplink down', async (t) => {
  const { gateway, run } = link(t);
  const agent = run();
  await agent.statusUntil('ready', ({ ready }) => ready);
  const routers = FAMILIES.map((family) => ADDRESS.server[family]);
  for (const router of routers) gateway.ip(`neigh replace ${router} lladdr ${THIEF} nud permanent dev net1`);
  const { reasons } = await agent.statusUntil('down', ({ uplink }) =>
    uplink!.families.every(({ state }) => state === 'down'),
  );
  for (const router of routers) {
    t.match(
      reasons.join('\n'),
      `packets to the external gateway ${router} go to ${THIEF}, but it answers from ${ROUTER}: another program made the neighbour entry permanent`,
    );
  }
  for (const router of routers) gateway.ip(`neigh del ${router} dev net1`);
  await agent.statusUntil('up again', ({ ready }) => ready);
});

const EIP = { 4: '172.17.0.60', 6: 'fd00:172:17::60' } as const;
const EIPS = FAMILIES.map((family) => ({ externalIP: EIP[family], internalIP: ADDRESS.client[family] }));
/** What neighbours know the gateway by. */
const OWN = [...Object.values(ADDRESS.gatewayExternal), ...Object.values(EIP)];

/** The gateway with EIPs and an uplink that is not probed, so that it speaks to nobody by itself. */
async function silentGateway(t: Test) {
  const net = link(t);
  const spec = { eips: EIPS, uplink: { probe: 'none' } } as GatewaySpec;
  const holds = (target: string) => net.gateway.sh('ip -o addr show dev net1').includes(` ${target}/`);
  const start = async () => {
    const agent = net.run(spec);
    await until(() => OWN.every(holds), { what: 'the addresses' });
    return agent;
  };
  /** Makes the server believe that the addresses are somewhere, for as long as nobody says otherwise. */
  const believe = (mac: string): void => {
    for (const target of OWN) net.server.ip(`neigh replace ${target} lladdr ${mac} nud reachable dev br0`);
  };
  const believed = (mac: string): boolean =>
    OWN.every((target) => entryOf(net.server, target, 'br0').startsWith(`${mac} `));
  net.server.sysctl({
    'net.ipv4.neigh.br0.base_reachable_time_ms': 3_600_000,
    'net.ipv6.neigh.br0.base_reachable_time_ms': 3_600_000,
  });
  return { ...net, start, believe, believed };
}

t.test(
  'neighbours are told of every address at the start, of a new Ethernet address and of a new carrier',
  async (t) => {
    const { gateway, server, start, believe, believed } = await silentGateway(t);
    const old = '02:00:00:00:99:99';
    believe(old);
    const agent = await start();
    await until(() => believed(macOf(gateway, 'net1')), { what: 'the neighbour at the start' });
    const fresh = '02:00:00:00:00:0b';
    believe(macOf(gateway, 'net1'));
    gateway.ip(`link set net1 address ${fresh}`);
    await until(() => believed(fresh), { what: 'the neighbour after a change of the Ethernet address' });
    server.ip('link set eth0 down');
    await until(() => gateway.sh('ip link show net1').includes('NO-CARRIER'), { what: 'no carrier' });
    believe(old);
    server.ip('link set eth0 up');
    await until(() => believed(fresh), { what: 'the neighbour after the carrier came back' });
    // A process that takes over what is there tells it too, and nothing is taken away meanwhile.
    await agent.stop('SIGUSR2');
    believe(old);
    const removed = gateway.spawn('ip', ['monitor', 'address'], { name: 'monitor' });
    await start();
    await until(() => believed(fresh), { what: 'the neighbour after a restart' });
    t.notMatch(removed.log(), /Deleted/, 'what was held is held without a gap');
  },
);

t.test('a claim to an address of the gateway is answered at once, and reported', async (t) => {
  const { gateway, thief, start, believe, believed } = await silentGateway(t);
  const agent = await start();
  const net1 = macOf(gateway, 'net1');
  await until(() => believed(net1) || void believe(net1), { what: 'the start' });
  const claims = [
    ...[ADDRESS.gatewayExternal[4], EIP[4]].flatMap((own) => [
      arp(ARP_REQUEST, own, BROADCAST, own),
      arp(ARP_REPLY, own, BROADCAST, own),
    ]),
    ...[ADDRESS.gatewayExternal[6], EIP[6]].map((own) => advertisement(own)),
  ];
  await speak(thief, claims, 50, 3).ended();
  await until(() => agent.metric('veg_agent_link_conflicts_total{object="address"}')! >= 18, {
    what: 'the conflicts are counted',
  });
  await until(() => believed(net1), { what: 'the neighbour’s entries' });
  const { kernel, ready } = await agent.statusUntil('the notes', ({ kernel }) => kernel.notes.length >= 4);
  t.ok(ready, 'the gateway holds what it has');
  for (const own of OWN) {
    t.match(
      kernel.notes.join('\n'),
      `${THIEF} claimed ${own} within the last minute, which this gateway holds`,
    );
    t.match(agent.daemon.log(), new RegExp(`"address":"${own}".*"${THIEF}".*another host claims an address`));
  }
});

t.test('another holder of the pod’s own addresses is found at the start', async (t) => {
  const { gateway, thief, start } = await silentGateway(t);
  const own = Object.values(ADDRESS.gatewayExternal);
  thief.ip(`addr add ${own[0]}/16 dev eth0\naddr add ${own[1]}/64 dev eth0 nodad`);
  const agent = await start();
  const { kernel } = await agent.statusUntil('the notes', ({ kernel }) => kernel.notes.length >= 2);
  for (const address of own) {
    t.match(kernel.notes.join('\n'), `${THIEF} claimed ${address} within the last minute`);
  }
  t.match(gateway.sh('ip -o addr show dev net1'), own[0], 'it is kept: the CNI has given it');
});

t.test('an address of another host is not added among hundreds either', async (t) => {
  const { gateway, thief, policy, run } = link(t);
  // As little as all sockets have before Linux 6.8; there a namespace has no such setting.
  gateway.run('sysctl', ['-w', 'net.core.optmem_max=20480']);
  const spec = (hosts: number): GatewaySpec => ({
    eips: Array.from({ length: hosts }, (_, i) => ({
      externalIP: `172.17.1.${i}`,
      internalIP: `10.17.1.${i}`,
    })),
  });
  const agent = run(spec(200));
  const held = () => gateway.sh('ip -4 -o addr show dev net1').split(' 172.17.1.').length - 1;
  await until(() => held() === 200, { what: 'the addresses' });
  thief.ip('addr add 172.17.1.200/16 dev eth0');
  policy.set(spec(202));
  await until(() => held() === 201, { what: 'the one that is free' });
  const { kernel } = await agent.statusUntil('the note', ({ kernel }) => kernel.notes.length > 0);
  t.match(kernel.notes.join('\n'), `172.17.1.200 is not taken: ${THIEF} has it`);
  t.notMatch(gateway.sh('ip -4 -o addr show dev net1'), ' 172.17.1.200/');
});
