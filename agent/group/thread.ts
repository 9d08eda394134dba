/**
 * The exchange as the agent sees it: a thread that gets the settings, the state of BFD with the members and the drain,
 * and reports the view. A thread that ends by itself is started again with all of that; its replicas stay in the
 * kernel meanwhile.
 */
import { extname, join } from 'node:path';
import { getHeapStatistics, setFlagsFromString } from 'node:v8';
import type { ResourceLimits, Worker } from 'node:worker_threads';
import { close } from '../../lib/libc.ts';
import type { Log } from '../../lib/log.ts';
import type { Address, Family } from '../../lib/prefix.ts';
import type { ExchangeCounts } from './counts.ts';
import { addCounts } from './counts.ts';
import type { LookupAnswer, MemberAnswer } from './lookups.ts';
import type { FromGroup, GroupSettings, ToGroup } from './messages.ts';
import type { GroupReport } from './model.ts';

/**
 * What the thread's heap may take, MiB: less than half of the main thread's, which follows the container's memory. Tables and
 * dumps of flows are outside of it; what is left is garbage, which V8 collects when it comes close to the limit.
 */
const resources = (): ResourceLimits => ({
  maxOldGenerationSizeMb: Math.max(12, Math.floor((getHeapStatistics().heap_size_limit / 2 ** 20) * 0.45)),
  maxYoungGenerationSizeMb: 2,
});
/** Before a thread that ended by itself is started again: the first wait, and the longest, ms. */
const RESTART = { first: 1000, longest: 60_000 };
/** A thread that ran for so long starts again after the first wait, ms. */
const RESTART_FORGIVEN = 300_000;
/** How long the end of the thread is waited for, ms. */
const STOP_TIMEOUT = 3000;
/** What a lookup may take longer than the members have time, ms. */
const LOOKUP_MARGIN = 1000;

export interface GroupThreadOptions {
  log: Log;
  report(report: GroupReport): void;
  /** Answers a lookup of another member from what this gateway knows. */
  answer(query: string): Promise<LookupAnswer>;
}

export class GroupThread {
  readonly #options: GroupThreadOptions;
  readonly #paths = new Set<Address>();
  /** Families that were live when they last reported. */
  readonly #live = new Set<Family>();
  readonly #lookups = new Map<number, (answers: MemberAnswer[]) => void>();
  /** Of threads that have ended, and of the present one. */
  readonly #past = new Map<Family, ExchangeCounts>();
  readonly #present = new Map<Family, ExchangeCounts>();
  /** Sockets of the present thread that its end does not close. */
  #descriptors: readonly number[] = [];
  #settings: GroupSettings | undefined;
  #drainLimit: number | undefined;
  #worker: Worker | undefined;
  #startedAt = 0;
  #restartDelay = RESTART.first;
  #restart: NodeJS.Timeout | undefined;
  #lastLookup = 0;

  constructor(options: GroupThreadOptions) {
    this.#options = options;
  }

