/**
 * The clock by which what is kept grows old. The wall clock may be set, by days and by mistake, and back again: that must
 * not expire what was kept a moment ago. So age is told by the monotonic clock, which goes on over restarts of the process
 * as long as the machine is up; a file in the state directory has what it is behind the wall clock of its first use.
 *
 * After a step ahead things are kept longer than they would have to, never shorter.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { readState, replaceState } from '../../lib/files.ts';

/** Octets. */
const MAX_SIZE = 1000;
/** A smaller step of the wall clock is not told, ms. */
const TOLD = 60_000;

/** The monotonic clock, ms since the machine started. */
const uptime = (): number => Number(process.hrtime.bigint() / 1000n) / 1000;
const bootOf = (): string => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();

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
  #told = 0;

  /** Reads the file `clock.json` of the state directory, or makes it. */
  constructor(stateDir: string, { wall = Date.now, monotonic = uptime, boot = bootOf() } = {}) {
    this.#wall = wall;
    this.#monotonic = monotonic;
    const file = join(stateDir, 'clock.json');
    const known = savedOffset(file, boot);
    this.#offset = known ?? wall() - monotonic();
    if (known === undefined) {
      try {
        replaceState(file, [JSON.stringify({ boot, offset: this.#offset })]);
      } catch {
        // Without the file it is good for as long as this process lives.
      }
    }
    this.#told = this.#ahead();
  }

  /** Now, for telling what is too old; Unix time in ms as long as nobody sets the wall clock. */
  now(): number {
    // After a step back what is kept from then on has earlier times.
    return Math.min(this.#wall(), this.#monotonic() + this.#offset);
  }

  /** By how much the wall clock was set since the last call, seconds; undefined when it was not. */
  stepped(): number | undefined {
    const ahead = this.#ahead();
    const step = ahead - this.#told;
    if (Math.abs(step) < TOLD) return undefined;
    this.#told = ahead;
    return Math.round(step / 1000);
  }

  #ahead(): number {
    return this.#wall() - this.#monotonic() - this.#offset;
  }
}
