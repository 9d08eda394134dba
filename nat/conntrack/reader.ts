/**
 * Reads conntrack events and dumps of the table, and feeds the tracker. Runs in a thread of its own, which calls
 * `turn` again and again; nothing here waits.
 *
 * When the kernel has to drop events it says so once (ENOBUFS) and drops everything until the queue has been read
 * to its end. So what waits in the queue is older than the gap, and the gap ends when the queue is empty; its
 * number of events is the socket's drop counter in /proc/net/netlink.
 */
import { readFileSync } from 'node:fs';
import {
  AF_NETLINK,
  EAGAIN,
  EINTR,
  ENOBUFS,
  NETLINK_ADD_MEMBERSHIP,
  NETLINK_NETFILTER,
  SO_RCVBUF,
  SO_RCVBUFFORCE,
  SOCK_RAW,
  SOL_NETLINK,
  SOL_SOCKET,
} from '../../lib/linux.ts';
import type { Tracker } from './tracker.ts';
import {
  type ConntrackEntry,
  CT_DELETE,
  CT_NEW,
  decodeEntry,
  dumpRequest,
  forEachMessage,
  NFNLGRP_CONNTRACK_DESTROY,
  NFNLGRP_CONNTRACK_NEW,
  NLMSG_DONE,
  NLMSG_ERROR,
} from './wire.ts';

/** The libc calls that are needed, as `lib/libc.ts` has them; `sendto` and `recv` return a negative errno. */
export interface Libc {
  socket(domain: number, type: number, protocol: number): number;
  bind(fd: number, address: Uint8Array): void;
  getsockname(fd: number, address: Uint8Array): void;
  setsockopt(fd: number, level: number, name: number, value: number): void;
  sendto(fd: number, data: Uint8Array): number;
  recv(fd: number, data: Uint8Array): number;
  close(fd: number): void;
}

/** Holds the events of about two seconds at 10 000 a second; the kernel doubles it. */
export const RECEIVE_BUFFER = 8 << 20;
/** More than the kernel puts into one datagram (32 KiB of a dump). */
const DATAGRAM = 65_536;
/** Events, ends that a dump shows, and time in ms of a dump that one turn takes before other work gets its own. */
const EVENTS_PER_TURN = 2048;
const ENDS_PER_TURN = 2048;
const DUMP_SLICE = 20;
/** The shortest time between two dumps, ms, and the longest share of the time that they may take. */
const DUMP_PERIOD = 2000;
const DUMP_SHARE = 0.02;

export interface ReaderOptions {
  libc: Libc;
  tracker: Tracker;
  /** Unix time in ms. */
  now: () => number;
  /** Called after each complete dump; what it takes counts as part of the dump. */
  onDump: () => void;
  /** Octets; default `RECEIVE_BUFFER`. */
  receiveBuffer?: number;
}

/** A dump under way. */
interface Dump {
  /** What was received and is to be used when the events that wait have been taken. */
  part?: ConntrackEntry[];
  /** Everything was received. */
  complete: boolean;
  /** What it has cost, ms. */
  cost: number;
}

/** A socket; returns its address (nl_pid) too. */
function open(libc: Libc): { fd: number; port: number } {
  const fd = libc.socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
  const address = Buffer.alloc(12);
  address.writeUInt16LE(AF_NETLINK);
  libc.bind(fd, address);
  libc.getsockname(fd, address);
  return { fd, port: address.readUInt32LE(4) };
}

/** How many messages the kernel has dropped for a netfilter socket. */
function droppedBy(port: number): number | undefined {
  for (const line of readFileSync('/proc/net/netlink', 'utf8').split('\n')) {
    const [, protocol, owner, , , , , , drops] = line.trim().split(/\s+/);
    if (Number(protocol) === NETLINK_NETFILTER && Number(owner) === port) return Number(drops);
  }
  return undefined;
}

export class ConntrackReader {
  readonly #options: ReaderOptions;
  readonly #events: { fd: number; port: number };
  readonly #dumpSocket: { fd: number };
  readonly #eventBuffer = Buffer.allocUnsafeSlow(DATAGRAM);
  readonly #dumpBuffer = Buffer.allocUnsafeSlow(DATAGRAM);
  #sequence = 0;
  #dump: Dump | undefined;
  /** When the next dump is due, ms of the monotonic clock. */
  #dumpDue = 0;
  /** When the queue was last seen empty: what is read now happened later. */
  #caughtUp: number;
  /** When the queue was last seen empty before events were dropped. */
  #overrunSince: number | undefined;
  #dropped = 0;

