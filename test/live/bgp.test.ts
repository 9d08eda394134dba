/**
 * BGP with FRR beside the agent: routers (FRR, BIRD, GoBGP) learn what the policy announces and nothing else, in both
 * families, and traffic follows; a change of the policy, a drain, a lost uplink change that, and forwarding goes on.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { Agent, type AgentOptions, BFD, cli, DIRECT, PolicyDirectory, WEB } from '../support/agent.ts';
import { type BgpRouter, Frr, type Learned, startBird, startGoBgp } from '../support/bgp.ts';
import { type Namespace, NODE, ROOT, type Scope, until, veth } from '../support/netns.ts';
import { startVegBfdd } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { INTERNAL_ADDRESSES, type Topology, topology } from '../support/topology.ts';
import { sourceSeen, startEchoServer } from '../support/traffic.ts';

const ROUTER = { 4: '172.17.0.1', 6: 'fd00:172:17::1' } as const;
const GATEWAY = { 4: '172.17.0.11', 6: 'fd00:172:17::11' } as const;
const ASN = 4_200_000_001;
/** Egress addresses that are on no Ethernet. */
const EGRESS = ['198.51.100.50', 'fd00:5::50'];
const EGRESSED = { ...WEB, egressIP: { address: EGRESS, announce: 'bgp' } };
const FAR = { 4: '203.0.113.2', 6: 'fd00:203::2' } as const;

/** A host behind the router, which has no route to the VPC but what it learns. */
function farHost(scope: Scope, server: Namespace): Namespace {
  const far = scope.namespace('far');
  veth(server, 'far', far, 'eth0');
  server.sysctl({ 'net.ipv4.ip_forward': 1, 'net.ipv6.conf.all.forwarding': 1 });
  server.ip(`
    route del 10.18.0.0/16
    route del fd00:10:18::/64
    addr add 203.0.113.1/24 dev far
    addr add fd00:203::1/64 dev far nodad`);
  far.ip(`
    addr add ${FAR[4]}/24 dev eth0
    addr add ${FAR[6]}/64 dev eth0 nodad
    route add default via 203.0.113.1
    route add default via fd00:203::1`);
  return far;
}

/** `spec.bgp` with the router as neighbour in both families. */
const bgpSpec = (more: { announce?: string[]; neighbour?: object } = {}) => ({
  localASN: ASN,
  neighbours: [
    { address: ROUTER[4], asn: 65000, ...more.neighbour },
    { address: ROUTER[6], asn: 65000 },
  ],
  ...(more.announce && { announce: more.announce }),
});

const EVERYTHING = ['egressIPs', 'eips', 'dnats', 'forwarded'];

interface Setup extends Omit<Topology, 'router'> {
  /** The VPC's, which stands for OVN. */
  vpc: Namespace;
  router: BgpRouter;
  scope: Scope;
  far: Namespace;
  policies: PolicyDirectory;
  options: AgentOptions;
  frr: Frr;
  agent: Agent;
}

/** A gateway with an agent and FRR as `render frr` configures it, once its router runs. */
async function start(
  t: Test,
  spec: object,
  router: (scope: Scope, ns: Namespace) => Promise<BgpRouter>,
): Promise<Setup> {
  const scope = scopeOf(t);
  const made = topology(scope);
  const far = farHost(scope, made.server);
  // FRR as router ignores IPv6 next hops of a session that is older than the link-local address of its interface.
  for (const [ns, dev] of [
    [made.server, 'eth0'],
    [made.gateway, 'net1'],
  ] as const) {
    const isThere = () => ns.sh(`ip -6 addr show dev ${dev} scope link -tentative`) !== '';
    await until(isThere, { what: `${dev} has its link-local address` });
  }
  const running = await router(scope, made.server);
  const policies = new PolicyDirectory(scope);
  policies.set(spec);
  const options = { policyDir: policies.dir, stateDir: scope.directory('state') };
  const frr = await Frr.start(scope, made.gateway, 'frr');
  const { stdout, stderr, code } = cli(made.gateway, options, 'render', 'frr', '-f', policies.dir);
  t.same([code, stderr], [0, ''], 'render frr');
  t.same(frr.load(stdout).code, 0, 'vtysh -f');
  const agent = new Agent(made.gateway, { ...options, args: ['--frr-dir', frr.dir] });
  await agent.synced();
  return { ...made, scope, vpc: made.router, router: running, far, policies, options, frr, agent };
}

