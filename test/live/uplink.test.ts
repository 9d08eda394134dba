/** What BFD says about the way out: dead gateways, lost links, missing addresses, and a gateway that flaps. */
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { Agent, BFD, type GatewaySpec, PolicyDirectory } from '../support/agent.ts';
import { type Namespace, until } from '../support/netns.ts';
import { peerUp, startFrr } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { EXTERNAL_ADDRESSES, EXTERNAL_ADDRESSES_6, topology } from '../support/topology.ts';

const PAIRS = [
  { local: '10.255.255.255', remote: '10.16.0.12' },
  { local: 'fd00:ffff::1', remote: 'fd00:10:16::12' },
];
const GATEWAY = { 4: '172.17.0.1', 6: 'fd00:172:17::1' } as const;

/** failures × interval of the default policy, ms. */
const DETECTION = 600;

async function start(
  t: Test,
  spec: GatewaySpec = {},
  { wrapper, prepare }: { wrapper?: string[]; prepare?: (server: Namespace) => void } = {},
) {
  const scope = scopeOf(t);
  const net = topology(scope);
  prepare?.(net.server);
  const policy = new PolicyDirectory(scope);
  policy.set({ bfd: BFD, ...spec });
  const agent = new Agent(net.gateway, {
    policyDir: policy.dir,
    stateDir: scope.directory('state'),
    ...(wrapper && { wrapper }),
  });
  const frr = await startFrr(scope, net.router, { sessions: PAIRS });
  await peerUp(frr);
  await agent.statusUntil('ready', ({ ready }) => ready);
  const session = (remote: string) => frr.sessions().find((s) => s.remote === remote)!;
  return { ...net, scope, policy, agent, frr, session };
}

/** Makes the server answer no ARP (or Neighbor Discovery), while everything else goes on, or answer again. */
function setDeaf(server: Namespace, family: 4 | 6, deaf: boolean): void {
  if (family === 4) server.sysctl({ 'net.ipv4.conf.all.arp_ignore': deaf ? 8 : 0 });
  else {
    server.sh(`ip6tables ${deaf ? '-I' : '-D'} INPUT -p icmpv6 --icmpv6-type neighbour-solicitation -j DROP`);
  }
}

/** The first status in which a family works again and is still held down. */
const heldDown = (agent: Agent) =>
  agent.statusUntil('held down', ({ reasons }) => reasons.some((reason) => /held down for/.test(reason)));

/** Waits until the peer sees what is asked for. */
const seen = (what: string, poll: () => boolean) => until(poll, { what, everyMs: 5 });

t.test('a gateway that no longer answers takes its family’s session down, and only that', async (t) => {
  const { agent, server, session } = await start(t);
  for (const [family, other] of [
    [4, 6],
    [6, 4],
  ] as const) {
    const { local, remote } = {
      local: PAIRS[family === 4 ? 0 : 1]!.remote,
      remote: PAIRS[family === 4 ? 0 : 1]!.local,
    };
    const otherLocal = PAIRS[other === 4 ? 0 : 1]!.remote;
    t.equal(agent.metric(`veg_agent_uplink_up{gateway="${GATEWAY[family]}"}`), 1);
    setDeaf(server, family, true);
    await seen(`IPv${family} leaves Up`, () => session(local).state !== 'Up');
    t.equal(session(otherLocal).state, 'Up', `IPv${other} stays Up`);
    t.equal(
      agent.metric(
        `veg_bfd_session_transitions_total{local="${local}",remote="${remote}",from="Up",to="AdminDown",diag="6"}`,
      ),
      1,
      'with diagnostic 6, concatenated path down',
    );
    const { status, body } = agent.http('/readyz');
    t.equal(status, 503);
    t.match(body, new RegExp(`IPv${family} uplink: the external gateway ${GATEWAY[family]} does not answer`));
    t.equal(agent.metric(`veg_agent_uplink_up{gateway="${GATEWAY[family]}"}`), 0);
    t.match(agent.cli('status').stdout, new RegExp(`${GATEWAY[family]} does not answer`));

    setDeaf(server, family, false);
    const { bfd } = await heldDown(agent);
    t.equal(bfd.sessions.find((s) => s.remote === remote)?.state, 'AdminDown', 'not Up before it was steady');
    await seen(`IPv${family} comes back`, () => session(local).state === 'Up');
    await agent.statusUntil('ready again', ({ ready }) => ready);
  }
});

