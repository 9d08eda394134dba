/**
 * Listens for BFD packets from the first moment of the process. A peer that is Down sends once a second, and a passive session may not
 * speak before it has heard its peer: without this a packet that comes while rules are being made costs another second.
 *
 * A packet socket takes nothing from others: another daemon may have the port. The kernel keeps what comes until it is read, at most
 * `BUFFER`; this process does not wake up for it.
 */
import {
  attachFilter,
  bind,
  closeLater,
  linkAddress,
  recvfrom,
  setReceiveBuffer,
  socket,
} from '../lib/libc.ts';
import { AF_PACKET, ETH_P_IP, ETH_P_IPV6, SOCK_DGRAM } from '../lib/linux.ts';
import { FAMILIES, type Family } from '../lib/prefix.ts';
import { type EarlyPacket, earlyFilter, parseEarly } from './early-packet.ts';

/** Octets that wait to be read; a packet takes about 800 with what the kernel needs for it. */
const BUFFER = 1 << 18;
/** Packets that are kept for sessions to come. */
const MAX_PACKETS = 1024;
/** Longer than any BFD packet with its headers. */
const LONGEST = 512;
/** In struct sockaddr_ll (linux/if_packet.h). */
const IFINDEX_AT = 4;
const SOCKADDR_LL = 20;

const PROTOCOLS: Record<Family, number> = { 4: ETH_P_IP, 6: ETH_P_IPV6 };

export class EarlyListener {
  readonly #sockets: { family: Family; fd: number }[] = [];
  #packets: EarlyPacket[] = [];

  /** Undefined where that is not permitted: sessions then wait for the next packet. */
  static open(): EarlyListener | undefined {
    const listener = new EarlyListener();
    try {
      for (const family of FAMILIES) listener.#open(family);
      return listener;
    } catch {
      listener.close();
      return undefined;
    }
  }

  #open(family: Family): void {
    // Of no protocol before it has its filter.
    const fd = socket(AF_PACKET, SOCK_DGRAM, 0);
    this.#sockets.push({ family, fd });
    setReceiveBuffer(fd, BUFFER);
    attachFilter(fd, earlyFilter(family));
    bind(fd, linkAddress(PROTOCOLS[family], 0));
  }

  /** Takes what has come from a peer, in its order. */
  take(local: string, remote: string): EarlyPacket[] {
    this.#read();
    const isOf = (packet: EarlyPacket) => packet.local === local && packet.remote === remote;
    const taken = this.#packets.filter(isOf);
    this.#packets = this.#packets.filter((packet) => !isOf(packet));
    return taken;
  }

  #read(): void {
    const buffer = Buffer.alloc(LONGEST);
    const from = Buffer.alloc(SOCKADDR_LL);
    for (const { family, fd } of this.#sockets) {
      while (this.#packets.length < MAX_PACKETS) {
        const length = recvfrom(fd, buffer, from);
        if (length < 0) break;
        const packet = parseEarly(family, buffer.subarray(0, length), from.readInt32LE(IFINDEX_AT));
        if (packet !== undefined) this.#packets.push(packet);
      }
    }
  }

  close(): void {
    this.#packets = [];
    // Closing a packet socket waits for the kernel, longer than a BFD packet may wait.
    for (const { fd } of this.#sockets.splice(0)) closeLater(fd);
  }
}
