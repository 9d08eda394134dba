/** What is on the wire and around it: TTL, ports, addresses and interfaces that come and go, junk. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { BfdCapture } from '../support/capture.ts';
import { type Namespace, NODE, ROOT, until, veth } from '../support/netns.ts';
import { peerUp, startFrr } from '../support/peers.ts';
import { GATEWAY, lab, PAIRS, PEER, startBird, VegBfdd } from './bfd-lab.ts';

const count = (text: string, what: RegExp): number => text.match(what)?.length ?? 0;

t.test('5881 4 5881 5 every packet: TTL 255, CS6, one source port of 49152–65535 a session', async (t) => {
  const { scope, gateway, peer } = lab(t);
  const capture = await BfdCapture.start(scope, peer, 'eth0');
  // TOS or Traffic Class 0xc0 raises a counter of its own.
  peer.sh('nft add table inet test');
  peer.sh('nft add chain inet test in { type filter hook input priority 0 ; }');
  for (const match of ['ip dscp cs6', 'ip6 dscp cs6']) {
    peer.sh(`nft add rule inet test in ${match} udp dport 3784 counter`);
  }
  await startBird(scope, peer, PAIRS);
  const veg = new VegBfdd(scope, gateway);
  await veg.up(2);
  await veg.control('session 1 state admin');
  await veg.control('session 1 state up');
  await veg.up(2);
  const counters = () =>
    [...peer.sh('nft list chain inet test in').matchAll(/packets (\d+)/g)].map(([, packets]) =>
      Number(packets),
    );
  await until(() => counters().every((packets) => packets > 15), {
    what: '15 packets of each session with CS6',
  });
  await capture.stop();
  for (const family of [4, 6] as const) {
    const ours = capture.packets().filter(({ from }) => from === GATEWAY[family]);
    t.ok(ours.length > 10);
    t.ok(ours.every(({ ttl }) => ttl === 255));
    const ports = new Set(ours.map(({ sourcePort }) => sourcePort));
    t.equal(ports.size, 1, 'one port');
    t.ok([...ports].every((port) => port >= 49152));
  }
});

t.test('5881 5 GTSM: a Hop Limit or TTL below the least is dropped, the least is not', async (t) => {
  const { scope, gateway, peer } = lab(t);
  const veg = new VegBfdd(scope, gateway, ['--min-ttl', '255']);
  peer.sh('nft add table inet test');
  peer.sh('nft add chain inet test out { type filter hook output priority 0 ; }');
  peer.sh('nft add rule inet test out udp dport 3784 ip ttl set 254 counter');
  peer.sh('nft add rule inet test out udp dport 3784 ip6 hoplimit set 254 counter');
  await startBird(scope, peer, PAIRS);
  const counters = () => [...peer.sh('nft list chain inet test out').matchAll(/packets (\d+)/g)];
  await until(() => counters().every(([, packets]) => Number(packets) >= 3), { what: 'packets of the peer' });
  t.equal(count(await veg.control('status'), /state=Down/g), 2);
  peer.sh('nft delete table inet test');
  await veg.up(2);
});

t.test('5883 multihop: port 4784, through a router, with its own least TTL', async (t) => {
  const { scope, gateway, peer } = lab(t);
  const far = scope.namespace('far');
  veth(peer, 'eth1', far, 'eth0');
  peer.sysctl({ 'net.ipv4.ip_forward': 1 });
  peer.ip('addr add 10.98.0.1/24 dev eth1');
  far.ip('addr add 10.98.0.2/24 dev eth0\nroute add default via 10.98.0.1');
  gateway.ip(`route add 10.98.0.0/24 via ${PEER[4]}`);
  const multihop = ['--multihop', '--min-ttl', '250'];
  const near = ['--local', GATEWAY[4], '--peer', '10.98.0.2', ...multihop];
  const veg = new VegBfdd(scope, gateway, near);
  const other = new VegBfdd(scope, far, [
    ...['--local', '10.98.0.2', '--peer', GATEWAY[4], '--active'],
    ...multihop,
  ]);
  await veg.up(1);
  await other.up(1);
  const listening = gateway.sh('ss -Hlun');
  t.match(listening, ':4784 ');
  t.notMatch(listening, ':3784 ');
});

t.test('what comes before there are sessions is kept for them, and taken from no other daemon', async (t) => {
  const { scope, gateway, peer } = lab(t);
  const veg = new VegBfdd(scope, gateway);
  await startBird(scope, peer, PAIRS);
  await veg.up(2);
  const script = `
    const { EarlyListener } = await import('${ROOT}/bfd/early-listener.ts');
    const listener = EarlyListener.open();
    console.log('open');
    setInterval(() => {
      for (const [local, remote] of ${JSON.stringify(PAIRS.map(({ local, remote }) => [remote, local]))})
        for (const { ttl, payload } of listener.take(local, remote)) console.log(remote, ttl, payload.length);
    }, 20);`;
  const listening = gateway.spawn(NODE, ['--input-type=module', '-e', script], { name: 'listener' });
  for (const remote of Object.values(PEER)) {
    await until(() => listening.log().includes(`${remote} 255 24\n`), { what: `a packet of ${remote}` });
  }
  await veg.up(2);
});

t.test('a local address that is added later', async (t) => {
  const { scope, gateway, peer } = lab(t);
  gateway.ip(`addr del ${GATEWAY[4]}/24 dev eth0\naddr del ${GATEWAY[6]}/64 dev eth0`);
  const frr = await startFrr(scope, peer, { sessions: PAIRS });
  const veg = new VegBfdd(scope, gateway, ['--interface', 'eth0']);
  await until(() => count(veg.daemon.log(), /cannot bind the BFD socket, retrying/g) === 2, {
    what: 'the complaint',
  });
  // It is tried again and again meanwhile, and nothing shows that.
  await sleep(1000);
  t.equal(count(veg.daemon.log(), /cannot bind the BFD socket, retrying/g), 2, 'once for each address');
  gateway.ip(`addr add ${GATEWAY[4]}/24 dev eth0\naddr add ${GATEWAY[6]}/64 dev eth0`);
  await peerUp(frr);
  await veg.up(2);
});

t.test('an address that is removed and added again', async (t) => {
  const { scope, gateway, peer } = lab(t);
  const frr = await startFrr(scope, peer, { sessions: PAIRS });
  const veg = new VegBfdd(scope, gateway, ['--interface', 'eth0']);
  await veg.up(2);
  gateway.ip(`addr del ${GATEWAY[4]}/24 dev eth0\naddr del ${GATEWAY[6]}/64 dev eth0`);
  await until(() => frr.sessions().every(({ state }) => state === 'Down'), { what: 'Down' });
  gateway.ip(`addr add ${GATEWAY[4]}/24 dev eth0\naddr add ${GATEWAY[6]}/64 dev eth0`);
  await peerUp(frr);
  await veg.up(2);
});

/** Addresses of another BFD daemon beside ours, in the same namespace. */
const BESIDE = { 4: '10.99.0.11', 6: 'fd99::11' } as const;

