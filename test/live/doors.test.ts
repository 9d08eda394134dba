/**
 * Who knocks at the gateway and should not get in: clients of the HTTP port that read nothing, and a state directory
 * in which somebody else has been. Needs root.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { Agent, BFD, PolicyDirectory } from '../support/agent.ts';
import { must, NODE, ROOT, until } from '../support/netns.ts';
import { peerUp, startVegBfdd } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';

const scope = scopeOf(t);
const { client, client2, router, gateway } = topology(scope);
const policy = new PolicyDirectory(scope);
policy.set({ bfd: BFD });
const stateDir = scope.directory('state');
const start = () => new Agent(gateway, { policyDir: policy.dir, stateDir });
const agent = start();
const sessions = ([4, 6] as const).map((family) => ({
  local: ADDRESS.bfdPort[family],
  remote: ADDRESS.gatewayInternal[family],
}));
const peer = await startVegBfdd(scope, router, { sessions });
await agent.statusUntil('ready', ({ ready }) => ready, 30_000);
await peerUp(peer);

/** The agent process, the child of the BFD process. */
const agentProcess = (): number => Number(must('pgrep', ['-P', `${agent.daemon.pid}`]).split('\n')[0]);

/** The most memory that the agent process ever had, MiB. */
const peak = (): number =>
  Number(/VmHWM:\s*(\d+)/.exec(readFileSync(`/proc/${agentProcess()}/status`, 'utf8'))![1]) / 1024;

t.test('clients that read nothing keep nobody from the HTTP port, and the agent from nothing', async (t) => {
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
      timeoutMs: 20_000,
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

t.test(
  'the observer refuses a command line that it cannot keep to, and outlives its configuration',
  async (t) => {
    const program = join(ROOT, 'dist/agent/kube-ovn-observer.js');
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
