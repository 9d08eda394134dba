/**
 * conntrack as the exchange of a group needs it: reports the own flows that are translated to a shared address, and keeps
 * the replicas of the flows of others. Runs in the exchange's thread.
 *
 * An **own flow** is an entry without the mark of a replica: it was allocated here, or adopted. It is reported when it is
 * answered, when its state changes, when it ends, and when another program deletes it. So the packet that completes a handshake may
 * come to another member; that one reports the replica as active, and the handshake is completed here too. A **replica** is kept alive
 * until it is removed or adopted; that another program deletes it is reported too. Its timeout is `KEEP`: it does not outlive this process
 * by more than that. A replica that the kernel does not take, and one that gives its place to another flow, is reported as
 * **absent**. What contradicts the policy is deleted by this program (flow-cleaner.ts, known by its netlink port), and has
 * ended.
 *
 * Events are read as they arrive. If the kernel dropped some, those that wait are older than the gap: they are read, and then
 * the whole table.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
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
import { CT_DELETE, CT_GET, NFNLGRP_CONNTRACK_DESTROY } from '../../../nat/conntrack/wire.ts';
import { FLOW_CLEANER_PORT } from '../../../routing/numbers.ts';
import type { FlowChange, FlowEvent, FlowKernel, GroupFlow } from '../model.ts';
import { decodeFlow, encodeFlow, hashOf, keySize, recordSize } from '../records.ts';
import { slotOfPort } from '../slices.ts';
import {
  answersRequest,
  changeRequest,
  decodeGroupEntry,
  type EntryRequest,
  type Generation,
  type GroupEntry,
  insertRequest,
  isOpen,
  isOpening,
  isStrict,
  keyRequest,
  liberal,
  liberalRequest,
  opened,
  timeoutRequest,
} from './entry.ts';
import { inBatches, PackedRecords } from './packed-records.ts';

/** enum nfnetlink_groups */
const NFNLGRP_CONNTRACK_UPDATE = 2;
/** Octets of the event socket's buffer: the events of some seconds at 10 000 a second. */
const RECEIVE_BUFFER = 8 << 20;
/** How long a wait for events lasts before the thread looks whether it has to end, ms. */
const WAIT = 500;
/**
 * Between two turns of reading while there are events, ms: what wakes a thread, is encrypted, acknowledged and sent for one
 * flow serves all that came meanwhile. The first event after a pause does not wait.
 */
const GATHER = 4;
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
/** How often an entry that is in the way is replaced. */
const REPLACEMENTS = 5;
/** The kernel reports a deletion before the entry leaves the table; then it is waited for that, ms. */
const DYING_WAIT = 10;
/** What is in the way is dying. */
const DYING = 'dying';
/** An adopted or restored flow lives at least this long, s. */
const LEAST_TIMEOUT = 60;

/** Who has deleted an entry: it expired, the exchange, the flow cleaner, or another program. */
type Cause = 'kernel' | 'exchange' | 'policy' | 'other';

