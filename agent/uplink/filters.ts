/**
 * Which packets of a link wake the agent: programs in classic BPF (linux/filter.h) for sockets without a link-layer
 * header, so the packet begins at 0. Pure.
 */
import type { Bpf } from '../../lib/libc.ts';
import { macBytes } from '../../lib/mac.ts';
import { type Address, addressBytes, familyOf } from '../../lib/prefix.ts';
import { addressFamily } from '../../routing/parse.ts';
import { ARP_REPLY } from './arp.ts';
import { ADVERTISEMENT, SOLICITATION } from './ndp.ts';

const LOAD_WORD = 0x20;
const LOAD_HALF = 0x28;
const LOAD_BYTE = 0x30;
const JUMP_EQUAL = 0x15;
const RETURN = 0x06;

const ACCEPTED_OCTETS = 2048;
const ACCEPT: Bpf[number] = [RETURN, 0, 0, ACCEPTED_OCTETS];
const DROP: Bpf[number] = [RETURN, 0, 0, 0];

/**
 * So many addresses are compared. The kernel charges a program to the memory of its socket (net.core.optmem_max, 20480
 * octets before Linux 6.8), beside the one that it replaces, and one address costs about 64 octets.
 */
const MOST_COMPARED = 100;

// Where things are in a packet.
const ARP = { operation: 6, senderMac: 8, sender: 14, target: 24 } as const;
const ND = { nextHeader: 6, source: 20, type: 40, target: 60 } as const;
const NEXT_HEADER_ICMPV6 = 58;
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
  [JUMP_EQUAL, 1, 0, value],
  DROP,
];

/** Accepts a packet that has one of these words at `at`; goes on with any other. */
const acceptAny = (at: number, words: readonly number[]): Bpf => [
  [LOAD_WORD, 0, 0, at],
  ...words.flatMap((value): Bpf => [[JUMP_EQUAL, 0, 1, value], ACCEPT]),
];

/**
 * ARP that says where a gateway is: all replies, and the requests that it seems to send itself, but for those from
 * where it is known to be: a router asks for its hosts all day.
 */
export function gatewayArp(gateway: Address, mac: string | undefined): Bpf {
  const requests: Bpf = [[LOAD_HALF, 0, 0, ARP.operation], [JUMP_EQUAL, 0, 1, ARP_REPLY], ACCEPT];
  const from: Bpf = mac === undefined ? [] : isFrom(mac);
  return [...require(LOAD_WORD, ARP.sender, word(gateway)), ...requests, ...from, ACCEPT];
}

/** Drops ARP from an Ethernet address. */
function isFrom(mac: string): Bpf {
  const bytes = Buffer.from(macBytes(mac));
  return [
    [LOAD_WORD, 0, 0, ARP.senderMac],
    [JUMP_EQUAL, 0, 3, bytes.readInt32BE(0)],
    [LOAD_HALF, 0, 0, ARP.senderMac + 4],
    [JUMP_EQUAL, 0, 1, bytes.readUInt16BE(4)],
    DROP,
  ];
}

/** Neighbor Advertisements for a gateway (but for a few others that end like it). */
export const gatewayAdvertisements = (gateway: Address): Bpf => [
  ...require(LOAD_BYTE, ND.nextHeader, NEXT_HEADER_ICMPV6),
  ...require(LOAD_BYTE, ND.type, ADVERTISEMENT),
  ...acceptAny(ND.target, [word(gateway)]),
  DROP,
];

/** What is said of these addresses by others, and what asks whether they are free. */
export function claimsFilter(family: 4 | 6, addresses: readonly Address[]): Bpf {
  const words = [...new Set(addresses.map(word))];
  // More of them are told apart by the reader.
  const all = words.length > MOST_COMPARED;
  if (family === 4) {
    if (all) return [ACCEPT];
    return [
      ...acceptAny(ARP.sender, words),
      // Only a question that comes from no address asks whether its target is free.
      ...require(LOAD_WORD, ARP.sender, 0),
      ...acceptAny(ARP.target, words),
      DROP,
    ];
  }
  const either: Bpf = [
    [LOAD_BYTE, 0, 0, ND.type],
    [JUMP_EQUAL, 2, 0, ADVERTISEMENT],
    [JUMP_EQUAL, 1, 0, SOLICITATION],
    DROP,
  ];
  const ofThese: Bpf = all
    ? [ACCEPT]
    : [
        ...acceptAny(ND.source, words),
        [LOAD_BYTE, 0, 0, ND.type],
        [JUMP_EQUAL, 3, 0, ADVERTISEMENT],
        ...require(LOAD_WORD, ND.source, 0),
        ...acceptAny(ND.target, words),
        DROP,
      ];
  return [...require(LOAD_BYTE, ND.nextHeader, NEXT_HEADER_ICMPV6), ...either, ...ofThese];
}

/** The kernel's notices about the neighbour entries of these addresses. */
export const neighbourNotices = (addresses: readonly Address[]): Bpf => [
  ...addresses.flatMap((address): Bpf => {
    const at = NEIGHBOUR.address + addressBytes(address).length - 4;
    return [
      [LOAD_BYTE, 0, 0, NEIGHBOUR.family],
      [JUMP_EQUAL, 0, 3, addressFamily(familyOf(address))],
      [LOAD_WORD, 0, 0, at],
      [JUMP_EQUAL, 0, 1, word(address)],
      ACCEPT,
    ];
  }),
  DROP,
];
