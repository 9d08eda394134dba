/**
 * Who has most of the connections, when that is somebody's trouble: the connection tracking table fills, or a source
 * has as many as it may. Reading the table costs, so it is done then, and not often. Pure.
 */

import type { Logger } from '../../lib/log.ts';
import { type Address, addressFromBytes } from '../../lib/prefix.ts';
import { Groups } from '../../nat/conntrack/groups.ts';
import type { ConntrackEntry } from '../../nat/conntrack/wire.ts';
import { CONNTRACK } from '../uplink/conntrack-health.ts';
import type { ConntrackUse } from './conntrack-table.ts';

export interface BusySource {
  source: Address;
  connections: number;
}

/** Sources that are named. */
const NAMED = 3;
/** What was found counts for so long, ms; it is told again after it when the trouble goes on. */
const FRESH = 60_000;

/** Whether an entry leads to an EIP or DNAT: not a pod's doing, or not its alone. */
const isRedirected = ({ original, reply }: ConntrackEntry): boolean =>
  Buffer.compare(original.destination, reply.source) !== 0;

/** Counts the entries of each source. */
export class SourceCounter {
  readonly #groups = new Groups();
  readonly #counts: number[] = [];
  /** The sources that have led, the only ones of which the address is kept. */
  readonly #leaders = new Map<number, Address>();

  add(entry: ConntrackEntry): void {
    if (isRedirected(entry)) return;
    const { source } = entry.original;
    const number = this.#groups.numberOf(source);
    const count = (this.#counts[number] ?? 0) + 1;
    this.#counts[number] = count;
    if (this.#leaders.has(number)) return;
    if (this.#leaders.size < NAMED) {
      this.#leaders.set(number, addressFromBytes(source));
      return;
    }
    const least = [...this.#leaders.keys()].reduce((a, b) => (this.#counts[b]! < this.#counts[a]! ? b : a));
    if (count <= this.#counts[least]!) return;
    this.#leaders.delete(least);
    this.#leaders.set(number, addressFromBytes(source));
  }

  /** Those with most, the first first. */
  top(): BusySource[] {
    return [...this.#leaders]
      .map(([number, source]) => ({ source, connections: this.#counts[number]! }))
      .sort((a, b) => b.connections - a.connections);
  }
}

export interface BusiestParts {
  /** The table's use; undefined where the kernel does not tell. */
  use(): ConntrackUse | undefined;
  /** `limits.connectionsPerSource`; 0: none. */
  limit(): number;
  /** The packets that it has dropped so far, of both families. */
  limited(): Promise<number>;
  /** Reads the table. */
  read(): Promise<BusySource[]>;
  logger: Pick<Logger, 'warn'>;
  /** Milliseconds of a monotonic clock. */
  clock(): number;
}

/** Looks for trouble when it is asked to, and names who has most of the connections then. */
export class Busiest {
  readonly #parts: BusiestParts;
  /** What the limit had dropped at the last look, and when that was told last. */
  #seen: number | undefined;
  #told = 0;
  #sources: BusySource[] = [];
  #readAt = Number.NEGATIVE_INFINITY;
  #troubleAt = Number.NEGATIVE_INFINITY;
  #checking = false;

  constructor(parts: BusiestParts) {
    this.#parts = parts;
  }

  /** Those with most of the connections, the first first; empty while that is nobody's trouble. */
  get sources(): readonly BusySource[] {
    return this.#parts.clock() - this.#troubleAt < FRESH ? this.#sources : [];
  }

  /** Looks whether there is trouble. Never rejects. */
  async check(): Promise<void> {
    if (this.#checking) return;
    this.#checking = true;
    try {
      await this.#look();
    } catch (error) {
      this.#parts.logger.warn({ reason: (error as Error).message }, 'cannot tell who has most connections');
    } finally {
      this.#checking = false;
    }
  }

  async #look(): Promise<void> {
    const { use, limit, limited, read, logger, clock } = this.#parts;
    const { entries, limit: room } = use() ?? { entries: 0, limit: 0 };
    const fills = room > 0 && entries / room >= CONNTRACK.warn;
    const dropped = await limited();
    // What was dropped before this process began is no news.
    if (this.#seen === undefined) this.#told = dropped;
    const grew = dropped > (this.#seen ?? dropped);
    this.#seen = dropped;
    if (!fills && !grew) return;
    const now = clock();
    this.#troubleAt = now;
    if (now - this.#readAt < FRESH) return;
    this.#readAt = now;
    this.#sources = await read();
    const sources = this.#sources;
    if (fills) {
      const what = 'the connection tracking table fills; these sources have most of it';
      logger.warn({ entries, limit: room, sources }, what);
    }
    if (grew) {
      const [packets, connectionsPerSource] = [dropped - this.#told, limit()];
      this.#told = dropped;
      const what = 'connections beyond limits.connectionsPerSource are dropped; these sources have most';
      logger.warn({ connectionsPerSource, packets, sources }, what);
    }
  }
}
