/**
 * What the kernel refuses of a newer policy takes nothing away that works: the family stays Up at its last good state
 * with all of the new one that goes in, the rest is told object by object and goes in when it can.
 */
import { chmodSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { StatusDocument } from '../../agent/show/status.ts';
import { Agent, type AgentOptions, BFD, cli, DIRECT, PolicyDirectory, WEB } from '../support/agent.ts';
import { kernelState } from '../support/kernel.ts';
import { type Namespace, type Output, until } from '../support/netns.ts';
import { type BfdPeer, peerUp, startFrr } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, type Topology, topology } from '../support/topology.ts';

const FAMILIES = [4, 6] as const;

interface Lab extends Topology {
  policy: PolicyDirectory;
  peer: BfdPeer;
  agent: Agent;
  /** Makes the programs refuse input with this text, with this reason; or takes everything again. */
  refuse: (text?: string, reason?: string) => void;
  directory: string;
}

/** Programs that refuse what `refuse` says, in front of the real ones. */
const SHIM = (real: string, dir: string): string => `#!/bin/sh
case "$*" in --version) exec ${real} "$@";; esac
[ -e ${dir}/text ] || exec ${real} "$@"
input=$(cat; echo x); input=\${input%x}
if printf %s "$input" | grep -qF -f ${dir}/text; then cat ${dir}/reason >&2; exit 1; fi
printf %s "$input" | ${real} "$@"
`;

/** A gateway whose sessions are Up with a policy, with both families and FRR as its peer. */
async function lab(
  t: Test,
  options: Partial<AgentOptions> = {},
  prepare?: (gateway: Namespace, init: (command: string) => Output) => void,
): Promise<Lab> {
  const scope = scopeOf(t);
  const net = topology(scope);
  const directory = scope.directory('files');
  const bin = join(directory, 'bin');
  mkdirSync(bin);
  for (const tool of ['iptables-nft-restore', 'ip6tables-nft-restore', 'ipset']) {
    writeFileSync(join(bin, tool), SHIM(`/usr/sbin/${tool}`, directory));
    chmodSync(join(bin, tool), 0o755);
  }
  const policy = new PolicyDirectory(scope);
  policy.set({ bfd: BFD });
  const directories = { policyDir: policy.dir, stateDir: scope.directory('state') };
  prepare?.(net.gateway, (command) => {
    const output = cli(net.gateway, directories, command);
    net.gateway.sh(`chmod -R a+rX ${policy.dir}`);
    net.gateway.sh(`chown -R 65534 ${directories.stateDir}`);
    return output;
  });
  const sessions = FAMILIES.map((family) => ({
    ...{ local: ADDRESS.bfdPort[family], remote: ADDRESS.gatewayInternal[family] },
  }));
  const peer = await startFrr(scope, net.router, { sessions });
  const agent = new Agent(net.gateway, {
    ...directories,
    env: { PATH: `${bin}:${process.env.PATH}` },
    ...options,
  });
  await agent.synced();
  await peerUp(peer);
  const refuse = (text?: string, reason = '') => {
    rmSync(join(directory, 'text'), { force: true });
    if (text === undefined) return;
    writeFileSync(join(directory, 'reason'), `${reason}\n`);
    writeFileSync(join(directory, 'text'), text);
  };
  return { ...net, policy, peer, agent, refuse, directory };
}

/** Nobody has left Up since the sessions came Up. */
function stayedUp(t: Test, { bfd }: StatusDocument): void {
  t.equal(bfd.sessions.length, 2);
  for (const { local, state, transitions } of bfd.sessions) {
    t.equal(state, 'Up', local);
    t.same(
      transitions.filter(({ from }) => from === 'Up'),
      [],
      `${local} never left Up`,
    );
  }
}

