/**
 * The image's scripts and programs as Kube-OVN's controller starts and probes them, for each of its variants, without
 * a container around them (test/images/root.ts). `npm run test:image` does the same with the image itself.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import {
  allPeersUp,
  BFD_COMMAND,
  BFD_ENV,
  DUAL,
  INIT_ENV,
  initCommand,
  NAT_LISTING,
  NETWORK_STATUS,
  PROBE,
  TAKE_SESSIONS_AWAY,
  type Variant,
} from '../images/pod.ts';
import { ImageRoot } from '../images/root.ts';
import { type Daemon, type Namespace, ROOT, type Scope, until } from '../support/netns.ts';
import { type BfdPeer, peerUp, startFrr } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, type Topology, topology } from '../support/topology.ts';
import { sourceSeen, startEchoServer } from '../support/traffic.ts';

const NOBODY = { user: 'nobody' } as const;
/** For programs that start on a busy machine, ms. */

interface Pod extends Topology {
  scope: Scope;
  root: ImageRoot;
  /** Runs the init container. */
  init(env?: Record<string, string>): ReturnType<ImageRoot['run']>;
  /** Starts the BFD container. */
  start(env?: Record<string, string>): Daemon;
  /** A probe's or operator's command in the BFD container. */
  exec(...argv: string[]): ReturnType<ImageRoot['run']>;
  frr(): Promise<BfdPeer>;
}

function pod(t: Test, variant: Variant): Pod {
  const scope = scopeOf(t);
  const net = topology(scope, { cniRoutes: true });
  const root = new ImageRoot(scope);
  const { gateway, router } = net;
  return {
    ...net,
    scope,
    root,
    init: (env = INIT_ENV) => root.run(gateway, initCommand(variant), { env }),
    start: (env = BFD_ENV) =>
      root.spawn(gateway, BFD_COMMAND[variant === 'A' ? 'A' : 'B'], { ...NOBODY, env }),
    exec: (...argv) => root.run(gateway, argv, { ...NOBODY, env: BFD_ENV }),
    frr: () => startFrr(scope, router, { sessions: [{ local: '10.255.255.255', remote: '10.16.0.12' }] }),
  };
}

/** What README.md shows of `status`, in a pod as this one. */
const [, README_STATUS = ''] =
  /^```\n(ready {2}veg-agent[\s\S]*?)^```/m.exec(readFileSync(join(ROOT, 'README.md'), 'utf8')) ?? [];
/** The beginning of each line. */
const skeleton = (text: string): string[] => text.split('\n').map((line) => line.slice(0, 12));

const natOf = (ns: Namespace): string => ns.sh('iptables -t nat -S');

