/**
 * A drain with two gateways behind a router that spreads new connections over them and keeps open ones where they
 * are: nothing is lost, nothing breaks, and it is over when new connections have moved.
 */
import { execFile } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import t, { type Test } from 'tap';
import { AGENT, Agent, BFD, PolicyDirectory } from '../support/agent.ts';
import { type Namespace, NODE, until, veth } from '../support/netns.ts';
import { type BfdPeer, peerUp, startFrr } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { topology } from '../support/topology.ts';
import { type Report, startEchoServer, Traffic } from '../support/traffic.ts';
import { Load, loadLine } from './load.ts';

/** An address of the server that both gateways lead to. */
const SERVER = '192.0.2.1';
const FIRST = { internal: '10.16.0.12', external: '172.17.0.11' };
const SECOND = { internal: '10.26.0.12', external: '172.27.0.11' };
const BFD_PORT = '10.255.255.255';

/** The router's choice for new connections: the gateways in turn, or one of them. */
function spread(router: Namespace, marks: number[]): void {
  const rules = marks.map((mark, i) => {
    const turn = `-m statistic --mode nth --every ${marks.length - i} --packet 0`;
    return `-A NEW -m mark --mark 0 ${turn} -j MARK --set-mark ${mark}`;
  });
  const input = ['*mangle', '-F NEW', ...rules, 'COMMIT', ''].join('\n');
  const { code, stderr } = router.run('iptables-restore', ['--noflush'], { input });
  if (code !== 0) throw new Error(stderr);
}

/** How many gateways the router chooses from. */
const marks = (router: Namespace): number =>
  router.sh('iptables -t mangle -S NEW').split('--set-xmark').length - 1;

/** Acts on what BFD says, as OVN does, until the test ends. */
function follow(t: Test, router: Namespace, frr: BfdPeer): void {
  let usable = '';
  let running = true;
  const loop = (async () => {
    while (running) {
      const up = frr.sessions().filter(({ state }) => state === 'Up');
      const marks = [FIRST, SECOND].flatMap(({ internal }, i) =>
        up.some(({ remote }) => remote === internal) ? [i + 1] : [],
      );
      if (marks.join() !== usable) spread(router, marks);
      usable = marks.join();
      await sleep(30);
    }
  })();
  t.teardown(async () => {
    running = false;
    await loop;
  });
}

/** Both gateways with an agent, and a router that follows BFD. */
async function start(t: Test, args: string[] = []) {
  const scope = scopeOf(t);
  const { client, router, gateway, server } = topology(scope);
  const second = scope.namespace('gateway2');
  veth(router, 'gateway2', second, 'eth0', 1400);
  veth(server, 'eth1', second, 'net1');
  router.ip('addr add 10.26.0.1/16 dev gateway2');
  second.ip(`
    addr add ${SECOND.internal}/16 dev eth0
    addr add ${SECOND.external}/16 dev net1
    route add default via 172.27.0.1 dev net1`);
  server.ip(`
    addr add 172.27.0.1/16 dev eth1
    addr add ${SERVER}/32 dev lo
    route replace 172.17.0.0/16 dev eth0 src ${SERVER}
    route replace 172.27.0.0/16 dev eth1 src ${SERVER}`);
  router.ip(
    `
    rule add priority 150 fwmark 1 lookup 101
    rule add priority 150 fwmark 2 lookup 102
    route add default via ${FIRST.internal} table 101
    route add default via ${SECOND.internal} table 102`,
    4,
  );
  const input = `*mangle
:NEW - [0:0]
-A PREROUTING -i client -j CONNMARK --restore-mark
-A PREROUTING -i client -m mark --mark 0 -j NEW
-A PREROUTING -i client -j CONNMARK --save-mark
COMMIT
`;
  t.equal(router.run('iptables-restore', [], { input }).code, 0);
  const agentOf = (ns: Namespace, internal: string, external: string) => {
    const policy = new PolicyDirectory(scope);
    policy.set({
      bfd: { ...BFD, peers: [BFD_PORT] },
      internal: { gateways: [internal] },
      external: { gateways: [external] },
    });
    const stateDir = scope.directory('state');
    const agent = new Agent(ns, { policyDir: policy.dir, stateDir, args });
    // Not agent.cli: it would stop this process, and the router with it.
    const drain = async (timeout: string) => {
      const command = [NODE, AGENT, 'drain', '--timeout', timeout, '--state-dir', stateDir];
      return (await promisify(execFile)('ip', ['netns', 'exec', ns.name, ...command])).stdout;
    };
    return Object.assign(agent, { drain });
  };
  const agent = agentOf(gateway, '10.16.0.1', '172.17.0.1');
  const other = agentOf(second, '10.26.0.1', '172.27.0.1');
  const sessions = [FIRST, SECOND].map(({ internal }) => ({ local: BFD_PORT, remote: internal }));
  const frr = await startFrr(scope, router, { sessions });
  await peerUp(frr);
  follow(t, router, frr);
  await startEchoServer(server);
  await agent.statusUntil('ready', ({ ready }) => ready);
  return { client, gateway, router, frr, agent, other };
}

