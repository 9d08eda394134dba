/** The agent process's end of the line to the BFD process: intents and commands down, reports up. */
import type { BfdIntent, EngineReport, FromEngine } from '../bfd/intent.ts';
import type { FromAgent } from './messages.ts';

/** The BFD process answers at once, or is in trouble, ms. */
const COMMAND_TIMEOUT = 4000;
/** How often the BFD process hears of this one, ms. */
const PULSE_PERIOD = 1000;

export interface BfdLinkHandlers {
  /** How long ago the last look at kernel and uplink had ended, ms; undefined before the first. */
  watchedAgo(): number | undefined;
  onReport(report: EngineReport): void;
  /** The BFD process wants this one to end; `remove`: and to take the kernel state away. */
  onShutdown(remove: boolean): void;
  /** The BFD process is gone, or was before this was made. */
  onGone(): void;
}

type Reply = { ok: boolean; text: string };

export class BfdLink {
  readonly #waiting = new Map<number, (reply: Reply) => void>();
  #lastCommand = 0;
  #heard = performance.now();
  #handlers: BfdLinkHandlers;

  /** Takes over this process's IPC channel. */
  constructor(handlers: BfdLinkHandlers) {
    this.#handlers = handlers;
    process.on('message', (message) => this.#receive(message as FromEngine));
    process.on('disconnect', () => handlers.onGone());
    // While this process loads nobody hears of it.
    if (!process.connected) handlers.onGone();
    setInterval(() => this.#send({ type: 'pulse', watchedAgo: handlers.watchedAgo() ?? null }), PULSE_PERIOD);
  }

  /** Milliseconds since the BFD process was last heard. */
  get silence(): number {
    return performance.now() - this.#heard;
  }

  /** This process takes signals, and serves the control socket. */
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

  /** Carries out the words of a bfdd-control command. Never rejects: no answer is an answer that says so. */
  command(words: string[]): Promise<Reply> {
    const id = ++this.#lastCommand;
    return new Promise((resolve) => {
      const finish = (reply: Reply) => {
        clearTimeout(timer);
        this.#waiting.delete(id);
        resolve(reply);
      };
      const text = 'Unable to complete the command: the BFD process does not answer';
      const timer = setTimeout(() => finish({ ok: false, text }), COMMAND_TIMEOUT);
      this.#waiting.set(id, finish);
      this.#send({ type: 'command', id, words });
    });
  }

  #send(message: FromAgent): void {
    if (process.connected) process.send?.(message, undefined, undefined, () => {});
  }

  #receive(message: FromEngine): void {
    this.#heard = performance.now();
    switch (message.type) {
      case 'report':
        this.#handlers.onReport(message.report);
        break;
      case 'reply':
        this.#waiting.get(message.id)?.(message);
        break;
      case 'shutdown':
        this.#handlers.onShutdown(message.remove);
        break;
      default:
        message satisfies never;
    }
  }
}
