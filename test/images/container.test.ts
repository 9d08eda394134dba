/**
 * The image in containers, as Kube-OVN's controller has them made and a kubelet runs them: for each variant the init
 * container, the container with BFD under its limits, its probes at their times, and what Kube-OVN's own tests ask of
 * the pod.
 */
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { gatewayPolicy, PolicyDirectory } from '../support/agent.ts';
import { type Scope, until } from '../support/netns.ts';
import { type BfdPeer, peerUp, startFrr } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { type Topology, topology } from '../support/topology.ts';
import { CAPABILITIES, Container, type ContainerSpec } from './container.ts';
import {
  allPeersUp,
  BFD_COMMAND,
  BFD_ENV,
  DETECT_SUPERVISOR,
  INIT_ENV,
  initCommand,
  isSupervisor,
  NAT_LISTING,
  PROBE,
  type Variant,
} from './pod.ts';

const PEERS = [BFD_ENV.BFD_PEER_IPS];

interface Pod extends Topology {
  scope: Scope;
  start(spec: Partial<ContainerSpec> & Pick<ContainerSpec, 'command'>): Container;
  frr(): Promise<BfdPeer>;
}

/** A pod of the variant whose init container has run. */
async function initialised(t: Test, variant: Variant, env: Record<string, string> = INIT_ENV): Promise<Pod> {
  const scope = scopeOf(t);
  const net = topology(scope, { cniRoutes: true });
  const base = scope.directory('volumes');
  const volume = (name: string): string => {
    const directory = join(base, name);
    mkdirSync(directory);
    chmodSync(directory, 0o777);
    return directory;
  };
  const volumes: Record<string, string> = { '/usr/local/sbin': volume('sbin') };
  if (variant === 'B') volumes['/var/run/kube-ovn/bfdd-supervisor'] = volume('state');
  const pod: Pod = {
    ...net,
    scope,
    start(spec) {
      const security = { capabilities: CAPABILITIES.bfd };
      const container = Container.start(scope, net.gateway, { security, volumes, env: BFD_ENV, ...spec });
      t.teardown(() => {
        if (!t.passing()) t.comment(container.log().slice(-5000));
        container.remove();
      });
      return container;
    },
    frr: () => startFrr(scope, net.router, { sessions: [{ local: '10.255.255.255', remote: '10.16.0.12' }] }),
  };
  const init = pod.start({ command: initCommand(variant), env, security: 'privileged' });
  const { code, log } = await init.ended();
  t.equal(code, 0, `the init container: ${log}`);
  t.equal(net.gateway.sh('iptables -t nat -S'), NAT_LISTING);
  return pod;
}

/** The container of variant B, with the limits of 1.15.23 and later. */
const supervisor = (pod: Pod): Container => pod.start({ command: BFD_COMMAND.B, memory: 64, cpu: 300 });

const slowest = (times: number[]): string => `${Math.max(...times).toFixed(0)} ms`;

t.test('variant B: probes at their times, limits, Kube-OVN’s own assertions, a drain', async (t) => {
  const pod = await initialised(t, 'B');
  const frr = await pod.frr();
  const container = supervisor(pod);

  // Kubernetes: initialDelaySeconds 1, periodSeconds 2, failureThreshold 30.
  await sleep(1000);
  let calls = 1;
  while (container.exec(...PROBE.live).code !== 0) {
    if (++calls > 30) break;
    await sleep(2000);
  }
  t.ok(calls <= 30, `the startup probe succeeds, at call ${calls}`);
  t.ok(isSupervisor(container.exec('sh', '-c', DETECT_SUPERVISOR).stdout), 'Kube-OVN sees its supervisor');
  t.equal(container.exec('printenv', 'BFD_PEER_IPS').stdout.trim(), PEERS.join());
  await until(() => container.exec(...PROBE.ready).code === 0, {
    what: 'every session Up',
    timeoutMs: 20_000,
  });
  await peerUp(frr);
  t.ok(allPeersUp(container.exec(...PROBE.status).stdout, PEERS));
  const livez = ['-s', '-m', '10', '-o', '/dev/null', '-w', '%{http_code}', 'http://10.16.0.12:10669/livez'];
  t.equal(pod.router.run('curl', livez).stdout, '200');
  t.match(container.exec('grep', '^Cap', '/proc/self/status').stdout, /CapAmb:\s0+\n/, 'as in Kubernetes');
  for (const tool of ['ip rule', 'iptables -t nat -S', 'ipset list -n', 'conntrack -L', 'curl --version']) {
    const { code, stderr } = container.exec(...tool.split(' '));
    t.equal(code, 0, `${tool}: ${stderr}`);
  }

  const times = Object.fromEntries(
    (['live', 'ready', 'status', 'healthcheck'] as const).map((probe) => [
      probe,
      Array.from({ length: 20 }, () => {
        const { code, ms } = container.exec(...PROBE[probe]);
        t.equal(code, 0, probe);
        return ms;
      }),
    ]),
  );
  for (const [probe, ms] of Object.entries(times)) t.comment(`${probe}: slowest of 20 ${slowest(ms)}`);
  pod.gateway.sh('iptables -t nat -F');
  await until(() => pod.gateway.sh('iptables -t nat -S') === NAT_LISTING, { what: 'drift is repaired' });
  const { charged, anonymous, peak } = container.memory;
  t.comment(`memory: ${anonymous} MiB anonymous, ${charged} charged, peak ${peak} of 64`);
  t.ok(container.running);

  container.signal('SIGTERM');
  await until(() => frr.sessions().every(({ drained }) => drained), { what: 'AdminDown at the peer' });
  t.equal((await container.ended()).code, 0);
});

