/**
 * Replicates flows between members: what each other member still has to be sent, what was received, and the
 * comparisons that make up for whatever was lost. Pure, but for its table, which it changes in place.
 *
 * A connection is an ordered stream. What waits for a member is coalesced by flow and bounded; messages with flows
 * are acknowledged, and at most `WINDOW` of them are under way, so nothing piles up in sockets either. When nothing
 * waits, the receiver must have exactly our own flows, which a digest verifies (docs/design/0009-group.md).
 */
import { type Address, addressBytes, type Family } from '../../lib/prefix.ts';
import { type Change, MAX_FLOWS, type Message } from './codec.ts';
import { BUCKETS, type BucketSum, FlowTable, OWNERS } from './flow-table.ts';
import type { FlowChange, FlowEvent } from './model.ts';
import { addressSize, decodeFlow, encodeFlow, hasPorts, keySize, sharedPortOf, willDo } from './records.ts';
import { SLICES, slotOf, slotOfPort } from './slices.ts';

/** Flows of one family, own and replicas. */
export const CAPACITY = 65_536;
/** Changes that may wait for one member. */
export const MAX_PENDING = 8192;
/** Messages with flows that are not acknowledged. */
const WINDOW = 8;
/** Flows that are adopted or restored at once: what is to be done for each is in memory until it is done. */
const AT_ONCE = 1024;
/** Absent replicas that are kept in mind. If there were more, all replicas are inserted once few of these are left. */
const MAX_ABSENT = 8192;
/** Absent replicas that are tried at once. */
const ABSENT_AT_ONCE = 64;
/** Between two comparisons, ms. */
export const DIGEST_PERIOD = 10_000;
/** Between two comparisons during a handover that find differences, ms. */
const HANDOVER_RETRY = 100;
/** Flows of a member that is gone have the number of its slice and this as their owner. */
const ORPHANS = SLICES;

const END = -1;
const UPDATE = -2;

/** What is queued for another member, and what was received from it. */
interface Link {
  slot: number;
  connected: boolean;
  /** The process that its flows are of. */
  instance?: number;
  /** By key in latin1: `UPDATE`, `END`, or the slot that the flow has moved to. */
  pending: Map<string, number>;
  /** When the oldest pending change came, ms. */
  since: number;
  /** Buckets that it requested. */
  wanted: Set<number>;
  /** Keys of its flows of which we saw packets. */
  active: Buffer[];
  sequence: number;
  unacked: { sequence: number; since: number; flows: number }[];
  digestDue: number;
  digestNumber: number;
  /** Digests in a row that found a difference. */
  differences: number;
  /** The digest from which on an answer without a difference ends the handover. */
  handover?: number;
  /** Its buckets that we wait for. */
  open: Set<number>;
  receiving?: { bucket: number; seen: Set<string> };
  synced: boolean;
  inSync: boolean;
}

/** What is to be done; the core carries it out after each event. */
export interface Outbox {
  sends: { member: Address; message: Message }[];
  changes: FlowChange[];
  /** Members whose tables were received. */
  synced: Address[];
  /** Members that have acknowledged the handover. */
  handedOver: Address[];
  /** From the change to its acknowledgement, ms, of `flows` flows. */
  lags: { lag: number; flows: number }[];
  /** Flows that were sent, and received. */
  sent: number;
  received: number;
  /** What was refused or dropped, by reason. */
  rejected: Record<string, number>;
}

const emptyOutbox = (): Outbox => ({
  sends: [],
  changes: [],
  synced: [],
  handedOver: [],
  lags: [],
  sent: 0,
  received: 0,
  rejected: {},
});

export class Replication {
  readonly #family: Family;
  readonly #table: FlowTable;
  readonly #slot: number;
  readonly #links = new Map<Address, Link>();
  #shared: ReadonlySet<string> = new Set();
  #generation = 1;
  /** The first bucket that is still to be restored; `BUCKETS`: none. */
  #restoring = BUCKETS;
  /** Keys of replicas that the kernel does not have, in latin1, and whether there were more. */
  readonly #absent = new Set<string>();
  #moreAbsent = false;
  #out = emptyOutbox();

  constructor(family: Family, self: Address, capacity = CAPACITY) {
    this.#family = family;
    this.#slot = slotOf(self);
    this.#table = new FlowTable(family, capacity);
  }

  /** The flows that this member reports. */
  get own(): number {
    return this.#table.count(this.#slot);
  }

  get replicas(): number {
    return this.#table.size - this.own;
  }