t.test('a lost carrier, a link set down and a missing address are seen without a probe', async (t) => {
  // Probes alone would take longer than the test waits.
  const uplink = { interval: '10s', failures: 10 };
  const { agent, gateway, server, session } = await start(t, { uplink } as GatewaySpec);
  const [v4, v6] = PAIRS.map(({ remote }) => remote) as [string, string];
  const down = (remotes: string[]) => () => remotes.every((remote) => session(remote).state !== 'Up');
  const up = async () => {
    gateway.ip(EXTERNAL_ADDRESSES);
    gateway.ip(EXTERNAL_ADDRESSES_6);
    await agent.statusUntil('ready', ({ ready }) => ready);
    await seen('both Up', () => session(v4).state === 'Up' && session(v6).state === 'Up');
  };
  const cases: [what: string, remotes: string[], break_: () => void, mend: () => void, reason: RegExp][] = [
    [
      'no carrier',
      [v4, v6],
      () => server.ip('link set eth0 down'),
      () => {
        server.ip('link set eth0 up');
        server.ip('addr replace fd00:172:17::1/64 dev eth0 nodad');
      },
      /the external interface net1 has no carrier/,
    ],
    [
      'link down',
      [v4, v6],
      () => gateway.ip('link set net1 down'),
      () => gateway.ip('link set net1 up'),
      /the external interface net1 is down/,
    ],
    [
      'no IPv4 address',
      [v4],
      () => gateway.ip('addr del 172.17.0.11/16 dev net1'),
      () => {},
      /the external interface net1 has no usable IPv4 address/,
    ],
  ];
  for (const [what, remotes, break_, mend, reason] of cases) {
    break_();
    await seen(what, down(remotes));
    if (remotes.length === 1) t.equal(session(v6).state, 'Up');
    t.match(agent.http('/readyz'), { status: 503, body: reason });
    mend();
    await up();
  }
});

t.test('a gateway that flaps is held down each time', async (t) => {
  const { agent, server, session } = await start(t);
  const { local, remote } = { local: PAIRS[0]!.remote, remote: PAIRS[0]!.local };
  for (let round = 0; round < 2; round++) {
    setDeaf(server, 4, true);
    await seen('down', () => session(local).state !== 'Up');
    setDeaf(server, 4, false);
    const { bfd } = await heldDown(agent);
    t.equal(bfd.sessions.find((s) => s.remote === remote)?.state, 'AdminDown');
    await seen('up', () => session(local).state === 'Up');
  }
});

t.test('without the privilege to probe, nothing is taken for dead', async (t) => {
  const { agent, server, session } = await start(
    t,
    {},
    { wrapper: ['setpriv', '--bounding-set', '-net_raw'] },
  );
  setDeaf(server, 4, true);
  const { uplink } = await agent.statusUntil('the note', (s) => (s.uplink?.notes.length ?? 0) > 0);
  t.match(uplink?.notes[0], /172\.17\.0\.1 cannot be probed, so its failure will not be seen: .*EPERM/);
  t.match(uplink?.probes[0], { state: 'blind' });
  // Nothing is to happen, and nothing shows that it does not: three times as long as it would take.
  await sleep(3 * DETECTION);
  t.equal(session(PAIRS[0]!.remote).state, 'Up');
  t.equal(agent.http('/readyz').status, 200);
});

t.test('with ICMP, the gateways are asked the way that packets take', async (t) => {
  const uplink = { probe: 'icmp', interval: '100ms', failures: 3 };
  const { agent, server, session } = await start(t, { uplink } as GatewaySpec);
  const [v4, v6] = PAIRS.map(({ remote }) => remote) as [string, string];
  for (const [name, local, other] of [
    ['net.ipv4.icmp_echo_ignore_all', v4, v6],
    ['net.ipv6.icmp.echo_ignore_all', v6, v4],
  ] as const) {
    server.sysctl({ [name]: 1 });
    await seen(`${local} leaves Up`, () => session(local).state !== 'Up');
    t.equal(session(other).state, 'Up');
    t.match(agent.http('/readyz'), { status: 503, body: /does not answer ICMP echo/ });
    server.sysctl({ [name]: 0 });
    await seen(`${local} comes back`, () => session(local).state === 'Up');
  }
});

t.test('of the targets of a family one must answer', async (t) => {
  const targets = ['198.51.100.1', '198.51.100.2', '2001:db8::1'];
  const uplink = { interval: '100ms', failures: 2, targets, recovery: '0s' };
  const add = targets.map((target) => `addr add ${target}/${target.includes(':') ? 128 : 32} dev lo`);
  const { agent, server, session, policy } = await start(t, { uplink } as GatewaySpec, {
    prepare: (ns) => ns.ip(add.join('\n')),
  });
  const [v4, v6] = PAIRS.map(({ remote }) => remote) as [string, string];
  server.ip('addr del 198.51.100.1/32 dev lo');
  await agent.statusUntil('the loss of one is seen', ({ uplink }) =>
    uplink!.probes.some(({ address, state }) => address === '198.51.100.1' && state === 'silent'),
  );
  t.equal(session(v4).state, 'Up', 'one of two is enough');
  server.ip('addr del 198.51.100.2/32 dev lo');
  await seen('IPv4 leaves Up', () => session(v4).state !== 'Up');
  t.equal(session(v6).state, 'Up');
  t.match(agent.http('/readyz'), {
    status: 503,
    body: /IPv4 uplink: no target answers ICMP echo \(198\.51\.100\.1, 198\.51\.100\.2\)/,
  });
  server.ip('addr add 198.51.100.2/32 dev lo');
  await seen('IPv4 comes back', () => session(v4).state === 'Up');

  // Nothing is probed any more, and nothing is taken for dead.
  policy.set({ bfd: BFD, uplink: { probe: 'none' } } as GatewaySpec);
  await agent.statusUntil(
    'the new policy',
    ({ policy, uplink }) => policy.generation === 2 && uplink?.probes.length === 0,
  );
  setDeaf(server, 4, true);
  // As above.
  await sleep(3 * DETECTION);
  t.equal(session(v4).state, 'Up');
  t.equal(agent.http('/readyz').status, 200);
});
