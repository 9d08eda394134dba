/**
 * `veg-agent run`: the BFD process. It holds the BFD sessions and nothing else, and is the parent of the agent process.
 *
 * **Processes and threads.** Three run code of this repository (docs/design/0008-processes.md has the reasons):
 *
 *     BFD process       one thread: BFD packets, sessions, checkpoint; this file
 *       └ agent process   main thread: policy, reconcile, uplink, HTTP, control socket (process.ts)
 *           ├ worker thread  conntrack events and the translation log (flows/translations-worker.ts)
 *           └ commands       iptables-restore and the like (lib/exec.ts), one at a time for each reconcile
 *
 * **Who may block.** The BFD process never waits once it has sessions (sealed-start.ts runs programs before that): it reads
 * and writes packets without blocking, and its only disk access is the checkpoint on the state directory (a tmpfs). So
 * nothing that the agent does can delay a packet. The agent process may block its main thread for some milliseconds
 * (netlink dumps, 10 000 blocks); it may hang, crash or be killed for its memory: the kernel goes on forwarding and the
 * sessions stay Up. Commands may hang; each is killed after its timeout. The worker thread may fall behind: events are
 * then lost and counted.
 *
 * **Timers.** Each has one owner: the engine the deadlines of all sessions (bfd/); this file the check once a second
 * (report, hang, unwatched, state directory); agent-child.ts the restart of the agent process; in the agent process
 * bfd-link.ts the pulse, loop.ts the next reconcile, gateway.ts the check for drift, uplink.ts the next probe,
 * claims.ts the next announcement, drain.ts its samples.
 *
 * **Messages.** messages.ts and bfd/intent.ts define what each promises. In short: `up`: signals are handled and the
 * control socket answers. `pulse`: the event loop turns, and when kernel and uplink were last observed. `intent`: these
 * sessions, and which families may carry traffic. `command`, `drain`, `undrain`: words of an operator; `drain` also answers
 * `shutdown`. Downward:
 * `report` at each change of a session and once a second, `reply`, `shutdown`. A message may be lost with its
 * receiver; each one is repeated or made again by the next process (an intent by its first reconcile), or its sender
 * has a timeout (a command).
 *
 * **Alive.** An agent process is alive as long as any message came within 30 s; else it hangs, is killed, and another
 * one is started. The gateway is watched as long as an observation of both kernel and uplink was completed within 60 s,
 * by any agent process; else it is unknown whether packets are translated, and the sessions are taken out of Up
 * until one completes. watchdog.ts has both clocks. The BFD process itself is alive for the agent process as long as a
 * report came within 10 s (`/livez`).
 */
import { existsSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { BfddControl } from '../bfd/bfdd-control.ts';
import type { EarlyListener } from '../bfd/early-listener.ts';
import { Engine } from '../bfd/engine.ts';
import type { BfdIntent, EngineReport, FamilyReadiness } from '../bfd/intent.ts';
import { type Clock, systemClock, type Timer } from '../lib/clock.ts';
import { unblockSignal } from '../lib/libc.ts';
import { createLog, type Log } from '../lib/log.ts';
import { LogOnChange } from '../lib/log-on-change.ts';
import type { Priority } from '../lib/priority.ts';
import { reapOrphans } from '../lib/reaper.ts';
import { type HandledSignal, onSignals } from '../lib/signals.ts';
import { StateDir } from '../lib/state-dir.ts';
import { VERSION } from '../lib/version.ts';
import { AgentChild, type ForkedProcess } from './agent-child.ts';
import { begin, CHECKPOINT_FILE, forkAgent } from './agent-fork.ts';
import type { FromAgent } from './messages.ts';
import type { Options } from './options.ts';
import type { Policy } from './policy/model.ts';
import type { SealedStart } from './sealed-start.ts';
import { createWatchdog, gatewayWatched, isHung, isUnwatched, type Watchdog } from './watchdog.ts';

/** How often the agent process gets a report when nothing changes, ms. */
const REPORT_PERIOD = 1000;
/** How long the agent process waits for an answer of the external gateway to begin the first sessions, ms. */
const FIRST_ANSWER = 50;
/** How long the agent process may take to end beyond the drain timeout, ms. */
const EXIT_GRACE = 6000;

const UNWATCHED: FamilyReadiness = {
  ready: false,
  // RFC 5880 6.8.17: the path behind this hop may not be there.
  diagnostic: 6,
  reason: 'the gateway is not watched',
};

export interface SupervisorParts {
  options: Pick<Options, 'drainTimeout' | 'onExit'>;
  engine: Pick<Engine, 'abandon' | 'configure' | 'drain' | 'gate' | 'report' | 'stop' | 'undrain'>;
  bfddControl: Pick<BfddControl, 'execute'>;
  fork(): ForkedProcess;
  /** Called with the pid of each agent process. */
  onStart(pid: number): void;
  /** Called with each intent of an agent process, before it is configured. */
  onAgentIntent(): void;
  /** Recreates and locks the state directory if it was removed. Throws when that fails. */
  ensureStateDir(): void;
  logger: Log;
  clock: Clock;
}

export class Supervisor {
  readonly #parts: SupervisorParts;
  readonly #watchdog: Watchdog;
  readonly #child: AgentChild;
  readonly #timer: Timer;
  readonly #exit = Promise.withResolvers<number>();
  readonly #stateDirFailures = new LogOnChange();
  #stopping = false;
  /** The agent process sends `drain` itself: other members of a group, or routers, have to know first. */
  #drainLater = false;
  #unwatched = false;
  #unwatchedLogged = false;

  constructor(parts: SupervisorParts) {
    this.#parts = parts;
    const { clock, engine, fork, logger, onStart } = parts;
    this.#watchdog = createWatchdog(clock.now());
    this.#child = new AgentChild({
      ...{ fork, clock, logger, watchdog: this.#watchdog },
      onStart: (pid) => {
        onStart(pid);
        this.report(engine.report());
      },
      onMessage: (message) => this.#receive(message),
      onCannotStart: () => {
        engine.abandon();
        this.#end(1);
      },
    });
    this.#timer = clock.every(REPORT_PERIOD, () => this.#check());
  }

  /** Starts the agent process. Resolves with the exit code: 0 after a clean end, 1 when it could not start. */
  run(): Promise<number> {
    this.#child.start();
    return this.#exit.promise;
  }

  /** The pid of the agent process that runs; undefined: none. */
  get agentPid(): number | undefined {
    return this.#child.pid;
  }

  /** Hands a report of the engine to the agent process. */
  report(report: EngineReport): void {
    this.#child.send({ type: 'report', report });
  }

  get signalHandlers(): Record<HandledSignal, () => void> {
    const { engine, logger } = this.#parts;
    return {
      SIGTERM: () => this.stop('SIGTERM'),
      SIGINT: () => this.stop('SIGINT'),
      SIGHUP: () => this.#child.signal('SIGHUP'),
      SIGUSR1: () => {
        logger.info({ report: engine.report() }, 'state of the BFD process');
        this.#child.signal('SIGUSR1');
      },
      SIGUSR2: () => {
        this.#stopping = true;
        this.#child.abandon();
        engine.abandon();
        this.#child.kill();
        logger.info({}, 'stopped at once, without AdminDown');
        this.#end(0);
      },
    };
  }

  /** Drains and ends; a second call does not wait for traffic to move. `signal`: for the log. */
  stop(signal: string): void {
    const { logger } = this.#parts;
    if (this.#stopping) {
      logger.warn({ signal }, 'asked to stop again; not waiting for traffic to move');
      this.#child.kill();
      return;
    }
    this.#stopping = true;
    logger.info({ signal }, 'draining');
    this.#drainAndStop().then(
      () => {
        logger.info({}, 'stopped');
        this.#end(0);
      },
      (error: unknown) => {
        logger.error({ err: error }, 'stopping failed');
        this.#end(1);
      },
    );
  }

  async #drainAndStop(): Promise<void> {
    const { engine, options, clock } = this.#parts;
    if (!this.#drainLater) engine.drain();
    this.#child.send({ type: 'shutdown', remove: options.onExit === 'remove' });
    const late = clock.after(options.drainTimeout, () => engine.drain());
    await this.#child.end(options.drainTimeout + EXIT_GRACE);
    late.cancel();
    await engine.stop();
  }

  #end(code: number): void {
    this.#timer.cancel();
    this.#exit.resolve(code);
  }

  #receive(message: Exclude<FromAgent, { type: 'up' }>): void {
    const { engine, clock } = this.#parts;
    switch (message.type) {
      case 'pulse':
        if (message.watchedAgo !== null) gatewayWatched(this.#watchdog, message.watchedAgo, clock.now());
        this.#gate(clock.now());
        break;
      case 'intent':
        this.#drainLater =
          message.intent.drainLater ??
          message.intent.peers.some(({ unconditional }) => unconditional === true);
        this.#parts.onAgentIntent();
        engine.configure(message.intent);
        break;
      case 'command': {
        const { ok, text } = this.#parts.bfddControl.execute(message.words);
        this.#child.send({ type: 'reply', id: message.id, ok, text });
        break;
      }
      case 'drain':
        engine.drain();
        break;
      case 'undrain':
        engine.undrain();
        break;
      default:
        message satisfies never;
    }
  }

  /** Once a second. */
  #check(): void {
    const { engine, clock, logger } = this.#parts;
    const now = clock.now();
    this.report(engine.report());
    if (this.#child.pid !== undefined && isHung(this.#watchdog, now)) {
      const silentSeconds = Math.round((now - this.#watchdog.heardAt) / 1000);
      logger.error({ silentSeconds }, 'the agent process hangs, killing it');
      this.#child.kill();
    }
    this.#gate(now);
    this.#ensureStateDir();
  }

  /** Lets sessions be Up only as long as the gateway is watched. */
  #gate(now: number): void {
    if (isUnwatched(this.#watchdog, now) === this.#unwatched) return;
    const { engine, logger } = this.#parts;
    this.#unwatched = !this.#unwatched;
    engine.gate(this.#unwatched ? UNWATCHED : { ready: true });
    const lastObservedSecondsAgo = Math.round((now - this.#watchdog.watchedAt) / 1000);
    if (!this.#unwatched && this.#unwatchedLogged) {
      logger.info({ lastObservedSecondsAgo }, 'the gateway is watched again; sessions may come Up');
    }
    // Without sessions, as before the first policy, nothing changes.
    this.#unwatchedLogged = this.#unwatched && engine.report().sessions.length > 0;
    if (this.#unwatchedLogged) {
      logger.error(
        { lastObservedSecondsAgo, agent: this.#child.pid === undefined ? 'none' : 'running' },
        'kernel and uplink were not observed for too long: the gateway is not watched; sessions are taken out of Up',
      );
    }
  }

  #ensureStateDir(): void {
    try {
      this.#parts.ensureStateDir();
      this.#stateDirFailures.ended();
    } catch (error) {
      const { message: reason } = error as Error;
      if (this.#stateDirFailures.isNew(reason)) {
        this.#parts.logger.error({ reason }, 'the state directory is lost');
      }
    }
  }
}

/** What lets sessions begin before there is an agent process (sealed-start.ts). */
export interface Sealed {
  policy: Policy;
  /** The file of the seal. */
  file: string;
}

/** What was begun before this file was loaded. */
export interface Prepared {
  /** An agent process that was forked already, and waits to begin. */
  ahead?: ForkedProcess | undefined;
  early?: EarlyListener | undefined;
}

/**
 * Runs until a signal ends it. `priority`: of this process; the agent process gets the normal one. `sealed`: where `apply` may
 * have left a seal. Returns the exit code: 0 after a clean end, 1 when it could not start.
 */
export async function supervise(
  options: Options,
  priority: Priority,
  sealed?: Sealed,
  { ahead, early }: Prepared = {},
): Promise<number> {
  const { logger, flush } = await createLog({
    level: options.logLevel,
    format: options.logFormat,
    component: 'bfd',
  });
  // Before anything in the directory is read: a second daemon would resume the sessions of the first.
  let stateDir: StateDir;
  try {
    stateDir = await StateDir.acquire(options.stateDir, {
      onWait: () =>
        logger.info({ stateDir: options.stateDir }, 'waiting for the daemon that holds the state directory'),
    });
  } catch (error) {
    logger.fatal({ reason: (error as Error).message }, 'cannot start');
    flush();
    return 1;
  }
  logger.info({ priority }, 'scheduling');
  let supervisor: Supervisor | undefined;
  let begun: SealedStart | undefined;
  reapOrphans((pid) => pid === supervisor?.agentPid || pid === ahead?.pid);
  const engine = new Engine({
    logger,
    checkpoint: join(options.stateDir, CHECKPOINT_FILE),
    // The sessions outlive the agent process, and the kernel forwards without both (RFC 5880 6.8.7, C bit).
    controlPlaneIndependent: true,
    onChange: (report) => supervisor?.report(report),
    ...(early && { early }),
  });
  const bfddControl = new BfddControl(engine, VERSION, () => supervisor?.stop('bfdd-control stop'));
  supervisor = new Supervisor({
    ...{ options, engine, bfddControl, logger, clock: systemClock },
    fork() {
      // One that has ended meanwhile is no longer connected.
      const forked = ahead?.connected ? ahead : forkAgent(options);
      ahead = undefined;
      return begin(forked);
    },
    onStart(pid) {
      try {
        if (priority.kind === 'nice') os.setPriority(pid, 0);
      } catch (error) {
        logger.warn({ err: error }, 'the agent process keeps the priority of the BFD process');
      }
    },
    onAgentIntent: () => begun?.close(),
    ensureStateDir: () => stateDir.ensure(),
  });
  logger.info({ version: VERSION, stateDir: options.stateDir, policyDir: options.policyDir }, 'starting');
  onSignals(supervisor.signalHandlers, unblockSignal);
  if (sealed !== undefined && existsSync(sealed.file)) {
    const { SealedStart } = await import('./sealed-start.ts');
    const onIntent = (intent: BfdIntent) => engine.configure(intent);
    begun = await SealedStart.begin({ ...sealed, options, logger, clock: systemClock, onIntent });
    // One core at most: the agent process would only take the time that the first packet needs.
    await begun?.decided(FIRST_ANSWER);
  }
  const code = await supervisor.run();
  begun?.close();
  flush();
  return code;
}
