/** Removes entries from the connection tracking table, one by one, over netlink. */
import { type ConntrackEntry, CT_GET, decodeEntry, deleteRequest } from '../nat/conntrack/wire.ts';
import { NetlinkSocket, Protocol } from './netlink.ts';

/** struct nfgenmsg of all families. */
const ALL_FAMILIES = Buffer.alloc(4);

/**
 * Removes every entry that `isStale` says has to go, and returns how many did. An entry that ended meanwhile, or
 * began anew, is left alone. Throws when the table cannot be read or written.
 */
export async function removeFlows(isStale: (entry: ConntrackEntry) => boolean): Promise<number> {
  const netlink = new NetlinkSocket(Protocol.NETFILTER);
  try {
    const stale = netlink.dump(CT_GET, ALL_FAMILIES, (payload) => {
      const entry = decodeEntry(payload, 0, payload.length);
      return entry !== undefined && isStale(entry) ? deleteRequest(entry) : undefined;
    });
    const results = await netlink.transact(stale);
    const error = results.find((result) => result !== undefined && result.code !== 'ENOENT');
    if (error !== undefined) throw error;
    return results.filter((result) => result === undefined).length;
  } finally {
    netlink.close();
  }
}
