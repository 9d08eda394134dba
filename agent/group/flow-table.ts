/**
 * The flows of a group's family, own ones and replicas, each with who owns it, in a few large buffers: 65 536 flows
 * of IPv6 are 6 MiB and nothing of the JavaScript heap. Pure.
 *
 * The flows of each owner are summed in buckets, so that two members can compare their tables by 256 numbers. The
 * sums leave out the timeout, which differs by nature.
 */
import type { Family } from '../../lib/prefix.ts';
import { hashOf, keySize, recordSize } from './records.ts';

export const BUCKETS = 256;
/** Chains for each bucket: 65 536 together. */
const CHAINS = 256;
/** Flows in one buffer. */
const CHUNK = 2048;
const NONE = -1;
/** What a hash begins with: of a key, of what is compared. */
const KEY_SEED = 0x9747b28c;
const SUM_SEED = 0x3c6ef372;
/** Owners are numbers below this. */
export const OWNERS = 32;

/** Count and sum of the hashes of an owner's flows in one bucket. */
export interface BucketSum {
  bucket: number;
  count: number;
  sum: number;
}

export class FlowTable {
  readonly family: Family;
  readonly capacity: number;
  readonly #keySize: number;
  readonly #recordSize: number;
  readonly #heads = new Int32Array(BUCKETS * CHAINS).fill(NONE);
  readonly #chunks: Buffer[] = [];
  #next = new Int32Array(0);
  #owners = new Uint8Array(0);
  #generations = new Uint8Array(0);
  #used = 0;
  #free = NONE;
  readonly #counts = new Uint32Array(OWNERS * BUCKETS);
  readonly #sums = new Uint32Array(OWNERS * BUCKETS);
  readonly #totals = new Uint32Array(OWNERS);

  constructor(family: Family, capacity: number) {
    this.family = family;
    this.capacity = capacity;
    this.#keySize = keySize(family);
    this.#recordSize = recordSize(family);
  }

  /** Flows of all owners. */
  get size(): number {
    return this.#totals.reduce((all, one) => all + one, 0);
  }

  count(owner: number): number {
    return this.#totals[owner]!;
  }

  /** The place of a flow by the key that the octets begin with; -1 for none. Good until it is removed. */
  find(key: Buffer): number {
    for (let i = this.#heads[this.#chain(key)]!; i !== NONE; i = this.#next[i]!) {
      if (this.#isAt(i, key)) return i;
    }
    return NONE;
  }

  /** A view of the record at a place. */
  at(place: number): Buffer {
    const start = (place % CHUNK) * this.#recordSize;
    return this.#chunks[Math.floor(place / CHUNK)]!.subarray(start, start + this.#recordSize);
  }

  ownerAt(place: number): number {
    return this.#owners[place]!;
  }

  /** Adds a flow that is not there. False when the table is full. */
  add(record: Buffer, owner: number): boolean {
    const place = this.#allocate();
    if (place === NONE) return false;
    const chain = this.#chain(record);
    record.copy(this.at(place), 0, 0, this.#recordSize);
    this.#owners[place] = owner;
    this.#generations[place] = 0;
    this.#next[place] = this.#heads[chain]!;
    this.#heads[chain] = place;
    this.#count(place, chain, 1);
    return true;
  }

  /** Overwrites the state of a flow, and its owner. */
  replace(place: number, record: Buffer, owner: number): void {
    const chain = this.#chain(record);
    this.#count(place, chain, -1);
    record.copy(this.at(place), 0, 0, this.#recordSize);
    this.#owners[place] = owner;
    this.#count(place, chain, 1);
  }

  /** The number that was last written on a flow; 0 on a new one. */
  generationAt(place: number): number {
    return this.#generations[place]!;
  }

  setGeneration(place: number, generation: number): void {
    this.#generations[place] = generation;
  }

  setOwner(place: number, owner: number): void {
    const chain = this.#chain(this.at(place));
    this.#count(place, chain, -1);
    this.#owners[place] = owner;
    this.#count(place, chain, 1);
  }

  remove(place: number): void {
    const chain = this.#chain(this.at(place));
    this.#count(place, chain, -1);
    if (this.#heads[chain] === place) {
      this.#heads[chain] = this.#next[place]!;
    } else {
      let before = this.#heads[chain]!;
      while (this.#next[before] !== place) before = this.#next[before]!;
      this.#next[before] = this.#next[place]!;
    }
    this.#next[place] = this.#free;
    this.#free = place;
  }

  /** The places of an owner's flows, of one bucket or of all. The table must not change meanwhile. */
  *places(owner: number, bucket?: number): Generator<number> {
    if (this.count(owner) === 0) return;
    const first = bucket === undefined ? 0 : bucket * CHAINS;
    const end = bucket === undefined ? this.#heads.length : first + CHAINS;
    for (let chain = first; chain < end; chain++) {
      for (let i = this.#heads[chain]!; i !== NONE; i = this.#next[i]!) {
        if (this.#owners[i] === owner) yield i;
      }
    }
  }

  /** The sums of an owner's flows, of the buckets that have any. */
  sums(owner: number): BucketSum[] {
    const found: BucketSum[] = [];
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      const count = this.#counts[owner * BUCKETS + bucket]!;
      if (count > 0) found.push({ bucket, count, sum: this.#sums[owner * BUCKETS + bucket]! });
    }
    return found;
  }

  #chain(record: Buffer): number {
    return hashOf(record, 0, this.#keySize, KEY_SEED) >>> 16;
  }

  #isAt(place: number, key: Buffer): boolean {
    const start = (place % CHUNK) * this.#recordSize;
    const chunk = this.#chunks[Math.floor(place / CHUNK)]!;
    return chunk.compare(key, 0, this.#keySize, start, start + this.#keySize) === 0;
  }

  #count(place: number, chain: number, change: 1 | -1): void {
    const owner = this.#owners[place]!;
    const at = owner * BUCKETS + Math.floor(chain / CHAINS);
    const record = this.at(place);
    const key = hashOf(record, 0, this.#keySize, SUM_SEED);
    // Mark and state, and between them the timeout.
    const mark = hashOf(record, this.#keySize, this.#keySize + 4, key);
    const hash = hashOf(record, this.#keySize + 8, this.#recordSize, mark);
    this.#counts[at]! += change;
    this.#sums[at] = this.#sums[at]! + change * hash;
    this.#totals[owner]! += change;
  }

  #allocate(): number {
    if (this.#free !== NONE) {
      const place = this.#free;
      this.#free = this.#next[place]!;
      return place;
    }
    if (this.#used === this.capacity) return NONE;
    if (this.#used === this.#next.length) this.#grow();
    return this.#used++;
  }

  #grow(): void {
    this.#chunks.push(Buffer.alloc(CHUNK * this.#recordSize));
    const next = new Int32Array(this.#next.length + CHUNK);
    const owners = new Uint8Array(next.length);
    next.set(this.#next);
    owners.set(this.#owners);
    this.#next = next;
    this.#owners = owners;
    const generations = new Uint8Array(next.length);
    generations.set(this.#generations);
    this.#generations = generations;
  }
}