  /** What was gathered since the last call. */
  flushOutbox(): Outbox {
    const out = this.#out;
    this.#out = emptyOutbox();
    return out;
  }

  replicasOf(member: Address): number {
    return this.#table.count(slotOf(member));
  }

  isInSync(member: Address): boolean {
    return this.#links.get(member)?.inSync ?? false;
  }

  /** The other members and the shared addresses. The flows of members that are not there any more are orphans. */
  configure(others: readonly Address[], shared: readonly Address[]): void {
    this.#shared = new Set(shared.map((address) => Buffer.from(addressBytes(address)).toString('latin1')));
    for (const member of this.#links.keys()) {
      if (others.includes(member)) continue;
      this.orphan(slotOf(member));
      this.#links.delete(member);
    }
    for (const member of others) {
      if (!this.#links.has(member)) this.#links.set(member, newLink(slotOf(member)));
    }
    // Another comparison brings them when their address is shared again.
    for (let owner = 0; owner < OWNERS; owner++) {
      if (owner === this.#slot) continue;
      for (const place of [...this.#table.places(owner)]) {
        if (!this.#shared.has(this.#sharedOf(this.#table.at(place)))) this.#table.remove(place);
      }
    }
  }

  /** A connection is established. Another instance than before has forgotten its flows. */
  connect(member: Address, instance: number, now: number): void {
    const link = this.#links.get(member);
    if (link === undefined) return;
    if (link.instance !== instance) this.orphan(link.slot);
    this.#links.set(member, { ...newLink(link.slot), connected: true, instance, digestDue: now });
  }

  disconnect(member: Address): void {
    const link = this.#links.get(member);
    if (link === undefined) return;
    const { instance } = link;
    this.#links.set(member, { ...newLink(link.slot), ...(instance !== undefined && { instance }) });
  }

  /** What the kernel side reports. */
  report(events: readonly FlowEvent[], now: number): void {
    for (const event of events) {
      if (event.type === 'listing') this.#generation = (this.#generation % 255) + 1;
      else if (event.type === 'listed') this.#listed(event.deleted, now);
      else if (event.type === 'overrun') this.#reject('events_lost');
      else if (event.type === 'update') this.#update(encodeFlow(event.flow), now);
      else if (event.type === 'end') this.#end(encodeFlow(event.flow), now);
      else if (event.type === 'deleted') this.#deleted(encodeFlow(event.flow));
      else if (event.type === 'absent') this.#keepAbsent(encodeFlow(event.flow));
      else this.#active(encodeFlow(event.flow));
    }
  }

  receive(member: Address, message: Message, now: number): void {
    const link = this.#links.get(member);
    if (link === undefined || !link.connected) return;
    switch (message.type) {
      case 'changes':
        for (const change of message.changes) this.#receiveChange(link, change, now);
        this.#out.received += message.changes.length;
        this.#send(member, { type: 'ack', sequence: message.sequence });
        break;
      case 'bucket':
        this.#receiveBucket(member, link, message, now);
        this.#send(member, { type: 'ack', sequence: message.sequence });
        break;
      case 'ack':
        this.#acknowledge(link, message.sequence, now);
        break;
      case 'digest':
        this.#compare(member, link, message.number, message.sums);
        break;
      case 'want':
        this.#want(member, link, message.number, message.buckets, now);
        break;
      case 'active':
        this.#refresh(message.keys);
        break;
      default:
        break;
    }
  }

  /** The flows of a member that is gone lose their owner. */
  orphan(slot: number): void {
    for (const place of this.#table.places(slot)) this.#table.setOwner(place, ORPHANS + slot);
  }

  orphans(slot: number): number {
    return this.#table.count(ORPHANS + slot);
  }

  /** Makes orphans of a slice flows of our own, a bounded number of them. Returns how many. */
  adopt(slot: number, now: number): number {
    // What is not in the kernel cannot be adopted there.
    if (this.#restoring < BUCKETS) return 0;
    let adopted = 0;
    for (const place of this.#table.places(ORPHANS + slot)) {
      if (adopted === AT_ONCE) break;
      adopted++;
      this.#table.setOwner(place, this.#slot);
      // What is being listed does not have it yet.
      this.#table.setGeneration(place, this.#generation);
      const record = this.#table.at(place);
      this.#out.changes.push({ type: 'adopt', flow: decodeFlow(Buffer.from(record)) });
      this.#enqueue(record, UPDATE, now);
    }
    return adopted;
  }

  /**
   * After another program has emptied the connection tracking table: inserts what is not there, own flows and replicas, a
   * bounded number at once.
   */
  restore(): void {
    for (let restored = 0; this.#restoring < BUCKETS && restored < AT_ONCE; this.#restoring++) {
      for (let owner = 0; owner < OWNERS; owner++) {
        for (const place of this.#table.places(owner, this.#restoring)) {
          const isOwn = owner === this.#slot;
          if (isOwn && this.#table.generationAt(place) === this.#generation) continue;
          const flow = decodeFlow(Buffer.from(this.#table.at(place)));
          this.#out.changes.push({ type: isOwn ? 'restore' : 'insert', flow });
          restored++;
        }
      }
    }
  }

  /** Inserts replicas that are absent, a bounded number at once, where their place has become free. */
  insertAbsent(): void {
    let tried = 0;
    for (const text of this.#absent) {
      if (tried++ === ABSENT_AT_ONCE) break;
      this.#absent.delete(text);
      const place = this.#table.find(Buffer.from(text, 'latin1'));
      if (place < 0 || this.#table.ownerAt(place) === this.#slot) continue;
      const flow = decodeFlow(Buffer.from(this.#table.at(place)));
      this.#out.changes.push({ type: 'insert', flow, ifFree: true });
    }
    // Some may be absent for long; the rest is tried when few are left.
    if (!this.#moreAbsent || this.#absent.size >= AT_ONCE) return;
    this.#moreAbsent = false;
    this.#restoring = 0;
  }

  /** These members, which are connected, are to confirm that they have all own flows. */
  beginHandover(now: number, members: Iterable<Address>): void {
    for (const member of members) {
      const link = this.#links.get(member);
      if (link === undefined) continue;
      link.handover = link.digestNumber + 1;
      link.digestDue = now;
    }
  }

  /** Sends what waits, as far as the members keep up. */
  flush(now: number): void {
    for (const [member, link] of this.#links) if (link.connected) this.#flush(member, link, now);
  }

  #flush(member: Address, link: Link, now: number): void {
    if (link.active.length > 0) {
      this.#send(member, { type: 'active', keys: link.active });
      link.active = [];
    }
    while (link.unacked.length < WINDOW) {
      if (link.pending.size > 0) this.#sendChanges(member, link, now);
      else if (link.wanted.size > 0) this.#sendBucket(member, link, now);
      else break;
    }
    if (link.pending.size > 0 || link.wanted.size > 0 || now < link.digestDue) return;
    link.digestDue = now + DIGEST_PERIOD;
    const sums = this.#table.sums(this.#slot);
    this.#send(member, { type: 'digest', number: ++link.digestNumber, sums });
  }

  #sendChanges(member: Address, link: Link, now: number): void {
    const changes: Change[] = [];
    for (const [text, op] of link.pending) {
      if (changes.length === MAX_FLOWS) break;
      link.pending.delete(text);
      const key = Buffer.from(text, 'latin1');
      if (op === END) changes.push({ op: 'end', key });
      else if (op !== UPDATE) changes.push({ op: 'moved', key, slot: op });
      else {
        const place = this.#table.find(key);
        if (place < 0 || this.#table.ownerAt(place) !== this.#slot) continue;
        changes.push({ op: 'update', record: Buffer.from(this.#table.at(place)) });
      }
    }
    if (changes.length === 0) return;
    const sequence = ++link.sequence;
    link.unacked.push({ sequence, since: link.since, flows: changes.length });
    link.since = now;
    this.#out.sent += changes.length;
    this.#send(member, { type: 'changes', sequence, changes });
  }

  #sendBucket(member: Address, link: Link, now: number): void {
    const [bucket = 0] = link.wanted;
    link.wanted.delete(bucket);
    const records = [...this.#table.places(this.#slot, bucket)].map((place) =>
      Buffer.from(this.#table.at(place)),
    );
    for (let i = 0; i === 0 || i < records.length; i += MAX_FLOWS) {
      const sequence = ++link.sequence;
      const part = records.slice(i, i + MAX_FLOWS);
      link.unacked.push({ sequence, since: now, flows: 0 });
      this.#out.sent += part.length;
      const last = i + MAX_FLOWS >= records.length;
      this.#send(member, { type: 'bucket', sequence, bucket, last, records: part });
    }
  }

  #acknowledge(link: Link, sequence: number, now: number): void {
    while (link.unacked.length > 0 && link.unacked[0]!.sequence <= sequence) {
      const { since, flows } = link.unacked.shift()!;
      if (flows > 0) this.#out.lags.push({ lag: now - since, flows });
    }
  }

  /** Another member compares its replicas of our flows. */
  #want(member: Address, link: Link, number: number, buckets: readonly number[], now: number): void {
    if (number !== link.digestNumber) return;
    link.wanted = new Set(buckets);
    if (buckets.length > 0) {
      // What is sent now is verified at once, but for what differs all the time.
      if (++link.differences === 1) link.digestDue = now;
      else if (link.handover !== undefined) link.digestDue = now + HANDOVER_RETRY;
      return;
    }
    link.differences = 0;
    if (link.handover === undefined || number < link.handover) return;
    delete link.handover;
    this.#out.handedOver.push(member);
  }

  /** Compares our replicas of a member's flows with what it has. */
  #compare(member: Address, link: Link, number: number, sums: readonly BucketSum[]): void {
    const differing = new Set<number>();
    const ours = new Map(this.#table.sums(link.slot).map((sum) => [sum.bucket, sum]));
    for (const { bucket, count, sum } of sums) {
      const own = ours.get(bucket);
      if (own?.count !== count || own.sum !== sum) differing.add(bucket);
      ours.delete(bucket);
    }
    for (const bucket of ours.keys()) differing.add(bucket);
    link.open = differing;
    link.inSync = differing.size === 0;
    this.#send(member, { type: 'want', number, buckets: [...differing] });
    if (link.inSync) this.#finishSync(member, link);
  }

  #receiveBucket(
    member: Address,
    link: Link,
    { bucket, last, records }: Message & { type: 'bucket' },
    now: number,
  ): void {
    if (link.receiving?.bucket !== bucket) link.receiving = { bucket, seen: new Set() };
    const { seen } = link.receiving;
    for (const record of records) {
      if (this.#accept(link, record, now)) seen.add(this.#text(record));
    }
    this.#out.received += records.length;
    if (!last) return;
    delete link.receiving;
    for (const place of [...this.#table.places(link.slot, bucket)]) {
      if (!seen.has(this.#text(this.#table.at(place)))) this.#removeReplica(place);
    }
    if (link.open.delete(bucket) && link.open.size === 0) this.#finishSync(member, link);
  }

  #finishSync(member: Address, link: Link): void {
    if (link.synced) return;
    link.synced = true;
    this.#out.synced.push(member);
  }

  #receiveChange(link: Link, change: Change, now: number): void {
    if (change.op === 'update') {
      this.#accept(link, change.record, now);
      return;
    }
    const place = this.#table.find(change.key);
    if (place < 0 || this.#table.ownerAt(place) !== link.slot) return;
    if (change.op === 'end') this.#removeReplica(place);
    else if (change.slot !== this.#slot) {
      // The policy here may not have that member any more.
      const isMember = [...this.#links.values()].some(({ slot }) => slot === change.slot);
      this.#table.setOwner(place, isMember ? change.slot : ORPHANS + change.slot);
    }
  }

  /** A member reports a flow. False when we do not have it as that member's afterwards. */
  #accept(link: Link, record: Buffer, now: number): boolean {
    if (!this.#shared.has(this.#sharedOf(record))) return this.#reject('not_shared');
    const place = this.#table.find(record);
    if (place < 0) {
      if (!this.#table.add(record, link.slot)) return this.#reject('table_full');
    } else {
      const owner = this.#table.ownerAt(place);
      if (owner !== link.slot && owner < ORPHANS && this.#prevails(record, owner, link.slot)) {
        // The sender has to learn the owner.
        if (owner === this.#slot) this.#enqueueFor(link, this.#text(record), UPDATE, now);
        return false;
      }
      const same = willDo(this.#table.at(place), record);
      this.#table.replace(place, record, link.slot);
      if (owner === this.#slot) this.#release(record, link, now);
      if (same) return true;
    }
    this.#out.changes.push({ type: 'insert', flow: decodeFlow(Buffer.from(record)) });
    return true;
  }

  /** Whether a flow that two members report is the first one's: the one in whose slice the port is, or the lower. */
  #prevails(record: Buffer, slot: number, other: number): boolean {
    const slice = hasPorts(record) ? slotOfPort(sharedPortOf(record, this.#family)) : undefined;
    if (slice === slot || slice === other) return slice === slot;
    return slot < other;
  }

  /** A flow that was our own is another member's. */
  #release(record: Buffer, winner: Link, now: number): void {
    this.#out.changes.push({ type: 'release', flow: decodeFlow(Buffer.from(record)) });
    const text = this.#text(record);
    for (const link of this.#links.values()) {
      if (link === winner) link.pending.delete(text);
      else this.#enqueueFor(link, text, winner.slot, now);
    }
  }

  #removeReplica(place: number): void {
    this.#out.changes.push({ type: 'remove', flow: decodeFlow(Buffer.from(this.#table.at(place))) });
    this.#table.remove(place);
  }

  #refresh(keys: readonly Buffer[]): void {
    for (const key of keys) {
      const place = this.#table.find(key);
      if (place < 0 || this.#table.ownerAt(place) !== this.#slot) continue;
      this.#out.changes.push({ type: 'refresh', flow: decodeFlow(Buffer.from(this.#table.at(place))) });
    }
  }

  #update(record: Buffer, now: number): void {
    const place = this.#table.find(record);
    if (place < 0) {
      if (!this.#table.add(record, this.#slot)) {
        this.#reject('table_full');
        return;
      }
    } else {
      const owner = this.#table.ownerAt(place);
      if (owner < ORPHANS && owner !== this.#slot && !this.#prevails(record, this.#slot, owner)) return;
      this.#table.replace(place, record, this.#slot);
    }
    this.#table.setGeneration(place < 0 ? this.#table.find(record) : place, this.#generation);
    this.#enqueue(record, UPDATE, now);
  }

  #end(key: Buffer, now: number): void {
    const place = this.#table.find(key);
    if (place < 0 || this.#table.ownerAt(place) !== this.#slot) return;
    this.#table.remove(place);
    this.#enqueue(key, END, now);
  }

  #deleted(key: Buffer): void {
    const place = this.#table.find(key);
    if (place < 0) return;
    const flow = decodeFlow(Buffer.from(this.#table.at(place)));
    const isOwn = this.#table.ownerAt(place) === this.#slot;
    this.#out.changes.push(isOwn ? { type: 'restore', flow } : { type: 'insert', flow, again: true });
  }

  #keepAbsent(key: Buffer): void {
    if (this.#table.find(key) < 0) return;
    if (this.#absent.size < MAX_ABSENT) this.#absent.add(this.#text(key));
    else this.#moreAbsent = true;
  }

  #listed(deleted: boolean, now: number): void {
    // What is not restored yet is not there either, and has not ended.
    if (deleted || this.#restoring < BUCKETS) this.#restoring = 0;
    else this.#endUnlisted(now);
  }

  #endUnlisted(now: number): void {
    for (const place of [...this.#table.places(this.#slot)]) {
      if (this.#table.generationAt(place) === this.#generation) continue;
      const record = Buffer.from(this.#table.at(place));
      this.#table.remove(place);
      this.#enqueue(record, END, now);
    }
  }

  #active(key: Buffer): void {
    const place = this.#table.find(key);
    if (place < 0) return;
    const owner = this.#table.ownerAt(place);
    for (const link of this.#links.values()) {
      if (link.slot !== owner || !link.connected || link.active.length === MAX_FLOWS) continue;
      link.active.push(Buffer.from(key.subarray(0, keySize(this.#family))));
    }
  }

  #enqueue(record: Buffer, op: number, now: number): void {
    const text = this.#text(record);
    for (const link of this.#links.values()) this.#enqueueFor(link, text, op, now);
  }

  #enqueueFor(link: Link, text: string, op: number, now: number): void {
    if (!link.connected) return;
    if (link.pending.size === 0) link.since = now;
    if (link.pending.size >= MAX_PENDING && !link.pending.has(text)) {
      // The next comparison makes up for it.
      this.#reject('member_slow');
      link.digestDue = now;
    } else {
      link.pending.set(text, op);
    }
  }

  #text(record: Buffer): string {
    return record.toString('latin1', 0, keySize(this.#family));
  }

  #sharedOf(record: Buffer): string {
    const size = addressSize(this.#family);
    return record.toString('latin1', 3 + 2 * size, 3 + 3 * size);
  }

  #reject(reason: string): false {
    this.#out.rejected[reason] = (this.#out.rejected[reason] ?? 0) + 1;
    return false;
  }

  #send(member: Address, message: Message): void {
    this.#out.sends.push({ member, message });
  }
}

const newLink = (slot: number): Link => ({
  slot,
  connected: false,
  pending: new Map(),
  since: 0,
  wanted: new Set(),
  active: [],
  sequence: 0,
  unacked: [],
  digestDue: 0,
  digestNumber: 0,
  differences: 0,
  open: new Set(),
  synced: false,
  inSync: false,
});
