/**
 * The flows that have ended, on disk, for looking up: node:sqlite in one file, bounded in size and age.
 *
 * The rows lie in segments, a table each. What is too old or too much goes by dropping the oldest segment, which
 * costs little however many rows it has, and an insert touches only the indexes of the newest, which stay small
 * enough for a small page cache. Nothing is synced to the disk: what a crash of the machine destroys is started
 * anew, and a crash of the process destroys nothing.
 *
 * SQLite opens by name and follows links, so its files are looked at before. What is in them is checked where it is
 * read: a row that cannot be a flow is left out, a segment that cannot be one makes the whole file damaged.
 */
import { join } from 'node:path';
import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite';
import type { StateFiles } from './checkpoint.ts';
import { type FlowView, natTypes } from './flow.ts';
import type { Endpoint, Lookup } from './lookup.ts';
import { type Flow, LAST_DATE, VERDICTS } from './table.ts';
import type { Gap } from './tracker.ts';

const FILE = 'flows.db';
/** Changes when the tables do: an older file is started anew. */
const SCHEMA = 1;
const PAGE = 4096;
/** How much the oldest segment takes with it, as a share of the whole, and how large one is at most, octets. */
const SEGMENTS = 8;
const SEGMENT_BYTES = 8 << 20;
/** Pages in memory, KiB. */
const CACHE = 2048;
/** Pages of the write-ahead log before they go to the file. */
const WAL_PAGES = 256;
/** Names of policies in memory. */
const MAX_POLICIES = 1000;
/** Gaps that are remembered. */
const MAX_GAPS = 1000;

// Primary result codes (sqlite.org/rescode.html).
const SQLITE_CORRUPT = 11;
const SQLITE_NOTADB = 26;

const FLAG_DNAT = 1 << 2;
const FLAG_SNAT = 1 << 3;
const FLAG_ESTIMATED = 1 << 4;
const FLAG_COUNTED = 1 << 5;

// `outside` is the source as the outside sees it; `inside` is where a translated destination leads, else null.
const ADDRESSES = ['source', 'destination', 'outside', 'inside'];
// Numbers are bound as REAL: what makes them small integers again is the type of their column.
const NUMBERS = [
  ...['source_port', 'destination_port', 'outside_port', 'inside_port', 'protocol', 'zone', 'start', 'end'],
  ...['flags', 'policy', 'original_packets', 'original_bytes', 'reply_packets', 'reply_bytes'],
];
const COLUMNS = [...ADDRESSES, ...NUMBERS].join(', ');

/** The statements that make the tables of every file, and those of a segment: the file holds them, and no others. */
const TABLES = [
  // `last`: the newest segment with flows of that policy.
  'CREATE TABLE policies (id INTEGER PRIMARY KEY, name TEXT UNIQUE, last INTEGER)',
  'CREATE TABLE segments (n INTEGER PRIMARY KEY, created REAL, base INTEGER, first REAL, last REAL)',
  'CREATE TABLE gaps ("from" INTEGER, "to" INTEGER, lost INTEGER)',
];
/** The first of them in versions that forgot no policy. */
const POLICIES_BEFORE = 'CREATE TABLE policies (id INTEGER PRIMARY KEY, name TEXT UNIQUE)';
const segmentTables = (n: number): string[] => [
  `CREATE TABLE flows_${n} (${ADDRESSES.join(' BLOB, ')} BLOB, ${NUMBERS.join(' INTEGER, ')} INTEGER)`,
  `CREATE INDEX outside_${n} ON flows_${n} (outside, outside_port, start)`,
  `CREATE INDEX source_${n} ON flows_${n} (source, start)`,
  `CREATE INDEX destination_${n} ON flows_${n} (destination, destination_port, start)`,
  `CREATE INDEX inside_${n} ON flows_${n} (inside, inside_port, start) WHERE inside IS NOT NULL`,
];

