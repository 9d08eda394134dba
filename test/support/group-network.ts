/**
 * A VPC whose traffic leaves through several gateways, in namespaces:
 *
 *     client 10.17.0.9 ─ router ─┬─ 10.16.0.12 eth0  gw1  net1 172.17.0.12 ─┬─ server 172.17.0.1
 *     bfd@ 10.255.255.255        ├─ 10.16.0.13 eth0  gw2  net1 172.17.0.13 ─┤
 *                                └─ …                                       ┘
 *
 * and the same in IPv6. The router plays OVN: it is the BFD peer of each gateway, and spreads what comes from the client
 * over those whose session is Up (ecmp.ts). The server knows no way back to 10.17.0.0/16.
 */
import { join } from 'node:path';
import { BFD, type GatewaySpec, PolicyDirectory } from './agent.ts';
import { AgentPod, type GatewayPod } from './agent-pod.ts';
import type { GroupPlace } from './gateway-group.ts';
import type { Targets } from './group-load.ts';
import { type Daemon, type Namespace, NODE, ROOT, type Scope, URGENTLY, until, veth } from './netns.ts';
import { type BfdPeer, startVegBfdd } from './peers.ts';
import { ADDRESS } from './topology.ts';

/** The routing table of what comes from the client. */
const TABLE = 100;
const POD_MTU = 1400;

export const FAMILIES = [4, 6] as const;
export const CLIENT = ADDRESS.client;
export const SERVER = ADDRESS.server;
/** The egress address that the gateways share. */
export const SHARED = { 4: '172.17.0.50', 6: 'fd00:172:17::50' } as const;

/** One side of a gateway. */
export type Side = 'inside' | 'outside';

export class GroupNetwork implements GroupPlace {
  readonly client: Namespace;
  readonly router: Namespace;
  readonly server: Namespace;
  readonly pods: readonly AgentPod[];
  readonly shared: readonly string[] = Object.values(SHARED);
  readonly #scope: Scope;
  #peer!: BfdPeer;
  #spread!: Daemon;

  /** Makes the namespaces for so many gateways, without an agent. */
  constructor(scope: Scope, gateways: number) {
    this.#scope = scope;
    this.client = scope.namespace('client');
    this.router = scope.namespace('router');
    this.server = scope.namespace('server');
    const bridge = (ns: Namespace, mac: string) => {
      ns.ip(`link add br0 address ${mac} type bridge\nlink set br0 up`);
      // A port that is off the bridge does not answer for it.
      ns.sysctl({ 'net.ipv4.conf.all.arp_ignore': 1 });
    };
    bridge(this.router, '00:00:00:16:00:01');
    bridge(this.server, '00:00:00:72:00:01');
    veth(this.router, 'client', this.client, 'eth0', POD_MTU);
    this.#address();
    this.pods = Array.from({ length: gateways }, (_, i) => {
      return new AgentPod(scope, this.#gateway(i), new PolicyDirectory(scope));
    });
  }

  #address(): void {
    const { client, router, server } = this;
    client.ip(`
      addr add ${CLIENT[4]}/16 dev eth0
      addr add ${CLIENT[6]}/64 dev eth0 nodad
      route add default via 10.17.0.1
      route add default via fd00:10:17::1`);
    router.sysctl({
      ...{ 'net.ipv4.ip_forward': 1, 'net.ipv6.conf.all.forwarding': 1 },
      ...{ 'net.ipv4.fib_multipath_hash_policy': 1, 'net.ipv6.fib_multipath_hash_policy': 1 },
    });
    router.ip(`
      addr add ${ADDRESS.router[4]}/16 dev br0
      addr add ${ADDRESS.router[6]}/64 dev br0 nodad
      addr add 10.17.0.1/16 dev client
      addr add fd00:10:17::1/64 dev client nodad
      addr add ${ADDRESS.bfdPort[4]}/32 dev lo
      addr add ${ADDRESS.bfdPort[6]}/128 dev lo nodad`);
    router.ip(`rule add priority 200 iif client lookup ${TABLE}`, 4);
    router.ip(`rule add priority 200 iif client lookup ${TABLE}`, 6);
    server.ip(`addr add ${SERVER[4]}/16 dev br0\naddr add ${SERVER[6]}/64 dev br0 nodad`);
  }