/** Waits until the router has learned exactly this. */
const learns = (router: BgpRouter, expected: Learned, what: string): Promise<boolean> =>
  until(
    () => {
      const learned = JSON.stringify(router.learned());
      if (learned === JSON.stringify(expected)) return true;
      throw new Error(learned);
    },
    { what: `the router learns ${what}` },
  );

const hop4 = (...prefixes: string[]): Learned => Object.fromEntries(prefixes.map((one) => [one, GATEWAY[4]]));
const hop6 = (...prefixes: string[]): Learned => Object.fromEntries(prefixes.map((one) => [one, GATEWAY[6]]));

/** FRR as router, with a password for IPv4. */
const frrRouter =
  (...more: string[]) =>
  async (scope: Scope, ns: Namespace) => {
    const frr = await Frr.start(scope, ns, 'router');
    frr.load(`frr defaults traditional
router bgp 65000
 bgp router-id ${ROUTER[4]}
 no bgp default ipv4-unicast
 no bgp ebgp-requires-policy
 neighbor ${GATEWAY[4]} remote-as ${ASN}
${more.map((command) => ` neighbor ${GATEWAY[4]} ${command}\n`).join('')} neighbor ${GATEWAY[6]} remote-as ${ASN}
 address-family ipv4 unicast
  neighbor ${GATEWAY[4]} activate
  neighbor ${GATEWAY[4]} default-originate
 exit-address-family
 address-family ipv6 unicast
  neighbor ${GATEWAY[6]} activate
 exit-address-family
exit
`);
    return frr;
  };

/** What a host outside finds that probes for an address before it takes it. */
function probeFor(host: Namespace, address: string): string {
  const program = `
    import { readFileSync } from 'node:fs';
    import { Claims } from '${ROOT}/agent/uplink/claims.ts';
    const read = (name) => readFileSync('/sys/class/net/eth0/' + name, 'utf8').trim();
    const link = { ifindex: Number(read('ifindex')), mac: read('address'), carrierChanges: 0 };
    const claims = new Claims();
    claims.probe(new Map([['${address}', link]]));
    await claims.settled();
    console.log(JSON.stringify(claims.conflicts()));
    claims.close();`;
  const { stdout, stderr } = host.run(NODE, ['--input-type=module', '-e', program]);
  return stdout + stderr;
}

const marks = (gateway: Namespace): string =>
  gateway.sh('ip route show metric 178') + gateway.sh('ip -6 route show metric 178');