export interface StoreOptions {
  directory: string;
  /** The size of the file in octets, and how long a flow is kept after its end in ms. */
  maxBytes: number;
  maxAge: number;
  /** Unix time in ms. */
  now: () => number;
  /** An unusable file was deleted. */
  onAnew: (reason: string) => void;
  files: Pick<StateFiles, 'checkState' | 'makeOwnDirectory' | 'clear'>;
}

interface Segment {
  n: number;
  /** When it was begun, and how many pages were in use then; Unix, ms. */
  created: number;
  base: number;
  /** The times that its flows span. */
  first: number;
  last: number;
}

const textOf = (error: unknown): string => (error as Error).message;

/** An error about a file that is to be begun anew. */
const corrupt = (reason: string): Error => Object.assign(new Error(reason), { errcode: SQLITE_NOTADB });

const isCorrupt = (error: unknown): boolean =>
  [SQLITE_CORRUPT, SQLITE_NOTADB].includes(((error as { errcode?: number }).errcode ?? 0) & 0xff);

export class TranslationStore {
  readonly #options: StoreOptions;
  #db: DatabaseSync;
  #insert!: StatementSync;
  /** From the oldest to the newest, which is written to. */
  #segments: Segment[] = [];
  /** Rows in the transaction that is open. */
  #pending = 0;
  /** The policies whose flows the newest segment has, as far as they were asked for lately. */
  readonly #policies = new Map<string, number>();

  /** Opens the file, or makes it. Throws when that cannot be done. */
  constructor(options: StoreOptions) {
    this.#options = options;
    options.files.makeOwnDirectory(options.directory);
    try {
      this.#db = this.#open();
    } catch (error) {
      if (!isCorrupt(error)) throw error;
      this.#db = this.#anew(error);
    }
  }