t.test('variant B: sessions that somebody took away come back without a restart', async (t) => {
  const pod = await initialised(t, 'B');
  const frr = await pod.frr();
  const container = supervisor(pod);
  const status = () => {
    const { code, stdout } = container.exec(BFD_COMMAND.B[0], 'status');
    return code === 0 ? JSON.parse(stdout) : undefined;
  };
  await until(() => container.exec(...PROBE.ready).code === 0, { what: 'ready', timeoutMs: 30_000 });
  const { pid } = container;
  container.exec('bfdd-control', 'block', PEERS[0]!);
  container.exec('bfdd-control', 'session', 'all', 'kill');
  await until(() => container.exec(...PROBE.ready).code !== 0, { what: 'no longer ready' });
  await until(
    () => {
      const now = status();
      t.ok(now.Live, 'live all the time');
      return now.Sessions.some(
        (session: { Attempts: number; LastAction: string }) =>
          session.Attempts > 0 && session.LastAction === 'ReplayConfiguration',
      );
    },
    { what: 'the configuration is replayed', timeoutMs: 120_000, everyMs: 2000 },
  );
  await until(() => container.exec(...PROBE.ready).code === 0, { what: 'Up again', timeoutMs: 30_000 });
  await peerUp(frr);
  t.equal(container.pid, pid);
});

t.test('variant A: the startup probe succeeds at its one call, on 200m and 50 MiB', async (t) => {
  const pod = await initialised(t, 'A');
  const frr = await pod.frr();
  const idle = pod.start({
    command: ['sleep', 'infinity'],
    env: {},
    security: { capabilities: CAPABILITIES.gateway },
    memory: 10,
    cpu: 10,
  });
  const container = pod.start({ command: BFD_COMMAND.A, memory: 50, cpu: 200 });
  await sleep(1000);
  const startup = container.exec(...PROBE.prestart);
  t.equal(startup.code, 0, startup.stderr);
  t.comment(`the startup probe took ${startup.ms.toFixed(0)} ms of its 1000`);
  // Kubernetes: periodSeconds 5, failureThreshold 3.
  await sleep(5000);
  t.equal(container.exec(...PROBE.healthcheck).code, 0, 'the liveness probe');
  await peerUp(frr, 20_000);
  await until(() => allPeersUp(container.exec(...PROBE.status).stdout, PEERS), { what: 'Up' });
  t.notOk(isSupervisor(container.exec('sh', '-c', DETECT_SUPERVISOR).stdout), 'no supervisor for Kube-OVN');
  const { charged, anonymous, peak } = container.memory;
  t.comment(`memory: ${anonymous} MiB anonymous, ${charged} charged, peak ${peak} of 50`);
  t.ok(idle.running, 'the gateway container beside it, which sleeps');
});

t.test('a container that was killed goes on where it was', async (t) => {
  const pod = await initialised(t, 'B');
  const frr = await pod.frr();
  const container = supervisor(pod);
  await peerUp(frr, 30_000);
  process.kill(container.pid, 'SIGKILL');
  t.equal((await container.ended()).code, 137);
  t.equal(pod.gateway.sh('iptables -t nat -S'), NAT_LISTING, 'forwarding goes on');
  container.restart();
  await until(() => container.exec(...PROBE.ready).code === 0, { what: 'ready again', timeoutMs: 30_000 });
  await peerUp(frr);
});

