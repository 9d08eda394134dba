/** What happens to packets: which source the server outside sees, and what policy edits do to connections. */
import t from 'tap';
import { Agent, BFD, DIRECT, type GatewaySpec, PolicyDirectory, WEB } from '../support/agent.ts';
import { forwardedBlocks } from '../support/kernel.ts';
import { NODE, until } from '../support/netns.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { type Report, sourceSeen, startEchoServer, Traffic } from '../support/traffic.ts';

const scope = scopeOf(t);
const { client, client2, gateway, server } = topology(scope);
const policy = new PolicyDirectory(scope);
policy.set();
const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
await agent.synced();
await startEchoServer(server);

const [v4, v6] = [ADDRESS.server[4], ADDRESS.server[6]];
const address = (source: string) => source.split(' ')[0];

t.test('a translated client leaves with the gateway’s address, a forwarded one with its own', async (t) => {
  t.equal(address(await sourceSeen(client, v4)), ADDRESS.gatewayExternal[4]);
  t.equal(address(await sourceSeen(client, v6)), ADDRESS.gatewayExternal[6]);
  t.equal(address(await sourceSeen(client2, v4)), ADDRESS.client2[4]);
  t.equal(address(await sourceSeen(client2, v6)), ADDRESS.client2[6]);
});

t.test('a forwarded client can be reached from outside at its own address', async (t) => {
  await startEchoServer(client2);
  t.equal(address(await sourceSeen(server, ADDRESS.client2[4])), v4);
  t.equal(address(await sourceSeen(server, ADDRESS.client2[6])), v6);
});

const block = (n: number) => `10.${n}.0.0/16`;
const many = (count: number) => Array.from({ length: count }, (_, i) => `10.200.${i}.0/24`);
const forward = (...ipBlocks: string[]) => ({ name: 'more', snat: false, ipBlocks });

/** Thirty policies, each unlike the one before it; 10.17.0.0/16 is always translated, 10.18.0.0/16 forwarded. */
const EDITS: GatewaySpec[] = [
  // blocks come and go, one and several at a time
  ...[20, 21, 22, 23].map((n) => ({ policies: [DIRECT, forward(block(n)), WEB] })),
  { policies: [DIRECT, forward(block(20), block(21), block(22)), WEB] },
  { policies: [DIRECT, WEB] },
  // a block changes sides
  { policies: [DIRECT, forward(block(24)), WEB] },
  { policies: [DIRECT, WEB, { name: 'more', snat: true, ipBlocks: [block(24)] }] },
  { policies: [DIRECT, forward(block(24)), WEB] },
  // the order changes
  { policies: [forward(block(24), block(25)), DIRECT, WEB] },
  { policies: [DIRECT, WEB, forward(block(25), block(24))] },
  // rules become a set, which changes, and rules again
  { policies: [DIRECT, forward(...many(30)), WEB] },
  { policies: [DIRECT, forward(...many(33)), WEB] },
  { policies: [DIRECT, forward(...many(200)), WEB] },
  { policies: [DIRECT, forward(...many(199)), WEB] },
  { policies: [DIRECT, forward(...many(100)), WEB] },
  { policies: [DIRECT, forward(block(26), ...many(40)), WEB] },
  { policies: [DIRECT, forward(...many(5)), WEB] },
  { policies: [DIRECT, WEB] },
  // BFD comes, changes and goes
  { bfd: BFD },
  { bfd: { ...BFD, minTX: 200 } },
  { bfd: { ...BFD, multiplier: 3 }, policies: [DIRECT, forward(block(27)), WEB] },
  { bfd: { ...BFD, peers: ['10.255.255.255'] } },
  { bfd: { enabled: false }, policies: [DIRECT, forward(block(28)), WEB] },
  // overlapping and nested blocks
  { policies: [{ name: 'part', snat: false, ipBlocks: ['10.17.128.0/24'] }, DIRECT, WEB] },
  { policies: [DIRECT, forward('10.18.0.0/24', '10.18.0.9/32'), WEB] },
  { policies: [forward('10.18.0.0/15', 'fd00:10:18::/64'), { ...WEB, ipBlocks: [block(29)] }] },
  { policies: [DIRECT, WEB] },
  { policies: [DIRECT, forward(block(30), 'fd00:10:30::/64'), WEB] },
  { policies: [DIRECT, WEB] },
];

const blocksOf = (spec: GatewaySpec, snat?: boolean) =>
  (spec.policies ?? [DIRECT, WEB])
    .filter((rule) => snat === undefined || rule.snat === snat)
    .flatMap((rule) => rule.ipBlocks ?? []);
const ofFamily = (blocks: string[], family: 4 | 6) =>
  [...new Set(blocks.filter((block) => block.includes(':') === (family === 6)))].sort();

/** True when rules, sets and routes of the kernel are those of the policy. */
function inKernel(spec: GatewaySpec): boolean {
  const routes = gateway.run('sh', ['-c', 'ip -4 route show dev eth0; ip -6 route show dev eth0']).stdout;
  const viaRouter = [...routes.matchAll(/^(\S+) via (?:10\.16\.0\.1|fd00:10:16::1) /gm)]
    .map(([, to]) => to!)
    .filter((to) => to.includes('/') && to !== 'default');
  return ([4, 6] as const).every(
    (family) =>
      forwardedBlocks(gateway, family).join() === ofFamily(blocksOf(spec, false), family).join() &&
      ofFamily(viaRouter, family).join() ===
        ofFamily(
          blocksOf(spec).map((block) => block.replace(/\/32$/, '')),
          family,
        )
          .filter((block) => block.includes('/'))
          .join(),
  );
}