/** Waits until one object of a kind is told to have failed, everywhere where it is told, and the sessions are Up. */
async function refused(
  t: Test,
  agent: Agent,
  expected: { object: string; reason: string; name?: string | RegExp },
): Promise<StatusDocument> {
  const { object, reason, name } = expected;
  const isIt = (failed: StatusDocument['kernel']['failed'][number]) =>
    failed.object === object &&
    failed.reason === reason &&
    (name === undefined || (typeof name === 'string' ? failed.name === name : name.test(failed.name)));
  const status = await agent.statusUntil(`${object} ${reason}`, ({ kernel }) => kernel.failed.some(isIt));
  t.match(status.kernel.failed.find(isIt), expected);
  t.equal(status.ready, false);
  t.equal(status.kernel.inSync, false);
  t.match(agent.http('/readyz'), { status: 503, body: /kernel not in sync: / });
  await until(() => agent.metric('veg_agent_kernel_in_sync') === 0, { what: 'veg_agent_kernel_in_sync 0' });
  t.ok((agent.metric(`veg_agent_objects_failed{object="${object}",reason="${reason}"}`) ?? 0) > 0);
  const { message } = status.kernel.failed.find(isIt)!;
  await until(() => agent.daemon.log().includes(JSON.stringify(message).slice(1, 60)), {
    what: 'it is logged',
  });
  stayedUp(t, status);
  return status;
}

/** Waits until all is as the policy says, and nothing has failed. */
async function recovered(t: Test, agent: Agent): Promise<void> {
  const status = await agent.statusUntil('ready', ({ ready }) => ready);
  t.same(status.kernel.failed, []);
  stayedUp(t, status);
  t.equal(agent.cli('plan').code, 0);
}

const EXTRA = { name: 'extra', snat: false, ipBlocks: ['10.19.0.0/16', 'fd00:10:19::/64'] };
const nat = (gateway: Namespace, family: 4 | 6 = 4) =>
  gateway.sh(`${family === 4 ? 'iptables' : 'ip6tables'} -t nat -S`);

/** A set that the policy no longer needs and another program uses: everything else goes in. */
async function keepsUsedSet(t: Test, { gateway, policy, agent }: Lab, iptables: string): Promise<void> {
  const blocks = Array.from({ length: 40 }, (_, i) => `10.100.${i}.0/24`);
  const many = { name: 'many', snat: false, ipBlocks: blocks };
  const sets = () => gateway.sh('ipset list -n');
  policy.set({ bfd: BFD, policies: [DIRECT, WEB, many] });
  await until(() => sets().includes('VEG-FORWARD-4'), { what: 'the set' });
  await recovered(t, agent);
  // The agent removes rules with a set of its own from the tables that it reads.
  gateway.sh('ipset create holder list:set');
  gateway.sh('ipset add holder VEG-FORWARD-4');
  policy.set({ bfd: BFD, policies: [DIRECT, WEB, { ...many, ipBlocks: blocks.slice(0, 1) }, EXTRA] });
  const { kernel } = await refused(t, agent, { object: 'set', reason: 'in_use', name: 'VEG-FORWARD-4' });
  t.match(kernel.failed[0]!.message, /in use by a kernel component .*of another program uses it/);
  t.equal(kernel.failed.length, 1);
  const listing = gateway.sh(`${iptables} -t nat -S`);
  t.match(listing, '-s 10.100.0.0/24 -j RETURN', 'what is left of the policy');
  t.match(listing, '-s 10.19.0.0/16 -j RETURN', 'and what is new in it');
  t.notMatch(listing, 'VEG-FORWARD-4');
  gateway.sh(`${iptables} -t nat -F VEG-MASQUERADE`);
  await until(() => gateway.sh(`${iptables} -t nat -S`) === listing, { what: 'drift is repaired' });
  const applied = agent.cli('apply');
  t.match(applied, { code: 1, stderr: /set VEG-FORWARD-4: in_use: / });
  const drift = async () => (await agent.status()).kernel.driftRepaired.set ?? 0;
  const before = await drift();
  gateway.sh('ipset destroy holder');
  await recovered(t, agent);
  t.notMatch(sets(), 'VEG-');
  t.equal(await drift(), before, 'what could not go before is no drift');
}

