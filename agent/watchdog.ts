/**
 * Whether the agent process is alive, and the gateway watched. Pure: every function takes `now`, milliseconds of a
 * monotonic clock.
 *
 * Two clocks, because an agent process can send messages and observe nothing. Any message proves that it does not hang.
 * Only a completed observation of kernel and uplink proves that the gateway is watched; that clock runs on over the end
 * of one agent process and the start of the next, and from the start of the BFD process itself.
 */

export const WATCHDOG = {
  /** An agent process without a message for this long hangs, and is killed, ms. */
  hung: 30_000,
  /**
   * The longest time that a process has until its first message, ms. One that was killed before it gives the next one twice as
   * long: a machine on which the start takes longer than `hung` would never have one.
   */
  slowestStart: 240_000,
  /** Without a completed observation for this long the gateway is not watched: sessions are taken out of Up, ms. */
  unwatched: 60_000,
  /** The longest time to apply changes, with commands that hang for a minute each until they are killed, ms. */
  longestChange: 600_000,
  /** The backoff before an agent process is restarted, doubled up to the longest, ms. */
  restartFirst: 100,
  restartLongest: 10_000,
  /** A process that ran this long is considered healthy: the backoff is reset, ms. */
  restartForgiven: 30_000,
} as const;

export interface Watchdog {
  /** When the running agent process, or the last one, was started. */
  startedAt: number;
  /** When its last message came, or it was started. */
  heardAt: number;
  /** How long it may take to the next message, ms. */
  patience: number;
  /** The same for the first message of the next process. */
  startPatience: number;
  /** When an observation of both kernel and uplink was last completed. */
  watchedAt: number;
  /** The backoff before the next start. */
  delay: number;
}

/** The BFD process starts: the sessions that it resumes count as watched until now. */
export const createWatchdog = (now: number): Watchdog => ({
  startedAt: now,
  heardAt: now,
  patience: WATCHDOG.hung,
  startPatience: WATCHDOG.hung,
  watchedAt: now,
  delay: WATCHDOG.restartFirst,
});

/** An agent process was started, or that was tried. */
export function agentStarted(watchdog: Watchdog, now: number): void {
  watchdog.startedAt = now;
  watchdog.heardAt = now;
  watchdog.patience = watchdog.startPatience;
}

/** A message of the agent process came. */
export function agentHeard(watchdog: Watchdog, now: number): void {
  watchdog.heardAt = now;
  watchdog.patience = WATCHDOG.hung;
  watchdog.startPatience = WATCHDOG.hung;
}

/** The agent process completed an observation `ago` milliseconds before. */
export function gatewayWatched(watchdog: Watchdog, ago: number, now: number): void {
  watchdog.watchedAt = Math.max(watchdog.watchedAt, now - ago);
}

/** The agent process ended, or could not be started. Returns how long to wait before the next start, ms. */
export function agentEnded(watchdog: Watchdog, now: number): number {
  if (now - watchdog.startedAt > WATCHDOG.restartForgiven) watchdog.delay = WATCHDOG.restartFirst;
  if (watchdog.heardAt === watchdog.startedAt && isHung(watchdog, now)) {
    watchdog.startPatience = Math.min(WATCHDOG.slowestStart, watchdog.patience * 2);
  }
  const { delay } = watchdog;
  watchdog.delay = Math.min(WATCHDOG.restartLongest, delay * 2);
  return delay;
}

/** Whether the running agent process hangs. */
export const isHung = (watchdog: Watchdog, now: number): boolean =>
  now - watchdog.heardAt > watchdog.patience;

/** Whether the gateway has not been watched for too long. */
export const isUnwatched = (watchdog: Watchdog, now: number): boolean =>
  now - watchdog.watchedAt > WATCHDOG.unwatched;
