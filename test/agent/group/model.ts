/**
 * A group in a model: members whose kernels, connections and policies go through what a history does to them, with
 * what must hold checked after each event. Everything follows from the seed.
 */

import { decode, encode, type Message } from '../../../agent/group/codec.ts';
import {
  type GroupAction,
  type GroupEvent,
  type GroupState,
  startGroup,
  step,
  viewGroup,
} from '../../../agent/group/core.ts';
import type { FlowChange, GroupConfig, GroupFlow } from '../../../agent/group/model.ts';
import { encodeFlow, keySize } from '../../../agent/group/records.ts';
import { slotOfPort } from '../../../agent/group/slices.ts';
import { type Address, address } from '../../../lib/prefix.ts';
import { randomFrom } from '../../support/fuzz.ts';
import { flowOf } from './flows.ts';

const FAMILY = 4;
const SHARED = ['172.17.0.50', '172.17.0.51', '172.17.0.52'].map(address);
/** Whoever may ever be a member. */
const UNIVERSE = ['10.16.0.12', '10.16.0.13', '10.16.0.14', '10.16.0.31', '10.16.0.33', '10.16.7.2'].map(
  address,
);
const CAPACITY = 4096;

export const keyOf = (flow: GroupFlow): string => encodeFlow(flow).toString('latin1', 0, keySize(FAMILY));

/** A flow as it really is: it lives until its client ends it. */
interface Truth {
  flow: GroupFlow;
  ended: boolean;
}

/** A conntrack table: which flows are there, and whose they are. */
type Kernel = Map<string, 'own' | 'replica'>;

class Member {
  readonly address: Address;
  state: GroupState;
  kernel: Kernel;
  /** Replicas of the process before. */
  readonly stale = new Set<string>();
  instance: number;
  readonly started: number;
  /** Index of the policy that it has. */
  policy: number;
  draining = false;
  /** Own flows when its drain began, and the instances of the members that it knew then. */
  handover: { keys: string[]; instances: Map<Address, number> } | undefined;
  /** Its internal link is down. */
  cutOff = false;
  /** Peers that it believes to have a path to, and a connection. */
  readonly paths = new Set<Address>();
  readonly connections = new Set<Address>();

  constructor(
    config: GroupConfig,
    kernel: Kernel,
    instance: number,
    policy: number,
    now: number,
    resumes: boolean,
  ) {
    this.address = config.self;
    this.state = startGroup(config, now, { resumes, capacity: CAPACITY });
    this.kernel = kernel;
    for (const [key, kind] of kernel) if (kind === 'replica') this.stale.add(key);
    this.instance = instance;
    this.started = now;
    this.policy = policy;
  }

  get allocates(): boolean {
    const { state } = viewGroup(this.state);
    return state === 'live' || state === 'draining';
  }
}

export class Model {
  readonly random: () => number;
  now = 1_000_000;
  readonly members = new Map<Address, Member>();
  readonly truths = new Map<string, Truth>();
  /** Messages under way between two members, in order. */
  readonly queues = new Map<string, Buffer[]>();
  /** Pairs that cannot hear each other: at all, or by the exchange only. */
  readonly cuts = new Map<string, 'all' | 'exchange'>();
  readonly policies: Address[][];
  readonly trace: string[] = [];
  policy = 0;
  #instances = 0;
  #flows = 0;
  announcements = 0;

  constructor(seed: number) {
    this.random = randomFrom(seed);
    this.policies = Array.from({ length: 4 }, () => this.#randomMembers(2));
  }

  /** A history of so many events. Throws at the first thing that must not be. */
  run(events: number): void {
    for (let i = 0; i < events; i++) {
      this.#event();
      this.#check();
    }
    this.#quiet();
  }

  #randomMembers(least: number): Address[] {
    const list = UNIVERSE.filter(() => this.random() < 0.6);
    return list.length < least ? this.#randomMembers(least) : list;
  }