/** Kills the agent process; its parent starts another. */
async function crash(agent: Agent): Promise<void> {
  const children = () =>
    readFileSync(`/proc/${agent.daemon.pid}/task/${agent.daemon.pid}/children`, 'utf8').trim().split(' ');
  const [first] = children();
  process.kill(Number(first), 'SIGKILL');
  await until(() => children()[0] !== first && children()[0] !== '', { what: 'another agent process' });
  await until(
    () =>
      agent.status().then(
        (status) => status.kernel.lastReconcile !== null,
        () => false,
      ),
    {
      what: 'it has looked at the kernel',
    },
  );
}

t.test('nf_tables', async (t) => {
  const made = await lab(t);
  const { gateway, server, policy, agent, refuse } = made;

  await t.test('a set that another program uses is left over, and nothing else', (t) =>
    keepsUsedSet(t, made, 'iptables'),
  );

  await t.test('without the module of the clamp everything but the clamp goes in', async (t) => {
    refuse('TCPMSS', 'Warning: Extension TCPMSS revision 0 not supported, missing kernel module?');
    policy.set({ bfd: BFD, policies: [DIRECT, WEB, EXTRA], mssClamp: true } as never);
    const { kernel } = await refused(t, agent, { object: 'chain', reason: 'unsupported', name: 'VEG-MSS' });
    t.equal(kernel.failed.length, 2, 'one in each family');
    t.match(nat(gateway, 4), '-s 10.19.0.0/16 -j RETURN', 'the rest of the policy');
    t.match(nat(gateway, 6), '-s fd00:10:19::/64 -j RETURN');
    const retries = () =>
      [...agent.http('/metrics').body.matchAll(/^veg_agent_reconcile_total\{.*trigger="retry"\} (\d+)/gm)]
        .map(([, count]) => Number(count))
        .reduce((a, b) => a + b, 0);
    const repaired = () =>
      /-j VEG-MASQUERADE/.test(nat(gateway)) && gateway.sh('ip route show default') !== '';
    // The time between two attempts grows, until it is longer than a repair takes.
    await until(
      async () => {
        const before = retries();
        gateway.sh('iptables -t nat -F');
        gateway.ip('route del default', 4);
        await until(repaired, { what: 'what others damage comes back', everyMs: 5 });
        return retries() === before;
      },
      { what: 'it comes back before the next attempt' },
    );
    const applied = agent.cli('apply');
    t.equal(applied.code, 1);
    t.match(applied.stderr, /chain VEG-MSS: unsupported: .*TCPMSS/);
    await crash(agent);
    await refused(t, agent, { object: 'chain', reason: 'unsupported', name: 'VEG-MSS' });
    refuse();
    await recovered(t, agent);
    t.match(gateway.sh('iptables -t mangle -S'), 'TCPMSS');
  });

  await t.test('without the module of the limit everything but the limit goes in', async (t) => {
    refuse('connlimit', 'Warning: Extension connlimit revision 0 not supported, missing kernel module?');
    const limits = { connectionsPerSource: 1000 };
    policy.set({ bfd: BFD, policies: [DIRECT, WEB, EXTRA], mssClamp: true, limits } as never);
    await refused(t, agent, { object: 'chain', reason: 'unsupported', name: 'VEG-LIMIT' });
    t.match(gateway.sh('iptables -t mangle -S'), 'TCPMSS');
    t.match(nat(gateway, 6), '-s fd00:10:19::/64 -j RETURN');
    refuse();
    await recovered(t, agent);
    const limited = () => gateway.sh('ip6tables -t mangle -S').includes('--connlimit-above 1000');
    t.ok(limited());
    policy.set({ bfd: BFD, policies: [DIRECT, WEB, EXTRA], mssClamp: true } as never);
    await until(() => !limited(), { what: 'the edit' });
    await recovered(t, agent);
  });

  await t.test(
    'a policy whose translation is refused leaves the last one whole, over a restart too',
    async (t) => {
      const ipv4 = () => kernelState(gateway).filter((line) => !/6 |fd00/.test(line));
      const before = ipv4();
      refuse('VEG-TO-', 'ipset v7.17: Kernel error received: Invalid argument');
      const blocks = Array.from({ length: 40 }, (_, i) => `10.100.${i}.0/24`);
      const far = {
        name: 'far',
        snat: false,
        destinationCIDRs: blocks.map((block) => block.replace('10.1', '10.2')),
      };
      policy.set({
        bfd: BFD,
        policies: [far, { ...DIRECT, ipBlocks: [...DIRECT.ipBlocks, ...blocks] }, WEB],
        mssClamp: true,
        uplink: { interval: '50ms', failures: 1, targets: ['192.0.2.1'] },
      } as never);
      await refused(t, agent, { object: 'set', reason: 'unsupported' });
      t.same(ipv4(), before, 'nothing of it is left behind');
      await crash(agent);
      await refused(t, agent, { object: 'set', reason: 'unsupported' });
      t.same(ipv4(), before);
      gateway.sh('iptables -t nat -F VEG-MASQUERADE');
      await until(() => nat(gateway).includes('--random-fully'), { what: 'the last good one is maintained' });
      const asked = (await agent.status()).uplink?.probes.map(({ address }) => `${address}`);
      t.notOk(asked?.includes('192.0.2.1'), 'the way out is that of the last good one');
      server.ip('addr add 192.0.2.1/32 dev lo');
      refuse();
      await recovered(t, agent);
    },
  );

  await t.test('a gateway that is on no network leaves the old way, and the other family', async (t) => {
    policy.set({ bfd: BFD, internal: { gateways: ['192.0.2.1', 'fd00:10:16::1'] } });
    const { kernel } = await refused(t, agent, { object: 'route', reason: 'unreachable', name: '0.0.0.0/0' });
    t.same(
      kernel.failed.filter(({ family }) => family === 6),
      [],
    );
    t.match(gateway.sh('ip route show table 1000'), 'default via 10.16.0.1');
    policy.set({ bfd: BFD });
    await recovered(t, agent);
  });

  await t.test('an interface that is not there leaves the last policy in force until it is', async (t) => {
    const before = kernelState(gateway);
    const external = { interface: 'net11', gateways: FAMILIES.map((family) => ADDRESS.server[family]) };
    policy.set({ bfd: BFD, external, policies: [DIRECT, WEB, EXTRA] });
    const told = { object: 'interface', reason: 'unreachable', name: 'eth0, net11' };
    const { kernel } = await refused(t, agent, told);
    t.match(kernel.failed[0]!.message, /^the external interface net11 does not exist/);
    t.match(kernel.interfaces, { external: 'net1' });
    await crash(agent);
    await refused(t, agent, told);
    t.same(kernelState(gateway), before);
    gateway.sh('iptables -t nat -F VEG-MASQUERADE');
    await until(() => nat(gateway).includes('--random-fully'), { what: 'the last good one is maintained' });
    policy.set({ bfd: BFD });
    await recovered(t, agent);
  });

  await t.test(
    'a device that the kernel refuses is one refusal, and the last policy stays whole',
    async (t) => {
      // Where the kernel has VRFs, another program has one of that name.
      const hasVrf = gateway.run('ip', ['link', 'add', 'vrf-vpn', 'type', 'vrf', 'table', '7']).code === 0;
      const before = kernelState(gateway);
      policy.set({
        bfd: BFD,
        policies: [DIRECT],
        bgp: { localASN: 65002, neighbours: [{ address: ADDRESS.server[4], asn: 65001 }] },
        evpn: { vni: 1016, routeTargets: ['65000:1016'] },
      });
      const told = { object: 'link', reason: hasVrf ? 'in_use' : 'unsupported', name: 'vrf-vpn' };
      const { kernel } = await refused(t, agent, told);
      t.equal(kernel.failed.length, 1, 'both families need it, and it is named once');
      t.match(kernel.failed[0]!.message, hasVrf ? /another program has this name/ : /load the module vrf/);
      t.same(kernelState(gateway), before);
      const applied = agent.cli('apply');
      t.equal(applied.code, 1);
      t.equal(applied.stderr.match(/vrf-vpn/g)?.length, 2, applied.stderr);
      if (hasVrf) gateway.sh('ip link del vrf-vpn');
      policy.set({ bfd: BFD });
      await recovered(t, agent);
    },
  );

  await t.test('a rule that only nft can list is named, and nothing is half written meanwhile', async (t) => {
    gateway.sh('nft add table ip filter');
    gateway.sh('nft add chain ip filter THEIRS');
    gateway.sh('nft add rule ip filter THEIRS ct state established counter accept');
    gateway.sh('nft add rule ip mangle FORWARD ct state established counter accept');
    const told = { object: 'table', reason: 'incompatible', name: 'mangle' };
    const { kernel } = await refused(t, agent, told);
    t.match(kernel.failed, [{ family: 4, message: /`nft -a list table ip mangle` shows it/ }]);
    t.equal(kernel.failed.length, 1, 'a foreign table of that kind is no matter');
    const before = nat(gateway);
    // A limit is in that table.
    policy.set({ bfd: BFD, policies: [DIRECT, WEB, EXTRA], limits: { connectionsPerSource: 1000 } } as never);
    await until(() => nat(gateway, 6).includes('fd00:10:19::/64'), { what: 'the other family' });
    // In the middle of a run.
    await crash(agent);
    await refused(t, agent, told);
    t.equal(nat(gateway), before);
    await crash(agent);
    await refused(t, agent, told);
    const plan = agent.cli('plan');
    t.equal(plan.code, 1, 'what would change cannot be told');
    t.match(plan.stderr, 'nft -a list table ip mangle');
    const handle = /ct state established .* handle (\d+)/.exec(
      gateway.sh('nft -a list chain ip mangle FORWARD'),
    )![1];
    gateway.sh(`nft delete rule ip mangle FORWARD handle ${handle}`);
    await recovered(t, agent);
    t.match(nat(gateway), '-s 10.19.0.0/16 -j RETURN');
    policy.set({ bfd: BFD, policies: [DIRECT, WEB, EXTRA] });
    await recovered(t, agent);
    await until(() => !gateway.sh('iptables -t mangle -S').includes('VEG-NEW'), { what: 'no limit' });
  });

  await t.test('what others have, whatever it is called, is passed over and stays', async (t) => {
    for (const [tool, more] of [
      ['iptables-nft', ''],
      ['ip6tables-nft', ' family inet6'],
    ] as const) {
      const suffix = tool === 'iptables-nft' ? '4' : '6';
      for (const name of [`set"${suffix}`, `"s${suffix}`, `s t${suffix}`, `n\nl${suffix}`]) {
        gateway.run('ipset', [
          'create',
          name,
          'hash:ip',
          ...more.trim().split(' ').filter(Boolean),
          'comment',
        ]);
        gateway.run(tool, [
          '-t',
          'nat',
          '-A',
          'POSTROUTING',
          '-m',
          'set',
          '--match-set',
          name,
          'src',
          '-j',
          'RETURN',
        ]);
      }
      for (const name of ['"x', 'a"b', 'b\\c', '#h', 'COMMIT', "it's", '[0:0]', '*s']) {
        gateway.run(tool, ['-t', 'nat', '-N', name]);
        gateway.run(tool, ['-t', 'nat', '-A', 'POSTROUTING', '-j', name]);
        gateway.run(tool, ['-t', 'mangle', '-N', name]);
      }
      for (const comment of [
        'a "b" \\c',
        'two\n-A POSTROUTING -j VEG-MASQUERADE',
        '--match-set VEG-A',
        "it's",
      ]) {
        gateway.run(tool, [
          '-t',
          'nat',
          '-A',
          'POSTROUTING',
          '-m',
          'comment',
          '--comment',
          comment,
          '-j',
          'RETURN',
        ]);
      }
      const rules = [
        ['-o', '"r', '-m', 'comment', '--comment', 'x -j VEG-MASQUERADE', '-j', 'RETURN'],
        ['-m', 'string', '--algo', 'bm', '--string', '" -j VEG-A "', '-j', 'RETURN'],
        ['-m', 'u32', '--u32', '0x0=0x0:0x1&&0x4=0x5', '-j', 'RETURN'],
        ['-m', 'bpf', '--bytecode', '4,48 0 0 9,21 0 1 6,6 0 0 1,6 0 0 0', '-j', 'RETURN'],
      ];
      for (const rule of rules) gateway.run(tool, ['-t', 'nat', '-I', 'POSTROUTING', ...rule]);
    }
    gateway.sh('ipset create nif hash:net,iface counters comment skbinfo timeout 0');
    gateway.run('ipset', ['add', 'nif', '10.0.0.0/8,eth"0', 'comment', "it's x"]);
    gateway.sh('ipset create lst list:set');
    gateway.run('ipset', ['add', 'lst', '"s4']);
    gateway.sh('ipset create ports bitmap:port range 0-100 comment');
    gateway.run('ipset', [
      'add',
      'ports',
      '5',
      'comment',
      'x\ncreate VEG-B hash:net family inet hashsize 64 maxelem 9',
    ]);
    for (const what of ['table inet VEG-X', 'chain inet VEG-X VEG-Y', 'table inet nat'])
      gateway.sh(`nft add ${what}`);
    gateway.ip(`
      nexthop add id 7 via 172.17.0.1 dev net1
      route add 192.0.2.0/28 nhid 7
      route add 192.0.2.16/28 nexthop via 172.17.0.1 dev net1 nexthop via 10.16.0.1 dev eth0
      route add 192.0.2.32/28 via inet6 fd00:172:17::1 dev net1
      route add blackhole 192.0.2.48/28
      route add throw 192.0.2.64/28
      route add unreachable 192.0.2.80/28 metric 4000000000
      route add prohibit 192.0.2.96/28 table 70000
      route add 192.0.2.112/28 via 172.17.0.1 dev net1 mtu lock 1300 advmss 900 initcwnd 7`);
    gateway.ip(
      `
      rule add priority 900 uidrange 1-5 lookup 70000
      rule add priority 901 fwmark 0x1/0xff sport 5-6 ipproto tcp lookup 70000
      rule add priority 902 from 192.0.2.0/24 goto 903
      rule add priority 903 not to 192.0.2.0/24 tos 0x10 suppress_prefixlength 0 lookup 70000
      rule add priority 904 unreachable to 192.0.2.1`,
      4,
    );
    const foreign = () => kernelState(gateway).filter((line) => !/VEG-(?:MSS|[A-Z]+ -p)/.test(line));
    const sets = gateway.sh('ipset list -n');
    const clamps = () => gateway.sh('iptables -t mangle -S').includes('TCPMSS');
    await recovered(t, agent);
    const before = foreign();
    policy.set({ bfd: BFD, policies: [DIRECT, WEB, EXTRA], mssClamp: true } as never);
    await until(() => clamps(), { what: 'the edit' });
    await recovered(t, agent);
    policy.set({ bfd: BFD, policies: [DIRECT, WEB, EXTRA] } as never);
    await until(() => !clamps(), { what: 'and back' });
    await recovered(t, agent);
    t.same(foreign(), before);
    t.equal(gateway.sh('ipset list -n'), sets);
  });
});

