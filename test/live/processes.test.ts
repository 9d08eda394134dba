/** The two processes of `veg-agent run`: who lives, who watches, what a signal or a limit may do to them. */
import { existsSync, readFileSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { AGENT, Agent, type AgentOptions, BFD, PolicyDirectory } from '../support/agent.ts';
import { kernelState } from '../support/kernel.ts';
import { must, type Namespace, NODE, ROOT, run, until } from '../support/netns.ts';
import { peerUp, startFrr } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';

const BFDD = join(ROOT, 'dist/bfd/main.js');
const LOCAL = ADDRESS.gatewayInternal[4];
const SESSION = { local: ADDRESS.bfdPort[4], remote: LOCAL };

/** A gateway with BFD, and FRR as its peer. */
async function gatewayWithPeer(t: Test, options: Partial<AgentOptions> = {}) {
  const scope = scopeOf(t);
  const net = topology(scope);
  const policy = new PolicyDirectory(scope);
  // The peer waits for three seconds: a restart on a busy machine, too, is inside its Detection Time.
  policy.set({ bfd: { ...BFD, multiplier: 30 } });
  const directories = { policyDir: policy.dir, stateDir: scope.directory('state') };
  const start = (more: Partial<AgentOptions> = {}) =>
    new Agent(net.gateway, { ...directories, ...options, ...more });
  const agent = start();
  const frr = await startFrr(scope, net.router, { sessions: [SESSION] });
  await peerUp(frr);
  await agent.statusUntil('ready', ({ ready }) => ready);
  return { scope, ...net, ...directories, policy, start, agent, frr };
}

/** The agent process, the child of the BFD process; undefined while there is none. */
const childOf = (pid: number): number | undefined =>
  Number(run('pgrep', ['-P', `${pid}`]).stdout.split('\n')[0]) || undefined;

const newChild = (pid: number, before: number | undefined) =>
  until(() => ![undefined, before].includes(childOf(pid)), {
    what: 'another agent process',
  });

/** Whether Node's inspector can be reached in the namespace. */
const inspected = (ns: Namespace): boolean => ns.sh('ss -Hltn').includes(':9229');

const gateway = await gatewayWithPeer(t);

/** The gateway with its agent running and its session Up. */
async function ready(): Promise<typeof gateway> {
  if (gateway.agent.daemon.exitCode !== undefined) gateway.agent = gateway.start();
  await gateway.agent.statusUntil('ready', (status) => status.ready);
  await peerUp(gateway.frr);
  return gateway;
}

t.test(
  'a second daemon on the state directory ends with 1, and the session of the first does not notice',
  async (t) => {
    const { agent, scope, stateDir, policyDir, frr } = await ready();
    const [before] = (await agent.status()).bfd.sessions;
    const link = join(scope.directory('link'), 'state');
    symlinkSync(stateDir, link);
    const daemons = {
      'veg-agent run': [AGENT, 'run', '--policy-dir', policyDir, '--state-dir', stateDir],
      'by another name': [AGENT, 'run', '--policy-dir', policyDir, '--state-dir', link],
      'veg-bfdd': [BFDD, '--local', LOCAL, '--peer', SESSION.local, '--state-dir', stateDir],
    };
    const seconds = Object.entries(daemons).map(
      ([name, args]) => [name, gateway.gateway.spawn(NODE, args, { name: 'second' })] as const,
    );
    for (const [name, second] of seconds) {
      t.equal(await second.ended(), 1, name);
      t.match(
        second.log(),
        /another daemon uses the state directory \S+; end it, or give/,
        'with what to do',
      );
      t.notMatch(second.log(), 'resumed');
    }
    const [after] = (await agent.status()).bfd.sessions;
    for (const key of ['transitions', 'localDiscriminator', 'remoteDiscriminator', 'since'] as const) {
      t.same(after?.[key], before?.[key], `the same ${key}`);
    }
    t.equal(frr.sessions()[0]?.state, 'Up');
  },
);

t.test('cleanup beside the daemon is refused, and changes nothing', async (t) => {
  const { agent, gateway: ns, stateDir } = await ready();
  const before = kernelState(ns);
  const { code, stdout, stderr } = agent.cli('cleanup');
  t.same([code, stdout], [1, '']);
  t.match(stderr, /^veg-agent: nothing was removed: a daemon serves \S+control\.sock .*end the daemon/);
  t.same(kernelState(ns), before);
  t.ok(existsSync(join(stateDir, 'last-policy.json.gz')), 'the last good policy is still there');
  t.equal((await agent.status()).kernel.driftRepaired.chain ?? 0, 0, 'nothing had to be restored');
});

t.test('signals while the agent process starts neither open the inspector nor end it', async (t) => {
  const { agent, gateway: ns } = await ready();
  const before = childOf(agent.daemon.pid)!;
  const log = agent.daemon.log().length;
  process.kill(before, 'SIGKILL');
  let open = false;
  const started = () =>
    agent.status().then(
      ({ kernel }) => childOf(agent.daemon.pid) !== before && kernel.inSync,
      () => false,
    );
  while (!(await started())) {
    for (const signal of ['SIGHUP', 'SIGUSR1'] as const) agent.daemon.signal(signal);
    open ||= inspected(ns);
    await sleep(10);
  }
  await agent.synced();
  const said = () => agent.daemon.log().slice(log);
  t.equal(said().split('the agent process ended').length - 1, 1, 'it was killed once, and no more');
  t.notOk(open, 'nobody could debug it');
  for (const done of ['SIGHUP: reading the policy again', 'state of the agent process']) {
    await until(() => said().includes(done), { what: `what came too early is done later: ${done}` });
  }
  process.kill(childOf(agent.daemon.pid)!, 'SIGUSR1');
  process.kill(childOf(agent.daemon.pid)!, 'SIGTERM');
  await agent.synced();
  t.notOk(inspected(ns));
});

/** Gives a process a soft limit, or as much as it may have. Only its own user may do so everywhere. */
function limit(pid: number, flag: 'nofile' | 'nproc', value?: number, as: string[] = []): void {
  const name = { nofile: 'Max open files', nproc: 'Max processes' }[flag];
  const hard = new RegExp(`^${name} +\\S+ +(\\S+)`, 'm').exec(
    readFileSync(`/proc/${pid}/limits`, 'utf8'),
  )![1];
  must('env', [...as, 'prlimit', '--pid', `${pid}`, `--${flag}=${value ?? hard}:`]);
}

t.test('an agent process that cannot be forked (EMFILE) is started when it can be', async (t) => {
  const { agent, frr } = await ready();
  const { pid } = agent.daemon;
  const before = childOf(pid)!;
  limit(pid, 'nofile', 3);
  process.kill(before, 'SIGKILL');
  await until(() => agent.daemon.log().includes('the agent process cannot be started'), { what: 'told' });
  t.match(agent.daemon.log(), /EMFILE/);
  limit(pid, 'nofile');
  await newChild(pid, before);
  await agent.synced();
  t.equal(frr.sessions()[0]?.state, 'Up', 'the session does not notice');
});

t.test('SIGTERM ends with 0 after a drain where there is no agent process to be had', async (t) => {
  const { agent, frr } = await ready();
  const { pid } = agent.daemon;
  const log = agent.daemon.log().length;
  limit(pid, 'nofile', 3);
  process.kill(childOf(pid)!, 'SIGKILL');
  await until(() => agent.daemon.log().slice(log).includes('cannot be started'), {
    what: 'no agent process',
  });
  t.equal(frr.sessions()[0]?.state, 'Up', 'the session does not mind');
  const code = agent.stop('SIGTERM');
  await until(() => frr.sessions()[0]?.drained, { what: 'AdminDown at FRR' });
  t.equal(await code, 0);
});

t.test('EAGAIN, the limit on processes, as a user other than root; at the very start too', async (t) => {
  const { scope, gateway: ns, policyDir } = gateway;
  const stateDir = scope.directory('user');
  must('chown', ['54321:54321', stateDir]);
  const preload = join(scope.directory('preload'), 'limit.mjs');
  // Before the first fork; the threads that Node needs have been started by then.
  writeFileSync(
    preload,
    `import { ChildProcess, spawnSync } from 'node:child_process';
import { stat } from 'node:fs/promises';
const { spawn } = ChildProcess.prototype;
await Promise.all(Array.from({ length: 8 }, () => stat('/')));
if (process.argv.includes('run')) ChildProcess.prototype.spawn = function (...args) {
  ChildProcess.prototype.spawn = spawn;
  spawnSync('prlimit', ['--pid', String(process.pid), '--nproc=1:']);
  return spawn.apply(this, args);
};
`,
  );
  const user = ['setpriv', '--reuid=54321', '--regid=54321', '--clear-groups'];
  const capabilities = '+net_admin,+net_raw';
  must('chmod', ['755', policyDir, dirname(preload)]);
  const agent = new Agent(ns, {
    policyDir,
    stateDir,
    env: { NODE_OPTIONS: `--import=${preload}` },
    wrapper: [
      ...user,
      ...[
        '--bounding-set=-all,+net_admin,+net_raw',
        `--inh-caps=${capabilities}`,
        `--ambient-caps=${capabilities}`,
      ],
    ],
  });
  await until(() => /EAGAIN/.test(agent.daemon.log()), { what: 'EAGAIN is told' });
  t.equal(agent.daemon.exitCode, undefined, 'the daemon lives on');
  limit(agent.daemon.pid, 'nproc', undefined, user);
  await newChild(agent.daemon.pid, undefined);
  await agent.statusUntil('it looks at the kernel', ({ kernel }) => kernel.lastReconcile !== null);
  t.equal(await agent.stop('SIGTERM'), 0);
});

t.test('a start that cannot succeed ends with 1 and says why', async (t) => {
  const { scope, gateway: ns, policyDir } = gateway;
  const stateDir = scope.directory('taken');
  const holder = ns.spawn('nc.openbsd', ['-lkU', join(stateDir, 'control.sock')], { name: 'holder' });
  await until(() => existsSync(join(stateDir, 'control.sock')), { what: 'a stranger at the control socket' });
  const file = join(stateDir, 'file');
  writeFileSync(file, '');
  for (const [dir, reason] of [
    [stateDir, /another daemon serves .*control\.sock/],
    [file, /state directory .*file cannot be used: .*; make it writable for this user, or name another/],
    ['/proc/veg-agent', /state directory \/proc\/veg-agent cannot be used/],
  ] as const) {
    for (const command of [
      [AGENT, 'run', '--policy-dir', policyDir],
      [BFDD, '--local', LOCAL, '--peer', SESSION.local],
    ]) {
      const daemon = ns.spawn(NODE, [...command, '--state-dir', dir], { name: 'start' });
      t.equal(await daemon.ended(), 1, `${command[0]} ${dir}`);
      t.match(daemon.log(), reason);
    }
  }
  await holder.stop('SIGKILL');
});

t.test('SIGTERM and SIGUSR2 during the start end with 0', async (t) => {
  const { scope, gateway: ns, policyDir } = gateway;
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGUSR2'] as const) {
    for (const program of [
      [AGENT, 'run', '--policy-dir', policyDir, '--state-dir'],
      [BFDD, '--local', LOCAL, '--peer', SESSION.local, '--state-dir'],
    ]) {
      const stateDir = scope.directory('early');
      // As soon as handlers are there: the signals that the kernel says are caught.
      const daemon = ns.spawn(NODE, [...program, stateDir], { name: 'early' });
      await until(
        () => {
          const caught = /^SigCgt:\s*(\w+)/m.exec(readFileSync(`/proc/${daemon.pid}/status`, 'utf8'));
          return (BigInt(`0x${caught![1]}`) & (1n << 11n)) !== 0n;
        },
        { what: 'SIGUSR2, the last one, has a handler', everyMs: 1 },
      );
      t.equal(await daemon.stop(signal), 0, `${signal} ${program[0]}`);
    }
  }
});