const sources = (reports: Report[]) => [...new Set(reports.flatMap((r) => r.sources))].sort();

t.test('new connections move, open ones go on, and the drain ends', async (t) => {
  const { client, agent, other } = await start(t, ['--drain-timeout', '10m']);
  const load = await Load.start(client, SERVER);
  t.teardown(() => load.stop());
  const open = await Traffic.open(client, Array<string>(20).fill(`tcp:${SERVER}`));
  const fresh = await Traffic.open(client, [`new:${SERVER}`, `new:${SERVER}`]);
  t.same(sources(await open.report()), [FIRST.external, SECOND.external], 'both gateways carry connections');
  // What was usual is known after ten seconds, and nothing outside shows that it is.
  await sleep(11_000);

  await load.report();
  t.equal(await agent.drain('10m'), 'drained: traffic has moved\n', 'open connections do not hold it up');
  t.match(agent.http('/readyz'), { status: 503, body: /draining/ });
  t.equal(agent.metric('veg_agent_draining'), 1);

  // TCP: a port that an earlier UDP flow had would still be that flow to the router.
  const moved = await Traffic.open(client, Array<string>(4).fill(`tcp:${SERVER}`));
  t.same(sources(await moved.close()), [SECOND.external], 'new connections take the other gateway');

  // The end of a pod: SIGTERM finds the drain done, and does not wait for what has moved already.
  t.equal(await agent.stop('SIGTERM'), 0);

  for (const [name, reports] of [
    ['open', await open.close()],
    ['new', await fresh.close()],
  ] as const) {
    const lost = reports.reduce((sum, { sent, received }) => sum + sent - received, 0);
    t.equal(lost, 0, `${name}: nothing lost`);
    t.same(
      reports.flatMap(({ broken }) => broken ?? []),
      [],
      `${name}: nothing broken`,
    );
    t.comment(`${name}: longest wait for an answer ${Math.max(...reports.map(({ stallMs }) => stallMs))} ms`);
  }
  const report = await load.report();
  t.comment(loadLine(report));
  t.same({ lost: report.lost, broken: report.broken }, { lost: 0, broken: 0 }, 'under load, too');
  t.ok((await other.status()).ready);
});

t.test('undrain brings the traffic back', async (t) => {
  const { client, router, frr, agent } = await start(t);
  await agent.drain('5s');
  t.equal(frr.sessions().find(({ remote }) => remote === FIRST.internal)?.drained, true);
  t.same(agent.cli('undrain'), { code: 0, stderr: '', stdout: 'no longer draining\n' });
  await peerUp(frr);
  await agent.statusUntil('ready', ({ ready }) => ready);
  await until(() => marks(router) === 2, { what: 'the router spreads over both' });
  const traffic = await Traffic.open(client, Array<string>(4).fill(`tcp:${SERVER}`));
  t.same(sources(await traffic.close()), [FIRST.external, SECOND.external]);
});

t.test('traffic that stays is waited for as long as asked, and no longer', async (t) => {
  const { client, router, agent } = await start(t);
  // A router that does not care: everything goes to the first gateway.
  router.sh('iptables -t mangle -I NEW -j MARK --set-mark 1');
  router.sh('iptables -t mangle -A PREROUTING -i client -j MARK --set-mark 1');
  const traffic = await Traffic.open(client, [`udp:${SERVER}`, `new:${SERVER}`]);
  await until(async () => (await traffic.report()).every(({ received }) => received > 50), {
    what: 'traffic',
  });
  t.match(await agent.drain('2s'), /some traffic still came/);
  for (const { sent, received } of await traffic.close())
    t.equal(received, sent, 'and it is forwarded still');
});

t.test('with --on-exit remove the session leaves Up before anything is removed', async (t) => {
  const { gateway, frr, agent } = await start(t, ['--on-exit', 'remove']);
  const ended = agent.stop('SIGTERM');
  let removedAt: number | undefined;
  let downAt: number | undefined;
  await until(
    () => {
      // In this order: a removal that comes between the two looks is seen too late, not too early.
      const removed = !gateway.sh('iptables -t nat -S').includes('VEG-');
      const down = frr.sessions().find(({ remote }) => remote === FIRST.internal)?.state !== 'Up';
      if (removed) removedAt ??= performance.now();
      if (down) downAt ??= performance.now();
      return removed;
    },
    { what: 'the rules are gone', everyMs: 1 },
  );
  t.ok(downAt !== undefined && downAt < removedAt!, 'the peer saw AdminDown first');
  t.equal(await ended, 0);
  t.notMatch(gateway.sh('ip rule'), /100[1-4]:/);
});
