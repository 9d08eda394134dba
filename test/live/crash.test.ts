/**
 * The crash matrix: what may go wrong around a gateway that carries 1000 packets a second and 200 open TCP
 * connections, and what traffic sees of it. The measured rows are in docs/operations.md.
 */
import { chmodSync, existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { CADENCE } from '../../agent/cadence.ts';
import { Agent, BFD, DIRECT, PolicyDirectory, WEB } from '../support/agent.ts';
import { forwardedBlocks } from '../support/kernel.ts';
import { must, run, until } from '../support/netns.ts';
import { peerUp, startFrr } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, EXTERNAL_ADDRESSES, EXTERNAL_ADDRESSES_6, topology } from '../support/topology.ts';
import { startEchoServer } from '../support/traffic.ts';
import { CONNECTIONS, Load, loadLine } from './load.ts';

const LOCAL = ADDRESS.gatewayInternal[4];
/** What a change of an IPv4 block runs: two that look, before it or after it, and one that changes. */
const STEPS = ['iptables-nft-save', 'ip6tables-nft-save', 'iptables-nft-restore'];

const scope = scopeOf(t);
const { client, router, gateway, server } = topology(scope);

/** A tmpfs at a directory of ours. It goes before the scope does. */
function tmpfs(name: string, options: string): string {
  const dir = scope.directory(name);
  must('mount', ['-t', 'tmpfs', '-o', options, 'veg-test', dir]);
  t.teardown(() => run('umount', ['-l', dir]));
  return dir;
}

// Tools that kill the agent process at a step of a reconcile when they are told to: just before, or just after.
const tools = scope.directory('tools');
const trap = join(tools, 'trap');
for (const name of STEPS) {
  const script = `#!/bin/sh
when=
if [ -e ${trap} ]; then
  read when at < ${trap}
  [ "$at" = ${name} ] || when=
fi
if [ "$when" = before ]; then rm ${trap}; kill -9 $PPID; exit 1; fi
/usr/sbin/${name} "$@"
code=$?
if [ "$when" = after ]; then rm ${trap}; kill -9 $PPID; fi
exit $code
`;
  writeFileSync(join(tools, name), script);
  chmodSync(join(tools, name), 0o755);
}

// A wall clock that jumps by what stands in a file, s; the kernel's monotonic clock cannot jump. And what conntrack
// says that it has dropped, because a table that is full is full for the whole machine.
const clock = join(tools, 'clock.mjs');
const jump = join(tools, 'jump');
const statistics = join(tools, 'nf_conntrack');
writeFileSync(jump, '0');
const dropped = (flows: number, evicted: number): void =>
  writeFileSync(statistics, `drop early_drop\n${[flows, evicted].map((n) => n.toString(16)).join(' ')}\n`);
dropped(0, 0);
writeFileSync(
  clock,
  `import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
const { readFileSync } = fs;
fs.readFileSync = (path, options) =>
  readFileSync(path === '/proc/net/stat/nf_conntrack' ? ${JSON.stringify(statistics)} : path, options);
syncBuiltinESMExports();
const { now } = Date;
Date.now = () => now() + 1000 * Number(readFileSync(${JSON.stringify(jump)}, 'utf8'));
globalThis.Date = class extends Date {
  constructor(...args) { if (args.length === 0) super(Date.now()); else super(...args); }
};
`,
);

const policy = new PolicyDirectory(scope);
const stateDir = tmpfs('state', 'size=256k,nr_inodes=16');
// A limit that the test can reach; the kernel's own is for the whole machine.
const limit = join(tools, 'conntrack-max');
writeFileSync(limit, '100000\n');
const start = (): Agent =>
  new Agent(gateway, {
    policyDir: policy.dir,
    stateDir,
    env: { PATH: `${tools}:${process.env.PATH}`, NODE_OPTIONS: `--import=${clock}` },
    wrapper: [
      ...['unshare', '-m', 'sh', '-ec'],
      `mount --bind ${limit} /proc/sys/net/netfilter/nf_conntrack_max; exec "$@"`,
      'sh',
    ],
  });