type Insertion = FlowChange & { type: 'insert' | 'restore' };

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
  /** Events were dropped: the table has to be read. */
  #overrun = false;
  /** Another program has deleted entries since. */
  #deleted = false;
  /** Entries that a restored flow has replaced: their events are older than that. */
  readonly #replaced = new Set<string>();
  /** Hashes of the flows that were put back where they had been deleted, since the events were read to their end, and before. */
  #putBack = new Set<number>();
  #putBackBefore = new Set<number>();
  /** Flows to be inserted that met a dying entry. */
  #delayed: GroupFlow[] = [];
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

  /** The sockets, as file descriptors: the end of a thread does not close them. */
  get descriptors(): number[] {
    return [this.#events, this.#changes.fd, this.#sweeps.fd];
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
      // One that cannot be adopted is reported as ended after that.
      this.#reportAll(own.map((flow) => ({ type: 'update', flow })));
      this.apply([
        ...flows.filter(hasEnded).map((flow): FlowChange => ({ type: 'remove', flow })),
        ...own.map((flow): FlowChange => ({ type: 'adopt', flow })),
      ]);
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
      if (code === undefined) {
        if (isPuttingBack(change)) this.#putBack.add(hashOfTranslation(change.flow));
        if (change.type === 'refresh' && isOpening(change.flow)) this.#complete(change.flow);
        return;
      }
      if (code === DYING) {
        this.#delay(change.flow);
        return;
      }
      if (!isRetry(change)) refused[code] = (refused[code] ?? 0) + 1;
      // The port may be another flow's by now.
      if (change.type === 'restore' || change.type === 'adopt')
        this.#report([{ type: 'end', flow: change.flow }]);
      else if (change.type === 'insert') this.#report([{ type: 'absent', flow: change.flow }]);
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
        return changeRequest(this.#family, flow, undefined, Math.max(flow.timeout, LEAST_TIMEOUT));
      case 'restore':
        return {
          ...insertRequest(this.#family, flow, undefined, Math.max(flow.timeout, LEAST_TIMEOUT)),
          flags: NLM_F_CREATE | NLM_F_EXCL,
        };
      case 'release':
        return changeRequest(this.#family, flow, this.#generation, KEEP);
      case 'refresh':
        return timeoutRequest(this.#family, flow, flow.timeout);
    }
  }

  /** The handshake of an own flow was completed through another member: so it is here, unless the flow has ended meanwhile. */
  #complete(flow: GroupFlow): void {
    const present = this.#find(answersRequest(CT_GET, this.#family, flow));
    if (present === undefined || present === 'none' || !isOpening(present.flow)) return;
    const complete = { ...opened(flow), timeout: establishedTimeout(flow.protocol) };
    const [refusal] = this.#transact([changeRequest(this.#family, complete, undefined, complete.timeout)]);
    if (refusal === undefined) this.#report([{ type: 'update', flow: complete }]);
  }

  readonly #remove = (flow: GroupFlow): EntryRequest => answersRequest(CT_DELETE, this.#family, flow);

  /** What is left of a refusal: an insert of an entry that exists changes it, and one that is gone needs no removal. */
  #resolve(change: FlowChange, refusal: string | undefined): string | undefined {
    const { type, flow } = change;
    if (refusal === 'ENOENT') return type === 'adopt' ? this.#insertOwn(flow) : undefined;
    if (change.type !== 'insert' && change.type !== 'restore') return refusal;
    let code = refusal;
    // A packet between the removal and the insert begins another flow.
    for (let i = 0; code === 'EEXIST' && i < REPLACEMENTS; i++) {
      const present = this.#find(keyRequest(CT_GET, this.#family, flow));
      if (isDying(present)) return DYING;
      code = present === 'none' ? this.#takePort(change) : this.#replace(change, present);
    }
    return code;
  }

  /** A flow to be adopted that has no entry gets one where nothing is in its way. Returns the kernel's refusal. */
  #insertOwn(flow: GroupFlow): string | undefined {
    return this.#transact([this.#requestOf({ type: 'restore', flow })])[0]?.code;
  }

  /** Puts a flow into the place of the entry that is there. Returns the kernel's refusal. */
  #replace(change: Insertion, present: GroupEntry | undefined): string | undefined {
    const { type, flow } = change;
    const isDeleted = isPuttingBack(change);
    if (present === undefined) {
      // It is not translated to a shared address: of a policy before this one, or by the one in force.
      if (type === 'restore' || isRetry(change)) return 'EEXIST';
      const removal = keyRequest(CT_DELETE, this.#family, flow);
      return this.#transact([removal, this.#requestOf(change)])[1]?.code;
    }
    if (isSameTranslation(present.flow, flow)) {
      const [owner, timeout] =
        type === 'insert' ? [this.#generation, KEEP] : [undefined, Math.max(flow.timeout, LEAST_TIMEOUT)];
      return this.#transact([changeRequest(this.#family, flow, owner, timeout)])[0]?.code;
    }
    if (isRetry(change)) return 'EEXIST';
    // A flush takes a while: this one began during it, was deleted by it too, and is the later of the two.
    if (isDeleted && this.#wasPutBack(present.flow)) return 'EEXIST';
    // A packet that came here before this entry has begun a flow of its own, with another translation.
    const isOwn = present.replica === undefined;
    if (!isDeleted && isOwn && present.answered) return 'EEXIST';
    if (!isOwn) this.#report([{ type: 'absent', flow: decodeFlow(encodeFlow(present.flow)) }]);
    else if (isDeleted) this.#replaced.add(translationOf(present.flow));
    return this.#transact([this.#remove(present.flow), this.#requestOf(change)])[1]?.code;
  }

  /** Inserts a flow whose port another one has, or had until now. Returns the kernel's refusal. */
  #takePort(change: Insertion): string | undefined {
    const { flow } = change;
    const other = this.#find(answersRequest(CT_GET, this.#family, flow));
    if (isDying(other)) return DYING;
    const requests = [this.#requestOf(change)];
    if (other !== undefined && other !== 'none' && isPuttingBack(change)) {
      // It has the port since the flow was deleted.
      if (other.replica !== undefined || this.#wasPutBack(other.flow)) return 'EEXIST';
      this.#replaced.add(translationOf(other.flow));
      requests.unshift(this.#remove(other.flow));
    }
    return this.#transact(requests).at(-1)?.code;
  }

  /** Reports a flow as deleted once more when the entry that is in its way has left the table. */
  #delay(flow: GroupFlow): void {
    if (this.#delayed.push(flow) > 1) return;
    setTimeout(() => {
      const flows = this.#delayed;
      this.#delayed = [];
      if (!this.#closed) this.#report(flows.map((one) => ({ type: 'deleted', flow: one })));
    }, DYING_WAIT);
  }

  /** The entry that a request asks for; undefined: one that is no flow of the group. */
  #find({ type, data }: EntryRequest): GroupEntry | undefined | 'none' {
    try {
      return decodeGroupEntry(this.#changes.ask(type, data), this.#shared);
    } catch (error) {
      if (error instanceof NetlinkError) return 'none';
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
    const found = new PackedRecords(recordSize(this.#family));
    this.#changes.dump(...this.#dump, this.#pack(found, isWanted));
    return this.#flowsIn(found);
  }

  /** Keeps the flows of entries that are wanted, and returns nothing that a dump would keep. */
  #pack(found: PackedRecords, isWanted: (entry: GroupEntry) => boolean) {
    return (payload: Buffer): undefined => {
      const entry = this.#parse(payload);
      if (entry !== undefined && isWanted(entry)) found.add(encodeFlow(entry.flow));
    };
  }

  /** Without those whose address is no longer shared: the policy may change between the parts of a sweep. */
  *#flowsIn(records: PackedRecords): Generator<GroupFlow> {
    for (const record of records) {
      const flow = decodeFlow(record);
      if (this.#shared.some((address) => Buffer.compare(address, flow.shared) === 0)) yield flow;
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

  /**
   * The packets of own flows may go through another member for a while, and come back with another window. Returns the events
   * with the flows as they are then.
   */
  #makeLiberal(events: readonly FlowEvent[]): FlowEvent[] {
    const isToBe = (event: FlowEvent): event is FlowEvent & { type: 'update' } =>
      event.type === 'update' && isStrict(event.flow);
    this.#transact(events.filter(isToBe).map(({ flow }) => liberalRequest(this.#family, flow)));
    return events.map((event) => (isToBe(event) ? { ...event, flow: liberal(event.flow) } : event));
  }

  #reportAll(events: readonly FlowEvent[]): void {
    for (const batch of inBatches(events, BATCH)) this.#report(batch);
  }

  /** Reports every own flow that is in the table. */
  #list(deleted = false): void {
    this.#replaced.clear();
    this.#report([{ type: 'listing' }]);
    const own = this.#entries(({ replica, answered }) => replica === undefined && answered);
    for (const flows of inBatches(own, BATCH)) {
      this.#report(this.#makeLiberal(flows.map((flow) => ({ type: 'update', flow }))));
    }
    this.#report([{ type: 'listed', deleted }]);
  }

  async #read(): Promise<void> {
    for (let taken = 0; !this.#closed; ) {
      const isBusy = taken > 0 && taken < DATAGRAMS_PER_TURN;
      if (isBusy) await sleep(GATHER);
      else if (!(await libc.readable(this.#events, WAIT))) continue;
      if (this.#closed) break;
      try {
        taken = this.#take();
      } catch (error) {
        this.#log.error({ err: error }, 'cannot read conntrack events of the group, retrying');
      }
    }
    libc.close(this.#events);
  }

  /** Reads the events that wait, and reports them. Returns how many datagrams there were. */
  #take(): number {
    let events: FlowEvent[] = [];
    let hasDeleted = false;
    const flush = (): void => {
      this.#reportAll(this.#makeLiberal(events));
      events = [];
      hasDeleted = false;
    };
    let taken = 0;
    let isEmpty = false;
    while (taken < DATAGRAMS_PER_TURN && !isEmpty) {
      const length = libc.recv(this.#events, this.#buffer);
      if (length === -EAGAIN) {
        isEmpty = true;
        continue;
      }
      taken++;
      if (length < 0) {
        // ENOBUFS: events were dropped.
        this.#overrun = true;
        continue;
      }
      const messages = new Messages(Buffer.from(this.#buffer.subarray(0, length)));
      while (messages.next()) {
        const entry = this.#parse(messages.data);
        if (entry === undefined) continue;
        const { type, port } = messages;
        const cause = type === CT_DELETE ? this.#causeOf(port) : undefined;
        if (cause === 'other' && this.#overrun) this.#deleted = true;
        const event =
          entry.replica === undefined
            ? this.#eventOf(entry, cause, port)
            : this.#replicaEventOf(entry, cause, port);
        // What is restored replaces an entry that began since, so it comes first.
        if (event?.type === 'update' && hasDeleted) flush();
        if (event === undefined || this.#isReplaced(event.flow, cause !== undefined)) continue;
        events.push(event);
        hasDeleted ||= event.type === 'deleted';
      }
    }
    if (isEmpty) {
      this.#putBackBefore = this.#putBack;
      this.#putBack = new Set();
    }
    flush();
    if (isEmpty && this.#overrun) {
      this.#overrun = false;
      this.#report([{ type: 'overrun' }]);
      this.#list(this.#deleted);
      this.#deleted = false;
    }
    return taken;
  }

  /** Who has deleted an entry, by the netlink port in the event. */
  #causeOf(port: number): Cause {
    if (port === 0) return 'kernel';
    if (port === FLOW_CLEANER_PORT) return 'policy';
    return this.#isOurs(port) ? 'exchange' : 'other';
  }

  /**
   * Whether a flow was put back so lately that events of what took its place in between may still come: those were queued
   * before it was.
   */
  #wasPutBack(flow: GroupFlow): boolean {
    const hash = hashOfTranslation(flow);
    return this.#putBack.has(hash) || this.#putBackBefore.has(hash);
  }

  #isOurs(port: number): boolean {
    return port === this.#changes.port || port === this.#sweeps.port;
  }

  /** The event of an entry that is no replica; undefined: a change of our own. `cause`: of its deletion. */
  #eventOf(
    { flow, answered }: GroupEntry,
    cause: Cause | undefined,
    port: number,
  ): (FlowEvent & { flow: GroupFlow }) | undefined {
    if (cause === 'other') return { type: 'deleted', flow };
    if (cause !== undefined) return { type: 'end', flow };
    if (this.#isOurs(port)) return undefined;
    return { type: answered ? 'update' : 'end', flow };
  }

  /**
   * The event of a replica: neither the exchange nor the policy has deleted it, or a packet has completed its handshake here.
   */
  #replicaEventOf(
    { flow, replica }: GroupEntry,
    cause: Cause | undefined,
    port: number,
  ): (FlowEvent & { flow: GroupFlow }) | undefined {
    if (replica !== this.#generation) return undefined;
    if (cause === undefined) return port === 0 && isOpen(flow) ? { type: 'active', flow } : undefined;
    return cause === 'other' || cause === 'kernel' ? { type: 'deleted', flow } : undefined;
  }

  /**
   * Whether an event is about an entry that a restored flow has replaced, and older than that. Its deletion is the last one,
   * and counts: the entry was reported if the table was read since it began.
   */
  #isReplaced(flow: GroupFlow, isDeletion: boolean): boolean {
    if (this.#replaced.size === 0) return false;
    const text = translationOf(flow);
    if (!isDeletion) return this.#replaced.has(text);
    this.#replaced.delete(text);
    return false;
  }

  *#keepAlive(replicas: PackedRecords): Generator<NetlinkRequest> {
    for (const flow of this.#flowsIn(replicas)) yield timeoutRequest(this.#family, flow, KEEP);
  }

  /** Restarts the timeouts of the replicas, and reports those that packets have used. */
  async #sweep(): Promise<void> {
    try {
      const replicas = new PackedRecords(recordSize(this.#family));
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

/** A packet has set the timeout of its protocol: it is longer than a replica's, or shorter than a sweep leaves it. */
const wasUsed = (timeout: number): boolean =>
  timeout > KEEP || timeout < KEEP - SWEEP_INTERVAL - SWEEP_LATENESS;

/** How long the kernel keeps a flow whose handshake is complete, s: TCP, or else SCTP. Throws where there is no conntrack. */
function establishedTimeout(protocol: number): number {
  const name = protocol === IPPROTO_TCP ? 'tcp' : 'sctp';
  return Number(readFileSync(`/proc/sys/net/netfilter/nf_conntrack_${name}_timeout_established`, 'utf8'));
}

const isDying = (entry: GroupEntry | undefined | 'none'): boolean => typeof entry === 'object' && entry.dying;

/** Whether a change inserts a replica that was absent, where nothing is in its way. */
const isRetry = (change: FlowChange): boolean => change.type === 'insert' && change.ifFree === true;

/** Whether a change puts a flow back that another program has deleted. */
const isPuttingBack = (change: FlowChange): boolean =>
  change.type === 'restore' || (change.type === 'insert' && change.again === true);

const keyOf = (flow: GroupFlow): Buffer =>
  encodeFlow(flow).subarray(0, keySize(flow.source.length === 4 ? 4 : 6));

const translationOf = (flow: GroupFlow): string => keyOf(flow).toString('latin1');

function hashOfTranslation(flow: GroupFlow): number {
  const key = keyOf(flow);
  return hashOf(key, 0, key.length, 0);
}

const isSameTranslation = (a: GroupFlow, b: GroupFlow): boolean =>
  a.sharedPort === b.sharedPort && Buffer.compare(a.shared, b.shared) === 0;
