/**
 * What our rules have dropped, by rule and family. The kernel counts; it begins anew when somebody empties the
 * chain, and so does what is told here not: sums that never go back in the life of this process. Pure.
 */

import { FAMILIES, type Family } from '../../lib/prefix.ts';
import type { ChainCounts } from '../../nat/kernel.ts';

/** A reading serves for so long, ms: each takes a process for each family. */
const FRESH = 200;

export class Drops {
  readonly #read: () => Promise<ChainCounts>;
  readonly #clock: () => number;
  readonly #last = new Map<string, number>();
  readonly #sums = new Map<string, number>();
  #readAt = Number.NEGATIVE_INFINITY;
  #reading: Promise<void> | undefined;

  /**
   * @param read the counters as they are now; those that cannot be read are not in it
   * @param clock milliseconds of a monotonic clock
   */
  constructor(read: () => Promise<ChainCounts>, clock: () => number) {
    this.#read = read;
    this.#clock = clock;
  }

  /** Reads the counters, unless that was just done. Never rejects: what cannot be read stays. */
  refresh(): Promise<void> {
    if (this.#clock() - this.#readAt < FRESH) return Promise.resolve();
    this.#reading ??= this.#take().finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  /** What the rule of a chain has dropped in each family that was read. */
  of(chain: string): { family: Family; packets: number }[] {
    return FAMILIES.flatMap((family) => {
      const packets = this.#sums.get(`${family} ${chain}`);
      return packets === undefined ? [] : [{ family, packets }];
    });
  }

  async #take(): Promise<void> {
    try {
      for (const { family, chain, packets } of await this.#read()) {
        const key = `${family} ${chain}`;
        const last = this.#last.get(key) ?? 0;
        this.#last.set(key, packets);
        this.#sums.set(key, (this.#sums.get(key) ?? 0) + (packets >= last ? packets - last : packets));
      }
    } catch {
      // The next reading takes in what this one would have.
    }
    this.#readAt = this.#clock();
  }
}
