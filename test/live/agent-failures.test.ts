/** What the agent needs and has not got is named, with what to do; it keeps trying, and recovers. */
import { mkdirSync, readdirSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { Agent, type AgentOptions, BFD, PolicyDirectory } from '../support/agent.ts';
import { type Namespace, NODE, type Scope, until, veth } from '../support/netns.ts';
import { startFrr, startVegBfdd } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import {
  ADDRESS,
  EXTERNAL_ADDRESSES,
  EXTERNAL_ADDRESSES_6,
  INTERNAL_ADDRESSES,
  type Topology,
  topology,
} from '../support/topology.ts';

interface Pod extends Topology {
  policy: PolicyDirectory;
  scope: Scope;
  start: (options?: Partial<AgentOptions>) => Agent;
  directory: string;
}

function pod(t: Test): Pod {
  const scope = scopeOf(t);
  const net = topology(scope);
  const policy = new PolicyDirectory(scope);
  policy.set();
  const agent = { policyDir: policy.dir, stateDir: scope.directory('state') };
  return {
    ...net,
    scope,
    policy,
    start: (options) => new Agent(net.gateway, { ...agent, ...options }),
    directory: scope.directory('files'),
  };
}

/** Starts it with mounts of its own. */
const mounted = (script: string) => ['unshare', '-m', 'sh', '-ec', `${script}; exec "$@"`, 'sh'];

/** The reason stands in status, in /readyz and in the log. */
async function told(t: Test, agent: Agent, reason: RegExp, where = 'reason'): Promise<void> {
  const { reasons, ready } = await agent.statusUntil(`${where} ${reason}`, (status) =>
    reason.test(status.reasons.join('\n')),
  );
  t.equal(ready, false);
  t.match(reasons.join('\n'), reason, 'told in status');
  t.match(agent.http('/readyz'), { status: 503, body: reason }, 'told in /readyz');
  await until(() => reason.test(agent.daemon.log()), { what: `${reason} in the log` });
  t.equal(agent.http('/livez').status, 200, 'the agent lives');
}

t.test('a missing iptables is named, and used once it is there', async (t) => {
  const { start, directory, gateway } = pod(t);
  const bin = join(directory, 'bin');
  mkdirSync(bin);
  const agent = start({ wrapper: ['env', `PATH=${bin}`] });
  await told(t, agent, /iptables/);
  t.match((await agent.status()).reasons.join('\n'), /not found|install|missing/i, 'what to do about it');
  // All at once: an agent that finds only iptables-legacy uses it.
  const full = join(directory, 'full');
  mkdirSync(full);
  for (const name of readdirSync('/usr/sbin')) {
    if (/^(ip6?tables|xtables|ipset|ip$)/.test(name)) symlinkSync(join('/usr/sbin', name), join(full, name));
  }
  renameSync(full, bin);
  await agent.statusUntil('ready with iptables', ({ ready }) => ready);
  t.match(gateway.sh('iptables -t nat -S'), 'VEG-MASQUERADE');
});

t.test('missing NET_ADMIN is named', async (t) => {
  const { start, gateway } = pod(t);
  const agent = start({ wrapper: ['setpriv', '--bounding-set=-net_admin', '--inh-caps=-net_admin'] });
  await told(t, agent, /NET_ADMIN/);
  t.notMatch(gateway.sh('iptables -t nat -S'), 'VEG-MASQUERADE');
  const applied = start({ wrapper: ['setpriv', '--bounding-set=-net_admin', '--inh-caps=-net_admin'] }).cli(
    'apply',
  );
  t.equal(applied.code, 1);
  t.match(applied.stderr, /NET_ADMIN/, 'apply says it too');
  t.match(agent.cli('plan'), { code: 1, stderr: /NET_ADMIN/ }, 'what would change cannot be told');
});

t.test('a missing interface is named, and used once it is there', async (t) => {
  const { start, gateway, server } = pod(t);
  gateway.ip('link del net1');
  const agent = start({ args: ['--external-interface', 'net1'] });
  await told(t, agent, /net1/);
  veth(server, 'eth0', gateway, 'net1');
  server.ip('addr add 172.17.0.1/16 dev eth0\naddr add fd00:172:17::1/64 dev eth0 nodad');
  gateway.ip(EXTERNAL_ADDRESSES);
  gateway.ip(EXTERNAL_ADDRESSES_6);
  await agent.statusUntil('ready with net1', ({ ready }) => ready);
  t.match(gateway.sh('ip rule show'), '1004:');
});

t.test('a missing interface is named without a flag as well', async (t) => {
  const { start, gateway } = pod(t);
  gateway.ip('link del net1');
  const agent = start();
  await told(t, agent, /net1|172\.17\.0\.1/);
});

t.test('a held xtables lock is named, and waited for', async (t) => {
  const { start, directory, gateway } = pod(t);
  for (const tool of ['iptables', 'ip6tables']) gateway.sh(`${tool}-legacy -t nat -N FOREIGN`);
  // A lock file of its own: the one of this machine is shared by all namespaces.
  const lock = join(directory, 'xtables.lock');
  const holder = gateway.spawn('flock', [lock, 'sleep', '300'], { name: 'holder' });
  await until(() => gateway.run('flock', ['-n', lock, 'true']).code !== 0, { what: 'the lock is held' });
  const agent = start({
    wrapper: mounted(`touch /run/xtables.lock; mount --bind ${lock} /run/xtables.lock`),
  });
  await told(t, agent, /xtables lock/);
  process.kill(-holder.pid, 'SIGKILL');
  const { kernel } = await agent.statusUntil('ready with the lock', ({ ready }) => ready);
  t.equal(kernel.backend, 'legacy');
});

/** /proc/sys as in Kube-OVN's containers. */
const READ_ONLY_SYSCTL = mounted('mount --bind /proc/sys /proc/sys; mount -o remount,ro,bind /proc/sys');

t.test('a read-only /proc/sys is named with the sysctl, and seen when somebody else sets it', async (t) => {
  const { start, gateway } = pod(t);
  const agent = start({ wrapper: READ_ONLY_SYSCTL });
  await told(t, agent, /net\.ipv4\.ip_forward/);
  t.match(
    (await agent.status()).reasons.join('\n'),
    /read-only|init container|cannot be written/i,
    'and why',
  );
  gateway.sysctl({
    'net.ipv4.ip_forward': 1,
    'net.ipv6.conf.all.forwarding': 1,
    'net.ipv4.conf.eth0.rp_filter': 0,
  });
  await agent.statusUntil('ready with the sysctls', ({ ready }) => ready);
});

t.test('a read-only /proc/sys is no matter when the sysctls are right', async (t) => {
  const { start, gateway, policy } = pod(t);
  gateway.sysctl({
    'net.ipv4.ip_forward': 1,
    'net.ipv6.conf.all.forwarding': 1,
    'net.ipv4.conf.eth0.rp_filter': 0,
    'net.ipv4.icmp_errors_use_inbound_ifaddr': 1,
    'net.ipv6.conf.eth0.use_oif_addrs_only': 1,
    'net.ipv6.conf.net1.use_oif_addrs_only': 1,
  });
  const agent = start({ wrapper: READ_ONLY_SYSCTL });
  const { kernel } = await agent.synced();
  t.same(kernel.notes, []);
  t.equal(agent.cli('plan').code, 0);

  policy.set({ translationLog: { enabled: true } });
  const { ready, kernel: logged } = await agent.statusUntil(
    'what counting lacks is noted',
    (status) => status.kernel.notes.length === 3,
  );
  t.match(
    logged.notes[0],
    /nf_conntrack_acct has to be 1, or flows have no packet and byte counts, .*init container/,
  );
  t.ok(ready, 'and keeps nothing from working');
});

/** True while somebody in the namespace listens on the BFD port. */
const listens = (ns: Namespace) => /:3784\b/.test(ns.sh('ss -Hlun'));

t.test('sessions do not start before the rules are in the kernel', async (t) => {
  const scope = scopeOf(t);
  const { gateway } = topology(scope);
  const policy = new PolicyDirectory(scope);
  policy.set({ bfd: BFD });
  const bin = scope.directory('empty');
  const agent = new Agent(gateway, {
    policyDir: policy.dir,
    stateDir: scope.directory('state'),
    wrapper: ['env', `PATH=${bin}`],
  });
  await agent.statusUntil('iptables is missing', ({ reasons }) => /iptables/.test(reasons.join('\n')));
  // A reconcile that ends after the sockets would have been opened.
  await agent.ask('POST', '/v1/reconcile');
  const { sessions } = (await agent.status()).bfd;
  t.ok(
    sessions.every(({ state }) => state === 'AdminDown' || state === 'Down'),
    'no session has left Down',
  );
  t.ok(!listens(gateway) || sessions.length > 0);
  t.match(agent.bfddControl('status').code, 0);
});

t.test('ports that another program has are named, and taken when they are free', async (t) => {
  const { gateway, router, scope, start, policy } = pod(t);
  const [local4, local6] = [ADDRESS.gatewayInternal[4], ADDRESS.gatewayInternal[6]];
  const other = gateway.spawn(
    NODE,
    [
      '-e',
      `for (const host of ${JSON.stringify([local4, local6])}) {
        require('node:net').createServer().listen(10669, host);
        require('node:dgram').createSocket(host.includes(':') ? 'udp6' : 'udp4').bind(3784, host);
      }`,
    ],
    { name: 'other' },
  );
  await until(() => gateway.sh('ss -Hltun').match(/:(?:3784|10669) /g)?.length === 4, {
    what: 'it has the ports',
  });
  policy.set({ bfd: BFD });
  const agent = start();
  await startFrr(scope, router, {
    sessions: ([4, 6] as const).map((family) => ({
      local: ADDRESS.bfdPort[family],
      remote: ADDRESS.gatewayInternal[family],
    })),
  });
  const expected = [local4, local6].flatMap((address) => [
    `BFD packets cannot be received on ${address} port 3784: another process is bound to UDP port 3784 of ${address}`,
    `metrics and probes are not served on ${address} port 10669: bind: address already in use`,
  ]);
  await agent.statusUntil(
    'each is named',
    ({ kernel: { inSync, notes } }) =>
      inSync && expected.every((text) => notes.some((note) => note.startsWith(text))),
  );
  t.match(agent.http('/readyz'), { status: 503, body: expected[0]! });
  const { stdout } = agent.cli('status');
  for (const text of expected) t.match(stdout.replace(/\s+/g, ' '), text);
  await other.stop();
  const { kernel } = await agent.statusUntil(
    'ready with the ports',
    ({ ready, kernel: { notes } }) => ready && !notes.some((note) => note.startsWith('metrics')),
  );
  t.same(
    kernel.notes.filter((note) => /BFD|metrics/.test(note)),
    [],
  );
});

/** Makes Node find what it finds in a kernel that was booted with `ipv6.disable=1`, as far as files and listening go. */
const NO_IPV6 = `
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import net from 'node:net';
const hidden = /^\\/proc\\/((self\\/)?net\\/(snmp6|if_inet6|ip6_tables_names)|sys\\/net\\/ipv6)/;
const fail = (code, what) => Object.assign(new Error(code + ': ' + what), { code });
for (const of of [fs, fs.promises]) {
  for (const name of ['readFileSync', 'openSync', 'statSync', 'readFile', 'open']) {
    const original = of[name];
    if (of === fs && !name.endsWith('Sync')) continue;
    of[name] = (path, ...more) => {
      if (!hidden.test(String(path))) return original(path, ...more);
      if (of === fs) throw fail('ENOENT', path);
      return Promise.reject(fail('ENOENT', path));
    };
  }
}
const { existsSync } = fs;
fs.existsSync = (path) => !hidden.test(String(path)) && existsSync(path);
syncBuiltinESMExports();
const { listen } = net.Server.prototype;
net.Server.prototype.listen = function (where, ...more) {
  if (!where?.host?.includes(':')) return listen.call(this, where, ...more);
  process.nextTick(() => this.emit('error', fail('EAFNOSUPPORT', where.host)));
  return this;
};
`;

t.test('a kernel without IPv6 is one where IPv4 works', async (t) => {
  const { start, directory, policy, gateway, router } = pod(t);
  policy.set({ bfd: BFD });
  gateway.sysctl({ 'net.ipv6.conf.all.disable_ipv6': 1 });
  const preload = join(directory, 'no-ipv6.mjs');
  writeFileSync(preload, NO_IPV6);
  const agent = start({ env: { NODE_OPTIONS: `--import=${preload}` }, args: ['--listen', ':10669'] });
  const sessions = [{ local: ADDRESS.bfdPort[4], remote: ADDRESS.gatewayInternal[4] }];
  await startVegBfdd(scopeOf(t), router, { sessions });
  const { kernel, bfd } = await agent.statusUntil('ready', ({ ready }) => ready);
  t.match(kernel.families, [
    { family: 4, state: 'programmed' },
    { family: 6, state: 'unused' },
  ]);
  t.match(kernel.notes.join('\n'), /IPv6 is left out: this kernel has no IPv6/);
  t.same(
    bfd.sessions.map(({ remote, state }) => `${remote} ${state}`),
    [`${ADDRESS.bfdPort[4]} Up`],
  );
  t.equal(agent.http('/readyz').status, 200, '`--listen :PORT` means all addresses that there are');
  t.notMatch(agent.daemon.log(), 'the agent process ended');
  t.equal(await agent.stop(), 0, 'a drain counts packets of one family');
});

t.test('IPv6 that is switched off and on again takes nothing from IPv4', async (t) => {
  const { start, gateway, router, policy } = pod(t);
  policy.set({ bfd: BFD });
  const agent = start();
  const scope = scopeOf(t);
  await startVegBfdd(scope, router, {
    sessions: [{ local: ADDRESS.bfdPort[4], remote: ADDRESS.gatewayInternal[4] }],
  });
  await agent.statusUntil('ready', ({ ready }) => ready);
  gateway.sysctl({ 'net.ipv6.conf.all.disable_ipv6': 1 });
  const { kernel, bfd } = await agent.statusUntil('IPv6 is blocked', (status) =>
    status.kernel.families.some(({ family, state }) => family === 6 && state === 'blocked'),
  );
  t.match(kernel.families[0], { family: 4, state: 'programmed' });
  t.match(kernel.families[1]?.reason, /no usable IPv6 address/);
  t.ok(bfd.sessions.some(({ remote, state }) => remote === ADDRESS.bfdPort[4] && state === 'Up'));
  gateway.sysctl({ 'net.ipv6.conf.all.disable_ipv6': 0 });
  gateway.ip(INTERNAL_ADDRESSES);
  gateway.ip(EXTERNAL_ADDRESSES_6);
  await agent.statusUntil('ready again', ({ ready }) => ready);
  t.notMatch(agent.daemon.log(), 'the agent process ended');
  t.equal(await agent.stop(), 0);
});
