/**
 * What the agent process says to the BFD process, its parent, and what each message promises
 * (docs/design/0008-processes.md). The other direction is bfd/intent.ts. Pure.
 */
import type { ToEngine } from '../bfd/intent.ts';

export type FromAgent =
  | ToEngine
  /** It is up: signals have their handlers, and the control socket is served. Says nothing of the gateway. */
  | { type: 'up' }
  /**
   * Once a second. That it comes shows that the process does not hang, and no more. `watchedAgo`: how long ago, in
   * ms, the last look at kernel and uplink had ended; null: this process has finished none.
   */
  | { type: 'pulse'; watchedAgo: number | null };

/**
 * Whether a message counts that is read when its sender has ended. What it found out and what it was told to do does,
 * until there is another process. What it said of itself, and what it waited for, ended with it.
 */
export const outlives = (type: FromAgent['type'], replaced: boolean): boolean =>
  !replaced && (type === 'intent' || type === 'drain' || type === 'undrain');

/** The exit code of an agent process whose start cannot succeed, however often it is tried (sysexits.h, EX_CONFIG). */
export const CANNOT_START = 78;
