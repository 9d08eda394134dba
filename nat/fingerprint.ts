/**
 * A cheap look whether somebody changed what nobody tells us about: netlink announces changes of nf_tables rules,
 * but none of sets and none of legacy tables.
 *
 * Of a set the kernel gives its header (number of elements, size in memory) without the elements; of a legacy
 * table the whole blob, in which the counters are masked out.
 */
import { createHash } from 'node:crypto';
import {
  AF_INET,
  AF_INET6,
  AF_NETLINK,
  NETLINK_NETFILTER,
  NFGEN_HEADER,
  NLM_F_DUMP,
  NLM_F_REQUEST,
  NLMSG_HEADER,
  SOCK_DGRAM,
  SOCK_RAW,
} from '../lib/linux.ts';
import { FAMILIES, type Family } from '../lib/prefix.ts';
import { OWNED_NAME_PREFIX } from '../routing/numbers.ts';
import type { ObservedNat } from './kernel.ts';
import type { NatState } from './state.ts';

/** The libc calls that are needed, as `lib/libc.ts` has them; `sendto` and `recv` return a negative errno. */
export interface Libc {
  socket(domain: number, type: number, protocol: number): number;
  close(fd: number): void;
  getsockopt(fd: number, level: number, name: number, value: Uint8Array): number;
  sendto(fd: number, data: Uint8Array): number;
  recv(fd: number, data: Uint8Array): number;
}

/** Message types below are netlink's own: NLMSG_ERROR, NLMSG_DONE. */
const NLMSG_MIN_TYPE = 16;

/** linux/netfilter/ipset/ip_set.h */
const NFNL_SUBSYS_IPSET = 6;
const IPSET_CMD_LIST = 7;
const IPSET_PROTOCOL = 6;
const IPSET_ATTR_PROTOCOL = 1;
const IPSET_ATTR_SETNAME = 2;
const IPSET_ATTR_FLAGS = 6;
const IPSET_FLAG_LIST_HEADER = 4;
const NLA_F_NET_BYTEORDER = 0x4000;

function listHeadersRequest(): Buffer {
  const message = Buffer.alloc(NLMSG_HEADER + NFGEN_HEADER + 8 + 8);
  message.writeUInt32LE(message.length, 0);
  message.writeUInt16LE((NFNL_SUBSYS_IPSET << 8) | IPSET_CMD_LIST, 4);
  message.writeUInt16LE(NLM_F_REQUEST | NLM_F_DUMP, 6);
  message.writeUInt8(AF_INET, NLMSG_HEADER);
  let at = NLMSG_HEADER + NFGEN_HEADER;
  message.writeUInt16LE(5, at);
  message.writeUInt16LE(IPSET_ATTR_PROTOCOL, at + 2);
  message.writeUInt8(IPSET_PROTOCOL, at + 4);
  at += 8;
  message.writeUInt16LE(8, at);
  message.writeUInt16LE(IPSET_ATTR_FLAGS | NLA_F_NET_BYTEORDER, at + 2);
  message.writeUInt32BE(IPSET_FLAG_LIST_HEADER, at + 4);
  return message;
}

/** The name of the set that a reply is about. */
function setName(message: Buffer): string {
  for (let at = NLMSG_HEADER + NFGEN_HEADER; at + 4 <= message.length; ) {
    const length = message.readUInt16LE(at);
    if (message.readUInt16LE(at + 2) === IPSET_ATTR_SETNAME) {
      return message.toString('latin1', at + 4, at + length - 1);
    }
    at += Math.max(4, (length + 3) & ~3);
  }
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
export function createFingerprint(libc: Libc): {
  /**
   * A short text about the sets and legacy tables of a state that was applied: as long as two are equal, nothing
   * changed there but counters, or elements of a set one for one. A part that the kernel does not let us see (no
   * CAP_NET_ADMIN) is left out.
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

  function readSets(update: (part: Buffer) => void): void {
    const fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
    if (libc.sendto(fd, listHeadersRequest()) < 0) return;
    for (;;) {
      const length = libc.recv(fd, buffer);
      if (length < NLMSG_HEADER) return;
      for (let at = 0; at + NLMSG_HEADER <= length; ) {
        const message = buffer.subarray(at, at + buffer.readUInt32LE(at));
        if (message.readUInt16LE(4) < NLMSG_MIN_TYPE) return;
        if (setName(message).startsWith(OWNED_NAME_PREFIX)) update(message.subarray(NLMSG_HEADER));
        at += Math.max(NLMSG_HEADER, (message.length + 3) & ~3);
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
        // EPERM: not ours to see. Anything else (a table that changes its size between the two calls) is news.
        if ((error as NodeJS.ErrnoException).code !== 'EPERM') hash.update(String(error));
      }
      return hash.digest('base64');
    },
    close() {
      for (const fd of sockets.values()) libc.close(fd);
      sockets.clear();
    },
  };
}
