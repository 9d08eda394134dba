/**
 * The flows of a long dump as records in a few large buffers outside of the heap: as objects those of a whole connection
 * tracking table take more than the heap of the exchange's thread, and as messages of the kernel five times as much. Pure.
 */

/** Records in one buffer. */
const CHUNK = 4096;

export class PackedRecords implements Iterable<Buffer> {
  readonly #size: number;
  readonly #chunks: Buffer[] = [];
  #count = 0;

  /** @param size octets of each record */
  constructor(size: number) {
    this.#size = size;
  }

  /** Copies a record. */
  add(record: Uint8Array): void {
    const place = this.#count++ % CHUNK;
    if (place === 0) this.#chunks.push(Buffer.allocUnsafeSlow(CHUNK * this.#size));
    this.#chunks.at(-1)!.set(record, place * this.#size);
  }

  /** The records in their order, as views. */
  *[Symbol.iterator](): Generator<Buffer> {
    for (let i = 0; i < this.#count; i++) {
      const start = (i % CHUNK) * this.#size;
      yield this.#chunks[Math.floor(i / CHUNK)]!.subarray(start, start + this.#size);
    }
  }
}

/** The values in arrays of at most `size`. */
export function* inBatches<T>(values: Iterable<T>, size: number): Generator<T[]> {
  let batch: T[] = [];
  for (const value of values) {
    batch.push(value);
    if (batch.length < size) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}
