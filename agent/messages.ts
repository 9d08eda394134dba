/**
 * The messages from the agent process to the BFD process, its parent, and what each promises
 * (docs/design/0008-processes.md). The other direction is in bfd/intent.ts, but for `begin`. Pure.
 */
import type { FromEngine, ToEngine } from '../bfd/intent.ts';

export type FromAgent =
  | ToEngine
  /** The process is up: it handles signals and serves the control socket. Promises nothing about the gateway. */
  | { type: 'up' }
  /**
   * Once a second. It proves that the process does not hang, and no more. `watchedAgo`: how long ago, in ms, this
   * process last completed an observation of kernel and uplink; null: never.
   */
  | { type: 'pulse'; watchedAgo: number | null };

/** To the agent process. */
export type ToAgent =
  | FromEngine
  /** The first message: this process is the agent process from now on. Before it, it only loads. */
  | { type: 'begin' };

/**
 * Whether a message counts that is read after its sender has ended. What it observed and the commands of an operator do,
 * until another process runs. What concerned the process itself, and what it waited for, ended with it.
 */
export const outlives = (type: FromAgent['type'], replaced: boolean): boolean =>
  !replaced && (type === 'intent' || type === 'drain' || type === 'undrain');

/** The exit code of an agent process that no retry can start (sysexits.h, EX_CONFIG). */
export const CANNOT_START = 78;