  /** Adds a flow that has ended. It is kept when `commit` has returned. Throws, and then it is not. */
  add(flow: Flow, policy: string, end: number, estimated: boolean): void {
    this.#guard(() => {
      if (this.#pending === 0) this.#db.exec('BEGIN');
      this.#pending++;
      const { start, snat, dnat, counters } = flow;
      this.#insert.run(
        flow.source,
        flow.destination,
        flow.translatedSource,
        dnat ? flow.translatedDestination : null,
        flow.sourcePort,
        flow.destinationPort,
        flow.translatedSourcePort,
        dnat ? flow.translatedDestinationPort : null,
        flow.protocol,
        flow.zone,
        Math.floor(start),
        Math.ceil(end),
        VERDICTS.indexOf(flow.verdict) |
          (dnat ? FLAG_DNAT : 0) |
          (snat ? FLAG_SNAT : 0) |
          (estimated ? FLAG_ESTIMATED : 0) |
          (counters ? FLAG_COUNTED : 0),
        this.#policyNumber(policy),
        flow.counter(0),
        flow.counter(1),
        flow.counter(2),
        flow.counter(3),
      );
      const segment = this.#segments.at(-1)!;
      segment.first = Math.min(segment.first, start);
      segment.last = Math.max(segment.last, end);
    });
  }

  /**
   * Keeps what was added, and drops what is too old or too much. Throws when that cannot be done: then nothing of
   * what was added since the last time is kept.
   * @returns how many flows were added
   */
  commit(): number {
    const added = this.#pending;
    this.#guard(() => {
      if (added > 0) {
        this.#saveSegment(this.#segments.at(-1)!);
        this.#db.exec('COMMIT');
        this.#pending = 0;
      }
      this.#bound();
    });
    return added;
  }

  /** Flows that were added and not yet committed. */
  get pending(): number {
    return this.#pending;
  }

  /** Stores when events were lost. */
  addGap({ from, to, lost }: Gap): void {
    this.#guard(() => {
      this.#db.prepare('INSERT INTO gaps VALUES (?, ?, ?)').run(Math.floor(from), Math.ceil(to), lost);
      this.#db.prepare('DELETE FROM gaps WHERE rowid <= (SELECT max(rowid) FROM gaps) - ?').run(MAX_GAPS);
    });
  }

  /** The gaps that touch the time of a lookup, the newest first. */
  gaps({ from, to }: Pick<Lookup, 'from' | 'to'>): { from: number; to: number; lost: number }[] {
    return this.#guard(() => {
      const rows = this.#db
        .prepare('SELECT "from", "to", lost FROM gaps WHERE "from" <= ? AND "to" >= ? ORDER BY rowid DESC')
        .all(to, from) as unknown as { from: number; to: number; lost: number }[];
      return rows.filter((row) => isDate(row.from) && isDate(row.to) && typeof row.lost === 'number');
    });
  }

  /** Every flow that ended after this is kept, apart from the gaps: when the oldest segment was begun. Unix, ms. */
  get since(): number {
    return this.#segments[0]!.created;
  }

  /** The flows that were asked for, the newest first, at most `lookup.limit`. */
  find(lookup: Lookup): FlowView[] {
    return [...this.findInParts(lookup)].flat();
  }

  /** The same a segment at a time, so that the caller can do something else in between. */
  *findInParts(lookup: Lookup): Generator<FlowView[]> {
    const { where, values } = conditions(lookup);
    let left = lookup.limit;
    for (const { n } of this.#segments.toReversed()) {
      // It may have been dropped since.
      const segment = this.#segments.find((candidate) => candidate.n === n);
      if (segment === undefined || segment.first > lookup.to || segment.last < lookup.from) continue;
      const rows = this.#guard(() =>
        this.#db
          .prepare(
            `SELECT ${COLUMNS}, name FROM flows_${n} LEFT JOIN policies ON id = policy
             WHERE ${where} ORDER BY start DESC LIMIT ?`,
          )
          .all(...values, left),
      );
      left -= rows.length;
      yield rows.flatMap(viewRow);
      if (left === 0) return;
    }
  }

  close(): void {
    if (this.#pending > 0) this.commit();
    this.#db.close();
  }

  /** The file, and the two that SQLite keeps beside it. */
  #paths(): string[] {
    return ['', '-wal', '-shm'].map((suffix) => join(this.#options.directory, FILE + suffix));
  }

  #open(): DatabaseSync {
    const { files, maxBytes } = this.#options;
    try {
      for (const file of this.#paths()) files.checkState(file, 2 * maxBytes + SEGMENT_BYTES);
    } catch (error) {
      throw corrupt(textOf(error));
    }
    const db = new DatabaseSync(this.#paths()[0]!);
    try {
      db.exec(`
        PRAGMA trusted_schema = OFF;
        PRAGMA page_size = ${PAGE};
        PRAGMA journal_mode = WAL;
        PRAGMA synchronous = OFF;
        PRAGMA temp_store = MEMORY;
        PRAGMA cache_size = -${CACHE};
        PRAGMA wal_autocheckpoint = ${WAL_PAGES};
        PRAGMA journal_size_limit = ${WAL_PAGES * PAGE};`);
      const version = number(db, 'PRAGMA user_version');
      const fresh = number(db, 'SELECT count(*) FROM sqlite_schema') === 0;
      if (fresh) {
        db.exec(`
          BEGIN;
          ${TABLES.join(';')};
          PRAGMA user_version = ${SCHEMA};
          COMMIT;`);
      } else if (version !== SCHEMA) {
        throw corrupt(`it has layout ${version}`);
      }
      this.#use(db);
    } catch (error) {
      db.close();
      throw error;
    }
    return db;
  }

  /** Reads what the file has, and goes on with its newest segment. */
  #use(db: DatabaseSync): void {
    const readTables = () => {
      const rows = db.prepare('SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL').all();
      return new Set(rows.map(({ sql }) => sql as string));
    };
    let found = readTables();
    if (found.has(POLICIES_BEFORE)) {
      db.exec('ALTER TABLE policies ADD COLUMN last INTEGER');
      found = readTables();
    }
    // A view or a trigger in the place of one of them could do anything.
    if (!TABLES.every((table) => found.has(table))) throw corrupt('it lacks a table');
    const segments = db.prepare('SELECT * FROM segments ORDER BY n').all() as unknown as Segment[];
    if (!segments.every(isSegment)) throw corrupt('it has segments that make no sense');
    const expected = [...TABLES, ...segments.flatMap(({ n }) => segmentTables(n))];
    if (found.size !== expected.length || !expected.every((one) => found.has(one))) {
      throw corrupt('its tables are not those of the translation log');
    }
    this.#segments = segments;
    const newest = this.#segments.at(-1);
    if (newest === undefined) this.#beginSegment(db);
    else this.#writeTo(db, newest);
    db.prepare('UPDATE policies SET last = ? WHERE last IS NULL').run(this.#segments.at(-1)!.n);
  }

  #beginSegment(db: DatabaseSync): void {
    const now = this.#options.now();
    const n = (this.#segments.at(-1)?.n ?? 0) + 1;
    const segment = { n, created: now, base: pagesUsed(db), first: now, last: now };
    db.exec(`BEGIN; ${segmentTables(n).join(';')}`);
    db.prepare('INSERT INTO segments VALUES (?, ?, ?, ?, ?)').run(n, now, segment.base, now, now);
    db.exec('COMMIT');
    this.#segments.push(segment);
    this.#writeTo(db, segment);
  }

  #writeTo(db: DatabaseSync, { n }: Segment): void {
    this.#policies.clear();
    this.#insert = db.prepare(
      `INSERT INTO flows_${n} (${COLUMNS}) VALUES (${COLUMNS.replaceAll(/\w+/g, '?')})`,
    );
  }

  #saveSegment({ n, created, base, first, last }: Segment): void {
    this.#db
      .prepare('UPDATE segments SET created = ?, base = ?, first = ?, last = ? WHERE n = ?')
      .run(created, base, first, last, n);
  }

  /** Begins a new segment when the newest has its share of size or age; drops those that are too much. */
  #bound(): void {
    const db = this.#db;
    const { maxBytes, maxAge, now } = this.#options;
    const pages = maxBytes / PAGE;
    const newest = this.#segments.at(-1)!;
    const large = pagesUsed(db) - newest.base >= Math.min(SEGMENT_BYTES / PAGE, pages / SEGMENTS);
    const old = newest.last > newest.created && now() - newest.created >= maxAge / SEGMENTS;
    if (large || old) this.#beginSegment(db);
    for (;;) {
      const [oldest, ...rest] = this.#segments;
      const before = pagesUsed(db);
      if (rest.length === 0 || (before <= pages && oldest!.last >= now() - maxAge)) return;
      db.exec(`
        BEGIN;
        DROP TABLE flows_${oldest!.n};
        DELETE FROM segments WHERE n = ${oldest!.n};
        DELETE FROM policies WHERE last <= ${oldest!.n};
        COMMIT;`);
      this.#segments = rest;
      for (const segment of rest) {
        segment.base -= before - pagesUsed(db);
        this.#saveSegment(segment);
      }
    }
  }

  /** The number of a policy's name. The name is kept as long as a segment with its flows. */
  #policyNumber(name: string): number {
    const known = this.#policies.get(name);
    if (known !== undefined) return known;
    const { id } = this.#db
      .prepare(
        `INSERT INTO policies (name, last) VALUES (?, ?)
         ON CONFLICT (name) DO UPDATE SET last = excluded.last RETURNING id`,
      )
      .get(name, this.#segments.at(-1)!.n) as { id: number };
    if (this.#policies.size >= MAX_POLICIES) this.#policies.clear();
    this.#policies.set(name, id);
    return id;
  }

  /** Deletes the file and creates a new one. */
  #anew(error: unknown): DatabaseSync {
    this.#options.onAnew(textOf(error));
    for (const file of this.#paths()) this.#options.files.clear(file);
    return this.#open();
  }

  /** Runs a statement. An error ends the open transaction; a corrupt file is replaced. */
  #guard<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      this.#pending = 0;
      if (isCorrupt(error)) {
        this.#db.close();
        this.#db = this.#anew(error);
      } else if (this.#db.isTransaction) {
        this.#db.exec('ROLLBACK');
        // Names that were new in it are not there now.
        this.#policies.clear();
      }
      throw error;
    }
  }
}

