/**
 * Bandwidth limits: in the kernel as the policy says, kept by real traffic in both directions, changed under open
 * connections, repaired, removed; and what else the gateway sends goes past them. The agent runs as in Kube-OVN's
 * container: as user 65534, behind an init container. How exact the rates are is measured by the benchmark.
 */
import { chmodSync, chownSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { Agent, BFD, cli, DIRECT, type GatewaySpec, PolicyDirectory, WEB } from '../support/agent.ts';
import { bulk, rateOf } from '../support/bulk.ts';
import { type Namespace, NODE, until, veth } from '../support/netns.ts';
import { peerUp, startVegBfdd } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { startEchoServer, Traffic } from '../support/traffic.ts';
import type { Outcome } from './shaping-child.ts';

const CAPABILITIES = '+net_admin,+net_raw,+net_bind_service';
const AS_USER = [
  ...['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'],
  ...[`--inh-caps=${CAPABILITIES}`, `--ambient-caps=${CAPABILITIES}`],
];
const SHAPING_CHILD = fileURLToPath(new URL('shaping-child.ts', import.meta.url));
const MEGABIT = 1e6;
const EIP = { externalIP: '172.17.0.60', internalIP: ADDRESS.client2[4] };

const scope = scopeOf(t);
const { client, client2, router, gateway, server } = topology(scope);
client.ip('addr add 10.17.0.10/16 dev eth0');
const policy = new PolicyDirectory(scope);
const set = (spec: object) => policy.set({ bfd: BFD, ...spec } as GatewaySpec);
const limited = (bandwidth: object, more: object = {}) =>
  set({ policies: [DIRECT, { ...WEB, bandwidth }], ...more });
limited(
  { egress: 10, ingress: '20M' },
  { eips: [{ ...EIP, bandwidth: { egress: 5, ingress: 5 } }], bandwidth: { egress: '1G', ingress: '1G' } },
);
chmodSync(policy.dir, 0o755);
const stateDir = scope.directory('state');
const lock = join(scope.directory('lock'), 'xtables.lock');
writeFileSync(lock, '');
chmodSync(lock, 0o666);
const options = { policyDir: policy.dir, stateDir, env: { XTABLES_LOCKFILE: lock } };
const init = cli(gateway, options, 'apply');
gateway.sh(`chown -R 65534:65534 ${stateDir}`);
chownSync(stateDir, 65534, 65534);
const start = () => new Agent(gateway, { ...options, wrapper: AS_USER });
const agent = start();
const peer = await startVegBfdd(scope, router, {
  sessions: [{ local: ADDRESS.bfdPort[4], remote: ADDRESS.gatewayInternal[4] }],
});
await agent.synced();
await peerUp(peer);

const tc = (what: string): string => gateway.sh(`tc ${what}`);
/** The rows of the status by policy and direction. */
async function rows() {
  const { bandwidth } = await agent.status();
  return new Map(bandwidth.map((row) => [`${row.policy} ${row.direction}`, row]));
}
/** Changes the policy, and waits until the new one is in the kernel. */
async function change(write: () => void): Promise<void> {
  const { generation } = (await agent.status()).policy;
  write();
  await agent.statusUntil('the new policy', (s) => s.policy.generation > generation);
  await agent.ask('POST', '/v1/reconcile');
  await agent.synced();
}

t.test('limits are a qdisc on each interface, and all of them are in the status', async (t) => {
  t.equal(init.code, 0, init.stderr);
  for (const dev of ['net1', 'eth0']) t.match(tc(`qdisc show dev ${dev} root`), /^qdisc htb 178: /, dev);
  const found = await rows();
  for (const [key, limit] of [
    ['web egress', 10],
    ['web ingress', 20],
    ['eip/172.17.0.60 egress', 5],
    ['eip/172.17.0.60 ingress', 5],
    ['(gateway) egress', 1000],
    ['(gateway) ingress', 1000],
  ] as const) {
    t.match(found.get(key), { limitBits: limit * MEGABIT, active: true }, key);
  }
  t.equal(found.size, 6);
  t.match(agent.cli('status').stdout, 'limits   web egress 10.0 Mbit/s');
  t.equal(agent.cli('plan').code, 0, 'nothing is left to do');
  t.equal(cli(gateway, options, 'apply').code, 0);
  t.equal(agent.cli('plan').stdout.includes('tc '), false, 'a second apply changes nothing');
});

/** What passes from one namespace to the other is at most the limit, and most of it. */
async function passes(
  t: Test,
  what: string,
  limit: number,
  [from, to, host]: [Namespace, Namespace, string],
  back = false,
  source = '',
): Promise<void> {
  const rate = rateOf(await bulk(from, to, { host, ms: 1500, source, back })) / MEGABIT;
  // A busy machine may send less; the limit holds whatever it does. The burst is in it.
  t.ok(rate < limit * 1.15, `${what}: ${rate.toFixed(2)} of ${limit} Mbit/s, no more than the limit`);
  t.ok(rate > limit * 0.4, `${what}: ${rate.toFixed(2)} of ${limit} Mbit/s, most of it`);
}

t.test('policies and EIPs pass their limits, both ways and in both families', async (t) => {
  const before = await rows();
  await Promise.all([
    passes(t, 'a policy, out', 10, [client, server, ADDRESS.server[4]]),
    passes(t, 'an EIP, out', 5, [client2, server, ADDRESS.server[4]]),
  ]);
  await Promise.all([
    passes(t, 'a policy, out, IPv6', 10, [client, server, ADDRESS.server[6]]),
    passes(t, 'an EIP, in', 5, [server, client2, EIP.externalIP]),
  ]);
  await passes(t, 'a policy, in', 20, [client, server, ADDRESS.server[4]], true);
  const after = await rows();
  for (const key of ['web egress', 'web ingress', 'eip/172.17.0.60 egress', '(gateway) egress']) {
    t.ok(after.get(key)!.passedBytes > before.get(key)!.passedBytes + 500_000, `${key} is counted`);
    t.ok(key === '(gateway) egress' || after.get(key)!.delays > 0, `${key}: what waited is counted`);
  }
});

t.test('with perSource each address has the limit by itself', async (t) => {
  await change(() => limited({ egress: 4, perSource: true }));
  await Promise.all([
    passes(t, 'the first address', 4, [client, server, ADDRESS.server[4]]),
    passes(t, 'the second address', 4, [client, server, ADDRESS.server[4]], false, '10.17.0.10'),
    passes(t, 'the first in IPv6', 4, [client, server, ADDRESS.server[6]]),
  ]);
  t.match((await rows()).get('web egress'), { limitBits: 4 * MEGABIT, perSource: true, active: true });
  t.match(gateway.sh('nft list table inet VEG-BANDWIDTH'), /update @egress-\w+-4/, 'nft can list it');
});

t.test('after an edit of the whole gateway, or of the MTU, nothing more is changed', async (t) => {
  /** `ceil`: how that of the whole gateway begins afterwards, in kbit/s. */
  const settles = async (what: string, ceil: string, edit: () => unknown) => {
    await edit();
    await agent.ask('POST', '/v1/reconcile');
    await agent.synced();
    t.match(tc('class show dev net1'), new RegExp(`178:1 root .*ceil ${ceil}`), `${what}: the kernel has it`);
    const { driftRepaired } = (await agent.status()).kernel;
    for (let i = 0; i < 5; i++) {
      const { body } = await agent.ask('POST', '/v1/reconcile');
      t.match(JSON.parse(body), { ok: true, changes: 0 }, `${what}: in sync`);
    }
    t.same((await agent.status()).kernel.driftRepaired, driftRepaired, `${what}: nothing is repaired`);
    t.equal(agent.cli('plan').code, 0, `${what}: nothing is left to do`);
  };
  const whole = (rate: string) => () =>
    change(() => limited({ egress: 10 }, { bandwidth: { egress: rate, ingress: rate } }));
  await settles('a limit of a policy alone', '1Tbit', () => change(() => limited({ egress: 10 })));
  await settles('the whole gateway beside it', '100...Kbit', whole('100M'));
  await settles('twice as much', '201...Kbit', whole('200M'));
  await settles('little', '302.Kbit', whole('3M'));
  await settles('another MTU', '3030Kbit', () => gateway.ip('link set net1 mtu 1400'));
  gateway.ip('link set net1 mtu 1500');
});

t.test('BFD goes past a full limit, and an edit under open connections drops nothing', async (t) => {
  const echo = await startEchoServer(server);
  await change(() => limited({ egress: 2, ingress: 2 }, { bandwidth: { egress: 2, ingress: 2 } }));
  const traffic = await Traffic.open(client2, [`tcp:${ADDRESS.server[4]}`, `udp:${ADDRESS.server[4]}`]);
  const full = bulk(client, server, { host: ADDRESS.server[4], ms: 3000 });
  for (const egress of [3, 4, 2]) {
    await change(() => limited({ egress, ingress: 2 }, { bandwidth: { egress: 5, ingress: 2 } }));
  }
  t.ok(rateOf(await full) < 5 * MEGABIT);
  for (const { path, lost } of await traffic.close()) t.equal(lost, 0, path);
  const left = (await agent.status()).bfd.sessions.flatMap(({ transitions }) =>
    transitions.filter(({ from }) => from === 'Up'),
  );
  t.same(left, [], 'no session has left Up');
  await echo.stop('SIGKILL');
});

t.test('what others take away comes back', async (t) => {
  const whole = tc('class show dev net1').length;
  for (const [what, damage] of [
    ['the qdisc', () => tc('qdisc del dev net1 root')],
    [
      'a class',
      () => tc(`class del dev eth0 classid ${/178:\w{3,4}\b/.exec(tc('class show dev eth0'))![0]}`),
    ],
    ['the table', () => gateway.sh('nft delete table inet VEG-BANDWIDTH')],
  ] as const) {
    damage();
    await until(
      () =>
        tc('class show dev net1').length === whole &&
        gateway.run('nft', ['list', 'table', 'inet', 'VEG-BANDWIDTH']).code === 0 &&
        agent.cli('plan').code === 0,
      { what },
    );
  }
  const { driftRepaired } = (await agent.status()).kernel;
  t.match(driftRepaired, { qdisc: 1, class: Number, classifier: 1 });
});

t.test('a class that another program deletes before it has its queue gets the same one later', async (t) => {
  const apply = (name: string, ...damage: string[]) => {
    const alone = scope.namespace(name);
    veth(alone, 'net1', alone, 'net2');
    const { stdout, stderr } = alone.run(NODE, [SHAPING_CHILD, ...damage]);
    t.equal(stderr, '');
    return JSON.parse(stdout) as Outcome;
  };
  const { queues, ...undamaged } = apply('q0');
  t.same(undamaged, { refused: [[], []], left: [] });
  const last = '$(tc class show dev net1 | grep -o "178:[0-9a-f]\\{3,4\\}")';
  for (const [name, damage] of [
    ['q1', 'tc qdisc del dev net1 root'],
    ['q2', `tc class del dev net1 classid ${last}`],
  ] as const) {
    const { refused, ...rest } = apply(name, damage);
    t.match(refused[0], [/ENOENT/], damage);
    t.same([refused[1], rest], [[], { queues, left: [] }], damage);
  }
});

t.test('a root qdisc of another program stays, is reported, and takes no session down', async (t) => {
  tc('qdisc replace dev net1 root handle 42: tbf rate 1gbit burst 1mb latency 50ms');
  const { kernel, bfd } = await agent.statusUntil('the foreign qdisc', (s) =>
    s.kernel.failed.some(({ object }) => object === 'qdisc'),
  );
  t.match(kernel.failed, [
    { object: 'qdisc', name: 'net1', reason: 'in_use', message: /tbf 42: of another program/ },
  ]);
  t.equal(agent.metric('veg_agent_objects_failed{object="qdisc",reason="in_use"}'), 1);
  t.ok(bfd.sessions.some(({ state }) => state === 'Up'));
  const plan = agent.cli('plan');
  t.equal(plan.code, 1, 'nothing that could be changed makes it as the policy says');
  t.match(plan.stderr, /qdisc net1: in_use: .*tbf 42: of another program/);
  t.match(tc('qdisc show dev net1 root'), /^qdisc tbf 42: /);
  t.match(tc('qdisc show dev eth0 root'), /^qdisc htb 178: /, 'the other direction is limited');
  tc('qdisc del dev net1 root');
  await agent.synced();
  t.match(tc('qdisc show dev net1 root'), /^qdisc htb 178: /);
});

t.test('without a limit, and after a clean-up, nothing is left', async (t) => {
  const away = () =>
    ['net1', 'eth0'].every((dev) => !tc(`qdisc show dev ${dev} root`).includes('178:')) &&
    gateway.run('nft', ['list', 'table', 'inet', 'VEG-BANDWIDTH']).code !== 0;
  await change(() => set({ policies: [DIRECT, WEB] }));
  await until(away, { what: 'the limits are gone' });
  await change(() => limited({ egress: 10, perSource: true }));
  t.notOk(away());
  await agent.stop('SIGUSR2');
  const { stdout, code } = cli(gateway, options, 'cleanup');
  t.equal(code, 0);
  t.ok(away(), stdout);
});
