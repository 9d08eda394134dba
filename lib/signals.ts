/**
 * Signal handling from the start. An entry point imports this before anything slow; from then on no signal ends the
 * process or opens Node's inspector (SIGUSR1). Signals stay pending until `onSignals` sets the handlers.
 *
 * Before that Node handles them. With `--disable-sigusr1`, which the image and the agent process use, Node blocks
 * SIGUSR1, and it stays pending in the kernel until `onSignals` unblocks it. Without the flag Node opens the inspector,
 * and `onSignals` closes it.
 */
import { constants } from 'node:os';

const HANDLED = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1', 'SIGUSR2'] as const;
export type HandledSignal = (typeof HANDLED)[number];

const pending: HandledSignal[] = [];
let deliver = (signal: HandledSignal): void => {
  if (!pending.includes(signal)) pending.push(signal);
};
const listeners = HANDLED.map((signal) => {
  const listener = () => deliver(signal);
  process.on(signal, listener);
  return { signal, listener };
});

/** Closes the inspector unless the command line asks for it. */
function closeInspector(): void {
  const flags = `${process.execArgv.join(' ')} ${process.env.NODE_OPTIONS ?? ''}`;
  const inspector = process.getBuiltinModule('node:inspector');
  if (!flags.includes('--inspect') && inspector.url() !== undefined) inspector.close();
}

/**
 * Sets the handlers and calls those of pending signals. A signal without a handler is ignored. `unblock` is libc's
 * `unblockSignal`, passed in so that commands that handle no signal do not load libc.
 */
export function onSignals(
  handlers: Partial<Record<HandledSignal, () => void>>,
  unblock: (signal: number) => void,
): void {
  closeInspector();
  deliver = (signal) => handlers[signal]?.();
  unblock(constants.signals.SIGUSR1);
  for (const signal of pending.splice(0)) deliver(signal);
}

/** For a short-lived command: restores the default action of all signals but SIGUSR1, which stays ignored. */
export function releaseSignals(): void {
  const kept = pending.splice(0);
  deliver = () => {};
  for (const { signal, listener } of listeners) {
    if (signal !== 'SIGUSR1') process.off(signal, listener);
  }
  for (const signal of kept) process.kill(process.pid, signal);
}
