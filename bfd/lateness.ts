/** The histogram of transmit lateness: how long after its deadline a periodic packet was sent. Pure. */
import type { EngineReport } from './intent.ts';

/** Upper bounds, seconds. */
const BOUNDS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1];

export class LatenessHistogram {
  readonly #buckets = BOUNDS.map(() => 0);
  #count = 0;
  #sum = 0;

  observe(seconds: number): void {
    this.#count++;
    this.#sum += seconds;
    for (let i = BOUNDS.length - 1; i >= 0 && seconds <= BOUNDS[i]!; i--) this.#buckets[i]!++;
  }

  report(): EngineReport['lateness'] {
    return { bounds: BOUNDS, buckets: [...this.#buckets], count: this.#count, sum: this.#sum };
  }
}
