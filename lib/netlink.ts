/**
 * The netlink transport: requests and dumps on one kind of socket, multicast on another
 * (docs/design/0001-netlink.md). Messages are those of netlink-codec.ts.
 *
 * The kernel answers a request before send returns, so requests never wait. Multicast sockets are read when
 * the kernel sends a signal (F_SETSIG): no thread is blocked, nothing is polled, and an idle listener
 * neither costs anything nor keeps the process alive.
 */
import { setImmediate as turn } from 'node:timers/promises';
import { onArrival } from './arrivals.ts';
import { ACCEPT, type Bpf, DROP, JEQ_K, LD_H_ABS, LD_W_ABS } from './bpf.ts';
import * as libc from './libc.ts';
import {
  AF_NETLINK,
  EAGAIN,
  EINTR,
  EMSGSIZE,
  NETLINK_ADD_MEMBERSHIP,
  NETLINK_NETFILTER,
  NLM_F_ACK,
  NLM_F_ACK_TLVS,
  NLM_F_DUMP,
  NLM_F_DUMP_INTR,
  NLM_F_REQUEST,
  NLMSG_DONE,
  NLMSG_ERROR,
  SOCK_RAW,
  SOL_NETLINK,
} from './linux.ts';
import { Attributes, formatDatagram, messagesIn, type NetlinkMessage } from './netlink-codec.ts';

export type { NetlinkMessage };

/** Netlink protocols (linux/netlink.h). */
export const Protocol = { ROUTE: 0, NETFILTER: NETLINK_NETFILTER } as const;
type Protocol = (typeof Protocol)[keyof typeof Protocol];

// linux/netlink.h
const NETLINK_CAP_ACK = 10;
const NETLINK_EXT_ACK = 11;
const NETLINK_GET_STRICT_CHK = 12;
const NLMSGERR_ATTR_MSG = 1;

/** More than the kernel puts into one datagram (32 KiB of a dump, NLMSG_GOODSIZE of events). */
export const DATAGRAM_SIZE = 65_536;

/** Requests that one send carries: if all of them fail, their answers still fit the receive buffer. */
const REQUESTS_PER_SEND = 128;

/** Tries for a dump that changes interrupt. */
const DUMP_ATTEMPTS = 10;

/** Datagrams that one listener reads before other work gets its turn. */
const DATAGRAMS_PER_TURN = 256;

/** Octets of a multicast socket's buffer: some thousand events. */
const LISTENER_BUFFER = 1 << 20;

/** An error that the kernel answered, or that the socket reported: `code` is `EEXIST`, `errno` its number. */
export class NetlinkError extends Error {
  readonly errno: number;
  readonly code: string;

  /** `reason`: the kernel's text (extended acknowledgement), in place of the text of the number. */
  constructor(errno: number, reason?: string) {
    const [code, text] = libc.errnoText(errno);
    super(`${(reason ?? text).replace(/\.$/, '')} (${code})`);
    this.name = 'NetlinkError';
    this.errno = errno;
    this.code = code;
  }
}

/** One request: a message type, its flags besides NLM_F_REQUEST and NLM_F_ACK, and its payload. */
export interface NetlinkRequest {
  type: number;
  flags?: number;
  data: Uint8Array;
}

/** The error in an NLMSG_ERROR, or in the NLMSG_DONE that ends a dump; undefined for success. */
export function acknowledgedError(message: NetlinkMessage): NetlinkError | undefined {
  const errno = -message.data.readInt32LE(0);
  if (errno === 0) return undefined;
  // An error repeats the request's header; NETLINK_CAP_ACK keeps its payload out.
  const fixed = message.type === NLMSG_ERROR ? 20 : 4;
  let reason: string | undefined;
  if (message.flags & NLM_F_ACK_TLVS) {
    const attributes = new Attributes(message.data, fixed);
    while (attributes.next()) if (attributes.type === NLMSGERR_ATTR_MSG) reason = attributes.string;
  }
  return new NetlinkError(errno, reason);
}