t.test('variant B: the supervisor is the agent, and keeps what the init container made', async (t) => {
  const { gateway, router, init, start, exec, frr } = pod(t, 'B');
  t.match(exec(...PROBE.live), { code: 1, stdout: '' }, 'not live before the start');
  const initialised = init();
  t.equal(initialised.code, 0, initialised.stdout + initialised.stderr);
  t.equal(natOf(gateway), NAT_LISTING);

  const daemon = start();
  await until(() => exec(...PROBE.live).code === 0, { what: 'live' });
  t.same(exec(...PROBE.live), { code: 0, stdout: '', stderr: '' }, 'a probe says nothing');
  t.same(exec(...PROBE.ready), { code: 1, stdout: '', stderr: '' }, 'not ready without a session');
  const status = () => JSON.parse(exec(BFD_COMMAND.B[0], 'status').stdout);
  await until(() => status().Sessions[0]?.State === 'Down', { what: 'the session is expected' });
  t.match(status(), {
    Live: true,
    Ready: false,
    Sessions: [
      {
        Pair: { Local: '10.16.0.12', Remote: '10.255.255.255' },
        State: 'Down',
        Phase: 'Grace',
        Attempts: 0,
        LastAction: 'None',
      },
    ],
    ChildCircuitOpen: false,
  });

  await peerUp(await frr());
  await until(() => exec(...PROBE.ready).code === 0, { what: 'ready' });
  const said = exec('veg-agent', 'status').stdout;
  t.notMatch(said, /note:/, 'what root left in the state directory is no fault');
  t.notMatch(daemon.log(), /last good policy|cannot keep the policy/, 'nor is the last good policy');
  t.same(skeleton(said), skeleton(README_STATUS), 'README.md shows what status prints');
  const begun = daemon.log();
  t.ok(begun.indexOf(SEALED) < begun.indexOf('policy loaded'), 'sessions begin before the agent process');
  t.notMatch(begun, /"trigger":"start","changes":[1-9]/, 'which finds everything in place');
  t.ok(allPeersUp(exec(...PROBE.status).stdout, ['10.255.255.255']));
  const livez = ['-s', '-m', '5', '-o', '/dev/null', '-w', '%{http_code}', 'http://10.16.0.12:10669/livez'];
  t.equal(router.run('curl', livez).stdout, '200', 'the kubelet’s GET /livez');

  t.equal(exec(...TAKE_SESSIONS_AWAY).code, 0);
  t.match(exec(...PROBE.status).stdout, /^There are 0 sessions:/);
  t.match(exec(...PROBE.healthcheck), { code: 1, stderr: /^There are 0 sessions:/ });
  t.equal(exec(...PROBE.live).code, 0, 'live without a session');
  exec('bfdd-control', 'allow', '10.255.255.255');
  await until(() => exec(...PROBE.ready).code === 0, { what: 'ready again' });

  gateway.sh('iptables -t nat -F');
  gateway.sh('ip rule del priority 1002');
  await until(() => natOf(gateway) === NAT_LISTING && gateway.sh('ip rule').includes('1002:'), {
    what: 'what was deleted is back, without root',
  });

  t.match(exec(BFD_COMMAND.B[0], 'nonsense'), { code: 1, stderr: /usage:/ });
  t.match(exec(BFD_COMMAND.B[0]), { code: 1, stderr: /usage:/ });
  t.equal(await daemon.stop('SIGTERM'), 0, 'a drain, and a clean end');
  t.same(exec(...PROBE.live), { code: 1, stdout: '', stderr: '' });
  t.match(exec(...PROBE.status), { code: 1, stderr: /no answer from veg-agent/ });
  t.equal(natOf(gateway), NAT_LISTING, 'the rules stay');
});

/** What the BFD process says when sessions begin before there is an agent process, and when they do not. */
const SEALED = 'sessions do not wait for the agent process';
const UNSEALED = /"reason":"(.*?)","msg":"not as the init container left it/;

t.test(
  'sessions begin, and end, before there is an agent process: all is as the init container left it',
  async (t) => {
    const { root, gateway, server, init, start, frr } = pod(t, 'B');
    t.equal(init().code, 0);
    // kubelet may run an init container again in a pod that has its interfaces.
    t.equal(init().code, 0, 'a second time');
    root.write('opt/veg-agent/dist/agent/child.js', 'setInterval(() => {}, 1e6);');
    const daemon = start();
    const peer = await frr();
    await peerUp(peer);
    t.match(daemon.log(), SEALED);
    t.equal(natOf(gateway), NAT_LISTING);
    t.match(gateway.sh('iptables -t raw -S'), /-A OUTPUT -p udp -j VEG-NOTRACK/, 'past connection tracking');
    t.match(gateway.sh('ip route'), /10\.255\.255\.255 via 10\.16\.0\.1 dev eth0/);

    server.sh('ip addr del 172.17.0.1/16 dev eth0');
    await until(() => /"from":"Up","to":"AdminDown"/.test(daemon.log()), { what: 'out of Up: no way out' });
    server.sh('ip addr add 172.17.0.1/16 dev eth0');
    await peerUp(peer);
    gateway.sh('ip rule del priority 1002');
    await until(() => daemon.log().includes('no longer as the init container left it'), {
      what: 'it is seen',
    });
    await until(() => daemon.log().split('"to":"AdminDown"').length === 3, {
      what: 'out of Up: a rule is gone',
    });
  },
);

