/**
 * The Ethernet address of a next hop: the question for it (ARP for IPv4, a Neighbor Solicitation for IPv6), the answer,
 * and which address to trust when several answer. Pure.
 */
import { ARP_REPLY, ARP_REQUEST, decodeArp, encodeArp } from '../lib/arp.ts';
import { MAC_ZERO } from '../lib/mac.ts';
import { decodeAdvertisementMessage, solicitationMessage } from '../lib/ndp.ts';
import { type Address, familyOf } from '../lib/prefix.ts';

/** Who asks for whom on a link. */
export interface Question {
  ownMac: string;
  own: Address;
  target: Address;
}

/** The question as its socket takes it: an ARP packet, or an ICMPv6 message. */
export function encodeQuestion({ ownMac, own, target }: Question): Buffer {
  if (familyOf(target) === 6) return solicitationMessage(target, ownMac);
  return encodeArp({
    operation: ARP_REQUEST,
    senderMac: ownMac,
    senderAddress: own,
    targetMac: MAC_ZERO,
    targetAddress: target,
  });
}

/** The Ethernet address in the answer to a question; undefined when the packet does not answer it. */
export function answerTo({ own, target }: Question, packet: Buffer): string | undefined {
  if (familyOf(target) === 6) {
    const advertisement = decodeAdvertisementMessage(packet);
    const answers = advertisement?.solicited === true && advertisement.target === target;
    return answers ? advertisement.targetMac : undefined;
  }
  const arp = decodeArp(packet);
  const answers = arp?.operation === ARP_REPLY && arp.senderAddress === target && arp.targetAddress === own;
  return answers ? arp.senderMac : undefined;
}

/**
 * Which addresses to trust after a request: those trusted so far that answer, regardless of others; else all that
 * answered; the same as before when none did. Several are trusted only while it is unknown which is the gateway's.
 */
export function trusted(before: readonly string[], answers: readonly string[]): readonly string[] {
  const kept = before.filter((mac) => answers.includes(mac));
  if (kept.length > 0) return kept;
  return answers.length > 0 ? answers : before;
}
