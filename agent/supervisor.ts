/**
 * `veg-agent run`: the process that holds the BFD sessions, and the parent of the agent process.
 *
 * It does nothing but BFD, so that nothing the agent does can delay a packet; it starts the agent process,
 * starts it again when it dies, and ends it when it hangs. Sessions stay Up meanwhile, because the kernel goes
 * on forwarding. When no agent process has been there for `AGENT_GONE`, nobody watches the gateway any more,
 * and the sessions leave Up.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import os from 'node:os';
import { extname, join } from 'node:path';
import { Engine } from '../bfd/engine.ts';
import type { BfdIntent, FromEngine } from '../bfd/intent.ts';
import type { Priority } from '../bfd/priority.ts';
import { VERSION } from '../bfd/version.ts';
import { createLog } from './log.ts';
import type { FromAgent } from './messages.ts';
import type { Options } from './options.ts';

/** How often the agent process is told the sessions when nothing changes, ms. */
const REPORT_PERIOD = 1000;
/** An agent process that says nothing for so long hangs, and is ended, ms. */
const AGENT_HUNG = 30_000;
/** Without an agent process for so long, sessions leave Up, ms. */
const AGENT_GONE = 60_000;
/** Delay before the agent process is started again, doubled up to the longest, ms. */
const RESTART_FIRST = 100;
const RESTART_LONGEST = 10_000;
/** A process that lived so long was well: the delay starts over, ms. */
const RESTART_FORGIVEN = 30_000;
/** How long the agent process may take to end beyond the drain timeout, ms. */
const EXIT_GRACE = 3000;

const GONE: BfdIntent['readiness'][4] = {
  ready: false,
  diagnostic: 6,
  reason: 'the agent process is gone and nobody watches the gateway',
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
  try {
    mkdirSync(options.stateDir, { recursive: true, mode: 0o755 });
  } catch (error) {
    logger.warn({ err: error }, 'cannot make the state directory');
  }

  logger.info({ priority }, 'scheduling');

  let child: ChildProcess | undefined;
  let intent: BfdIntent | undefined;
  let heard = performance.now();
  let startedAt = 0;
  let delay = RESTART_FIRST;
  let everReady = false;
  let ending = false;
  let gone = false;

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
    onStop: () => void drainAndStop('bfdd-control stop'),
  });

  const finished = Promise.withResolvers<number>();

  function receive(message: FromAgent): void {
    heard = performance.now();
    switch (message.type) {
      case 'alive':
        everReady = true;
        break;
      case 'intent':
        intent = message.intent;
        gone = false;
        engine.configure(intent);
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

  function start(): void {
    startedAt = performance.now();
    const file = join(import.meta.dirname, `process${extname(import.meta.filename)}`);
    const started = fork(file, [JSON.stringify(options)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    child = started;
    if (priority.kind === 'nice' && started.pid !== undefined) os.setPriority(started.pid, 0);
    started.on('message', (message) => receive(message as FromAgent));
    started.on('error', (error) => logger.error({ err: error }, 'agent process'));
    started.once('exit', (code, signal) => {
      if (child === started) child = undefined;
      if (ending) return;
      if (!everReady && code === 1) {
        finished.resolve(1);
        return;
      }
      if (performance.now() - startedAt > RESTART_FORGIVEN) delay = RESTART_FIRST;
      logger.error(
        { code, signal, restartInMs: delay },
        'the agent process ended; sessions stay as they are',
      );
      setTimeout(() => {
        if (!ending) start();
      }, delay);
      delay = Math.min(RESTART_LONGEST, delay * 2);
    });
    send({ type: 'report', report: engine.report() });
  }

  const watch = setInterval(() => {
    send({ type: 'report', report: engine.report() });
    const silent = performance.now() - heard;
    if (child !== undefined && silent > AGENT_HUNG && performance.now() - startedAt > AGENT_HUNG) {
      logger.error({ silentSeconds: Math.round(silent / 1000) }, 'the agent process hangs; ending it');
      child.kill('SIGKILL');
    }
    if (silent > AGENT_GONE && !gone && intent !== undefined) {
      gone = true;
      logger.error('no agent process for too long; sessions leave Up');
      engine.configure({ ...intent, readiness: { 4: GONE, 6: GONE } });
    }
  }, REPORT_PERIOD);

  /** Waits for the agent process to end by itself, then ends it. */
  async function endAgent(patience: number): Promise<void> {
    const last = child;
    if (last === undefined) return;
    const exited = new Promise((resolve) => last.once('exit', resolve));
    const timer = setTimeout(() => last.kill('SIGKILL'), patience);
    await exited;
    clearTimeout(timer);
  }

  async function drainAndStop(signal: string): Promise<void> {
    if (ending) {
      logger.warn({ signal }, 'asked again; not waiting for traffic to move');
      child?.kill('SIGKILL');
      return;
    }
    ending = true;
    logger.info({ signal }, 'draining');
    engine.drain();
    send({ type: 'shutdown', remove: options.onExit === 'remove' });
    await endAgent(options.drainTimeout + EXIT_GRACE);
    await engine.stop();
    logger.info('stopped');
    finished.resolve(0);
  }

  process.on('SIGTERM', drainAndStop);
  process.on('SIGINT', drainAndStop);
  process.on('SIGHUP', () => child?.kill('SIGHUP'));
  process.on('SIGUSR1', () => {
    logger.info({ report: engine.report() }, 'state of the BFD process');
    child?.kill('SIGUSR1');
  });
  process.on('SIGUSR2', () => {
    ending = true;
    engine.abandon();
    child?.kill('SIGKILL');
    logger.info('stopped at once; the peers are not told');
    finished.resolve(0);
  });

  logger.info({ version: VERSION, stateDir: options.stateDir, policyDir: options.policyDir }, 'starting');
  start();
  const code = await finished.promise;
  clearInterval(watch);
  flush();
  return code;
}