for (const [port, flags] of [
  [3784, []],
  [4784, ['--multihop']],
] as const) {
  for (const first of ['FRR', 'veg-bfdd'] as const) {
    t.test(
      `FRR’s bfdd and veg-bfdd share port ${port} in one namespace, ${first} started first`,
      async (t) => {
        const { scope, gateway, peer } = lab(t);
        gateway.ip(`addr add ${BESIDE[4]}/24 dev eth0\naddr add ${BESIDE[6]}/64 dev eth0 nodad`);
        const router = new VegBfdd(scope, peer, [
          ...['--local', PEER[4], '--local', PEER[6], '--active', ...flags],
          ...[GATEWAY[4], GATEWAY[6], BESIDE[4], BESIDE[6]].flatMap((address) => ['--peer', address]),
        ]);
        const sessions = ([4, 6] as const).map((family) => ({ local: BESIDE[family], remote: PEER[family] }));
        const startBeside = () => startFrr(scope, gateway, { sessions, multihop: port === 4784 });
        let veg = first === 'FRR' ? undefined : new VegBfdd(scope, gateway, [...flags]);
        await veg?.up(2);
        const frr = await startBeside();
        await peerUp(frr);
        veg ??= new VegBfdd(scope, gateway, [...flags]);
        await veg.up(2);
        await peerUp(frr);
        await router.up(4);
        // A restart in place, with the port of the other one still taken.
        await veg.restart('SIGUSR2', 2);
        await veg.up(2);
        await router.up(4);
        await frr.daemon.stop();
        await peerUp(await startBeside());
        await router.up(4);
        t.notMatch(veg.daemon.log(), 'cannot bind');
        t.notMatch(veg.daemon.log(), '"from":"Up"', 'the restarts of FRR cost it no session');
      },
    );
  }
}

for (const beside of ['alone', 'with FRR on the wildcard address'] as const) {
  t.test(`a second veg-bfdd neither binds nor uses the addresses of the first, ${beside}`, async (t) => {
    const { scope, gateway, peer } = lab(t);
    if (beside !== 'alone') await startFrr(scope, gateway, { sessions: [] });
    const addresses = ['--local', PEER[4], '--local', PEER[6], '--peer', GATEWAY[4], '--peer', GATEWAY[6]];
    const router = new VegBfdd(scope, peer, addresses);
    const veg = new VegBfdd(scope, gateway, ['--active']);
    await veg.up(2);
    const second = new VegBfdd(scope, gateway, ['--active']);
    const refused = (address: string) =>
      `another process is bound to UDP port 3784 of ${address}; stop that BFD daemon, or give it another address`;
    for (const address of [GATEWAY[4], GATEWAY[6]]) {
      await until(() => second.daemon.log().includes(refused(address)), { what: 'the reason' });
    }
    t.equal(count(second.daemon.log(), /cannot bind the BFD socket, retrying/g), 2, 'once for each address');
    t.notMatch(second.daemon.log(), 'listening for BFD');
    await until(() => count(second.daemon.log(), /cannot send to the BFD peer, retrying/g) === 2, {
      what: 'it tries to send',
    });
    await router.up(2);
    for (const { daemon } of [veg, router]) t.notMatch(daemon.log(), '"from":"Up"', 'no session was lost');
    await veg.daemon.stop('SIGKILL');
    await second.up(2);
  });
}

