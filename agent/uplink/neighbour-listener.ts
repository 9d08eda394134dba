/** Listens for changes of the kernel's neighbour entries of some addresses. What arrives raises SIGURG. */
import { NetlinkListener, type NetlinkMessage, Protocol } from '../../lib/netlink.ts';
import type { Address } from '../../lib/prefix.ts';
import { neighbourNotices } from './filters.ts';
import { NEIGHBOUR_GROUP } from './neighbours.ts';

export interface NeighbourListener {
  close(): void;
}

/** Throws `SystemError`. */
export const openNeighbourListener = (
  addresses: readonly Address[],
  onMessage: (message: NetlinkMessage) => void,
): NeighbourListener =>
  new NetlinkListener(
    Protocol.ROUTE,
    [NEIGHBOUR_GROUP],
    // The uplink reads the entries every second anyway.
    { onMessage, onOverrun: () => {} },
    { only: neighbourNotices(addresses) },
  );
