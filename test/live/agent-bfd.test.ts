/** BFD as the peer at the bfd@ port sees it, and what the gateway says about it, end to end. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Agent, BFD, PolicyDirectory } from '../support/agent.ts';
import { NODE, ROOT, until, veth } from '../support/netns.ts';
import { peerUp, startFrr } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { topology } from '../support/topology.ts';

const PAIRS = [
  { local: '10.255.255.255', remote: '10.16.0.12' },
  { local: 'fd00:ffff::1', remote: 'fd00:10:16::12' },
];

t.test('FRR at 10.255.255.255 and its IPv6 twin comes Up', async (t) => {
  const scope = scopeOf(t);
  const { router, gateway, server } = topology(scope);
  const policy = new PolicyDirectory(scope);
  policy.set({ bfd: BFD });
  const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
  await agent.synced();

  t.equal(
    agent.bfddControl('status').stdout,
    [
      'There are 2 sessions:',
      'Session 1',
      ' id=1 local=10.16.0.12 (p) remote=10.255.255.255 state=Down',
      'Session 2',
      ' id=2 local=fd00:10:16::12 (p) remote=fd00:ffff::1 state=Down',
      '',
    ].join('\n'),
    'configured peers are listed before they were heard',
  );
  t.match(agent.http('/readyz'), { status: 503, body: /BFD: no session is Up/ });
  t.equal(agent.cli('status').code, 5);

  const frr = await startFrr(scope, router, { sessions: PAIRS });
  await peerUp(frr);
  t.same(
    frr
      .sessions()
      .map(({ remote, state }) => `${remote} ${state}`)
      .sort(),
    ['10.16.0.12 Up', 'fd00:10:16::12 Up'],
  );
  await agent.statusUntil('ready', ({ ready }) => ready);
  t.same(agent.bfddControl('status'), {
    code: 0,
    stderr: '',
    stdout: [
      'There are 2 sessions:',
      'Session 1',
      ' id=1 local=10.16.0.12 (p) remote=10.255.255.255 state=Up',
      'Session 2',
      ' id=2 local=fd00:10:16::12 (p) remote=fd00:ffff::1 state=Up',
      '',
    ].join('\n'),
  });
  t.match(agent.cli('status'), { code: 0, stdout: /^ready/ });
  t.same(agent.http('/readyz').status, 200);
  t.same(agent.http('/livez').status, 200);
  t.equal(agent.http('/nothing').status, 404);
  t.equal(agent.metric('veg_bfd_session_state{local="10.16.0.12",remote="10.255.255.255"}'), 3);
  t.equal(agent.metric('veg_bfd_session_state{local="fd00:10:16::12",remote="fd00:ffff::1"}'), 3);

  const from = (ns: typeof router, address: string) =>
    ns.run('curl', [
      '-s',
      '-m',
      '2',
      '-o',
      '/dev/null',
      '-w',
      '%{http_code}',
      `http://${address}:10669/livez`,
    ]).stdout;
  t.equal(from(router, '10.16.0.12'), '200', 'probes are answered on the internal interface');
  t.equal(from(router, '[fd00:10:16::12]'), '200');
  t.equal(from(server, '172.17.0.11'), '000', 'and not on the external one');
  t.equal(from(server, '[fd00:172:17::11]'), '000');

  const refused = agent.bfddControl('nonsense');
  t.equal(refused.code, 0, 'a rejection is a reply');
  t.not(refused.stdout, '');

  const commands = scope.directory('commands');
  const [fifo, script] = [join(commands, 'fifo'), join(commands, 'script')];
  gateway.sh(`mkfifo ${fifo}`);
  t.match(agent.bfddControl('load', fifo).stdout, /^Failed to load .*a FIFO/, 'a FIFO is not waited for');
  writeFileSync(script, 'version\nlog level normal # a comment\n');
  t.match(agent.bfddControl('load', script).stdout, /Log level set to normal\.\n$/);
  t.ok(
    frr.sessions().every(({ state }) => state === 'Up'),
    'and the sessions do not notice',
  );

  agent.bfddControl('session', '1', 'state', 'admin');
  await until(() => frr.sessions().some(({ drained }) => drained), { what: 'AdminDown at FRR' });
  t.match(agent.bfddControl('status').stdout, / id=1 .* state=AdminDown\n/, 'the plain state');
  t.same(agent.http('/readyz').status, 200, 'one session is still Up');
  agent.bfddControl('session', '1', 'state', 'up');
  await peerUp(frr);

  const code = agent.stop('SIGTERM');
  await until(() => frr.sessions().every(({ drained }) => drained), {
    what: 'AdminDown seen by FRR',
  });
  t.equal(await code, 0, 'SIGTERM drains and ends with 0');
  t.match(agent.bfddControl('status'), { code: 1 }, 'nobody answers bfdd-control any more');
  t.equal(agent.cli('status').code, 1);
});

t.test('one session in IPv4 alone prints what Kube-OVN’s pods print', async (t) => {
  const scope = scopeOf(t);
  const { router, gateway } = topology(scope);
  const policy = new PolicyDirectory(scope);
  policy.copy('alauda-bfd');
  const options = { policyDir: policy.dir, stateDir: scope.directory('state') };
  const agent = new Agent(gateway, options);
  await agent.synced();
  const frr = await startFrr(scope, router, { sessions: [PAIRS[0]!] });
  await peerUp(frr);
  t.equal(
    agent.bfddControl('status').stdout,
    'There are 1 sessions:\nSession 1\n id=1 local=10.16.0.12 (p) remote=10.255.255.255 state=Up\n',
  );

  t.test('sessions stay Up while the agent process is killed and comes back', async (t) => {
    const child = () =>
      gateway
        .run('pgrep', ['-P', `${agent.daemon.pid}`])
        .stdout.split('\n')
        .map(Number)
        .find((pid) => pid > 0);
    const before = child();
    process.kill(before!, 'SIGKILL');
    await until(
      () => {
        const now = child();
        return now !== undefined && now !== before;
      },
      { what: 'another agent process' },
    );
    await agent.synced();
    const [session] = (await agent.status()).bfd.sessions;
    t.equal(session?.state, 'Up');
    t.match(session?.transitions, [{ to: 'Init' }, { to: 'Up' }], 'no transition since it came Up');
    t.equal(frr.sessions()[0]?.state, 'Up');
  });

  t.test(
    'SIGUSR2 ends without a word to the peer, and a daemon that waits beside it takes over',
    async (t) => {
      const before = (await agent.status()).bfd.sessions[0]!;
      const next = new Agent(gateway, options);
      await until(() => next.daemon.log().includes('waiting for the daemon that holds the state directory'), {
        what: 'the next one waits',
      });
      t.equal(await agent.stop('SIGUSR2'), 0);
      await next.statusUntil('ready', ({ ready }) => ready);
      const after = (await next.status()).bfd.sessions[0]!;
      t.equal(after.state, 'Up');
      t.equal(after.localDiscriminator, before.localDiscriminator, 'the same session');
      t.match(frr.sessions(), [{ state: 'Up', drained: false }]);
      t.notMatch(next.daemon.log(), '"from":"Up"', 'Up all the while, or FRR would have said Down');
      t.equal(await next.stop('SIGUSR2'), 0);
    },
  );
});

t.test('a neighbour of the internal subnet cannot speak for a peer behind its gateway', async (t) => {
  const scope = scopeOf(t);
  const { router, gateway } = topology(scope);
  const neighbour = scope.namespace('neighbour');
  // The internal subnet becomes a switch on which the gateway pod has a neighbour.
  router.ip(`
    link add switch address 02:00:00:00:00:01 type bridge
    addr del 10.16.0.1/16 dev gateway
    addr del fd00:10:16::1/64 dev gateway
    link set gateway master switch
    link set switch up
    addr add 10.16.0.1/16 dev switch
    addr add fd00:10:16::1/64 dev switch nodad`);
  veth(router, 'neighbour', neighbour, 'eth0', 1400);
  router.ip('link set neighbour master switch');
  neighbour.ip(`
    addr add 10.16.0.99/16 dev eth0
    addr add fd00:10:16::99/64 dev eth0 nodad
    addr add 10.255.255.255/32 dev lo
    addr add fd00:ffff::1/128 dev lo nodad`);
  const spoof = (seconds: number) =>
    neighbour.spawn(
      NODE,
      [
        ...[join(ROOT, 'test/live/bfd-spoof.ts'), `${seconds}`],
        ...PAIRS.flatMap(({ local, remote }) => [remote, local]),
      ],
      { name: 'spoof' },
    );

  const policy = new PolicyDirectory(scope);
  policy.set({ bfd: BFD });
  const agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state') });
  await agent.synced();
  const frr = await startFrr(scope, router, { sessions: PAIRS });
  await peerUp(frr);
  const learned = (mac: string) =>
    until(() => agent.daemon.log().split(`"macs":["${mac}"]`).length - 1 === 2, {
      what: `${mac} learned in both families`,
    });
  await learned('02:00:00:00:00:01');
  const refused = () => agent.metric('veg_bfd_packets_discarded_total{reason="wrong-mac"}') ?? 0;
  const downs = async () =>
    (await agent.status()).bfd.sessions.flatMap(({ transitions }) =>
      transitions.filter(({ from }) => from === 'Up'),
    );

  const first = spoof(0.5);
  await until(() => first.exitCode === 0, { what: 'the attack is over' });
  await until(() => refused() >= 2 * Number(first.log().trim()), { what: 'all of them are counted' });
  t.same(await downs(), [], 'AdminDown from the neighbour: nothing happens');

  // The router port gets another address, as when OVN makes it anew, while the attack goes on.
  const second = spoof(2);
  await until(() => refused() > 2 * Number(first.log().trim()), { what: 'the attack goes on' });
  router.ip('link set switch address 02:00:00:00:00:02');
  await learned('02:00:00:00:00:02');
  await until(() => second.exitCode === 0, { what: 'the second attack is over' });
  t.same(await downs(), [], 'nor when the gateway has another Ethernet address');
  t.ok(
    frr.sessions().every(({ state }) => state === 'Up'),
    'nor at the peer',
  );

  policy.set({ bfd: { ...BFD, anySource: true } });
  await agent.statusUntil('the next policy', ({ policy: { generation } }) => generation === 2);
  spoof(1);
  await until(async () => (await downs()).length > 0, { what: 'AdminDown is obeyed with anySource' });
});
