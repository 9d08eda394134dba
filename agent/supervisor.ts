/**
 * `veg-agent run`: the process that holds the BFD sessions, and the parent of the agent process.
 *
 * It does nothing but BFD, so that nothing the agent does can delay a packet; it starts the agent process,
 * starts it again when it dies, and ends it when it hangs (watchdog.ts). Sessions stay Up meanwhile, because the
 * kernel goes on forwarding. When nobody has finished a look at the kernel and the uplink for a minute, nobody
 * watches the gateway any more, and the sessions are taken out of Up until somebody does.
 */
import { type ChildProcess, fork } from 'node:child_process';
import os from 'node:os';
import { extname, join } from 'node:path';
import { Engine } from '../bfd/engine.ts';
import type { FamilyReadiness, FromEngine } from '../bfd/intent.ts';
import { unblockSignal } from '../lib/libc.ts';
import { createLog } from '../lib/log.ts';
import { LogOnChange } from '../lib/log-on-change.ts';
import type { Priority } from '../lib/priority.ts';
import { reapOrphans } from '../lib/reaper.ts';
import { onSignals } from '../lib/signals.ts';
import { StateDir } from '../lib/state-dir.ts';
import { VERSION } from '../lib/version.ts';
import { CANNOT_START, type FromAgent, outlives } from './messages.ts';
import type { Options } from './options.ts';
import {
  agentEnded,
  agentHeard,
  agentStarted,
  createWatchdog,
  gatewayWatched,
  isHung,
  isUnwatched,
} from './watchdog.ts';

/** How often the agent process is told the sessions when nothing changes, ms. */
const REPORT_PERIOD = 1000;
/** How long the agent process may take to end beyond the drain timeout, ms. */
const EXIT_GRACE = 3000;
/** How long a killed process may take to end, ms. */
const KILL_GRACE = 2000;

const UNWATCHED: FamilyReadiness = {
  ready: false,
  // RFC 5880 6.8.17: the path behind this hop may not be there.
  diagnostic: 6,
  reason: 'nobody watches the gateway',
};

/**
 * Runs until a signal ends it. `priority`: what this process was given.
 * Returns the exit code: 0 after a clean end, 1 when it could not start.
 */
