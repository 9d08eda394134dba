/**
 * conntrack as the exchange of a group needs it: reports the own flows that are translated to a shared address, and keeps
 * the replicas of the flows of others. Runs in the exchange's thread.
 *
 * An **own flow** is an entry without the mark of a replica: it was allocated here, or adopted. It is reported when it is
 * established, when its TCP state changes, and when it ends. A **replica** is kept alive until it is removed or adopted,
 * also if another program deletes it. Its timeout is `KEEP`: it does not outlive this process by more than that.
 *
 * Events are read as they arrive. If the kernel dropped some, the whole table is read again.
 */
import * as libc from '../../../lib/libc.ts';
import {
  AF_INET,
  AF_INET6,
  AF_NETLINK,
  EAGAIN,
  IPPROTO_TCP,
  NETLINK_ADD_MEMBERSHIP,
  NETLINK_NETFILTER,
  NLM_F_CREATE,
  NLM_F_EXCL,
  SO_RCVBUF,
  SO_RCVBUFFORCE,
  SOCK_RAW,
  SOL_NETLINK,
  SOL_SOCKET,
} from '../../../lib/linux.ts';
import type { Log } from '../../../lib/log.ts';
import {
  DATAGRAM_SIZE,
  NetlinkError,
  type NetlinkRequest,
  NetlinkSocket,
  Protocol,
} from '../../../lib/netlink.ts';
import { Messages, nfgenHeader } from '../../../lib/netlink-codec.ts';
import { type Address, addressBytes, type Family } from '../../../lib/prefix.ts';
import { CT_DELETE, CT_GET, CT_NEW, NFNLGRP_CONNTRACK_DESTROY } from '../../../nat/conntrack/wire.ts';
import type { FlowChange, FlowEvent, FlowKernel, GroupFlow, TcpInfo } from '../model.ts';
import { slotOfPort } from '../slices.ts';
import {
  changeRequest,
  decodeGroupEntry,
  type EntryRequest,
  type Generation,
  type GroupEntry,
  insertRequest,
  isStrict,
  keyRequest,
  liberalRequest,
  timeoutRequest,
} from './entry.ts';
import { inBatches, PackedMessages } from './packed-messages.ts';

/** enum nfnetlink_groups */
const NFNLGRP_CONNTRACK_UPDATE = 2;
/** Octets of the event socket's buffer: the events of some seconds at 10 000 a second. */
const RECEIVE_BUFFER = 8 << 20;
/** How long a wait for events lasts before the thread looks whether it has to end, ms. */
const WAIT = 500;
/** Datagrams that are read before other work of the thread gets its turn. */
const DATAGRAMS_PER_TURN = 512;
/** Events that are reported together. */
const BATCH = 256;
/** The timeout of a replica, s. */
const KEEP = 90;
/** How often the timeouts of all replicas are restarted, s. */
const SWEEP_INTERVAL = 20;
/** A sweep may be late by this much, s; a timeout that is shorter still was set by a packet. */
const SWEEP_LATENESS = 10;
/** An adopted flow lives at least this long, s. */
const LEAST_ADOPTED = 60;

export interface FlowsOptions {
  family: Family;
  shared: readonly Address[];
  log: Log;
  /** Seconds; default 20. */
  sweepInterval?: number;
}