  /** Opens the sockets; events are kept from here on. Throws what `libc` throws. */
  constructor(options: ReaderOptions) {
    this.#options = options;
    const { libc, receiveBuffer = RECEIVE_BUFFER } = options;
    this.#events = open(libc);
    this.#dumpSocket = open(libc);
    const { fd } = this.#events;
    try {
      libc.setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, receiveBuffer);
    } catch {
      libc.setsockopt(fd, SOL_SOCKET, SO_RCVBUF, receiveBuffer);
    }
    this.#caughtUp = options.now();
    for (const group of [NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_DESTROY]) {
      libc.setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group);
    }
  }

  /**
   * Takes what waits, a bounded amount of it. Returns whether there is more to do at once.
   * Throws when the kernel refuses.
   */
  turn(): boolean {
    const { tracker } = this.#options;
    let drained = this.#takeEvents(EVENTS_PER_TURN);
    if (this.#dump === undefined && (tracker.mustDump || performance.now() >= this.#dumpDue))
      this.#beginDump();
    const end = performance.now() + DUMP_SLICE;
    while (this.#dump !== undefined && drained && performance.now() < end) {
      if (!this.#stepDump(this.#dump, ENDS_PER_TURN)) return true;
      drained = this.#takeEvents(EVENTS_PER_TURN);
    }
    return !drained || this.#dump !== undefined || tracker.mustDump;
  }

  /** Takes every event that waits. */
  drain(): void {
    this.#takeEvents(Number.POSITIVE_INFINITY);
  }

  /** Reads the whole table once more. */
  dump(): void {
    if (this.#dump === undefined) this.#beginDump();
    while (this.#dump !== undefined) {
      this.drain();
      this.#stepDump(this.#dump, Number.POSITIVE_INFINITY);
    }
  }

  close(): void {
    const { libc } = this.#options;
    libc.close(this.#events.fd);
    libc.close(this.#dumpSocket.fd);
  }

  /** Whether the queue was read to its end. */
  #takeEvents(most: number): boolean {
    const { libc, tracker, now } = this.#options;
    const buffer = this.#eventBuffer;
    for (let taken = 0; taken < most; taken++) {
      const length = libc.recv(this.#events.fd, buffer);
      if (length === -EAGAIN) {
        this.#endGap();
        this.#caughtUp = now();
        return true;
      }
      if (length === -ENOBUFS) {
        this.#overrunSince ??= this.#caughtUp;
      } else if (length < 0 && length !== -EINTR) {
        throw new Error(`cannot read conntrack events: errno ${-length}`);
      }
      forEachMessage(buffer, length, (type, _flags, _sequence, start, end) => {
        const entry = decodeEntry(buffer, start, end);
        if (entry === undefined) return;
        if (type === CT_NEW) tracker.began(entry, this.#caughtUp);
        else if (type === CT_DELETE) tracker.ended(entry, now());
      });
    }
    return false;
  }

  #endGap(): void {
    if (this.#overrunSince === undefined) return;
    const dropped = droppedBy(this.#events.port);
    this.#options.tracker.lost(this.#overrunSince, this.#options.now(), dropped && dropped - this.#dropped);
    this.#dropped = dropped ?? this.#dropped;
    this.#overrunSince = undefined;
  }

  #beginDump(): void {
    const { libc, tracker } = this.#options;
    // The first part is written within the call.
    tracker.beginDump();
    const sent = libc.sendto(this.#dumpSocket.fd, dumpRequest(++this.#sequence));
    if (sent < 0) throw new Error(`cannot ask for the conntrack table: errno ${-sent}`);
    this.#dump = { complete: false, cost: 0 };
  }

  /**
   * Goes on with a dump, when the queue of events has been read to its end: what waits there is later than the
   * part at hand. Returns false when other work should come first.
   */
  #stepDump(dump: Dump, mostEnds: number): boolean {
    const { tracker, now, onDump } = this.#options;
    const began = performance.now();
    let goOn = true;
    if (dump.part !== undefined) {
      tracker.applyPart(dump.part, now());
      delete dump.part;
    } else if (!dump.complete) {
      dump.part = this.#receivePart(dump);
    } else if (tracker.endDump(now(), mostEnds)) {
      onDump();
      this.#dump = undefined;
    } else {
      goOn = false;
    }
    dump.cost += performance.now() - began;
    this.#dumpDue = performance.now() + Math.max(DUMP_PERIOD, dump.cost / DUMP_SHARE);
    return goOn;
  }

  /** The entries of the next part. They are views of the buffer. */
  #receivePart(dump: Dump): ConntrackEntry[] {
    const buffer = this.#dumpBuffer;
    const length = this.#options.libc.recv(this.#dumpSocket.fd, buffer);
    if (length === -EINTR) return [];
    if (length < 0) throw new Error(`cannot read the conntrack table: errno ${-length}`);
    const entries: ConntrackEntry[] = [];
    forEachMessage(buffer, length, (type, _flags, sequence, start, end) => {
      if (sequence !== this.#sequence) return;
      if (type === NLMSG_DONE || type === NLMSG_ERROR) {
        dump.complete = true;
        const errno = -buffer.readInt32LE(start);
        if (errno !== 0) throw new Error(`the kernel refuses to show the conntrack table: errno ${errno}`);
      }
      const entry = type === CT_NEW ? decodeEntry(buffer, start, end) : undefined;
      if (entry !== undefined) entries.push(entry);
    });
    return entries;
  }
}
