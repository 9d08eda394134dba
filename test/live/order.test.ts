/**
 * While policies change, nothing that must be translated leaves untranslated, and a session is Up only while
 * everything behind it is in place. VEG_CHANGES=1000 makes more changes than the usual run.
 */
import { chmodSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Agent, BFD, DIRECT, type GatewaySpec, PolicyDirectory, WEB } from '../support/agent.ts';
import { BfdCapture } from '../support/capture.ts';
import { NODE, until } from '../support/netns.ts';
import { peerUp, startFrr } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { ECHO_PORT, sourceSeen, startEchoServer, Traffic } from '../support/traffic.ts';

const CHANGES = Number(process.env.VEG_CHANGES ?? 200);

/** Numbers from 0 to 1 that are the same in every run. */
function generator(seed: number): () => number {
  let x = seed;
  return () => {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    return x / 2 ** 32;
  };
}

/** A policy that always translates 10.17.0.0/16 and fd00:10:17::/64; the rest is drawn. */
function draw(random: () => number, change: number): GatewaySpec {
  const pick = (n: number) => Math.floor(random() * n);
  const blocks = (count: number) =>
    Array.from({ length: count }, () => `10.${20 + pick(80)}.${pick(256)}.0/24`);
  const six = (count: number) => Array.from({ length: count }, () => `fd00:10:${20 + pick(80)}::/64`);
  const counts = [0, 1, 5, 31, 33, 60, 200];
  const more = {
    name: 'more',
    snat: false,
    ipBlocks: [
      ...blocks(counts[pick(counts.length)]!),
      ...six(counts[pick(4)]!),
      `10.111.${change % 256}.0/24`,
    ],
  };
  return {
    bfd: random() < 0.8 ? BFD : { enabled: false },
    policies: random() < 0.5 ? [DIRECT, more, WEB] : [more, WEB],
  };
}

/** Opens TCP connections to the hosts again and again, and ends them by turns with FIN and with RST. */
const SHORT_CONNECTIONS = `
  const { connect } = require('node:net');
  let turn = 0;
  setInterval(() => {
    for (const host of process.argv.slice(1)) {
      const socket = connect({ host, port: ${ECHO_PORT} });
      socket.on('error', () => {});
      socket.on('connect', () => socket.write('x'));
      socket.on('data', () => (turn++ % 2 ? socket.end() : socket.resetAndDestroy()));
      setTimeout(() => socket.destroy(), 200);
    }
  }, 10);
`;

t.test(`${CHANGES} changes of the policy leave no packet untranslated`, async (t) => {
  const scope = scopeOf(t);
  const { client, client2, gateway, server } = topology(scope);
  const policy = new PolicyDirectory(scope);
  policy.set();
  const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
  await agent.synced();
  await startEchoServer(server);

  // Everything from inside that reaches the server with its own address: client2 may, client must not.
  const inside = 'src net 10.16.0.0/12 or src net fd00:10::/32';
  const capture = server.spawn('tcpdump', ['-l', '-n', '-i', 'eth0', inside], { name: 'tcpdump' });
  await until(() => capture.log().includes('listening on'), { what: 'tcpdump listens' });
  const seen = (source: RegExp) =>
    capture
      .log()
      .split('\n')
      .filter((line) => source.test(line));
  for (const host of [ADDRESS.server[4], ADDRESS.server[6]]) await sourceSeen(client2, host);
  await until(() => seen(/ IP 10\.18\./).length > 0 && seen(/ IP6 fd00:10:18:/).length > 0, {
    what: 'the capture sees addresses from inside',
  });

  const hosts = [ADDRESS.server[4], ADDRESS.server[6]];
  const traffic = await Traffic.open(
    client,
    hosts.flatMap((host) => [`tcp:${host}`, `udp:${host}`, `new:${host}`]),
  );
  const short = client.spawn(NODE, ['-e', SHORT_CONNECTIONS, ...hosts], { name: 'short' });
  const random = generator(4711);
  let repaired = 0;
  for (let i = 1; i <= CHANGES; i++) {
    policy.set(draw(random, i));
    await until(
      async () => {
        const status = await agent.status();
        repaired = Object.values(status.kernel.driftRepaired).reduce((a, b) => a + b, 0);
        const { generation, lastChange } = status.policy;
        return generation === i + 1 && (status.kernel.lastReconcile?.at ?? '') >= (lastChange ?? '');
      },
      { what: `change ${i}`, everyMs: 5 },
    );
  }
  await short.stop('SIGKILL');
  for (const { path, sent, received, broken, stallMs } of await traffic.close()) {
    t.equal(broken, undefined, path);
    t.equal(received, sent, `${path}: nothing lost (longest wait ${stallMs} ms)`);
  }
  // What came before this has been captured. The last policy may not know client2.
  policy.set();
  const before = seen(/ IP6 fd00:10:18:/).length;
  await until(
    async () => {
      await sourceSeen(client2, ADDRESS.server[6]);
      return seen(/ IP6 fd00:10:18:/).length > before;
    },
    { what: 'a last packet is captured', everyMs: 100 },
  );
  t.same(seen(/ IP 10\.(?!18\.)| IP6 fd00:10:(?!18:)/), [], 'no packet left with an address from inside');
  t.comment(`${repaired} repairs`);
});

t.test('a session comes Up only when translation, routes and the uplink are there', async (t) => {
  const scope = scopeOf(t);
  const { gateway, router, server } = topology(scope);
  const policy = new PolicyDirectory(scope);
  policy.set({ bfd: BFD });
  // Tools that fail until told otherwise, and a gateway outside that does not answer.
  const tools = scope.directory('tools');
  for (const name of ['iptables', 'ip6tables'].flatMap((n) => [`${n}-nft-restore`, `${n}-restore`])) {
    writeFileSync(
      join(tools, name),
      `#!/bin/sh\nif [ -e ${tools}/broken ]; then echo 'line 1 failed' >&2; exit 1; fi\nexec /usr/sbin/${name} "$@"\n`,
    );
    chmodSync(join(tools, name), 0o755);
  }
  writeFileSync(join(tools, 'broken'), '');
  server.sysctl({ 'net.ipv4.conf.all.arp_ignore': 8 });
  const sessions = [{ local: '10.255.255.255', remote: '10.16.0.12' }];
  const frr = await startFrr(scope, router, { sessions });
  const agent = new Agent(gateway, {
    policyDir: policy.dir,
    stateDir: scope.directory('state'),
    env: { PATH: `${tools}:${process.env.PATH}` },
  });
  const capture = await BfdCapture.start(scope, gateway, 'eth0');
  const asked = () => capture.packets().filter(({ to }) => to === ADDRESS.gatewayInternal[4]).length;
  const notUp = async (reason: RegExp) => {
    await agent.statusUntil(`${reason}`, ({ reasons }) => reasons.some((text) => reason.test(text)));
    const before = asked();
    const states = new Set<string>();
    // The peer asks twice more.
    await until(
      () => {
        states.add(frr.sessions()[0]!.state);
        return asked() > before + 1;
      },
      { what: 'more packets of the peer' },
    );
    return !states.has('Up') && !states.has('Init');
  };
  t.ok(await notUp(/line 1 failed/), 'not without translation');
  rmSync(join(tools, 'broken'));
  await agent.synced();
  t.ok(await notUp(/172\.17\.0\.1 does not answer ARP/), 'not without an uplink');
  server.sysctl({ 'net.ipv4.conf.all.arp_ignore': 0 });
  await peerUp(frr);
  t.pass('then it does');
});
