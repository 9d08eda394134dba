/**
 * A group of gateways under load, and what may happen to it: behind real OVN, or in a network whose router plays OVN
 * (group-network.ts).
 */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type GatewaySpec, WEB } from './agent.ts';
import { type AgentPod, stopForwarding } from './agent-pod.ts';
import { type Cost, GroupLoad, type Targets } from './group-load.ts';
import { type Namespace, type Scope, until } from './netns.ts';
import { Ovn, type OvnOptions, SERVER_ADDRESSES } from './ovn.ts';
import { startEchoServer } from './traffic.ts';

/** A network with gateways. */
export interface GroupPlace {
  readonly client: Namespace;
  readonly server: Namespace;
  /** All that there may be. */
  readonly pods: readonly AgentPod[];
  /** What the client's connections go to. */
  readonly targets: Targets;
  /** The addresses that the gateways share. */
  readonly shared: readonly string[];
  /** Of a gateway without a group. */
  policy(): GatewaySpec;
  /** Waits until the client's packets go through each of these. */
  used(pods: readonly AgentPod[]): Promise<unknown>;
  /** Waits until none goes through this one. */
  unused(pod: AgentPod): Promise<unknown>;
}

/** Behind real OVN. */
export class OvnPlace implements GroupPlace {
  readonly ovn: Ovn;
  readonly pods: readonly AgentPod[];
  readonly targets: Targets;
  readonly shared = ['172.17.0.50'];

  private constructor(ovn: Ovn) {
    this.ovn = ovn;
    this.pods = ovn.gateways.map((gateway) => ovn.agentPod(gateway));
    const hosts = SERVER_ADDRESSES[4];
    // The address that the server answers UDP from is its first one.
    this.targets = { hosts, flows: ['172.17.0.1'], dials: hosts.slice(0, 4) };
  }

  static async start(scope: Scope, options: OvnOptions): Promise<OvnPlace> {
    return new OvnPlace(await Ovn.start(scope, options));
  }

  get client(): Namespace {
    return this.ovn.client;
  }

  get server(): Namespace {
    return this.ovn.server;
  }

  policy(): GatewaySpec {
    return this.ovn.policy();
  }

  used(pods: readonly AgentPod[]): Promise<void> {
    return this.ovn.reaches(
      'up',
      pods.map(({ pod }) => pod),
    );
  }

  unused({ pod }: AgentPod): Promise<void> {
    return this.ovn.reaches('down', [pod]);
  }
}

export interface GroupOptions {
  /** How many of the gateways are members at the start; default: all. */
  members?: number;
  /** Open TCP connections. */
  connections: number;
  /** UDP flows to each target, 500 packets a second each; default 1. */
  streams?: number;
  /** images/kubernetes `minReadySeconds`, in ms; default 0. */
  minReadyMs?: number;
}

export class GatewayGroup {
  readonly place: GroupPlace;
  /** The first ones of the place's gateways. */
  members: readonly AgentPod[] = [];
  readonly keyFile: string;
  readonly #options: GroupOptions;
  #load!: GroupLoad;

  /** Gives the members their policies; nothing runs yet. */
  constructor(scope: Scope, place: GroupPlace, options: GroupOptions) {
    this.place = place;
    this.#options = options;
    this.keyFile = join(scope.directory('key'), 'group');
    writeFileSync(this.keyFile, 'd'.repeat(64));
    chmodSync(this.keyFile, 0o400);
    this.setMembers(options.members ?? place.pods.length);
  }

  /** Starts the members and waits until all are used. */
  async start(): Promise<void> {
    for (const pod of this.members) pod.start();
    await this.inUse(this.members);
  }

  /** Starts the server, and opens the connections. */
  async load(): Promise<void> {
    await startEchoServer(this.place.server);
    const { connections, streams = 1 } = this.#options;
    const { targets } = this.place;
    const flows = Array.from({ length: streams }, () => targets.flows).flat();
    this.#load = await GroupLoad.open(this.place.client, { ...targets, flows }, connections);
  }

  /** Gives the first gateways a policy with these members. */
  setMembers(count: number): void {
    this.members = this.place.pods.slice(0, count);
    for (const { policy } of this.members) policy.set(this.policy());
  }

  /** The policy of each member. */
  policy(): GatewaySpec {
    const families = ([4, 6] as const).filter((family) =>
      this.place.shared.some((address) => address.includes(':') === (family === 6)),
    );
    const members = this.members.flatMap(({ pod }) => families.map((family) => pod.internal[family]));
    return {
      ...this.place.policy(),
      policies: [{ ...WEB, egressIP: { address: [...this.place.shared], shared: true } }],
      group: { members, keyFile: this.keyFile },
    };
  }

