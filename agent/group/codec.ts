/**
 * The messages between members: octets to `Message` and back. Pure.
 *
 *     length 4 | type 1 | body
 *
 * The length counts type and body, at most `MAX_MESSAGE`. Every list has a count in front and a bound; a body that is
 * too short, too long or out of range is refused as a whole. The family of a connection gives the length of its
 * addresses. Version 1 is all of this; what later versions add is agreed on by `hello`, whose form never changes.
 */
import { type Address, addressBytes, addressFromBytes, type Family } from '../../lib/prefix.ts';
import { BUCKETS, type BucketSum } from './flow-table.ts';
import type { MemberState } from './model.ts';
import { addressSize, isRecord, keySize, recordSize } from './records.ts';
import { SLICES } from './slices.ts';

export const VERSION = 1;
/** Octets of type and body. */
export const MAX_MESSAGE = 32 << 10;
const LENGTH = 4;

/** Flows in one message: with those of IPv6 it stays below `MAX_MESSAGE`. */
export const MAX_FLOWS = 256;
/** Shared addresses of one family. */
export const MAX_SHARED = 64;
export const MAX_QUERY = 1024;
export const MAX_ANSWER = 16 << 10;

/** The first message of both sides. */
export interface Hello {
  type: 'hello';
  /** Versions that the sender speaks. */
  minVersion: number;
  maxVersion: number;
  /** Bits for what a version leaves open; none is defined. */
  capabilities: number;
  from: Address;
  to: Address;
  /** Different in each process: a member that reconnects with another number has lost its flows. */
  instance: number;
  /** How long that process has run, seconds. */
  uptime: number;
}

export interface Claim {
  address: Address;
  term: number;
}

/** The state of a member, sent at each change and once a second. */
export interface StateMessage {
  type: 'state';
  state: MemberState;
  external: Address;
  /** The shared addresses that it answers for. */
  claims: Claim[];
}

export type Change =
  | { op: 'update'; record: Buffer }
  | { op: 'end'; key: Buffer }
  /** The member with that slice reports it from now on. */
  | { op: 'moved'; key: Buffer; slot: number };

export type Message =
  | Hello
  | StateMessage
  /** Changes of own flows. */
  | { type: 'changes'; sequence: number; changes: Change[] }
  /** A part of the own flows in a bucket. */
  | { type: 'bucket'; sequence: number; bucket: number; last: boolean; records: Buffer[] }
  /** `changes` and `bucket` up to this number are in the kernel. */
  | { type: 'ack'; sequence: number }
  /** The sums of all own flows, when nothing waits to be sent. */
  | { type: 'digest'; number: number; sums: BucketSum[] }
  /** The buckets that differ from the digest of that number; none: in sync. */
  | { type: 'want'; number: number; buckets: number[] }
  /** Packets of flows were seen that the receiver owns. */
  | { type: 'active'; keys: Buffer[] }
  | { type: 'lookup'; number: number; query: string }
  | { type: 'answer'; number: number; last: boolean; status: number; body: Buffer };

/** Why octets are no message. */
export type Malformed = 'too_long' | 'malformed';

const TYPES = [
  ...(['hello', 'state', 'changes', 'bucket', 'ack', 'digest', 'want', 'active'] as const),
  ...(['lookup', 'answer'] as const),
] as const;
const STATES: readonly MemberState[] = ['joining', 'live', 'draining', 'left'];
const OPS = ['update', 'end', 'moved'] as const;
const MAGIC = 0x5645_4731; // VEG1

/** Writes one frame. Throws `RangeError` for what is beyond the bounds. */
export function encode(message: Message, family: Family): Buffer {
  const writer = new Writer(family);
  writer.u8(TYPES.indexOf(message.type) + 1);
  write(writer, message);
  return writer.frame();
}