export class ConntrackFlows implements FlowKernel {
  readonly #family: Family;
  #shared: readonly Uint8Array[];
  readonly #log: Log;
  readonly #sweepInterval: number;
  /** For changes; its own events carry its port. */
  readonly #changes: NetlinkSocket;
  /** For dumps that other work interrupts, and what follows from them. */
  readonly #sweeps: NetlinkSocket;
  readonly #events: number;
  readonly #buffer = Buffer.allocUnsafeSlow(DATAGRAM_SIZE);
  #report: (events: readonly FlowEvent[]) => void = () => {};
  #generation: Generation = 0;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  /** Opens the sockets; events are queued from here on. Throws `SystemError`. */
  constructor({ family, shared, log, sweepInterval = SWEEP_INTERVAL }: FlowsOptions) {
    this.#family = family;
    this.#shared = shared.map(addressBytes);
    this.#log = log;
    this.#sweepInterval = sweepInterval;
    this.#changes = new NetlinkSocket(Protocol.NETFILTER);
    this.#sweeps = new NetlinkSocket(Protocol.NETFILTER);
    this.#events = libc.socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
    const address = Buffer.alloc(12);
    address.writeUInt16LE(AF_NETLINK);
    libc.bind(this.#events, address);
    try {
      libc.setsockopt(this.#events, SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER);
    } catch {
      libc.setsockopt(this.#events, SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER);
    }
    for (const group of [NFNLGRP_CONNTRACK_UPDATE, NFNLGRP_CONNTRACK_DESTROY]) {
      libc.setsockopt(this.#events, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group);
    }
  }

  start(report: (events: readonly FlowEvent[]) => void): void {
    this.#report = report;
    this.#chooseGeneration();
    this.#list();
    this.#timer = setTimeout(() => void this.#sweep(), this.#sweepInterval * 1000);
    void this.#read();
  }

  settle(slots: readonly number[]): void {
    const hasEnded = ({ sharedPort }: GroupFlow): boolean => slots.includes(slotOfPort(sharedPort) ?? -1);
    const former = this.#entries(({ replica }) => replica !== undefined && replica !== this.#generation);
    for (const flows of inBatches(former, BATCH)) {
      const own = flows.filter((flow) => !hasEnded(flow));
      this.apply([
        ...flows.filter(hasEnded).map((flow): FlowChange => ({ type: 'remove', flow })),
        ...own.map((flow): FlowChange => ({ type: 'adopt', flow })),
      ]);
      this.#reportAll(own.map((flow) => ({ type: 'update', flow })));
    }
  }

  configure(shared: readonly Address[]): void {
    this.#shared = shared.map(addressBytes);
    this.#list();
  }

  apply(changes: readonly FlowChange[]): Record<string, number> {
    const results = this.#transact(changes.map((change) => this.#requestOf(change)));
    const refused: Record<string, number> = {};
    changes.forEach((change, i) => {
      const code = this.#resolve(change, results[i]?.code);
      if (code !== undefined) refused[code] = (refused[code] ?? 0) + 1;
    });
    return refused;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#changes.close();
    this.#sweeps.close();
  }

  #requestOf({ type, flow }: FlowChange): NetlinkRequest {
    switch (type) {
      case 'insert':
        return {
          ...insertRequest(this.#family, flow, this.#generation, KEEP),
          flags: NLM_F_CREATE | NLM_F_EXCL,
        };
      case 'remove':
        return this.#remove(flow);
      case 'adopt':
        return changeRequest(this.#family, flow, undefined, Math.max(flow.timeout, LEAST_ADOPTED));
      case 'release':
        return changeRequest(this.#family, flow, this.#generation, KEEP);
      case 'refresh':
        return timeoutRequest(this.#family, flow, flow.timeout);
    }
  }

  readonly #remove = (flow: GroupFlow): EntryRequest => keyRequest(CT_DELETE, this.#family, flow);

  /** What is left of a refusal: an insert of an entry that exists changes it, and one that is gone needs no removal. */
  #resolve(change: FlowChange, code: string | undefined): string | undefined {
    const { type, flow } = change;
    if (code === 'ENOENT' && type !== 'adopt') return undefined;
    if (code !== 'EEXIST' || type !== 'insert') return code;
    const present = this.#find(flow);
    const isSame =
      present !== undefined &&
      present.flow.sharedPort === flow.sharedPort &&
      Buffer.compare(present.flow.shared, flow.shared) === 0;
    // A packet that came here before the replica has begun a flow of its own, with another translation.
    const requests = isSame
      ? [changeRequest(this.#family, flow, this.#generation, KEEP)]
      : [this.#remove(flow), this.#requestOf(change)];
    return this.#transact(requests).at(-1)?.code;
  }

  #find(flow: GroupFlow): GroupEntry | undefined {
    try {
      const { type, data } = keyRequest(CT_GET, this.#family, flow);
      return decodeGroupEntry(this.#changes.ask(type, data), this.#shared);
    } catch (error) {
      if (error instanceof NetlinkError) return undefined;
      throw error;
    }
  }

  #transact(requests: readonly NetlinkRequest[]): (NetlinkError | undefined)[] {
    return this.#changes.transactSync(requests);
  }

  readonly #parse = (payload: Buffer): GroupEntry | undefined => decodeGroupEntry(payload, this.#shared);

  /** The dump of our family. */
  get #dump(): [type: number, data: Uint8Array] {
    return [CT_GET, nfgenHeader(this.#family === 4 ? AF_INET : AF_INET6)];
  }

  /** The flows of the entries that are wanted. */
  #entries(isWanted: (entry: GroupEntry) => boolean): Iterable<GroupFlow> {
    const found = new PackedMessages();
    this.#changes.dump(...this.#dump, this.#pack(found, isWanted));
    return this.#flowsIn(found);
  }

  /** Keeps the messages of entries that are wanted, and returns nothing that a dump would keep. */
  #pack(found: PackedMessages, isWanted: (entry: GroupEntry) => boolean) {
    return (payload: Buffer): undefined => {
      const entry = this.#parse(payload);
      if (entry !== undefined && isWanted(entry)) found.add(payload);
    };
  }

  /** Without those whose address is no longer shared: the policy may change between the parts of a sweep. */
  *#flowsIn(messages: PackedMessages): Generator<GroupFlow> {
    for (const message of messages) {
      const entry = this.#parse(message);
      if (entry !== undefined) yield entry.flow;
    }
  }

  /** Takes the generation that the replicas in the kernel do not have. Those of two processes become one generation. */
  #chooseGeneration(): void {
    const seen = new Set<Generation>();
    this.#changes.dump(...this.#dump, (payload): undefined => {
      const replica = this.#parse(payload)?.replica;
      if (replica !== undefined) seen.add(replica);
    });
    this.#generation = seen.has(0) ? 1 : 0;
    if (!seen.has(this.#generation)) return;
    const other: Generation = this.#generation === 0 ? 1 : 0;
    const same = this.#entries(({ replica }) => replica === this.#generation);
    for (const flows of inBatches(same, BATCH)) {
      this.#transact(flows.map((flow) => changeRequest(this.#family, flow, other, KEEP)));
    }
  }

  /** The packets of an own flow may go through another member for a while, and come back with another window. */
  #makeLiberal(flows: readonly GroupFlow[]): void {
    this.#transact(flows.filter(isStrict).map((flow) => liberalRequest(this.#family, flow)));
  }

  #reportAll(events: readonly FlowEvent[]): void {
    for (const batch of inBatches(events, BATCH)) this.#report(batch);
  }

  /** Reports every own flow that is in the table. */
  #list(): void {
    this.#report([{ type: 'listing' }]);
    const own = this.#entries(({ replica, established }) => replica === undefined && established);
    for (const flows of inBatches(own, BATCH)) {
      this.#makeLiberal(flows);
      this.#report(flows.map((flow) => ({ type: 'update', flow })));
    }
    this.#report([{ type: 'listed' }]);
  }

  async #read(): Promise<void> {
    while (!this.#closed) {
      if (!(await libc.readable(this.#events, WAIT)) || this.#closed) continue;
      try {
        this.#take();
      } catch (error) {
        this.#log.error({ err: error }, 'cannot read conntrack events of the group, retrying');
      }
    }
    libc.close(this.#events);
  }

  /** Reads the events that wait, and reports them. */
  #take(): void {
    let events: FlowEvent[] = [];
    const lost: GroupFlow[] = [];
    for (let i = 0; i < DATAGRAMS_PER_TURN; i++) {
      const length = libc.recv(this.#events, this.#buffer);
      if (length === -EAGAIN) break;
      if (length < 0) {
        // ENOBUFS: events were dropped.
        events = [];
        this.#list();
        continue;
      }
      const messages = new Messages(Buffer.from(this.#buffer.subarray(0, length)));
      while (messages.next()) {
        if (messages.port === this.#changes.port || messages.port === this.#sweeps.port) continue;
        const entry = this.#parse(messages.data);
        if (entry === undefined) continue;
        if (entry.replica === undefined) events.push(eventOf(messages.type, entry));
        else if (messages.type === CT_DELETE && entry.replica === this.#generation) lost.push(entry.flow);
      }
    }
    this.#makeLiberal(events.flatMap((event) => (event.type === 'update' ? event.flow : [])));
    this.#reportAll(events);
    if (lost.length > 0) this.apply(lost.map((flow) => ({ type: 'insert', flow: withState(flow) })));
  }

  *#keepAlive(replicas: PackedMessages): Generator<NetlinkRequest> {
    for (const flow of this.#flowsIn(replicas)) yield timeoutRequest(this.#family, flow, KEEP);
  }

  /** Restarts the timeouts of the replicas, and reports those that packets have used. */
  async #sweep(): Promise<void> {
    try {
      const replicas = new PackedMessages();
      const isReplica = ({ replica }: GroupEntry): boolean => replica === this.#generation;
      await this.#sweeps.dumpInTurns(...this.#dump, this.#pack(replicas, isReplica));
      await this.#sweeps.transact(this.#keepAlive(replicas));
      for (const flows of inBatches(this.#flowsIn(replicas), BATCH)) {
        const used = flows.filter(({ timeout }) => wasUsed(timeout));
        if (used.length > 0) this.#report(used.map((flow) => ({ type: 'active', flow })));
      }
    } catch (error) {
      if (!this.#closed) this.#log.error({ err: error }, 'cannot keep replicas alive, retrying');
    }
    if (!this.#closed) this.#timer = setTimeout(() => void this.#sweep(), this.#sweepInterval * 1000);
  }
}

const ESTABLISHED: TcpInfo = { state: 3, originalScale: 0, replyScale: 0, originalFlags: 0, replyFlags: 0 };

/** A packet has set the timeout of its protocol: it is longer than a replica's, or shorter than a sweep leaves it. */
const wasUsed = (timeout: number): boolean =>
  timeout > KEEP || timeout < KEEP - SWEEP_INTERVAL - SWEEP_LATENESS;

function eventOf(type: number, { flow, established }: GroupEntry): FlowEvent {
  return type === CT_NEW && established ? { type: 'update', flow } : { type: 'end', flow };
}

/** The kernel does not report the TCP state of an entry that it destroys; a replica's was established. */
const withState = (flow: GroupFlow): GroupFlow =>
  flow.protocol !== IPPROTO_TCP || flow.tcp !== undefined ? flow : { ...flow, tcp: ESTABLISHED };