t.test('without an init container’s seal that holds, sessions wait for the agent process', async (t) => {
  const { root, gateway, init, start, exec } = pod(t, 'B');
  const damages: [damage: () => void, reason: string][] = [
    [() => gateway.sh('iptables -t nat -D PREROUTING 1'), 'another kernel'],
    [() => gateway.sh('sysctl -q net.ipv4.ip_forward=0'), 'another kernel'],
    [() => gateway.sh('ip link set net1 mtu 1300'), 'another kernel'],
  ];
  for (const [damage, reason] of damages) {
    t.equal(init().code, 0);
    damage();
    const daemon = start();
    await until(() => UNSEALED.test(daemon.log()), { what: `${damage}` });
    t.equal(UNSEALED.exec(daemon.log())?.[1], reason, `${damage}`);
    t.notMatch(daemon.log(), SEALED);
    await daemon.stop('SIGUSR2');
  }
  // A policy of documents is the agent process's to read.
  t.equal(init().code, 0);
  root.write('etc/veg-agent/policy/gateway.yaml', '{}');
  const daemon = start();
  await until(() => exec(...PROBE.live).code === 0, { what: 'live' });
  t.notMatch(daemon.log(), SEALED);
});

t.test('variant A: the same behind the scripts of older releases', async (t) => {
  const { gateway, init, start, exec, frr } = pod(t, 'A');
  t.equal(init().code, 0);
  t.equal(natOf(gateway), NAT_LISTING);
  const daemon = start();
  const { code, stderr } = exec(...PROBE.prestart);
  t.equal(code, 0, stderr);
  await until(() => exec(...PROBE.status).code === 0, {
    what: 'the liveness probe of 1.14',
  });
  await until(() => exec(...PROBE.healthcheck).code === 0, { what: 'that of 1.15.20' });
  await peerUp(await frr());
  await until(() => allPeersUp(exec(...PROBE.status).stdout, ['10.255.255.255']), { what: 'Up' });
  gateway.sh('iptables -t nat -F');
  await until(() => natOf(gateway) === NAT_LISTING, { what: 'drift is repaired here too' });
  daemon.signal('SIGKILL');
  await daemon.ended();
});

t.test('a gateway without BFD has its rules from the init container alone', async (t) => {
  const { gateway, client, server, init } = pod(t, 'none');
  t.equal(init().code, 0);
  t.equal(natOf(gateway), NAT_LISTING);
  await startEchoServer(server);
  t.match(await sourceSeen(client, '172.17.0.1'), /^172\.17\.0\.11 /);
});

t.test('an internal dual stack with an external network in IPv4 alone', async (t) => {
  const { gateway, init, start, exec, frr } = pod(t, 'B');
  t.equal(init({ ...DUAL.init, EXTERNAL_GATEWAY_IPV6: '' }).code, 0);
  t.equal(natOf(gateway), NAT_LISTING);
  t.notMatch(gateway.sh('ip -6 rule'), /100[1-4]:/);
  start(DUAL.bfd);
  await peerUp(await frr());
  await until(() => exec(...PROBE.ready).code === 0, { what: 'ready' });
  t.match(
    exec(...PROBE.status).stdout,
    /^There are 1 sessions:/,
    'nothing is drawn to where there is no way out',
  );
});

