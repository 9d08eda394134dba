/**
 * The thread that reads conntrack (translations.ts starts it): events and dumps to the tracker, from there to
 * records, to the store and to the metrics. It tells the main thread what to print and answers its lookups.
 *
 * The metrics that it hands out are those of the last checkpoint: what was shown is on disk already, so counters
 * do not go back when this process dies.
 */
import { readFileSync, statfsSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import * as stateFiles from '../../lib/files.ts';
import { parseJson } from '../../lib/json.ts';
import { LogOnChange } from '../../lib/log-on-change.ts';
import { address, addressBytes } from '../../lib/prefix.ts';
import { readCheckpoint, writeCheckpoint } from '../../nat/conntrack/checkpoint.ts';
import { exhaustedRange } from '../../nat/conntrack/exhaustion.ts';
import {
  classify,
  DEFAULT_POLICY,
  type FlowView,
  PolicyIndex,
  type PolicyRule,
  protocolName,
  viewFlow,
} from '../../nat/conntrack/flow.ts';
import { type Lookup, matches } from '../../nat/conntrack/lookup.ts';
import {
  PORTS,
  PORTS_WARN,
  PortCount,
  type PortStatus,
  type PortsLacking,
  type PortUse,
  portStatus,
} from '../../nat/conntrack/ports.ts';
import { ConntrackReader } from '../../nat/conntrack/reader.ts';
import {
  addressText,
  compileFilters,
  type Identity,
  type LogRules,
  type RecordEvent,
  recordLine,
  TokenBucket,
} from '../../nat/conntrack/records.ts';
import { type SourceUse, topSources } from '../../nat/conntrack/sources.ts';
import { TranslationStore } from '../../nat/conntrack/store.ts';
import type { Flow } from '../../nat/conntrack/table.ts';
import { type Gap, type Total, Tracker } from '../../nat/conntrack/tracker.ts';
import { readInsertFailures } from './conntrack-table.ts';
import { RetentionClock } from './retention.ts';
import type { OpenFlows } from './traffic.ts';

/** What the thread is started with, and keeps in memory: the settings are its first message. */
export interface WorkerOptions {
  /** The directory of store and checkpoint. */
  directory: string;
}

/** What changes with the policy. */
export interface WorkerSettings {
  log: LogRules;
  rules: PolicyRule[];
  identity: Identity;
}

export type ToWorker =
  | { type: 'settings'; settings: WorkerSettings }
  | { type: 'find'; id: number; lookup: Lookup }
  | { type: 'sources'; id: number }
  /** So many records have been written, or lost. */
  | { type: 'written'; records: number }
  | { type: 'stop' };

export type FromWorker =
  | { type: 'records'; lines: string[] }
  | { type: 'snapshot'; snapshot: Snapshot }
  | { type: 'answer'; id: number; answer: Found | Sources }
  | { type: 'note'; level: 'info' | 'warn' | 'error'; message: string; fields: object };

/** Flows, the newest first, and when events were lost in the time that was asked for. */
export interface Found {
  flows: FlowView[];
  /** There may be more than were asked for. */
  more: boolean;
  gaps: { from: number; to: number; lost: number }[];
  /** Since when ended flows are kept, Unix ms; undefined while they are not. */
  since: number | undefined;
}

/** The addresses inside with the most of the flows that live, and how many there are. */
export interface Sources {
  sources: SourceUse[];
  total: number;
}

/** Translated flows of one kind that live. */
export interface Active extends Pick<Total, 'family' | 'protocol' | 'snat' | 'dnat'> {
  count: number;
}

/** What the metrics show. */
export interface Snapshot {
  totals: Total[];
  active: Active[];
  open: OpenFlows[];
  ports: PortStatus[];
  /** Flows in the table here, what it holds at most, and those for which there was no room. */
  flows: { known: number; capacity: number; untracked: number };
  events: { new: number; destroy: number };
  /** Whether the kernel counts packets. */
  accounting: boolean;
  records: Record<RecordEvent, number>;
  /** Records that were lost, by reason. */
  lost: Record<string, number>;
}

/** What the thread counts itself, and keeps over a restart. */
interface Counts extends Pick<Snapshot, 'records' | 'lost'> {
  lacking: PortsLacking[];
  /** The kernel's number of failed insertions as it was last seen. */
  insertFailures?: number;
  /** Those of the tracker. */
  events: Snapshot['events'];
  untracked: number;
}

/** What was never counted. */
const noCounts = (): Counts => ({
  records: { start: 0, end: 0 },
  lost: { ...NOTHING_LOST },
  lacking: [],
  events: { new: 0, destroy: 0 },
  untracked: 0,
});

/** The reasons for which this thread loses records: a counter that was never 0 cannot be seen to begin. */
const NOTHING_LOST = { rate_limit: 0, overrun: 0, queue_full: 0, store: 0 };

/** As many as Kube-OVN's observer holds; 8 MiB when full. */
const CAPACITY = 65_536;
/** Records that are made and not yet written, at most; about 5 MiB. */
const MAX_UNDER_WAY = 8192;
/** How often the sockets are read when little happens, ms. */
const TICK = 50;
/** So many sources are named, of each order. */
const TOP_SOURCES = 10;
/** How often ended flows go to the disk, ms. */
const COMMIT_PERIOD = 500;
/** The store: a tenth of the file system, at most so much, and less where the files are memory; octets. */
const STORE_SHARE = 0.1;
const STORE_BYTES = 256 << 20;
const STORE_BYTES_TMPFS = 8 << 20;
const TMPFS_MAGIC = 0x01021994;
/** How long ended flows can be looked up, ms. */
const STORE_AGE = 7 * 24 * 3600 * 1000;
/** A store that cannot be opened is tried again, ms. */
const STORE_RETRY = 10_000;
/** Below that the warning that ports run out may come again. */
const PORTS_CALM = 0.7 * PORTS;
/** How often the log tells that no port was left, ms. */
const EXHAUSTED_PERIOD = 60_000;

/** Whether the kernel counts packets. */
const ACCOUNTING = '/proc/sys/net/netfilter/nf_conntrack_acct';

const files = { ...stateFiles, parseJson };

class TranslationWorker {
  readonly #directory: string;
  readonly #retention: RetentionClock;
  readonly #port: MessagePort;
  readonly #tracker: Tracker;
  readonly #reader: ConntrackReader;
  #store: TranslationStore | undefined;
  #storeDue = 0;
  readonly #storeFailures = new LogOnChange();
  readonly #checkpointFailures = new LogOnChange();
  #policies!: PolicyIndex;
  #wanted!: (flow: Flow) => boolean;
  #bucket!: TokenBucket;
  #log!: LogRules;
  #identity!: Identity;
  /** The pod's own addresses, as strings of their octets. */
  #local = new Set<string>();
  #counts = noCounts();
  /** Lines to hand on, and how many records are under way altogether. */
  #lines: string[] = [];
  #underWay = 0;
  #commitDue = 0;
  #timer: NodeJS.Timeout | NodeJS.Immediate | undefined;
  /** The end of the last lookup. */
  #found: Promise<unknown> = Promise.resolve();
  readonly #portsTold = new Set<string>();
  /** Policies whose sources have ports for themselves, and how many. */
  #blockSizes = new Map<string, number>();
  /** Connections without a port that the log does not tell of yet, and when it may. */
  #exhaustedUntold = 0;
  #exhaustedDue = 0;

  constructor({ directory }: WorkerOptions, settings: WorkerSettings, port: MessagePort) {
    this.#directory = directory;
    this.#retention = new RetentionClock(join(directory, '..'));
    this.#port = port;
    this.#tracker = new Tracker(CAPACITY, {
      classify: (flow) =>
        classify(flow, this.#policies, this.#isLocal, (name) => this.#tracker.policyNumber(name)),
      started: (flow) => this.#record('start', flow),
      ended: (flow, at, estimated) => this.#ended(flow, at, estimated),
      repaired: (gap) => this.#repaired(gap),
    });
    this.use(settings);
    this.#readAddresses();
    this.#openStore();
    // From here on the kernel keeps events.
    this.#reader = new ConntrackReader({
      tracker: this.#tracker,
      now: Date.now,
      onDump: () => this.#dumped(),
    });
    this.#restore();
    this.#turn();
  }

  /** Takes the settings of a new policy. Flows that live keep what was decided about them. */
  use({ log, rules, identity }: WorkerSettings): void {
    // There is no room for two with a hundred thousand blocks each.
    this.#policies = new PolicyIndex([]);
    this.#policies = new PolicyIndex(rules);
    this.#blockSizes = new Map(rules.map(({ name, portBlockSize = 0 }) => [name, portBlockSize]));
    this.#wanted = compileFilters(log.filters);
    const rate = JSON.stringify(log.rateLimit);
    if (rate !== JSON.stringify(this.#log?.rateLimit))
      this.#bucket = new TokenBucket(log.rateLimit, performance.now());
    this.#log = log;
    this.#identity = identity;
  }

  /** So many records have been written, or lost. */
  written(records: number): void {
    this.#underWay -= records;
  }

  /** The flows that were asked for, those that live among them. One lookup at a time: each holds thousands of flows. */
  find(lookup: Lookup): Promise<Found> {
    const found = this.#found.then(() => this.#find(lookup));
    // One that fails does not hold up the next.
    this.#found = found.catch(() => {});
    return found;
  }

  /** Events are read meanwhile. */
  async #find(lookup: Lookup): Promise<Found> {
    const { limit } = lookup;
    const now = Date.now();
    this.#reader.drain();
    // A view costs more than a look: only the newest get one.
    const { table } = this.#tracker;
    const starts: number[] = [];
    for (const flow of table) if (matches(flow, lookup, now)) starts.push(flow.start);
    const oldest =
      Float64Array.from(starts)
        .sort()
        .at(-limit - 1) ?? Number.NEGATIVE_INFINITY;
    let flows: FlowView[] = [];
    for (const flow of table) {
      if (flow.start < oldest || !matches(flow, lookup, now)) continue;
      flows.push(viewFlow(flow, this.#tracker.policyName(flow)));
    }
    const gaps = this.#withStore((store) => store.gaps(lookup)) ?? [];
    const parts = this.#store?.findInParts({ ...lookup, limit: limit + 1 });
    const next = () => parts && this.#withStore(() => parts.next());
    for (let part = next(); part !== undefined && !part.done; part = next()) {
      flows.push(...part.value);
      await turn();
    }
    flows = flows.sort((a, b) => b.start - a.start);
    return { flows: flows.slice(0, limit), more: flows.length > limit, gaps, since: this.#store?.since };
  }

  /** The addresses inside with the most of the flows that live. */
  sources(): Sources {
    return topSources(this.#tracker.table, TOP_SOURCES);
  }

  /** Takes what has happened until now, and keeps it. */
  stop(): void {
    clearTimeout(this.#timer as NodeJS.Timeout);
    clearImmediate(this.#timer as NodeJS.Immediate);
    this.#reader.drain();
    // Reading a large table may take longer than there is time for.
    this.#printLines();
    this.#commit();
    this.#reader.dump();
    this.#printLines();
    this.#commit();
    this.#store?.close();
    this.#reader.close();
  }

  #turn(): void {
    const more = this.#reader.turn();
    this.#printLines();
    if (performance.now() >= this.#commitDue) this.#commit();
    this.#timer = more ? setImmediate(() => this.#turn()) : setTimeout(() => this.#turn(), TICK);
  }

  // Flows ------------------------------------------------------------------------------------------------

  #isLocal = (bytes: Uint8Array): boolean => this.#local.has(String.fromCharCode(...bytes));

  #readAddresses(): void {
    this.#local = new Set(
      Object.values(networkInterfaces())
        .flatMap((list) => list ?? [])
        .map((info) => String.fromCharCode(...addressBytes(address(info.address)))),
    );
  }

  #ended(flow: Flow, at: number, estimated: boolean): void {
    if (flow.verdict === 'local') return;
    this.#record('end', flow, at, estimated);
    const kept = this.#withStore((store) => {
      store.add(flow, this.#tracker.policyName(flow), at, estimated);
      return true;
    });
    if (!kept) this.#lose('store', 1);
  }

  #record(event: RecordEvent, flow: Flow, end?: number, estimated = false): void {
    if (flow.verdict === 'local' || !this.#log.events.includes(event) || !this.#wanted(flow)) return;
    if (!this.#bucket.take(performance.now())) {
      this.#lose('rate_limit', 1);
      return;
    }
    if (this.#underWay === MAX_UNDER_WAY) {
      this.#lose('queue_full', 1);
      return;
    }
    this.#underWay++;
    const view = viewFlow(flow, this.#tracker.policyName(flow), end);
    if (estimated) view.endEstimated = true;
    this.#lines.push(recordLine(event, view, this.#identity));
    this.#counts.records[event]++;
  }

  #repaired(gap: Gap): void {
    if (gap.events !== undefined) this.#lose('overrun', gap.lost);
    this.#withStore((store) => store.addGap(gap));
    const { from, to, events, foundStarts, foundEnds, lost } = gap;
    const times = { from: new Date(from).toISOString(), to: new Date(to).toISOString() };
    if (events === undefined) {
      this.#note('info', 'conntrack was not read for a while; the table was read again', {
        ...times,
        ...{ foundStarts, foundEnds },
      });
    } else {
      this.#note('warn', 'conntrack events came faster than they were read; the table was read again', {
        ...times,
        ...{ events, foundStarts, foundEnds, lost },
      });
    }
  }

  #lose(reason: string, count: number): void {
    if (count > 0) this.#counts.lost[reason] = (this.#counts.lost[reason] ?? 0) + count;
  }

  #printLines(): void {
    if (this.#lines.length === 0) return;
    this.#post({ type: 'records', lines: this.#lines });
    this.#lines = [];
  }

  // Store ------------------------------------------------------------------------------------------------

  #openStore(): void {
    this.#storeDue = performance.now() + STORE_RETRY;
    const directory = this.#directory;
    try {
      this.#store = new TranslationStore({
        directory,
        maxBytes: storeBytes(join(directory, '..')),
        maxAge: STORE_AGE,
        now: () => this.#retention.now(),
        onAnew: (reason) =>
          this.#note('warn', 'the stored translations could not be read; begun anew', { reason }),
        files,
      });
    } catch (error) {
      this.#storeFailed(error as Error);
    }
  }

  /** Does something with the store; undefined when that fails, which is told once. */
  #withStore<T>(work: (store: TranslationStore) => T): T | undefined {
    if (this.#store === undefined) return undefined;
    const pending = this.#store.pending;
    try {
      return work(this.#store);
    } catch (error) {
      // What was not committed went with it.
      this.#lose('store', pending);
      this.#storeFailed(error as Error);
      return undefined;
    }
  }

  #storeFailed({ message: reason }: Error): void {
    if (!this.#storeFailures.isNew(reason)) return;
    this.#note('error', 'translations cannot be kept for looking up; will try again', { reason });
  }

  #commit(): void {
    this.#commitDue = performance.now() + COMMIT_PERIOD;
    if (this.#store === undefined && performance.now() >= this.#storeDue) this.#openStore();
    const kept = this.#withStore((store) => store.commit());
    if (kept === undefined || kept === 0 || !this.#storeFailures.ended()) return;
    this.#note('info', 'translations are kept for looking up again', {});
  }

  // State ------------------------------------------------------------------------------------------------

  get #checkpointFile(): string {
    return join(this.#directory, 'checkpoint');
  }

  #restore(): void {
    try {
      const saved = readCheckpoint(this.#checkpointFile, files);
      if (saved === undefined) return;
      const { tracker, flows, extra } = saved;
      const counts = parseCounts(extra);
      if (counts === undefined) throw new Error(`${this.#checkpointFile} is damaged`);
      this.#tracker.load(tracker, flows, Date.now());
      this.#counts = counts;
      Object.assign(this.#tracker.events, counts.events);
      this.#tracker.untracked = counts.untracked;
    } catch (error) {
      const { message: reason } = error as Error;
      this.#note('warn', 'the saved counters are left aside; they begin anew', { reason });
    }
  }

  #dumped(): void {
    const seconds = this.#retention.stepped();
    if (seconds !== undefined) {
      this.#note('warn', 'the wall clock was set; nothing that is kept expires by it', { seconds });
    }
    this.#readAddresses();
    this.#countExhaustion();
    this.#tracker.forget(new Set([...this.#blockSizes.keys(), DEFAULT_POLICY]));
    const tracker = this.#tracker.save(Date.now());
    try {
      const flows = this.#tracker.table.save();
      const { events, untracked } = this.#tracker;
      const extra: Counts = { ...this.#counts, events, untracked };
      writeCheckpoint(this.#checkpointFile, { tracker, extra }, flows, files);
      this.#checkpointFailures.ended();
    } catch (error) {
      const { message: reason } = error as Error;
      if (this.#checkpointFailures.isNew(reason)) {
        this.#note('error', 'counters would begin anew after a restart: they cannot be saved', { reason });
      }
    }
    this.#post({ type: 'snapshot', snapshot: this.#snapshot(tracker.totals) });
  }

  #snapshot(totals: Total[]): Snapshot {
    const { table, untracked, events } = this.#tracker;
    const active = new Map<number, Active>();
    const open = new Map<number, OpenFlows>();
    const ports = new PortCount();
    for (const flow of table) {
      const { verdict, family, protocol, snat, dnat } = flow;
      const treatment = verdict === 'forwarded' ? 'forward' : verdict === 'translated' && snat ? 'snat' : '';
      if (treatment !== '') {
        const number = flow.policy * 2 + Number(snat);
        const known = open.get(number);
        if (known !== undefined) known.flows++;
        else open.set(number, { policy: this.#tracker.policyName(flow), treatment, flows: 1 });
      }
      if (verdict !== 'translated') continue;
      const key = protocol * 8 + (family === 6 ? 4 : 0) + (snat ? 2 : 0) + (dnat ? 1 : 0);
      const kind = active.get(key);
      if (kind === undefined) active.set(key, { family, protocol, snat, dnat, count: 1 });
      else kind.count++;
      if (snat) ports.add(flow);
    }
    this.#warnOfPorts(ports.uses);
    return {
      totals,
      active: [...active.values()],
      open: [...open.values()],
      ports: portStatus(ports.uses, this.#counts.lacking),
      flows: { known: table.size, capacity: table.capacity, untracked },
      events,
      accounting: isAccounting(),
      records: this.#counts.records,
      lost: this.#counts.lost,
    };
  }

  #warnOfPorts(uses: PortUse[]): void {
    const there = new Set(uses.map(({ address, protocol }) => `${addressText(address)} ${protocol}`));
    for (const key of this.#portsTold) if (!there.has(key)) this.#portsTold.delete(key);
    for (const { address: bytes, protocol, used } of uses) {
      const externalIP = addressText(bytes);
      const key = `${externalIP} ${protocol}`;
      if (used < PORTS_CALM) this.#portsTold.delete(key);
      if (used < PORTS_WARN || this.#portsTold.has(key)) continue;
      this.#portsTold.add(key);
      this.#note('warn', 'ports of an external address run out', { externalIP, protocol, used, of: PORTS });
    }
  }

  /** Counts the new connections that have got no port since the last look. */
  #countExhaustion(): void {
    const failures = readInsertFailures();
    const before = this.#counts.insertFailures;
    if (failures === undefined) return;
    this.#counts.insertFailures = failures;
    if (before === undefined || failures <= before) return;
    const range = exhaustedRange(
      this.#tracker.table,
      (flow) => this.#blockSizes.get(this.#tracker.policyName(flow)) ?? 0,
    );
    if (range === undefined) return;
    const { lacking } = this.#counts;
    const externalIP = addressText(range.address);
    const protocol = protocolName(range.protocol);
    const known = lacking.find((one) => one.externalIP === externalIP && one.protocol === protocol);
    const fresh = failures - before;
    if (known !== undefined) known.connections += fresh;
    else lacking.push({ externalIP, protocol, connections: fresh });
    this.#exhaustedUntold += fresh;
    if (performance.now() < this.#exhaustedDue) return;
    this.#note('warn', 'no port was left for new connections; they were dropped', {
      ...{ externalIP, protocol, connections: this.#exhaustedUntold },
      ...{ destination: addressText(range.destination), destinationPort: range.destinationPort },
      ...(range.source && { source: addressText(range.source) }),
      ...{ used: range.used, of: range.of },
    });
    this.#exhaustedUntold = 0;
    this.#exhaustedDue = performance.now() + EXHAUSTED_PERIOD;
  }

  #note(level: 'info' | 'warn' | 'error', message: string, fields: object): void {
    this.#post({ type: 'note', level, message, fields });
  }

  #post(message: FromWorker): void {
    this.#port.postMessage(message);
  }
}

/** A checkpoint's counts; undefined when they are not such as this thread writes. */
function parseCounts(value: unknown): Counts | undefined {
  const isCount = (count: unknown) => Number.isSafeInteger(count) && (count as number) >= 0;
  const areCounts = (counts: unknown, names: object): counts is Record<string, number> =>
    typeof counts === 'object' &&
    counts !== null &&
    Object.entries(counts).every(([name, count]) => Object.hasOwn(names, name) && isCount(count));
  const isLacking = (one: Partial<PortsLacking> | null) =>
    isCount(one?.connections) && typeof one?.externalIP === 'string' && typeof one.protocol === 'string';
  const none = noCounts();
  const { records, lost, lacking, insertFailures, events, untracked } = {
    ...none,
    ...(value as object),
  } as Counts;
  const wellFormed =
    areCounts(records, none.records) &&
    areCounts(lost, none.lost) &&
    areCounts(events, none.events) &&
    isCount(untracked) &&
    Array.isArray(lacking) &&
    lacking.every(isLacking) &&
    (insertFailures === undefined || isCount(insertFailures));
  if (!wellFormed) return undefined;
  return {
    records: { ...none.records, ...records },
    lost: { ...none.lost, ...lost },
    lacking,
    events: { ...none.events, ...events },
    untracked,
    ...(insertFailures !== undefined && { insertFailures }),
  };
}

function isAccounting(): boolean {
  try {
    return readFileSync(ACCOUNTING, 'utf8').trim() === '1';
  } catch {
    return false;
  }
}

/** How large the store may be on the file system of a directory. */
function storeBytes(directory: string): number {
  const { type, blocks, bsize } = statfsSync(directory);
  return Math.min(type === TMPFS_MAGIC ? STORE_BYTES_TMPFS : STORE_BYTES, STORE_SHARE * blocks * bsize);
}

if (parentPort !== null) {
  const port = parentPort;
  const answer = (id: number, answer: Found | Sources) =>
    port.postMessage({ type: 'answer', id, answer } satisfies FromWorker);
  let worker: TranslationWorker;
  const take = (message: ToWorker): void => {
    switch (message.type) {
      case 'settings':
        worker.use(message.settings);
        break;
      case 'find':
        worker
          .find(message.lookup)
          .then((found) => answer(message.id, found))
          .catch((error: Error) =>
            port.postMessage({
              ...{ type: 'note', level: 'error', message: 'cannot look translations up' },
              fields: { reason: error.message },
            } satisfies FromWorker),
          );
        break;
      case 'sources':
        answer(message.id, worker.sources());
        break;
      case 'written':
        worker.written(message.records);
        break;
      case 'stop':
        worker.stop();
        port.close();
        break;
      default:
        message satisfies never;
    }
  };
  port.once('message', ({ settings }: ToWorker & { type: 'settings' }) => {
    worker = new TranslationWorker(workerData as WorkerOptions, settings, port);
    port.on('message', take);
  });
}
