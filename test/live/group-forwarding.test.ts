/**
 * One shared address on two gateways: each allocates from its own slice, the holder answers for the address, and what comes
 * back for the other's slice goes on to it.
 */
import t, { type Test } from 'tap';
import { IPPROTO_SCTP } from '../../lib/linux.ts';
import { address, prefix } from '../../lib/prefix.ts';
import { type Namespace, NODE, ROOT, Scope, until } from '../support/netns.ts';
import { CHUNK } from '../support/raw.ts';
import { ECHO_PORT, startEchoServer, Traffic } from '../support/traffic.ts';
import type { Input, Outcome } from './group-gateway.ts';
import { FAMILIES, network, waitForSctp } from './group-lab.ts';

/** IP protocol numbers. */
const GRE = 47;
const ESP = 50;

const SLICES = [
  { slot: 11, first: 45_376, last: 49_407 },
  { slot: 12, first: 49_408, last: 53_439 },
] as const;

function inputOf(family: 4 | 6, i: 0 | 1, { holds, forwards }: { holds: boolean; forwards: boolean }): Input {
  const net = FAMILIES[family];
  const other = SLICES[1 - i]!;
  const shared = [address(net.shared)];
  const own = (text: string) => [address(text.replace(/\/.*/, ''))];
  const { slot, ...slice } = SLICES[i];
  return {
    nat: [
      {
        ...{ family, internalInterface: 'eth0', forward: [], notrackBfd: false, dropInvalid: true },
        policies: [
          {
            ...{ name: 'web', destinations: [], excluded: [], sources: [prefix(net.clientAddress)] },
            action: { snat: shared, slice },
          },
        ],
        group: {
          ...{ self: own(net.inside[i])[0]!, shared },
          ...{ externalInterface: 'net1', forward: forwards ? [other] : [] },
        },
        groupIcmp: true,
      },
    ],
    routing: [
      {
        ...{ family, internalBlocks: [], externalBlocks: [], peers: [] },
        internal: {
          interface: 'eth0',
          addresses: own(net.inside[i]),
          gateway: own(net.clientAddress)[0]!,
        },
        external: { interface: 'net1', addresses: own(net.outside[i]), gateway: address(net.server) },
        group: {
          shared,
          neighbours: [],
          forward: forwards ? [{ slot: other.slot, via: own(net.outside[1 - i]!)[0]! }] : [],
        },
      },
    ],
    proxies: holds ? [{ family, address: shared[0]!, dev: 'net1' }] : [],
  };
}

function reconcile(gateway: Namespace, input: Input): Outcome {
  const { stdout, stderr } = gateway.run(NODE, [`${ROOT}/test/live/group-gateway.ts`], {
    input: JSON.stringify(input),
  });
  if (stderr !== '') throw new Error(stderr);
  return JSON.parse(stdout) as Outcome;
}

/** Behind the server: a host on a link with a smaller MTU, and networks that it has no way to. */
const FAR = {
  4: { network: '203.0.113.0/24', link: '203.0.113.1/25', host: '203.0.113.2', nowhere: '203.0.113.129/32' },
  6: {
    network: '2001:db8::/48',
    link: '2001:db8::1/64',
    host: '2001:db8::2',
    nowhere: '2001:db8:0:1::1/128',
  },
} as const;
const FAR_MTU = 1300;

/** What a client gets for a datagram: the octets of the answer, an error's code, or nothing. */
const sendDatagram = (client: Namespace, family: 4 | 6, host: string, port: number, octets: number): string =>
  client
    .run(NODE, [
      '-e',
      `const socket = require('node:dgram').createSocket('udp${family}');
       const end = (text) => { console.log(text); process.exit(); };
       socket.on('error', ({ code }) => end(code)).on('message', ({ length }) => end(length));
       socket.connect(${port}, '${host}', () => socket.send(Buffer.alloc(${octets})));
       setTimeout(process.exit, 2000);`,
    ])
    .stdout.trim();

