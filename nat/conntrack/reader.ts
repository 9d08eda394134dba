/**
 * Reads conntrack events and dumps of the table, and feeds the tracker. Runs in a thread of its own, which calls
 * `turn` again and again; nothing here waits.
 *
 * When the receive buffer is full, the kernel reports ENOBUFS once and drops all events until the queue has been
 * read to its end. So what is in the queue is older than the gap, and the gap ends when the queue is empty; the number
 * of dropped events is the socket's drop counter in /proc/net/netlink.
 */
import { readFileSync } from 'node:fs';
import * as system from '../../lib/libc.ts';
import { EAGAIN, EINTR, ENOBUFS, NLMSG_DONE, NLMSG_ERROR } from '../../lib/linux.ts';
import { DATAGRAM_SIZE, joinGroups, NetlinkError, openNetlink, Protocol } from '../../lib/netlink.ts';
import { Messages } from '../../lib/netlink-codec.ts';
import type { Tracker } from './tracker.ts';
import {
  type ConntrackEntry,
  CT_DELETE,
  CT_NEW,
  decodeEntry,
  dumpRequest,
  NFNLGRP_CONNTRACK_DESTROY,
  NFNLGRP_CONNTRACK_NEW,
} from './wire.ts';

/** The libc calls that are needed. */
export type ConntrackLibc = Pick<
  typeof system,
  'socket' | 'bind' | 'getsockname' | 'setsockopt' | 'setReceiveBuffer' | 'sendto' | 'recv' | 'close'
>;

/** Holds the events of about two seconds at 10 000 a second; the kernel doubles it. */
export const RECEIVE_BUFFER = 8 << 20;
/** Bounds of one turn: events, flows that a dump shows to be gone, and time in ms that a dump may take. */
const EVENTS_PER_TURN = 2048;
const ENDS_PER_TURN = 2048;
const DUMP_SLICE = 20;
/** The shortest time between two dumps, ms, and the longest share of the time that they may take. */
const DUMP_PERIOD = 2000;
const DUMP_SHARE = 0.02;

export interface ReaderOptions {
  /** Default: those of the running program. */
  libc?: ConntrackLibc;
  tracker: Tracker;
  /** Unix time in ms. */
  now: () => number;
  /** Milliseconds of a monotonic clock; default `performance.now`. */
  clock?: () => number;
  /** The number of messages that the kernel has dropped for a socket; default: from /proc/net/netlink. */
  dropCount?: (port: number) => number | undefined;
  /** Called after each complete dump, with when it began, ms of `clock`; its time counts as part of the dump. */
  onDump: (began: number) => void;
  /** Octets; default `RECEIVE_BUFFER`. */
  receiveBuffer?: number;
}

/** A dump under way. */
interface Dump {
  /** Received entries, to be applied when the event queue is empty. */
  part?: ConntrackEntry[];
  /** When it was requested, ms of the monotonic clock. */
  began: number;
  /** Everything was received. */
  complete: boolean;
  /** Time that it has taken, ms. */
  cost: number;
}

/** The drop counter of a netfilter socket, 32 bits. */
function readDropCount(port: number): number | undefined {
  for (const line of readFileSync('/proc/net/netlink', 'utf8').split('\n')) {
    const [, protocol, owner, , , , , , drops] = line.trim().split(/\s+/);
    if (Number(protocol) === Protocol.NETFILTER && Number(owner) === port) return Number(drops);
  }
  return undefined;
}

const refused = (what: string, errno: number): Error =>
  new Error(`${what}: ${new NetlinkError(-errno).message}`);

export class ConntrackReader {
  readonly #options: Required<ReaderOptions>;
  readonly #events: { fd: number; port: number };
  readonly #dumpSocket: { fd: number };
  readonly #eventBuffer = Buffer.allocUnsafeSlow(DATAGRAM_SIZE);
  readonly #dumpBuffer = Buffer.allocUnsafeSlow(DATAGRAM_SIZE);
  #sequence = 0;
  #dump: Dump | undefined;
  /** When the next dump is due, ms of the monotonic clock. */
  #dumpDue = Number.NEGATIVE_INFINITY;
  /** When the queue was last seen empty: what is read now happened later. */
  #caughtUp: number;
  /** When the queue was last seen empty before events were dropped. */
  #overrunSince: number | undefined;
  #dropped = 0;

