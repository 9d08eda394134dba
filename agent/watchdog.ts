/**
 * What the BFD process knows of the agent process, and what follows. Pure: every function takes `now`, milliseconds
 * of a monotonic clock.
 *
 * Two clocks, because an agent process can speak and see nothing. Any message shows that it does not hang. Only a
 * finished look at the kernel and the uplink shows that somebody watches the gateway; that clock runs on over the
 * death of one agent process and the start of the next, and from the start of the BFD process itself.
 */

export const WATCHDOG = {
  /** An agent process that says nothing for so long hangs, and is ended, ms. */
  hung: 30_000,
  /** Without a finished look for so long nobody watches the gateway, and sessions are taken out of Up, ms. */
  unwatched: 60_000,
  /** Changing the kernel takes no longer, with tools that hang for a minute each until they are ended, ms. */
  longestChange: 600_000,
  /** Delay before an agent process is started again, doubled up to the longest, ms. */
  restartFirst: 100,
  restartLongest: 10_000,
  /** A process that lived so long was well: the delay starts over, ms. */
  restartForgiven: 30_000,
} as const;

export interface Watchdog {
  /** When the present agent process, or the last one, was started. */
  startedAt: number;
  /** When it was heard last. */
  heardAt: number;
  /** When the last look ended that found out how the kernel and the uplink are. */
  watchedAt: number;
  /** Before the next start. */
  delay: number;
}

/** The BFD process starts: what it resumes counts as watched until now. */
export const createWatchdog = (now: number): Watchdog => ({
  startedAt: now,
  heardAt: now,
  watchedAt: now,
  delay: WATCHDOG.restartFirst,
});

/** An agent process is started, or that was tried. */
export function agentStarted(dog: Watchdog, now: number): void {
  dog.startedAt = now;
  dog.heardAt = now;
}

/** The agent process said something. */
export function agentHeard(dog: Watchdog, now: number): void {
  dog.heardAt = now;
}

/** The agent process told that a look ended `ago` milliseconds before. */
export function gatewayWatched(dog: Watchdog, ago: number, now: number): void {
  dog.watchedAt = Math.max(dog.watchedAt, now - ago);
}

/** The agent process ended, or could not be started. Returns how long to wait before the next start, ms. */
export function agentEnded(dog: Watchdog, now: number): number {
  if (now - dog.startedAt > WATCHDOG.restartForgiven) dog.delay = WATCHDOG.restartFirst;
  const { delay } = dog;
  dog.delay = Math.min(WATCHDOG.restartLongest, delay * 2);
  return delay;
}

/** Whether the agent process that is there hangs. */
export const isHung = (dog: Watchdog, now: number): boolean => now - dog.heardAt > WATCHDOG.hung;

/** Whether nobody has watched the gateway for too long. */
export const isUnwatched = (dog: Watchdog, now: number): boolean => now - dog.watchedAt > WATCHDOG.unwatched;
