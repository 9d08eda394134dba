/**
 * A cheap check for drift that no netlink event announces: changes of ipsets and of legacy tables. (Rules of nf_tables
 * have events.)
 *
 * Of a set it reads the header (number of elements, size in memory) without the elements; of a legacy table the whole
 * blob, with the counters masked out.
 */
import type { Hash } from 'node:crypto';
import * as system from '../lib/libc.ts';
import { AF_INET, AF_INET6, SOCK_DGRAM } from '../lib/linux.ts';
import { FAMILIES, type Family } from '../lib/prefix.ts';
import type { ObservedNat } from './kernel.ts';
import { SetHeaders, type SetLibc } from './set-headers.ts';
import type { NatState } from './state.ts';

/** The libc calls that are needed. */
export type FingerprintLibc = SetLibc & Pick<typeof system, 'getsockopt'>;

/** linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h; both have the same option numbers. */
const IPT_SO_GET_INFO = 64;
const IPT_SO_GET_ENTRIES = 65;
const GETINFO = { length: 84, size: 80 };
const GET_ENTRIES = { size: 32, entries: 40 };
/** Socket domain and option level; where in struct ipt_entry / ip6t_entry next_offset and the counters are. */
const LAYOUT: Record<Family, { domain: number; level: number; next: number; counters: number }> = {
  4: { domain: AF_INET, level: 0, next: 90, counters: 96 },
  6: { domain: AF_INET6, level: 41, next: 142, counters: 152 },
};

/**
 * The reader of fingerprints; it keeps its sockets open until `close`.
 */
export function createFingerprint(
  libc: FingerprintLibc = system,
  headers: SetHeaders = new SetHeaders(libc),
): {
  /**
   * A hash of the sets and legacy tables of an applied state; empty without any. While it stays equal, nothing changed
   * there but counters, or elements of a set one for one. It covers no sets after a failed dump, and no part that needs a
   * capability which the process lacks. Never throws.
   */
  read(backend: ObservedNat['backend'], applied: NatState): string;
  close(): void;
} {
  const sockets = new Map<number, number>();

  function socket(domain: number): number {
    const fd = sockets.get(domain) ?? libc.socket(domain, SOCK_DGRAM, 0);
    sockets.set(domain, fd);
    return fd;
  }

  function readTable(family: Family, table: string, update: (part: Buffer) => void): void {
    const { domain, level, next, counters } = LAYOUT[family];
    const fd = socket(domain);
    const info = Buffer.alloc(GETINFO.length);
    info.write(table, 'latin1');
    libc.getsockopt(fd, level, IPT_SO_GET_INFO, info);
    const blob = Buffer.alloc(GET_ENTRIES.entries + info.readUInt32LE(GETINFO.size));
    blob.write(table, 'latin1');
    blob.writeUInt32LE(blob.length - GET_ENTRIES.entries, GET_ENTRIES.size);
    libc.getsockopt(fd, level, IPT_SO_GET_ENTRIES, blob);
    for (let at = GET_ENTRIES.entries; at + counters + 16 <= blob.length; ) {
      blob.fill(0, at + counters, at + counters + 16);
      at += Math.max(1, blob.readUInt16LE(at + next));
    }
    update(blob);
  }

  return {
    read(backend, applied) {
      let hash: Hash | undefined;
      const update = (part: Buffer | string): void => {
        // It takes an interpreter 10 ms to load: only where there is something to hash.
        hash ??= process.getBuiltinModule('node:crypto').createHash('sha1');
        hash.update(part);
      };
      try {
        if (applied.sets.size > 0) headers.read(update);
        for (const family of FAMILIES) {
          if (backend[family] !== 'legacy') continue;
          for (const table of applied.tables[family].keys()) readTable(family, table, update);
        }
      } catch (error) {
        // EPERM: the process lacks the capability. Any other error (a table resized between the two calls) is drift.
        if ((error as NodeJS.ErrnoException).code !== 'EPERM') update(String(error));
      }
      return hash?.digest('base64') ?? '';
    },
    close() {
      headers.close();
      for (const fd of sockets.values()) libc.close(fd);
      sockets.clear();
    },
  };
}
