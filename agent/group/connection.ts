/** One connection to another member, after TLS: messages in both directions, the first of which is `hello`. */
import type { TLSSocket } from 'node:tls';
import type { Address, Family } from '../../lib/prefix.ts';
import { decode, encode, FrameReader, type Hello, MAX_MESSAGE, type Message, VERSION } from './codec.ts';

/** Longer than `hello`, and too short for anything else to be worth sending. */
const MAX_HELLO = 64;
/** What may wait in a socket: the window of replication.ts, and room for answers to lookups. */
const MAX_WAITING = 2 << 20;
/** `hello` has to arrive within this time, ms. */
export const HELLO_TIMEOUT = 3000;
/** A member sends its state once a second; after this long without a message the connection is closed, ms. */
export const SILENCE = 10_000;

export interface ConnectionEvents {
  hello(hello: Hello): void;
  message(message: Message): void;
  /** The last event. `reason`: what the other end did wrong, if anything. */
  end(reason: string | undefined): void;
}

export class Connection {
  readonly member: Address;
  readonly socket: TLSSocket;
  /** The key or certificate that it was authenticated with. */
  readonly identity: string;
  readonly #family: Family;
  readonly #events: ConnectionEvents;
  readonly #reader = new FrameReader(MAX_HELLO);
  #lastHeard: number;
  #established = false;
  #reason: string | undefined;

  constructor(
    socket: TLSSocket,
    ends: { member: Address; family: Family; identity: string },
    events: ConnectionEvents,
    now: number,
  ) {
    this.socket = socket;
    this.member = ends.member;
    this.identity = ends.identity;
    this.#family = ends.family;
    this.#events = events;
    this.#lastHeard = now;
    socket.setTimeout(0);
    socket.setNoDelay(true);
    socket.on('data', (chunk) => this.#read(chunk));
    socket.on('error', () => {});
    socket.once('close', () => events.end(this.#reason));
  }

  /** Both ends have sent `hello`. */
  get established(): boolean {
    return this.#established;
  }

  send(message: Message): void {
    if (this.socket.destroyed) return;
    this.socket.write(encode(message, this.#family));
    if (this.socket.writableLength > MAX_WAITING) this.end('slow');
  }

  /** Ends it at once. `reason`: what the other end did wrong. */
  end(reason?: string): void {
    this.#reason ??= reason;
    this.socket.destroy();
  }

  /** Closes it if nothing was received for too long. */
  check(now: number): void {
    if (now - this.#lastHeard > (this.#established ? SILENCE : HELLO_TIMEOUT)) this.end('silent');
  }

  #read(chunk: Buffer): void {
    this.#lastHeard = performance.now();
    this.#reader.push(chunk);
    while (!this.socket.destroyed) {
      const frame = this.#reader.next();
      if (frame === undefined) return;
      const message = frame === 'too_long' ? frame : decode(frame, this.#family);
      if (typeof message === 'string') this.end(message);
      else if (this.#established !== (message.type !== 'hello')) this.end('malformed');
      else if (message.type === 'hello') this.#receiveHello(message);
      else this.#events.message(message);
    }
  }

  #receiveHello(hello: Hello): void {
    if (hello.minVersion > VERSION || hello.maxVersion < VERSION) {
      this.end('version');
      return;
    }
    this.#established = true;
    this.#reader.max = MAX_MESSAGE;
    this.#events.hello(hello);
  }
}
