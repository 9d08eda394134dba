/**
 * The filter of a receiving socket, which the kernel applies before a packet reaches the process: the least TTL or Hop
 * Limit (GTSM, RFC 5881 5), and the Ethernet addresses that packets of guarded peers may come from. Pure.
 */
import {
  ACCEPT,
  type Bpf,
  DROP,
  JEQ_K,
  JGE_K,
  LD_B_ABS,
  LD_H_ABS,
  LD_W_ABS,
  RET_K,
  SKF_LL_OFF,
  SKF_NET_OFF,
} from '../lib/bpf.ts';
import { macBytes } from '../lib/mac.ts';
import { type Address, addressBytes } from '../lib/prefix.ts';

/** Peers whose packets are accepted from some Ethernet addresses only. */
export interface Guard {
  remotes: readonly string[];
  macs: readonly string[];
}

/** What a receiving socket accepts. */
export interface Endpoint {
  local: string;
  multihop: boolean;
  /** SO_BINDTODEVICE. */
  interface: string | undefined;
  /** The least TTL or Hop Limit that the kernel accepts. */
  minTTL: number;
  guard: Guard;
}

const IPV4_TTL_OFFSET = 8;
const IPV4_SOURCE_OFFSET = 12;
const IPV6_HOP_LIMIT_OFFSET = 7;
const IPV6_SOURCE_OFFSET = 8;
const MAC_SOURCE_OFFSET = 6;
const UDP_HEADER = 8;

/** Octets that are left of a packet of a guarded peer from another Ethernet address: no BFD packet is that short. */
export const STRANGE_LENGTH = 1;

/** Without a guard, for a socket that has no room for its addresses. */
export const unguarded = (endpoint: Endpoint): Endpoint => ({
  ...endpoint,
  guard: { remotes: [], macs: [] },
});

/**
 * Drops packets with a low TTL or Hop Limit, and cuts those of a guarded peer from another Ethernet address down to
 * `STRANGE_LENGTH`, so that they are counted and the next hop is asked for. A packet of the right address passes
 * after two more comparisons, however many peers there are.
 */
export function receiveFilter({ local, minTTL, guard: { remotes, macs } }: Endpoint): Bpf {
  const v6 = local.includes(':');
  const gtsm: Bpf = [
    [LD_B_ABS, 0, 0, SKF_NET_OFF + (v6 ? IPV6_HOP_LIMIT_OFFSET : IPV4_TTL_OFFSET)],
    [JGE_K, 1, 0, minTTL],
    DROP,
  ];
  if (macs.length === 0) return [...gtsm, ACCEPT];
  return [...gtsm, ...macs.flatMap(acceptMac), ...remotes.flatMap(cutRemote), ACCEPT];
}

/** Accepts packets from an Ethernet address. */
function acceptMac(mac: string): Bpf {
  const octets = Buffer.from(macBytes(mac));
  return [
    [LD_W_ABS, 0, 0, SKF_LL_OFF + MAC_SOURCE_OFFSET + 2],
    [JEQ_K, 0, 3, octets.readInt32BE(2)],
    [LD_H_ABS, 0, 0, SKF_LL_OFF + MAC_SOURCE_OFFSET],
    [JEQ_K, 0, 1, octets.readUInt16BE(0)],
    ACCEPT,
  ];
}

/** Cuts packets from an IP address. A zone is not in the packet. */
function cutRemote(remote: string): Bpf {
  const octets = Buffer.from(addressBytes(remote.split('%')[0] as Address));
  const words = Array.from({ length: octets.length / 4 }, (_, i) => octets.readInt32BE(4 * i));
  const source = SKF_NET_OFF + (words.length > 1 ? IPV6_SOURCE_OFFSET : IPV4_SOURCE_OFFSET);
  return [
    ...words.flatMap(
      (word, i): Bpf => [
        [LD_W_ABS, 0, 0, source + 4 * i],
        [JEQ_K, 0, 2 * (words.length - i) - 1, word],
      ],
    ),
    [RET_K, 0, 0, UDP_HEADER + STRANGE_LENGTH],
  ];
}
