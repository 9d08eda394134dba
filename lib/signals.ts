/**
 * Signals from the first moment on. An entry imports this before anything slow; from then on no signal ends the
 * process or opens Node's inspector (SIGUSR1). What comes is kept until somebody says what to do.
 *
 * Before that the moments are Node's own. With `--disable-sigusr1`, which the image and the agent process have, it
 * blocks SIGUSR1: one that comes waits in the kernel until `onSignals` lets it through. Without the flag it opens the
 * inspector, and that is closed again here.
 */

import { constants } from 'node:os';

const KEPT = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1', 'SIGUSR2'] as const;
export type KeptSignal = (typeof KEPT)[number];

const came: KeptSignal[] = [];
let take = (signal: KeptSignal): void => {
  if (!came.includes(signal)) came.push(signal);
};
const listeners = KEPT.map((signal) => {
  const listener = () => take(signal);
  process.on(signal, listener);
  return { signal, listener };
});

/** Closes the inspector, unless whoever started this wants it. */
function closeInspector(): void {
  const flags = `${process.execArgv.join(' ')} ${process.env.NODE_OPTIONS ?? ''}`;
  const inspector = process.getBuiltinModule('node:inspector');
  if (!flags.includes('--inspect') && inspector.url() !== undefined) inspector.close();
}

/**
 * From now on these are called; first for what came already. A signal without one does nothing. `unblock` is libc's,
 * which is not loaded for those who handle no signal.
 */
export function onSignals(
  handlers: Partial<Record<KeptSignal, () => void>>,
  unblock: (signal: number) => void,
): void {
  closeInspector();
  take = (signal) => handlers[signal]?.();
  unblock(constants.signals.SIGUSR1);
  for (const signal of came.splice(0)) take(signal);
}

/** For a command that is soon over: signals do what they usually do, but for SIGUSR1, which does nothing. */
export function releaseSignals(): void {
  const kept = came.splice(0);
  take = () => {};
  for (const { signal, listener } of listeners) {
    if (signal !== 'SIGUSR1') process.off(signal, listener);
  }
  for (const signal of kept) process.kill(process.pid, signal);
}
