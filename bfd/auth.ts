/**
 * Authentication of control packets (RFC 5880 4.2 – 4.4, 6.7): simple password, keyed and meticulous keyed MD5
 * and SHA1. Pure. The authentication section follows the mandatory one:
 *
 *     Auth Type, Auth Len, Auth Key ID, password (1 – 16 octets)
 *     Auth Type, Auth Len, Auth Key ID, reserved, Sequence Number (4), digest (16 or 20 octets)
 *
 * The digest covers the whole packet, with the secret, padded with zeros, in the field of the digest.
 */
import { AUTH_TYPES, type DiscardReason, MANDATORY_LENGTH } from './constants.ts';
import type { AuthTypeName } from './intent.ts';
import type { Packet } from './packet.ts';

let loaded: typeof import('node:crypto') | undefined;
/** Loaded with the first packet that has an authentication section: most sessions have none. */
function crypto(): typeof import('node:crypto') {
  loaded ??= process.getBuiltinModule('node:crypto');
  return loaded;
}

/** A secret with the Key ID under which the peer knows it. */
export interface AuthKey {
  type: AuthTypeName;
  id: number;
  secret: Uint8Array;
}

/** The peer's sequence number: bfd.AuthSeqKnown and bfd.RcvAuthSeq (6.8.1). */
export interface ReceivedSequence {
  authSeqKnown: boolean;
  rcvAuthSeq: number;
}

const SECTION = MANDATORY_LENGTH;
const SEQUENCE = SECTION + 4;
const DIGEST = SECTION + 8;

interface Digest {
  hash: 'md5' | 'sha1';
  octets: 16 | 20;
}

const MD5: Digest = { hash: 'md5', octets: 16 };
const SHA1: Digest = { hash: 'sha1', octets: 20 };

/** The digest of an authentication type; none for the simple password. */
function digestOf(type: AuthTypeName): Digest | undefined {
  if (type === 'simple-password') return undefined;
  return type.endsWith('md5') ? MD5 : SHA1;
}

const isMeticulous = (type: AuthTypeName): boolean => type.startsWith('meticulous');

/** The longest secret of a type: the size of its field (4.2 – 4.4). */
export const longestSecret = (type: AuthTypeName): 16 | 20 => digestOf(type)?.octets ?? 16;

/** Octets of the authentication section that a key makes. */
export function sectionLength(key: AuthKey): number {
  const digest = digestOf(key.type);
  return digest === undefined ? 3 + key.secret.length : 8 + digest.octets;
}

/** Hashes a packet, whose digest field is overwritten here with the secret. */
function hashPacket(bytes: Buffer, key: AuthKey, digest: Digest): Buffer {
  bytes.fill(0, DIGEST, DIGEST + digest.octets);
  bytes.set(key.secret, DIGEST);
  return crypto().createHash(digest.hash).update(bytes).digest();
}

/** Writes the authentication section of an encoded packet, whose length has room for it. */
export function sign(bytes: Buffer, key: AuthKey, sequence: number): Buffer {
  bytes[SECTION] = AUTH_TYPES.indexOf(key.type) + 1;
  bytes[SECTION + 1] = sectionLength(key);
  bytes[SECTION + 2] = key.id;
  const digest = digestOf(key.type);
  if (digest === undefined) {
    bytes.set(key.secret, SECTION + 3);
  } else {
    bytes[SECTION + 3] = 0;
    bytes.writeUInt32BE(sequence, SEQUENCE);
    bytes.set(hashPacket(bytes, key, digest), DIGEST);
  }
  return bytes;
}

/**
 * Checks the authentication section of a packet whose A bit is set against the accepted keys (6.7.2 – 6.7.4).
 * Returns the key that matches and the sequence number to remember, or why the packet is discarded.
 */
export function verify(
  payload: Buffer,
  packet: Packet,
  keys: readonly AuthKey[],
  received: ReceivedSequence,
): { key: AuthKey; sequence: number } | DiscardReason {
  const type = AUTH_TYPES[payload[SECTION]! - 1];
  const sameType = keys.filter((key) => key.type === type);
  if (sameType.length === 0) return 'auth-type';
  const authLength = payload[SECTION + 1]!;
  if (authLength < 3 || SECTION + authLength > packet.length) return 'auth-length';
  const sameId = sameType.filter((key) => key.id === payload[SECTION + 2]);
  if (sameId.length === 0) return 'auth-key-id';
  const matching = sameId.filter((key) => sectionLength(key) === authLength);
  if (matching.length === 0) return 'auth-length';

  const digest = digestOf(matching[0]!.type);
  if (digest === undefined) {
    const password = payload.subarray(SECTION + 3, SECTION + authLength);
    const key = matching.find((candidate) => crypto().timingSafeEqual(candidate.secret, password));
    return key === undefined ? 'auth-digest' : { key, sequence: 0 };
  }

  const sequence = payload.readUInt32BE(SEQUENCE);
  if (received.authSeqKnown) {
    // A circular window; the Detect Mult is that of the packet.
    const ahead = (sequence - received.rcvAuthSeq) >>> 0;
    const least = isMeticulous(matching[0]!.type) ? 1 : 0;
    if (ahead < least || ahead > 3 * packet.detectMult) return 'auth-sequence';
  }
  const sent = payload.subarray(DIGEST, DIGEST + digest.octets);
  for (const key of matching) {
    const copy = Buffer.from(payload.subarray(0, packet.length));
    if (crypto().timingSafeEqual(sent, hashPacket(copy, key, digest))) return { key, sequence };
  }
  return 'auth-digest';
}