/** The one number that a statement yields. */
const number = (db: DatabaseSync, sql: string): number =>
  Number(Object.values(db.prepare(sql).get() ?? {})[0]);

const pagesUsed = (db: DatabaseSync): number =>
  number(db, 'PRAGMA page_count') - number(db, 'PRAGMA freelist_count');

/** A lookup as SQL. */
function conditions(lookup: Lookup): { where: string; values: SQLInputValue[] } {
  const parts: string[] = ['start <= ?', 'end >= ?'];
  const values: SQLInputValue[] = [lookup.to, lookup.from];
  /** One of these columns (and the port column with it) is the endpoint. */
  const at = (endpoint: Endpoint | undefined, ...columns: string[]) => {
    if (endpoint === undefined) return;
    const { address, port } = endpoint;
    const either = columns.map((column) => {
      values.push(address, ...(port === undefined ? [] : [port]));
      const [name, condition = ''] = column.split(':');
      return `(${name} = ?${port === undefined ? '' : ` AND ${name}_port = ?`}${condition})`;
    });
    parts.push(`(${either.join(' OR ')})`);
  };
  at(lookup.internal, 'source', 'inside');
  at(lookup.external, 'outside', 'destination: AND inside IS NOT NULL');
  at(lookup.dest, 'destination', 'inside');
  if (lookup.protocols !== undefined) {
    parts.push(`protocol IN (${lookup.protocols.map(() => '?').join(', ')})`);
    values.push(...lookup.protocols);
  }
  return { where: parts.join(' AND '), values };
}