t.test('an init container that cannot do its work says why', async (t) => {
  const { gateway, init } = pod(t, 'B');
  const before = natOf(gateway);
  t.match(init({}), { code: 1, stderr: /neither INTERNAL_GATEWAY_IPV4 nor INTERNAL_GATEWAY_IPV6 is set/ });
  t.match(init({ ...INIT_ENV, EXTERNAL_GATEWAY_IPV4: '' }), { code: 1, stderr: /error: .*EXTERNAL_GATEWAY/ });
  t.match(init({ ...INIT_ENV, NO_SNAT_SOURCES_IPV4: '10.18.0.0/33' }), {
    code: 1,
    stderr: /error: .*NO_SNAT_SOURCES_IPV4.*10\.18\.0\.0\/33/,
  });
  const evpn = { ...INIT_ENV, ENABLE_BGP: 'true', ENABLE_EVPN: 'true' };
  t.match(init(evpn), { code: 1, stderr: /error: .*VNI: is required with ENABLE_EVPN/ });
  gateway.sh('ip link add vrf-vpn type bridge');
  t.match(init({ ...evpn, VNI: '7' }), {
    code: 1,
    stdout: /^veg-agent: EVPN mode \(ENABLE_EVPN, VNI 7\): nothing is translated/m,
    stderr: /error: .*link vrf-vpn: in_use: ip link add vrf-vpn .* type vrf table 2000/,
  });
  gateway.sh('ip link del vrf-vpn');
  gateway.sh('ip link set net1 down');
  t.match(init(), { code: 1, stderr: /error: .*net1 is down/ });
  t.equal(natOf(gateway), before);
});

t.test('BGP mode: nothing but forwarding is touched, BFD is answered, and so is every probe', async (t) => {
  const { gateway, router, init, start, exec, frr } = pod(t, 'B');
  const before = natOf(gateway);
  const initialised = init({ ...INIT_ENV, ENABLE_BGP: 'true' });
  t.equal(initialised.code, 0, initialised.stdout + initialised.stderr);
  t.match(
    initialised.stdout,
    /^veg-agent: BGP mode \(ENABLE_BGP\): nothing is translated, .*snat: true.* policy with spec\.bgp/m,
  );
  t.equal(gateway.sh('sysctl -n net.ipv4.ip_forward net.ipv4.conf.eth0.rp_filter'), '1\n0\n');
  // The CNI's, from the pod's annotations.
  gateway.sh('ip route add 10.255.255.255 via 10.16.0.1 dev eth0');
  const daemon = start();
  await until(() => exec(...PROBE.live).code === 0, { what: 'live' });
  t.equal(exec(...PROBE.ready).code, 1, 'not ready without a session');
  await peerUp(await frr());
  await until(() => exec(...PROBE.ready).code === 0, { what: 'ready' });
  t.ok(allPeersUp(exec(...PROBE.status).stdout, ['10.255.255.255']));
  t.match(JSON.parse(exec(BFD_COMMAND.B[0], 'status').stdout), { Live: true, Ready: true });
  t.match(exec('veg-agent', 'status').stdout, /^ready .*BGP mode \(ENABLE_BGP\)/s);
  const get = (path: string) =>
    router.run('curl', ['-s', '-m', '5', `http://10.16.0.12:10669${path}`]).stdout;
  t.equal(get('/livez'), 'ok\n');
  t.equal(get('/readyz'), 'ok\n');
  t.match(get('/metrics'), /^veg_bfd_session_state\{local="10\.16\.0\.12",remote="10\.255\.255\.255"\} 3$/m);
  t.match(get('/metrics'), /^kube_ovn_bfdd_up_sessions 1$/m);
  t.equal(natOf(gateway), before, 'nothing is translated');
  t.notMatch(gateway.sh('ip rule'), /100[1-4]:/);
  t.equal(gateway.sh('ip route show proto 178'), '');
  t.equal(await daemon.stop(), 0);
});