/** The messages of the next datagram; undefined when there is none. Throws `NetlinkError` (ENOBUFS: lost). */
function receive(fd: number, buffer: Buffer): NetlinkMessage[] | undefined {
  const length = libc.recv(fd, buffer);
  if (length === -EAGAIN) return undefined;
  if (length < 0) throw new NetlinkError(-length);
  return messagesIn(Buffer.from(buffer.subarray(0, length)));
}

/** The libc calls that open a socket. */
type OpenCalls = Pick<typeof libc, 'socket' | 'bind' | 'close' | 'getsockname'>;

/**
 * Opens and binds a socket, and returns it with its port number (nl_pid), the given one or one that the kernel chooses.
 * Throws `SystemError`.
 */
export function openNetlink(
  protocol: Protocol,
  calls: OpenCalls = libc,
  port = 0,
): { fd: number; port: number } {
  const fd = calls.socket(AF_NETLINK, SOCK_RAW, protocol);
  const address = Buffer.alloc(12);
  address.writeUInt16LE(AF_NETLINK);
  address.writeUInt32LE(port, 4);
  try {
    calls.bind(fd, address);
    calls.getsockname(fd, address);
  } catch (error) {
    calls.close(fd);
    throw error;
  }
  return { fd, port: address.readUInt32LE(4) };
}

/** Lets a socket receive the messages of multicast groups. Throws `SystemError`. */
export function joinGroups(
  fd: number,
  groups: readonly number[],
  calls: Pick<typeof libc, 'setsockopt'> = libc,
): void {
  for (const group of groups) calls.setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group);
}

/** Makes something, or nothing, of a message's payload. */
type Parse<T> = (payload: Buffer) => T | undefined;

/** A socket for requests and dumps. */
export class NetlinkSocket {
  /** Its address: notifications about what was changed through it carry this number. */
  readonly port: number;
  readonly fd: number;
  readonly #buffer = Buffer.allocUnsafeSlow(DATAGRAM_SIZE);
  #sequence = 0;

  /** `port`: a fixed one. Throws `SystemError`. */
  constructor(protocol: Protocol, port?: number) {
    ({ fd: this.fd, port: this.port } = openNetlink(protocol, libc, port));
    for (const option of [NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK]) {
      libc.setsockopt(this.fd, SOL_NETLINK, option, 1);
    }
  }

  /**
   * What `parse` makes of each message that a dump request returns (nothing of undefined), taken again while
   * changes interrupt it.
   * Throws `NetlinkError`: the kernel's refusal, EINTR when changes never let it finish, ENOBUFS.
   */
  dump<T>(type: number, data: Uint8Array, parse: Parse<T>): T[] {
    const parts = this.#dumpParts(type, data, parse);
    for (;;) {
      const { value, done } = parts.next();
      if (done) return value;
    }
  }

  /** The same, for long ones: other work goes on between the parts. One at a time. */
  async dumpInTurns<T>(type: number, data: Uint8Array, parse: Parse<T>): Promise<T[]> {
    const parts = this.#dumpParts(type, data, parse);
    for (;;) {
      const { value, done } = parts.next();
      if (done) return value;
      await turn();
    }
  }

