/**
 * The image in containers, as Kube-OVN's controller has them made and a kubelet runs them: for each variant the init
 * container, the container with BFD under its limits, its probes at their times, and what Kube-OVN's own tests ask of
 * the pod.
 */
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { ROOT, until } from '../support/netns.ts';
import { peerUp, startFrr } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { sourceSeen, startEchoServer } from '../support/traffic.ts';
import { CAPABILITIES } from './container.ts';
import { initialised, supervisor } from './lab.ts';
import {
  allPeersUp,
  BFD_COMMAND,
  BFD_ENV,
  DETECT_SUPERVISOR,
  DUAL,
  INIT_ENV,
  isSupervisor,
  NAT_LISTING,
  NETWORK_STATUS,
  PROBE,
} from './pod.ts';
import { RenderedPod } from './rendered.ts';

const PEERS = [BFD_ENV.BFD_PEER_IPS];
const EXAMPLE = readFileSync(join(ROOT, 'images/kubernetes/veg.yaml'), 'utf8');

const slowest = (times: number[]): string => `${Math.max(...times).toFixed(0)} ms`;

t.test('variant B: probes at their times, limits, Kube-OVN’s own assertions, a drain', async (t) => {
  const pod = await initialised(t, 'B');
  t.equal(pod.gateway.sh('iptables -t nat -S'), NAT_LISTING);
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
  });
  await peerUp(frr);
  t.ok(allPeersUp(container.exec(...PROBE.status).stdout, PEERS));
  const livez = ['-s', '-m', '10', '-o', '/dev/null', '-w', '%{http_code}', 'http://10.16.0.12:10669/livez'];
  t.equal(pod.router.run('curl', livez).stdout, '200');
  const page = container.exec('curl', '-s', '-m', '10', '-D', '-', 'http://127.0.0.1:10669/').stdout;
  t.match(page, /^HTTP\/1\.1 200 /, 'the page, built into the image');
  t.match(page, /<title>veg-agent<\/title>/);
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

t.test('BGP mode: every probe answers, beside another bfdd on 0.0.0.0:3784, in either order', async (t) => {
  const pod = await initialised(t, 'B', { init: { ...INIT_ENV, ENABLE_BGP: 'true' }, bfd: BFD_ENV });
  const { gateway, router, server, scope } = pod;
  // The CNI's, from the pod's annotations.
  gateway.sh('ip route add 10.255.255.255 via 10.16.0.1 dev eth0');
  const routes = [{ local: '172.17.0.11', remote: '172.17.0.1' }];
  await startFrr(scope, server, { sessions: [{ local: '172.17.0.1', remote: '172.17.0.11' }] });
  const ovn = await pod.frr();
  const first = await startFrr(scope, gateway, { sessions: routes });
  const container = supervisor(pod);
  await until(() => container.exec(...PROBE.live).code === 0, { what: 'live' });
  await until(() => container.exec(...PROBE.ready).code === 0, { what: 'ready' });
  await peerUp(ovn);
  await peerUp(first);

  await first.daemon.stop();
  await peerUp(await startFrr(scope, gateway, { sessions: routes }));
  await peerUp(ovn);
  t.ok(allPeersUp(container.exec(...PROBE.status).stdout, PEERS));
  t.match(JSON.parse(container.exec(BFD_COMMAND.B[0], 'status').stdout), { Live: true, Ready: true });
  const get = (path: string) =>
    router.run('curl', ['-s', '-m', '5', `http://10.16.0.12:10669${path}`]).stdout;
  t.equal(get('/livez'), 'ok\n');
  t.match(get('/metrics'), /^kube_ovn_bfdd_up_sessions 1$/m);
  t.notMatch(container.log(), '"from":"Up"', 'OVN’s session never went down');
  t.notMatch(gateway.sh('iptables -t nat -S'), 'VEG-');
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
  // Kubernetes: initialDelaySeconds 1, failureThreshold 1.
  await sleep(1000);
  const startup = container.exec(...PROBE.prestart);
  t.equal(startup.code, 0, startup.stderr);
  t.comment(`the startup probe took ${startup.ms.toFixed(0)} ms of its 1000`);
  // Kubernetes: periodSeconds 5, failureThreshold 3.
  await sleep(5000);
  t.equal(container.exec(...PROBE.healthcheck).code, 0, 'the liveness probe');
  await peerUp(frr);
  await until(() => allPeersUp(container.exec(...PROBE.status).stdout, PEERS), { what: 'Up' });
  t.notOk(isSupervisor(container.exec('sh', '-c', DETECT_SUPERVISOR).stdout), 'no supervisor for Kube-OVN');
  const { charged, anonymous, peak } = container.memory;
  t.comment(`memory: ${anonymous} MiB anonymous, ${charged} charged, peak ${peak} of 50`);
  t.ok(idle.running, 'the gateway container beside it, which sleeps');
});

