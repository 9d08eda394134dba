/**
 * Who knocks at the gateway and should not get in: clients of the HTTP port that read nothing, and a state directory
 * in which somebody else has been. Needs root.
 */
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import t from 'tap';
import { Agent, BFD, cli, PolicyDirectory } from '../support/agent.ts';
import { must, type Namespace, NODE, ROOT, until } from '../support/netns.ts';
import { peerUp, startVegBfdd } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';

const scope = scopeOf(t);
const { client, client2, router, gateway, server } = topology(scope);
const policy = new PolicyDirectory(scope);
policy.set({ bfd: BFD });
/** A heap without a limit grows by what a busy machine has not collected yet. */
const wrapper = ['env', 'NODE_OPTIONS=--max-old-space-size=64 --max-semi-space-size=4'];
let agent = new Agent(gateway, { policyDir: policy.dir, stateDir: scope.directory('state'), wrapper });
const sessions = ([4, 6] as const).map((family) => ({
  local: ADDRESS.bfdPort[family],
  remote: ADDRESS.gatewayInternal[family],
}));
const peer = await startVegBfdd(scope, router, { sessions });
await agent.statusUntil('ready', ({ ready }) => ready);
await peerUp(peer);

/** The agent process, the child of the BFD process. */
const agentProcess = (): number => Number(must('pgrep', ['-P', `${agent.daemon.pid}`]).split('\n')[0]);

/** The most memory that the agent process ever had, MiB. */
const peak = (): number =>
  Number(/VmHWM:\s*(\d+)/.exec(readFileSync(`/proc/${agentProcess()}/status`, 'utf8'))![1]) / 1024;

t.test('clients that read nothing block neither the HTTP port nor the agent', async (t) => {
  const before = { process: agentProcess(), peak: peak() };
  const file = join(ROOT, 'test/live/http-attack.ts');
  const attackers = [
    client.spawn(NODE, [file, ADDRESS.gatewayInternal[4]], { name: 'attacker' }),
    client2.spawn(NODE, [file, ADDRESS.gatewayInternal[6]], { name: 'attacker-6' }),
  ];
  t.teardown(() => Promise.all(attackers.map((attacker) => attacker.stop('SIGKILL'))));
  for (const attacker of attackers) {
    await until(() => attacker.log().includes('attacking'), {
      what: 'all kinds of connections',
    });
  }
  const times: number[] = [];
  for (let round = 0; round < 5; round++) {
    for (const family of [4, 6] as const) {
      // As a kubelet: from another address, a connection for each probe.
      const own = ADDRESS.gatewayInternal[family];
      const host = family === 4 ? own : `[${own}]`;
      const out = ['-o', '/dev/null', '-w', '%{http_code} %{time_total}'];
      const { stdout } = router.run('curl', ['-sg', '-m', '5', ...out, `http://${host}:10669/livez`]);
      const [status, seconds] = stdout.split(' ').map(Number);
      t.equal(status, 200, `a probe over IPv${family}`);
      times.push(seconds!);
    }
    t.equal(agent.http('/readyz').status, 200, 'and on loopback');
    t.equal(agent.http('/metrics').status, 200);
  }
  t.comment(`the slowest probe took ${Math.max(...times)} s`);
  t.equal(agentProcess(), before.process, 'the process that was there before');
  const grown = peak() - before.peak;
  t.ok(grown < 64, `it had ${grown.toFixed(1)} MiB more at most`);
  t.ok(peer.sessions().every(({ state }) => state === 'Up'));
  t.equal((await agent.status()).ready, true);
});

t.test('the HTTP port is unreachable from outside, also at an inside address', async (t) => {
  server.ip(`
    route add ${ADDRESS.gatewayInternal[4]} via ${ADDRESS.gatewayExternal[4]}
    route add ${ADDRESS.gatewayInternal[6]} via ${ADDRESS.gatewayExternal[6]}`);
  const ask = (from: Namespace, host: string) =>
    from.run('curl', [
      '-sg',
      '-m',
      '2',
      '-o',
      '/dev/null',
      '-w',
      '%{http_code}',
      `http://${host}:10669/livez`,
    ]).stdout;
  for (const family of [4, 6] as const) {
    const inside = family === 4 ? ADDRESS.gatewayInternal[4] : `[${ADDRESS.gatewayInternal[6]}]`;
    const outside = family === 4 ? ADDRESS.gatewayExternal[4] : `[${ADDRESS.gatewayExternal[6]}]`;
    t.equal(ask(server, inside), '000');
    t.equal(ask(server, outside), '000');
    t.equal(ask(router, inside), '200');
    t.equal(ask(gateway, inside), '200', 'the pod itself does');
  }
  server.ip(`
    route del ${ADDRESS.gatewayInternal[4]}
    route del ${ADDRESS.gatewayInternal[6]}`);
});

const AS_NOBODY = [
  ...['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'],
  ...['--inh-caps=+net_admin,+net_raw', '--ambient-caps=+net_admin,+net_raw'],
];