  *#dumpParts<T>(type: number, data: Uint8Array, parse: Parse<T>): Generator<void, T[]> {
    for (let attempt = 0; attempt < DUMP_ATTEMPTS; attempt++) {
      const sequence = this.#send([{ type, flags: NLM_F_DUMP, data }]);
      const found: T[] = [];
      let interrupted = false;
      for (let done = false; !done; ) {
        for (const message of this.#answers(sequence)) {
          interrupted ||= (message.flags & NLM_F_DUMP_INTR) !== 0;
          if (message.type === NLMSG_DONE || message.type === NLMSG_ERROR) {
            const error = acknowledgedError(message);
            if (error !== undefined) throw error;
            done = true;
          } else {
            const item = parse(message.data);
            if (item !== undefined) found.push(item);
          }
        }
        yield;
      }
      if (!interrupted) return found;
    }
    throw new NetlinkError(EINTR, 'changes interrupted the dump again and again');
  }

  /**
   * Makes requests in order, many in one send, and returns what became of each: undefined for success.
   * One that fails does not keep the following from being tried. Requests are taken as they are sent, so that
   * ten thousand need not be there at once. Throws `NetlinkError` when answers were lost.
   */
  async transact(requests: Iterable<NetlinkRequest>): Promise<(NetlinkError | undefined)[]> {
    const results: (NetlinkError | undefined)[] = [];
    let batch: NetlinkRequest[] = [];
    for (const request of requests) {
      if (batch.length === REQUESTS_PER_SEND) {
        results.push(...this.#exchange(batch));
        batch = [];
        await turn();
      }
      batch.push(request);
    }
    if (batch.length > 0) results.push(...this.#exchange(batch));
    return results;
  }

  /** As `transact`, at once: for a thread in which no other work waits. Throws `NetlinkError` when answers were lost. */
  transactSync(requests: readonly NetlinkRequest[]): (NetlinkError | undefined)[] {
    const results: (NetlinkError | undefined)[] = [];
    for (let i = 0; i < requests.length; i += REQUESTS_PER_SEND) {
      results.push(...this.#exchange(requests.slice(i, i + REQUESTS_PER_SEND)));
    }
    return results;
  }

  /** The answer to a question about one thing. Throws `NetlinkError` (ENOENT: there is no such thing). */
  ask(type: number, data: Uint8Array): Buffer {
    const sequence = this.#send([{ type, flags: NLM_F_ACK, data }]);
    let answer: Buffer | undefined;
    for (;;) {
      for (const message of this.#answers(sequence)) {
        if (message.type !== NLMSG_ERROR) answer = message.data;
        else {
          const error = acknowledgedError(message);
          if (error !== undefined) throw error;
          return answer!;
        }
      }
    }
  }

  /** Makes one change. Throws `NetlinkError`. */
  change(request: NetlinkRequest): void {
    const [error] = this.#exchange([request]);
    if (error !== undefined) throw error;
  }

  /**
   * Sends a transaction: the messages between the first and the last, which enclose them. Throws the `NetlinkError`
   * of the first that is refused; then none is carried out.
   */
  sendAll(messages: readonly NetlinkRequest[]): void {
    const last = messages.length - 2;
    const first = this.#send(
      messages.map((message, i) =>
        i === last ? { ...message, flags: (message.flags ?? 0) | NLM_F_ACK } : message,
      ),
    );
    let failure: NetlinkError | undefined;
    for (let done = false; !done; ) {
      for (const message of this.#answers(first, messages.length - 1)) {
        if (message.type !== NLMSG_ERROR) continue;
        failure ??= acknowledgedError(message);
        // One about the first is about all of them: there are no others.
        done ||= message.seq === first + last || message.seq === first;
      }
    }
    if (failure !== undefined) throw failure;
  }

  /** Closes the socket; it cannot be used any more. */
  close(): void {
    libc.close(this.fd);
  }

  #exchange(requests: readonly NetlinkRequest[]): (NetlinkError | undefined)[] {
    // Failures are always answered; success is asked for only at the end.
    const last = requests.length - 1;
    const first = this.#send(
      requests.map((request, i) =>
        i === last ? { ...request, flags: (request.flags ?? 0) | NLM_F_ACK } : request,
      ),
    );
    const results = new Array<NetlinkError | undefined>(requests.length).fill(undefined);
    for (let done = false; !done; ) {
      for (const message of this.#answers(first, last)) {
        if (message.type !== NLMSG_ERROR) continue;
        results[message.seq - first] = acknowledgedError(message);
        done ||= message.seq === first + last;
      }
    }
    return results;
  }

  /** Sends requests in one datagram and returns the sequence number of the first. */
  #send(requests: readonly NetlinkRequest[]): number {
    const first = this.#sequence + 1;
    this.#sequence += requests.length;
    const messages = requests.map(({ type, flags = 0, data }) => ({
      type,
      flags: flags | NLM_F_REQUEST,
      data,
    }));
    const datagram = formatDatagram(messages, first, this.port);
    let sent = libc.sendto(this.fd, datagram);
    if (sent === -EMSGSIZE) {
      // A transaction may be larger than the buffer, which the kernel makes twice what is asked for.
      libc.setSendBuffer(this.fd, datagram.length);
      sent = libc.sendto(this.fd, datagram);
    }
    if (sent < 0) throw new NetlinkError(-sent);
    return first;
  }

  /** The answers in the next datagram to `count` + 1 requests; what is left of an earlier failure is skipped. */
  #answers(first: number, count = 0): NetlinkMessage[] {
    const messages = receive(this.fd, this.#buffer);
    if (messages === undefined) throw new NetlinkError(EAGAIN, 'the kernel did not answer');
    return messages.filter(({ seq }) => seq >= first && seq <= first + count);
  }
}

