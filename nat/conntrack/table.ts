/**
 * The flows that are known to be alive, 128 octets each in a few large buffers: 65 536 flows cost 8 MiB and
 * nothing of the JavaScript heap, and a checkpoint of them is a copy of those octets. Pure.
 *
 * The table hands out cursors (`Flow`): a cursor that `find`, `add` or iteration returned is good until the next
 * such call.
 */
import type { Family } from '../../lib/prefix.ts';
import { OTHERS_NUMBER } from './names.ts';
import type { ConntrackEntry, Counters } from './wire.ts';

/**
 * What the gateway does with a flow; `local` flows are the pod's own and are ignored. A `replica` is translated by another
 * gateway of the group, which records it and counts it as a connection. Packets of it that come here are counted here.
 */
export type Verdict = 'local' | 'forwarded' | 'translated' | 'replica';

export const VERDICTS: readonly Verdict[] = ['local', 'forwarded', 'translated', 'replica'];

// The layout of a flow.
const ID = 0;
const ZONE = 4;
const FAMILY = 6;
const PROTOCOL = 7;
const SOURCE = 8;
const DESTINATION = 24;
const SOURCE_PORT = 40;
const DESTINATION_PORT = 42;
/** The end of the octets that identify a flow. */
const KEY_END = 44;
const TRANSLATED_SOURCE = 44;
const TRANSLATED_DESTINATION = 60;
const TRANSLATED_SOURCE_PORT = 76;
const TRANSLATED_DESTINATION_PORT = 78;
const COUNTERS = 80;
const START = 112;
const POLICY = 120;
const FLAGS = 122;
const GENERATION = 123;
const NEXT = 124;
/** The size of a flow in octets. */
export const FLOW_SIZE = 128;

const ADDRESS_SIZE = 16;
const FLAG_VERDICT = 0b11;
const FLAG_INBOUND = 1 << 2;
const FLAG_ANNOUNCED = 1 << 3;
const FLAG_COUNTED = 1 << 4;
const FLAG_EXACT_START = 1 << 5;
const FLAG_SNAT = 1 << 6;
const FLAG_DNAT = 1 << 7;

/** Flows in one buffer. */
const CHUNK = 2048;
const NONE = -1;
/** The latest time that a `Date` can hold; Unix, ms. */
export const LAST_DATE = 8.64e15;

/** One flow: a cursor on its octets in a buffer. */
export class Flow {
  buffer: Buffer;
  at: number;

  /** Without a buffer it has one of its own, and is in no table. */
  constructor(buffer: Buffer = Buffer.alloc(FLOW_SIZE), at = 0) {
    this.buffer = buffer;
    this.at = at;
  }

