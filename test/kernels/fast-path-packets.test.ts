/**
 * What a packet of an established UDP connection costs through gateways with plain rules, with the agent's, and with its
 * fast path, side by side: one core sends packets, and carries them through client, gateway and server. The figures are
 * printed.
 */
import t from 'tap';
import { GREETING, Packets } from '../bench/packets.ts';
import { programLinear, wire } from '../bench/parts/connections.ts';
import { median, quantile } from '../bench/stats.ts';
import { cli, PolicyDirectory } from '../support/agent.ts';
import { type Namespace, NODE, type Scope, until } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';

const SOURCE = '10.17.0.9';
const PORT = 9000;
const ROUNDS = 21;
const ROUND_MS = 400;

const KINDS = ['plain rules', 'veg-agent', 'veg-agent, fastPath'] as const;
interface Gateway {
  kind: (typeof KINDS)[number];
  i: number;
  ns: Namespace;
  /** Packets sent, and packets a second in each round. */
  sent: number;
  rates: number[];
}

/** Answers greetings. What else comes is dropped when its queue is full: a stopped process costs nothing. */
const SERVER = `
  const socket = require('node:dgram').createSocket('udp4');
  socket.on('message', (text, from) => {
    if (text.toString() === '${GREETING}') socket.send('.', from.port, from.address);
  });
  socket.bind(${PORT}, '0.0.0.0', () => console.log('ready'));`;

function program(scope: Scope, { kind, i, ns }: Gateway): void {
  if (kind === 'plain rules') {
    programLinear({ size: 0, ns, i });
    return;
  }
  const policy = new PolicyDirectory(scope);
  const fast = { fastPath: true, translationLog: { enabled: true } };
  policy.write({
    'gateway.json': JSON.stringify({
      ...{ apiVersion: 'veg-agent.io/v1alpha1', kind: 'GatewayPolicy', metadata: { name: 'gateway1' } },
      spec: {
        internal: { gateways: [`10.100.${i}.1`] },
        external: { gateways: [`172.20.${i}.1`] },
        ...(kind === 'veg-agent, fastPath' && fast),
      },
    }),
  });
  const applied = cli(ns, { policyDir: policy.dir, stateDir: scope.directory('state') }, 'apply');
  if (applied.code !== 0) throw new Error(applied.stderr);
}

/** The entry of the connection in a gateway. */
const entry = ({ ns, i }: Gateway): string =>
  ns.run('conntrack', ['-L', '-p', 'udp', '--dst', `172.20.${i}.1`]).stdout;

t.test('every packet passes, by the way that was asked for; what it costs is printed', async (t) => {
  const scope = scopeOf(t);
  const [client, server] = [scope.namespace('client'), scope.namespace('server')];
  client.ip(`addr add ${SOURCE}/32 dev lo`);
  const gateways = KINDS.map((kind, i): Gateway => {
    const gateway = { kind, i, ns: wire(scope, client, server, i), sent: 0, rates: [] };
    program(scope, gateway);
    // There once connection tracking is.
    gateway.ns.sysctl({ 'net.netfilter.nf_conntrack_acct': 1 });
    return gateway;
  });
  const echo = server.spawn(NODE, ['-e', SERVER], { name: 'server' });
  await until(() => echo.log().includes('ready'), { what: 'the server listens' });
  const packets = new Packets(client, SOURCE);
  for (const gateway of gateways) {
    const host = `172.20.${gateway.i}.1`;
    const ready = () => entry(gateway).includes(gateway.kind === 'veg-agent, fastPath' ? '[OFFLOAD]' : 'udp');
    await until(
      async () => {
        gateway.sent += (await packets.send({ kind: 'greeting', host, port: PORT })).packets;
        return ready();
      },
      { what: `${gateway.kind}: the connection is established` },
    );
  }
  echo.signal('SIGSTOP');
  for (let round = 0; round < ROUNDS; round++) {
    for (let n = 0; n < gateways.length; n++) {
      const gateway = gateways[(n + round) % gateways.length]!;
      const job = { kind: 'udp', host: `172.20.${gateway.i}.1`, port: PORT, ms: ROUND_MS } as const;
      const { packets: sent, seconds } = await packets.send(job);
      gateway.sent += sent;
      gateway.rates.push(sent / seconds);
    }
  }
  for (const gateway of gateways) {
    const [, counted] = /packets=(\d+)/.exec(entry(gateway))!;
    t.equal(Number(counted), gateway.sent, `${gateway.kind}: each packet was counted on its connection`);
    t.equal(entry(gateway).includes('[OFFLOAD]'), gateway.kind === 'veg-agent, fastPath', gateway.kind);
  }
  packets.end();
  echo.signal('SIGCONT');
  const [plain] = gateways;
  for (const { kind, rates } of gateways) {
    const ratios = rates.map((rate, i) => rate / plain!.rates[i]!);
    const [low, middle, high] = [0.25, 0.5, 0.75].map((share) => quantile(ratios, share).toFixed(2));
    t.comment(
      `measured: ${kind}: ${Math.round(median(rates))} packets/s, ${middle} of plain rules in the same round (middle half ${low} to ${high}; ${ROUNDS} rounds)`,
    );
  }
});