const NLMSG_TYPE_OFFSET = 4;

/** Accepts datagrams whose first message is of a type. BPF loads it as big-endian, and it is not. */
const typeFilter = (type: number): Bpf => [
  [LD_H_ABS, 0, 0, NLMSG_TYPE_OFFSET],
  [JEQ_K, 0, 1, ((type & 0xff) << 8) | (type >> 8)],
  ACCEPT,
  DROP,
];

const NLMSG_PORT_OFFSET = 12;

/** Accepts datagrams but those about changes through the socket with this netlink address. */
export function exceptFrom(port: number): Bpf {
  // BPF loads it as big-endian, and it is not.
  const swapped = Buffer.alloc(4);
  swapped.writeUInt32LE(port);
  return [[LD_W_ABS, 0, 0, NLMSG_PORT_OFFSET], [JEQ_K, 0, 1, swapped.readUInt32BE()], DROP, ACCEPT];
}

/** Where a listener's messages go. */
export interface NetlinkHandlers {
  onMessage: (message: NetlinkMessage) => void;
  /** The kernel had to drop messages: read everything again. */
  onOverrun: () => void;
}

/** A socket that hears multicast groups. For the main thread: only it gets signals. */
export class NetlinkListener {
  readonly #fd: number;
  readonly #handlers: NetlinkHandlers;
  readonly #buffer = Buffer.allocUnsafeSlow(DATAGRAM_SIZE);
  readonly #stopArrivals: () => void;
  #isOpen = true;

  /**
   * `receiveBuffer` in octets, beyond net.core.rmem_max where that is permitted. `only`: a message type, or a
   * program; datagrams that begin with another, or that it drops, are not received. Throws `SystemError`.
   */
  constructor(
    protocol: Protocol,
    groups: readonly number[],
    handlers: NetlinkHandlers,
    { receiveBuffer = LISTENER_BUFFER, only }: { receiveBuffer?: number; only?: number | Bpf } = {},
  ) {
    this.#handlers = handlers;
    this.#fd = openNetlink(protocol).fd;
    this.#stopArrivals = onArrival(() => this.read());
    try {
      libc.setReceiveBuffer(this.#fd, receiveBuffer);
      if (only !== undefined) libc.attachFilter(this.#fd, typeof only === 'number' ? typeFilter(only) : only);
      libc.signalReadable(this.#fd);
      joinGroups(this.#fd, groups);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Hands on what is there, without waiting. */
  read(): void {
    for (let datagrams = 0; this.#isOpen; datagrams++) {
      if (datagrams === DATAGRAMS_PER_TURN) {
        setImmediate(() => this.read());
        return;
      }
      let messages: NetlinkMessage[] | undefined;
      try {
        messages = receive(this.#fd, this.#buffer);
      } catch {
        // ENOBUFS, or a datagram larger than the buffer: either way something was lost.
        this.#handlers.onOverrun();
        continue;
      }
      if (messages === undefined) return;
      for (const message of messages) this.#handlers.onMessage(message);
    }
  }

  /** Stops listening. */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#stopArrivals();
    libc.close(this.#fd);
  }
}
