/** The BGP sessions of a summary of FRR (`show bgp summary json`). Pure. */
import { type Address, parseAddress } from '../../lib/prefix.ts';

export interface BgpSession {
  neighbour: Address;
  asn: number;
  /** The state of RFC 4271, as FRR writes it: `Established`, `Active`, `Connect`, `Idle` … */
  state: string;
  /** Seconds since it was established, or lost. */
  seconds: number;
  /** Prefixes that the neighbour was sent, and that were accepted from it. */
  sent: number;
  accepted: number;
}

/** Sessions that are shown at most. */
const MAX_SESSIONS = 64;

interface FrrPeer {
  remoteAs?: unknown;
  state?: unknown;
  peerUptimeMsec?: unknown;
  pfxSnt?: unknown;
  pfxRcd?: unknown;
}

const count = (value: unknown): number =>
  typeof value === 'number' && Number.isFinite(value) && value >= 0 ? Math.floor(value) : 0;

/** The sessions by neighbour. Throws for a text that is no summary. */
export function parseSummary(text: string): BgpSession[] {
  const summary = JSON.parse(text) as Record<string, { peers?: Record<string, FrrPeer> } | null>;
  const sessions = new Map<Address, BgpSession>();
  for (const family of Object.values(summary ?? {})) {
    for (const [name, peer] of Object.entries(family?.peers ?? {})) {
      const neighbour = parseAddress(name);
      if (neighbour === undefined || sessions.size >= MAX_SESSIONS) continue;
      const known = sessions.get(neighbour);
      sessions.set(neighbour, {
        neighbour,
        asn: count(peer.remoteAs),
        state: /^[A-Za-z ()]{1,32}$/.test(String(peer.state)) ? String(peer.state) : 'unknown',
        seconds: Math.floor(count(peer.peerUptimeMsec) / 1000),
        sent: count(peer.pfxSnt) + (known?.sent ?? 0),
        accepted: count(peer.pfxRcd) + (known?.accepted ?? 0),
      });
    }
  }
  return [...sessions.values()];
}

export const isEstablished = ({ state }: BgpSession): boolean => state === 'Established';
