/**
 * Real OVN, as Debian has it, around gateway pods: one chassis on Open vSwitch's userspace datapath (no kernel
 * module), with databases, daemons and run directory of its own, in namespaces of the scope.
 *
 *     client 10.17.0.9 ─┐            ┌─ eth0 10.16.0.102  gw1  172.17.0.11 net1 ─┐
 *                       ├─ ovn-cluster                                           ├─ server 172.17.0.1
 *     bfd@ 10.255.255.255            └─ eth0 10.16.0.103  gw2  172.17.0.12 net1 ─┘         172.17.1.1–16
 *
 * a third gateway and IPv6 when asked for. OVN watches each gateway through the `bfd@ovn-cluster` port, and spreads
 * what comes from the client's subnet over the gateways whose session is not down, by ECMP routes that carry the
 * BFD rows (this release has no `bfd_sessions` of policies, which Kube-OVN uses). No agent runs in the gateways.
 *
 * VEG_OVN_ROOT names a root file system with another release of OVN (`mmdebstrap --variant=minbase
 * --include=ovn-central,ovn-host,openvswitch-switch trixie DIR`): its programs run with its libraries.
 *
 * Everything runs in the foreground as daemons of the scope, and goes with it.
 */
import { closeSync, lstatSync, mkdirSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import koffi from 'koffi';
import { close, libc, SystemError, socket } from '../../lib/libc.ts';
import { AF_INET, SOCK_DGRAM } from '../../lib/linux.ts';
import { type GatewaySpec, PolicyDirectory, WEB } from './agent.ts';
import { AgentPod, type GatewayPod } from './agent-pod.ts';
import { BfdCapture } from './capture.ts';
import { type Daemon, must, type Namespace, type Scope, URGENTLY, until, veth } from './netns.ts';
import { type BfdPeer, startFrr } from './peers.ts';

/** What OVN says of a session, as its database spells it. */
export type BfdStatus = 'up' | 'init' | 'down' | 'admin_down';

export interface OvnOptions {
  /**
   * False (default): a quiet chassis, as OVN comes. Its BFD thread sends one packet and sleeps until something
   * wakes it, up to 60 s. True: a router port that announces itself keeps the thread's timers going, as the
   * traffic of a busy chassis does.
   */
  wake?: boolean;
  /** Milliseconds, the rows' `min_tx` and `min_rx`; default 100. */
  minTX?: number;
  minRX?: number;
  /** Default 5. */
  multiplier?: number;
  /** IPv6 besides IPv4 (default false). */
  v6?: boolean;
  /** 2 (default) to 9. */
  gateways?: number;
}

/** A change of a session's status in the northbound database: what moves traffic. */
export interface StatusChange {
  /** Unix milliseconds, as seen here. */
  at: number;
  address: string;
  status: BfdStatus;
}

/** The root file system of another release of OVN; empty: this machine's. */
const OVN_ROOT = process.env.VEG_OVN_ROOT ?? '';
const PROGRAMS = [
  ...['ovsdb-server', 'ovsdb-tool', 'ovsdb-client', 'ovs-vswitchd', 'ovs-vsctl'],
  ...['ovn-northd', 'ovn-controller', 'ovn-nbctl', 'ovn-sbctl'],
];

/** Programs that run those of `OVN_ROOT` with its loader and libraries, in this directory. */
function writePrograms(directory: string): void {
  const loader = join(OVN_ROOT, 'lib64/ld-linux-x86-64.so.2');
  const libraries = ['lib', 'usr/lib'].map((path) => join(OVN_ROOT, path, 'x86_64-linux-gnu')).join(':');
  for (const program of PROGRAMS) {
    // Alternatives are links that lead outside of the root.
    const file = ['usr/lib/openvswitch-switch', 'usr/bin', 'usr/sbin']
      .map((path) => join(OVN_ROOT, path, program))
      .find((path) => lstatSync(path, { throwIfNoEntry: false })?.isFile());
    const line = `exec ${loader} --library-path ${libraries} --argv0 ${program} ${file} "$@"`;
    writeFileSync(join(directory, program), `#!/bin/sh\n${line}\n`, { mode: 0o755 });
  }
}

/** What packets go through. The others of OVN may take a while, and would keep these from running. */
const ON_THE_PATH = ['ovs-vswitchd', 'ovn-controller'];

export const CLIENT = { 4: '10.17.0.9', 6: 'fd00:10:17::9' } as const;
export const BFD_PORT = { 4: '10.255.255.255', 6: 'fd00:ffff::1' } as const;
const SERVER = { 4: '172.17.0.1', 6: 'fd00:172:17::1' } as const;
const ROUTER = 'ovn-cluster';
const BFD_LOGICAL_PORT = `bfd@${ROUTER}`;
const CHASSIS = 'node1';
const POD_MTU = 1400;

/**
 * Addresses of the server. This OVN's ECMP hash leaves UDP ports out, so only another address takes a flow to
 * the other gateway.
 */
export const SERVER_ADDRESSES = {
  4: Array.from({ length: 16 }, (_, i) => `172.17.1.${i + 1}`),
  6: Array.from({ length: 16 }, (_, i) => `fd00:172:17::1:${(i + 1).toString(16)}`),
} as const;

const podOf = (scope: Scope, i: number): GatewayPod => ({
  name: `gw${i + 1}`,
  mac: `00:00:00:16:01:${(2 + i).toString(16).padStart(2, '0')}`,
  ns: scope.namespace(`gw${i + 1}`),
  internal: { 4: `10.16.0.${102 + i}`, 6: `fd00:10:16::${102 + i}` },
  external: { 4: `172.17.0.${11 + i}`, 6: `fd00:172:17::${11 + i}` },
});

export class Ovn {
  readonly options: Required<OvnOptions>;
  readonly host: Namespace;
  readonly client: Namespace;
  readonly server: Namespace;
  readonly gateways: [GatewayPod, GatewayPod, ...GatewayPod[]];
  readonly #scope: Scope;
  readonly #dir: string;
  readonly #env: Record<string, string>;
  #controller!: Daemon;
  #monitor!: Daemon;

  private constructor(scope: Scope, options: OvnOptions) {
    this.#scope = scope;
    this.options = { wake: false, minTX: 100, minRX: 100, multiplier: 5, v6: false, gateways: 2, ...options };
    this.host = scope.namespace('ovn');
    this.client = scope.namespace('client');
    this.server = scope.namespace('server');
    this.gateways = [podOf(scope, 0), podOf(scope, 1)];
    for (let i = 2; i < this.options.gateways; i++) this.gateways.push(podOf(scope, i));
    this.#dir = scope.directory('ovn');
    for (const name of ['run', 'log', 'db', 'etc', 'bin']) mkdirSync(join(this.#dir, name));
    // Both projects' tools look for these; with them nothing meets an OVN that this machine may have.
    this.#env = Object.fromEntries(
      ['OVS', 'OVN'].flatMap((project) => [
        [`${project}_RUNDIR`, join(this.#dir, 'run')],
        [`${project}_LOGDIR`, join(this.#dir, 'log')],
        [`${project}_DBDIR`, join(this.#dir, 'db')],
        [`${project}_SYSCONFDIR`, join(this.#dir, 'etc')],
      ]),
    );
    if (OVN_ROOT !== '') {
      const programs = join(this.#dir, 'bin');
      writePrograms(programs);
      this.#env.PATH = `${programs}:${process.env.PATH}`;
    }
  }

  /** Brings it all up and waits until OVN has programmed it. Takes two or three seconds. */
  static async start(scope: Scope, options: OvnOptions = {}): Promise<Ovn> {
    const ovn = new Ovn(scope, options);
    ovn.#wire();
    await ovn.#startSwitch();
    await ovn.#startControl();
    ovn.#program();
    await ovn.#settle();
    return ovn;
  }

  get families(): (4 | 6)[] {
    return this.options.v6 ? [4, 6] : [4];
  }

  /** The environment in which OVN's tools find this OVN. */
  get environment(): Record<string, string> {
    return { ...this.#env, OVN_NB_DB: this.#socket('nb'), OVN_SB_DB: this.#socket('sb') };
  }

  /** `ovn-nbctl`; its stdout. Throws when it fails. */
  nbctl(...args: string[]): string {
    return must('ovn-nbctl', ['--timeout=15', ...args], { env: this.environment });
  }

  /** `ovn-sbctl`; its stdout. Throws when it fails. */
  sbctl(...args: string[]): string {
    return must('ovn-sbctl', ['--timeout=15', ...args], { env: this.environment });
  }

  #vsctl(...args: string[]): string {
    return must('ovs-vsctl', ['--timeout=15', `--db=${this.#socket('ovs')}`, ...args], { env: this.#env });
  }

  #socket(database: 'ovs' | 'nb' | 'sb'): string {
    return `unix:${join(this.#dir, 'run', database)}.sock`;
  }

  /** Starts a daemon of OVS or OVN in the host namespace. */
  #daemon(program: string, args: string[], name = program): Daemon {
    const urgency = ON_THE_PATH.includes(program) ? URGENTLY : ['nice', '-n', '-15'];
    const [file, ...words] = [...urgency, program, ...args, '-vconsole:warn', '-vsyslog:off'];
    return this.host.spawn(file!, words, { name, env: this.#env });
  }

  // The cables ---------------------------------------------------------------------------------------------

  #wire(): void {
    const { host, client, server } = this;
    host.ip('link add external type bridge');
    host.ip('link set external up');
    const connect = (ns: Namespace, inside: string, outside: string, mac?: string) => {
      veth(host, outside, ns, inside, POD_MTU);
      if (mac !== undefined) ns.ip(`link set ${inside} address ${mac}`);
      // The userspace datapath reads frames as they are: nobody would fill in a checksum left to the hardware.
      transmitPlainly(ns, inside);
    };
    connect(client, 'eth0', 'v-client', CLIENT_MAC);
    connect(server, 'eth0', 'x-server');
    for (const pod of this.gateways) {
      connect(pod.ns, 'eth0', `v-${pod.name}`, pod.mac);
      connect(pod.ns, 'net1', `x-${pod.name}`);
      this.restoreUplink(pod);
      pod.ns.ip(`
        addr add ${pod.internal[4]}/16 dev eth0
        addr add ${pod.external[4]}/16 dev net1
        route add default via ${SERVER[4]} dev net1`);
      if (this.options.v6) {
        pod.ns.ip(`
          addr add ${pod.internal[6]}/64 dev eth0 nodad
          addr add ${pod.external[6]}/64 dev net1 nodad
          route add default via ${SERVER[6]} dev net1`);
      }
    }
    host.ip('link set x-server master external');
    client.ip(`
      addr add ${CLIENT[4]}/16 dev eth0
      route add default via 10.17.0.1`);
    server.ip([SERVER[4], ...SERVER_ADDRESSES[4]].map((a) => `addr add ${a}/16 dev eth0`).join('\n'));
    if (this.options.v6) {
      client.ip(`
        addr add ${CLIENT[6]}/64 dev eth0 nodad
        route add default via fd00:10:17::1`);
      server.ip([SERVER[6], ...SERVER_ADDRESSES[6]].map((a) => `addr add ${a}/64 dev eth0 nodad`).join('\n'));
    }
  }

  // The daemons --------------------------------------------------------------------------------------------

  async #database(name: 'ovs' | 'nb' | 'sb', schema: string): Promise<void> {
    const file = join(this.#dir, 'db', `${name}.db`);
    must('ovsdb-tool', ['create', file, join(OVN_ROOT, schema)], { env: this.#env });
    this.#daemon('ovsdb-server', [file, `--remote=p${this.#socket(name)}`], `ovsdb-${name}`);
    await until(() => must('ovsdb-client', ['list-dbs', this.#socket(name)], { env: this.#env }), {
      what: `database ${name}`,
    });
  }

  async #startSwitch(): Promise<void> {
    await Promise.all([
      this.#database('ovs', '/usr/share/openvswitch/vswitch.ovsschema'),
      this.#database('nb', '/usr/share/ovn/ovn-nb.ovsschema'),
      this.#database('sb', '/usr/share/ovn/ovn-sb.ovsschema'),
    ]);
    this.#vsctl('--no-wait', 'init');
    this.nbctl('init');
    this.sbctl('init');
    this.#daemon('ovs-vswitchd', [this.#socket('ovs')]);
    const ports = ['client', ...this.gateways.map(({ name }) => name)];
    this.#vsctl(
      ...['set', 'open_vswitch', '.', `external-ids:system-id=${CHASSIS}`],
      ...[`external-ids:hostname=${CHASSIS}`, `external-ids:ovn-remote=${this.#socket('sb')}`],
      ...['external-ids:ovn-encap-type=geneve', 'external-ids:ovn-encap-ip=127.0.0.1'],
      ...['external-ids:ovn-bridge-datapath-type=netdev', 'external-ids:ovn-monitor-all=true'],
      ...[
        '--',
        'add-br',
        'br-int',
        '--',
        'set',
        'bridge',
        'br-int',
        'datapath_type=netdev',
        'fail_mode=secure',
      ],
      ...ports.flatMap((name) => [
        ...['--', 'add-port', 'br-int', `v-${name}`],
        ...['--', 'set', 'interface', `v-${name}`, `external_ids:iface-id=${name}`],
      ]),
    );
  }

  async #startControl(): Promise<void> {
    this.#daemon('ovn-northd', [`--ovnnb-db=${this.#socket('nb')}`, `--ovnsb-db=${this.#socket('sb')}`]);
    this.#startController();
    const columns = ['OVN_Northbound', 'BFD', 'dst_ip,status'];
    this.#monitor = this.host.spawn(
      'stdbuf',
      ['-oL', 'ovsdb-client', 'monitor', '--timestamp', '-f', 'csv', this.#socket('nb'), ...columns],
      { name: 'northbound', env: this.#env },
    );
  }

  #startController(): void {
    this.#controller = this.#daemon('ovn-controller', [this.#socket('ovs')]);
  }

  /**
   * Kills ovn-controller, which speaks BFD for OVN, and starts it again after `awayMs`. The switch goes on
   * forwarding meanwhile.
   */
  async restartController(awayMs = 0): Promise<void> {
    await this.#controller.stop('SIGKILL');
    await new Promise((resolve) => setTimeout(resolve, awayMs));
    this.#startController();
  }

  /** Frames that the switch was too slow to read, so far: a busy machine loses them, not a gateway. */
  get dropped(): number {
    const drops = this.host.sh('ss -0nmO').matchAll(/skmem:\([^)]*,d(\d+)\)/g);
    return [...drops].reduce((sum, [, count]) => sum + Number(count), 0);
  }

  // The logical network ------------------------------------------------------------------------------------

  #program(): void {
    const { v6, wake } = this.options;
    const both = (v4: string, six: string): string[] => (v6 ? [v4, six] : [v4]);
    const subnet = (name: string, mac: string, networks: string[]): string[][] => [
      ['lrp-add', ROUTER, `${ROUTER}-${name}`, mac, ...networks],
      ['ls-add', name],
      ...routerPort(name, `${ROUTER}-${name}`),
    ];
    const pod = (on: string, name: string, mac: string, addresses: string[]): string[][] => [
      ['lsp-add', on, name],
      ['lsp-set-addresses', name, [mac, ...addresses].join(' ')],
    ];
    this.#transact([
      ['lr-add', ROUTER],
      ...subnet('ovn-default', '00:00:00:16:00:01', both('10.16.0.1/16', 'fd00:10:16::1/64')),
      ...subnet('subnet1', '00:00:00:17:00:01', both('10.17.0.1/16', 'fd00:10:17::1/64')),
      ...pod('subnet1', 'client', CLIENT_MAC, both(CLIENT[4], CLIENT[6])),
      ...this.gateways.flatMap(({ name, mac, internal }) =>
        pod('ovn-default', name, mac, both(internal[4], internal[6])),
      ),
      // The port as Kube-OVN makes it: addresses without a mask, and a chassis group with the port's name.
      [
        ...[
          '--id=@port',
          'create',
          'logical_router_port',
          `name=${BFD_LOGICAL_PORT}`,
          'mac="00:00:00:bf:d0:01"',
        ],
        `networks=${JSON.stringify(both(BFD_PORT[4], BFD_PORT[6]))}`,
      ],
      ['add', 'logical_router', ROUTER, 'ports', '@port'],
      ['--id=@chassis', 'create', 'ha_chassis', `chassis_name=${CHASSIS}`, 'priority=100'],
      ['--id=@group', 'create', 'ha_chassis_group', `name=${BFD_LOGICAL_PORT}`, 'ha_chassis=@chassis'],
      ['set', 'logical_router_port', BFD_LOGICAL_PORT, 'ha_chassis_group=@group'],
      // Kube-OVN's OVN does without a peer for this port, Debian's does not: a switch with nothing on it.
      ['ls-add', 'bfd-stub'],
      ...routerPort('bfd-stub', BFD_LOGICAL_PORT),
      ...(wake ? ANNOUNCING_PORT : []),
      ...this.#sessions(),
    ]);
  }

  /** A BFD row for each address of a gateway, and an ECMP route from the client's subnet that it decides on. */
  #sessions(): string[][] {
    const { minTX, minRX, multiplier } = this.options;
    return this.gateways.flatMap(({ name, internal }) =>
      this.families.flatMap((family) => [
        [
          ...[`--id=@bfd-${name}-${family}`, 'create', 'bfd', `logical_port=${BFD_LOGICAL_PORT}`],
          ...[`dst_ip=${JSON.stringify(internal[family])}`, `min_tx=${minTX}`, `min_rx=${minRX}`],
          `detect_mult=${multiplier}`,
        ],
        [
          ...[`--id=@route-${name}-${family}`, 'create', 'logical_router_static_route', 'policy=src-ip'],
          `ip_prefix=${JSON.stringify(family === 4 ? '10.17.0.0/16' : 'fd00:10:17::/64')}`,
          ...[`nexthop=${JSON.stringify(internal[family])}`, `bfd=@bfd-${name}-${family}`],
        ],
        ['add', 'logical_router', ROUTER, 'static_routes', `@route-${name}-${family}`],
      ]),
    );
  }

  #transact(commands: string[][]): void {
    this.nbctl(...commands.flatMap((command) => ['--', ...command]));
  }

  async #settle(): Promise<void> {
    const ports = ['client', ...this.gateways.map(({ name }) => name)];
    await until(
      () => ports.every((p) => this.nbctl('get', 'logical_switch_port', p, 'up').trim() === 'true'),
      {
        what: 'OVN has the ports',
      },
    );
    await until(
      () =>
        this.gateways.every(({ internal }) =>
          this.families.every((f) => this.status(internal[f]) === 'down'),
        ),
      { what: 'OVN begins the BFD sessions' },
    );
    this.nbctl('--wait=hv', 'sync');
  }

  // What OVN says ------------------------------------------------------------------------------------------

  /** Every change of a session's status until now, in order. */
  statusChanges(): StatusChange[] {
    const changes: StatusChange[] = [];
    const latest = new Map<string, string>();
    let at = 0;
    for (const line of this.#monitor.log().split('\n')) {
      // A time, and below it a line a row: its id, what happened to it, and the columns.
      if (/^\d{4}-\d\d-\d\d /.test(line)) at = Date.parse(`${line.replace(' ', 'T')}Z`);
      const [, address, status] = /^[^,]*,(?:initial|insert|new),"+([^"]+)"+,(\w+)$/.exec(line) ?? [];
      if (address === undefined || status === undefined || latest.get(address) === status) continue;
      latest.set(address, status);
      changes.push({ at, address, status: status as BfdStatus });
    }
    return changes;
  }

  /** The status of the session with an address; undefined before northd has looked at it. */
  status(address: string): BfdStatus | undefined {
    return this.statusChanges().findLast((change) => change.address === address)?.status;
  }

  /** Waits until OVN has that status for all these gateways, in every family. */
  async reaches(status: BfdStatus, pods: GatewayPod[] = this.gateways): Promise<void> {
    await until(
      () => pods.every((pod) => this.families.every((f) => this.status(pod.internal[f]) === status)),
      { what: `OVN's status ${status} for ${pods.map(({ name }) => name).join(' and ')}` },
    );
  }

  /** Removes every session and makes it anew, with other discriminators, as when a controller lost its memory. */
  renewSessions(): void {
    const rows = this.nbctl('--bare', '--columns=_uuid', 'list', 'bfd').split(/\s+/).filter(Boolean);
    this.#transact([
      ['clear', 'logical_router', ROUTER, 'static_routes'],
      ...rows.map((row) => ['destroy', 'bfd', row]),
    ]);
    this.nbctl('--wait=sb', 'sync');
    this.#transact(this.#sessions());
  }

  /** Pulls the cable of a gateway's uplink, or only lets nothing through it, which the gateway cannot see. */
  cutUplink({ name }: GatewayPod, how: 'cable' | 'silent'): void {
    this.host.ip(`link set x-${name} ${how === 'cable' ? 'down' : 'nomaster'}`);
  }

  restoreUplink({ name }: GatewayPod): void {
    this.host.ip(`link set x-${name} master external up`);
  }

  /** Records the BFD packets of a gateway from now on. */
  capture({ name }: GatewayPod): Promise<BfdCapture> {
    return BfdCapture.start(this.#scope, this.host, `v-${name}`);
  }

  // What runs in the gateways ------------------------------------------------------------------------------

  /** The policy of a gateway here: the client's subnet is translated. */
  policy(bfd: object = {}): GatewaySpec {
    const { minTX, minRX, multiplier } = this.options;
    const of = (addresses: { 4: string; 6: string }) => this.families.map((family) => addresses[family]);
    return {
      internal: { gateways: of({ 4: '10.16.0.1', 6: 'fd00:10:16::1' }) },
      external: { gateways: of(SERVER) },
      bfd: { enabled: true, peers: of(BFD_PORT), minTX, minRX, multiplier, ...bfd },
      policies: [WEB],
    };
  }

  /** Makes a pod for an agent: a policy directory with `policy()` in it, and an empty state directory. */
  agentPod(pod: GatewayPod): AgentPod {
    const policy = new PolicyDirectory(this.#scope);
    policy.set(this.policy());
    return new AgentPod(this.#scope, pod, policy);
  }
}

/**
 * FRR's bfdd as a gateway's BFD daemon, the incumbent to compare with. Its single-hop sessions want TTL 255, and
 * OVN's packets arrive with 254: a rule raises it. FRR asks for slow packets until it is Up, and OVN keeps to
 * that once: it must wait longer than a second for the next one, or it flaps.
 */
export async function startFrrGateway(
  scope: Scope,
  ovn: Ovn,
  { ns, internal }: GatewayPod,
): Promise<BfdPeer> {
  const { minTX, minRX, multiplier } = ovn.options;
  const packets = ['-i', 'eth0', '-p', 'udp', '--dport', '3784', '-s', BFD_PORT[4]];
  const rule = ['PREROUTING', ...packets, '-j', 'TTL', '--ttl-set', '255'].join(' ');
  if (ns.run('iptables', `-t mangle -C ${rule}`.split(' ')).code !== 0)
    ns.sh(`iptables -t mangle -A ${rule}`);
  return startFrr(scope, ns, {
    sessions: [{ local: internal[4], remote: BFD_PORT[4] }],
    minTX,
    minRX: Math.max(minRX, Math.ceil(1200 / multiplier)),
    multiplier,
  });
}

const CLIENT_MAC = '00:00:00:17:00:09';

/** The switch's end of the cable to a router port. */
const routerPort = (on: string, port: string): string[][] => [
  ['lsp-add', on, `${on}-router`],
  ['lsp-set-type', `${on}-router`, 'router'],
  ['lsp-set-addresses', `${on}-router`, 'router'],
  ['lsp-set-options', `${on}-router`, `router-port=${port}`],
];

/** A router port that sends IPv6 router advertisements on a switch with nothing else on it. */
const ANNOUNCING_PORT: string[][] = [
  ['lrp-add', ROUTER, `${ROUTER}-wake`, '00:00:00:fe:00:01', 'fd00:16::1/64'],
  [
    ...['set', 'logical_router_port', `${ROUTER}-wake`, 'ipv6_ra_configs:address_mode=slaac'],
    'ipv6_ra_configs:send_periodic=true',
  ],
  ['ls-add', 'wake-stub'],
  ...routerPort('wake-stub', `${ROUTER}-wake`),
  ['lsp-add', 'wake-stub', 'wake-dummy'],
];

// linux/sched.h, linux/sockios.h, linux/ethtool.h
const CLONE_NEWNET = 0x40000000;
const SIOCETHTOOL = 0x8946;
const ETHTOOL_SET = { tso: 0x1f, gso: 0x24, gro: 0x2c, tx: 0x17 } as const;
/** Octets of an interface name in struct ifreq. */
const IFNAMSIZ = 16;

const cSetns = libc.func('int setns(int fd, int type)');
const cIoctl = libc.func('int ioctl(int fd, unsigned long request, void *argument)');

/** Runs a function with this thread in a network namespace. */
function within<T>(ns: Namespace, act: () => T): T {
  const [home, there] = ['/proc/self/ns/net', `/run/netns/${ns.name}`].map((file) => openSync(file, 'r')) as [
    number,
    number,
  ];
  const enter = (fd: number) => {
    if (cSetns(fd, CLONE_NEWNET) < 0) throw new SystemError('setns', koffi.errno());
  };
  try {
    enter(there);
    try {
      return act();
    } finally {
      enter(home);
    }
  } finally {
    closeSync(home);
    closeSync(there);
  }
}

/** `ethtool -K NAME tso off gso off gro off tx off`, which is in no package that is needed otherwise. */
function transmitPlainly(ns: Namespace, name: string): void {
  within(ns, () => {
    const fd = socket(AF_INET, SOCK_DGRAM, 0);
    for (const command of Object.values(ETHTOOL_SET)) {
      const value = Buffer.alloc(8);
      value.writeUInt32LE(command);
      const request = Buffer.alloc(IFNAMSIZ + 24);
      request.write(name);
      request.writeBigUInt64LE(koffi.address(value), IFNAMSIZ);
      if (cIoctl(fd, SIOCETHTOOL, request) < 0) throw new SystemError('ioctl', koffi.errno());
    }
    close(fd);
  });
}
