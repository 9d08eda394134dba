/**
 * Other hosts that claim an address: which Ethernet addresses, since when, and whether to log them. Pure: `now` is
 * milliseconds of a monotonic clock. An attacker chooses how many there are and how often they send, so few are
 * remembered and few lines are logged.
 */

export const CONFLICTS = {
  /** Ethernet addresses that are remembered of one address. */
  most: 8,
  /** How long one is remembered after its last claim, ms. */
  memory: 60_000,
  /** How long after the last claim the address counts as contested, ms. */
  contested: 10_000,
  /** The least time between two log lines about one address, ms. */
  logPeriod: 10_000,
} as const;

interface Conflict {
  lastAt: number;
  logged: boolean;
}

export interface Conflicts {
  /** By Ethernet address, the longest silent first. */
  byMac: Map<string, Conflict>;
  /** When the next line may be logged. */
  logAt: number;
}

export const createConflicts = (): Conflicts => ({ byMac: new Map(), logAt: Number.NEGATIVE_INFINITY });

/** A host has claimed the address. */
export function recordConflict({ byMac }: Conflicts, mac: string, now: number): void {
  const logged = byMac.get(mac)?.logged ?? false;
  byMac.delete(mac);
  byMac.set(mac, { lastAt: now, logged });
  if (byMac.size > CONFLICTS.most) byMac.delete(byMac.keys().next().value!);
}

/** The Ethernet addresses that are remembered. */
export function recentConflicts({ byMac }: Conflicts, now: number): string[] {
  for (const [mac, { lastAt }] of byMac) if (now - lastAt >= CONFLICTS.memory) byMac.delete(mac);
  return [...byMac.keys()];
}

/** Whether the address was claimed recently. */
export const isContested = ({ byMac }: Conflicts, now: number): boolean =>
  [...byMac.values()].some(({ lastAt }) => now - lastAt < CONFLICTS.contested);

/** The Ethernet addresses to log now, each once; none before `logPeriod` is over. */
export function conflictsToLog(conflicts: Conflicts, now: number): string[] {
  const fresh = recentConflicts(conflicts, now).filter((mac) => !conflicts.byMac.get(mac)!.logged);
  if (fresh.length === 0 || now < conflicts.logAt) return [];
  for (const mac of fresh) conflicts.byMac.get(mac)!.logged = true;
  conflicts.logAt = now + CONFLICTS.logPeriod;
  return fresh;
}
