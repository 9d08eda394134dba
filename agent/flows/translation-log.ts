/**
 * The translation log in its thread: conntrack events and dumps go to the tracker, from there to records, to the store
 * and to the metrics. translations-worker.ts gives it its messages; whatever it needs of the system is a part that a test
 * can replace.
 *
 * The metrics that it hands out are those of the last checkpoint: what was shown is on disk already, so counters do
 * not go back when this thread or its process dies.
 */
import { readFileSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { uptime } from '../../lib/clock.ts';
import * as stateFiles from '../../lib/files.ts';
import { parseJson } from '../../lib/json.ts';
import { LogOnChange } from '../../lib/log-on-change.ts';
import { address, addressBytes } from '../../lib/prefix.ts';
import { readCheckpoint, writeCheckpoint } from '../../nat/conntrack/checkpoint.ts';
import { exhaustedRange } from '../../nat/conntrack/exhaustion.ts';
import { classify, PolicyIndex, type PolicyNumbers } from '../../nat/conntrack/flow.ts';
import type { Lookup } from '../../nat/conntrack/lookup.ts';
import { DEFAULT_POLICY } from '../../nat/conntrack/names.ts';
import { PORTS, portStatus } from '../../nat/conntrack/ports.ts';
import { ConntrackReader } from '../../nat/conntrack/reader.ts';
import { addressText } from '../../nat/conntrack/records.ts';
import { topSources } from '../../nat/conntrack/sources.ts';
import type { StoreOptions, TranslationStore } from '../../nat/conntrack/store.ts';
import type { Flow } from '../../nat/conntrack/table.ts';
import { type Gap, type Total, Tracker } from '../../nat/conntrack/tracker.ts';
import { SLICE_PORTS } from '../group/slices.ts';
import { readInsertFailures } from './conntrack-table.ts';
import { EndedFlows } from './ended-flows.ts';
import { FlowLookup } from './flow-lookup.ts';
import { countLiveFlows } from './live-flows.ts';
import { PortWarnings, type Warning } from './port-warnings.ts';
import { type FlowEnd, RecordQueue } from './record-queue.ts';
import { RetentionClock } from './retention-clock.ts';
import { type Counts, noCounts, parseCounts } from './translation-counts.ts';
import type {
  Found,
  FromWorker,
  LogLevel,
  Snapshot,
  Sources,
  WorkerSettings,
} from './translations-messages.ts';

/** As many flows as Kube-OVN's observer holds; 8 MiB when full. */
const CAPACITY = 65_536;
/** How often the sockets are read while little happens, ms. */
const IDLE_PERIOD = 50;
/** Sources that are named, of each order. */
const TOP_SOURCES = 10;

const files = { ...stateFiles, parseJson };

/** What the log needs of the reader. */
type Reader = Pick<ConntrackReader, 'turn' | 'drain' | 'dump' | 'close'>;

export interface TranslationLogParts {
  /** The directory of store and checkpoint, in the state directory. */
  directory: string;
  /** Sends to the main thread. */
  post: (message: FromWorker) => void;
  /** Unix time, and milliseconds of a monotonic clock that all threads have. */
  now?: () => number;
  clock?: () => number;
  /** Calls a function after `ms`, or as soon as other work had its turn; returns how to cancel that. */
  schedule?: (work: () => void, ms: number | 'next') => () => void;
  openReader?: (tracker: Tracker, onDump: (began: number) => void) => Reader;
  openStore?: (options: StoreOptions) => TranslationStore;
  /** The pod's own addresses. */
  ownAddresses?: () => string[];
  insertFailures?: () => number | undefined;
}

export class TranslationLog {
  readonly #parts: Required<Omit<TranslationLogParts, 'openStore'>>;
  readonly #retention: RetentionClock;
  readonly #tracker: Tracker;
  readonly #reader: Reader;
  readonly #ended: EndedFlows;
  readonly #lookup: FlowLookup;
  readonly #records = new RecordQueue(() => this.#counts);
  readonly #portWarnings = new PortWarnings();
  readonly #checkpointFailures = new LogOnChange();
  #policies!: PolicyIndex;
  #marked: PolicyNumbers = new Map();
  /** Policies whose sources have ports of their own, and how many. */
  #blockSizes = new Map<string, number>();
  /** Addresses that are shared with other gateways. */
  #shared = new Set<string>();
  /** The pod's own addresses, as strings of their octets. */
  #own = new Set<string>();
  #counts = noCounts();
  #cancel = () => {};

  /** Opens the sockets: the kernel queues events from here on. Throws when that fails. */
  constructor(parts: TranslationLogParts, settings: WorkerSettings) {
    const { openStore, ...rest } = parts;
    this.#parts = { ...SYSTEM, openReader: this.#openReader, ...rest };
    const { directory, now, clock, openReader } = this.#parts;
    this.#retention = new RetentionClock(join(directory, '..'));
    this.#tracker = new Tracker(CAPACITY, {
      classify: (flow, mark) => {
        const number = (name: string) => this.#tracker.policyNumber(name);
        classify(flow, this.#policies, this.#isOwn, number, { mark, marked: this.#marked });
      },
      started: (flow) => this.#records.add('start', flow, this.#policyName(flow), clock()),
      ended: (flow, at, estimated) => this.#onEnded(flow, { at, estimated }),
      repaired: (gap) => this.#onGap(gap),
    });
    this.configure(settings);
    this.#readAddresses();
    this.#ended = new EndedFlows({
      ...{ directory, clock, now: () => this.#retention.now(), log: this.#log },
      onLost: (flows) => {
        this.#counts.lost.store += flows;
      },
      ...(openStore && { open: openStore }),
    });
    this.#reader = openReader(this.#tracker, (began) => this.#onDump(began));
    this.#lookup = new FlowLookup({
      ...{ table: this.#tracker.table, ended: this.#ended, policyName: this.#policyName, now },
      drain: () => this.#reader.drain(),
    });
    this.#restore();
    this.#turn();
  }

  /** Follows the settings of a new policy. Live flows keep their verdict and policy. */
  configure({ log, rules, identity, marked = new Map() }: WorkerSettings): void {
    this.#marked = marked;
    // There is no room for two with a hundred thousand blocks each.
    this.#policies = new PolicyIndex([]);
    this.#policies = new PolicyIndex(rules);
    this.#blockSizes = new Map(rules.map(({ name, portBlockSize = 0 }) => [name, portBlockSize]));
    this.#shared = new Set(rules.flatMap(({ egressIP }) => (egressIP?.shared ? egressIP.addresses : [])));
    this.#records.configure(log, identity, this.#parts.clock());
  }

  /** That many records were written, or lost while writing. */
  written(records: number): void {
    this.#records.written(records);
  }

  /** The flows of a lookup, live ones among them. */
  find(lookup: Lookup): Promise<Found> {
    return this.#lookup.find(lookup);
  }

  /** The inside addresses with most of the live flows. */
  sources(): Sources {
    return topSources(this.#tracker.table, TOP_SOURCES);
  }

  /** Reads what has happened until now, keeps it, and closes everything. */
  stop(): void {
    this.#cancel();
    this.#reader.drain();
    // Reading a large table may take longer than there is time for: what is known goes out first.
    this.#flush();
    this.#reader.dump();
    this.#flush();
    this.#ended.close();
    this.#reader.close();
  }

  #turn(): void {
    const more = this.#reader.turn();
    this.#sendRecords();
    this.#ended.tick();
    this.#cancel = this.#parts.schedule(() => this.#turn(), more ? 'next' : IDLE_PERIOD);
  }

  #flush(): void {
    this.#sendRecords();
    this.#ended.commit();
  }

  #sendRecords(): void {
    const lines = this.#records.takeLines();
    if (lines.length > 0) this.#parts.post({ type: 'records', lines });
  }

  // Flows ------------------------------------------------------------------------------------------------

  #openReader = (tracker: Tracker, onDump: (began: number) => void): Reader =>
    new ConntrackReader({ tracker, now: this.#parts.now, clock: this.#parts.clock, onDump });

  #policyName = (flow: Flow): string => this.#tracker.policyName(flow);

  #isOwn = (bytes: Uint8Array): boolean => this.#own.has(String.fromCharCode(...bytes));

  #readAddresses(): void {
    const octets = (text: string) => String.fromCharCode(...addressBytes(address(text)));
    this.#own = new Set(this.#parts.ownAddresses().map(octets));
  }

  #onEnded(flow: Flow, end: FlowEnd): void {
    if (flow.verdict === 'local') return;
    const policy = this.#policyName(flow);
    this.#records.add('end', flow, policy, this.#parts.clock(), end);
    this.#ended.add(flow, policy, end);
  }

  #onGap(gap: Gap): void {
    const { from, to, events, foundStarts, foundEnds, lost } = gap;
    if (events !== undefined) this.#counts.lost.overrun += lost;
    this.#ended.addGap(gap);
    const times = { from: new Date(from).toISOString(), to: new Date(to).toISOString() };
    if (events === undefined) {
      const fields = { ...times, foundStarts, foundEnds };
      this.#log('info', 'conntrack was not read for a while, the table was read again', fields);
    } else {
      const fields = { ...times, events, foundStarts, foundEnds, lost };
      this.#log('warn', 'conntrack events were dropped, the table was read again', fields);
    }
  }

  // State ------------------------------------------------------------------------------------------------

  get #checkpointFile(): string {
    return join(this.#parts.directory, 'checkpoint');
  }

  #restore(): void {
    try {
      const saved = readCheckpoint(this.#checkpointFile, files);
      if (saved === undefined) return;
      const { tracker, flows, extra } = saved;
      const counts = parseCounts(extra);
      if (counts === undefined) throw new Error(`${this.#checkpointFile} is damaged`);
      this.#tracker.load(tracker, flows, this.#parts.now());
      this.#counts = counts;
      Object.assign(this.#tracker.events, counts.events);
      this.#tracker.untracked = counts.untracked;
    } catch (error) {
      const { message: reason } = error as Error;
      this.#log('warn', 'ignoring the saved counters, starting at 0', { reason });
    }
  }

  #onDump(began: number): void {
    const seconds = this.#retention.stepped();
    if (seconds !== undefined) {
      this.#log('warn', 'the wall clock was set, nothing that is kept expires by it', { seconds });
    }
    this.#readAddresses();
    this.#countExhaustion();
    this.#tracker.forget(new Set([...this.#blockSizes.keys(), DEFAULT_POLICY]));
    const totals = this.#writeCheckpoint();
    this.#parts.post({ type: 'snapshot', snapshot: this.#snapshot(began, totals) });
  }

  /** Returns the totals that the checkpoint holds. */
  #writeCheckpoint(): Total[] {
    const tracker = this.#tracker.save(this.#parts.now());
    const { events, untracked, table } = this.#tracker;
    const extra: Counts = { ...this.#counts, events, untracked };
    try {
      writeCheckpoint(this.#checkpointFile, { tracker, extra }, table.save(), files);
      this.#checkpointFailures.ended();
    } catch (error) {
      const { message: reason } = error as Error;
      if (this.#checkpointFailures.isNew(reason)) {
        this.#log('error', 'cannot save the counters, they would start at 0 after a restart', { reason });
      }
    }
    return tracker.totals;
  }

  #snapshot(began: number, totals: Total[]): Snapshot {
    const { table, untracked, events } = this.#tracker;
    const { active, open, ports } = countLiveFlows(table, this.#policyName);
    this.#portWarnings.inUse(ports, this.#portsOf).forEach(this.#warn);
    const { records, lost, lacking } = this.#counts;
    return {
      ...{
        began,
        totals,
        active,
        open,
        ports: portStatus(ports, lacking, this.#portsOf),
        events,
        records,
        lost,
      },
      flows: { known: table.size, capacity: table.capacity, untracked },
      accounting: isAccounting(),
    };
  }

  /** Of a shared address a gateway has the ports of its slice. */
  readonly #portsOf = (externalIP: string): number => (this.#shared.has(externalIP) ? SLICE_PORTS : PORTS);

  /** Counts the new connections that got no port since the last dump. */
  #countExhaustion(): void {
    const { insertFailures, clock } = this.#parts;
    const failures = insertFailures();
    const before = this.#counts.insertFailures;
    if (failures === undefined) return;
    this.#counts.insertFailures = failures;
    if (before === undefined || failures <= before) return;
    const range = exhaustedRange(
      this.#tracker.table,
      (flow) => this.#blockSizes.get(this.#policyName(flow)) ?? 0,
      ({ translatedSource }) => (this.#shared.has(addressText(translatedSource)) ? SLICE_PORTS : 0),
    );
    if (range === undefined) return;
    const { lacking } = this.#counts;
    const warning = this.#portWarnings.dropped(range, failures - before, lacking, clock());
    if (warning !== undefined) this.#warn(warning);
  }

  #warn = ({ message, fields }: Warning): void => this.#log('warn', message, fields);

  #log = (level: LogLevel, message: string, fields: object): void =>
    this.#parts.post({ type: 'log', level, message, fields });
}

const ACCOUNTING = '/proc/sys/net/netfilter/nf_conntrack_acct';

/** Whether the kernel counts packets. */
function isAccounting(): boolean {
  try {
    return readFileSync(ACCOUNTING, 'utf8').trim() === '1';
  } catch {
    return false;
  }
}

/** The parts of the running system. */
const SYSTEM = {
  now: Date.now,
  clock: uptime,
  schedule(work: () => void, ms: number | 'next'): () => void {
    if (ms === 'next') {
      const immediate = setImmediate(work);
      return () => clearImmediate(immediate);
    }
    const timer = setTimeout(work, ms);
    return () => clearTimeout(timer);
  },
  ownAddresses: () =>
    Object.values(networkInterfaces()).flatMap((list) => (list ?? []).map((info) => info.address)),
  insertFailures: () => readInsertFailures(),
};
