/**
 * Reads conntrack events and dumps of the table, and feeds the tracker. Runs in a thread of its own, which calls
 * `turn` again and again; nothing here waits.
 *
 * When the kernel has to drop events it says so once (ENOBUFS) and drops everything until the queue has been read
 * to its end. So what waits in the queue is older than the gap, and the gap ends when the queue is empty; its
 * number of events is the socket's drop counter in /proc/net/netlink.
 */
import { readFileSync } from 'node:fs';
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

/** The libc calls that are needed, as `bfd/libc.ts` has them; `sendto` and `recv` return a negative errno. */
export interface Libc {
  socket(domain: number, type: number, protocol: number): number;
  bind(fd: number, address: Uint8Array): void;
  getsockname(fd: number, address: Uint8Array): void;
  setsockopt(fd: number, level: number, name: number, value: number): void;
  sendto(fd: number, data: Uint8Array): number;
  recv(fd: number, data: Uint8Array): number;
  close(fd: number): void;
}

const AF_NETLINK = 16;
const SOCK_RAW = 3;
const NETLINK_NETFILTER = 12;
const SOL_SOCKET = 1;
const SO_RCVBUF = 8;
const SO_RCVBUFFORCE = 33;
const SOL_NETLINK = 270;
const NETLINK_ADD_MEMBERSHIP = 1;
const EINTR = 4;
const EAGAIN = 11;
const ENOBUFS = 105;

/** Holds the events of about two seconds at 10 000 a second; the kernel doubles it. */
export const RECEIVE_BUFFER = 8 << 20;
/** More than the kernel puts into one datagram (32 KiB of a dump). */
const DATAGRAM = 65_536;
/** Events, and time in ms, that one turn takes before other work gets its own. */
const EVENTS_PER_TURN = 4096;
const DUMP_SLICE = 20;
/** The shortest time between two dumps, ms, and the longest share of the time that they may take. */
const DUMP_PERIOD = 2000;
const DUMP_SHARE = 0.02;

export interface ReaderOptions {
  libc: Libc;
  tracker: Tracker;
  /** Unix time in ms. */
  now: () => number;
  /** Called after each complete dump. */
  onDump: () => void;
  /** Octets; default `RECEIVE_BUFFER`. */
  receiveBuffer?: number;
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
  readonly #dump: { fd: number };
  readonly #eventBuffer = Buffer.allocUnsafeSlow(DATAGRAM);
  readonly #dumpBuffer = Buffer.allocUnsafeSlow(DATAGRAM);
  #sequence = 0;
  #dumping = false;
  /** Time that the dump under way has cost, and when the next is due, ms of the monotonic clock. */
  #dumpCost = 0;
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
    this.#dump = open(libc);
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
    const drained = this.#takeEvents(EVENTS_PER_TURN);
    if (!this.#dumping && (tracker.mustDump || performance.now() >= this.#dumpDue)) this.#beginDump();
    const end = performance.now() + DUMP_SLICE;
    while (this.#dumping && performance.now() < end) this.#takePart();
    return !drained || this.#dumping || tracker.mustDump;
  }

  /** Takes every event that waits. */
  drain(): void {
    this.#takeEvents(Number.POSITIVE_INFINITY);
  }

  /** Reads the whole table once more. */
  dump(): void {
    if (!this.#dumping) this.#beginDump();
    while (this.#dumping) this.#takePart();
  }

  close(): void {
    const { libc } = this.#options;
    libc.close(this.#events.fd);
    libc.close(this.#dump.fd);
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
    const sent = libc.sendto(this.#dump.fd, dumpRequest(++this.#sequence));
    if (sent < 0) throw new Error(`cannot ask for the conntrack table: errno ${-sent}`);
    this.#dumping = true;
    this.#dumpCost = 0;
    tracker.beginDump();
  }

  /** Takes the next part of the dump. */
  #takePart(): void {
    const { libc, tracker, now, onDump } = this.#options;
    const began = performance.now();
    const buffer = this.#dumpBuffer;
    const length = libc.recv(this.#dump.fd, buffer);
    if (length === -EINTR) return;
    if (length < 0) throw new Error(`cannot read the conntrack table: errno ${-length}`);
    const entries: ConntrackEntry[] = [];
    let done = false;
    forEachMessage(buffer, length, (type, _flags, sequence, start, end) => {
      if (sequence !== this.#sequence) return;
      if (type === NLMSG_DONE || type === NLMSG_ERROR) {
        done = true;
        const errno = -buffer.readInt32LE(start);
        if (errno !== 0) throw new Error(`the kernel refuses to show the conntrack table: errno ${errno}`);
      }
      const entry = type === CT_NEW ? decodeEntry(buffer, start, end) : undefined;
      if (entry !== undefined) entries.push(entry);
    });
    tracker.beginPart();
    this.#takeEvents(Number.POSITIVE_INFINITY);
    tracker.applyPart(entries, now());
    this.#dumpCost += performance.now() - began;
    if (!done) return;
    this.#dumping = false;
    this.#dumpDue = performance.now() + Math.max(DUMP_PERIOD, this.#dumpCost / DUMP_SHARE);
    tracker.endDump(now());
    onDump();
  }
}
