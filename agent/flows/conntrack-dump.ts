/**
 * Reads the kernel's connection tracking table in slices. A table of some hundred thousand entries takes a second:
 * other work goes on between the slices.
 */
import { setImmediate as turn } from 'node:timers/promises';
import * as libc from '../../lib/libc.ts';
import { NLMSG_DONE, NLMSG_ERROR } from '../../lib/linux.ts';
import { DATAGRAM_SIZE, NetlinkError, openNetlink, Protocol } from '../../lib/netlink.ts';
import { Messages } from '../../lib/netlink-codec.ts';
import { type ConntrackEntry, CT_NEW, decodeEntry, dumpRequest } from '../../nat/conntrack/wire.ts';

/** How long other work may be held up, ms. */
const SLICE = 5;

/** Calls `visit` with every entry; it is valid until `visit` returns. Throws `SystemError` or `NetlinkError`. */
export async function eachConntrackEntry(visit: (entry: ConntrackEntry) => void): Promise<void> {
  const { fd } = openNetlink(Protocol.NETFILTER);
  const buffer = Buffer.allocUnsafeSlow(DATAGRAM_SIZE);
  try {
    const sent = libc.sendto(fd, dumpRequest(1));
    if (sent < 0) throw new NetlinkError(-sent);
    for (let done = false; !done; await turn()) {
      const until = performance.now() + SLICE;
      while (!done && performance.now() < until) {
        const length = libc.recv(fd, buffer);
        if (length < 0) throw new NetlinkError(-length);
        done = visitPart(buffer, length, visit);
      }
    }
  } finally {
    libc.close(fd);
  }
}

/** Visits the entries of a datagram. Returns whether the dump is complete. Throws the `NetlinkError` that ended it. */
function visitPart(buffer: Buffer, length: number, visit: (entry: ConntrackEntry) => void): boolean {
  const messages = new Messages(buffer, length);
  while (messages.next()) {
    const { type, start, end } = messages;
    if (type === NLMSG_DONE || type === NLMSG_ERROR) {
      const errno = -buffer.readInt32LE(start);
      if (errno !== 0) throw new NetlinkError(errno);
      return true;
    }
    const entry = type === CT_NEW ? decodeEntry(buffer, start, end) : undefined;
    if (entry !== undefined) visit(entry);
  }
  return false;
}
