/**
 * Packets in and out: one receiving socket for each local address, one sending socket for each session.
 *
 * What is promised: a socket that cannot be opened, because its address, interface or port is not available, is tried
 * again until it can; the reason is logged once, and is one of the problems until then. A local address has one receiving
 * socket in the network namespace: while it is another process's, nothing is sent from that address either, because the
 * peer would take it for one session.
 */
import { isDeepStrictEqual } from 'node:util';
import { SystemError, sockaddr } from '../lib/libc.ts';
import type { Log } from '../lib/log.ts';
import { SOURCE_PORTS } from './constants.ts';
import type { Endpoint } from './receive-filter.ts';
import {
  bfdPort,
  PortInUseError,
  type ReceivingSocket,
  type SendingSocket,
  systemUdp,
  type Udp,
} from './udp.ts';

/** The interval between attempts to open sockets that are closed, and the least between checks of open ones, ms. */
const RETRY_PERIOD = 250;
/** Source ports that a sending socket tries in a row. */
const MAX_PORT_ATTEMPTS = 100;

type Receive = (payload: Buffer, from: string, endpoint: Endpoint) => void;

/** The receiving socket of one local address and port. */
class Receiver {
  endpoint: Endpoint;
  /** Why the last attempt to open it failed, or why it was closed; undefined: it is open. */
  #failure: Error | undefined;
  #socket: ReceivingSocket | undefined;
  /** Drops so far, and the last value of the open socket's counter, which is 32 bits wide. */
  #drops = 0;
  #dropCounter = 0;
  readonly #udp: Udp;
  readonly #receive: Receive;
  readonly #log: Log;
  readonly #onFailure: () => void;

  /** `onFailure`: the socket has failed, and is closed. */
  constructor(udp: Udp, endpoint: Endpoint, receive: Receive, log: Log, onFailure: () => void) {
    this.#udp = udp;
    this.endpoint = endpoint;
    this.#receive = receive;
    this.#log = log;
    this.#onFailure = onFailure;
  }

  /** The port is another process's. */
  get inUse(): PortInUseError | undefined {
    return this.#failure instanceof PortInUseError ? this.#failure : undefined;
  }

  get isOpen(): boolean {
    return this.#socket !== undefined;
  }

