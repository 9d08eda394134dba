/** Sessions under load: nothing that the agent or the machine does makes one leave Up. */
import t from 'tap';
import { Agent, BFD, PolicyDirectory, WEB } from '../support/agent.ts';
import { type Daemon, type Namespace, NODE } from '../support/netns.ts';
import { peerUp, startVegBfdd } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { topology } from '../support/topology.ts';

const PAIRS = [
  { local: '10.255.255.255', remote: '10.16.0.12' },
  { local: 'fd00:ffff::1', remote: 'fd00:10:16::12' },
];
const SECONDS = 8;
const BLOCKS = 10_000;
const OVERSIZED = 100 << 20;

/** Two loops that want both cores, for a bounded time. */
const busyCores = (ns: Namespace): Daemon[] =>
  [0, 1].map(() => ns.spawn('timeout', [`${SECONDS}`, 'sh', '-c', 'while :; do :; done'], { name: 'busy' }));

/** New flows, some thousand a second, each of one packet to a port of its own. */
const STORM = `
  const { createSocket } = require('node:dgram');
  const end = Date.now() + ${SECONDS * 1000};
  let port = 10000;
  const sockets = Array.from({ length: 16 }, () => createSocket('udp4'));
  const tick = () => {
    for (const socket of sockets) for (let i = 0; i < 2; i++) socket.send('x', 10000 + (port++ % 50000), '172.17.0.1');
    if (Date.now() < end) setTimeout(tick, 10); else process.exit();
  };
  tick();`;

t.test(
  'both cores busy, 10 000 blocks, a policy of 100 MB, a conntrack storm: no session leaves Up',
  async (t) => {
    const scope = scopeOf(t);
    const { client, router, gateway } = topology(scope);
    const policy = new PolicyDirectory(scope);
    const bfd = { ...BFD, minTX: 50, minRX: 50, multiplier: 3 };
    policy.set({ bfd });
    const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
    await agent.synced();
    const peer = await startVegBfdd(scope, router, { sessions: PAIRS, minTX: 50, minRX: 50, multiplier: 3 });
    await peerUp(peer);
    const sent = async () => (await agent.status()).bfd.sessions.map(({ packetsOut }) => packetsOut);
    const before = await sent();

    const busy = busyCores(gateway);
    client.spawn(NODE, ['-e', STORM], { name: 'storm' });
    const many = Array.from({ length: BLOCKS }, (_, i) => `10.${100 + (i >> 8)}.${i & 255}.0/24`);
    policy.set({ bfd, policies: [WEB, { name: 'many', snat: false, ipBlocks: many }] });
    await agent.statusUntil(
      '10 000 blocks in the kernel',
      (s) => s.policy.generation === 2 && s.kernel.inSync,
    );
    policy.write({ 'gateway.yaml': Buffer.alloc(OVERSIZED, 'a: [1, 2]\n') });
    const refused = await agent.statusUntil('100 MB refused', ({ policy: { valid } }) => !valid);
    t.match(
      refused.policy.errors[0],
      /^gateway\.yaml:1:1: holds 100 MiB, more than 4 MiB$/,
      'with its reason',
    );
    policy.set({ bfd });
    await agent.statusUntil('the first policy again', (s) => s.policy.generation === 3 && s.kernel.inSync);

    // However soon all that was done.
    for (const loop of busy) await loop.ended();

    const left = (await agent.status()).bfd.sessions.flatMap(({ transitions }) =>
      transitions.filter(({ from }) => from === 'Up'),
    );
    t.same(left, [], 'none left Up here');
    t.notMatch(peer.daemon.log(), /"from":"Up"/, 'nor at the peer');
    t.ok(
      (await sent()).every((count, i) => count > before[i]!),
      'and packets went out meanwhile',
    );
    const late = agent
      .http('/metrics')
      .body.split('\n')
      .filter((line) => line.includes('transmit_lateness'));
    t.comment(late.join('\n'));
  },
);