t.test('the first process of a container reaps orphans, and sees the end of its own child', async (t) => {
  const { scope, gateway: ns, policyDir } = gateway;
  const programs = {
    'veg-agent': [AGENT, 'run', '--policy-dir', policyDir, '--state-dir', scope.directory('first')],
    'veg-bfdd': [BFDD, '--local', LOCAL, '--peer', SESSION.local, '--state-dir', scope.directory('first')],
  };
  for (const [name, program] of Object.entries(programs)) {
    const outer = ns.spawn('unshare', ['--pid', '--fork', '--mount-proc', NODE, ...program], { name });
    await until(() => existsSync(join(program.at(-1)!, 'control.sock')), { what: `${name} serves` });
    const first = childOf(outer.pid)!;
    const child = childOf(first);
    const inside = (script: string) => must('nsenter', ['-t', `${first}`, '-p', '-m', 'sh', '-c', script]);
    inside('for i in $(seq 30); do (sleep 0.$i &) ; done');
    await until(() => !inside('ps -eo stat,comm').includes('sleep'), {
      what: 'every orphan has ended and is gone',
    });
    await until(() => !/^Z/m.test(inside('ps -eo stat')), { what: `${name}: no zombie` });
    if (child !== undefined) {
      // Orphans and the child at once.
      inside('for i in $(seq 30); do (sleep 0.1 &) ; done');
      process.kill(child, 'SIGKILL');
      await until(() => outer.log().includes('"signal":"SIGKILL"'), {
        what: 'the status of the agent process',
      });
      await newChild(first, child);
      await until(() => !/^Z/m.test(inside('ps -eo stat')), { what: 'no zombie' });
    }
    process.kill(first, 'SIGTERM');
    t.equal(await outer.ended(), 0);
  }
});

