/**
 * The translation log, from the agent's main thread: starts the thread that reads conntrack while the policy asks
 * for it (translations-worker.ts), again when it dies, prints its records, hands its lookups on and keeps its
 * figures for the metrics.
 */
import { extname, join } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { ControlReply } from '../../lib/control/server.ts';
import { readState, replaceState } from '../../lib/files.ts';
import { parseJson } from '../../lib/json.ts';
import type { Logger } from '../../lib/log.ts';
import { FAMILIES, type Family } from '../../lib/prefix.ts';
import type { PortStatus } from '../../nat/conntrack/ports.ts';
import { addressText, type Identity } from '../../nat/conntrack/records.ts';
import type { EgressRule, Policy } from '../policy/model.ts';
import { logCoverage } from './log-coverage.ts';
import {
  HISTORY_BOUNDS,
  type HistoryEntry,
  type PolicyBlocks,
  PortHistory,
  parseHistory,
} from './port-history.ts';
import { RetentionClock } from './retention.ts';
import { type PolicyTraffic, TrafficMeter } from './traffic.ts';
import { RecordOutput } from './translations-output.ts';
import { LookupError, parseLookup, translationsDocument } from './translations-query.ts';
import type {
  Found,
  FromWorker,
  Snapshot,
  Sources,
  ToWorker,
  WorkerOptions,
  WorkerSettings,
} from './translations-worker.ts';

/** Delay before a thread that died is started again, doubled up to the longest, ms. */
const RESTART_FIRST = 1000;
const RESTART_LONGEST = 60_000;
/** A thread that lived so long was well: the delay starts over, ms. */
const RESTART_FORGIVEN = 60_000;
/** How long a lookup, and the end of the thread, may take, ms. */
const FIND_TIMEOUT = 4000;
const STOP_TIMEOUT = 1500;
/** The heap of the thread, MiB: flows are not in it. */
const RESOURCES = { maxOldGenerationSizeMb: 24, maxYoungGenerationSizeMb: 4, stackSizeMb: 1 };
/** Which port blocks were in force when, in the state directory; the version changes with what is in it. */
const HISTORY_FILE = 'port-blocks.json';
const HISTORY_VERSION = 1;
/** The priority of a rule that names none. */
const DEFAULT_PRIORITY = 1000;

/** The answer to `GET /v1/sources`. */
export interface SourcesDocument {
  schemaVersion: 'v1';
  /** Those that carried most octets and those with most connections, of what lives now. */
  sources: { address: string; connections: number; bytes: { out: number; in: number } }[];
  /** How many there are. */
  total: number;
}

export interface TranslationsOptions {
  /** Store and checkpoint are in `translations/` below it. */
  stateDir: string;
  /** Where records go; absent: stdout. */
  file?: string;
  pod: string;
  node: string;
  logger: Logger;
}

export class Translations {
  readonly #options: TranslationsOptions;
  readonly #output: RecordOutput;
  #gateway = { namespace: '', name: '' };
  /** Undefined while the policy asks for no log. */
  #settings: WorkerSettings | undefined;
  #worker: Worker | undefined;
  #startedAt = 0;
  #restartDelay = RESTART_FIRST;
  #restart: NodeJS.Timeout | undefined;
  #snapshot: Snapshot | undefined;
  readonly #meter = new TrafficMeter();
  #lastLookup = 0;
  readonly #lookups = new Map<number, (answer: Found | Sources) => void>();
  #ending: Promise<void> | undefined;
  readonly #portHistory: PortHistory;
  readonly #retention: RetentionClock;

  constructor(options: TranslationsOptions) {
    this.#options = options;
    this.#retention = new RetentionClock(options.stateDir);
    let entries: HistoryEntry[] = [];
    try {
      entries = readHistory(join(options.stateDir, HISTORY_FILE));
    } catch (error) {
      const reason = (error as Error).message;
      options.logger.warn({ reason }, 'the port blocks that were in force are left aside; begun anew');
    }
    this.#portHistory = new PortHistory(entries);
    this.#output = new RecordOutput(options);
  }