function write(w: Writer, message: Message): void {
  switch (message.type) {
    case 'hello':
      w.u32(MAGIC);
      w.u8(message.minVersion);
      w.u8(message.maxVersion);
      w.u32(message.capabilities);
      w.u32(message.instance);
      w.u32(message.uptime);
      w.address(message.from);
      w.address(message.to);
      break;
    case 'state':
      w.u8(STATES.indexOf(message.state));
      w.address(message.external);
      w.list(message.claims, MAX_SHARED, ({ address, term }) => {
        w.address(address);
        w.u32(term);
      });
      break;
    case 'changes':
      w.u32(message.sequence);
      w.list(message.changes, MAX_FLOWS, (change) => {
        w.u8(OPS.indexOf(change.op));
        w.octets(change.op === 'update' ? change.record : change.key);
        if (change.op === 'moved') w.u8(change.slot);
      });
      break;
    case 'bucket':
      w.u32(message.sequence);
      w.u16(message.bucket);
      w.u8(Number(message.last));
      w.list(message.records, MAX_FLOWS, (record) => w.octets(record));
      break;
    case 'ack':
      w.u32(message.sequence);
      break;
    case 'digest':
      w.u32(message.number);
      w.list(message.sums, BUCKETS, ({ bucket, count, sum }) => {
        w.u16(bucket);
        w.u32(count);
        w.u32(sum);
      });
      break;
    case 'want':
      w.u32(message.number);
      w.list(message.buckets, BUCKETS, (bucket) => w.u16(bucket));
      break;
    case 'active':
      w.list(message.keys, MAX_FLOWS, (key) => w.octets(key));
      break;
    case 'lookup':
      w.u32(message.number);
      w.blob(Buffer.from(message.query), MAX_QUERY);
      break;
    case 'answer':
      w.u32(message.number);
      w.u8(Number(message.last));
      w.u16(message.status);
      w.blob(message.body, MAX_ANSWER);
      break;
    default:
      message satisfies never;
  }
}

/** Reads type and body. Records, keys and bodies are views of the octets. */
export function decode(octets: Buffer, family: Family): Message | Malformed {
  if (octets.length > MAX_MESSAGE) return 'too_long';
  const reader = new Reader(octets, family);
  const type = TYPES[reader.u8() - 1];
  const message = type === undefined ? undefined : read(reader, type);
  return message === undefined || !reader.complete ? 'malformed' : message;
}

function read(r: Reader, type: Message['type']): Message | undefined {
  switch (type) {
    case 'hello':
      return readHello(r);
    case 'state':
      return readState(r);
    case 'changes':
      return { type, sequence: r.u32(), changes: r.list(MAX_FLOWS, () => readChange(r)) };
    case 'bucket': {
      const [sequence, bucket, last] = [r.u32(), r.below(r.u16(), BUCKETS), r.flag()];
      return { type, sequence, bucket, last, records: r.list(MAX_FLOWS, () => r.record()) };
    }
    case 'ack':
      return { type, sequence: r.u32() };
    case 'digest':
      return { type, number: r.u32(), sums: readSums(r) };
    case 'want':
      return { type, number: r.u32(), buckets: r.list(BUCKETS, () => r.below(r.u16(), BUCKETS)) };
    case 'active':
      return { type, keys: r.list(MAX_FLOWS, () => r.key()) };
    case 'lookup':
      return { type, number: r.u32(), query: r.blob(MAX_QUERY).toString() };
    case 'answer': {
      const [number, last, status] = [r.u32(), r.flag(), r.u16()];
      return { type, number, last, status, body: r.blob(MAX_ANSWER) };
    }
  }
}

function readHello(r: Reader): Hello | undefined {
  if (r.u32() !== MAGIC) return undefined;
  const [minVersion, maxVersion, capabilities, instance] = [r.u8(), r.u8(), r.u32(), r.u32()];
  const uptime = r.u32();
  const [from, to] = [r.address(), r.address()];
  if (minVersion === 0 || minVersion > maxVersion) return undefined;
  return { type: 'hello', minVersion, maxVersion, capabilities, from, to, instance, uptime };
}

function readState(r: Reader): StateMessage | undefined {
  const state = STATES[r.u8()];
  const external = r.address();
  const claims = r.list(MAX_SHARED, () => ({ address: r.address(), term: r.u32() }));
  return state && { type: 'state', state, external, claims };
}

function readChange(r: Reader): Change {
  const op = OPS[r.below(r.u8(), OPS.length)]!;
  if (op === 'update') return { op, record: r.record() };
  const key = r.key();
  return op === 'end' ? { op, key } : { op, key, slot: r.below(r.u8(), SLICES) };
}

/** In ascending order, none twice. */
function readSums(r: Reader): BucketSum[] {
  let last = -1;
  return r.list(BUCKETS, () => {
    const [bucket, count, sum] = [r.below(r.u16(), BUCKETS), r.u32(), r.u32()];
    r.require(bucket > last && count > 0);
    last = bucket;
    return { bucket, count, sum };
  });
}

/** Cuts what a connection receives into messages. It holds at most one message that is not complete, and a chunk. */
export class FrameReader {
  #rest: Buffer = Buffer.alloc(0);
  /** Octets of the longest message that is accepted now. */
  max: number;