export async function supervise(options: Options, priority: Priority): Promise<number> {
  const { logger, flush } = await createLog({
    level: options.logLevel,
    format: options.logFormat,
    component: 'bfd',
  });
  // Before anything of the directory is read: a second daemon would take up the sessions of the first.
  let stateDir: StateDir;
  try {
    stateDir = await StateDir.acquire(options.stateDir);
  } catch (error) {
    logger.fatal({ reason: (error as Error).message }, 'cannot start');
    flush();
    return 1;
  }
  logger.info({ priority }, 'scheduling');

  const dog = createWatchdog(performance.now());
  let child: ChildProcess | undefined;
  /** The agent process that is there takes signals; one has been there that did. */
  let up = false;
  let everUp = false;
  /** Signals for an agent process that does not take them yet. */
  const missed = new Set<NodeJS.Signals>();
  let ending = false;
  let unwatched = false;
  let toldUnwatched = false;
  const stateDirFailures = new LogOnChange();

  reapOrphans((pid) => pid === child?.pid);

  const send = (message: FromEngine) => {
    if (child?.connected) child.send(message, () => {});
  };
  const engine = new Engine({
    logger,
    version: VERSION,
    checkpoint: join(options.stateDir, 'bfd.json'),
    // The sessions outlive the agent process, and the kernel forwards without both (RFC 5880 6.8.7, C bit).
    controlPlaneIndependent: true,
    onChange: (report) => send({ type: 'report', report }),
    onStop: () => drainAndStop('bfdd-control stop'),
  });

  const finished = Promise.withResolvers<number>();

  function receive(message: FromAgent, sender: ChildProcess): void {
    // What a process has sent may be read after its end.
    if (sender !== child && !outlives(message.type, child !== undefined)) return;
    const now = performance.now();
    agentHeard(dog, now);
    switch (message.type) {
      case 'up':
        up = true;
        everUp = true;
        for (const signal of missed) child?.kill(signal);
        missed.clear();
        break;
      case 'pulse':
        if (message.watchedAgo !== null) gatewayWatched(dog, message.watchedAgo, now);
        judge(now);
        break;
      case 'intent':
        engine.configure(message.intent);
        break;
      case 'command': {
        const { ok, text } = engine.command(message.words);
        send({ type: 'reply', id: message.id, ok, text });
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

  /** Starts the agent process, now or as soon as that is possible. */
  function start(): void {
    if (ending) return;
    agentStarted(dog, performance.now());
    const file = join(import.meta.dirname, `child${extname(import.meta.filename)}`);
    let started: ChildProcess;
    try {
      started = fork(file, [JSON.stringify(options)], {
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
        // Node's inspector is not for whoever can send a signal.
        execArgv: [...process.execArgv, '--disable-sigusr1'],
      });
    } catch (error) {
      startAgain({ err: error }, 'the agent process cannot be started');
      return;
    }
    // Without a process there is an error (EAGAIN: the limit on processes; EMFILE), and never an exit.
    if (started.pid === undefined) {
      started.once('error', (error) => startAgain({ err: error }, 'the agent process cannot be started'));
      if (started.connected) started.disconnect();
      return;
    }
    child = started;
    try {
      if (priority.kind === 'nice') os.setPriority(started.pid, 0);
    } catch (error) {
      logger.warn({ err: error }, 'the agent process keeps the priority of this one');
    }
    started.on('message', (message) => receive(message as FromAgent, started));
    started.on('error', (error) => logger.error({ err: error }, 'agent process'));
    started.once('exit', (code, signal) => {
      child = undefined;
      up = false;
      if (ending) return;
      if (code === CANNOT_START && !everUp) {
        engine.abandon();
        finished.resolve(1);
        return;
      }
      startAgain({ code, signal }, 'the agent process ended; sessions stay as they are');
    });
    send({ type: 'report', report: engine.report() });
  }

  function startAgain(why: object, message: string): void {
    if (ending) return;
    const delay = agentEnded(dog, performance.now());
    logger.error({ ...why, restartInMs: delay }, message);
    setTimeout(start, delay);
  }

  /** Lets the sessions be Up as long as the gateway is watched. */
  function judge(now: number): void {
    if (isUnwatched(dog, now) === unwatched) return;
    unwatched = !unwatched;
    engine.gate(unwatched ? UNWATCHED : { ready: true });
    const lastLookSecondsAgo = Math.round((now - dog.watchedAt) / 1000);
    if (!unwatched && toldUnwatched) {
      logger.info({ lastLookSecondsAgo }, 'the gateway is watched again; sessions may come Up');
    }
    // Without sessions, as before the first policy, there is nothing to tell.
    toldUnwatched = unwatched && engine.report().sessions.length > 0;
    if (toldUnwatched) {
      logger.error(
        { lastLookSecondsAgo, agent: child === undefined ? 'none' : 'runs' },
        'no look at the kernel and the uplink has come to an end for too long: nobody watches the gateway; sessions are taken out of Up',
      );
    }
  }

  /** Keeps the state directory this daemon's own where somebody takes it away. */
  function keepStateDir(): void {
    try {
      stateDir.ensure();
      stateDirFailures.ended();
    } catch (error) {
      const { message: reason } = error as Error;
      if (stateDirFailures.isNew(reason)) logger.error({ reason }, 'the state directory is lost');
    }
  }

  const watch = setInterval(() => {
    const now = performance.now();
    send({ type: 'report', report: engine.report() });
    if (child !== undefined && isHung(dog, now)) {
      const silentSeconds = Math.round((now - dog.heardAt) / 1000);
      logger.error({ silentSeconds }, 'the agent process hangs; ending it');
      child.kill('SIGKILL');
    }
    judge(now);
    keepStateDir();
  }, REPORT_PERIOD);

  /** Waits for the agent process to end by itself, then ends it. */
  async function endAgent(patience: number): Promise<void> {
    const last = child;
    if (last === undefined) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    last.once('exit', () => resolve());
    const kill = setTimeout(() => last.kill('SIGKILL'), patience);
    // One that waits for a disk or a device does not even end then.
    const leave = setTimeout(resolve, patience + KILL_GRACE);
    await promise;
    clearTimeout(kill);
    clearTimeout(leave);
  }

  /** Drains, and ends everything. */
  async function stop(): Promise<void> {
    engine.drain();
    send({ type: 'shutdown', remove: options.onExit === 'remove' });
    await endAgent(options.drainTimeout + EXIT_GRACE);
    await engine.stop();
  }

  function drainAndStop(signal: string): void {
    if (ending) {
      logger.warn({ signal }, 'asked again; not waiting for traffic to move');
      child?.kill('SIGKILL');
      return;
    }
    ending = true;
    logger.info({ signal }, 'draining');
    stop().then(
      () => {
        logger.info('stopped');
        finished.resolve(0);
      },
      (error: unknown) => {
        logger.error({ err: error }, 'the end did not go as it should');
        finished.resolve(1);
      },
    );
  }

  /** For the agent process: now, or as soon as it takes signals. */
  function pass(signal: NodeJS.Signals): void {
    if (up) child?.kill(signal);
    else missed.add(signal);
  }

  logger.info({ version: VERSION, stateDir: options.stateDir, policyDir: options.policyDir }, 'starting');
  onSignals(
    {
      SIGTERM: () => drainAndStop('SIGTERM'),
      SIGINT: () => drainAndStop('SIGINT'),
      SIGHUP: () => pass('SIGHUP'),
      SIGUSR1: () => {
        logger.info({ report: engine.report() }, 'state of the BFD process');
        pass('SIGUSR1');
      },
      SIGUSR2: () => {
        ending = true;
        engine.abandon();
        child?.kill('SIGKILL');
        logger.info('stopped at once; the peers are not told');
        finished.resolve(0);
      },
    },
    unblockSignal,
  );
  start();
  const code = await finished.promise;
  clearInterval(watch);
  flush();
  return code;
}
