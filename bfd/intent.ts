/**
 * The intent that the BFD engine applies, and what it reports: the two message directions between the agent (which
 * knows policy, kernel and uplink) and the process that owns the sessions. Plain JSON values only. Pure.
 */

import type { AUTH_TYPES } from './constants.ts';

/** Diagnostic codes, RFC 5880 4.1. */
export type Diagnostic = 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8;

export type SessionStateName = 'AdminDown' | 'Down' | 'Init' | 'Up';

export type AuthTypeName = (typeof AUTH_TYPES)[number];

/** How a session authenticates. The engine reads the secret from the file; no message carries it. */
export interface AuthIntent {
  type: AuthTypeName;
  keyId: number;
  keyFile: string;
}

/** A configured session: one local address, one peer. */
export interface PeerIntent {
  /** The address that packets are received at and sent from. */
  local: string;
  remote: string;
  /** bfd.DesiredMinTxInterval when Up, microseconds. */
  desiredMinTx: number;
  /** bfd.RequiredMinRxInterval, microseconds. */
  requiredMinRx: number;
  /** bfd.DetectMult, 1..255. */
  detectMult: number;
  /** RFC 5880 6.1. */
  role: 'passive' | 'active';
  /** The smallest TTL or Hop Limit accepted, 1..255 (RFC 5881 5, GTSM). */
  minTTL: number;
  /** SO_BINDTODEVICE, single hop only (RFC 5881 3). */
  interface?: string;
  /**
   * The next hop towards the peer: once its Ethernet address is known, the peer's packets are accepted from that
   * address only. `mac`: our own on that link. Absent: accepted from every address. Needs `interface`.
   */
  via?: { gateway: string; mac: string };
  /** Port 4784 instead of 3784 (RFC 5883). */
  multihop: boolean;
  /** Adopt a stale Your Discriminator of a configured peer (docs/bfd.md). */
  adoptDiscriminator: boolean;
  auth?: AuthIntent;
  /** The session does not depend on the readiness of its family: it shows that this system is reachable. */
  unconditional?: true;
  /** Demand mode (RFC 5880 6.6): the interval between polls, microseconds; the peer sends no other packets. */
  demandPollInterval?: number;
  /** The C bit (RFC 5880 6.8.7); absent: the engine's. */
  controlPlaneIndependent?: boolean;
  /** Leave AdminDown with a Poll Sequence, so that the peer answers at once; absent: true. */
  adminUpPoll?: boolean;
}

/** Whether the sessions of a family may carry traffic. */
export type FamilyReadiness =
  | { ready: true }
  /** Not ready: sessions are taken out of Up with this diagnostic (6.8.17: 6 concatenated path down). */
  | { ready: false; diagnostic: Diagnostic; reason: string };

export interface BfdIntent {
  /** The sessions of the families that have a readiness. */
  peers: PeerIntent[];
  /** More local addresses to listen on, for peers that `bfdd-control allow` lets in. */
  listen?: string[];
  /** A family without one is unknown yet: its sessions stay as they are. */
  readiness: { 4?: FamilyReadiness; 6?: FamilyReadiness };
  /** The agent process has something to do before a drain: it sends `drain` itself when it is asked to shut down. */
  drainLater?: true;
}

/** One session as `status` and the metrics show it. Times in milliseconds, intervals in microseconds. */
export interface SessionReport {
  id: number;
  local: string;
  remote: string;
  role: 'passive' | 'active';
  state: SessionStateName;
  remoteState: SessionStateName;
  localDiagnostic: number;
  remoteDiagnostic: number;
  localDiscriminator: number;
  remoteDiscriminator: number;
  /** When the session entered its state, Unix milliseconds. */
  since: number;
  /** Microseconds; 0 while nothing is sent periodically. */
  transmitInterval: number;
  /** Microseconds; 0 before the first packet. */
  detectionTime: number;
  packetsIn: number;
  packetsOut: number;
  /** Counts of every transition so far. */
  transitions: { from: SessionStateName; to: SessionStateName; diagnostic: number; count: number }[];
}

export interface EngineReport {
  sessions: SessionReport[];
  /** Discarded packets by reason, since the start of the process. */
  discards: Record<string, number>;
  /** Transmit lateness: `buckets[i]` counts packets at most `bounds[i]` seconds late (cumulative). */
  lateness: { bounds: number[]; buckets: number[]; count: number; sum: number };
  draining: boolean;
  /** Why packets cannot be received, for each local address and port where that is so; absent: nowhere. */
  problems?: string[];
  /** Stale discriminators adopted from a peer, since the start of the process. */
  adoptedDiscriminators?: number;
}

/** Agent → BFD process. */
export type ToEngine =
  | { type: 'intent'; intent: BfdIntent }
  /** The words of a bfdd-control command; answered by `reply` with the same id. */
  | { type: 'command'; id: number; words: string[] }
  | { type: 'drain' }
  | { type: 'undrain' };

/** BFD process → agent. `report` comes at every state change and at least once a second. */
export type FromEngine =
  | { type: 'report'; report: EngineReport }
  | { type: 'reply'; id: number; ok: boolean; text: string }
  /** The process is about to end: stop accepting work, then exit. `remove`: remove the kernel state. */
  | { type: 'shutdown'; remove: boolean };