  get id(): number {
    return this.buffer.readUInt32LE(this.at + ID);
  }
  get zone(): number {
    return this.buffer.readUInt16LE(this.at + ZONE);
  }
  get family(): Family {
    return this.buffer[this.at + FAMILY] as Family;
  }
  /** IP protocol number. */
  get protocol(): number {
    return this.buffer[this.at + PROTOCOL]!;
  }
  /** Where it came from and went to before translation, 4 or 16 octets; ports as in `Tuple`. */
  get source(): Buffer {
    return this.#address(SOURCE);
  }
  get destination(): Buffer {
    return this.#address(DESTINATION);
  }
  get sourcePort(): number {
    return this.buffer.readUInt16LE(this.at + SOURCE_PORT);
  }
  get destinationPort(): number {
    return this.buffer.readUInt16LE(this.at + DESTINATION_PORT);
  }
  /** The same after translation: what the other side sees. */
  get translatedSource(): Buffer {
    return this.#address(TRANSLATED_SOURCE);
  }
  get translatedDestination(): Buffer {
    return this.#address(TRANSLATED_DESTINATION);
  }
  get translatedSourcePort(): number {
    return this.buffer.readUInt16LE(this.at + TRANSLATED_SOURCE_PORT);
  }
  get translatedDestinationPort(): number {
    return this.buffer.readUInt16LE(this.at + TRANSLATED_DESTINATION_PORT);
  }
  /** Whether source or source port were translated. */
  get snat(): boolean {
    return this.#flag(FLAG_SNAT);
  }
  /** Whether destination or destination port were translated. */
  get dnat(): boolean {
    return this.#flag(FLAG_DNAT);
  }
  /** Unix time in ms. Not later than the true begin. */
  get start(): number {
    return this.buffer.readDoubleLE(this.at + START);
  }
  set start(value: number) {
    this.buffer.writeDoubleLE(value, this.at + START);
  }
  /** The number of the policy that it belongs to; 0 for none. */
  get policy(): number {
    return this.buffer.readUInt16LE(this.at + POLICY);
  }
  set policy(value: number) {
    this.buffer.writeUInt16LE(value, this.at + POLICY);
  }
  get verdict(): Verdict {
    return VERDICTS[this.#flags & FLAG_VERDICT]!;
  }
  set verdict(value: Verdict) {
    this.#flags = (this.#flags & ~FLAG_VERDICT) | VERDICTS.indexOf(value);
  }
  /** It was opened from outside: its original direction is inward. */
  get inbound(): boolean {
    return this.#flag(FLAG_INBOUND);
  }
  set inbound(value: boolean) {
    this.#setFlag(FLAG_INBOUND, value);
  }
  /** Its start record was made, or counted as lost. */
  get announced(): boolean {
    return this.#flag(FLAG_ANNOUNCED);
  }
  set announced(value: boolean) {
    this.#setFlag(FLAG_ANNOUNCED, value);
  }
  /** `start` is the kernel's own time stamp of the entry, which distinguishes it from a later one. */
  get exactStart(): boolean {
    return this.#flag(FLAG_EXACT_START);
  }
  set exactStart(value: boolean) {
    this.#setFlag(FLAG_EXACT_START, value);
  }
  /** The dump in which it was seen last, modulo 256. */
  get generation(): number {
    return this.buffer[this.at + GENERATION]!;
  }
  set generation(value: number) {
    this.buffer[this.at + GENERATION] = value;
  }
  /** What the kernel has counted as far as known; undefined without nf_conntrack_acct. */
  get counters(): Counters | undefined {
    if (!this.#flag(FLAG_COUNTED)) return undefined;
    return {
      originalPackets: this.counter(0),
      originalBytes: this.counter(1),
      replyPackets: this.counter(2),
      replyBytes: this.counter(3),
    };
  }
  set counters(value: Counters) {
    this.#setFlag(FLAG_COUNTED, true);
    const at = this.at + COUNTERS;
    this.buffer.writeDoubleLE(value.originalPackets, at);
    this.buffer.writeDoubleLE(value.originalBytes, at + 8);
    this.buffer.writeDoubleLE(value.replyPackets, at + 16);
    this.buffer.writeDoubleLE(value.replyBytes, at + 24);
  }
  /** One of the counters, in the order of `Counters`; 0 when there are none. */
  counter(index: 0 | 1 | 2 | 3): number {
    return this.buffer.readDoubleLE(this.at + COUNTERS + 8 * index);
  }

  /** Fills it from an entry, without counters and unclassified. */
  set(entry: ConntrackEntry): void {
    const { buffer, at } = this;
    const { original, reply } = entry;
    buffer.fill(0, at, at + NEXT);
    writeKey(buffer, at, entry);
    buffer.set(reply.destination, at + TRANSLATED_SOURCE);
    buffer.set(reply.source, at + TRANSLATED_DESTINATION);
    buffer.writeUInt16LE(reply.destinationPort, at + TRANSLATED_SOURCE_PORT);
    // The kernel translates the identifier of ICMP as it does a source port.
    const { sourcePort } = original.icmpType === undefined ? reply : original;
    buffer.writeUInt16LE(sourcePort, at + TRANSLATED_DESTINATION_PORT);
    this.#setFlag(
      FLAG_SNAT,
      reply.destinationPort !== original.sourcePort || !this.#same(SOURCE, TRANSLATED_SOURCE),
    );
    this.#setFlag(
      FLAG_DNAT,
      sourcePort !== original.destinationPort || !this.#same(DESTINATION, TRANSLATED_DESTINATION),
    );
  }

  get #flags(): number {
    return this.buffer[this.at + FLAGS]!;
  }
  set #flags(value: number) {
    this.buffer[this.at + FLAGS] = value;
  }
  #flag(bit: number): boolean {
    return (this.#flags & bit) !== 0;
  }
  #setFlag(bit: number, value: boolean): void {
    this.#flags = value ? this.#flags | bit : this.#flags & ~bit;
  }
  #address(offset: number): Buffer {
    const start = this.at + offset;
    return this.buffer.subarray(start, start + (this.family === 4 ? 4 : ADDRESS_SIZE));
  }
  /** Whether two of its addresses are the same. */
  #same(left: number, right: number): boolean {
    const { buffer, at } = this;
    for (let i = 0; i < ADDRESS_SIZE; i++) {
      if (buffer[at + left + i] !== buffer[at + right + i]) return false;
    }
    return true;
  }
}

/** Whether the values can be those of a flow; a free place has none. */
function isFlow({ family, policy, start, counters }: Flow, policies: number): boolean {
  return (
    (family === 4 || family === 6) &&
    (policy < policies || policy === OTHERS_NUMBER) &&
    start >= 0 &&
    start <= LAST_DATE &&
    Object.values(counters ?? {}).every((count) => count >= 0 && count <= Number.MAX_SAFE_INTEGER)
  );
}

function writeKey(
  buffer: Buffer,
  at: number,
  { id, zone, family, protocol, original }: ConntrackEntry,
): void {
  buffer.writeUInt32LE(id, at + ID);
  buffer.writeUInt16LE(zone, at + ZONE);
  buffer[at + FAMILY] = family;
  buffer[at + PROTOCOL] = protocol;
  buffer.set(original.source, at + SOURCE);
  buffer.set(original.destination, at + DESTINATION);
  buffer.writeUInt16LE(original.sourcePort, at + SOURCE_PORT);
  buffer.writeUInt16LE(original.destinationPort, at + DESTINATION_PORT);
}

