/**
 * Who answers for a gateway: the Ethernet address behind it, told by the answers to questions of our own, and the
 * others that claim to be it. Pure: `now` is milliseconds of a monotonic clock.
 *
 * Promised: the address changes only when the one that answered has stopped answering (or is none of the pinned ones)
 * and another one answers; nobody who merely speaks can change it. Of several that answer the first is kept, so that
 * routers that answer side by side never make it flap.
 */
import { createRivals, hearRival, type Rivals } from './conflicts.ts';

/** Questions in a row without an answer after which another one that answers takes its place. */
const GIVE_UP = 3;
/** Claimants that are remembered: an attacker may use as many addresses as it likes. */
const MOST_CLAIMANTS = 8;

export interface Answerer {
  /** Where it answers from; undefined before the first answer. */
  mac: string | undefined;
  /** Another one that has answered since it did last, when all were asked. */
  candidate: string | undefined;
  /** Who has claimed to be it since it answered last: rivals, should it answer again. */
  claimants: Map<string, number>;
  rivals: Rivals;
}

export const createAnswerer = (): Answerer => ({
  mac: undefined,
  candidate: undefined,
  claimants: new Map(),
  rivals: createRivals(),
});

/** Something on the link says that it is the gateway. `answers`: to the question that is open, which went to all. */
export function claimed(answerer: Answerer, mac: string, answers: boolean): void {
  const { claimants } = answerer;
  if (answers) answerer.candidate = mac;
  if (claimants.has(mac) || claimants.size < MOST_CLAIMANTS)
    claimants.set(mac, (claimants.get(mac) ?? 0) + 1);
}

/** The one that is known has answered: whoever else has claimed to be it is a rival. Returns how often they did. */
export function confirmed(answerer: Answerer, now: number): number {
  answerer.candidate = undefined;
  if (answerer.claimants.size === 0) return 0;
  let claims = 0;
  for (const [mac, count] of answerer.claimants) {
    hearRival(answerer.rivals, mac, now);
    claims += count;
  }
  answerer.claimants.clear();
  return claims;
}

/**
 * A question has stayed without an answer from the one that is known, the `lost`th in a row. Returns the one that
 * takes its place from now on, if there is one.
 * @param failures so many lost questions mean silence
 */
export function replaced(answerer: Answerer, lost: number, failures: number): string | undefined {
  const { candidate, mac } = answerer;
  if (candidate === undefined || (mac !== undefined && lost < Math.min(failures, GIVE_UP))) return undefined;
  adopt(answerer, candidate);
  return candidate;
}

/** From now on this is the one. */
export function adopt(answerer: Answerer, mac: string): void {
  answerer.mac = mac;
  answerer.candidate = undefined;
  answerer.claimants.clear();
  answerer.rivals.heard.delete(mac);
}