  #gateway(i: number): GatewayPod {
    const pod: GatewayPod = {
      name: `gw${i + 1}`,
      mac: `00:00:00:16:01:${(12 + i).toString(16).padStart(2, '0')}`,
      ns: this.#scope.namespace(`gw${i + 1}`),
      internal: { 4: `10.16.0.${12 + i}`, 6: `fd00:10:16::${12 + i}` },
      external: { 4: `172.17.0.${12 + i}`, 6: `fd00:172:17::${12 + i}` },
    };
    const { ns, name, internal, external } = pod;
    veth(ns, 'eth0', this.router, name, POD_MTU);
    ns.ip(`link set eth0 address ${pod.mac}`);
    veth(ns, 'net1', this.server, name);
    for (const side of ['inside', 'outside'] as const) this.connect(pod, side);
    ns.sysctl({ 'net.ipv4.ip_forward': 0, 'net.ipv6.conf.all.forwarding': 0 });
    ns.ip(`
      addr add ${internal[4]}/16 dev eth0
      addr add ${internal[6]}/64 dev eth0 nodad
      addr add ${external[4]}/16 dev net1
      addr add ${external[6]}/64 dev net1 nodad
      route add default via ${SERVER[4]} dev net1
      route add default via ${SERVER[6]} dev net1`);
    return pod;
  }

  /** Starts the router's BFD, and its choice among the gateways. */
  async startRouter(): Promise<void> {
    const { router } = this;
    const dir = this.#scope.directory('veg-bfdd');
    const sessions = FAMILIES.flatMap((family) =>
      this.pods.map(({ pod }) => ({ local: ADDRESS.bfdPort[family], remote: pod.internal[family] })),
    );
    this.#peer = await startVegBfdd(this.#scope, router, { sessions, dir });
    const [file, ...args] = [...URGENTLY, NODE, `${ROOT}/test/support/ecmp.ts`];
    const control = join(dir, 'control.sock');
    this.#spread = router.spawn(file!, [...args, control, `${TABLE}`], { name: 'ecmp' });
  }

  /** The router's BFD. */
  get peer(): BfdPeer {
    return this.#peer;
  }

  get targets(): Targets {
    const hosts = Object.values(SERVER);
    return { hosts, flows: hosts, dials: hosts };
  }

  policy(): GatewaySpec {
    return {
      internal: { gateways: Object.values(ADDRESS.router) },
      external: { gateways: Object.values(SERVER) },
      bfd: BFD,
    };
  }

  used(pods: readonly AgentPod[]): Promise<boolean> {
    return until(() => pods.every((pod) => this.#families(pod) === FAMILIES.length), {
      what: 'the router uses every gateway',
    });
  }

  unused(pod: AgentPod): Promise<boolean> {
    return until(() => this.#families(pod) === 0, {
      what: `the router no longer uses ${pod.pod.name}`,
    });
  }

  /** In how many families the router sends through a gateway. */
  #families({ pod }: AgentPod): number {
    if (this.#spread.exitCode !== undefined) throw new Error(`ecmp.ts ended: ${this.#spread.log()}`);
    return FAMILIES.filter((family) =>
      this.router.sh(`ip -${family} route show table ${TABLE}`).split(/\s+/).includes(pod.internal[family]),
    ).length;
  }

  /** Takes a gateway off a network without a sign that it could see. */
  cut({ name }: GatewayPod, side: Side): void {
    this.#of(side).ip(`link set ${name} nomaster`);
  }

  /** Pulls a gateway's cable. */
  unplug({ name }: GatewayPod, side: Side): void {
    this.#of(side).ip(`link set ${name} down`);
  }

  /** Undoes `cut` and `unplug`. */
  connect({ name }: GatewayPod, side: Side): void {
    this.#of(side).ip(`link set ${name} master br0 up`);
  }

  #of(side: Side): Namespace {
    return side === 'inside' ? this.router : this.server;
  }
}