policy.set({ bfd: BFD });
let agent = start();
const frr = await startFrr(scope, router, { sessions: [{ local: ADDRESS.bfdPort[4], remote: LOCAL }] });
await startEchoServer(server);
await peerUp(frr);
await agent.statusUntil('ready', ({ ready }) => ready);
let load = await Load.start(client, ADDRESS.server[4]);
t.teardown(() => load.stop());

/** The agent process, the child of the BFD process; undefined while there is none. */
const agentProcess = (): number | undefined =>
  Number(run('pgrep', ['-P', `${agent.daemon.pid}`]).stdout.split('\n')[0]) || undefined;

/** Times that the session has left Up, as the peer's end of it says. */
const flaps = () =>
  agent.metric(
    `veg_bfd_session_transitions_total{local="${LOCAL}",remote="${ADDRESS.bfdPort[4]}",from="Up",to="AdminDown",diag="6"}`,
  ) ?? 0;

/** One row: something goes wrong, traffic sees nothing of it, and all is well again when `act` ends. */
async function harmless(t: Test, act: () => Promise<unknown>): Promise<void> {
  await load.report();
  const began = performance.now();
  await act();
  const seconds = (performance.now() - began) / 1000;
  const report = await load.report();
  t.comment(`${seconds.toFixed(1)} s; ${loadLine(report)}`);
  t.equal(report.lost, 0, 'no packet lost');
  t.equal(report.broken, 0, 'no connection broken');
  t.equal(report.open, CONNECTIONS);
  t.equal(frr.sessions()[0]?.state, 'Up', 'the peer is Up');
}

/** The last of the forwarded blocks of these tests, to see a policy in the kernel. */
const block = (n: number) => `10.${100 + n}.0.0/16`;
const withBlock = (n: number) => ({
  bfd: BFD,
  policies: [DIRECT, { name: 'more', snat: false, ipBlocks: [block(n)] }, WEB],
});
const inKernel = (n: number) => forwardedBlocks(gateway, 4).includes(block(n));
const converged = (n: number) =>
  until(async () => inKernel(n) && (await agent.status()).kernel.inSync, {
    what: `block ${n} in the kernel`,
  });

t.test('kill -9 of the agent process at each step of a reconcile', async (t) => {
  let kills = 0;
  await harmless(t, async () => {
    for (const step of STEPS) {
      for (const when of ['before', 'after'] as const) {
        const victim = agentProcess();
        writeFileSync(trap, `${when} ${step}\n`);
        const n = (kills + 1) % 100;
        policy.set(withBlock(n));
        await until(() => !existsSync(trap), { what: `the kill ${when} ${step}` });
        kills++;
        await until(() => ![undefined, victim].includes(agentProcess()), { what: 'another agent process' });
        await converged(n);
        // The pause before a restart grows; a new parent begins anew, and the peer does not notice.
        if (kills % 4 === 0) {
          await agent.stop('SIGUSR2');
          agent = start();
          await converged(n);
        }
      }
    }
  });
  t.equal(kills, 2 * STEPS.length);
  t.equal(agent.cli('plan').code, 0);
});

t.test('the agent process runs out of memory', async (t) => {
  await harmless(t, async () => {
    const victim = agentProcess()!;
    // What V8 does then.
    process.kill(victim, 'SIGABRT');
    await until(() => ![undefined, victim].includes(agentProcess()), { what: 'another agent process' });
    policy.set(withBlock(60));
    await converged(60);
  });
});

t.test('kill -9 of the BFD process', async (t) => {
  await harmless(t, async () => {
    agent.daemon.signal('SIGKILL');
    await agent.daemon.ended();
    await until(() => gateway.run('pgrep', ['-f', stateDir]).stdout === '', {
      what: 'the agent process ends too',
    });
    agent = start();
    await peerUp(frr);
    await agent.statusUntil('ready', ({ ready }) => ready);
  });
});

t.test('the control socket is deleted', async (t) => {
  await harmless(t, async () => {
    rmSync(join(stateDir, 'control.sock'));
    await until(() => existsSync(join(stateDir, 'control.sock')), { what: 'the control socket again' });
    t.equal(agent.cli('status').code, 0);
  });
});