const isDate = (value: unknown): boolean => typeof value === 'number' && value >= 0 && value <= LAST_DATE;

function isSegment({ n, created, base, first, last }: Segment): boolean {
  return Number.isSafeInteger(n) && n > 0 && [created, base, first, last].every(Number.isFinite);
}

/** The flow of a row; none when it cannot be one. */
function viewRow(row: Record<string, unknown>): FlowView[] {
  const flags = row.flags as number;
  const dnat = (flags & FLAG_DNAT) !== 0;
  const source = row.source as Uint8Array;
  const addresses = ['destination', 'outside', ...(dnat ? ['inside'] : [])].map((name) => row[name]);
  const wellFormed =
    source instanceof Uint8Array &&
    [4, 16].includes(source.length) &&
    addresses.every((octets) => octets instanceof Uint8Array && octets.length === source.length) &&
    NUMBERS.every((name) => typeof row[name] === 'number' || (name === 'inside_port' && !dnat)) &&
    isDate(row.start) &&
    isDate(row.end) &&
    VERDICTS[flags & 3] !== 'replica';
  return wellFormed ? [flowOf(row, flags, source, dnat)] : [];
}

function flowOf(row: Record<string, unknown>, flags: number, source: Uint8Array, dnat: boolean): FlowView {
  return {
    family: source.length === 4 ? 4 : 6,
    protocol: row.protocol as number,
    zone: row.zone as number,
    verdict: VERDICTS[flags & 3]!,
    natType: natTypes((flags & FLAG_SNAT) !== 0, dnat),
    policy: (row.name as string | null) ?? '',
    source,
    sourcePort: row.source_port as number,
    destination: row.destination as Uint8Array,
    destinationPort: row.destination_port as number,
    translatedSource: row.outside as Uint8Array,
    translatedSourcePort: row.outside_port as number,
    translatedDestination: (dnat ? row.inside : row.destination) as Uint8Array,
    translatedDestinationPort: (dnat ? row.inside_port : row.destination_port) as number,
    start: row.start as number,
    end: row.end as number,
    ...((flags & FLAG_ESTIMATED) === 0 ? {} : { endEstimated: true as const }),
    ...((flags & FLAG_COUNTED) === 0
      ? {}
      : {
          counters: {
            originalPackets: row.original_packets as number,
            originalBytes: row.original_bytes as number,
            replyPackets: row.reply_packets as number,
            replyBytes: row.reply_bytes as number,
          },
        }),
  };
}