  constructor(max = MAX_MESSAGE) {
    this.max = max;
  }

  push(chunk: Buffer): void {
    this.#rest = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
  }

  /** Type and body of the next message that is complete; `too_long` when it is to be longer than allowed. */
  next(): Buffer | 'too_long' | undefined {
    if (this.#rest.length < LENGTH) return undefined;
    const length = this.#rest.readUInt32BE();
    if (length > this.max) return 'too_long';
    if (this.#rest.length < LENGTH + length) return undefined;
    const frame = this.#rest.subarray(LENGTH, LENGTH + length);
    this.#rest = this.#rest.subarray(LENGTH + length);
    return frame;
  }
}

/** Messages are written here, one after the other. */
const SCRATCH = Buffer.alloc(LENGTH + MAX_MESSAGE);

class Writer {
  readonly #family: Family;
  readonly #octets = SCRATCH;
  #at = LENGTH;

  constructor(family: Family) {
    this.#family = family;
  }

  u8(value: number): void {
    this.#at = this.#octets.writeUInt8(value, this.#at);
  }

  u16(value: number): void {
    this.#at = this.#octets.writeUInt16BE(value, this.#at);
  }

  u32(value: number): void {
    this.#at = this.#octets.writeUInt32BE(value, this.#at);
  }

  octets(value: Uint8Array): void {
    if (this.#at + value.length > this.#octets.length) throw new RangeError('the message is too long');
    this.#octets.set(value, this.#at);
    this.#at += value.length;
  }

  address(value: Address): void {
    const octets = addressBytes(value);
    if (octets.length !== addressSize(this.#family)) throw new RangeError(`${value} is of the other family`);
    this.octets(octets);
  }

  list<T>(items: readonly T[], max: number, one: (item: T) => void): void {
    if (items.length > max) throw new RangeError(`${items.length} items, at most ${max} are allowed`);
    this.u16(items.length);
    for (const item of items) one(item);
  }

  blob(value: Buffer, max: number): void {
    if (value.length > max) throw new RangeError(`${value.length} octets, at most ${max} are allowed`);
    this.u16(value.length);
    this.octets(value);
  }

  frame(): Buffer {
    this.#octets.writeUInt32BE(this.#at - LENGTH, 0);
    return Buffer.from(this.#octets.subarray(0, this.#at));
  }
}

const ZEROES = Buffer.alloc(128);

/** Reads fields. After the first that is wrong everything is zero, and `complete` is false. */
class Reader {
  readonly #octets: Buffer;
  readonly #family: Family;
  #at = 0;
  #wrong = false;

  constructor(octets: Buffer, family: Family) {
    this.#octets = octets;
    this.#family = family;
  }

  /** Everything was read, and nothing was wrong. */
  get complete(): boolean {
    return !this.#wrong && this.#at === this.#octets.length;
  }

  require(condition: boolean): void {
    if (!condition) this.#wrong = true;
  }

  u8(): number {
    return this.#has(1) ? this.#octets[this.#at++]! : 0;
  }

  u16(): number {
    return this.u8() * 256 + this.u8();
  }

  u32(): number {
    return this.u16() * 65_536 + this.u16();
  }

  below(value: number, end: number): number {
    this.require(value < end);
    return value < end ? value : 0;
  }

  flag(): boolean {
    return this.below(this.u8(), 2) === 1;
  }

  address(): Address {
    return addressFromBytes(this.#take(addressSize(this.#family)));
  }

  key(): Buffer {
    return this.#take(keySize(this.#family));
  }

  record(): Buffer {
    const record = this.#take(recordSize(this.#family));
    this.require(!this.#wrong && isRecord(record));
    return record;
  }

  list<T>(max: number, one: () => T): T[] {
    const count = this.u16();
    this.require(count <= max);
    const items: T[] = [];
    for (let i = 0; i < count && !this.#wrong; i++) items.push(one());
    return items;
  }

  blob(max: number): Buffer {
    const length = this.u16();
    this.require(length <= max);
    return this.#wrong || !this.#has(length) ? ZEROES.subarray(0, 0) : this.#take(length);
  }

  #has(length: number): boolean {
    this.require(this.#octets.length - this.#at >= length);
    return !this.#wrong;
  }

  #take(length: number): Buffer {
    if (!this.#has(length)) return ZEROES.subarray(0, length);
    const part = this.#octets.subarray(this.#at, this.#at + length);
    this.#at += length;
    return part;
  }
}