// Tools that hang, refuse IPv6 or kill the agent process as long as a file says so.
const tools = gateway.scope.directory('tools');
const hang = join(tools, 'hang');
const refuse = join(tools, 'refuse');
const die = join(tools, 'die');
for (const tool of ['iptables', 'ip6tables']) {
  for (const name of [`${tool}-save`, `${tool}-nft-save`, `${tool}-legacy-save`]) {
    const script = `#!/bin/sh
[ ! -e ${hang} ] || exec sleep 1000
[ ! -e ${refuse} ] || [ ${tool} = iptables ] || exit 1
[ ! -e ${die} ] || kill -9 $PPID
exec /usr/sbin/${name} "$@"
`;
    writeFileSync(join(tools, name), script, { mode: 0o755 });
  }
}
const env = { PATH: `${tools}:${process.env.PATH}` };

t.test('a family that cannot be looked at does not keep the other one from coming Up', async (t) => {
  const { scope, frr, start } = gateway;
  if (gateway.agent.daemon.exitCode === undefined) await gateway.agent.stop();
  writeFileSync(refuse, '');
  const agent = start({ env, stateDir: scope.directory('fresh') });
  const { kernel } = await agent.statusUntil('IPv6 cannot be read', (s) => s.kernel.failed.length > 0);
  t.match(kernel.failed, [{ object: 'listing', family: 6 }]);
  await peerUp(frr);
  t.equal(agent.http('/readyz').status, 503, 'a minute is given to the family that nothing is known of');
  unlinkSync(refuse);
  await agent.statusUntil('ready', ({ ready }) => ready);
  t.equal(await agent.stop(), 0);
});