t.test('what operators and Kube-OVN’s end-to-end tests type runs in each container of the pod', async (t) => {
  const pod = await initialised(t, 'none', DUAL);
  const [host, host6] = [ADDRESS.server[4], ADDRESS.server[6]];
  const tools: [line: string, says: RegExp][] = [
    [`ping -c 1 -W 2 ${host}`, / 1 received/],
    [`ping -c 1 -W 2 -I net1 ${host6}`, / 1 received/],
    [`arping -f -w 2 -I net1 ${host}`, /reply from 172\.17\.0\.1 \[/],
    [`ndisc6 -1 -r 1 ${host6} net1`, /Target link-layer address: /],
    [`rltraceroute6 -n -q 1 -m 1 ${host6}`, /^ 1 +fd00:172:17::1 /m],
    ['ethtool net1', /Link detected: yes/],
    ['ethtool -K net1 tx off', /^(?:Actual changes:|$)/],
    ['nft list table ip nat', /chain VEG-MASQUERADE/],
    ['nft add table ip veg-test', /^$/],
    ['nft delete table ip veg-test', /^$/],
    ['ss -lnt', /^State /],
    ['ps ax', /sleep infinity/],
    ['jq -n -c {up:true}', /^\{"up":true\}$/m],
  ];
  for (const name of ['gateway', 'bfd'] as const) {
    const container = pod.start({
      command: ['sleep', 'infinity'],
      env: {},
      security: { capabilities: CAPABILITIES[name] },
    });
    t.match(container.exec('id').stdout, /^uid=65534/);
    for (const [line, says] of tools) {
      const { code, stdout, stderr } = container.exec(...line.split(' '));
      t.match({ code, stdout }, { code: 0, stdout: says }, `${name}: ${line}: ${stdout}${stderr}`);
    }
    const privileged = 'find /usr/bin/ping /usr/bin/arping /usr/bin/ndisc6 /usr/bin/rdisc6 -perm /6000';
    t.equal(container.exec(...privileged.split(' ')).stdout, '', 'by file capabilities, not as root');
  }
});

t.test('both families: sessions, rules, and the way that forwarded packets take', async (t) => {
  const pod = await initialised(t, 'B', DUAL);
  const { gateway, client, client2, server } = pod;
  const frr = await pod.frr();
  const container = supervisor(pod);
  await until(() => container.exec(...PROBE.ready).code === 0, { what: 'ready' });
  await peerUp(frr);
  t.ok(allPeersUp(container.exec(...PROBE.status).stdout, DUAL.bfd.BFD_PEER_IPS.split(',')));
  t.match(gateway.sh('ip6tables -t nat -S'), /-A VEG-MASQUERADE -j MASQUERADE --random-fully/);
  await startEchoServer(server);
  for (const family of [4, 6] as const) {
    const host = ADDRESS.server[family];
    const way = client2.run('traceroute', ['-n', '-q', '1', '-w', '2', host]).stdout;
    t.match(way, new RegExp(`^ *2 +${ADDRESS.gatewayInternal[family]} `, 'm'), way);
    t.match(await sourceSeen(client, host), `${ADDRESS.gatewayExternal[family]} `);
    t.match(await sourceSeen(client2, host), `${ADDRESS.client2[family]} `);
  }
});

t.test('a container that was killed goes on where it was', async (t) => {
  const pod = await initialised(t, 'B');
  const frr = await pod.frr();
  const container = supervisor(pod);
  await peerUp(frr);
  process.kill(container.pid, 'SIGKILL');
  t.equal((await container.ended()).code, 137);
  t.equal(pod.gateway.sh('iptables -t nat -S'), NAT_LISTING, 'forwarding goes on');
  container.restart();
  await until(() => container.exec(...PROBE.ready).code === 0, { what: 'ready again' });
  await peerUp(frr);
});

t.test('memory that runs out costs a restart at most, and no forwarding', async (t) => {
  const pod = await initialised(t, 'B');
  const frr = await pod.frr();
  const container = supervisor(pod);
  await until(() => container.exec(...PROBE.ready).code === 0, { what: 'ready' });
  t.equal(container.exec('tail', '/dev/zero').code, 137);
  t.equal(pod.gateway.sh('iptables -t nat -S'), NAT_LISTING, 'forwarding goes on');
  await until(
    () => {
      if (!container.running) container.restart();
      return container.exec(...PROBE.ready).code === 0;
    },
    { what: 'ready again' },
  );
  await peerUp(frr);
  pod.gateway.sh('iptables -t nat -F');
  await until(() => pod.gateway.sh('iptables -t nat -S') === NAT_LISTING, { what: 'drift is repaired' });
});

t.test('a thousand blocks, repaired again and again beside the probes, in 64 MiB', async (t) => {
  const blocks = Array.from({ length: 1000 }, (_, i) => `10.${100 + (i >> 8)}.${i & 255}.0/24`);
  const init = { ...INIT_ENV, NO_SNAT_SOURCES_IPV4: blocks.join(',') };
  const pod = await initialised(t, 'B', { init, bfd: BFD_ENV });
  const frr = await pod.frr();
  const container = supervisor(pod);
  await until(() => container.exec(...PROBE.ready).code === 0, { what: 'ready' });
  const listing = () =>
    ['iptables -t nat -S', 'ip rule', 'ipset save'].map((c) => pod.gateway.sh(c)).join('');
  const programmed = listing();
  for (let i = 0; i < 20; i++) {
    pod.gateway.sh('iptables -t nat -F');
    pod.gateway.sh('ip rule del priority 1002');
    for (const probe of [PROBE.live, PROBE.ready, PROBE.status]) t.equal(container.exec(...probe).code, 0);
    await until(() => listing() === programmed, { what: 'repaired' });
  }
  await peerUp(frr);
  const { charged, anonymous, peak } = container.memory;
  t.comment(`memory: ${anonymous} MiB anonymous, ${charged} charged, peak ${peak} of 64`);
  t.equal(container.outOfMemoryKills, 0);
  t.notMatch(container.log(), /"from":"Up"/);
});

t.test('the observer beside it: read-only, NET_ADMIN alone', async (t) => {
  const pod = await initialised(t, 'none');
  const config = pod.scope.directory('observer');
  chmodSync(config, 0o755);
  const observability = { interfaceMetrics: { enabled: true }, conntrack: { metrics: { enabled: true } } };
  const written = {
    namespace: 'default',
    name: 'gateway1',
    externalNetwork: 'default/macvlan1',
    observability,
  };
  writeFileSync(join(config, 'config.json'), JSON.stringify(written));
  const podinfo = pod.scope.directory('podinfo');
  chmodSync(podinfo, 0o755);
  writeFileSync(join(podinfo, 'network-status'), NETWORK_STATUS);
  const command =
    'if [ -x /kube-ovn/vpc-egress-gateway-observer ]; then exec /kube-ovn/vpc-egress-gateway-observer --config /etc/kube-ovn-observer/config.json --network-status /etc/podinfo/network-status; fi; exec sleep infinity';
  const observer = pod.start({
    command: ['/bin/sh', '-ec', command],
    env: { POD_NAME: 'gateway1-0', NODE_NAME: 'node1' },
    security: { capabilities: CAPABILITIES.observer },
    volumes: { '/etc/kube-ovn-observer': config, '/etc/podinfo': podinfo },
    readOnly: true,
    memory: 256,
    cpu: 200,
  });
  const check =
    'if [ ! -x /kube-ovn/vpc-egress-gateway-observer ]; then exit 0; fi; exec /kube-ovn/vpc-egress-gateway-observer --health-check';
  await until(() => observer.exec('/bin/sh', '-ec', check).code === 0, {
    what: 'healthy',
  });
  const metrics = () => observer.exec('/bin/sh', '-c', 'curl -fsS http://127.0.0.1:10666/metrics').stdout;
  await until(() => /collector_up\{.*collector="conntrack"\} 1/.test(metrics()), {
    what: 'conntrack is read',
  });
  t.match(metrics(), /interface_tx_packets_total\{.*namespace="default"/);
  const { anonymous, charged } = observer.memory;
  t.comment(`memory: ${anonymous} MiB anonymous, ${charged} charged of 256`);
  t.equal(observer.exec('/bin/sh', '-c', 'kill 1').code, 0);
  t.equal((await observer.ended()).code, 0);
  observer.restart();
  await until(() => observer.exec('/bin/sh', '-ec', check).code === 0, {
    what: 'healthy again',
  });
});

t.test('the pod of images/kubernetes, as it is written there', async (t) => {
  const scope = scopeOf(t);
  const { gateway, router } = topology(scope);
  const text = readFileSync(join(ROOT, 'images/kubernetes/gateway.yaml'), 'utf8');
  const pod = new RenderedPod(t, scope, gateway, text);
  const { code, log } = await pod.start('init').ended();
  t.equal(code, 0, log);
  const agent = pod.start('agent');
  const { startupProbe, livenessProbe, readinessProbe, lifecycle } = pod.container('agent');
  const probe = ({ httpGet }: { httpGet: { path: string } }) =>
    router.run('curl', ['-fsS', '-m', '5', `http://10.16.0.12:10669${httpGet.path}`]).code;
  await until(() => probe(startupProbe) === 0, { what: 'started' });
  const frr = await startFrr(scope, router, {
    sessions: [{ local: '10.255.255.255', remote: '10.16.0.12' }],
  });
  await until(() => probe(readinessProbe) === 0, { what: 'ready' });
  t.equal(probe(livenessProbe), 0);
  t.match(agent.exec('touch', '/file').stderr, /Read-only file system/);
  t.match(gateway.sh('iptables -t nat -S'), '-s 10.18.0.0/16 -j RETURN');
  pod.policy.write({ 'veg.yaml': EXAMPLE.replace('10.18.0.0/16', '10.19.0.0/16') });
  await until(() => gateway.sh('iptables -t nat -S').includes('-s 10.19.0.0/16 -j RETURN'), {
    what: 'the new policy',
  });
  const preStop = agent.exec(...lifecycle.preStop.exec.command);
  t.equal(preStop.code, 0, preStop.stderr);
  await until(() => frr.sessions().every(({ drained }) => drained), { what: 'AdminDown at the peer' });
  t.not(probe(readinessProbe), 0);
  t.equal(probe(livenessProbe), 0);
  agent.signal('SIGTERM');
  t.equal((await agent.ended()).code, 0);
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