/** The flows that are alive. */
export class FlowTable {
  readonly capacity: number;
  readonly #chunks: Buffer[] = [];
  /** The first flow of each bucket. */
  readonly #heads: Int32Array;
  readonly #cursor = new Flow();
  readonly #key = Buffer.alloc(KEY_END);
  #size = 0;
  /** The number of slots ever used, and the first free one of them. */
  #used = 0;
  #free = NONE;

  /** Holds at most `capacity` flows. */
  constructor(capacity: number) {
    this.capacity = capacity;
    this.#heads = new Int32Array(2 ** Math.ceil(Math.log2(capacity))).fill(NONE);
  }

  get size(): number {
    return this.#size;
  }

  /** The flow that an entry is about. */
  find(entry: ConntrackEntry): Flow | undefined {
    writeKey(this.#key.fill(0), 0, entry);
    for (let slot = this.#heads[this.#bucket(entry.id)]!; slot !== NONE; slot = this.#next(slot)) {
      const flow = this.#move(slot);
      if (flow.id === entry.id && this.#key.compare(flow.buffer, flow.at, flow.at + KEY_END) === 0)
        return flow;
    }
    return undefined;
  }

  /** Adds an entry that is not there yet; undefined when the table is full. */
  add(entry: ConntrackEntry): Flow | undefined {
    const slot = this.#allocate();
    if (slot === undefined) return undefined;
    const flow = this.#move(slot);
    flow.set(entry);
    this.#link(slot, flow.id);
    return flow;
  }

  /** Removes a flow. */
  remove({ buffer, at, id }: Flow): void {
    const slot = this.#chunks.indexOf(buffer) * CHUNK + at / FLOW_SIZE;
    const bucket = this.#bucket(id);
    if (this.#heads[bucket] === slot) {
      this.#heads[bucket] = this.#next(slot);
    } else {
      let before = this.#heads[bucket]!;
      while (this.#next(before) !== slot) before = this.#next(before);
      this.#setNext(before, this.#next(slot));
    }
    buffer[at + FAMILY] = 0;
    this.#setNext(slot, this.#free);
    this.#free = slot;
    this.#size--;
  }

  /** Every flow; what is added meanwhile may or may not come, and the one at hand may be removed. */
  *[Symbol.iterator](): Generator<Flow, void> {
    const cursor = new Flow();
    for (let slot = 0; slot < this.#used; slot++) {
      this.#move(slot, cursor);
      if (cursor.buffer[cursor.at + FAMILY] !== 0) yield cursor;
    }
  }

  /** The slots ever used, as octets for `load`; views, valid until the next change. */
  save(): Buffer[] {
    return this.#chunks.map((chunk, i) =>
      chunk.subarray(0, Math.min(CHUNK, this.#used - i * CHUNK) * FLOW_SIZE),
    );
  }

  /**
   * Adds what `save` returned, as far as there is room. Octets that are no flow, or name a policy that does not exist,
   * are ignored.
   */
  load(saved: Buffer, policies = Number.POSITIVE_INFINITY): void {
    for (let at = 0; at + FLOW_SIZE <= saved.length; at += FLOW_SIZE) {
      if (!isFlow(new Flow(saved, at), policies)) continue;
      const slot = this.#allocate();
      if (slot === undefined) return;
      const flow = this.#move(slot);
      saved.copy(flow.buffer, flow.at, at, at + FLOW_SIZE);
      this.#link(slot, flow.id);
    }
  }

  /** A free slot; undefined when the table is full. */
  #allocate(): number | undefined {
    if (this.#size === this.capacity) return undefined;
    this.#size++;
    if (this.#free !== NONE) {
      const slot = this.#free;
      this.#free = this.#next(slot);
      return slot;
    }
    if (this.#used % CHUNK === 0) this.#chunks.push(Buffer.alloc(CHUNK * FLOW_SIZE));
    return this.#used++;
  }

  #link(slot: number, id: number): void {
    const bucket = this.#bucket(id);
    this.#setNext(slot, this.#heads[bucket]!);
    this.#heads[bucket] = slot;
  }

  // The id is a hash already.
  #bucket(id: number): number {
    return id & (this.#heads.length - 1);
  }
  #move(slot: number, cursor = this.#cursor): Flow {
    cursor.buffer = this.#chunks[(slot / CHUNK) | 0]!;
    cursor.at = (slot % CHUNK) * FLOW_SIZE;
    return cursor;
  }
  #next(slot: number): number {
    return this.#chunks[(slot / CHUNK) | 0]!.readInt32LE((slot % CHUNK) * FLOW_SIZE + NEXT);
  }
  #setNext(slot: number, next: number): void {
    this.#chunks[(slot / CHUNK) | 0]!.writeInt32LE(next, (slot % CHUNK) * FLOW_SIZE + NEXT);
  }
}