t.test('BGP mode in both families, with an external network in IPv4 alone, variant A', async (t) => {
  const { gateway, router, scope, init, start, exec } = pod(t, 'A');
  t.equal(init({ ...DUAL.init, EXTERNAL_GATEWAY_IPV6: '', ENABLE_BGP: 'true' }).code, 0);
  gateway.ip(
    'route add 10.255.255.255 via 10.16.0.1 dev eth0\nroute add fd00:ffff::1 via fd00:10:16::1 dev eth0',
  );
  start(DUAL.bfd);
  await peerUp(
    await startFrr(scope, router, {
      sessions: ([4, 6] as const).map((f) => ({
        local: ADDRESS.bfdPort[f],
        remote: ADDRESS.gatewayInternal[f],
      })),
    }),
  );
  await until(() => exec(...PROBE.healthcheck).code === 0, { what: 'healthy' });
  t.ok(allPeersUp(exec(...PROBE.status).stdout, DUAL.bfd.BFD_PEER_IPS.split(',')));
});

t.test('BGP mode with a policy directory: its policy is in force, translates and announces', async (t) => {
  const { gateway, client, server, root, init, start, exec, frr } = pod(t, 'B');
  root.write(
    'etc/veg-agent/policy/gateway.yaml',
    `apiVersion: veg-agent.io/v1alpha1
kind: GatewayPolicy
metadata: { name: gateway1, namespace: default }
spec:
  internal: { gateways: [10.16.0.1] }
  external: { gateways: [172.17.0.1] }
  bfd: { enabled: true, peers: [10.255.255.255], minTX: 100, minRX: 100, multiplier: 5 }
  policies: [{ name: forwarded, snat: false, ipBlocks: [10.18.0.0/16] }]
  bgp: { localASN: 65001, neighbours: [{ address: 172.17.0.1, asn: 65000 }], announce: [forwarded] }
`,
  );
  const initialised = init({ ...INIT_ENV, ENABLE_BGP: 'true' });
  t.equal(initialised.code, 0, initialised.stdout + initialised.stderr);
  t.match(
    initialised.stdout,
    /^veg-agent: BGP mode \(ENABLE_BGP\): the policy in \/etc\/veg-agent\/policy is in force/m,
  );
  t.notMatch(initialised.stdout, 'nothing is translated');
  t.match(natOf(gateway), '-A VEG-MASQUERADE -j MASQUERADE --random-fully\n');
  start();
  await peerUp(await frr());
  await until(() => exec(...PROBE.ready).code === 0, { what: 'ready' });
  t.notMatch(exec('veg-agent', 'status').stdout, 'BGP mode (ENABLE_BGP)');
  await startEchoServer(server);
  t.match(await sourceSeen(client, ADDRESS.server[4]), `${ADDRESS.gatewayExternal[4]} `);
  // Kube-OVN's CNI has a route of the block itself.
  const announced = () => gateway.sh('ip route show metric 178').match(/^\S+/gm) ?? [];
  await until(() => announced().join() === '10.18.0.0/17,10.18.128.0/17', { what: 'the block is announced' });
});

t.test('unsupported settings are refused at the start, by name', async (t) => {
  const { init, start } = pod(t, 'B');
  const early = start();
  t.equal(await early.ended(), 1);
  t.match(early.log(), /no policy: the init container left none/);
  t.equal(init().code, 0);
  const daemon = start({ ...BFD_ENV, BFD_MULTI: '256' });
  t.equal(await daemon.ended(), 1);
  t.match(daemon.log(), /error: BFD_MULTI: must be a whole number between 1 and 255, is "256"/);
});

t.test('the policy passes from container to container as it is, whatever is in it', async (t) => {
  const { gateway, root, init } = pod(t, 'A');
  t.equal(init({ ...INIT_ENV, NO_SNAT_SOURCES_IPV4: '10.18.0.0/16,10.19.0.0/16' }).code, 0);
  const read = ['sh', '-c', '. /usr/local/sbin/veg-agent.env; printenv NO_SNAT_SOURCES_IPV4'];
  t.equal(root.run(gateway, read, NOBODY).stdout, '10.18.0.0/16,10.19.0.0/16\n');
  const replace = ['sh', '-c', 'rm -f /usr/local/sbin/veg-agent.env; echo x >/usr/local/sbin/veg-agent.env'];
  t.not(root.run(gateway, replace, NOBODY).code, 0, 'and nobody but the init container writes it');
});

