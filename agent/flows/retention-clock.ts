/**
 * The clock for the age of stored data. The wall clock may be set, by days and by mistake, and back again: that must
 * not expire recent data. So age is measured with the monotonic clock, which continues over restarts of the process
 * while the machine is up; a file in the state directory has its offset to the wall clock at the first use.
 *
 * After a step ahead data is kept longer than necessary, never shorter.
 */
import { join } from 'node:path';
import { bootId, uptime } from '../../lib/clock.ts';
import { readState, replaceState } from '../../lib/files.ts';

/** Octets. */
const MAX_SIZE = 1000;
/** Smaller steps of the wall clock are not reported, ms. */
const MIN_STEP = 60_000;

/** What the file has of this boot; undefined when there is nothing that can be used. */
function savedOffset(file: string, boot: string): number | undefined {
  try {
    const saved = JSON.parse(`${readState(file, MAX_SIZE) ?? ''}`) as { boot?: unknown; offset?: unknown };
    return saved.boot === boot && Number.isFinite(saved.offset) ? (saved.offset as number) : undefined;
  } catch {
    return undefined;
  }
}

export class RetentionClock {
  /** What the wall clock was ahead of the monotonic one when it was believed, ms. */
  readonly #offset: number;
  readonly #wall: () => number;
  readonly #monotonic: () => number;
  #reported = 0;

  /** Reads the file `clock.json` of the state directory, or makes it. */
  constructor(stateDir: string, { wall = Date.now, monotonic = uptime, boot = bootId() } = {}) {
    this.#wall = wall;
    this.#monotonic = monotonic;
    const file = join(stateDir, 'clock.json');
    const known = savedOffset(file, boot);
    this.#offset = known ?? wall() - monotonic();
    if (known === undefined) {
      try {
        replaceState(file, [JSON.stringify({ boot, offset: this.#offset })]);
      } catch {
        // Without the file the clock is valid for the life of this process.
      }
    }
    this.#reported = this.#ahead();
  }

  /** Now, to compute ages; Unix time in ms unless the wall clock is set. */
  now(): number {
    // After a step back new data has earlier times.
    return Math.min(this.#wall(), this.#monotonic() + this.#offset);
  }

  /** By how much the wall clock was set since the last call, seconds; undefined when it was not. */
  stepped(): number | undefined {
    const ahead = this.#ahead();
    const step = ahead - this.#reported;
    if (Math.abs(step) < MIN_STEP) return undefined;
    this.#reported = ahead;
    return Math.round(step / 1000);
  }

  #ahead(): number {
    return this.#wall() - this.#monotonic() - this.#offset;
  }
}