  /** Waits until gateways are ready and used. */
  async inUse(pods: readonly AgentPod[]): Promise<void> {
    await Promise.all(pods.map(({ agent }) => agent.statusUntil('ready', ({ ready }) => ready)));
    await this.place.used(pods);
  }

  /** The member that answers for the first shared address. */
  holder(): Promise<AgentPod> {
    const [address] = this.place.shared;
    const holds = ({ pod }: AgentPod) => pod.ns.sh('ip neigh show proxy').includes(`${address} `);
    return until(() => this.members.find((pod) => pod.running && holds(pod)), { what: 'a holder' });
  }

  async other(): Promise<AgentPod> {
    const holder = await this.holder();
    return this.members.find((pod) => pod !== holder)!;
  }

  /** What an event costs. */
  during(event: () => unknown): Promise<Cost> {
    return this.#load.during(event);
  }

  /** A gateway is taken away as a Deployment does it: preStop and SIGTERM drain, then the pod is gone. */
  async drain(pod: AgentPod): Promise<void> {
    await pod.agent.stop('SIGTERM');
    stopForwarding(pod.pod);
  }

  /** The pod of this gateway is gone; another one has taken its addresses, and is in use. */
  async replace(pod: AgentPod): Promise<void> {
    pod.clean();
    pod.startFresh();
    await this.inUse([pod]);
    await sleep(this.#options.minReadyMs ?? 0);
  }

  /** A gateway dies, and its traffic moves. */
  async lose(pod: AgentPod, how: 'kill' | 'die'): Promise<void> {
    await pod[how]();
    await this.place.unused(pod);
  }

  /** Every member is replaced, one after the other. */
  async roll(): Promise<void> {
    for (const pod of this.members) {
      await this.drain(pod);
      await this.replace(pod);
    }
  }

  /** One member more: the policies first, then the pod. */
  async grow(): Promise<void> {
    this.setMembers(this.members.length + 1);
    const pod = this.members.at(-1)!;
    pod.startFresh();
    await this.inUse([pod]);
  }

  /** One member fewer: the pod first, then the policies. */
  async shrink(): Promise<void> {
    const pod = this.members.at(-1)!;
    await this.drain(pod);
    pod.clean();
    this.setMembers(this.members.length - 1);
  }

  close(): Promise<void> {
    return this.#load.close();
  }
}

/** Something that happens to a group. */
export interface Step {
  what: string;
  /** No packet may be lost by it. */
  planned: boolean;
  act(group: GatewayGroup): Promise<unknown>;
}

/** A gateway goes, and comes back. */
const goes = (
  what: string,
  who: 'holder' | 'other',
  go: (group: GatewayGroup, pod: AgentPod) => Promise<unknown>,
  {
    planned = false,
    back = (group: GatewayGroup, pod: AgentPod): Promise<unknown> => group.replace(pod),
  } = {},
): Step[] => {
  let pod: AgentPod;
  return [
    {
      what,
      planned,
      act: async (group) => {
        pod = await group[who]();
        await go(group, pod);
      },
    },
    { what: `${what}: it is back`, planned: true, act: (group) => back(group, pod) },
  ];
};

const start = (group: GatewayGroup, pod: AgentPod): Promise<unknown> => {
  pod.start();
  return group.inUse([pod]);
};
const roll: Step = { what: 'rolling replacement of all', planned: true, act: (group) => group.roll() };

/** The short table: of three members. */
export const SHORT: readonly Step[] = [
  ...goes('the pod of the holder dies', 'holder', (group, pod) => group.lose(pod, 'die')),
  roll,
];

/** The whole table: from three members to two, three and two. */
export const WHOLE: readonly Step[] = [
  ...goes('every process of the holder is killed', 'holder', (group, pod) => group.lose(pod, 'kill'), {
    back: start,
  }),
  ...goes('every process of another member is killed', 'other', (group, pod) => group.lose(pod, 'kill'), {
    back: start,
  }),
  ...goes('the pod of the holder dies', 'holder', (group, pod) => group.lose(pod, 'die')),
  ...goes('the pod of another member dies', 'other', (group, pod) => group.lose(pod, 'die')),
  ...goes('the holder drains and is removed', 'holder', (group, pod) => group.drain(pod), { planned: true }),
  ...goes('another member drains and is removed', 'other', (group, pod) => group.drain(pod), {
    planned: true,
  }),
  { ...roll, what: 'rolling replacement of 3' },
  { what: 'from 3 members to 2', planned: true, act: (group) => group.shrink() },
  { ...roll, what: 'rolling replacement of 2' },
  { what: 'from 2 members to 3', planned: true, act: (group) => group.grow() },
  { what: 'from 3 members to 2 again', planned: true, act: (group) => group.shrink() },
];
