/**
 * Others that claim an address which somebody else has: who, since when, and whether there is anything new to say of
 * them. Pure: `now` is milliseconds of a monotonic clock. An attacker chooses how many there are and how often they
 * speak, so few are remembered, and little is said.
 */

export const RIVALS = {
  /** Ethernet addresses that are remembered of one address. */
  most: 8,
  /** How long one that is silent is remembered, ms. */
  memory: 60_000,
  /** How long after its last word the address is contested, ms. */
  contest: 10_000,
  /** Between two lines of the log about one address, ms. */
  tell: 10_000,
} as const;

interface Rival {
  heardAt: number;
  told: boolean;
}

export interface Rivals {
  /** By Ethernet address, the longest silent first. */
  heard: Map<string, Rival>;
  /** When the next line about them may be logged. */
  tellAt: number;
}

export const createRivals = (): Rivals => ({ heard: new Map(), tellAt: Number.NEGATIVE_INFINITY });

/** One has claimed the address. */
export function hearRival({ heard }: Rivals, mac: string, now: number): void {
  const told = heard.get(mac)?.told ?? false;
  heard.delete(mac);
  heard.set(mac, { heardAt: now, told });
  if (heard.size > RIVALS.most) heard.delete(heard.keys().next().value!);
}

/** Those that are remembered. */
export function recentRivals({ heard }: Rivals, now: number): string[] {
  for (const [mac, { heardAt }] of heard) if (now - heardAt >= RIVALS.memory) heard.delete(mac);
  return [...heard.keys()];
}

/** Whether somebody has claimed the address of late. */
export const isContested = ({ heard }: Rivals, now: number): boolean =>
  [...heard.values()].some(({ heardAt }) => now - heardAt < RIVALS.contest);

/** Those that are to be told now, for the first time; none while the last line is too young. */
export function rivalsToTell(rivals: Rivals, now: number): string[] {
  const untold = recentRivals(rivals, now).filter((mac) => !rivals.heard.get(mac)!.told);
  if (untold.length === 0 || now < rivals.tellAt) return [];
  for (const mac of untold) rivals.heard.get(mac)!.told = true;
  rivals.tellAt = now + RIVALS.tell;
  return untold;
}