t.test('thirty edits under open connections: none breaks, none loses a packet, none leaks', async (t) => {
  t.equal(EDITS.length, 30);
  const kinds = ['tcp', 'udp', 'new'].flatMap((kind) => [`${kind}:${v4}`, `${kind}:${v6}`]);
  const translated = await Traffic.open(client, kinds);
  const forwarded = await Traffic.open(client2, kinds);
  const { generation } = (await agent.status()).policy;
  for (const [i, spec] of EDITS.entries()) {
    policy.set(spec);
    await until(
      async () => inKernel(spec) && (await agent.status()).policy.generation === generation + i + 1,
      {
        what: `edit ${i + 1} in the kernel: ${JSON.stringify(spec)}`,
      },
    );
  }

  const check = (reports: Report[], sources: Record<'4' | '6', string>, who: string) => {
    for (const { path, sources: seen, sent, received, broken } of reports) {
      const expected = path.includes('fd00') ? sources[6] : sources[4];
      t.equal(broken, undefined, `${who} ${path} goes on`);
      t.same(seen, [expected], `${who} ${path} is never seen with another source`);
      t.equal(received, sent, `${who} ${path} loses nothing`);
    }
  };
  check(await translated.close(), ADDRESS.gatewayExternal, 'translated');
  check(await forwarded.close(), ADDRESS.client2, 'forwarded');
});

t.test('an open connection keeps its source when its block changes sides', async (t) => {
  policy.set();
  await until(() => inKernel({}), { what: 'the first policy again' });
  const open = await Traffic.open(client, [`tcp:${v4}`, `tcp:${v6}`]);
  const flipped = { policies: [{ ...WEB, snat: false }, DIRECT] };
  // The server needs a way back for new connections of the block that is forwarded now.
  server.ip(`
    route add 10.17.0.0/16 via 172.17.0.11
    route add fd00:10:17::/64 via fd00:172:17::11`);
  // What goes out with an inside destination must not come back.
  t.teardown(() => server.ip('route del 10.17.0.0/16\nroute del fd00:10:17::/64'));
  policy.set(flipped);
  await until(() => inKernel(flipped), { what: '10.17.0.0/16 forwarded' });
  t.equal(address(await sourceSeen(client, v4)), ADDRESS.client[4], 'a new one has the new source');
  t.equal(address(await sourceSeen(client, v6)), ADDRESS.client[6]);
  for (const report of await open.close()) {
    t.equal(report.broken, undefined);
    t.equal(report.received, report.sent, report.path);
  }
});

t.test('counters of rules that stay are kept over an edit', async (t) => {
  policy.set();
  await until(() => inKernel({}), { what: 'the first policy again' });
  await sourceSeen(client, v4);
  const counted = () =>
    Number(
      /^\[(\d+):\d+\] -A POSTROUTING -j VEG-MASQUERADE$/m.exec(gateway.sh('iptables-save -c -t nat'))?.[1],
    );
  const before = counted();
  t.ok(before > 0);
  const spec = { policies: [DIRECT, forward(block(31)), WEB] };
  policy.set(spec);
  await until(() => inKernel(spec), { what: 'the edit' });
  t.ok(counted() >= before, `${before} packets before, ${counted()} after`);
});

/** Sends a datagram of a size that may go over so many hops. */
const SEND = (host: string, octets: number, hops: number): string => `
  const socket = require('node:dgram').createSocket('${host.includes(':') ? 'udp6' : 'udp4'}');
  socket.bind(0, () => {
    socket.setTTL(${hops});
    socket.send(Buffer.alloc(${octets}), 9, '${host}', () => socket.close());
  });`;

t.test('a source that no policy names hears the gateway’s own ICMP errors', async (t) => {
  const spec = { policies: [DIRECT] };
  policy.set(spec);
  await until(() => inKernel(spec), { what: 'a policy without the client' });
  gateway.ip('link set net1 mtu 1300');
  t.teardown(() => gateway.ip('link set net1 mtu 1500'));
  const exceeded = (family: 4 | 6): number => {
    const name = `Icmp${family === 4 ? '' : '6'}InTimeExcds`;
    const { stdout } = client.run('nstat', ['-asz', name]);
    return Number(new RegExp(`${name}\\s+(\\d+)`).exec(stdout)?.[1]);
  };
  for (const [family, host] of [
    [4, v4],
    [6, v6],
  ] as const) {
    client.run(NODE, ['-e', SEND(host, 1340, 64)]);
    await until(() => /mtu 1300/.test(client.sh(`ip route get ${host}`)), {
      what: `IPv${family}: fragmentation is needed`,
    });
    const before = exceeded(family);
    // The router is the first hop.
    client.run(NODE, ['-e', SEND(host, 10, 2)]);
    await until(() => exceeded(family) === before + 1, { what: `IPv${family}: the time is exceeded` });
    t.pass(`IPv${family}`);
  }
});
