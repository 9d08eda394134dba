/**
 * Which port blocks were in force when: who was behind an address and a port follows from them, with no record of
 * any flow. Pure.
 */

import {
  type Address,
  addressFromBytes,
  FAMILIES,
  type Family,
  familyOf,
  type Prefix,
  parseAddress,
  parsePrefix,
} from '../../lib/prefix.ts';
import type { Lookup } from '../../nat/conntrack/lookup.ts';
import { LAST_DATE } from '../../nat/conntrack/table.ts';
import type { FamilyNat } from '../../nat/desired.ts';
import {
  BLOCK_PORTS,
  blockOf,
  isDivided,
  type PortBlock,
  type PortBlocks,
  sourceOf,
} from '../../nat/port-blocks.ts';

/** The port blocks of a policy in one family. */
export interface PolicyBlocks extends PortBlocks {
  policy: string;
}

/** The port blocks of a family from one time on (Unix, ms), until those of the next entry. */
export interface HistoryEntry {
  family: Family;
  from: number;
  /** Empty: there were none. */
  policies: PolicyBlocks[];
}

/** A source and its block in a policy that was in force at the time. */
export interface ComputedTranslation {
  policy: string;
  sourceIP: Address;
  externalIP: Address;
  /** The ports of the source, of ICMP the identifiers; both included. */
  ports: { start: number; end: number };
  /** Since when that is so, and until when; absent while it is. */
  since: string;
  until?: string;
}

/** How long entries are kept that are no longer in force: as long as ended flows. */
const MAX_AGE = 7 * 24 * 3600 * 1000;
/** Characters of all entries as JSON, at most, unless those in force take more. */
const MAX_SIZE = 4 << 20;

/** The port blocks that NAT makes in a family. */
export const portBlocksOf = ({ policies = [] }: FamilyNat): PolicyBlocks[] =>
  policies.flatMap(({ name, action, sources }) =>
    typeof action === 'string' || action.portBlockSize === undefined
      ? []
      : [{ policy: name, sources, addresses: action.snat, size: action.portBlockSize }],
  );

/** Octets and values of a history as JSON beyond which it is not read again. */
export const HISTORY_BOUNDS = { octets: MAX_SIZE + (1 << 20), values: 1 << 19 } as const;

/** The entries of a history as JSON, if they are such as `PortHistory` has. */
export function parseHistory(entries: unknown): HistoryEntry[] | undefined {
  const isEntry = (entry: Partial<HistoryEntry> | null): boolean =>
    (entry?.family === 4 || entry?.family === 6) &&
    isTime(entry.from) &&
    Array.isArray(entry.policies) &&
    entry.policies.every((blocks) => arePolicyBlocks(blocks, entry.family!));
  return Array.isArray(entries) && entries.every(isEntry) ? entries : undefined;
}

const isTime = (value: unknown): boolean => typeof value === 'number' && value >= 0 && value <= LAST_DATE;

function arePolicyBlocks(blocks: Partial<PolicyBlocks> | null, family: Family): boolean {
  const { policy, sources, addresses, size } = blocks ?? {};
  const areAll = <T extends Address | Prefix>(
    list: readonly T[] | undefined,
    parse: (text: string) => T | undefined,
  ): boolean =>
    Array.isArray(list) &&
    list.length > 0 &&
    list.every((text) => typeof text === 'string' && parse(text) === text && familyOf(text as T) === family);
  return (
    typeof policy === 'string' &&
    areAll(sources, parsePrefix) &&
    areAll(addresses, parseAddress) &&
    Number.isInteger(size) &&
    size! >= 1 &&
    size! <= BLOCK_PORTS
  );
}

export class PortHistory {
  /** Oldest first. */
  #entries: HistoryEntry[];
  /** The size of each as JSON. */
  readonly #sizes = new WeakMap<HistoryEntry, number>();

  /** `entries`: what `entries` was when it was kept. */
  constructor(entries: readonly HistoryEntry[] = []) {
    this.#entries = [...entries];
  }

  get entries(): readonly HistoryEntry[] {
    return this.#entries;
  }

  /** Whether there were any port blocks in the time that is remembered. */
  get any(): boolean {
    return this.#entries.some(({ policies }) => policies.length > 0);
  }

  /**
   * These are in force from now on. Returns whether that is news. `retention`: the time by which entries grow old.
   */
  record(family: Family, policies: PolicyBlocks[], now: number, retention = now): boolean {
    const last = this.#entries.findLast((entry) => entry.family === family);
    if (JSON.stringify(last?.policies ?? []) === JSON.stringify(policies)) return false;
    this.#entries.push({ family, from: now, policies });
    this.#forget(retention);
    return true;
  }

  /** Who had the external port, or which ports the internal address had, in the time that is asked for. */
  answers(lookup: Lookup): ComputedTranslation[] {
    const { internal, external, protocols, from, to, limit } = lookup;
    if (protocols !== undefined && !protocols.some(isDivided)) return [];
    const found: ComputedTranslation[] = [];
    for (const family of FAMILIES) {
      const entries = this.#entries.filter((entry) => entry.family === family);
      entries.forEach((entry, i) => {
        const until = entries[i + 1]?.from;
        if (entry.from > to || (until ?? Number.POSITIVE_INFINITY) <= from) return;
        for (const blocks of entry.policies) {
          const one = translation(blocks, internal?.address, external);
          if (one === undefined) continue;
          const { source, block } = one;
          add(found, {
            policy: blocks.policy,
            sourceIP: source,
            externalIP: block.address,
            ports: { start: block.first, end: block.last },
            since: new Date(entry.from).toISOString(),
            ...(until !== undefined && { until: new Date(until).toISOString() }),
          });
        }
      });
    }
    return found.sort((a, b) => (a.since < b.since ? 1 : -1)).slice(0, limit);
  }

  /** Drops what is too old or too much, but never what is in force. */
  #forget(now: number): void {
    const size = (entry: HistoryEntry): number => {
      const known = this.#sizes.get(entry) ?? JSON.stringify(entry).length;
      this.#sizes.set(entry, known);
      return known;
    };
    let total = this.#entries.reduce((sum, entry) => sum + size(entry), 0);
    this.#entries = this.#entries.filter((entry, i) => {
      const next = this.#entries.find((other, j) => j > i && other.family === entry.family);
      if (next === undefined || (next.from >= now - MAX_AGE && total <= MAX_SIZE)) return true;
      total -= size(entry);
      return false;
    });
  }
}

/** The source that is asked for, by either side, and its block. */
function translation(
  blocks: PortBlocks,
  internal: Uint8Array | undefined,
  external: Lookup['external'],
): { source: Address; block: PortBlock } | undefined {
  const outside = external && addressFromBytes(external.address);
  if (internal === undefined) {
    if (outside === undefined || external?.port === undefined) return undefined;
    return sourceOf(blocks, outside, external.port);
  }
  const source = addressFromBytes(internal);
  const block = familyOf(source) === familyOf(blocks.sources[0]!) ? blockOf(blocks, source) : undefined;
  if (block === undefined || (outside !== undefined && outside !== block.address)) return undefined;
  const { port = block.first } = external ?? {};
  return port < block.first || port > block.last ? undefined : { source, block };
}

/** Adds a translation, or extends the one before it if they are equal. */
function add(found: ComputedTranslation[], one: ComputedTranslation): void {
  const { since, until, ...what } = one;
  const same = found.find((other) => {
    const { since: _, until: end, ...rest } = other;
    return end === since && JSON.stringify(rest) === JSON.stringify(what);
  });
  if (same === undefined) found.push(one);
  else if (until === undefined) delete same.until;
  else same.until = until;
}
