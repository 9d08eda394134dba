/**
 * Packets dropped by rules of the agent, by chain and family. The kernel's counters restart at 0 when a chain is flushed;
 * these sums never go back in the life of this process. Pure.
 */

import { FAMILIES, type Family } from '../../lib/prefix.ts';
import type { ChainCounts } from '../../nat/kernel.ts';

/** A reading is reused for this time, ms: each runs a process per family. */
const FRESH = 200;

export class Drops {
  readonly #read: () => Promise<ChainCounts>;
  readonly #clock: () => number;
  readonly #last = new Map<string, number>();
  readonly #sums = new Map<string, number>();
  #readAt = Number.NEGATIVE_INFINITY;
  #reading: Promise<void> | undefined;

  /**
   * @param read the current counters; without those that cannot be read
   * @param clock milliseconds of a monotonic clock
   */
  constructor(read: () => Promise<ChainCounts>, clock: () => number) {
    this.#read = read;
    this.#clock = clock;
  }

  /** Reads the counters unless the last reading is fresh. Never rejects: on an error the sums stay. */
  refresh(): Promise<void> {
    if (this.#clock() - this.#readAt < FRESH) return Promise.resolve();
    this.#reading ??= this.#add().finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  /** Packets dropped by the rule of a chain, in each family that was read. */
  of(chain: string): { family: Family; packets: number }[] {
    return FAMILIES.flatMap((family) => {
      const packets = this.#sums.get(`${family} ${chain}`);
      return packets === undefined ? [] : [{ family, packets }];
    });
  }

  async #add(): Promise<void> {
    try {
      for (const { family, table, chain, packets } of await this.#read()) {
        const key = `${family} ${chain}`;
        const counter = `${table} ${key}`;
        const last = this.#last.get(counter) ?? 0;
        this.#last.set(counter, packets);
        this.#sums.set(key, (this.#sums.get(key) ?? 0) + (packets >= last ? packets - last : packets));
      }
    } catch {
      // The next reading includes the difference.
    }
    this.#readAt = this.#clock();
  }
}
