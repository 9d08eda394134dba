/**
 * The reconcile loop: one run at a time, scheduled by cadence.ts. The only owner of its timer.
 */
import { type Clock, systemClock, type Timer } from '../lib/clock.ts';
import {
  type Cadence,
  createCadence,
  ended,
  nextRun,
  type RunResult,
  request,
  started,
  type Trigger,
} from './cadence.ts';

export interface LoopParts {
  /** The longest time between two runs, ms. */
  resync: number;
  /** One run. It handles its own failures; one that rejects counts as failed. */
  run(trigger: Trigger): Promise<RunResult>;
  /** Called after a run when repairs come faster than they are allowed. */
  onContention(): void;
  /** Called after a run that rejected. */
  onError(error: unknown): void;
  /** Default: the system's. */
  clock?: Clock;
}

export class Loop {
  readonly #parts: LoopParts;
  readonly #clock: Clock;
  readonly #cadence: Cadence;
  #timer: Timer | undefined;
  #current: Promise<void> = Promise.resolve();
  #stopped = false;
  /** A run or other work is in flight. */
  #busy = false;
  /** Work that waits for its turn between two runs. */
  readonly #between: (() => Promise<void>)[] = [];
  /** Callers that wait for the next run to end. */
  #waiting: (() => void)[] = [];

  constructor(parts: LoopParts) {
    this.#parts = parts;
    this.#clock = parts.clock ?? systemClock;
    this.#cadence = createCadence(parts.resync, this.#clock.now());
  }

  /** Asks for a run. */
  request(trigger: Trigger): void {
    request(this.#cadence, trigger, this.#clock.now());
    this.#arm();
  }

  /** Asks for a run and resolves when one that started after this call has ended. */
  complete(trigger: Trigger): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push(resolve);
    this.request(trigger);
    return promise;
  }

  /** Does work while no run is in flight, and starts none meanwhile. Runs that are due go first. */
  between<T>(work: () => Promise<T>): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    this.#between.push(() => work().then(resolve, reject));
    this.#arm();
    return promise;
  }

  /** Ends the loop; resolves when the run in flight has ended. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#timer?.cancel();
    await this.#current;
  }

  #arm(): void {
    this.#timer?.cancel();
    if (this.#stopped || this.#busy) return;
    const next = nextRun(this.#cadence);
    const isDue = next !== undefined && next.at <= this.#clock.now();
    const work = isDue ? undefined : this.#between.shift();
    if (work !== undefined) {
      this.#current = this.#alone(work);
      return;
    }
    if (next === undefined) return;
    this.#timer = this.#clock.after(Math.max(0, next.at - this.#clock.now()), () => {
      this.#current = this.#alone(() => this.#go(next.trigger));
    });
  }

  /** Rejects only when the work does. */
  async #alone(work: () => Promise<void>): Promise<void> {
    this.#busy = true;
    await work();
    this.#busy = false;
    this.#arm();
  }

  async #go(trigger: Trigger): Promise<void> {
    started(this.#cadence);
    const waiting = this.#waiting;
    this.#waiting = [];
    const result = await this.#parts.run(trigger).catch((error: unknown) => {
      this.#parts.onError(error);
      return { ok: false, repaired: false };
    });
    if (ended(this.#cadence, result, this.#clock.now())) this.#parts.onContention();
    for (const resolve of waiting) resolve();
  }
}