t.test('the state directory is full', async (t) => {
  const restarted = async (n: number) => {
    const victim = agentProcess()!;
    process.kill(victim, 'SIGKILL');
    await until(() => ![undefined, victim].includes(agentProcess()), { what: 'another agent process' });
    policy.set(withBlock(n));
    await until(() => inKernel(n), { what: 'the policy in the kernel' });
  };
  await harmless(t, async () => {
    // No room for data.
    run('dd', ['if=/dev/zero', `of=${stateDir}/junk`, 'bs=4k']);
    await restarted(61);
    await converged(61);
    rmSync(join(stateDir, 'junk'));
    // No room for files, as on a read-only file system.
    rmSync(join(stateDir, 'control.sock'));
    run('sh', ['-c', `i=0; while : > ${stateDir}/junk$i; do i=$((i+1)); done`]);
    await restarted(62);
    await until(() => agent.http('/readyz').status === 200, { what: 'ready without a control socket' });
    run('sh', ['-c', `rm ${stateDir}/junk*`]);
    await converged(62);
    await agent.statusUntil('ready', ({ ready }) => ready);
  });
});

t.test('the policy directory is unmounted and comes back', async (t) => {
  await harmless(t, async () => {
    policy.set(withBlock(62));
    await converged(62);
    const empty = scope.directory('empty');
    // In the agent's own mount namespace.
    const inside = (...command: string[]) => must('nsenter', ['-m', '-t', `${agent.daemon.pid}`, ...command]);
    inside('mount', '--bind', empty, policy.dir);
    const { reasons } = await agent.statusUntil('the policy is gone', (s) => !s.policy.valid);
    t.match(reasons.join('\n'), /the last good policy stays in force/);
    t.ok(inKernel(62), 'nothing is removed');
    inside('umount', policy.dir);
    policy.set(withBlock(63));
    await converged(63);
    await agent.statusUntil('ready', ({ ready }) => ready);
  });
});

t.test('the clock jumps an hour forward and two back', async (t) => {
  const before = flaps();
  await harmless(t, async () => {
    for (const [i, seconds] of [3600, -3600, 0].entries()) {
      writeFileSync(jump, `${seconds}`);
      const expected = Date.now() + 1000 * seconds;
      policy.set(withBlock(70 + i));
      await converged(70 + i);
      await agent.statusUntil(
        'a reconcile by the clock that jumped',
        ({ kernel: { lastReconcile } }) => Math.abs(Date.parse(lastReconcile!.at) - expected) < 60_000,
      );
      t.equal(agent.http('/livez').status, 200);
      t.equal(agent.http('/readyz').status, 200);
      const session = `{local="${LOCAL}",remote="${ADDRESS.bfdPort[4]}"}`;
      const uptime = agent.metric(`veg_bfd_session_uptime_seconds${session}`) ?? -1;
      t.ok(uptime > 0 && uptime < 1800, `the session is Up for ${uptime} s`);
    }
  });
  t.equal(flaps(), before, 'the session never left Up');
});

t.test('another program fights over the rules', async (t) => {
  const before = (await agent.status()).kernel.driftRepaired.rule ?? 0;
  const log = agent.daemon.log().length;
  await harmless(t, async () => {
    const fight = gateway.spawn(
      'sh',
      [
        '-c',
        'while :; do ip rule del priority 1003; ip route flush table 1000; iptables -t raw -F VEG-NOTRACK; sleep 0.02; done',
      ],
      { name: 'fight' },
    );
    // More than the burst: it goes on at its slower rate.
    await agent.statusUntil(
      'repaired again and again',
      ({ kernel }) => (kernel.driftRepaired.rule ?? 0) > before + CADENCE.repairBurst,
    );
    await fight.stop('SIGKILL');
    await agent.statusUntil('repaired', (s) => s.ready && s.kernel.inSync);
    await until(() => agent.cli('plan').code === 0, { what: 'the kernel as the policy says' });
  });
  t.match(
    agent.daemon.log().slice(log),
    /"writer":"(pid|nf_tables changed by)[^}]*"repairing drift"/,
    'with who it was',
  );
});

