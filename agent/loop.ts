/**
 * The reconcile loop: one run at a time, started when cadence.ts says so. The only owner of its timer.
 */
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

/** One run. It handles its own failures: what it returns is all the loop needs. One that rejects has failed. */
export type Run = (trigger: Trigger) => Promise<RunResult>;

export class Loop {
  readonly #cadence: Cadence;
  readonly #run: Run;
  readonly #contended: () => void;
  readonly #failed: (error: unknown) => void;
  #timer: NodeJS.Timeout | undefined;
  #current: Promise<void> = Promise.resolve();
  #stopped = false;
  /** A run or something else is in flight. */
  #busy = false;
  /** What waits for its turn between two runs. */
  readonly #between: (() => Promise<void>)[] = [];
  /** Who waits for the next run that starts. */
  #waiting: (() => void)[] = [];

  /**
   * `contended` is called after a run that found repairs to come faster than they are allowed, `failed` after one
   * that rejected.
   */
  constructor(resync: number, run: Run, contended: () => void, failed: (error: unknown) => void) {
    this.#cadence = createCadence(resync, performance.now());
    this.#run = run;
    this.#contended = contended;
    this.#failed = failed;
  }

  /** Asks for a run. */
  request(trigger: Trigger): void {
    request(this.#cadence, trigger, performance.now());
    this.#arm();
  }

  /** Asks for a run and resolves when one that started after this call has ended. */
  complete(trigger: Trigger): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push(resolve);
    this.request(trigger);
    return promise;
  }

  /** Does something while no run is in flight, and starts none meanwhile. Runs that are due go first. */
  between<T>(work: () => Promise<T>): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    this.#between.push(() => work().then(resolve, reject));
    this.#arm();
    return promise;
  }

  /** No more runs; resolves when the one in flight has ended. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#current;
  }

  #arm(): void {
    clearTimeout(this.#timer);
    if (this.#stopped || this.#busy) return;
    const next = nextRun(this.#cadence);
    const isDue = next !== undefined && next.at <= performance.now();
    const work = isDue ? undefined : this.#between.shift();
    if (work !== undefined) {
      this.#current = this.#alone(work);
      return;
    }
    if (next === undefined) return;
    this.#timer = setTimeout(
      () => {
        this.#current = this.#alone(() => this.#go(next.trigger));
      },
      Math.max(0, next.at - performance.now()),
    );
  }

  /** Never rejects, as what it does does not. */
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
    const result = await this.#run(trigger).catch((error: unknown) => {
      this.#failed(error);
      return { ok: false, repaired: false };
    });
    if (ended(this.#cadence, result, performance.now())) this.#contended();
    for (const resolve of waiting) resolve();
  }
}