t.test('the programs get what the container may have, and say what they lack', async (t) => {
  const { gateway, root, init } = pod(t, 'B');
  t.equal(init().code, 0);
  const plan = ['sh', '-c', '. /usr/local/sbin/veg-agent.env; veg-agent plan'];
  // The init container is not told of BFD, and has made its rules all the same.
  const planned = root.run(gateway, plan, NOBODY);
  t.equal(planned.code, 4, planned.stderr);
  t.match(planned.stdout, /^(?:iptables -t raw -[DFX] .*VEG-NOTRACK\n){4}$/);
  const noCapability = { ...NOBODY, capabilities: ['net_bind_service'] };
  t.match(root.run(gateway, plan, noCapability), { code: 1, stderr: /add NET_ADMIN/ });
  t.match(root.run(gateway, plan, { ...NOBODY, noNewPrivileges: true }), {
    code: 1,
    stderr: /warning: .*allowPrivilegeEscalation/,
  });
  for (const tool of [
    'ip rule show',
    'ip -6 route show',
    'iptables -t nat -S',
    'ip6tables -t raw -S',
    'iptables-legacy --version',
    'ipset list -n',
    'conntrack -L',
    'traceroute -n -m 1 10.16.0.1',
    'timeout -s INT --preserve-status 1 tcpdump -n -c 1 -i eth0',
    'curl -sS http://127.0.0.1:1 -o /dev/null',
  ]) {
    const { code, stderr } = root.run(gateway, tool.split(' '), NOBODY);
    const expected = tool.startsWith('curl') ? 7 : 0;
    t.equal(code, expected, `${tool}: ${stderr}`);
  }
});

