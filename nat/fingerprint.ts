/**
 * A cheap check for drift that no netlink event announces: changes of ipsets and of legacy tables. (Rules of nf_tables
 * have events.)
 *
 * Of a set it reads the header (number of elements, size in memory) without the elements; of a legacy table the whole
 * blob, with the counters masked out.
 */
import { createHash } from 'node:crypto';
import * as system from '../lib/libc.ts';
import {
  AF_INET,
  AF_INET6,
  AF_NETLINK,
  NFGEN_HEADER,
  NLA_F_NET_BYTEORDER,
  NLM_F_DUMP,
  NLM_F_REQUEST,
  NLMSG_MIN_TYPE,
  SOCK_DGRAM,
  SOCK_RAW,
} from '../lib/linux.ts';
import { Protocol } from '../lib/netlink.ts';
import {
  Attributes,
  attribute,
  formatMessage,
  Messages,
  nfgenHeader,
  u8,
  u32Be,
} from '../lib/netlink-codec.ts';
import { FAMILIES, type Family } from '../lib/prefix.ts';
import { OWNED_NAME_PREFIX } from '../routing/numbers.ts';
import type { ObservedNat } from './kernel.ts';
import type { NatState } from './state.ts';

/** The libc calls that are needed. */
export type FingerprintLibc = Pick<typeof system, 'socket' | 'close' | 'getsockopt' | 'sendto' | 'recv'>;

/** linux/netfilter/ipset/ip_set.h */
const NFNL_SUBSYS_IPSET = 6;
const IPSET_CMD_LIST = 7;
const IPSET_PROTOCOL = 6;
const IPSET_ATTR_PROTOCOL = 1;
const IPSET_ATTR_SETNAME = 2;
const IPSET_ATTR_FLAGS = 6;
const IPSET_FLAG_LIST_HEADER = 4;

/** A request for the headers of all sets, without their elements. */
const listHeadersRequest = (): Buffer =>
  Buffer.concat(
    formatMessage({
      type: (NFNL_SUBSYS_IPSET << 8) | IPSET_CMD_LIST,
      flags: NLM_F_REQUEST | NLM_F_DUMP,
      seq: 0,
      port: 0,
      data: Buffer.concat([
        nfgenHeader(AF_INET),
        attribute(IPSET_ATTR_PROTOCOL, u8(IPSET_PROTOCOL)),
        attribute(IPSET_ATTR_FLAGS | NLA_F_NET_BYTEORDER, u32Be(IPSET_FLAG_LIST_HEADER)),
      ]),
    }),
  );

/** The name of the set in a reply. */
function setName(payload: Buffer): string {
  const attributes = new Attributes(payload, NFGEN_HEADER);
  while (attributes.next()) if (attributes.type === IPSET_ATTR_SETNAME) return attributes.string;
  return '';
}

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
export function createFingerprint(libc: FingerprintLibc = system): {
  /**
   * A hash of the sets and legacy tables of an applied state. While it stays equal, nothing changed there but counters, or
   * elements of a set one for one. It covers no sets after a failed dump, and no part that needs a capability which the
   * process lacks. Never throws.
   */
  read(backend: ObservedNat['backend'], applied: NatState): string;
  close(): void;
} {
  const sockets = new Map<number, number>();
  const buffer = Buffer.alloc(32 << 10);

  function socket(domain: number, type: number, protocol: number): number {
    const fd = sockets.get(domain) ?? libc.socket(domain, type, protocol);
    sockets.set(domain, fd);
    return fd;
  }

  function closeSocket(domain: number): void {
    const fd = sockets.get(domain);
    sockets.delete(domain);
    if (fd !== undefined) libc.close(fd);
  }

  function readSets(update: (part: Buffer) => void): void {
    const fd = socket(AF_NETLINK, SOCK_RAW, Protocol.NETFILTER);
    if (libc.sendto(fd, listHeadersRequest()) < 0) return;
    for (;;) {
      const length = libc.recv(fd, buffer);
      // The rest of this dump must not be read as the reply to the next request.
      if (length < 0) {
        closeSocket(AF_NETLINK);
        return;
      }
      const messages = new Messages(buffer, length);
      while (messages.next()) {
        if (messages.type < NLMSG_MIN_TYPE) return;
        const payload = messages.data;
        if (setName(payload).startsWith(OWNED_NAME_PREFIX)) update(payload);
      }
    }
  }

  function readTable(family: Family, table: string, update: (part: Buffer) => void): void {
    const { domain, level, next, counters } = LAYOUT[family];
    const fd = socket(domain, SOCK_DGRAM, 0);
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
      const hash = createHash('sha1');
      const update = (part: Buffer): void => void hash.update(part);
      try {
        if (applied.sets.size > 0) readSets(update);
        for (const family of FAMILIES) {
          if (backend[family] !== 'legacy') continue;
          for (const table of applied.tables[family].keys()) readTable(family, table, update);
        }
      } catch (error) {
        // EPERM: the process lacks the capability. Any other error (a table resized between the two calls) is drift.
        if ((error as NodeJS.ErrnoException).code !== 'EPERM') hash.update(String(error));
      }
      return hash.digest('base64');
    },
    close() {
      for (const domain of [...sockets.keys()]) closeSocket(domain);
    },
  };
}