  /** What follows from the policy; undefined: no group. */
  async configure(settings: GroupSettings | undefined): Promise<void> {
    this.#settings = settings;
    if (settings === undefined) await this.stop();
    else if (this.#worker !== undefined) this.#send({ type: 'settings', settings });
    else this.#start();
  }

  /** BFD with a member is Up, or not. */
  setPath(member: Address, up: boolean): void {
    if (this.#paths.has(member) === up) return;
    if (up) this.#paths.add(member);
    else this.#paths.delete(member);
    this.#send({ type: 'path', member, up });
  }

  /** Hands addresses and flows over to the others within this many ms; `handed-over` reports the end for each family. */
  drain(limit: number): void {
    this.#drainLimit = limit;
    this.#send({ type: 'drain', limit });
  }

  undrain(): void {
    this.#drainLimit = undefined;
    this.#send({ type: 'undrain' });
  }

  /** Asks the members that are connected in these families; each has so long to answer, ms. */
  lookup(query: string, families: readonly Family[], timeout: number): Promise<MemberAnswer[]> {
    if (this.#worker === undefined) return Promise.resolve([]);
    const id = ++this.#lastLookup;
    return new Promise((resolve) => {
      const done = (answers: MemberAnswer[]) => {
        clearTimeout(timer);
        this.#lookups.delete(id);
        resolve(answers);
      };
      const timer = setTimeout(() => done([]), timeout + LOOKUP_MARGIN);
      this.#lookups.set(id, done);
      this.#send({ type: 'lookup', id, query, families, timeout });
    });
  }

  /** The counts of a family since this process started; undefined while it has had no group. */
  counts(family: Family): ExchangeCounts | undefined {
    const [past, present] = [this.#past.get(family), this.#present.get(family)];
    return past && present ? addCounts(past, present) : (present ?? past);
  }

  /** Says that this member is gone, and ends the thread. */
  async stop(): Promise<void> {
    this.#settings = undefined;
    clearTimeout(this.#restart);
    const worker = this.#worker;
    if (worker === undefined) return;
    const exited = new Promise((resolve) => worker.once('exit', resolve));
    this.#send({ type: 'stop' });
    const timer = setTimeout(() => void worker.terminate(), STOP_TIMEOUT);
    await exited;
    clearTimeout(timer);
  }

  #start(): void {
    clearTimeout(this.#restart);
    this.#startedAt = performance.now();
    const file = join(import.meta.dirname, `group-worker${extname(import.meta.filename)}`);
    // The flag that this process was started with would be the limit of the thread, in place of the one for it.
    setFlagsFromString('--max-old-space-size=0');
    // Loaded late: most gateways are in no group.
    const { Worker } = process.getBuiltinModule('node:worker_threads');
    let worker: Worker;
    try {
      worker = new Worker(file, { name: 'group', resourceLimits: resources() });
    } catch (error) {
      // ERR_WORKER_INIT_FAILED: there is no thread to be had, or no memory for it.
      this.#options.log.error({ err: error as Error }, 'exchange of the group failed');
      this.#exited();
      return;
    }
    this.#worker = worker;
    worker.on('message', (message: FromGroup) => this.#receive(message));
    worker.on('error', (error) => this.#options.log.error({ err: error }, 'exchange of the group failed'));
    worker.once('exit', () => this.#exited());
    this.#send({ type: 'settings', settings: this.#settings! });
    for (const member of this.#paths) this.#send({ type: 'path', member, up: true });
    if (this.#drainLimit !== undefined) this.#send({ type: 'drain', limit: this.#drainLimit });
  }

  #exited(): void {
    this.#worker = undefined;
    for (const descriptor of this.#descriptors) close(descriptor);
    this.#descriptors = [];
    for (const [family, counts] of this.#present) {
      const past = this.#past.get(family);
      this.#past.set(family, past === undefined ? counts : addCounts(past, counts));
    }
    this.#present.clear();
    for (const done of this.#lookups.values()) done([]);
    if (this.#settings === undefined) return;
    this.#settings = { ...this.#settings, resumes: [...this.#live] };
    if (performance.now() - this.#startedAt > RESTART_FORGIVEN) this.#restartDelay = RESTART.first;
    this.#options.log.error({ restartInMs: this.#restartDelay }, 'exchange of the group ended, restarting');
    this.#restart = setTimeout(() => this.#start(), this.#restartDelay);
    this.#restartDelay = Math.min(RESTART.longest, this.#restartDelay * 2);
  }

  #receive(message: FromGroup): void {
    switch (message.type) {
      case 'report':
        this.#note(message.report);
        this.#options.report(message.report);
        break;
      case 'descriptors':
        this.#descriptors = message.descriptors;
        break;
      case 'counts':
        this.#present.set(message.family, message.counts);
        break;
      case 'found':
        this.#lookups.get(message.id)?.(message.answers);
        break;
      case 'question':
        this.#options
          .answer(message.query)
          .catch((error: Error): LookupAnswer => ({ status: 500, body: `${error.message}\n` }))
          .then((answer) => this.#send({ type: 'answer', id: message.id, answer }))
          .catch((error: Error) => this.#options.log.error({ err: error }, 'cannot answer a group member'));
        break;
      case 'note':
        this.#options.log[message.level](message.fields, message.message);
        break;
      default:
        message satisfies never;
    }
  }

  #note(report: GroupReport): void {
    if (report.type !== 'view') return;
    if (report.view.state === 'live') this.#live.add(report.view.family);
    else this.#live.delete(report.view.family);
  }

  #send(message: ToGroup): void {
    this.#worker?.postMessage(message);
  }
}