t.test('the external link loses its carrier a hundred times', async (t) => {
  await load.report();
  const before = flaps();
  const began = performance.now();
  const flap = 'ip link set eth0 down; sleep 0.01; ip link set eth0 up; sleep 0.01';
  server.run('sh', ['-c', `i=0; while [ $i -lt 100 ]; do ${flap}; i=$((i+1)); done`]);
  const flapping = performance.now() - began;
  server.ip('addr replace fd00:172:17::1/64 dev eth0 nodad');
  const mended = performance.now();
  await peerUp(frr);
  await agent.statusUntil('ready', ({ ready }) => ready);
  t.comment(
    `flapped for ${(flapping / 1000).toFixed(1)} s, ready ${((performance.now() - mended) / 1000).toFixed(1)} s later`,
  );
  t.equal(flaps() - before, 1, 'the session left Up once');
  await until(() => agent.cli('plan').code === 0, { what: 'the kernel as the policy says' });
  const report = await load.report();
  t.comment(loadLine(report));
  t.equal(report.broken, 0, 'connections outlive it');
});

t.test('the connection tracking table is full', async (t) => {
  const entries = () => Number(gateway.run('cat', ['/proc/sys/net/netfilter/nf_conntrack_count']).stdout);
  const set = (share: number) => writeFileSync(limit, `${Math.round(entries() / share)}\n`);
  set(0.85);
  const { uplink, ready } = await agent.statusUntil('the warning', (s) => (s.uplink?.notes.length ?? 0) > 0);
  t.match(uplink?.notes, [
    /the connection tracking table is 8\d % full: raise net\.netfilter\.nf_conntrack_max/,
  ]);
  t.ok(ready, 'a warning is no reason to leave');
  t.equal(frr.sessions()[0]?.state, 'Up');
  set(0.99);
  dropped(0, 5000);
  await agent.statusUntil('a full table', (s) => s.uplink?.notes[0]?.includes('table is 99 %') ?? false);
  dropped(50, 9000);
  set(0.985);
  await agent.statusUntil('another look', (s) => /table is 9[78] %/.test(s.uplink?.notes[0] ?? ''));
  t.equal(frr.sessions()[0]?.state, 'Up', 'nor is a full one, in which the kernel makes room');
  dropped(60, 9000);
  await until(() => frr.sessions()[0]?.state !== 'Up', {
    what: 'the session leaves Up: new connections fail',
  });
  t.match(agent.http('/readyz'), {
    status: 503,
    body: /IPv4 uplink: the connection tracking table is \d+ % full and new connections fail/,
  });
  set(0.93);
  await agent.statusUntil('another look', (s) => /table is 9[23] %/.test(s.uplink?.notes[0] ?? ''));
  t.not(frr.sessions()[0]?.state, 'Up', 'a little room is not enough');
  set(0.5);
  await peerUp(frr);
  await agent.statusUntil('ready', ({ ready }) => ready);
  const { lost, broken } = await load.report();
  t.same({ lost, broken }, { lost: 0, broken: 0 }, 'open connections do not mind');
});

t.test('the external link is set down and up', async (t) => {
  await load.report();
  gateway.ip('link set net1 down');
  await until(() => frr.sessions()[0]?.state !== 'Up', { what: 'the session leaves Up' });
  gateway.ip('link set net1 up');
  gateway.ip(EXTERNAL_ADDRESSES);
  gateway.ip(EXTERNAL_ADDRESSES_6);
  const mended = performance.now();
  await peerUp(frr);
  await agent.statusUntil('ready', ({ ready }) => ready);
  await until(() => agent.cli('plan').code === 0, { what: 'the kernel as the policy says' });
  t.comment(
    `ready after ${((performance.now() - mended) / 1000).toFixed(1)} s; ${loadLine(await load.report())}`,
  );
  // The kernel ends masqueraded connections with the interface: the load begins anew.
  load.stop();
  load = await Load.start(client, ADDRESS.server[4]);
});
