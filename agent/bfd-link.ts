/**
 * The agent process's end of the IPC channel to the BFD process: pulse, intents and commands up, reports down.
 *
 * Nothing waits for the delivery of a message. A command has a timeout; an intent is sent again by the next process; and
 * when the channel closes, the BFD process has ended, and this one has to as well.
 */
import type { BfdIntent, EngineReport, FromEngine } from '../bfd/intent.ts';
import { type Clock, systemClock } from '../lib/clock.ts';
import type { FromAgent } from './messages.ts';

/** The BFD process replies at once, or is in trouble, ms. */
const COMMAND_TIMEOUT = 4000;
/** How often the BFD process gets a pulse, ms. */
const PULSE_PERIOD = 1000;

/** The channel; in the agent process its own `process`. */
export type Channel = Pick<NodeJS.Process, 'connected' | 'on' | 'send'>;

export interface BfdLinkHandlers {
  /** How long ago kernel and uplink were last observed, ms; undefined before the first time. */
  watchedAgo(): number | undefined;
  onReport(report: EngineReport): void;
  /** The BFD process asks this one to end; `remove`: and to remove the kernel state. */
  onShutdown(remove: boolean): void;
  /** The BFD process has ended, maybe before this object was made. */
  onDisconnect(): void;
}

type Reply = { ok: boolean; text: string };

export class BfdLink {
  readonly #handlers: BfdLinkHandlers;
  readonly #channel: Channel;
  readonly #clock: Clock;
  readonly #pending = new Map<number, (reply: Reply) => void>();
  #lastCommand = 0;
  #receivedAt: number;

  constructor(handlers: BfdLinkHandlers, channel: Channel = process, clock: Clock = systemClock) {
    this.#handlers = handlers;
    this.#channel = channel;
    this.#clock = clock;
    this.#receivedAt = clock.now();
    channel.on('message', (message) => this.#receive(message as FromEngine));
    channel.on('disconnect', () => handlers.onDisconnect());
    // A disconnect while this process loads is not emitted.
    if (!channel.connected) handlers.onDisconnect();
    clock.every(PULSE_PERIOD, () => this.#send({ type: 'pulse', watchedAgo: handlers.watchedAgo() ?? null }));
  }

  /** Milliseconds since the last message of the BFD process. */
  get silence(): number {
    return this.#clock.now() - this.#receivedAt;
  }

  /** This process handles signals, and serves the control socket. */
  up(): void {
    this.#send({ type: 'up' });
  }

  configure(intent: BfdIntent): void {
    this.#send({ type: 'intent', intent });
  }

  drain(): void {
    this.#send({ type: 'drain' });
  }

  undrain(): void {
    this.#send({ type: 'undrain' });
  }

  /** Runs a bfdd-control command. Never rejects: without a reply the result is an error. */
  command(words: string[]): Promise<Reply> {
    const id = ++this.#lastCommand;
    return new Promise((resolve) => {
      const finish = (reply: Reply) => {
        timeout.cancel();
        this.#pending.delete(id);
        resolve(reply);
      };
      const text = 'Unable to complete the command: the BFD process does not answer';
      const timeout = this.#clock.after(COMMAND_TIMEOUT, () => finish({ ok: false, text }));
      this.#pending.set(id, finish);
      this.#send({ type: 'command', id, words });
    });
  }

  #send(message: FromAgent): void {
    if (this.#channel.connected) this.#channel.send?.(message, undefined, undefined, () => {});
  }

  #receive(message: FromEngine): void {
    this.#receivedAt = this.#clock.now();
    switch (message.type) {
      case 'report':
        this.#handlers.onReport(message.report);
        break;
      case 'reply':
        this.#pending.get(message.id)?.(message);
        break;
      case 'shutdown':
        this.#handlers.onShutdown(message.remove);
        break;
      default:
        message satisfies never;
    }
  }
}