t.test('a table that only nft can list, without what was ours in it, takes the family down', async (t) => {
  const { gateway, agent } = await lab(t);
  const sessions = async () =>
    (await agent.status()).bfd.sessions.map(({ remote, state }) => `${remote} ${state}`).sort();
  const rule = 'ct state established counter accept';
  gateway.sh(`nft insert rule ip nat POSTROUTING ${rule}`);
  await refused(t, agent, { object: 'table', reason: 'incompatible', name: 'nat' });
  gateway.run('nft', [
    `flush ruleset; table ip nat { chain POSTROUTING { type nat hook postrouting priority srcnat; ${rule}; }; }`,
  ]);
  await until(async () => !(await sessions()).includes(`${ADDRESS.bfdPort[4]} Up`), {
    what: 'IPv4 leaves Up',
  });
  t.ok((await sessions()).includes(`${ADDRESS.bfdPort[6]} Up`), 'the other family stays');
  t.match(agent.http('/readyz').body, /POSTROUTING no longer jumps to VEG-MASQUERADE/);
  gateway.sh('nft delete table ip nat');
  await until(async () => (await sessions()).every((session) => session.endsWith(' Up')), {
    what: 'it is put back',
  });
});

t.test('legacy, as another user than root', async (t) => {
  const locks = scopeOf(t).directory('locks');
  const lock = join(locks, 'xtables.lock');
  writeFileSync(lock, '');
  for (const path of [locks, lock]) chmodSync(path, 0o777);
  const caps = '+net_admin,+net_raw,+net_bind_service';
  const user = [
    'setpriv',
    '--reuid=65534',
    '--regid=65534',
    '--clear-groups',
    `--inh-caps=${caps}`,
    `--ambient-caps=${caps}`,
  ];
  const made = await lab(t, { wrapper: user, env: { XTABLES_LOCKFILE: lock } }, (gateway, init) => {
    for (const tool of ['iptables', 'ip6tables']) gateway.sh(`${tool}-legacy -t nat -N FOREIGN`);
    t.equal(init('apply').code, 0, 'the init container');
  });
  const { gateway, policy, agent } = made;
  t.equal((await agent.status()).kernel.backend, 'legacy');

  await t.test('a set that another program uses is left over, and nothing else', (t) =>
    keepsUsedSet(t, made, 'iptables-legacy'),
  );

  await t.test('edits arrive in each table, and only tables that are needed are listed', async (t) => {
    policy.set({ bfd: BFD, policies: [DIRECT, WEB], mssClamp: true } as never);
    const clamps = () => gateway.sh('iptables-legacy -t mangle -S').includes('TCPMSS');
    await until(clamps, { what: 'the clamp' });
    await recovered(t, agent);
    policy.set({ bfd: BFD, policies: [DIRECT, WEB, EXTRA] });
    await until(() => !clamps(), { what: 'no clamp' });
    await recovered(t, agent);
    t.notMatch(gateway.sh('cat /proc/net/ip_tables_names'), /filter|security/);
  });

  await t.test('a held xtables lock is named and waited for, and the sessions stay Up', async (t) => {
    const holder = gateway.spawn('flock', [lock, 'sleep', '300'], { name: 'holder' });
    await until(() => gateway.run('flock', ['-n', lock, 'true']).code !== 0, { what: 'the lock is held' });
    policy.set({ bfd: BFD, policies: [DIRECT, WEB] });
    const { kernel } = await refused(t, agent, { object: 'chain', reason: 'locked' });
    t.match(kernel.failed[0]!.message, /xtables lock/);
    process.kill(-holder.pid, 'SIGKILL');
    await recovered(t, agent);
    t.notMatch(gateway.sh('iptables-legacy -t nat -S'), '10.19.0.0/16');
  });
});