/** Errors about flows of the gateway that does not hold the address. None of the flows has ever had an answer. */
function errorsReach(t: Test, family: 4 | 6, { client, server, gateways }: ReturnType<typeof network>): void {
  const [net, far] = [FAMILIES[family], FAR[family]];
  server.sysctl({ [family === 4 ? 'net.ipv4.ip_forward' : 'net.ipv6.conf.all.forwarding']: 1 });
  server.ip(`
    link add far type veth peer name farther
    link set farther up
    link set far mtu ${FAR_MTU} up
    addr add ${far.link} dev far${family === 6 ? ' nodad' : ''}
    neigh add ${far.host} lladdr 02:00:00:00:00:09 dev far nud permanent
    route add unreachable ${far.nowhere}`);
  for (const gateway of gateways) gateway.ip(`route replace ${far.network} via ${net.server} dev net1`);
  const nowhere = far.nowhere.replace(/\/.*/, '');
  t.equal(sendDatagram(client, family, net.server, 9, 10), 'ECONNREFUSED', 'port unreachable');
  sendDatagram(client, family, far.host, 9, FAR_MTU + 50);
  const mtu = () => client.sh(`ip route get ${far.host}`).includes(`mtu ${FAR_MTU}`);
  t.ok(mtu(), 'what a datagram that is too large learns of the way');
  client.ip(`route flush cache`, family);
  const ping = (...args: string[]) => client.run('ping', ['-c', '1', '-W', '2', '-n', ...args]).stdout;
  t.match(ping('-t', '2', far.host), /Time (to live )?exceeded/i, 'time exceeded');
  t.match(
    ping('-M', 'do', '-s', `${FAR_MTU}`, far.host),
    /mtu ?= ?1300/,
    'an echo request that is too large',
  );
  t.match(ping(nowhere), /unreachable|No route/i, 'an echo request to nowhere');
  const connect = `require('node:net').connect(9, '${nowhere}').on('error', ({ code }) => console.log(code))`;
  t.match(client.run(NODE, ['-e', connect]).stdout, /UNREACH/, 'a connection to nowhere');
}

/** Protocols that Node has no sockets for. */
async function rawWorks(t: Test, family: 4 | 6, lab: ReturnType<typeof network>, via: 0 | 1) {
  const { client, server, gateways } = lab;
  waitForSctp(gateways);
  const [net, sctp] = [FAMILIES[family], IPPROTO_SCTP];
  const program = `${ROOT}/test/support/raw.ts`;
  const ask = (protocol: number, chunk: number = CHUNK.init): string =>
    client.run(NODE, [program, 'client', `${family}`, `${protocol}`, net.server, `${chunk}`]).stdout.trim();
  const serve = (protocol: number) =>
    server.spawn(NODE, [program, 'server', `${family}`, `${protocol}`], { name: `raw${protocol}-${via}` });
  const association = serve(sctp);
  for (const [chunk, answer] of [
    [CHUNK.init, CHUNK.initAck],
    [CHUNK.cookieEcho, CHUNK.cookieAck],
    [CHUNK.data, CHUNK.sack],
  ] as const) {
    await until(() => ask(sctp, chunk) === `${answer}`, {
      what: `chunk ${answer} as the answer to ${chunk}`,
    });
  }
  const sources = new Set(association.log().trim().split('\n'));
  const [address, port] = [...sources].at(-1)!.split(' ');
  t.same([address, sources.size], [net.shared, 1], 'all with one source');
  t.ok(Number(port) >= SLICES[via].first && Number(port) <= SLICES[via].last, `from its slice: ${port}`);
  await association.stop();
  // Without ports nobody but the holder knows the flow.
  for (const protocol of via === 0 ? [GRE, ESP] : []) {
    const echo = serve(protocol);
    await until(() => ask(protocol) === 'answered', { what: `an answer of protocol ${protocol}` });
    t.match(echo.log(), net.shared, `protocol ${protocol} has the shared address`);
    await echo.stop();
  }
}

