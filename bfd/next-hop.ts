/**
 * Which Ethernet address a next hop has: the questions (ARP for IPv4, RFC 826; Neighbor Solicitation, RFC 4861),
 * their answers, and whom to believe when several answer. Pure; addresses come as octets.
 */

const ARP_LENGTH = 28;
const ARP_REQUEST = 1;
const ARP_REPLY = 2;
const SOLICITATION = 135;
export const ADVERTISEMENT = 136;
/** A Neighbor Solicitation or Advertisement up to its options. */
const FIXED = 24;
const FLAG_SOLICITED = 0x40;
const OPTION_SOURCE_MAC = 1;
const OPTION_TARGET_MAC = 2;

/** What begins every ARP packet for IPv4 on Ethernet, up to the operation. */
const ARP_HEAD = Buffer.of(0, 1, 8, 0, 6, 4);

/** Who asks for whom. */
export interface Question {
  ownMac: Uint8Array;
  own: Uint8Array;
  target: Uint8Array;
}

/** The octets of `02:42:ac:11:00:02`. */
export const macOctets = (text: string): Uint8Array =>
  Uint8Array.from(text.split(':'), (octet) => Number.parseInt(octet, 16));

const macText = (octets: Uint8Array): string =>
  Array.from(octets, (octet) => octet.toString(16).padStart(2, '0')).join(':');

/** An ARP request, without the Ethernet header. */
export function arpRequest({ ownMac, own, target }: Question): Buffer {
  const bytes = Buffer.alloc(ARP_LENGTH);
  bytes.set(ARP_HEAD, 0);
  bytes.writeUInt16BE(ARP_REQUEST, 6);
  bytes.set(ownMac, 8);
  bytes.set(own, 14);
  bytes.set(target, 24);
  return bytes;
}

/** The Ethernet address in the ARP reply to a question; undefined when the packet is none. */
export function arpAnswer(bytes: Buffer, { own, target }: Question): string | undefined {
  const answers =
    bytes.length >= ARP_LENGTH &&
    ARP_HEAD.equals(bytes.subarray(0, 6)) &&
    bytes.readUInt16BE(6) === ARP_REPLY &&
    bytes.subarray(14, 18).equals(target) &&
    bytes.subarray(24, 28).equals(own);
  return answers ? macText(bytes.subarray(8, 14)) : undefined;
}

/** A Neighbor Solicitation as an ICMPv6 message without its checksum, which the kernel adds. */
export function solicitation({ ownMac, target }: Question): Buffer {
  const bytes = Buffer.alloc(FIXED + 8);
  bytes.writeUInt8(SOLICITATION, 0);
  bytes.set(target, 8);
  bytes.set([OPTION_SOURCE_MAC, 1], FIXED);
  bytes.set(ownMac, FIXED + 2);
  return bytes;
}

/** The multicast address at which the target of a solicitation listens (RFC 4291 2.7.1). */
export const solicitedNodeOf = (target: Uint8Array): string => {
  const [a, b, c] = Array.from(target.subarray(13), (octet) => octet.toString(16).padStart(2, '0'));
  return `ff02::1:ff${a}:${b}${c}`;
};

/** The Ethernet address in the Neighbor Advertisement that answers a question; undefined when the message is none. */
export function advertisementAnswer(message: Buffer, { target }: Question): string | undefined {
  const answers =
    message.length >= FIXED &&
    message[0] === ADVERTISEMENT &&
    message[1] === 0 &&
    (message[4]! & FLAG_SOLICITED) !== 0 &&
    message.subarray(8, FIXED).equals(target);
  if (!answers) return undefined;
  for (let at = FIXED; at + 8 <= message.length; ) {
    const length = message[at + 1]! * 8;
    if (length === 0) return undefined;
    if (message[at] === OPTION_TARGET_MAC) return macText(message.subarray(at + 2, at + 8));
    at += length;
  }
  return undefined;
}

/**
 * Whom to believe after a question: those believed so far that answer, whoever else does; else all that answered;
 * with no answer nothing is new. Several are believed only while nobody can tell which of them is the gateway.
 */
export function believed(before: readonly string[], answers: readonly string[]): readonly string[] {
  const kept = before.filter((mac) => answers.includes(mac));
  if (kept.length > 0) return kept;
  return answers.length > 0 ? answers : before;
}
