/**
 * Codec of the BFD Control packet (RFC 5880 4.1). Pure.
 *
 *     |Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
 *     |                       My Discriminator                        |
 *     |                      Your Discriminator                       |
 *     |                    Desired Min TX Interval                    |
 *     |                   Required Min RX Interval                    |
 *     |                 Required Min Echo RX Interval                 |
 *     |  Authentication Section (auth.ts), when A is set              |
 */
import {
  type DiscardReason,
  MANDATORY_LENGTH,
  SHORTEST_AUTHENTICATED,
  STATES,
  VERSION,
} from './constants.ts';
import type { SessionStateName } from './intent.ts';

/** The mandatory section; intervals in microseconds. */
export interface Packet {
  diagnostic: number;
  state: SessionStateName;
  poll: boolean;
  final: boolean;
  controlPlaneIndependent: boolean;
  /** The A bit: an authentication section follows. */
  authenticationPresent: boolean;
  demand: boolean;
  detectMult: number;
  /** Octets of the whole packet, the authentication section included. */
  length: number;
  myDiscriminator: number;
  yourDiscriminator: number;
  desiredMinTx: number;
  requiredMinRx: number;
  requiredMinEchoRx: number;
}

const POLL = 0x20;
const FINAL = 0x10;
const CONTROL_PLANE_INDEPENDENT = 0x08;
const AUTHENTICATION_PRESENT = 0x04;
const DEMAND = 0x02;
const MULTIPOINT = 0x01;

/** Decodes a UDP payload, with the checks of 6.8.6 that need no session, in their order. */
export function decode(payload: Buffer): Packet | DiscardReason {
  if (payload.length === 0) return 'empty';
  if (payload.length < 4) return 'truncated';
  if (payload[0]! >> 5 !== VERSION) return 'version';
  const flags = payload[1]!;
  const authenticationPresent = (flags & AUTHENTICATION_PRESENT) !== 0;
  const length = payload[3]!;
  if (length < (authenticationPresent ? SHORTEST_AUTHENTICATED : MANDATORY_LENGTH)) return 'length-too-small';
  if (length > payload.length) return 'length-beyond-payload';
  const detectMult = payload[2]!;
  if (detectMult === 0) return 'detect-mult-zero';
  if ((flags & MULTIPOINT) !== 0) return 'multipoint';
  const myDiscriminator = payload.readUInt32BE(4);
  if (myDiscriminator === 0) return 'my-discriminator-zero';
  return {
    diagnostic: payload[0]! & 0x1f,
    state: STATES[flags >> 6]!,
    poll: (flags & POLL) !== 0,
    final: (flags & FINAL) !== 0,
    controlPlaneIndependent: (flags & CONTROL_PLANE_INDEPENDENT) !== 0,
    authenticationPresent,
    demand: (flags & DEMAND) !== 0,
    detectMult,
    length,
    myDiscriminator,
    yourDiscriminator: payload.readUInt32BE(8),
    desiredMinTx: payload.readUInt32BE(12),
    requiredMinRx: payload.readUInt32BE(16),
    requiredMinEchoRx: payload.readUInt32BE(20),
  };
}

/** Encodes the mandatory section into `length` octets; `auth.sign` fills the rest. */
export function encode(packet: Packet): Buffer {
  const bytes = Buffer.allocUnsafe(packet.length);
  bytes[0] = (VERSION << 5) | packet.diagnostic;
  bytes[1] =
    (STATES.indexOf(packet.state) << 6) |
    (packet.poll ? POLL : 0) |
    (packet.final ? FINAL : 0) |
    (packet.controlPlaneIndependent ? CONTROL_PLANE_INDEPENDENT : 0) |
    (packet.authenticationPresent ? AUTHENTICATION_PRESENT : 0) |
    (packet.demand ? DEMAND : 0);
  bytes[2] = packet.detectMult;
  bytes[3] = packet.length;
  bytes.writeUInt32BE(packet.myDiscriminator, 4);
  bytes.writeUInt32BE(packet.yourDiscriminator, 8);
  bytes.writeUInt32BE(packet.desiredMinTx, 12);
  bytes.writeUInt32BE(packet.requiredMinRx, 16);
  bytes.writeUInt32BE(packet.requiredMinEchoRx, 20);
  return bytes;
}
