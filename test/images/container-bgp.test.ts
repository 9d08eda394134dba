/**
 * FRR's container (images/frr) beside the gateway's, with the FRR of Debian 12 and 13: Kube-OVN's BGP mode, and the pod that
 * `render kubernetes` makes of a gateway with bgpConf. The router outside is FRR as well.
 */
import { chmodSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import t, { type Test } from 'tap';
import { isEstablished } from '../../agent/bgp/sessions.ts';
import { must, type Namespace, NODE, ROOT, type Scope, until } from '../support/netns.ts';
import { peerUp, startFrr } from '../support/peers.ts';
import { scopeOf } from '../support/tap.ts';
import { ADDRESS, topology } from '../support/topology.ts';
import { sourceSeen, startEchoServer } from '../support/traffic.ts';
import { Container } from './container.ts';
import { initialised, supervisor } from './lab.ts';
import { allPeersUp, BFD_COMMAND, DUAL, PROBE } from './pod.ts';
import { RenderedPod } from './rendered.ts';

const CAPABILITIES = ['NET_ADMIN', 'NET_BIND_SERVICE', 'NET_RAW', 'SYS_ADMIN'];
const START = '/usr/libexec/veg-frr/start';
const PASSWORD = 'between-routers';
/** Between two attempts to connect, s: on a machine that takes a second for a handshake, a shorter time ends each attempt. */
const CONNECT = 3;
const [GATEWAY, ROUTER] = [ADDRESS.gatewayExternal, ADDRESS.server];

/** FRR's image from a suite of Debian: built unless it is there. */
function frrImage(suite: string): string {
  const script = join(ROOT, 'test/support/image.sh');
  must('sh', [script, '--frr', suite], { timeoutMs: 600_000 });
  return must('sh', [script, '--frr', suite, '--name']).trim();
}

/** FRR's container with a configuration. */
class Frr {
  readonly container: Container;

  constructor(
    t: Test,
    scope: Scope,
    ns: Namespace,
    image: string,
    conf: string,
    capabilities: readonly string[] = CAPABILITIES,
  ) {
    const directory = scope.directory('frr');
    chmodSync(directory, 0o755);
    const volume = (name: string, mode: number) => {
      const path = join(directory, name);
      mkdirSync(path);
      chmodSync(path, mode);
      return path;
    };
    const [config, run] = [volume('config', 0o755), volume('run', 0o777)];
    const daemons = ['zebra', 'bgpd', 'bfdd'].map((name) => `${name}=yes\n${name}_options="-P 0"\n`);
    for (const [name, text] of Object.entries({
      ...{ daemons: `${daemons.join('')}mgmtd_options="-P 0 --log-level critical"\n`, 'frr.conf': conf },
      'vtysh.conf': 'service integrated-vtysh-config\n',
    })) {
      writeFileSync(join(config, name), text);
    }
    this.container = Container.start(scope, ns, {
      ...{ image, command: [START], readOnly: true, security: { capabilities } },
      volumes: { '/etc/frr:ro': config, '/var/run/frr': run },
    });
    t.teardown(() => {
      if (!t.passing()) {
        const seen = ns.sh(
          'ss -Htanie sport = 179 or dport = 179; ip neigh; nstat -az | grep -i md5 || true',
        );
        t.comment(`${this.container.log().slice(-5000)}\n${seen}`);
      }
      this.container.remove();
    });
  }
}

/** What vtysh prints in a container, as JSON; undefined if it does not answer. */
function show<T>(container: Container, command: string): T | undefined {
  const { code, stdout } = container.exec('vtysh', '-c', `${command} json`);
  return code === 0 ? (JSON.parse(stdout) as T) : undefined;
}

/** The prefixes that a router has from its neighbours, each with its next hop. */
function learned(router: Container): Record<string, string> {
  type Table = { routes?: Record<string, { nexthops: { ip: string; scope?: string }[] }[]> };
  const entries = (['ipv4', 'ipv6'] as const).flatMap((family) =>
    Object.entries(show<Table>(router, `show bgp ${family} unicast`)?.routes ?? {}),
  );
  return Object.fromEntries(
    entries.map(([prefix, paths]) => [
      prefix,
      paths
        .flatMap(({ nexthops }) => nexthops.filter(({ scope }) => scope !== 'link-local').map(({ ip }) => ip))
        .join(),
    ]),
  );
}

const established = (frr: Container, count: number): Promise<boolean> =>
  until(
    () => {
      type Neighbours = Record<string, { bgpState?: string; lastResetDueTo?: string }>;
      const neighbours = Object.entries(show<Neighbours>(frr, 'show bgp neighbors') ?? {});
      if (neighbours.filter(([, { bgpState }]) => bgpState === 'Established').length === count) return true;
      const states = neighbours.map(([name, { bgpState, lastResetDueTo }]) =>
        [name, bgpState, lastResetDueTo].join(' '),
      );
      throw new Error(states.join(', ') || 'no answer');
    },
    { what: 'BGP is established' },
  );

const bfdUp = (frr: Container, count: number): Promise<boolean> =>
  until(
    () => {
      const peers = show<{ status: string }[]>(frr, 'show bfd peers') ?? [];
      return peers.filter(({ status }) => status === 'up').length === count;
    },
    { what: 'BFD of FRR is Up' },
  );

/** What the neighbour said when it ended the session. */
function lastNotification(router: Container, neighbour: string): string | undefined {
  type Neighbours = Record<string, { lastNotificationReason?: string }>;
  return show<Neighbours>(router, `show bgp neighbors ${neighbour}`)?.[neighbour]?.lastNotificationReason;
}

interface Speaker {
  own: number;
  other: number;
  /** Of both families. */
  neighbours: readonly string[];
  /** Commands of each neighbour. */
  each: readonly string[];
  /** Commands within each address family. */
  family?: readonly string[];
  /** Commands of the router. */
  router?: readonly string[];
}

const speaker = ({ own, other, neighbours, each, family: commands = [], router = [] }: Speaker): string =>
  [
    ...['frr defaults traditional', `router bgp ${own}`, ' bgp log-neighbor-changes'],
    ...[' no bgp ebgp-requires-policy', ' no bgp default ipv4-unicast', ...router],
    ...neighbours.flatMap((address) =>
      [`remote-as ${other}`, `timers connect ${CONNECT}`, ...each].map(
        (command) => ` neighbor ${address} ${command}`,
      ),
    ),
    ...['ipv4', 'ipv6'].flatMap((family) => [
      ` address-family ${family} unicast`,
      ...commands.map((command) => `  ${command}`),
      ...neighbours
        .filter((address) => address.includes(':') === (family === 'ipv6'))
        .map((address) => `  neighbor ${address} activate`),
      ' exit-address-family',
    ]),
    'exit',
    '',
  ].join('\n');

const OUTSIDE = { own: 65_000, other: 65_001, neighbours: [GATEWAY[4], GATEWAY[6]] };

for (const suite of ['bookworm', 'trixie'] as const) {
  t.test(
    `Kube-OVN's BGP mode beside FRR of ${suite}: probes, BFD with OVN and with the router`,
    async (t) => {
      const image = frrImage(suite);
      const pod = await initialised(t, 'B', { init: { ...DUAL.init, ENABLE_BGP: 'true' }, bfd: DUAL.bfd });
      const { gateway, router, server, scope } = pod;
      // The CNI's, from the pod's annotations.
      gateway.ip(
        'route add 10.255.255.255 via 10.16.0.1 dev eth0\nroute add fd00:ffff::1 via fd00:10:16::1 dev eth0',
      );
      const outside = new Frr(t, scope, server, image, speaker({ ...OUTSIDE, each: ['bfd'] })).container;
      const ovn = await pod.frr();
      const upstream = speaker({
        ...{ own: 65_001, other: 65_000, neighbours: [ROUTER[4], ROUTER[6]] },
        ...{ each: ['bfd'], family: ['redistribute connected', 'redistribute kernel'] },
      });
      const beside = new Frr(t, scope, gateway, image, upstream).container;
      const container = supervisor(pod);
      await until(() => container.exec(...PROBE.ready).code === 0, { what: 'ready' });
      await peerUp(ovn);
      await established(beside, 2);
      await bfdUp(outside, 2);

      // Each restarts beside the other one.
      beside.restart();
      await established(beside, 2);
      await bfdUp(outside, 2);
      container.restart();
      await until(() => container.exec(...PROBE.ready).code === 0, {
        what: 'ready again',
      });
      await peerUp(ovn);
      await bfdUp(outside, 2);

      const rounds = Number(process.env.VEG_PROBE_ROUNDS ?? 20);
      for (let i = 0; i < rounds; i++) {
        for (const probe of [PROBE.live, PROBE.ready, PROBE.status])
          t.equal(container.exec(...probe).code, 0);
        t.equal(router.run('curl', ['-fsS', '-m', '5', 'http://10.16.0.12:10669/livez']).code, 0);
      }
      t.ok(allPeersUp(container.exec(...PROBE.status).stdout, DUAL.bfd.BFD_PEER_IPS.split(',')));
      t.match(JSON.parse(container.exec(BFD_COMMAND.B[0], 'status').stdout), { Live: true, Ready: true });
      t.notMatch(container.log(), '"from":"Up"', 'OVN’s sessions never went down');
      t.ok(container.running && beside.running);
      const { anonymous, charged } = beside.memory;
      t.comment(`memory of FRR: ${anonymous} MiB anonymous, ${charged} charged`);
    },
  );
}

/** The gateway of the topology, with BGP. */
const GATEWAY_DOCUMENTS = `apiVersion: kubeovn.io/v1
kind: VpcEgressGateway
metadata: { name: gateway1, namespace: default }
spec:
  replicas: 1
  internalSubnet: ovn-default
  externalSubnet: macvlan1
  internalIPs: ["${ADDRESS.gatewayInternal[4]},${ADDRESS.gatewayInternal[6]}"]
  externalIPs: ["${GATEWAY[4]},${GATEWAY[6]}"]
  bgpConf: bgp
  bfd: { enabled: true, minTX: 100, minRX: 100, multiplier: 5 }
  policies:
    - { snat: true, ipBlocks: [10.17.0.0/16, "fd00:10:17::/64"] }
    - { snat: false, ipBlocks: [10.18.0.0/16, "fd00:10:18::/64"] }
---
apiVersion: kubeovn.io/v1
kind: BgpConf
metadata: { name: bgp }
spec:
  { localASN: 65001, peerASN: 65000, neighbours: [${ROUTER[4]}, "${ROUTER[6]}"], password: ${PASSWORD}, holdTime: 9s, connectTime: ${CONNECT}s, gracefulRestart: true }
---
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: { name: ovn-cluster }
spec: { bfdPort: { enabled: true, ip: "${ADDRESS.bfdPort[4]},${ADDRESS.bfdPort[6]}" } }
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: { name: ovn-default }
spec: { protocol: Dual, cidrBlock: "10.16.0.0/16,fd00:10:16::/64", gateway: "10.16.0.1,fd00:10:16::1" }
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: { name: macvlan1 }
spec: { protocol: Dual, provider: macvlan1.default, cidrBlock: "172.17.0.0/16,fd00:172:17::/64", gateway: "${ROUTER[4]},${ROUTER[6]}" }
`;

for (const suite of ['bookworm', 'trixie'] as const) {
  t.test(
    `the rendered pod with FRR of ${suite}: exactly the forwarded blocks, and withdrawn before its end`,
    async (t) => {
      const image = frrImage(suite);
      const scope = scopeOf(t);
      const { gateway, router, server, client, client2 } = topology(scope);
      // The forwarded blocks are learned.
      server.ip('route del 10.18.0.0/16\nroute del fd00:10:18::/64');
      const manifests = must(
        NODE,
        [
          ...[join(ROOT, 'dist/agent/main.js'), 'render', 'kubernetes', '-f', '-'],
          ...['--image', 'here/veg:1', '--frr-image', 'here/frr:1'],
        ],
        { input: GATEWAY_DOCUMENTS },
      );
      const pod = new RenderedPod(t, scope, gateway, manifests, { frr: image });
      const withPassword = { each: [`password ${PASSWORD}`], router: ['bgp graceful-restart'] };
      const outside = new Frr(t, scope, server, image, speaker({ ...OUTSIDE, ...withPassword })).container;
      const { code, log } = await pod.start('init').ended();
      t.equal(code, 0, log);
      const [agent, frr] = [pod.start('agent'), pod.start('frr')];
      const ovn = await startFrr(scope, router, {
        sessions: ([4, 6] as const).map((f) => ({
          local: ADDRESS.bfdPort[f],
          remote: ADDRESS.gatewayInternal[f],
        })),
      });
      await peerUp(ovn);
      await established(outside, 2);
      const expected = { '10.18.0.0/16': GATEWAY[4], 'fd00:10:18::/64': GATEWAY[6] };
      await until(() => isDeepStrictEqual(learned(outside), expected), {
        what: `the router has ${JSON.stringify(expected)}, not ${JSON.stringify(learned(outside))}`,
      });
      await startEchoServer(server);
      t.match(await sourceSeen(client, ROUTER[4]), `${GATEWAY[4]} `);
      t.match(await sourceSeen(client2, ROUTER[4]), `${ADDRESS.client2[4]} `);
      t.match(await sourceSeen(client2, ROUTER[6]), `${ADDRESS.client2[6]} `);
      const sessions = () =>
        JSON.parse(agent.exec('veg-agent', 'status', '--json').stdout).bgp.sessions ?? [];
      await until(() => sessions().filter(isEstablished).length === 2, {
        what: 'the agent sees the sessions on FRR’s socket',
      });
      t.notMatch(frr.log() + agent.log(), PASSWORD);

      // The kubelet calls both hooks at once, and ends a container when its hook has ended.
      const preStop = (name: string): string[] => pod.container(name).lifecycle.preStop.exec.command;
      const drained = agent.execMeasured(...preStop('agent'));
      t.equal(frr.exec(...preStop('frr')).code, 0);
      t.same(learned(outside), {}, 'withdrawn while the session is there');
      frr.signal('SIGTERM');
      t.equal((await frr.ended()).code, 0);
      await until(() => /Cease.Administrative Shutdown/.test(lastNotification(outside, GATEWAY[4]) ?? ''), {
        what: `a NOTIFICATION, not ${lastNotification(outside, GATEWAY[4])}`,
      });
      t.equal((await drained).code, 0);
      agent.signal('SIGTERM');
      t.equal((await agent.ended()).code, 0);
    },
  );
}

t.test('FRR’s container ends with the reason when it cannot do its work', async (t) => {
  const scope = scopeOf(t);
  const ns = scope.namespace('pod');
  const conf = speaker({ own: 65_001, other: 65_000, neighbours: ['10.0.0.2'], each: ['password secret'] });
  for (const suite of ['bookworm', 'trixie']) {
    const image = frrImage(suite);
    const ends = (text: string, capabilities = CAPABILITIES) =>
      new Frr(t, scope, ns, image, text, capabilities).container.ended();
    t.match(await ends(conf.replace('secret', '@/etc/veg-frr/secret/password@')), {
      code: 1,
      log: 'error: frr.conf: the password file /etc/veg-frr/secret/password cannot be read: is its Secret mounted?',
    });
    const refused = await ends(conf.replace('neighbor 10.0.0.2 password', 'neighbour 10.0.0.2 password'));
    t.match(refused, {
      code: 1,
      log: /error: FRR refuses frr\.conf: line \d+: % Unknown command.* password …$/m,
    });
    t.notMatch(refused.log, 'secret');
    t.match(await ends(conf, ['NET_ADMIN', 'NET_BIND_SERVICE', 'NET_RAW']), {
      code: 1,
      log: /privs_init.*error: \w+ ended at its start .* SYS_ADMIN/s,
    });
  }
});

t.test('FRR’s image holds its parts list', async (t) => {
  for (const suite of ['bookworm', 'trixie']) {
    const image = frrImage(suite);
    const root = must('podman', ['image', 'mount', image]).trim();
    t.teardown(() => must('podman', ['image', 'unmount', image]));
    const { packages } = JSON.parse(readFileSync(join(root, 'usr/share/veg-frr/sbom.spdx.json'), 'utf8')) as {
      packages: { name: string; externalRefs: [{ referenceLocator: string }] }[];
    };
    const locators = new Map(
      packages.map(({ name, externalRefs: [{ referenceLocator }] }) => [name, referenceLocator]),
    );
    t.match(locators.get('frr'), new RegExp(`^pkg:deb/debian/frr@.*distro=${suite}$`));
    const installed = readdirSync(join(root, 'usr/share/doc'));
    t.ok(locators.has('veg-frr') && installed.length > 20, suite);
    t.same(
      installed.filter((name) => !locators.has(name)),
      [],
    );
  }
});