t.test('the observer reports translated flows with the privileges of its container', async (t) => {
  const { gateway, client, server, root, init } = pod(t, 'none');
  t.equal(init().code, 0);
  const config = (recordsPerSecond: number) => ({
    namespace: 'default',
    name: 'gateway1',
    externalNetwork: 'default/macvlan1',
    observability: {
      interfaceMetrics: { enabled: true },
      conntrack: { metrics: { enabled: true }, log: { enabled: true, rateLimit: { recordsPerSecond } } },
    },
  });
  const write = (value: object) => root.write('etc/kube-ovn-observer/config.json', JSON.stringify(value));
  write(config(100));
  root.write('etc/podinfo/network-status', NETWORK_STATUS);
  const identity = {
    ...NOBODY,
    capabilities: ['net_admin'],
    env: { POD_NAME: 'gateway1-0', NODE_NAME: 'node1' },
  };
  const flags = [
    '--config',
    '/etc/kube-ovn-observer/config.json',
    '--network-status',
    '/etc/podinfo/network-status',
  ];
  const program = '/kube-ovn/vpc-egress-gateway-observer';
  t.equal(root.run(gateway, [program, '--health-check'], identity).code, 1, 'nobody is there');
  const observer = root.spawn(gateway, [program, ...flags], identity);
  await until(() => root.run(gateway, [program, '--health-check'], identity).code === 0, {
    what: 'healthy',
  });

  const metrics = () => gateway.run('curl', ['-fsS', 'http://127.0.0.1:10666/metrics']).stdout;
  const labels = 'namespace="default",name="gateway1",pod="gateway1-0",node="node1"';
  await until(() => metrics().includes(`collector_up{${labels},collector="conntrack"} 1`), {
    what: 'conntrack is read',
  });
  await startEchoServer(server);
  await sourceSeen(client, '172.17.0.1');
  const records = () =>
    observer
      .log()
      .split('\n')
      .filter((line) => line.includes('"schemaVersion"'))
      .map((line) => JSON.parse(line));
  await until(() => records().length > 0, { what: 'a record' });
  t.match(records()[0], {
    schemaVersion: 'v1',
    event: 'start',
    namespace: 'default',
    name: 'gateway1',
    pod: 'gateway1-0',
    node: 'node1',
    natType: ['snat'],
    original: { sourceIP: '10.17.0.9', destinationIP: '172.17.0.1' },
  });
  const [{ protocol, conntrackID, original }] = records();
  const flow = ['-p', protocol, '-s', original.sourceIP, '-d', original.destinationIP];
  const ports = ['--sport', `${original.sourcePort}`, '--dport', `${original.destinationPort}`];
  root.run(gateway, ['conntrack', '-D', '-w', '0', ...flow, ...ports], identity);
  await until(() => records().some((r) => r.event === 'end' && r.conntrackID === conntrackID), {
    what: 'its end',
  });
  await until(() => metrics().includes(`conntrack_nat_flows_started_total{${labels},`), { what: 'flows' });
  t.match(metrics(), `interface_rx_bytes_total{${labels},interface="net1",type="external"}`);
  t.match(metrics(), `observability_config_reload_total{${labels},result="success"} 1`);
  // Kube-OVN's own test: a second one beside it, to which Multus has told nothing.
  const second = [
    ...flags.slice(0, 2),
    '--network-status',
    '/nonexistent',
    '--listen-address',
    '127.0.0.1:10667',
  ];
  root.spawn(gateway, [program, ...second], identity);
  await until(
    () => {
      const text = gateway.run('curl', ['-fsS', 'http://127.0.0.1:10667/metrics']).stdout;
      return (
        text.includes(`collector_up{${labels},collector="interface"} 0`) &&
        text.includes(`collector_up{${labels},collector="conntrack"} 1`) &&
        /observability_errors_total\{.*collector="interface",operation="collect"\} [1-9]/.test(text)
      );
    },
    { what: 'one collector goes on without the other' },
  );
  write(config(50));
  await until(() => metrics().includes(`config_reload_total{${labels},result="success"} 2`), {
    what: 'a reload',
  });
  const last = metrics();
  t.equal(await observer.stop('SIGTERM'), 0);

  // Its container starts again in the same pod.
  const started = (text: string) =>
    text.match(/^\S+nat_flows_started_total\{[^}]*protocol="tcp"[^}]*\} (\d+)/m)?.[1];
  const before = Number(started(last));
  root.spawn(gateway, [program, ...flags], identity);
  await until(() => Number(started(metrics())) >= before, { what: 'counters go on' });
  t.match(metrics(), `config_reload_total{${labels},result="success"} 3`);
});

t.test('Node’s flags follow the memory limit; what was compiled ahead is for its user alone', async (t) => {
  const { gateway, root, init } = pod(t, 'B');
  const program = 'console.log(process.execArgv.join(" "), process.env.NODE_COMPILE_CACHE ?? "")\n';
  root.write('opt/veg-agent/dist/flags.js', program);
  const flags = (limit: string, user: 'root' | 'nobody' = 'nobody'): string => {
    root.write('sys/fs/cgroup/memory.max', `${limit}\n`);
    const { stdout, stderr } = root.run(gateway, ['/usr/libexec/veg-agent/launch', 'flags.js'], { user });
    return stdout + stderr;
  };
  t.match(flags('67108864'), /^--disable-sigusr1 --lite-mode --max-old-space-size=24 /);
  t.match(flags('52428800'), /^--disable-sigusr1 --lite-mode --max-old-space-size=24 /);
  t.match(flags('268435456'), /^--disable-sigusr1 --max-old-space-size=96 /);
  t.equal(flags('max'), '--disable-sigusr1 \n');
  t.equal(flags('9223372036854771712'), '--disable-sigusr1 \n', 'no limit, as cgroup v1 has it');
  t.equal(init().code, 0);
  const cache = '/usr/local/sbin/veg-agent.cache';
  t.match(root.run(gateway, ['find', cache, '-path', '*-65534/*', '-user', '0']).stdout, /(\S+\n){20}/);
  t.match(flags('67108864'), ` ${cache}\n`);
  t.notMatch(flags('67108864', 'root'), cache);
});