t.test('FRR learns what the policy announces and nothing else, and traffic follows', async (t) => {
  const secrets = t.testdir();
  const passwordFile = join(secrets, 'bgp');
  writeFileSync(passwordFile, 's3cret\n', { mode: 0o400 });
  const spec = {
    policies: [DIRECT, EGRESSED],
    eips: [
      { externalIP: '172.17.0.60', internalIP: '10.17.0.10' },
      { externalIP: 'fd00:172:17::60', internalIP: 'fd00:10:17::10' },
    ],
    dnats: [
      {
        externalIP: GATEWAY[4],
        protocol: 'tcp',
        externalPort: 80,
        internalIP: '10.17.0.9',
        internalPort: 80,
      },
    ],
    bgp: { ...bgpSpec({ announce: EVERYTHING, neighbour: { passwordFile, bfd: true } }), required: true },
  };
  const { client, client2, gateway, server, far, policies, frr, router, agent } = await start(
    t,
    spec,
    frrRouter('password s3cret', 'bfd'),
  );
  gateway.ip('route add 10.99.0.0/16 via 10.16.0.1 dev eth0');
  const all = {
    ...hop4('10.18.0.0/16', '172.17.0.60/32', '198.51.100.50/32'),
    ...hop6('fd00:10:18::/64', 'fd00:172:17::60/128', 'fd00:5::50/128'),
  };
  await learns(router, all, 'all');
  const installed = () => server.sh('ip route show proto bgp').match(/^\S+/gm);
  await until(() => installed()?.length === 3, { what: 'zebra installs what bgpd has learned' });
  t.same(installed(), ['10.18.0.0/16', '172.17.0.60', '198.51.100.50']);
  const isUp = () => /"peer":"172.17.0.1"[^}]*"status":"up"/.test(frr.vtysh('show bfd peers json'));
  await until(isUp, { what: 'BFD with the router' });
  t.notMatch(gateway.sh('ip route'), /proto bgp/, 'FRR installs nothing');
  const { bgp } = await agent.statusUntil(
    'ready, with both sessions',
    ({ ready, bgp }) => ready && !!bgp?.sessions?.every(({ state }) => state === 'Established'),
  );
  t.same(
    bgp!.sessions!.map(({ neighbour, state, accepted }) => [neighbour, state, accepted]),
    [ROUTER[4], ROUTER[6]].map((neighbour) => [neighbour, 'Established', 0]),
  );
  t.equal(agent.metric('veg_bgp_announced{prefix="10.18.0.0/16",reason="forwarded"}'), 1);
  t.equal(agent.metric(`veg_bgp_session_up{neighbour="${ROUTER[4]}"}`), 1);

  t.notMatch(
    gateway.sh('ip addr show net1'),
    /172\.17\.0\.60|fd00:172:17::60/,
    'an address on the Ethernet is on no interface',
  );
  for (const address of ['172.17.0.60', 'fd00:172:17::60']) {
    server.ip(`route add ${address} dev eth0 metric 1`);
    server.run('ping', ['-c', '1', '-W', '1', address]);
    t.match(server.sh(`ip neigh show ${address}`), /lladdr/, `${address} is answered for`);
    server.ip(`route del ${address} dev eth0 metric 1`);
    t.match(
      probeFor(server, address),
      `"address":"${address}"`,
      'who probes for it learns that it is in use',
    );
  }

  await startEchoServer(far);
  await startEchoServer(client2);
  t.match(await sourceSeen(client, FAR[4]), /^198\.51\.100\.50 /);
  t.match(await sourceSeen(client, FAR[6]), /^fd00:5::50 /);
  t.match(await sourceSeen(far, '10.18.0.9'), /^203\.0\.113\.2 /);
  t.match(await sourceSeen(far, 'fd00:10:18::9'), /^fd00:203::2 /);

  const more = { ...EGRESSED, egressIP: { address: [...EGRESS, '198.51.100.51'], announce: 'bgp' } };
  const pids = frr.daemons.map(({ pid }) => pid);
  policies.set({ ...spec, policies: [more] });
  await learns(
    router,
    {
      ...hop4('172.17.0.60/32', '198.51.100.50/32', '198.51.100.51/32'),
      ...hop6('fd00:172:17::60/128', 'fd00:5::50/128'),
    },
    'a change of the policy',
  );
  t.same(
    frr.daemons.map(({ pid, exitCode }) => exitCode ?? pid),
    pids,
    'the same FRR',
  );
  policies.set({ ...spec, bgp: undefined });
  await learns(router, {}, 'that nothing is announced');
  t.equal(marks(gateway), '');
  await agent.stop();
});

