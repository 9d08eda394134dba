/**
 * The agent process as its parent sees it: it is forked, forked again with a backoff when it ends or cannot be forked
 * (EAGAIN: the limit on processes; EMFILE), sent messages and signals, and ended.
 *
 * Signals are kept until the process has sent that it handles them. Messages that are read after their sender has ended
 * are handled as messages.ts defines. A message to a process that is ending is lost; nothing waits for its delivery.
 */
import type { ChildProcess } from 'node:child_process';
import type { FromEngine } from '../bfd/intent.ts';
import type { Clock, Timer } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import { CANNOT_START, type FromAgent, outlives } from './messages.ts';
import { agentEnded, agentHeard, agentStarted, type Watchdog } from './watchdog.ts';

/** How long a killed process may take to end, ms. */
const KILL_GRACE = 2000;

/** What this class uses of Node's `ChildProcess`. */
export type ForkedProcess = Pick<
  ChildProcess,
  'pid' | 'connected' | 'send' | 'kill' | 'disconnect' | 'on' | 'once'
>;

export interface AgentChildParts {
  /** Forks the process. Throws, or returns one without a pid that emits `error`, when that fails. */
  fork(): ForkedProcess;
  /** Receives starts, exits and messages; decides the delay before the next start. */
  watchdog: Watchdog;
  clock: Clock;
  logger: Log;
  /** Called once a process was forked, with its pid. */
  onStart(pid: number): void;
  /** Called with each message that counts, except `up`. */
  onMessage(message: Exclude<FromAgent, { type: 'up' }>): void;
  /** Called when the process has ended because no start can succeed, and none was up before. */
  onCannotStart(): void;
}

export class AgentChild {
  readonly #parts: AgentChildParts;
  #process: ForkedProcess | undefined;
  /** The process that runs handles signals; one that did has run. */
  #up = false;
  #everUp = false;
  /** Signals for a process that does not handle them yet. */
  readonly #pending = new Set<NodeJS.Signals>();
  #restart: Timer | undefined;
  #ending = false;

  constructor(parts: AgentChildParts) {
    this.#parts = parts;
  }

  /** The pid of the process that runs; undefined: none. */
  get pid(): number | undefined {
    return this.#process?.pid;
  }

  /** Forks the process, now or as soon as that is possible. */
  start(): void {
    if (this.#ending) return;
    const { fork, watchdog, clock, onStart } = this.#parts;
    agentStarted(watchdog, clock.now());
    let forked: ForkedProcess;
    try {
      forked = fork();
    } catch (error) {
      this.#restartLater({ err: error }, 'the agent process cannot be started');
      return;
    }
    // Without a process there is an error, and never an exit.
    if (forked.pid === undefined) {
      forked.once('error', (error) =>
        this.#restartLater({ err: error }, 'the agent process cannot be started'),
      );
      if (forked.connected) forked.disconnect();
      return;
    }
    this.#process = forked;
    forked.on('message', (message) => this.#receive(message as FromAgent, forked));
    forked.on('error', (error) => this.#parts.logger.error({ err: error }, 'agent process'));
    forked.once('exit', (code, signal) => this.#exited(code, signal));
    onStart(forked.pid);
  }

  /** Sends a message to the process that runs, if any. */
  send(message: FromEngine): void {
    if (this.#process?.connected) this.#process.send(message, () => {});
  }

  /** Sends a signal, now or as soon as the process handles signals. */
  signal(signal: NodeJS.Signals): void {
    if (this.#up) this.#process?.kill(signal);
    else this.#pending.add(signal);
  }

  /** Ends the process that runs at once; another one follows, unless `end` or `abandon` was called. */
  kill(): void {
    this.#process?.kill('SIGKILL');
  }

  /** No process is started from now on. */
  abandon(): void {
    this.#ending = true;
    this.#restart?.cancel();
  }

  /** Waits for the process to end by itself, then kills it. No other one is started. */
  async end(timeoutMs: number): Promise<void> {
    this.abandon();
    const last = this.#process;
    if (last === undefined) return;
    const { clock } = this.#parts;
    const { promise, resolve } = Promise.withResolvers<void>();
    last.once('exit', () => resolve());
    const kill = clock.after(timeoutMs, () => last.kill('SIGKILL'));
    // A process that waits for a disk or a device does not even end then.
    const leave = clock.after(timeoutMs + KILL_GRACE, resolve);
    await promise;
    kill.cancel();
    leave.cancel();
  }

  #receive(message: FromAgent, sender: ForkedProcess): void {
    if (sender !== this.#process && !outlives(message.type, this.#process !== undefined)) return;
    const { watchdog, clock, onMessage } = this.#parts;
    agentHeard(watchdog, clock.now());
    if (message.type !== 'up') {
      onMessage(message);
      return;
    }
    this.#up = true;
    this.#everUp = true;
    for (const signal of this.#pending) this.#process?.kill(signal);
    this.#pending.clear();
  }

  #exited(code: number | null, signal: NodeJS.Signals | null): void {
    this.#process = undefined;
    this.#up = false;
    if (this.#ending) return;
    if (code === CANNOT_START && !this.#everUp) this.#parts.onCannotStart();
    else this.#restartLater({ code, signal }, 'the agent process ended; sessions stay as they are');
  }

  #restartLater(fields: object, message: string): void {
    if (this.#ending) return;
    const { watchdog, clock, logger } = this.#parts;
    const delay = agentEnded(watchdog, clock.now());
    logger.error({ ...fields, restartInMs: delay }, message);
    this.#restart = clock.after(delay, () => this.start());
  }
}
