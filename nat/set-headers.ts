/**
 * The headers of the agent's ipsets, read over netlink: the name, type, number of elements and size of each set, without
 * its elements. `ipset` would be a process for what takes two messages.
 */
import * as system from '../lib/libc.ts';
import {
  AF_INET,
  AF_NETLINK,
  NFGEN_HEADER,
  NLA_F_NET_BYTEORDER,
  NLM_F_DUMP,
  NLM_F_REQUEST,
  NLMSG_DONE,
  NLMSG_MIN_TYPE,
  SOCK_RAW,
} from '../lib/linux.ts';
import { Protocol } from '../lib/netlink.ts';
import {
  Attributes,
  attribute,
  formatDatagram,
  Messages,
  nfgenHeader,
  u8,
  u32Be,
} from '../lib/netlink-codec.ts';
import { OWNED_NAME_PREFIX } from '../routing/numbers.ts';

/** The libc calls that are needed. */
export type SetLibc = Pick<typeof system, 'socket' | 'close' | 'sendto' | 'recv'>;

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
  formatDatagram(
    [
      {
        type: (NFNL_SUBSYS_IPSET << 8) | IPSET_CMD_LIST,
        flags: NLM_F_REQUEST | NLM_F_DUMP,
        data: Buffer.concat([
          nfgenHeader(AF_INET),
          attribute(IPSET_ATTR_PROTOCOL, u8(IPSET_PROTOCOL)),
          attribute(IPSET_ATTR_FLAGS | NLA_F_NET_BYTEORDER, u32Be(IPSET_FLAG_LIST_HEADER)),
        ]),
      },
    ],
    0,
    0,
  );

/** The name of the set in a reply. */
function setName(payload: Buffer): string {
  const attributes = new Attributes(payload, NFGEN_HEADER);
  while (attributes.next()) if (attributes.type === IPSET_ATTR_SETNAME) return attributes.string;
  return '';
}

/** The reader of headers; it keeps its socket open until `close`. */
export class SetHeaders {
  readonly #libc: SetLibc;
  readonly #buffer = Buffer.alloc(32 << 10);
  #fd: number | undefined;

  constructor(libc: SetLibc = system) {
    this.#libc = libc;
  }

  /**
   * Calls `onHeader` with each header of a set of the agent's, in a buffer that is used again. Returns whether the dump
   * is complete: not without CAP_NET_ADMIN, nor in a kernel without ipsets. Throws when there is no netlink.
   */
  read(onHeader: (header: Buffer) => void): boolean {
    this.#fd ??= this.#libc.socket(AF_NETLINK, SOCK_RAW, Protocol.NETFILTER);
    if (this.#libc.sendto(this.#fd, listHeadersRequest()) < 0) return false;
    for (;;) {
      const length = this.#libc.recv(this.#fd, this.#buffer);
      // The rest of this dump must not be read as the reply to the next request.
      if (length < 0) {
        this.close();
        return false;
      }
      const messages = new Messages(this.#buffer, length);
      while (messages.next()) {
        if (messages.type < NLMSG_MIN_TYPE) return messages.type === NLMSG_DONE;
        const payload = messages.data;
        if (setName(payload).startsWith(OWNED_NAME_PREFIX)) onHeader(payload);
      }
    }
  }

  /** Whether there is a set of the agent's; undefined: unknown. Never throws. */
  exist(): boolean | undefined {
    let found = false;
    try {
      const complete = this.read(() => {
        found = true;
      });
      return found || (complete ? false : undefined);
    } catch {
      return undefined;
    }
  }

  close(): void {
    if (this.#fd !== undefined) this.#libc.close(this.#fd);
    this.#fd = undefined;
  }
}
