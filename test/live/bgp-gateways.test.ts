/**
 * Two gateways announce the same to one router, which spreads connections over both: one is drained, then its FRR dies; with
 * VEG_BGP_ENDS=all its node dies, then its uplink is lost. Each time the router's route is gone; a drain loses no packet.
 */
import t, { type Test } from 'tap';
import { Agent, BFD, cli, DIRECT, PolicyDirectory } from '../support/agent.ts';
import { Frr } from '../support/bgp.ts';
import { type Namespace, type Scope, until, veth } from '../support/netns.ts';
import { peerUp, startFrr } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { topology } from '../support/topology.ts';
import { startEchoServer, Traffic } from '../support/traffic.ts';

const BLOCK = '10.18.0.0/16';
const SECOND = { internal: '10.26.0.12', external: '172.27.0.11', router: '172.27.0.1' };
const FIRST = { internal: '10.16.0.12', external: '172.17.0.11', router: '172.17.0.1' };
const ASN = { router: 65000, gateway: 65001 };
const HOST = '203.0.113.2';

interface Gateway {
  ns: Namespace;
  agent: Agent;
  frr: Frr;
}

async function startGateway(
  scope: Scope,
  ns: Namespace,
  { internal, external, router }: typeof FIRST,
): Promise<Gateway> {
  const policies = new PolicyDirectory(scope);
  const side = (address: string) => ({ gateways: [address.replace(/\d+$/, '1')] });
  policies.set({
    internal: side(internal),
    external: side(external),
    bfd: { ...BFD, peers: ['10.255.255.255'] },
    policies: [DIRECT],
    bgp: {
      localASN: ASN.gateway,
      neighbours: [{ address: router, asn: ASN.router, bfd: true }],
      announce: ['forwarded'],
    },
  });
  const options = { policyDir: policies.dir, stateDir: scope.directory('state') };
  const frr = await Frr.start(scope, ns, `frr-${external}`);
  frr.load(cli(ns, options, 'render', 'frr', '-f', policies.dir).stdout);
  return { ns, frr, agent: new Agent(ns, options) };
}

async function start(t: Test) {
  const scope = scopeOf(t);
  const { client2, router: vpc, gateway, server } = topology(scope);
  const second = scope.namespace('gateway2');
  const far = scope.namespace('far');
  veth(vpc, 'gateway2', second, 'eth0', 1400);
  veth(server, 'eth1', second, 'net1');
  veth(server, 'far', far, 'eth0');
  // What comes back takes the second gateway, whatever becomes of the first.
  vpc.ip('addr add 10.26.0.1/16 dev gateway2');
  vpc.ip('route replace default via 10.26.0.12 table 100', 4);
  second.ip(`
    addr add ${SECOND.internal}/16 dev eth0
    addr add ${SECOND.external}/16 dev net1
    route add default via ${SECOND.router} dev net1`);
  server.sysctl({ 'net.ipv4.ip_forward': 1, 'net.ipv4.fib_multipath_hash_policy': 1 });
  server.ip(`
    route del ${BLOCK}
    addr add ${SECOND.router}/16 dev eth1
    addr add 203.0.113.1/24 dev far`);
  far.ip(`
    addr add ${HOST}/24 dev eth0
    route add default via 203.0.113.1`);
  const router = await Frr.start(scope, server, 'router');
  router.load(`frr defaults traditional
router bgp ${ASN.router}
 no bgp default ipv4-unicast
 no bgp ebgp-requires-policy
${[FIRST, SECOND].map(({ external }) => ` neighbor ${external} remote-as ${ASN.gateway}\n neighbor ${external} bfd\n neighbor ${external} timers connect 1\n`).join('')} address-family ipv4 unicast
${[FIRST, SECOND].map(({ external }) => `  neighbor ${external} activate\n`).join('')} exit-address-family
exit
`);
  const gateways = [
    await startGateway(scope, gateway, FIRST),
    await startGateway(scope, second, SECOND),
  ] as const;
  const sessions = [FIRST, SECOND].map(({ internal }) => ({ local: '10.255.255.255', remote: internal }));
  await peerUp(await startFrr(scope, vpc, { sessions }));
  await startEchoServer(client2);
  return { far, server, first: gateways[0] };
}

t.test('connections are spread over two gateways, and survive each end of one', async (t) => {
  const { far, server, first } = await start(t);
  /** The next hops of the block in the router's kernel. */
  const hops = (): string =>
    (server.sh(`ip route show ${BLOCK}`).match(/via \S+/g) ?? [])
      .map((hop) => hop.slice(4))
      .sort()
      .join(' ');
  const both = `${FIRST.external} ${SECOND.external}`;
  const spread = () => until(() => hops() === both, { what: 'both are next hops' });
  /** Runs traffic while one gateway ends; returns how much was lost. */
  async function meanwhile(what: string, end: () => unknown, check = () => hops() === SECOND.external) {
    await spread();
    const traffic = await Traffic.open(
      far,
      Array.from({ length: 16 }, () => 'udp:10.18.0.9'),
    );
    const began = performance.now();
    const ended = Promise.resolve(end());
    await until(check, { what: `the route is gone: ${what}`, everyMs: 1 });
    const gone = performance.now() - began;
    await ended;
    const reports = await traffic.close();
    const lost = reports.reduce((sum, { sent, received }) => sum + sent - received, 0);
    const sent = reports.reduce((sum, one) => sum + one.sent, 0);
    t.comment(
      `${what}: the router's route is gone after ${Math.round(gone)} ms, ${lost} of ${sent} packets lost`,
    );
    return lost;
  }

  t.equal(await meanwhile('drain', () => first.agent.ask('POST', '/v1/drain?timeout=3')), 0);
  await first.agent.ask('POST', '/v1/undrain');
  if (process.env.VEG_BGP_ENDS === 'all') {
    const dead = ['raw -I PREROUTING -i net1 -j DROP', 'mangle -I POSTROUTING -o net1 -j DROP'];
    const iptables = (rule: string) => first.ns.sh(`iptables -w -t ${rule}`);
    await meanwhile('node dead', () => dead.map(iptables));
    for (const rule of dead) iptables(rule.replace('-I', '-D'));
    await meanwhile('uplink lost', () => first.ns.ip('link set net1 down'));
    return;
  }
  t.equal(await meanwhile('SIGKILL of FRR', () => first.frr.daemons.map((one) => one.stop('SIGKILL'))), 0);
  t.match(first.ns.sh('ip route show metric 178'), BLOCK, 'and the agent does not notice');
});