t.test('sessions leave Up a minute after the last look, and come back with the next', async (t) => {
  const { frr, start } = gateway;
  const isUp = () => frr.sessions()[0]?.state === 'Up';
  if (gateway.agent.daemon.exitCode === undefined) await gateway.agent.stop('SIGKILL');
  const first = start({ env });
  await first.statusUntil('ready', ({ ready }) => ready);
  await peerUp(frr);

  // Looks that hang, in a process that goes on with a session of the one before: it hears of no intent at all.
  writeFileSync(hang, '');
  t.equal(await first.stop('SIGUSR2'), 0);
  const agent = start({ env });
  await until(() => agent.daemon.log().includes('BFD session resumed'), { what: 'the session is resumed' });
  await until(() => !isUp(), { what: 'the session leaves Up', everyMs: 200 });
  t.match(agent.daemon.log(), /"level":"error".*the gateway is not watched; sessions are taken out of Up/);
  await until(() => agent.http('/livez').status === 503, { what: 'told in /livez' });
  const reason = /kernel and uplink were not observed for \d+ s: .*iptables/;
  t.match(agent.http('/livez').body, reason);
  t.match(agent.http('/readyz').body, reason);

  // Agent processes that die in the middle of each look: each says that it is there, and watches nothing.
  writeFileSync(die, '');
  unlinkSync(hang);
  const ends = () => agent.daemon.log().split('the agent process ended').length - 1;
  process.kill(childOf(agent.daemon.pid)!, 'SIGKILL');
  await until(() => ends() >= 4, { what: 'agent processes die' });
  t.notOk(isUp(), 'which brings no session back');

  unlinkSync(die);
  await until(isUp, { what: 'Up again' });
  await agent.statusUntil('ready', ({ ready }) => ready);
  t.equal(agent.http('/livez').status, 200);
  t.match(agent.daemon.log(), 'the gateway is watched again');
  t.equal(await agent.stop(), 0);
});