  /** Takes the policy that is in force. */
  onPolicy(policy: Policy): void {
    const slash = policy.name.indexOf('/');
    this.#gateway = {
      namespace: policy.name.slice(0, Math.max(0, slash)),
      name: policy.name.slice(slash + 1),
    };
    const { translationLog: log, rules } = policy;
    if (log === undefined) {
      this.#settings = undefined;
      this.#end().catch((error: Error) => this.#fail(error));
      return;
    }
    const settings: WorkerSettings = { log, rules: inOrder(rules), identity: this.identity };
    if (JSON.stringify(settings) === JSON.stringify(this.#settings)) return;
    this.#settings = settings;
    if (this.#worker === undefined) this.#start();
    else this.#send({ type: 'settings', settings });
  }

  /** These port blocks are in force; a family that is not named keeps those that it has. */
  onPortBlocks(blocks: Partial<Record<Family, PolicyBlocks[]>>): void {
    const news = FAMILIES.filter((family) => {
      const policies = blocks[family];
      if (policies === undefined) return false;
      return this.#portHistory.take(family, policies, Date.now(), this.#retention.now());
    });
    if (news.length === 0) return;
    const { stateDir, logger } = this.#options;
    try {
      writeHistory(join(stateDir, HISTORY_FILE), this.#portHistory.entries);
    } catch (error) {
      const reason = (error as Error).message;
      logger.error(
        { reason },
        'cannot save which port blocks are in force: a restart will forget earlier ones',
      );
    }
  }

  /** Whose records and metrics these are. */
  get identity(): Identity {
    const { pod, node } = this.#options;
    return { ...this.#gateway, pod, node };
  }

  /** Whether the policy asks for a log. */
  get enabled(): boolean {
    return this.#settings !== undefined;
  }

  /** What each policy's flows carry; undefined while there is no log, or none yet. */
  get traffic(): readonly PolicyTraffic[] | undefined {
    return this.#meter.traffic;
  }

  /** The ports that translations hold; undefined likewise. */
  get ports(): readonly PortStatus[] | undefined {
    return this.#snapshot?.ports;
  }

  /** Answers `GET /v1/translations`. */
  async find(query: URLSearchParams): Promise<ControlReply> {
    try {
      const lookup = parseLookup(Object.fromEntries(query));
      const computed = this.#portHistory.answers(lookup);
      if (this.#settings === undefined && this.#portHistory.any) {
        const nothing = { flows: [], more: false, gaps: [] };
        const coverage = logCoverage(false, undefined, lookup);
        return { status: 200, body: translationsDocument(nothing, coverage, Date.now(), computed) };
      }
      return await this.#answer<Found>(
        (id) => ({ type: 'find', id, lookup }),
        (found) => translationsDocument(found, logCoverage(true, found.since, lookup), Date.now(), computed),
      );
    } catch (error) {
      if (!(error instanceof LookupError)) throw error;
      return { status: 400, body: `${error.message}\n` };
    }
  }

  /** Answers `GET /v1/sources`. */
  sources(): Promise<ControlReply> {
    return this.#answer<Sources>(
      (id) => ({ type: 'sources', id }),
      ({ sources, total }): SourcesDocument => ({
        schemaVersion: 'v1',
        sources: sources.map(({ address, flows, out, in: inward }) => ({
          address: addressText(address),
          connections: flows,
          bytes: { out, in: inward },
        })),
        total,
      }),
    );
  }

  /** The figures for the metrics; undefined while there is no log, or none yet. */
  get snapshot(): Snapshot | undefined {
    if (this.#snapshot === undefined) return undefined;
    const { lost } = this.#snapshot;
    return { ...this.#snapshot, lost: { ...lost, write_error: this.#output.lost } };
  }

  /** Ends the thread, and resolves when what it had has been written. */
  async stop(): Promise<void> {
    this.#settings = undefined;
    await this.#end();
    await this.#output.close();
  }

  #start(): void {
    clearTimeout(this.#restart);
    this.#startedAt = performance.now();
    const file = join(import.meta.dirname, `translations-worker${extname(import.meta.filename)}`);
    const options: WorkerOptions = { directory: join(this.#options.stateDir, 'translations') };
    const worker = new Worker(file, { workerData: options, resourceLimits: RESOURCES });
    this.#worker = worker;
    this.#send({ type: 'settings', settings: this.#settings! });
    worker.on('message', (message: FromWorker) => this.#receive(worker, message));
    worker.on('error', (error) => this.#fail(error));
    worker.once('exit', () => this.#exited());
  }

  #exited(): void {
    if (this.#ending !== undefined) return;
    this.#worker = undefined;
    this.#forget();
    if (performance.now() - this.#startedAt > RESTART_FORGIVEN) this.#restartDelay = RESTART_FIRST;
    this.#options.logger.error({ restartInMs: this.#restartDelay }, 'the translation log ended by itself');
    this.#restart = setTimeout(() => this.#start(), this.#restartDelay);
    this.#restartDelay = Math.min(RESTART_LONGEST, this.#restartDelay * 2);
  }

  #receive(worker: Worker, message: FromWorker): void {
    switch (message.type) {
      case 'records':
        this.#output
          .write(message.lines)
          .then(() => {
            worker.postMessage({ type: 'written', records: message.lines.length } satisfies ToWorker);
          })
          .catch((error: Error) => this.#fail(error));
        break;
      case 'snapshot':
        this.#snapshot = message.snapshot;
        this.#meter.take(message.snapshot.totals, message.snapshot.open, performance.now());
        break;
      case 'answer':
        this.#lookups.get(message.id)?.(message.answer);
        break;
      case 'note':
        this.#options.logger[message.level](message.fields, message.message);
        break;
      default:
        message satisfies never;
    }
  }

  #fail(error: Error): void {
    this.#options.logger.error({ err: error }, 'translation log');
  }

  /** The figures of a thread that has ended. */
  #forget(): void {
    this.#snapshot = undefined;
    this.#meter.clear();
  }

  #send(message: ToWorker): void {
    this.#worker?.postMessage(message);
  }

  /** What the thread answers to a message, as a document. */
  async #answer<T extends Found | Sources>(
    make: (id: number) => ToWorker,
    document: (answer: T) => object,
  ): Promise<ControlReply> {
    if (this.#settings === undefined) {
      return { status: 409, body: 'the policy has no translation log: spec.translationLog.enabled\n' };
    }
    const id = ++this.#lastLookup;
    const answer = await new Promise<T | undefined>((resolve) => {
      const finish = (answer?: Found | Sources) => {
        clearTimeout(timer);
        this.#lookups.delete(id);
        resolve(answer as T | undefined);
      };
      const timer = setTimeout(finish, FIND_TIMEOUT);
      this.#lookups.set(id, finish);
      this.#send(make(id));
    });
    if (answer === undefined) return { status: 503, body: 'the translation log does not answer\n' };
    return { status: 200, body: document(answer) };
  }

  /** Ends the thread, after it has handed on what it had. */
  #end(): Promise<void> {
    clearTimeout(this.#restart);
    const worker = this.#worker;
    if (worker === undefined) return Promise.resolve();
    this.#ending ??= new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, STOP_TIMEOUT);
      worker.once('exit', () => {
        clearTimeout(timer);
        resolve();
      });
      this.#send({ type: 'stop' });
    }).then(async () => {
      await worker.terminate();
      this.#worker = undefined;
      this.#ending = undefined;
      this.#forget();
      if (this.#settings !== undefined) this.#start();
    });
    return this.#ending;
  }
}

/** The port blocks in force and those before; none without a file. Throws when it is not what it should be. */
function readHistory(file: string): HistoryEntry[] {
  const content = readState(file, HISTORY_BOUNDS.octets);
  if (content === undefined) return [];
  const damaged = new Error(`${file} is damaged`);
  let value: { version?: unknown; entries?: unknown } | null;
  try {
    value = parseJson(content, HISTORY_BOUNDS.values) as typeof value;
  } catch {
    throw damaged;
  }
  if (Number.isInteger(value?.version) && value?.version !== HISTORY_VERSION) return [];
  const entries = parseHistory(value?.entries);
  if (entries === undefined) throw damaged;
  return entries;
}

function writeHistory(file: string, entries: readonly HistoryEntry[]): void {
  replaceState(file, [JSON.stringify({ version: HISTORY_VERSION, entries })]);
}

/** The rules in the order in which they decide. */
const inOrder = (rules: readonly EgressRule[]): EgressRule[] =>
  rules.toSorted((a, b) => (a.priority ?? DEFAULT_PRIORITY) - (b.priority ?? DEFAULT_PRIORITY));
