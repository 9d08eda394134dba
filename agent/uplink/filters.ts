/**
 * Filters for the packets of a link: programs in classic BPF (linux/filter.h) for sockets without a link-layer
 * header, so the packet begins at 0. Pure.
 */

import { ARP_REPLY } from '../../lib/arp.ts';
import { ACCEPT, type Bpf, DROP, JEQ_K, LD_B_ABS, LD_H_ABS, LD_W_ABS } from '../../lib/bpf.ts';
import { addressFamily, IPPROTO_ICMPV6 } from '../../lib/linux.ts';
import { macBytes } from '../../lib/mac.ts';
import { ADVERTISEMENT, SOLICITATION } from '../../lib/ndp.ts';
import { type Address, addressBytes, familyOf } from '../../lib/prefix.ts';

/**
 * So many addresses are compared. The kernel charges a program to the memory of its socket (net.core.optmem_max, 20480
 * octets before Linux 6.8), beside the one that it replaces, and one address costs about 64 octets.
 */
const MOST_COMPARED = 100;

// Where things are in a packet.
const ARP = { operation: 6, senderMac: 8, sender: 14, target: 24 } as const;
const ND = { nextHeader: 6, source: 20, type: 40, target: 60 } as const;
/** In a netlink message about a neighbour: its family, and its address, which comes first of the attributes. */
const NEIGHBOUR = { family: 16, address: 32 } as const;

/** Four octets of an address as BPF compares them: an IPv4 address, or the end of an IPv6 one. */
function word(address: Address): number {
  const bytes = Buffer.from(addressBytes(address));
  return bytes.readInt32BE(bytes.length - 4);
}

/** Goes on where what is at `at` is as it has to be, else drops the packet. */
const require = (load: number, at: number, value: number): Bpf => [
  [load, 0, 0, at],
  [JEQ_K, 1, 0, value],
  DROP,
];

/** Accepts a packet that has one of these words at `at`; goes on with any other. */
const acceptAny = (at: number, words: readonly number[]): Bpf => [
  [LD_W_ABS, 0, 0, at],
  ...words.flatMap((value): Bpf => [[JEQ_K, 0, 1, value], ACCEPT]),
];

/**
 * ARP from a gateway: all replies, and its requests, except for those from its known Ethernet address: a router resolves
 * its hosts all day.
 */
export function gatewayArp(gateway: Address, mac: string | undefined): Bpf {
  const requests: Bpf = [[LD_H_ABS, 0, 0, ARP.operation], [JEQ_K, 0, 1, ARP_REPLY], ACCEPT];
  const from: Bpf = mac === undefined ? [] : isFrom(mac);
  return [...require(LD_W_ABS, ARP.sender, word(gateway)), ...requests, ...from, ACCEPT];
}

/** Drops ARP from an Ethernet address. */
function isFrom(mac: string): Bpf {
  const bytes = Buffer.from(macBytes(mac));
  return [
    [LD_W_ABS, 0, 0, ARP.senderMac],
    [JEQ_K, 0, 3, bytes.readInt32BE(0)],
    [LD_H_ABS, 0, 0, ARP.senderMac + 4],
    [JEQ_K, 0, 1, bytes.readUInt16BE(4)],
    DROP,
  ];
}

/** Neighbor Advertisements for a gateway (but for a few others that end like it). */
export const gatewayAdvertisements = (gateway: Address): Bpf => [
  ...require(LD_B_ABS, ND.nextHeader, IPPROTO_ICMPV6),
  ...require(LD_B_ABS, ND.type, ADVERTISEMENT),
  ...acceptAny(ND.target, [word(gateway)]),
  DROP,
];

/** Claims of these addresses by others, and probes for them. */
export function claimsFilter(family: 4 | 6, addresses: readonly Address[]): Bpf {
  const words = [...new Set(addresses.map(word))];
  // The reader checks the rest.
  const all = words.length > MOST_COMPARED;
  if (family === 4) {
    if (all) return [ACCEPT];
    return [
      ...acceptAny(ARP.sender, words),
      // Only a request from no address is a probe for its target.
      ...require(LD_W_ABS, ARP.sender, 0),
      ...acceptAny(ARP.target, words),
      DROP,
    ];
  }
  const either: Bpf = [
    [LD_B_ABS, 0, 0, ND.type],
    [JEQ_K, 2, 0, ADVERTISEMENT],
    [JEQ_K, 1, 0, SOLICITATION],
    DROP,
  ];
  const ofThese: Bpf = all
    ? [ACCEPT]
    : [
        ...acceptAny(ND.source, words),
        [LD_B_ABS, 0, 0, ND.type],
        [JEQ_K, 3, 0, ADVERTISEMENT],
        ...require(LD_W_ABS, ND.source, 0),
        ...acceptAny(ND.target, words),
        DROP,
      ];
  return [...require(LD_B_ABS, ND.nextHeader, IPPROTO_ICMPV6), ...either, ...ofThese];
}

/** The kernel's notices about the neighbour entries of these addresses. */
export const neighbourNotices = (addresses: readonly Address[]): Bpf => [
  ...addresses.flatMap((address): Bpf => {
    const at = NEIGHBOUR.address + addressBytes(address).length - 4;
    return [
      [LD_B_ABS, 0, 0, NEIGHBOUR.family],
      [JEQ_K, 0, 3, addressFamily(familyOf(address))],
      [LD_W_ABS, 0, 0, at],
      [JEQ_K, 0, 1, word(address)],
      ACCEPT,
    ];
  }),
  DROP,
];