for (const [who, wrapper] of Object.entries({ root: [], 'uid 65534': AS_NOBODY })) {
  t.test(
    `a state directory in which somebody else has been keeps no gateway of ${who} from its work`,
    async (t) => {
      await agent.stop('SIGTERM');
      const dir = scope.directory(`state-${wrapper.length}`);
      const elsewhere = scope.directory(`elsewhere-${wrapper.length}`);
      const precious = join(elsewhere, 'precious');
      writeFileSync(precious, 'precious');
      chmodSync(elsewhere, 0o777);
      chmodSync(precious, 0o666);
      const fifo = (path: string) => void must('mkfifo', ['-m', '666', path]);
      const link = (path: string) => symlinkSync(precious, path);
      const strange: Record<string, (path: string) => void> = {
        'bfd.json': fifo,
        'sysctl.json': fifo,
        'last-policy.json.gz': link,
        'port-blocks.json': (path) => void mkdirSync(path),
        'control.sock': fifo,
        translations: (path) => symlinkSync(elsewhere, path),
      };
      for (const [name, make] of Object.entries(strange)) {
        make(join(dir, name));
        link(join(dir, `${name}.new`));
      }
      // As an emptyDir is.
      chmodSync(dir, 0o777);
      for (const place of [dirname(dir), policy.dir]) chmodSync(place, 0o755);
      policy.set({ bfd: BFD, translationLog: { enabled: true } });
      agent = new Agent(gateway, { policyDir: policy.dir, stateDir: dir, wrapper });
      await agent.statusUntil('ready', ({ ready }) => ready);
      t.match(agent.daemon.log(), /bfd.json is a FIFO, not a regular file/);
      const own = ['bfd.json', 'last-policy.json.gz', 'translations/checkpoint', 'translations/flows.db'];
      await until(
        () => own.every((name) => lstatSync(join(dir, name), { throwIfNoEntry: false })?.isFile()),
        { what: 'all are its own files' },
      );
      t.equal(readFileSync(precious, 'utf8'), 'precious');
      t.same(readdirSync(elsewhere), ['precious'], 'nothing is written through a link');

      // Files of another user.
      const processes = [agent.daemon.pid, agentProcess()];
      for (const pid of processes) process.kill(pid, 'SIGKILL');
      await until(() => processes.every((pid) => !existsSync(`/proc/${pid}`)), {
        what: 'the end of both processes',
      });
      const change = { 'net/ipv4/ip_forward': { before: '0', ours: '1' } };
      rmSync(join(dir, 'sysctl.json'), { force: true });
      writeFileSync(join(dir, 'sysctl.json'), JSON.stringify(change));
      for (const name of ['sysctl.json', 'bfd.json']) chownSync(join(dir, name), 1234, 1234);
      agent = new Agent(gateway, { policyDir: policy.dir, stateDir: dir, wrapper });
      const { kernel } = await agent.statusUntil('ready', ({ ready }) => ready);
      t.match(agent.daemon.log(), /bfd.json belongs to another user \(uid 1234\)/);
      t.match(kernel.notes.join('\n'), /sysctl.json belongs to another user \(uid 1234\); remove it/);
    },
  );
}

t.test('cleanup sets no sysctl for a writer of the state directory', async (t) => {
  await agent.stop('SIGTERM');
  const dir = scope.directory('state-cleanup');
  const outside = join(dir, 'outside');
  writeFileSync(outside, '1');
  const setting = (name: string) => gateway.run('sysctl', ['-n', name]).stdout.trim();
  const before = setting('net.ipv4.tcp_retries2');
  writeFileSync(
    join(dir, 'sysctl.json'),
    JSON.stringify({
      [`../../..${outside}`]: { before: '7', ours: '1' },
      'net/ipv4/tcp_retries2': { before: '7', ours: before },
      'net/ipv4/conf/../tcp_retries2': { before: '7', ours: before },
    }),
  );
  const { code, stdout } = cli(gateway, { policyDir: policy.dir, stateDir: dir }, 'cleanup');
  t.equal(code, 0);
  t.notMatch(stdout, /sysctl/);
  t.equal(readFileSync(outside, 'utf8'), '1');
  t.equal(setting('net.ipv4.tcp_retries2'), before);
});

t.test(
  'the observer refuses a command line that it cannot keep to, and outlives its configuration',
  async (t) => {
    const program = join(ROOT, 'dist/agent/kube-ovn/observer.js');
    for (const flags of [
      ['--listen-address', 'here:10666'],
      ['--listen-address', '10666'],
      ['--listen-address', '[::1:10666'],
      ['--listen-address', ''],
      ['--listen-address', ':99999'],
      ['--listen'],
      ['more'],
    ]) {
      const { code, stdout, stderr } = gateway.run(NODE, [program, ...flags]);
      t.equal(code, 2, flags.join(' '));
      t.equal(stdout, '');
      t.match(stderr, /^kube-ovn-observer: .+\n$/);
    }
    const dir = scope.directory('observer');
    const config = join(dir, 'config.json');
    writeFileSync(config, 'null');
    const status = join(dir, 'network-status');
    must('mkfifo', [status]);
    const flags = ['--config', config, '--network-status', status, '--listen-address', '127.0.0.1:10666'];
    const observer = gateway.spawn(NODE, [program, ...flags], { name: 'observer' });
    const get = (path: string) =>
      gateway.run('curl', ['-sS', '-m', '5', `http://127.0.0.1:10666${path}`]).stdout;
    await until(() => get('/healthz') === 'ok\n', { what: 'the observer answers' });
    for (const [result, text] of Object.entries({
      error: '[]',
      success: JSON.stringify({
        ...{ namespace: 'default', name: 'gateway1', externalNetwork: 'default/net1' },
        observability: { interfaceMetrics: { enabled: true }, conntrack: null },
      }),
    })) {
      writeFileSync(config, text);
      const reloads = `observability_config_reload_total{[^}]*result="${result}"} [12]`;
      await until(() => new RegExp(reloads).test(get('/metrics')), {
        what: `a configuration with ${result}`,
      });
    }
    t.match(
      get('/metrics'),
      /observability_errors_total{[^}]*collector="interface"/,
      'the FIFO is not waited for',
    );
    t.equal(get('/healthz'), 'ok\n');
    t.equal(await observer.stop('SIGTERM'), 0);
  },
);