t.test('a drain withdraws before BFD sends AdminDown, an undrain announces again', async (t) => {
  const setup = await start(
    t,
    { bfd: BFD, policies: [DIRECT, EGRESSED], bgp: bgpSpec({ announce: EVERYTHING }) },
    frrRouter(),
  );
  const { scope, gateway, vpc, router, agent } = setup;
  t.equal(marks(gateway), '', 'without a session of BFD nothing is announced');
  const peer = await startVegBfdd(scope, vpc, {
    sessions: [
      { local: '10.255.255.255', remote: '10.16.0.12' },
      { local: 'fd00:ffff::1', remote: 'fd00:10:16::12' },
    ],
  });
  const all = {
    ...hop4('10.18.0.0/16', '198.51.100.50/32'),
    ...hop6('fd00:10:18::/64', 'fd00:5::50/128'),
  };
  const known = () => peer.sessions().some(({ drained }) => drained);
  await learns(router, all, 'all');
  const announced = marks(gateway);
  const driftRepaired = async () => (await agent.status()).kernel.driftRepaired;
  const before = await driftRepaired();
  const since = Date.now();
  t.equal((await agent.ask('POST', '/v1/bfdd', 'session all reset')).status, 200);
  // It may be back before anybody has looked.
  await agent.statusUntil('the sessions are back', ({ bfd }) =>
    bfd.sessions.every((session) => session.state === 'Up' && session.since >= since),
  );
  // The router may not have seen that they were gone.
  await until(() => marks(gateway) === announced, { what: 'the marks are back' });
  await learns(router, all, 'the session is back');
  t.same(await driftRepaired(), before, 'a session that flaps is no drift');

  const drained = agent.ask('POST', '/v1/drain?timeout=3');
  await until(() => known() || marks(gateway) === '', { what: 'something happens', everyMs: 1 });
  t.equal(marks(gateway), '', 'the routes first');
  await until(known, { what: 'AdminDown' });
  t.match((await drained).body, /^drained/);
  t.match(
    gateway.sh('ip route show 10.18.0.0/16'),
    /via 10\.16\.0\.1 dev eth0 proto 178 *\n$/,
    'forwarding goes on',
  );
  await learns(router, {}, 'the drain');
  await agent.ask('POST', '/v1/undrain');
  await learns(router, all, 'the undrain');

  agent.daemon.signal('SIGTERM');
  await until(() => known() || marks(gateway) === '', { what: 'something happens', everyMs: 1 });
  t.equal(marks(gateway), '', 'SIGTERM: the routes first');
  await until(known, { what: 'AdminDown' });
  t.equal(await agent.daemon.ended(), 0);
});

t.test('a link that is lost withdraws, a killed agent does not', async (t) => {
  const bgp = bgpSpec({ announce: ['egressIPs', 'forwarded'] });
  const spec = { policies: [DIRECT, EGRESSED], bgp, uplink: { recovery: '0s' } };
  const { gateway, server, router, options, agent } = await start(t, spec, frrRouter());
  const all = {
    ...hop4('10.18.0.0/16', '198.51.100.50/32'),
    ...hop6('fd00:10:18::/64', 'fd00:5::50/128'),
  };
  await learns(router, all, 'all');
  agent.daemon.signal('SIGKILL');
  await agent.daemon.ended();
  t.not(marks(gateway), '');
  const before = marks(gateway);
  const next = new Agent(gateway, options);
  await next.synced();
  t.equal(marks(gateway), before, 'nor does the next one');
  server.ip('link set eth0 down');
  await until(() => marks(gateway) === '', { what: 'the marks are gone' });
  server.ip(`
    link set eth0 up
    addr replace fd00:172:17::1/64 dev eth0 nodad`);
  await until(() => marks(gateway) !== '', { what: 'the marks are back' });
  await learns(router, all, 'all again');
  gateway.ip('link set eth0 down');
  await until(() => marks(gateway) === '', { what: 'the marks are gone without the internal link' });
  await learns(router, {}, 'nothing without the internal link');
  gateway.ip(`link set eth0 up${INTERNAL_ADDRESSES}`);
  await learns(router, all, 'all with the internal link');
  next.daemon.signal('SIGKILL');
  await next.daemon.ended();
  gateway.ip('link set eth0 down');
  t.not(marks(gateway), '');
  const third = new Agent(gateway, options);
  await until(() => marks(gateway) === '', { what: 'one that starts without the internal link withdraws' });
  gateway.ip(`link set eth0 up${INTERNAL_ADDRESSES}`);
  await third.synced();
  await third.stop();
  t.equal(cli(gateway, options, 'cleanup').code, 0);
  t.equal(marks(gateway), '');
});

for (const [name, router] of [
  ['BIRD', startBird],
  ['GoBGP', startGoBgp],
] as const) {
  t.test(`${name} learns the same`, async (t) => {
    const setup = await start(
      t,
      { policies: [DIRECT, EGRESSED], bgp: bgpSpec({ announce: EVERYTHING }) },
      (scope, ns) =>
        router(scope, ns, { asn: 65000, id: ROUTER[4], neighbours: Object.values(GATEWAY), peerASN: ASN }),
    );
    await learns(
      setup.router,
      { ...hop4('10.18.0.0/16', '198.51.100.50/32'), ...hop6('fd00:10:18::/64', 'fd00:5::50/128') },
      'all',
    );
    setup.policies.set({ policies: [DIRECT], bgp: bgpSpec({ announce: ['egressIPs'] }) });
    await learns(setup.router, {}, 'that nothing is announced');
  });
}
