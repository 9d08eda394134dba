/**
 * Which sources have the most connections, while that matters: the connection tracking table fills, or a source has as
 * many as it may. Reading the table is expensive, so it is read only then, at most once a minute.
 */

import { networkInterfaces } from 'node:os';
import type { Logger } from '../../lib/log.ts';
import { type Address, addressFromBytes, type Prefix, parsePrefix } from '../../lib/prefix.ts';
import { Groups } from '../../nat/conntrack/groups.ts';
import { type ConntrackEntry, isReplica } from '../../nat/conntrack/wire.ts';
import { type PrefixMatcher, prefixMatcher } from '../../nat/prefix-matcher.ts';
import { CONNTRACK } from '../uplink/conntrack-health.ts';
import { eachConntrackEntry } from './conntrack-dump.ts';
import type { ConntrackUse } from './conntrack-table.ts';

export interface BusySource {
  source: Address;
  connections: number;
}

/** The sources with most connections, most first. */
export interface Busiest {
  all: BusySource[];
  /** By the connections that the limit is about: those that the VPC has opened through the gateway. */
  fromVpc: BusySource[];
}

/** The number of sources that are named. */
const NAMED = 3;
/** How long a reading is valid, ms; the table is read, and the sources are logged, again after it. */
const FRESH = 60_000;

/** Whether an entry leads to an EIP or DNAT: then its source is outside. */
const isRedirected = ({ original, reply }: ConntrackEntry): boolean =>
  Buffer.compare(original.destination, reply.source) !== 0;

/**
 * Whether a connection comes out of the VPC: neither end is the gateway's own, and it is not one from outside to a block that
 * is forwarded unchanged.
 */
export function isFromVpc(
  { original, reply }: ConntrackEntry,
  own: PrefixMatcher | undefined,
  forwarded: PrefixMatcher | undefined,
): boolean {
  const { source, destination } = original;
  if (own?.has(source) || own?.has(destination)) return false;
  const translated = Buffer.compare(source, reply.destination) !== 0;
  return translated || !forwarded?.has(destination) || forwarded.has(source);
}

/** Counts the connections of each source; a replica is a connection of another gateway. */
export class SourceCounter {
  readonly #groups = new Groups();
  readonly #counts: number[] = [];
  /** The leading sources, the only ones whose address is kept. */
  readonly #leaders = new Map<number, Address>();

  add(entry: ConntrackEntry): void {
    if (isReplica(entry) || isRedirected(entry)) return;
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

  /** The sources with most entries, most first. */
  top(): BusySource[] {
    return [...this.#leaders]
      .map(([number, source]) => ({ source, connections: this.#counts[number]! }))
      .sort((a, b) => b.connections - a.connections);
  }
}

export interface BusiestSourcesParts {
  /** The use of the table; undefined where it is unknown. */
  use(): ConntrackUse | undefined;
  /** `limits.connectionsPerSource`; 0: none. */
  limit(): number;
  /** The packets that the limit has dropped so far, both families. */
  limited(): Promise<number>;
  /** Reads the table. */
  read(): Promise<Busiest>;
  logger: Pick<Logger, 'warn'>;
  /** Milliseconds of a monotonic clock. */
  clock(): number;
}

export class BusiestSources {
  readonly #parts: BusiestSourcesParts;
  /** What the limit had dropped at the last check, and when it was last logged. */
  #seen: number | undefined;
  #logged = 0;
  #sources: BusySource[] = [];
  #readAt = Number.NEGATIVE_INFINITY;
  #mattersAt = Number.NEGATIVE_INFINITY;
  #checking = false;

  constructor(parts: BusiestSourcesParts) {
    this.#parts = parts;
  }

  /** While the table fills those with most connections, else those at the limit, most first; empty while neither matters. */
  get sources(): readonly BusySource[] {
    return this.#parts.clock() - this.#mattersAt < FRESH ? this.#sources : [];
  }

  /** Checks whether it matters, and reads the table then. Never rejects. */
  async check(): Promise<void> {
    if (this.#checking) return;
    this.#checking = true;
    try {
      await this.#check();
    } catch (error) {
      this.#parts.logger.warn(
        { reason: (error as Error).message },
        'cannot find the sources with most connections',
      );
    } finally {
      this.#checking = false;
    }
  }

  async #check(): Promise<void> {
    const { use, limit, limited, read, logger, clock } = this.#parts;
    const { entries, limit: room } = use() ?? { entries: 0, limit: 0 };
    const fills = room > 0 && entries / room >= CONNTRACK.warn;
    const dropped = await limited();
    // Packets that were dropped before this process started are not news.
    if (this.#seen === undefined) this.#logged = dropped;
    const grew = dropped > (this.#seen ?? dropped);
    this.#seen = dropped;
    if (!fills && !grew) return;
    const now = clock();
    this.#mattersAt = now;
    if (now - this.#readAt < FRESH) return;
    this.#readAt = now;
    const { all, fromVpc } = await read();
    const atLimit = fromVpc.filter(({ connections }) => connections >= limit());
    this.#sources = fills ? all : atLimit;
    if (fills) {
      const what = 'the connection tracking table is filling up';
      logger.warn({ entries, limit: room, sources: all }, what);
    }
    if (grew) {
      const [packets, connectionsPerSource] = [dropped - this.#logged, limit()];
      this.#logged = dropped;
      const what = 'connections beyond limits.connectionsPerSource are dropped';
      logger.warn({ connectionsPerSource, packets, sources: atLimit }, what);
    }
  }
}

/**
 * The sources with most entries in the kernel's table. `forwarded`: the blocks that are forwarded unchanged. Throws when the
 * table cannot be read.
 */
export async function readBusiestSources(forwarded: readonly Prefix[]): Promise<Busiest> {
  const links = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  const own = prefixMatcher(links.flatMap(({ address }) => parsePrefix(address) ?? []));
  const blocks = prefixMatcher(forwarded);
  const [all, fromVpc] = [new SourceCounter(), new SourceCounter()];
  await eachConntrackEntry((entry) => {
    all.add(entry);
    if (isFromVpc(entry, own, blocks)) fromVpc.add(entry);
  });
  return { all: all.top(), fromVpc: fromVpc.top() };
}
