/**
 * `mssClamp`: TCP does not stall where the two networks take packets of different sizes and nobody hears of it.
 * A pod and the server outside take 1500 octets, what lies between them 1400, and ICMP is filtered at both ends.
 */
import t from 'tap';
import { Agent, DIRECT, type GatewaySpec, PolicyDirectory, WEB } from '../support/agent.ts';
import { PATIENCE } from '../support/machine.ts';
import { type Namespace, NODE, until } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';

const SIZE = 1 << 20;
/** A connection that has not come to an end by then stalls: those that do not take some milliseconds, ms. */

/** Sends a lot to whom says `down`, and counts what comes from others. */
const SERVE = `
  require('node:net').createServer((socket) => {
    let got = -2;
    socket.on('error', () => {});
    socket.on('data', (data) => {
      if (got === -2 && data.toString('latin1', 0, 2) === 'dn') return socket.end(Buffer.alloc(${SIZE}));
      got += data.length;
      if (got === ${SIZE}) socket.end('all');
    });
  }).listen(80, '::', () => console.log('ready'));`;

/** Fetches a lot, sends a lot, and tells for each whether it came through. */
const BULK = `
  const { connect } = require('node:net');
  const [host, port] = process.argv.slice(1);
  const result = { down: 'stalls', up: 'stalls' };
  const end = () => (console.log(JSON.stringify(result)), process.exit());
  const done = (what) => {
    result[what] = 'flows';
    if (result.down === 'flows' && result.up === 'flows') end();
  };
  let got = 0;
  const down = connect(port, host, () => down.write('dn'));
  down.on('data', (data) => (got += data.length) === ${SIZE} && done('down'));
  const up = connect(port, host, () => up.write(Buffer.alloc(${SIZE} + 2, 'up')));
  up.on('data', () => done('up'));
  const connected = (socket) => new Promise((resolve) => socket.once('connect', resolve));
  Promise.all([down, up].map(connected)).then(() => setTimeout(end, Number(process.argv[3])));`;

t.test('TCP from pods and through DNAT stalls without the clamp, and flows with it', async (t) => {
  const scope = scopeOf(t);
  const { client, gateway, router, server } = topology(scope);
  client.ip('link set eth0 mtu 1500');
  router.ip('link set client mtu 1500');
  for (const end of [client, server]) {
    end.sysctl({ 'net.ipv4.tcp_mtu_probing': 0 });
    end.sh('iptables -A INPUT -p icmp -j DROP');
    end.sh('ip6tables -A INPUT -p icmpv6 --icmpv6-type packet-too-big -j DROP');
    const daemon = end.spawn(NODE, ['-e', SERVE], { name: 'serve' });
    await until(() => daemon.log().includes('ready'), { what: 'it listens' });
  }
  const policy = new PolicyDirectory(scope);
  const set = (mssClamp: boolean) =>
    policy.set({
      policies: [DIRECT, WEB],
      mssClamp,
      dnats: ([4, 6] as const).map((family) => ({
        ...{ externalIP: ADDRESS.gatewayExternal[family], protocol: 'tcp', externalPort: 8080 },
        ...{ internalIP: ADDRESS.client[family], internalPort: 80 },
      })),
    } as GatewaySpec);
  set(false);
  const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
  await agent.synced();

  const paths: [name: string, from: Namespace, host: string, port: number][] = ([4, 6] as const).flatMap(
    (family) => [
      [`IPv${family} from a pod`, client, ADDRESS.server[family], 80],
      [`IPv${family} through DNAT`, server, ADDRESS.gatewayExternal[family], 8080],
    ],
  );
  for (const [clamp, expected, patience] of [
    [false, 'stalls', 1500],
    [true, 'flows', PATIENCE],
  ] as const) {
    set(clamp);
    await agent.statusUntil('the policy', (s) => s.policy.generation === (clamp ? 2 : 1) && s.kernel.inSync);
    const runs = paths.map(([name, from, host, port]) => {
      const args = ['-e', BULK, host, `${port}`, `${patience}`];
      return { name, daemon: from.spawn(NODE, args, { name: 'bulk' }) };
    });
    for (const { name, daemon } of runs) {
      await daemon.ended();
      t.same(
        JSON.parse(daemon.log()),
        { down: expected, up: expected },
        `${name}, clamp ${clamp ? 'on' : 'off'}`,
      );
    }
  }
});