/** Creates the veth between the two again, with the addresses. */
function newLink(gateway: Namespace, peer: Namespace): void {
  gateway.ip('link del eth0');
  veth(gateway, 'eth0', peer, 'eth0');
  gateway.ip(`addr add ${GATEWAY[4]}/24 dev eth0\naddr add ${GATEWAY[6]}/64 dev eth0`);
  peer.ip(`addr add ${PEER[4]}/24 dev eth0\naddr add ${PEER[6]}/64 dev eth0`);
}

t.test('an interface that is removed and created again', async (t) => {
  const { scope, gateway, peer } = lab(t);
  const flags = ['--interface', 'eth0'];
  const veg = new VegBfdd(scope, gateway, flags);
  const addresses = ['--local', PEER[4], '--local', PEER[6], '--peer', GATEWAY[4], '--peer', GATEWAY[6]];
  const other = new VegBfdd(scope, peer, [...addresses, '--active', ...flags]);
  await veg.up(2);
  newLink(gateway, peer);
  await veg.exchange(10);
  await veg.up(2);
  await other.up(2);
});

t.test('5881 3 a packet from another interface is not accepted', async (t) => {
  const { scope, gateway, peer } = lab(t);
  const outside = scope.namespace('outside');
  veth(gateway, 'net1', outside, 'eth0');
  gateway.ip('addr add 10.97.0.1/24 dev net1');
  outside.ip(
    `addr add 10.97.0.2/24 dev eth0\naddr add ${PEER[4]}/32 dev lo\nroute add default via 10.97.0.1`,
  );
  const flags = ['--interface', 'eth0', '--min-ttl', '250'];
  const veg = new VegBfdd(scope, gateway, flags);
  await until(() => veg.control('status'), { what: 'veg-bfdd listens' });
  // Somebody outside who says that he is the peer.
  const args = [join(ROOT, 'test/live/bfd-junk.ts'), GATEWAY[4], '1000', '1', PEER[4]];
  const spoofer = outside.spawn(NODE, args, { name: 'spoofer' });
  t.equal(await spoofer.ended(), 0);
  t.notMatch(veg.daemon.log(), 'discarded', 'nothing of it arrived');
  await startBird(scope, peer, PAIRS);
  await veg.up(2);
});

/** Anonymous memory, KiB. */
const memory = (pid: number): number =>
  Number(/^RssAnon:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]);

t.test('50 000 junk packets a second: sessions stay Up, memory flat, log quiet, all counted', async (t) => {
  const { scope, gateway, peer } = lab(t);
  peer.ip('addr add 10.99.0.66/24 dev eth0');
  const bird = await startBird(scope, peer, PAIRS);
  const veg = new VegBfdd(scope, gateway, ['--interface', 'eth0']);
  await veg.up(2);
  const flood = async (seconds: number) => {
    const args = [
      join(ROOT, 'test/live/bfd-junk.ts'),
      GATEWAY[4],
      '50000',
      `${seconds}`,
      PEER[4],
      '10.99.0.66',
    ];
    const junk = peer.spawn(NODE, args, { name: 'junk' });
    t.equal(await junk.ended(), 0);
    t.equal(Number(junk.log()), 50_000 * seconds);
  };
  await flood(3);
  const before = memory(veg.daemon.pid);
  await flood(8);
  t.ok(memory(veg.daemon.pid) - before < 8192, 'grown by less than 8 MiB');
  t.strictSame(bird.sessions(), ['10.99.0.1 Up', 'fd99::1 Up']);
  const log = veg.daemon.log();
  t.equal(count(log, /"from":"Up"/g), 0, 'no session was lost');
  t.ok(count(log, /discarded BFD packets/g) <= 40, 'some lines a reason');
  veg.daemon.signal('SIGUSR1');
  await until(() => /"msg":"state"/.test(veg.daemon.log()), { what: 'the report' });
  const report = veg.daemon
    .log()
    .split('\n')
    .find((line) => line.includes('"msg":"state"'))!;
  const { discards } = (JSON.parse(report) as { report: { discards: Record<string, number> } }).report;
  const total = Object.values(discards).reduce((sum, n) => sum + n, 0);
  t.ok(total >= 11 * 50_000, `${total} discards counted`);
  t.ok(Object.keys(discards).length >= 8);
});
