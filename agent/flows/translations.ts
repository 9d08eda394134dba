/**
 * The translation log as the agent's main thread sees it: it runs while the policy asks for it, its records are
 * written, its figures go to metrics and status, and lookups are answered from it and from the history of port blocks.
 */
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import type { ControlReply } from '../../lib/control/server.ts';
import type { Logger } from '../../lib/log.ts';
import { FAMILIES, type Family } from '../../lib/prefix.ts';
import type { PolicyNumbers } from '../../nat/conntrack/flow.ts';
import type { PortStatus } from '../../nat/conntrack/ports.ts';
import { addressText, type Identity } from '../../nat/conntrack/records.ts';
import { policyVolumes } from '../../nat/conntrack/totals.ts';
import type { Total } from '../../nat/conntrack/tracker.ts';
import type { EgressRule, Policy } from '../policy/model.ts';
import { logCoverage } from './log-coverage.ts';
import { type HistoryEntry, type PolicyBlocks, PortHistory } from './port-history.ts';
import { readPortHistory, writePortHistory } from './port-history-file.ts';
import { RetentionClock } from './retention-clock.ts';
import { type PolicyTraffic, TrafficMeter, type Volumes } from './traffic.ts';
import { TranslationThread, type TranslationThreadParts } from './translation-thread.ts';
import type { FromWorker, Snapshot, Sources, WorkerSettings } from './translations-messages.ts';
import { RecordOutput } from './translations-output.ts';
import { LookupError, parseLookup, translationsDocument } from './translations-query.ts';

/** The priority of a rule that names none. */
const DEFAULT_PRIORITY = 1000;

/** The answer to `GET /v1/sources`. */
export interface SourcesDocument {
  schemaVersion: 'v1';
  /** Those with most octets and those with most connections, of live flows. */
  sources: { address: string; connections: number; bytes: { out: number; in: number } }[];
  /** The number of sources. */
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
  /** Called with the totals of each reading of the kernel's table, and when it began, ms since the machine started. */
  onTotals?(began: number, volumes: () => Volumes): void;
  /** What the marks of connections have stood for until now; default: nothing is known of them. */
  marked?(): PolicyNumbers;
  /** How the thread is made; default: a worker thread. */
  fork?: NonNullable<TranslationThreadParts['fork']>;
}

const NO_LOG: ControlReply = {
  status: 409,
  body: 'the policy has no translation log: spec.translationLog.enabled\n',
};
const NO_ANSWER: ControlReply = { status: 503, body: 'the translation log does not answer\n' };

export class Translations {
  readonly #options: TranslationsOptions;
  readonly #output: RecordOutput;
  readonly #thread: TranslationThread;
  #gateway = { namespace: '', name: '' };
  /** Undefined while the policy asks for no log. */
  #settings: WorkerSettings | undefined;
  #snapshot: Snapshot | undefined;
  readonly #meter = new TrafficMeter();
  /** The kernel counts what each policy carries (policy-counters.ts). */
  #kernelCounts = false;
  readonly #portHistory: PortHistory;
  readonly #retention: RetentionClock;

