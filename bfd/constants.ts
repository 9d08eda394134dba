/** The numbers and names of RFC 5880, 5881 and 5883, and the limits of this implementation. Pure. */
import type { SessionStateName } from './intent.ts';

/** Bidirectional Forwarding Detection, version 1 (4.1). */
export const VERSION = 1;
/** Single-hop control packets (RFC 5881 4). */
export const PORT_SINGLE_HOP = 3784;
/** Multihop control packets (RFC 5883 5). */
export const PORT_MULTIHOP = 4784;
/** The source ports a session may use (RFC 5881 4). */
export const SOURCE_PORTS = { first: 49152, last: 65535 } as const;
/** TTL or Hop Limit of every packet sent (RFC 5881 5). */
export const SENT_TTL = 255;

/** Octets of the mandatory section (4.1). */
export const MANDATORY_LENGTH = 24;
/** The shortest Length when the A bit is set (6.8.6). */
export const SHORTEST_AUTHENTICATED = 26;

/** Sta values by their code (4.1). */
export const STATES: readonly SessionStateName[] = ['AdminDown', 'Down', 'Init', 'Up'];

/** Diagnostic codes by name (4.1). */
export const DIAG = {
  none: 0,
  detectionTimeExpired: 1,
  neighborSignaledDown: 3,
  pathDown: 5,
  concatenatedPathDown: 6,
  administrativelyDown: 7,
  reverseConcatenatedPathDown: 8,
} as const;

/** Diagnostic codes in words, as OpenBFDD's status prints them. */
export const DIAGNOSTICS: readonly string[] = [
  'No Diagnostic',
  'Control Detection Time Expired',
  'Echo Function Failed',
  'Neighbor Signaled Session Down',
  'Forwarding Plane Reset',
  'Path Down',
  'Concatenated Path Down',
  'Administratively Down',
  'Reverse Concatenated Path Down',
];

/** Authentication types in the order of their codes, which begin at 1 (4.1). */
export const AUTH_TYPES = [
  'simple-password',
  'keyed-md5',
  'meticulous-keyed-md5',
  'keyed-sha1',
  'meticulous-keyed-sha1',
] as const;

/** The least DesiredMinTxInterval while a session is not Up, microseconds (6.8.3). */
export const SLOW_INTERVAL = 1_000_000;
/** The interval between knocks of a passive session that has not heard its peer, microseconds. */
export const KNOCK_INTERVAL = 1_000_000;
/** A peer that was silent for this many of its intervals, and at least this many microseconds, is knocked at. */
export const OVERDUE = { intervals: 1.25, least: 50_000 } as const;
/** Packets with the same stale Your Discriminator before it is adopted. */
export const ADOPT_AFTER = 2;

/** Why a received datagram was discarded, in the order of 6.8.6. */
export type DiscardReason =
  /** Not from the Ethernet address of the next hop towards the peer. */
  | 'wrong-mac'
  /** Empty: the knock of a peer like us, no BFD packet. */
  | 'empty'
  /** Too short to hold a Length field. */
  | 'truncated'
  | 'version'
  /** Length below 24, or below 26 with the A bit. */
  | 'length-too-small'
  /** Length beyond the UDP payload. */
  | 'length-beyond-payload'
  | 'detect-mult-zero'
  | 'multipoint'
  | 'my-discriminator-zero'
  | 'unknown-discriminator'
  /** Your Discriminator belongs to a session with other addresses. */
  | 'wrong-address'
  | 'your-discriminator-zero'
  /** No session, and the sender may not create one. */
  | 'no-session'
  | 'too-many-sessions'
  /** The address was blocked with `bfdd-control block`. */
  | 'blocked'
  | 'auth-unexpected'
  | 'auth-missing'
  /** Authentication is configured but the key file cannot be read. */
  | 'auth-no-key'
  | 'auth-type'
  | 'auth-key-id'
  | 'auth-length'
  | 'auth-sequence'
  | 'auth-digest'
  | 'local-admin-down';
