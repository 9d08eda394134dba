/**
 * One shared address on two gateways: each allocates from its own slice, the holder answers for the address, and what comes
 * back for the other's slice goes on to it.
 */
import t from 'tap';
import { address, prefix } from '../../lib/prefix.ts';
import { type Namespace, NODE, ROOT, Scope, until } from '../support/netns.ts';
import { startEchoServer, Traffic } from '../support/traffic.ts';
import type { Input, Outcome } from './group-gateway.ts';
import { FAMILIES, network } from './group-lab.ts';

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
        group: { shared, externalInterface: 'net1', forward: forwards ? [other] : [] },
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

for (const family of [4, 6] as const) {
  for (const backend of ['nft', 'legacy'] as const) {
    t.test(`IPv${family}, ${backend}: one address, two gateways, each with its own ports`, async (t) => {
      const scope = new Scope();
      t.teardown(() => scope.dispose());
      const net = FAMILIES[family];
      const { client, server, gateways } = network(scope, family);
      for (const gateway of gateways) {
        if (backend === 'legacy') gateway.sh(`${net.iptables}-legacy -t nat -N OPERATOR`);
        gateway.sysctl({
          [`net.ipv${family}.neigh.net1.proxy_delay`]: 0,
          'net.ipv4.conf.all.send_redirects': 0,
          'net.ipv4.conf.net1.send_redirects': 0,
          'net.ipv6.conf.net1.proxy_ndp': 1,
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