  constructor(options: TranslationsOptions) {
    this.#options = options;
    const { stateDir, logger, fork } = options;
    this.#retention = new RetentionClock(stateDir);
    let entries: HistoryEntry[] = [];
    try {
      entries = readPortHistory(stateDir);
    } catch (error) {
      const reason = (error as Error).message;
      logger.warn({ reason }, 'ignoring the saved history of port blocks, starting a new one');
    }
    this.#portHistory = new PortHistory(entries);
    this.#output = new RecordOutput(options);
    this.#thread = new TranslationThread({
      directory: join(stateDir, 'translations'),
      onMessage: (message, done) => this.#receive(message, done),
      onEnd: () => this.#clear(),
      onRestart: (restartInMs) =>
        logger.error({ restartInMs }, 'the translation log thread died, restarting'),
      onError: (error) => this.#logError(error),
      ...(fork && { fork }),
    });
  }

  /** Follows the policy in force. */
  onPolicy(policy: Policy): void {
    const slash = policy.name.indexOf('/');
    this.#gateway = {
      namespace: policy.name.slice(0, Math.max(0, slash)),
      name: policy.name.slice(slash + 1),
    };
    const { translationLog: log, rules } = policy;
    if (log === undefined) {
      this.#settings = undefined;
      this.#thread.stop().catch((error: Error) => this.#logError(error));
      return;
    }
    const marked = this.#options.marked?.();
    const settings: WorkerSettings = {
      ...{ log, rules: inOrder(rules), identity: this.identity },
      ...(marked && { marked }),
    };
    if (isDeepStrictEqual(settings, this.#settings)) return;
    this.#settings = settings;
    this.#thread.configure(settings);
  }

  /** These port blocks are in force; a family that is not named keeps its own. */
  onPortBlocks(blocks: Partial<Record<Family, PolicyBlocks[]>>): void {
    const changed = FAMILIES.filter((family) => {
      const policies = blocks[family];
      if (policies === undefined) return false;
      return this.#portHistory.record(family, policies, Date.now(), this.#retention.now());
    });
    if (changed.length === 0) return;
    const { stateDir, logger } = this.#options;
    try {
      writePortHistory(stateDir, this.#portHistory.entries);
    } catch (error) {
      const reason = (error as Error).message;
      logger.error({ reason }, 'cannot save the history of port blocks, a restart would lose it');
    }
  }

  /** Takes a reading of the kernel's counters: from then on the thread's are not used. `at`: by `performance.now()`. */
  onCounters(volumes: Volumes, at: number): void {
    this.#kernelCounts = true;
    this.#meter.update(volumes, this.#snapshot?.open ?? [], at);
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

  /** What each policy's flows carry; undefined without a log, or before its first snapshot. */
  get traffic(): readonly PolicyTraffic[] | undefined {
    return this.#meter.traffic;
  }

  /** When `traffic` was read, by `performance.now()`; undefined likewise. */
  get trafficAt(): number | undefined {
    return this.#meter.readAt;
  }

  /** The ports that translations hold; undefined likewise. */
  get ports(): readonly PortStatus[] | undefined {
    return this.#snapshot?.ports;
  }

  /** The figures for the metrics; undefined likewise. */
  get snapshot(): Snapshot | undefined {
    if (this.#snapshot === undefined) return undefined;
    const { lost } = this.#snapshot;
    return { ...this.#snapshot, lost: { ...lost, write_error: this.#output.lost } };
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
      if (this.#settings === undefined) return NO_LOG;
      const found = await this.#thread.find(lookup);
      if (found === undefined) return NO_ANSWER;
      const coverage = logCoverage(true, found.since, lookup);
      return { status: 200, body: translationsDocument(found, coverage, Date.now(), computed) };
    } catch (error) {
      if (!(error instanceof LookupError)) throw error;
      return { status: 400, body: `${error.message}\n` };
    }
  }

  /** Answers `GET /v1/sources`. */
  async sources(): Promise<ControlReply> {
    if (this.#settings === undefined) return NO_LOG;
    const found = await this.#thread.sources();
    return found === undefined ? NO_ANSWER : { status: 200, body: sourcesDocument(found) };
  }

  /** Ends the thread, and resolves when its records have been written. */
  async stop(): Promise<void> {
    this.#settings = undefined;
    await this.#thread.stop();
    await this.#output.close();
  }

  #receive(message: Exclude<FromWorker, { type: 'answer' }>, done: (records: number) => void): void {
    switch (message.type) {
      case 'records':
        this.#output
          .write(message.lines)
          .then(() => done(message.lines.length))
          .catch((error: Error) => this.#logError(error));
        break;
      case 'snapshot':
        this.#snapshot = message.snapshot;
        this.#options.onTotals?.(message.snapshot.began, () => volumesOf(message.snapshot.totals));
        if (!this.#kernelCounts) {
          const { totals, open } = message.snapshot;
          this.#meter.update(volumesOf(totals), open, performance.now());
        }
        break;
      case 'log':
        this.#options.logger[message.level](message.fields, message.message);
        break;
      default:
        message satisfies never;
    }
  }

  /** Drops the figures of a thread that has ended. */
  #clear(): void {
    this.#snapshot = undefined;
    if (!this.#kernelCounts) this.#meter.clear();
  }

  #logError(error: Error): void {
    this.#options.logger.error({ err: error }, 'the translation log failed');
  }
}

const sourcesDocument = ({ sources, total }: Sources): SourcesDocument => ({
  schemaVersion: 'v1',
  sources: sources.map(({ address, flows, out, in: inward }) => ({
    address: addressText(address),
    connections: flows,
    bytes: { out, in: inward },
  })),
  total,
});

const volumesOf = (totals: readonly Total[]): Volumes => ({
  snat: policyVolumes(totals, 'snat'),
  forward: policyVolumes(totals, 'forward'),
});

/** The rules in the order in which they decide. */
const inOrder = (rules: readonly EgressRule[]): EgressRule[] =>
  rules.toSorted((a, b) => (a.priority ?? DEFAULT_PRIORITY) - (b.priority ?? DEFAULT_PRIORITY));
