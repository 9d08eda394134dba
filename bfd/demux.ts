/** Which session a packet is for (RFC 5880 6.3 and 6.8.6, RFC 5881 3). Pure. */
import type { DiscardReason } from './constants.ts';
import type { Packet } from './packet.ts';

/** What identifies a session before discriminators are known: who talks to whom, on which port. */
export interface Path {
  local: string;
  remote: string;
  multihop: boolean;
}

/** A path as a map key. */
export const pathKey = (path: Path): string =>
  `${path.local} ${path.remote}${path.multihop ? ' multihop' : ''}`;

/** The sessions by LocalDiscr and by path. */
export interface SessionTable<T extends Path> {
  byDiscriminator: ReadonlyMap<number, T>;
  byPath: ReadonlyMap<string, T>;
}

export type Selection<T> =
  /** `stale`: Your Discriminator is unknown, but the packet comes from this session's peer. */
  | { session: T; stale: boolean }
  /** No session yet; one may be created for this path if the peer is allowed. */
  | 'create'
  | DiscardReason;

/** Selects the session of a packet that came over `path`. */
export function select<T extends Path>(packet: Packet, path: Path, table: SessionTable<T>): Selection<T> {
  if (packet.yourDiscriminator !== 0) {
    const session = table.byDiscriminator.get(packet.yourDiscriminator);
    if (session === undefined) {
      const own = table.byPath.get(pathKey(path));
      return own === undefined ? 'unknown-discriminator' : { session: own, stale: true };
    }
    const fits =
      session.remote === path.remote && session.local === path.local && session.multihop === path.multihop;
    return fits ? { session, stale: false } : 'wrong-address';
  }
  if (packet.state !== 'Down' && packet.state !== 'AdminDown') return 'your-discriminator-zero';
  const session = table.byPath.get(pathKey(path));
  return session === undefined ? 'create' : { session, stale: false };
}