t.test('the observer beside it: read-only, NET_ADMIN alone', async (t) => {
  const pod = await initialised(t, 'none');
  const config = pod.scope.directory('observer');
  chmodSync(config, 0o755);
  const observability = { interfaceMetrics: { enabled: true }, conntrack: { metrics: { enabled: true } } };
  const written = { namespace: 'default', name: 'gateway1', externalNetwork: 'default/net', observability };
  writeFileSync(join(config, 'config.json'), JSON.stringify(written));
  const command =
    'if [ -x /kube-ovn/vpc-egress-gateway-observer ]; then exec /kube-ovn/vpc-egress-gateway-observer --config /etc/kube-ovn-observer/config.json --network-status /etc/podinfo/network-status; fi; exec sleep infinity';
  const observer = pod.start({
    command: ['/bin/sh', '-ec', command],
    env: { POD_NAME: 'gateway1-0', NODE_NAME: 'node1' },
    security: { capabilities: CAPABILITIES.observer },
    volumes: { '/etc/kube-ovn-observer': config },
    readOnly: true,
    memory: 256,
    cpu: 200,
  });
  const check =
    'if [ ! -x /kube-ovn/vpc-egress-gateway-observer ]; then exit 0; fi; exec /kube-ovn/vpc-egress-gateway-observer --health-check';
  await until(() => observer.exec('/bin/sh', '-ec', check).code === 0, {
    what: 'healthy',
    timeoutMs: 20_000,
  });
  const metrics = () => observer.exec('/bin/sh', '-c', 'curl -fsS http://127.0.0.1:10666/metrics').stdout;
  await until(() => /collector_up\{.*collector="conntrack"\} 1/.test(metrics()), {
    what: 'conntrack is read',
  });
  t.match(metrics(), /interface_tx_packets_total\{.*namespace="default"/);
  const { anonymous, charged } = observer.memory;
  t.comment(`memory: ${anonymous} MiB anonymous, ${charged} charged of 256`);
});

t.test('our own pod: read-only, a policy that changes live', async (t) => {
  const scope = scopeOf(t);
  const { gateway } = topology(scope, { cniRoutes: true });
  const policy = new PolicyDirectory(scope);
  policy.set();
  chmodSync(policy.dir, 0o755);
  const state = scope.directory('state');
  chmodSync(state, 0o777);
  const volumes = { '/etc/veg-agent/policy': policy.dir, '/run/veg-agent': state };
  const start = (command: string[], security: ContainerSpec['security']): Container => {
    const container = Container.start(scope, gateway, {
      command,
      volumes,
      security,
      readOnly: true,
      memory: 64,
    });
    t.teardown(() => {
      if (!t.passing()) t.comment(container.log().slice(-5000));
      container.remove();
    });
    return container;
  };
  const init = await start(['veg-agent', 'apply'], 'privileged').ended();
  t.equal(init.code, 0, init.log);
  const container = start(['veg-agent', 'run'], { capabilities: CAPABILITIES.gateway });
  await until(() => container.exec('veg-agent', 'status').code === 0, { what: 'ready', timeoutMs: 30_000 });
  t.match(container.exec('touch', '/file').stderr, /Read-only file system/);
  policy.write({ 'gateway.yaml': gatewayPolicy({ policies: [] }) });
  await until(() => !gateway.sh('iptables -t nat -S').includes('10.18.0.0/16'), { what: 'the new policy' });
  const exec = container.exec('veg-agent', 'drain', '--timeout', '1s');
  t.equal(exec.code, 0, exec.stderr);
  container.signal('SIGTERM');
  t.equal((await container.ended()).code, 0);
});

t.test('the image holds its parts list', async (t) => {
  const pod = await initialised(t, 'none');
  const container = pod.start({ command: ['sleep', 'infinity'] });
  const { packages } = JSON.parse(container.exec('cat', '/opt/veg-agent/sbom.spdx.json').stdout);
  const names = packages.map(({ name }: { name: string }) => name);
  for (const name of ['veg-agent', 'iptables', 'pino', `node-linux-${process.arch}`]) {
    t.ok(names.includes(name), name);
  }
  const installed = container.exec('sh', '-c', 'cd /usr/share/doc && ls -d */').stdout.match(/[^/\n]+/g)!;
  t.same(
    installed.filter((name) => !names.includes(name)),
    [],
  );
});
