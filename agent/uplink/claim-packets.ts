/** The packets by which hosts claim addresses: ARP (RFC 5227) and Neighbor Discovery (RFC 4862 5.4). Pure. */
import { ARP_REPLY, ARP_REQUEST, decodeArp, encodeArp } from '../../lib/arp.ts';
import { MAC_BROADCAST, MAC_ZERO, multicastMac } from '../../lib/mac.ts';
import {
  ALL_NODES,
  decodeAdvertisement,
  decodeSolicitation,
  encodeAdvertisement,
  encodeDuplicateQuestion,
  solicitedNode,
} from '../../lib/ndp.ts';
import { type Address, address as canonical, familyOf } from '../../lib/prefix.ts';
import type { ClaimMessage } from './claim.ts';

const NO_ADDRESS = { 4: canonical('0.0.0.0'), 6: canonical('::') } as const;

/** A packet and the Ethernet address that it goes to. */
export interface ClaimPacket {
  packet: Uint8Array;
  to: string;
}

/** The probe for an address from the Ethernet address `mac`. */
export function probePacket(address: Address, mac: string): ClaimPacket {
  if (familyOf(address) === 6) {
    return { packet: encodeDuplicateQuestion(address), to: multicastMac(solicitedNode(address)) };
  }
  return arpPacket(ARP_REQUEST, mac, NO_ADDRESS[4], MAC_ZERO, address);
}

/** The announcement of an address at the Ethernet address `mac`. */
export function announcementPackets(address: Address, mac: string): ClaimPacket[] {
  if (familyOf(address) === 6) {
    return [{ packet: encodeAdvertisement(address, mac), to: multicastMac(ALL_NODES) }];
  }
  // Some neighbours learn from requests, some from replies.
  return [
    arpPacket(ARP_REQUEST, mac, address, MAC_ZERO, address),
    arpPacket(ARP_REPLY, mac, address, MAC_BROADCAST, address),
  ];
}

/** The answer to the host that probes for an IPv4 address: it is at the Ethernet address `mac`. */
export const answerPacket = (address: Address, mac: string, prober: string): ClaimPacket => ({
  ...arpPacket(ARP_REPLY, mac, address, prober, NO_ADDRESS[4]),
  to: prober,
});

const arpPacket = (
  operation: number,
  senderMac: string,
  senderAddress: Address,
  targetMac: string,
  targetAddress: Address,
): ClaimPacket => ({
  packet: encodeArp({ operation, senderMac, senderAddress, targetMac, targetAddress }),
  to: MAC_BROADCAST,
});

/** The messages about addresses in a packet; `sender` is the Ethernet address that it came from. */
export function decodeClaims(packet: Buffer, sender: string): { address: Address; message: ClaimMessage }[] {
  const claim = (address: Address, mac: string) => ({ address, message: { kind: 'claim' as const, mac } });
  const probe = (address: Address) => ({ address, message: { kind: 'probe' as const, mac: sender } });
  const arp = decodeArp(packet);
  if (arp !== undefined) {
    const { senderAddress, senderMac, targetAddress, operation } = arp;
    if (senderAddress !== NO_ADDRESS[4]) return [claim(senderAddress, senderMac)];
    return operation === ARP_REQUEST ? [probe(targetAddress)] : [];
  }
  const advertisement = decodeAdvertisement(packet);
  if (advertisement !== undefined) return [claim(advertisement.target, advertisement.targetMac ?? sender)];
  const solicitation = decodeSolicitation(packet);
  if (solicitation === undefined) return [];
  const { source, target } = solicitation;
  return source === NO_ADDRESS[6] ? [probe(target)] : [claim(source, sender)];
}
