/**
 * Keeps the thread of the translation log running: starts it, restarts it with backoff when it dies, ends it after it
 * has handed over what it had, and matches its answers to requests. A thread that hangs costs a request its time limit,
 * and the end its own; nothing else waits for it.
 */
import { extname, join } from 'node:path';
import type { Lookup } from '../../nat/conntrack/lookup.ts';
import type {
  Found,
  FromWorker,
  Sources,
  ToWorker,
  WorkerOptions,
  WorkerSettings,
} from './translations-messages.ts';

/** Delay before a thread that died is started again, doubled up to the longest, ms. */
const RESTART_FIRST = 1000;
const RESTART_LONGEST = 60_000;
/** A thread that ran this long is considered healthy; reset the backoff, ms. */
const HEALTHY_AFTER = 60_000;
/** Time limits of a request and of the end of the thread, ms. */
const REQUEST_TIMEOUT = 4000;
const STOP_TIMEOUT = 1500;
/** The heap of the thread, MiB: flows are not in it. */
const RESOURCES = { maxOldGenerationSizeMb: 24, maxYoungGenerationSizeMb: 4, stackSizeMb: 1 };

/** What is needed of a `Worker`. */
export interface Thread {
  postMessage(message: ToWorker): void;
  on(event: 'message', listener: (message: FromWorker) => void): unknown;
  on(event: 'error', listener: (error: Error) => void): unknown;
  once(event: 'exit', listener: () => void): unknown;
  terminate(): Promise<unknown>;
}

export interface TranslationThreadParts {
  /** The directory of store and checkpoint. */
  directory: string;
  /** Records, snapshots and log lines of the thread. `done` acknowledges written records. */
  onMessage: (message: Exclude<FromWorker, { type: 'answer' }>, done: (records: number) => void) => void;
  /** The thread has ended, by itself or not: its figures are void. */
  onEnd: () => void;
  /** It died and is started again after that time, ms. */
  onRestart: (restartInMs: number) => void;
  onError: (error: Error) => void;
  /** Default: a worker thread. */
  fork?: (options: WorkerOptions) => Thread;
  /** Milliseconds of a monotonic clock. */
  clock?: () => number;
}

/** A request to the thread that has not been answered yet. */
type Request = { type: 'find'; lookup: Lookup } | { type: 'sources' };

export class TranslationThread {
  readonly #parts: Required<TranslationThreadParts>;
  /** Undefined while there is to be no thread. */
  #settings: WorkerSettings | undefined;
  #thread: Thread | undefined;
  #startedAt = 0;
  #backoff = RESTART_FIRST;
  #restart: NodeJS.Timeout | undefined;
  #ending: Promise<void> | undefined;
  #lastId = 0;
  readonly #pending = new Map<number, (answer?: Found | Sources) => void>();

  constructor(parts: TranslationThreadParts) {
    this.#parts = { fork: forkWorker, clock: () => performance.now(), ...parts };
  }

  /** Starts the thread, or sends it new settings. */
  configure(settings: WorkerSettings): void {
    this.#settings = settings;
    if (this.#thread === undefined) this.#start();
    else this.#thread.postMessage({ type: 'settings', settings });
  }

  /** The flows of a lookup; undefined when the thread does not answer in time. */
  find(lookup: Lookup): Promise<Found | undefined> {
    return this.#request({ type: 'find', lookup }) as Promise<Found | undefined>;
  }

  /** The busiest sources; undefined when the thread does not answer in time. */
  sources(): Promise<Sources | undefined> {
    return this.#request({ type: 'sources' }) as Promise<Sources | undefined>;
  }

  /** Ends the thread, after it has handed over what it had. One that is configured meanwhile is started then. */
  stop(): Promise<void> {
    this.#settings = undefined;
    clearTimeout(this.#restart);
    const thread = this.#thread;
    if (thread === undefined) return Promise.resolve();
    this.#ending ??= this.#end(thread);
    return this.#ending;
  }

  async #end(thread: Thread): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, STOP_TIMEOUT);
      thread.once('exit', () => {
        clearTimeout(timer);
        resolve();
      });
      thread.postMessage({ type: 'stop' });
    });
    await thread.terminate();
    this.#thread = undefined;
    this.#ending = undefined;
    this.#parts.onEnd();
    if (this.#settings !== undefined) this.#start();
  }

  #start(): void {
    clearTimeout(this.#restart);
    const { directory, fork, clock, onError } = this.#parts;
    this.#startedAt = clock();
    const thread = fork({ directory });
    this.#thread = thread;
    thread.postMessage({ type: 'settings', settings: this.#settings! });
    thread.on('message', (message) => this.#receive(thread, message));
    thread.on('error', onError);
    thread.once('exit', () => this.#onExit());
  }

  #onExit(): void {
    if (this.#ending !== undefined) return;
    const { clock, onEnd, onRestart } = this.#parts;
    this.#thread = undefined;
    onEnd();
    if (clock() - this.#startedAt > HEALTHY_AFTER) this.#backoff = RESTART_FIRST;
    onRestart(this.#backoff);
    this.#restart = setTimeout(() => this.#start(), this.#backoff);
    this.#backoff = Math.min(RESTART_LONGEST, this.#backoff * 2);
  }

  #receive(thread: Thread, message: FromWorker): void {
    if (message.type === 'answer') this.#pending.get(message.id)?.(message.answer);
    else this.#parts.onMessage(message, (records) => thread.postMessage({ type: 'written', records }));
  }

  #request(request: Request): Promise<Found | Sources | undefined> {
    const id = ++this.#lastId;
    return new Promise((resolve) => {
      const finish = (answer?: Found | Sources): void => {
        clearTimeout(timer);
        this.#pending.delete(id);
        resolve(answer);
      };
      const timer = setTimeout(finish, REQUEST_TIMEOUT);
      this.#pending.set(id, finish);
      this.#thread?.postMessage({ ...request, id });
    });
  }
}

/** The worker beside this file, in TypeScript or compiled. */
function forkWorker(options: WorkerOptions): Thread {
  const file = join(import.meta.dirname, `translations-worker${extname(import.meta.filename)}`);
  // Loaded late: most gateways have no translation log.
  const { Worker } = process.getBuiltinModule('node:worker_threads');
  return new Worker(file, { workerData: options, resourceLimits: RESOURCES });
}
