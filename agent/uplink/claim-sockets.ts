/**
 * The sockets for claims.ts: a packet socket for each link and family, with a filter for its addresses, and the
 * membership in the multicast groups in which other hosts probe for IPv6 addresses. What arrives raises SIGURG.
 */
import { onArrival } from '../../lib/arrivals.ts';
import * as libc from '../../lib/libc.ts';
import { SystemError } from '../../lib/libc.ts';
import {
  AF_INET6,
  EAGAIN,
  ETH_P_ARP,
  ETH_P_IPV6,
  IPV6_ADD_MEMBERSHIP,
  SOCK_DGRAM,
  SOL_IPV6,
} from '../../lib/linux.ts';
import { macText } from '../../lib/mac.ts';
import { solicitedNode } from '../../lib/ndp.ts';
import { type Address, type Family, familyOf } from '../../lib/prefix.ts';
import type { ClaimMessage } from './claim.ts';
import { type ClaimPacket, decodeClaims } from './claim-packets.ts';
import { claimsFilter } from './filters.ts';
import { packetSocket } from './probe.ts';

/** Packets that one call of `receive` takes from one socket. */
const READ_AT_MOST = 256;
const BUFFER = 2048;
/** Octets of struct sockaddr_ll. */
const LINK_ADDRESS = 20;

/** An address on a link, and whether others may probe for it before the kernel listens for it. */
export interface Listened {
  address: Address;
  ifindex: number;
  assigned: boolean;
}

/** A message about an address, and the link that it came from. */
export interface ReceivedClaim {
  address: Address;
  message: ClaimMessage;
  ifindex: number;
}

export interface ClaimSockets {
  /** Receives messages about these addresses from now on, and no others. Returns why some cannot be. */
  listen(addresses: readonly Listened[]): string | undefined;
  /** The messages since the last call. */
  receive(): ReceivedClaim[];
  /** Sends a packet about an address. Throws `SystemError`, and `Error` where there is no socket. */
  send(address: Address, ifindex: number, packet: ClaimPacket): void;
  /** Calls this when something may have arrived. Returns what ends that. */
  onArrival(run: () => void): () => void;
}

/** One socket for a link and a family. */
interface LinkSocket {
  fd: number;
  /** The addresses that its filter accepts. */
  accepted: string;
}

const keyOf = (family: Family, ifindex: number): string => `${family} ${ifindex}`;
const ifindexOf = (key: string): number => Number(key.slice(2));

export class PacketClaimSockets implements ClaimSockets {
  readonly onArrival = onArrival;
  readonly #sockets = new Map<string, LinkSocket>();
  readonly #buffer = Buffer.alloc(BUFFER);
  readonly #from = Buffer.alloc(LINK_ADDRESS);
  /** Why there is no socket for some address. */
  #problem: string | undefined;
  /** The socket that is a member of the multicast groups; undefined: of none. */
  #groups: number | undefined;

  listen(addresses: readonly Listened[]): string | undefined {
    const wanted = Map.groupBy(addresses, ({ address, ifindex }) => keyOf(familyOf(address), ifindex));
    for (const [key, { fd }] of this.#sockets) {
      if (wanted.has(key)) continue;
      libc.close(fd);
      this.#sockets.delete(key);
    }
    this.#problem = undefined;
    for (const [key, list] of wanted) {
      try {
        this.#listenOn(
          key,
          list.map(({ address }) => address),
        );
      } catch (error) {
        this.#problem = (error as Error).message;
      }
    }
    this.#joinGroups(addresses.filter(({ address, assigned }) => !assigned && familyOf(address) === 6));
    return this.#problem;
  }

  receive(): ReceivedClaim[] {
    const received: ReceivedClaim[] = [];
    for (const [key, { fd }] of this.#sockets) {
      for (let i = 0; i < READ_AT_MOST; i++) {
        const length = libc.recvfrom(fd, this.#buffer, this.#from);
        if (length === -EAGAIN) break;
        if (length <= 0) continue;
        const sender = macText(this.#from.subarray(libc.LINK_ADDRESS_MAC, libc.LINK_ADDRESS_MAC + 6));
        for (const claim of decodeClaims(this.#buffer.subarray(0, length), sender)) {
          received.push({ ...claim, ifindex: ifindexOf(key) });
        }
      }
    }
    return received;
  }

  send(address: Address, ifindex: number, { packet, to }: ClaimPacket): void {
    const family = familyOf(address);
    const socket = this.#sockets.get(keyOf(family, ifindex));
    if (socket === undefined) throw new Error(this.#problem ?? 'there is no socket');
    const protocol = family === 4 ? ETH_P_ARP : ETH_P_IPV6;
    const result = libc.sendto(socket.fd, packet, libc.linkAddress(protocol, ifindex, to));
    if (result < 0) throw new SystemError('send', -result);
  }

  #listenOn(key: string, addresses: Address[]): void {
    const family = familyOf(addresses[0]!);
    const accepted = addresses.join();
    const socket = this.#sockets.get(key);
    if (socket?.accepted === accepted) return;
    const filter = claimsFilter(family, addresses);
    if (socket !== undefined) {
      try {
        libc.attachFilter(socket.fd, filter);
        socket.accepted = accepted;
        return;
      } catch {
        // There is no room for both filters. The old one would drop messages about new addresses.
        libc.close(socket.fd);
        this.#sockets.delete(key);
      }
    }
    const protocol = family === 4 ? ETH_P_ARP : ETH_P_IPV6;
    this.#sockets.set(key, { fd: packetSocket(protocol, ifindexOf(key), filter), accepted });
  }

  /** Joins the groups of IPv6 addresses that the kernel does not have yet, and so does not listen for. */
  #joinGroups(addresses: readonly Listened[]): void {
    if (addresses.length === 0) {
      if (this.#groups !== undefined) libc.close(this.#groups);
      this.#groups = undefined;
      return;
    }
    for (const { address, ifindex } of addresses) {
      try {
        this.#groups ??= libc.socket(AF_INET6, SOCK_DGRAM, 0);
        // struct ipv6_mreq
        const request = Buffer.alloc(20);
        request.set(libc.sockaddr(solicitedNode(address), 0).subarray(8, 24));
        request.writeInt32LE(ifindex, 16);
        libc.setsockopt(this.#groups, SOL_IPV6, IPV6_ADD_MEMBERSHIP, request);
      } catch {
        // Joined before (EADDRINUSE), or the link is gone. Without it only a switch with MLD snooping drops probes.
      }
    }
  }
}