  /** Why it is not open; undefined: it is. */
  get problem(): string | undefined {
    if (this.#failure === undefined) return undefined;
    const { local, multihop } = this.endpoint;
    return `BFD packets cannot be received on ${local} port ${bfdPort(multihop)}: ${this.#failure.message}`;
  }

  open(): void {
    const { local, multihop, interface: device, minTTL, guard } = this.endpoint;
    let opened: ReceivingSocket;
    try {
      opened = this.#udp.receive(this.endpoint, {
        message: (payload, from) => this.#receive(payload, from, this.endpoint),
        error: (error) => {
          this.#logFailure(error);
          this.close();
          this.#onFailure();
        },
      });
    } catch (error) {
      this.#logFailure(error as Error);
      return;
    }
    this.#failure = undefined;
    this.#socket = opened;
    this.#log.info({ local, multihop, interface: device, minTTL }, 'listening for BFD');
    if (opened.unbound !== undefined) {
      this.#log.warn(
        { interface: device, err: opened.unbound },
        'not permitted to bind to the interface; accepting packets of every interface',
      );
    }
    if (opened.unguarded !== undefined) {
      this.#log.warn(
        { local, peers: guard.remotes.length, err: opened.unguarded },
        'no room for the Ethernet addresses of BFD peers in the socket filter, accepting every address; raise net.core.optmem_max',
      );
    }
  }

  #logFailure(error: Error): void {
    const isNew = error.message !== this.#failure?.message;
    this.#failure = error;
    if (!isNew) return;
    const { local, interface: device } = this.endpoint;
    this.#log.warn({ local, interface: device, err: error }, 'cannot bind the BFD socket, retrying');
  }

  close(): void {
    if (this.#socket === undefined) return;
    this.drops();
    this.#dropCounter = 0;
    this.#socket.close();
    this.#socket = undefined;
  }

  /** Applies another interface, least TTL or guard. */
  change(endpoint: Endpoint): void {
    const before = this.endpoint;
    this.endpoint = endpoint;
    if (this.#socket === undefined || isDeepStrictEqual(before, endpoint)) return;
    if (before.interface === endpoint.interface) {
      try {
        this.#socket.filter(endpoint);
        return;
      } catch {
        // A socket needs room for both filters, the old and the new one (net.core.optmem_max).
      }
    }
    this.close();
    this.open();
  }

  /** Opens a socket that is closed, or that is deaf because its interface was recreated. */
  retry(): void {
    if (this.#socket !== undefined) {
      const device = this.endpoint.interface;
      const index = device === undefined ? 0 : this.#udp.ifindex(device);
      // Without an index there is no interface, or no socket can be opened: keep the one that is open.
      if (index === 0 || index === this.#socket.ifindex) return;
      this.close();
    }
    this.open();
  }

  /** Packets that the kernel dropped: by the filter, or because the buffer was full. */
  drops(): number {
    if (this.#socket !== undefined) {
      const counter = this.#socket.drops();
      this.#drops += (counter - this.#dropCounter) >>> 0;
      this.#dropCounter = counter;
    }
    return this.#drops;
  }
}

/** The sending socket of one session. */
export class Sender {
  readonly local: string;
  readonly remote: string;
  /** The source port, kept for the session's life; 0 before the first success. */
  port: number;
  #socket: SendingSocket | undefined;
  readonly #udp: Udp;
  readonly #destination: Uint8Array;
  readonly #pickPort: () => number;
  readonly #inUse: () => PortInUseError | undefined;

  /** `port`: used if it is free; 0 for any. `inUse`: why nothing may be sent from the local address. */
  constructor(
    udp: Udp,
    { local, remote, multihop }: { local: string; remote: string; multihop: boolean },
    port: number,
    pickPort: () => number,
    inUse: () => PortInUseError | undefined,
  ) {
    this.#udp = udp;
    this.local = local;
    this.remote = remote;
    this.port = port;
    this.#destination = sockaddr(remote, bfdPort(multihop));
    this.#pickPort = pickPort;
    this.#inUse = inUse;
  }

  /** Sends one datagram. Returns undefined, or the error. */
  send(payload: Uint8Array): Error | undefined {
    const inUse = this.#inUse();
    if (inUse !== undefined) return inUse;
    if (this.#socket === undefined) {
      try {
        this.#socket = this.#open();
      } catch (error) {
        return error as Error;
      }
    }
    const sent = this.#socket.send(payload, this.#destination);
    return sent < 0 ? new SystemError('sendto', -sent) : undefined;
  }

  #open(): SendingSocket {
    for (let attempt = 1; ; attempt++) {
      const port = attempt === 1 && this.port !== 0 ? this.port : this.#pickPort();
      try {
        const opened = this.#udp.send(this.local, port);
        this.port = port;
        return opened;
      } catch (error) {
        if ((error as SystemError).code !== 'EADDRINUSE' || attempt === MAX_PORT_ATTEMPTS) throw error;
      }
    }
  }

  close(): void {
    this.#socket?.close();
    this.#socket = undefined;
  }
}

const receiverKey = ({ local, multihop }: { local: string; multihop: boolean }): string =>
  `${local} ${multihop}`;

/** All receiving sockets, and their retries. */
export class Transport {
  readonly #udp: Udp;
  readonly #receivers = new Map<string, Receiver>();
  readonly #receive: Receive;
  readonly #log: Log;
  readonly #random: () => number;
  /** Runs while a socket is closed. */
  #retries: NodeJS.Timeout | undefined;
  #checkedAt = 0;
  /** Drops of sockets that are no longer wanted. */
  #formerDrops = 0;

  constructor(receive: Receive, log: Log, random: () => number, udp = systemUdp) {
    this.#receive = receive;
    this.#log = log;
    this.#random = random;
    this.#udp = udp;
  }

  /**
   * Looks for interfaces that were recreated, four times a second at most. To be called with every packet that is sent, and
   * once a second: a process that is awake anyway need not wake up for it.
   * @param now ms of a monotonic clock
   */
  check(now: number): void {
    if (now - this.#checkedAt < RETRY_PERIOD) return;
    this.#checkedAt = now;
    this.#retry();
  }

  #retry(): void {
    for (const receiver of this.#receivers.values()) receiver.retry();
    this.#retryClosed();
  }

  /** Retries while a socket is closed. */
  #retryClosed(): void {
    const isClosed = [...this.#receivers.values()].some(({ isOpen }) => !isOpen);
    if (isClosed) this.#retries ??= setInterval(() => this.#retry(), RETRY_PERIOD);
    if (isClosed || this.#retries === undefined) return;
    clearInterval(this.#retries);
    this.#retries = undefined;
  }

  /** Listens on exactly these endpoints, at most one for a local address and port. */
  listen(endpoints: readonly Endpoint[]): void {
    const wanted = new Map(endpoints.map((endpoint) => [receiverKey(endpoint), endpoint]));
    for (const [key, receiver] of this.#receivers) {
      if (wanted.has(key)) continue;
      this.#formerDrops += receiver.drops();
      receiver.close();
      this.#receivers.delete(key);
    }
    for (const [key, endpoint] of wanted) {
      const receiver = this.#receivers.get(key);
      if (receiver !== undefined) {
        receiver.change(endpoint);
      } else {
        const added = new Receiver(this.#udp, endpoint, this.#receive, this.#log, () => this.#retryClosed());
        this.#receivers.set(key, added);
        added.open();
      }
    }
    this.#retryClosed();
  }

  /** Why packets cannot be received, for each local address and port where that is so. */
  get problems(): string[] {
    return [...this.#receivers.values()].flatMap(({ problem }) => problem ?? []);
  }

  /** The sending socket of a session, opened with the first packet. `port`: the one to use if it is free, 0 for any. */
  sender(session: { local: string; remote: string; multihop: boolean }, port: number): Sender {
    const { first, last } = SOURCE_PORTS;
    const key = receiverKey(session);
    return new Sender(
      this.#udp,
      session,
      port,
      () => first + Math.floor(this.#random() * (last - first + 1)),
      () => this.#receivers.get(key)?.inUse,
    );
  }

  /** Packets that the kernel dropped before the process read them. */
  drops(): number {
    let drops = this.#formerDrops;
    for (const receiver of this.#receivers.values()) drops += receiver.drops();
    return drops;
  }

  close(): void {
    clearInterval(this.#retries);
    for (const receiver of this.#receivers.values()) receiver.close();
  }
}
