/**
 * Messages of a long dump in a few large buffers outside of the heap: as objects those of a whole connection tracking
 * table take more than the heap of the exchange's thread. Pure.
 */

const CHUNK = 1 << 18;

export class PackedMessages implements Iterable<Buffer> {
  readonly #chunks: { buffer: Buffer; ends: number[] }[] = [];
  #used = 0;

  /** Copies a message of at most 64 KiB. */
  add(message: Uint8Array): void {
    let last = this.#chunks.at(-1);
    if (last === undefined || this.#used + message.length > CHUNK) {
      last = { buffer: Buffer.allocUnsafeSlow(CHUNK), ends: [] };
      this.#chunks.push(last);
      this.#used = 0;
    }
    last.buffer.set(message, this.#used);
    this.#used += message.length;
    last.ends.push(this.#used);
  }

  /** The messages in their order, as views. */
  *[Symbol.iterator](): Generator<Buffer> {
    for (const { buffer, ends } of this.#chunks) {
      let start = 0;
      for (const end of ends) {
        yield buffer.subarray(start, end);
        start = end;
      }
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