for (const family of [4, 6] as const) {
  for (const backend of ['nft', 'legacy'] as const) {
    t.test(`IPv${family}, ${backend}: one address, two gateways, each with its own ports`, async (t) => {
      const scope = new Scope();
      t.teardown(() => scope.dispose());
      const net = FAMILIES[family];
      const lab = network(scope, family);
      const { client, server, gateways } = lab;
      for (const gateway of gateways) {
        if (backend === 'legacy') gateway.sh(`${net.iptables}-legacy -t nat -N OPERATOR`);
        gateway.sysctl({
          [`net.ipv${family}.neigh.net1.proxy_delay`]: 0,
          'net.ipv4.conf.all.send_redirects': 0,
          'net.ipv4.conf.net1.send_redirects': 0,
          'net.ipv6.conf.all.proxy_ndp': 1,
        });
      }
      server.ip(`neigh del ${net.shared} dev eth0`);
      const inputs = [
        inputOf(family, 0, { holds: true, forwards: true }),
        inputOf(family, 1, { holds: false, forwards: true }),
      ];
      for (const [i, gateway] of gateways.entries()) {
        t.same(reconcile(gateway, inputs[i]!).left, [], 'the second reconcile finds nothing to do');
      }

      await startEchoServer(server);
      const paths = [`tcp:${net.server}`, `udp:${net.server}`];
      for (const i of [0, 1] as const) {
        client.ip(`route replace ${net.any} via ${net.inside[i]} dev eth0`);
        const traffic = await Traffic.open(client, paths);
        for (const { path, seen, broken } of await traffic.close()) {
          const [from, port] = seen.split(' ');
          const { first, last } = SLICES[i];
          t.same([from, broken], [net.shared, undefined], `${path} through gateway ${i + 1}`);
          t.ok(Number(port) >= first && Number(port) <= last, `from its slice: ${port}`);
        }
      }

      const neighbour = () => server.sh(`ip neigh show ${net.shared}`);
      server.ip(`neigh change ${net.shared} dev eth0 nud probe`);
      await until(() => !neighbour().includes('PROBE'), {
        what: 'the server knows whether it is still there',
      });
      t.match(neighbour(), 'REACHABLE', 'what is sent to the address itself is answered too');

      t.ok(Number(sendDatagram(client, family, net.server, ECHO_PORT, 4000)) > 4000, 'UDP in fragments');
      errorsReach(t, family, lab);
      await rawWorks(t, family, lab, 1);
      client.ip(`route replace ${net.any} via ${net.inside[0]} dev eth0`);
      await rawWorks(t, family, lab, 0);
      client.ip(`route replace ${net.any} via ${net.inside[1]} dev eth0`);

      const ping = ['-c', '2', '-i', '0.2', '-W', '2', '-n', net.server];
      const output = client.run('ping', ping);
      t.equal(
        output.code,
        0,
        `an echo request through the one that does not hold it: ${output.stdout}${output.stderr}`,
      );
      t.equal(client.run('ping', [...ping, '-s', '4000']).code, 0, 'in fragments');

      const nobody = server.run('sh', [
        '-c',
        `timeout 2 ${NODE} -e "require('node:net').connect(${SLICES[1].first + 7}, '${net.shared}').on('error', (e) => console.log(e.code))"`,
      ]);
      t.equal(nobody.stdout, '', 'a packet that belongs to no flow is not answered with a reset');

      const alone = inputOf(family, 0, { holds: true, forwards: false });
      t.same(reconcile(gateways[0], alone).left, [], 'the other one is gone: its slice is not forwarded');
      t.notMatch(gateways[0].sh(family === 4 ? 'ip rule' : 'ip -6 rule'), /^1000:/m);

      reconcile(gateways[0], { nat: [], routing: [], proxies: [] });
      t.notMatch(gateways[0].sh(`${net.iptables}-${backend}-save`), 'VEG-', 'all of it goes again');
      await until(() => gateways[0].sh('ip neigh show proxy') === '', { what: 'no proxy is left' });
    });
  }
}