  /** Opens the sockets; the kernel queues events from here on. Throws `SystemError`. */
  constructor(options: ReaderOptions) {
    this.#options = {
      libc: system,
      clock: () => performance.now(),
      dropCount: readDropCount,
      receiveBuffer: RECEIVE_BUFFER,
      ...options,
    };
    const { libc, now, receiveBuffer } = this.#options;
    this.#events = openNetlink(Protocol.NETFILTER, libc);
    this.#dumpSocket = openNetlink(Protocol.NETFILTER, libc);
    const { fd } = this.#events;
    libc.setReceiveBuffer(fd, receiveBuffer);
    this.#caughtUp = now();
    joinGroups(fd, [NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_DESTROY], libc);
  }

  /**
   * Reads a bounded part of what is queued. Returns whether there is more to do at once.
   * Throws `NetlinkError`.
   */
  turn(): boolean {
    const { tracker, clock } = this.#options;
    let drained = this.#readEvents(EVENTS_PER_TURN);
    if (this.#dump === undefined && (tracker.mustDump || clock() >= this.#dumpDue)) this.#beginDump();
    const end = clock() + DUMP_SLICE;
    while (this.#dump !== undefined && drained && clock() < end) {
      if (!this.#continueDump(this.#dump, ENDS_PER_TURN)) return true;
      drained = this.#readEvents(EVENTS_PER_TURN);
    }
    return !drained || this.#dump !== undefined || tracker.mustDump;
  }

  /** Reads all queued events. */
  drain(): void {
    this.#readEvents(Number.POSITIVE_INFINITY);
  }

  /** Reads the whole table once more. */
  dump(): void {
    if (this.#dump === undefined) this.#beginDump();
    while (this.#dump !== undefined) {
      this.drain();
      this.#continueDump(this.#dump, Number.POSITIVE_INFINITY);
    }
  }

  close(): void {
    const { libc } = this.#options;
    libc.close(this.#events.fd);
    libc.close(this.#dumpSocket.fd);
  }

  /** Returns whether the queue was read to its end. */
  #readEvents(most: number): boolean {
    const { libc, now } = this.#options;
    const buffer = this.#eventBuffer;
    for (let count = 0; count < most; count++) {
      const length = libc.recv(this.#events.fd, buffer);
      if (length === -EAGAIN) {
        this.#endGap();
        this.#caughtUp = now();
        return true;
      }
      if (length >= 0) this.#applyEvents(buffer, length);
      else if (length === -ENOBUFS) this.#overrunSince ??= this.#caughtUp;
      else if (length !== -EINTR) throw refused('cannot read conntrack events', length);
    }
    return false;
  }

  #applyEvents(buffer: Buffer, length: number): void {
    const { tracker, now } = this.#options;
    const messages = new Messages(buffer, length);
    while (messages.next()) {
      const entry = decodeEntry(buffer, messages.start, messages.end);
      if (entry === undefined) continue;
      if (messages.type === CT_NEW) tracker.began(entry, this.#caughtUp);
      else if (messages.type === CT_DELETE) tracker.ended(entry, now());
    }
  }

  #endGap(): void {
    if (this.#overrunSince === undefined) return;
    const { tracker, now, dropCount } = this.#options;
    const dropped = dropCount(this.#events.port);
    tracker.lost(this.#overrunSince, now(), dropped && (dropped - this.#dropped) >>> 0);
    this.#dropped = dropped ?? this.#dropped;
    this.#overrunSince = undefined;
  }

  #beginDump(): void {
    const { libc, tracker, clock } = this.#options;
    const began = clock();
    // The kernel writes the first part within the call.
    tracker.beginDump();
    const sent = libc.sendto(this.#dumpSocket.fd, dumpRequest(++this.#sequence));
    if (sent < 0) throw refused('cannot request the conntrack table', sent);
    this.#dump = { began, complete: false, cost: 0 };
  }

  /**
   * Continues a dump, once the event queue has been read to its end: what arrives there later is newer than the
   * part at hand. Returns false when other work should come first.
   */
  #continueDump(dump: Dump, mostEnds: number): boolean {
    const { tracker, now, clock, onDump } = this.#options;
    const began = clock();
    let goOn = true;
    if (dump.part !== undefined) {
      tracker.applyPart(dump.part, now());
      delete dump.part;
    } else if (!dump.complete) {
      dump.part = this.#receivePart(dump);
    } else if (tracker.endDump(now(), mostEnds)) {
      onDump(dump.began);
      this.#dump = undefined;
    } else {
      goOn = false;
    }
    dump.cost += clock() - began;
    this.#dumpDue = clock() + Math.max(DUMP_PERIOD, dump.cost / DUMP_SHARE);
    return goOn;
  }

  /** The entries of the next part. They are views of the buffer. */
  #receivePart(dump: Dump): ConntrackEntry[] {
    const buffer = this.#dumpBuffer;
    const length = this.#options.libc.recv(this.#dumpSocket.fd, buffer);
    if (length === -EINTR) return [];
    if (length < 0) throw refused('cannot read the conntrack table', length);
    const entries: ConntrackEntry[] = [];
    const messages = new Messages(buffer, length);
    while (messages.next()) {
      const { type, seq, start, end } = messages;
      if (seq !== this.#sequence) continue;
      if (type === NLMSG_DONE || type === NLMSG_ERROR) {
        dump.complete = true;
        const error = buffer.readInt32LE(start);
        if (error !== 0) throw refused('cannot read the conntrack table', error);
      }
      const entry = type === CT_NEW ? decodeEntry(buffer, start, end) : undefined;
      if (entry !== undefined) entries.push(entry);
    }
    return entries;
  }
}
