/**
 * The kernel's counters of each policy (nat/counters) as the agent's main process follows them: it reads them, keeps the
 * totals in the state directory, and hands them to metrics and status.
 *
 * What was handed out is on disk before, so that totals do not go back when this process dies. When another program deletes
 * the table, what it counted since the last reading is lost: a second of traffic, up to ten where reading takes long.
 */
import { join } from 'node:path';
import { type Clock, type Timer, uptime } from '../../lib/clock.ts';
import type { Logger } from '../../lib/log.ts';
import { LogOnChange } from '../../lib/log-on-change.ts';
import type { Family } from '../../lib/prefix.ts';
import type { PolicyNumbers } from '../../nat/conntrack/flow.ts';
import type { PolicyVolume, Treatment } from '../../nat/conntrack/totals.ts';
import type { Reading } from '../../nat/counters/kernel.ts';
import type { CounterIntent } from '../../nat/counters/table.ts';
import { CounterTotals, type LogTotals } from '../../nat/counters/totals.ts';
import { readPolicyCounters, writePolicyCounters } from './policy-counters-file.ts';
import type { Volumes } from './traffic.ts';

/** The time between two readings, ms. */
const PERIOD = 1000;
/** Reading takes at most one part in so many of the time, but happens at least this often, ms. */
const SHARE = 200;
const LONGEST_PERIOD = 10_000;

export interface PolicyCountersParts {
  stateDir: string;
  logger: Logger;
  clock: Clock;
  read(): Promise<Reading[]>;
  /** Called after each reading with the totals. `at`: milliseconds of the clock. */
  onReading?(volumes: Volumes, at: number): void;
  /** Called when the log is followed from then on. */
  onFollowed?(): void;
  /** The clock of the log, ms. Default: since the machine started. */
  uptime?(): number;
}

export class PolicyCounters {
  readonly #parts: PolicyCountersParts;
  readonly #totals = new CounterTotals();
  readonly #file: string;
  readonly #failures = new LogOnChange();
  #timer: Timer | undefined;
  /** The reading under way, or the last one; and the one after it. */
  #reading = Promise.resolve();
  #next: Promise<void> | undefined;
  /** The kernel has the tables; without them nothing is known. */
  #counting = false;
  #stopped = false;
  /** No reading by the timer before; ms of the clock. */
  #pausedUntil = 0;
  #intents: readonly CounterIntent[] | undefined;
  /** The policy has a fast path. */
  #fastPath = false;
  /** The totals of the log that came since the last reading. */
  #log: LogTotals | undefined;

  constructor(parts: PolicyCountersParts) {
    this.#parts = parts;
    this.#file = join(parts.stateDir, 'policy-counters.json');
    try {
      const saved = readPolicyCounters(this.#file);
      if (saved !== undefined) this.#totals.load(saved);
    } catch (error) {
      const { message: reason } = error as Error;
      parts.logger.warn(
        { reason },
        'ignoring the saved counters of policies, going on from those of the kernel',
      );
    }
  }

  /** Follows the plan. The families in `leftAlone` are not in it: they lack a link or an address. */
  configure(intents: readonly CounterIntent[], leftAlone: readonly Family[] = []): void {
    if (intents !== this.#intents) this.#totals.configure(intents, leftAlone);
    this.#intents = intents;
    if (this.#timer !== undefined || this.#stopped) return;
    this.#timer = this.#parts.clock.every(PERIOD, () => this.#tick());
    this.#tick();
  }

  /**
   * Whether the policy has a fast path: from then on the log is followed. Also without one again, or what passes between its
   * last reading and that of the kernel's counters would be missing.
   */
  followFastPath(wanted: boolean): void {
    this.#fastPath = wanted;
  }

  /** Packets of the fast path are counted. */
  get countsFastPath(): boolean {
    return this.#totals.followsLog;
  }

  /** Takes the totals of the translation log, as of a reading of the table that began then. */
  takeLog(began: LogTotals['began'], volumes: () => LogTotals['volumes']): void {
    if (this.#followsLog) this.#log = { began, volumes: volumes() };
  }

  /** All packets so far, of both families and directions. */
  get packets(): number {
    const { snat, forward } = this.#totals.all;
    return [...snat, ...forward].reduce((sum, { packets }) => sum + packets.out + packets.in, 0);
  }

  /** The policies that marks of connections have stood for, for the log. */
  get marked(): PolicyNumbers {
    return this.#totals.marked;
  }

  get #followsLog(): boolean {
    return this.#fastPath || this.#totals.followsLog;
  }

  get #uptime(): () => number {
    return this.#parts.uptime ?? uptime;
  }

  /** Reads the counters as they are now or later. Requests at one time, as those of a scrape, have one reading. */
  refresh(): Promise<void> {
    this.#next ??= this.#reading.then(() => {
      this.#next = undefined;
      this.#reading = this.#read();
      return this.#reading;
    });
    return this.#next;
  }

  /** The totals by policy and family; undefined where the kernel does not count. */
  volumes(treatment: Treatment): PolicyVolume[] | undefined {
    return this.#counting ? this.#totals.volumes(treatment) : undefined;
  }

  /** Reads a last time, and ends. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#timer?.cancel();
    await this.refresh();
  }

  /** Once a second. */
  #tick(): void {
    const { clock } = this.#parts;
    const began = clock.now();
    if (began < this.#pausedUntil) return;
    this.#pausedUntil = Number.POSITIVE_INFINITY;
    void this.refresh().then(() => {
      this.#pausedUntil = began + Math.min(LONGEST_PERIOD, SHARE * (clock.now() - began));
    });
  }

  async #read(): Promise<void> {
    const { clock, read, onReading, onFollowed, logger } = this.#parts;
    const followed = this.#totals.followsLog;
    try {
      // What is in it happened before the reading.
      const log = this.#log;
      const readings = await read();
      const at = clock.now();
      this.#log = this.#log === log ? undefined : this.#log;
      this.#counting ||= readings.length > 0;
      if (this.#totals.add(readings, this.#uptime(), this.#followsLog, log))
        writePolicyCounters(this.#file, this.#totals.save());
      this.#failures.ended();
      if (this.#counting) onReading?.(this.#totals.all, at);
      if (!followed && this.#totals.followsLog) onFollowed?.();
    } catch (error) {
      const { message: reason } = error as Error;
      if (this.#failures.isNew(reason))
        logger.warn({ reason }, 'cannot read or save the counters of policies');
    }
  }
}