  #pick<T>(list: readonly T[]): T | undefined {
    return list[Math.floor(this.random() * list.length)];
  }

  #event(): void {
    const kind = this.random();
    if (kind < 0.35) this.#deliver(1 + Math.floor(this.random() * 20));
    else if (kind < 0.5) this.#pass(this.random() < 0.8 ? 200 : 5000);
    else if (kind < 0.62) this.#open();
    else if (kind < 0.68) this.#close();
    else if (kind < 0.74) this.#begin();
    else if (kind < 0.78) this.#kill();
    else if (kind < 0.82) this.#cut();
    else if (kind < 0.86) this.#heal();
    else if (kind < 0.9) this.#drain();
    else if (kind < 0.92) this.#configure();
    else if (kind < 0.93) this.#unplug();
    else if (kind < 0.95) this.#list();
    else if (kind < 0.96) this.#empty();
    else this.#notice(this.random() < 0.5);
  }

  #say(text: string): void {
    this.trace.push(`${this.now - 1_000_000} ${text}`);
  }

  #config(self: Address, policy: number): GroupConfig {
    const external = address(self.replace('10.16', '172.17'));
    const cutOff = this.members.get(self)?.cutOff && { cutOff: true as const };
    return { family: FAMILY, self, members: this.policies[policy]!, external, shared: SHARED, ...cutOff };
  }

  /** A member of the newest policy, or of the one before, starts. */
  #begin(): void {
    const policy = Math.max(0, this.policy - (this.random() < 0.3 ? 1 : 0));
    const idle = this.policies[policy]!.filter((one) => !this.members.has(one));
    const self = this.#pick(idle);
    if (self === undefined) return;
    this.#start(self, policy, new Map());
  }

  #start(self: Address, policy: number, kernel: Kernel, resumes = false): void {
    const member = new Member(
      this.#config(self, policy),
      kernel,
      ++this.#instances,
      policy,
      this.now,
      resumes,
    );
    this.members.set(self, member);
    this.#say(`${self} starts with policy ${policy}, ${kernel.size} flows in its kernel`);
    this.#list(member);
  }

  /** A process ends; sometimes another one starts at once, in the same network namespace. */
  #kill(member = this.#pick([...this.members.values()])): void {
    if (member === undefined) return;
    this.members.delete(member.address);
    for (const key of [...this.queues.keys()]) if (key.includes(member.address)) this.queues.delete(key);
    this.#say(`${member.address} is killed`);
    if (this.random() < 0.3) {
      // What it was told is a replica is deleted by `settle`, unless it is inserted again.
      this.#start(member.address, member.policy, member.kernel, viewGroup(member.state).state === 'live');
    }
  }

  #pair(): [Address, Address] {
    const a = this.#pick(UNIVERSE)!;
    const b = this.#pick(UNIVERSE.filter((one) => one !== a))!;
    return [a, b];
  }

  #cut(): void {
    const [a, b] = this.#pair();
    const how = this.random() < 0.7 ? 'all' : 'exchange';
    // Sometimes one member from all others.
    const others = this.random() < 0.3 ? UNIVERSE.filter((one) => one !== a) : [b];
    for (const other of others) {
      this.cuts.set(pairOf(a, other), how);
      this.queues.delete(`${a} ${other}`);
      this.queues.delete(`${other} ${a}`);
    }
    this.#say(`${a} is cut off (${how}) from ${others}`);
  }

  /** A member loses its internal link, or has it again. */
  #unplug(member = this.#pick([...this.members.values()])): void {
    if (member === undefined) return;
    member.cutOff = !member.cutOff;
    this.#say(`${member.address} ${member.cutOff ? 'loses its link' : 'has its link again'}`);
    for (const other of UNIVERSE.filter((one) => one !== member.address)) {
      if (member.cutOff) this.cuts.set(pairOf(member.address, other), 'all');
      else this.cuts.delete(pairOf(member.address, other));
      this.queues.delete(`${member.address} ${other}`);
      this.queues.delete(`${other} ${member.address}`);
    }
    this.#step(member, { type: 'configure', config: this.#config(member.address, member.policy) });
  }

  #heal(): void {
    const pair = this.#pick([...this.cuts.keys()]);
    if (pair === undefined) return;
    if (this.random() < 0.3) this.cuts.clear();
    else this.cuts.delete(pair);
    this.#say(`${pair} heals`);
  }

  #drain(): void {
    const member = this.#pick([...this.members.values()]);
    if (member === undefined) return;
    if (!member.draining) {
      member.draining = true;
      member.handover = this.#toHandOver(member);
      this.#say(`${member.address} drains`);
      this.#step(member, { type: 'drain', limit: 5000 });
    } else if (this.random() < 0.5) {
      member.draining = false;
      this.#say(`${member.address} drains no more`);
      this.#step(member, { type: 'undrain' });
    } else {
      this.#leave(member);
    }
  }

  #leave(member: Member): void {
    this.#say(`${member.address} leaves`);
    this.#step(member, { type: 'leave' });
    for (const peer of member.connections) this.#deliver(10_000, `${member.address} ${peer}`);
    this.members.delete(member.address);
  }

  /** The next policy, or a member gets the one that there is. Nobody is more than one behind. */
  #configure(): void {
    const late = [...this.members.values()].filter((member) => member.policy < this.policy);
    const member = this.#pick(late);
    if (member === undefined) {
      if (this.policy + 1 < this.policies.length) this.policy++;
      return;
    }
    member.policy = this.policy;
    if (!this.policies[this.policy]!.includes(member.address)) {
      this.#leave(member);
      return;
    }
    this.#say(`${member.address} gets policy ${member.policy}`);
    const config = this.#config(member.address, member.policy);
    this.#step(member, { type: 'configure', config });
    for (const peer of UNIVERSE.filter((one) => !config.members.includes(one))) {
      member.paths.delete(peer);
      this.#disconnect(member, peer);
    }
  }

  /** A client opens a flow. */
  #open(): void {
    const member = this.#pick([...this.members.values()].filter((one) => one.allocates));
    if (member === undefined) return;
    const { slice } = viewGroup(member.state);
    const port = slice.firstPort + Math.floor(this.random() * 40);
    const shared = this.#pick(SHARED)!;
    const flow = {
      ...flowOf(FAMILY, ++this.#flows % 60_000, port),
      shared: Uint8Array.from(shared.split('.').map(Number)),
    };
    const key = keyOf(flow);
    this.truths.set(key, { flow, ended: false });
    member.kernel.set(key, 'own');
    this.#say(`${member.address} translates a flow to port ${port}`);
    this.#step(member, { type: 'flows', events: [{ type: 'update', flow }] });
  }

  /** A flow ends; the member that has it may miss the event. */
  #close(): void {
    const truth = this.#pick([...this.truths.values()].filter((one) => !one.ended));
    if (truth === undefined) return;
    truth.ended = true;
    this.#expire(truth, this.random() < 0.3);
  }

  #expire({ flow }: Truth, lost: boolean): void {
    const key = keyOf(flow);
    for (const member of this.members.values()) {
      if (member.kernel.get(key) !== 'own') continue;
      member.kernel.delete(key);
      if (!lost) this.#step(member, { type: 'flows', events: [{ type: 'end', flow }] });
    }
  }

  /** The table of a member is read, as at the start and after lost events. */
  #list(member = this.#pick([...this.members.values()]), deleted = false): void {
    if (member === undefined) return;
    const own = [...member.kernel].filter(([, kind]) => kind === 'own').map(([key]) => this.truths.get(key)!);
    this.#step(member, {
      type: 'flows',
      events: [
        { type: 'listing' },
        ...own.map(({ flow }) => ({ type: 'update' as const, flow })),
        { type: 'listed', deleted },
      ],
    });
  }

  /** Another program empties the table of a member, which may miss the events. */
  #empty(): void {
    const member = this.#pick([...this.members.values()]);
    if (member === undefined) return;
    const missed = this.random() < 0.5;
    this.#say(`the table of ${member.address} is emptied${missed ? ', and the events are lost' : ''}`);
    if (missed) {
      member.kernel.clear();
      this.#list(member, true);
    } else {
      for (const key of member.stale) member.kernel.delete(key);
      for (const key of [...member.kernel.keys()]) {
        const { flow } = this.truths.get(key)!;
        member.kernel.delete(key);
        this.#step(member, { type: 'flows', events: [{ type: 'deleted', flow }] });
      }
    }
    member.stale.clear();
  }

  #pass(ms: number): void {
    this.now += ms;
    for (const member of this.members.values()) this.#step(member, { type: 'tick' });
  }

  /** Members notice what has become of their peers: all of it, or some. */
  #notice(all: boolean): void {
    for (const member of [...this.members.values()]) {
      for (const peer of this.policies[member.policy]!) {
        if (peer !== member.address && (all || this.random() < 0.3)) this.#look(member, peer);
      }
    }
  }

  #look(member: Member, peerAddress: Address): void {
    const peer = this.members.get(peerAddress);
    const cut = this.cuts.get(pairOf(member.address, peerAddress));
    const mutual = peer !== undefined && this.policies[peer.policy]!.includes(member.address);
    const path = mutual && cut !== 'all';
    if (path !== member.paths.has(peerAddress)) {
      if (path) member.paths.add(peerAddress);
      else member.paths.delete(peerAddress);
      this.#say(`${member.address} ${path ? 'reaches' : 'loses'} ${peerAddress}`);
      this.#step(member, { type: 'path', member: peerAddress, up: path });
    }
    const there = mutual && cut === undefined;
    const established =
      there && this.queues.has(`${member.address} ${peerAddress}`) && member.connections.has(peerAddress);
    if (member.connections.has(peerAddress) && !established) this.#disconnect(member, peerAddress);
    if (there && !established) {
      this.#disconnect(peer, member.address);
      this.#connect(member, peer);
    }
  }

  #connect(a: Member, b: Member): void {
    this.#say(`${a.address} and ${b.address} connect`);
    this.queues.set(`${a.address} ${b.address}`, []);
    this.queues.set(`${b.address} ${a.address}`, []);
    for (const [one, other] of [
      [a, b],
      [b, a],
    ] as const) {
      one.connections.add(other.address);
      const uptime = Math.floor((this.now - other.started) / 1000);
      this.#step(one, { type: 'connected', member: other.address, instance: other.instance, uptime });
    }
  }

  #disconnect(member: Member, peer: Address): void {
    this.queues.delete(`${member.address} ${peer}`);
    this.queues.delete(`${peer} ${member.address}`);
    if (!member.connections.delete(peer)) return;
    this.#say(`${member.address} loses the connection to ${peer}`);
    this.#step(member, { type: 'disconnected', member: peer });
  }

  /** Messages of one queue or of any arrive. */
  #deliver(most: number, only?: string): void {
    for (let i = 0; i < most; i++) {
      const waiting = [...this.queues].filter(([key, queue]) => queue.length > 0 && (only ?? key) === key);
      const [key, queue] = this.#pick(waiting) ?? [];
      if (key === undefined) return;
      const [from, to] = key.split(' ') as [Address, Address];
      const message = decode(queue!.shift()!, FAMILY);
      if (typeof message === 'string') throw new Error(`a message of ${from} is ${message}`);
      const member = this.members.get(to);
      if (member?.connections.has(from)) this.#step(member, { type: 'message', member: from, message });
    }
  }

  #step(member: Member, event: GroupEvent): void {
    const { state, actions } = step(member.state, event, this.now);
    member.state = state;
    for (const action of actions) this.#act(member, action);
  }

  #act(member: Member, action: GroupAction): void {
    if (action.type === 'send') {
      this.#checkSent(member, action.message);
      const octets = encode(action.message, FAMILY).subarray(4);
      this.queues.get(`${member.address} ${action.member}`)?.push(octets);
    } else if (action.type === 'kernel') {
      for (const change of action.changes) this.#apply(member, change);
    } else if (action.type === 'settle') {
      this.#settle(member, action.slots);
    } else if (action.type === 'announce') {
      this.announcements++;
    } else if (action.type === 'handed-over' && action.complete) {
      this.#checkHandedOver(member);
    }
  }

  #toHandOver(member: Member): Member['handover'] {
    const keys = [...member.kernel].filter(([, kind]) => kind === 'own').map(([key]) => key);
    const known = viewGroup(member.state).peers.filter(
      ({ state }) => state !== undefined && state !== 'left',
    );
    const instances = new Map<Address, number>();
    for (const { member: peer } of known) {
      const there = this.members.get(peer);
      if (there !== undefined) instances.set(peer, there.instance);
    }
    return { keys, instances };
  }

  /** What a member had when its drain began, every member has that it reached all the time since, by the policies of both. */
  #checkHandedOver(member: Member): void {
    const { keys, instances } = member.handover!;
    for (const [peer, instance] of instances) {
      const there = this.members.get(peer);
      if (there?.instance !== instance || !member.paths.has(peer)) continue;
      const isMember = (one: Member, other: Member) => this.policies[one.policy]!.includes(other.address);
      if (!isMember(member, there) || !isMember(there, member)) continue;
      for (const key of keys) {
        if (member.kernel.get(key) !== 'own' || this.truths.get(key)?.ended !== false) continue;
        if (!there.kernel.has(key))
          throw new Error(`${peer} lacks a flow that ${member.address} has handed over`);
      }
    }
  }

  #settle(member: Member, slots: readonly number[]): void {
    for (const key of member.stale) {
      const { flow } = this.truths.get(key)!;
      if (slots.includes(slotOfPort(flow.sharedPort)!)) {
        member.kernel.delete(key);
      } else {
        member.kernel.set(key, 'own');
        this.#step(member, { type: 'flows', events: [{ type: 'update', flow }] });
      }
    }
    member.stale.clear();
  }

  /** What is reported to others is in this kernel, and its own. */
  #checkSent(member: Member, message: Message): void {
    const records =
      message.type === 'bucket'
        ? message.records
        : message.type === 'changes'
          ? message.changes.flatMap((change) => (change.op === 'update' ? [change.record] : []))
          : [];
    for (const record of records) {
      const key = record.toString('latin1', 0, keySize(FAMILY));
      if (member.kernel.get(key) === 'replica') throw new Error(`${member.address} reports a replica on`);
    }
  }

  #apply({ address: self, kernel, stale }: Member, { type, flow }: FlowChange): void {
    const key = keyOf(flow);
    stale.delete(key);
    const there = kernel.get(key);
    if (type === 'insert') {
      if (there === 'own') throw new Error(`${self} is to overwrite a flow of its own`);
      kernel.set(key, 'replica');
    } else if (type === 'remove') {
      if (there === 'own') throw new Error(`${self} is to remove a flow of its own`);
      if (this.truths.get(key)?.ended !== true) throw new Error(`${self} is to remove a flow that lives`);
      kernel.delete(key);
    } else if (type === 'restore') {
      if (there !== undefined) throw new Error(`${self} is to restore a flow that is there`);
      kernel.set(key, 'own');
    } else if (type === 'adopt') {
      if (there === 'replica') kernel.set(key, 'own');
    } else if (type === 'release') {
      if (there === 'own') kernel.set(key, 'replica');
    }
  }

  /** What holds at any time. */
  #check(): void {
    const slots = new Map<number, Address>();
    for (const member of this.members.values()) {
      if (member.cutOff && viewGroup(member.state).held.length > 0) {
        throw new Error(`${member.address} holds an address without its link`);
      }
      if (!member.allocates) continue;
      const { slice } = viewGroup(member.state);
      const other = slots.get(slice.slot);
      if (other !== undefined) throw new Error(`${other} and ${member.address} have slice ${slice.slot}`);
      slots.set(slice.slot, member.address);
    }
  }

  /** Everything heals, everybody has one policy, and time passes: then all must agree. */
  #quiet(): void {
    for (const member of this.members.values()) if (member.cutOff) this.#unplug(member);
    this.cuts.clear();
    while ([...this.members.values()].some((member) => member.policy < this.policy)) this.#configure();
    for (const self of this.policies[this.policy]!) {
      if (!this.members.has(self)) this.#start(self, this.policy, new Map());
    }
    for (const member of this.members.values()) {
      if (member.draining) this.#step(member, { type: 'undrain' });
    }
    for (const member of this.members.values()) this.#list(member);
    const lived = [...this.truths].filter(
      ([key, { ended }]) => !ended && [...this.members.values()].some(({ kernel }) => kernel.has(key)),
    );
    this.#say('everything is quiet from here');
    // Longer than it takes to adopt what is left over, and to balance addresses twice.
    for (let i = 0; i < 90; i++) {
      this.#notice(true);
      for (const truth of this.truths.values()) if (truth.ended) this.#expire(truth, false);
      this.#deliver(100_000);
      this.#pass(i < 10 ? 500 : 2000);
      this.#deliver(100_000);
      this.#check();
    }
    this.#checkAgreement();
    for (const [key, { flow }] of lived) {
      for (const member of this.members.values()) {
        if (!member.kernel.has(key))
          throw new Error(`${member.address} lacks the flow to port ${flow.sharedPort}`);
      }
    }
  }

  #checkAgreement(): void {
    const views = [...this.members.values()].map((member) => viewGroup(member.state));
    const holders = new Map<Address, Address[]>();
    for (const view of views) {
      const where = `${view.self}: ${JSON.stringify(view)}`;
      if (view.state !== 'live') throw new Error(`not live: ${where}`);
      for (const held of view.held) holders.set(held, [...(holders.get(held) ?? []), view.self]);
      if (view.peers.some((peer) => !peer.inSync || peer.reachability !== 'live')) {
        throw new Error(`not in sync: ${where}`);
      }
      if (view.forward.length !== views.length - 1) throw new Error(`not all slices forwarded: ${where}`);
    }
    for (const shared of SHARED) {
      const all = holders.get(shared) ?? [];
      if (all.length !== 1) throw new Error(`${shared} is held by [${all}]`);
      const seen = new Set(views.map((view) => view.holders.find((one) => one.address === shared)?.holder));
      if (seen.size !== 1 || !seen.has(all[0]!)) throw new Error(`${shared} has holders ${[...seen]}`);
    }
    const loads = views.map((view) => view.held.length);
    if (Math.max(...loads) - Math.min(...loads) > 1) throw new Error(`the addresses are held ${loads}`);
    this.#checkFlows();
  }

  /** The tables agree with each other, and hold no flow that has ended. */
  #checkFlows(): void {
    const tables = [...this.members.values()].map(({ kernel }) => kernel);
    const all = new Set(tables.flatMap((kernel) => [...kernel.keys()]));
    for (const key of all) {
      const { ended, flow } = this.truths.get(key)!;
      const kinds = tables.map((kernel) => kernel.get(key));
      const what = `a flow to port ${flow.sharedPort}: ${kinds}`;
      if (ended) throw new Error(`it has ended: ${what}`);
      if (kinds.filter((kind) => kind === 'own').length !== 1 || kinds.includes(undefined)) {
        throw new Error(`not one owner, or not everywhere: ${what}`);
      }
    }
  }
}

const pairOf = (a: Address, b: Address): string => [a, b].sort().join(' ');
