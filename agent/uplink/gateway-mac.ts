/**
 * The Ethernet address of an external gateway, learned from the answers to the agent's own requests, and the other
 * hosts that claim to be the gateway. Pure: `now` is milliseconds of a monotonic clock.
 *
 * Promised: the address changes only when the known one has stopped answering (or is not one of the pinned ones) and
 * another one answers; unsolicited packets alone never change it. Of several that answer the first is kept, so that
 * routers that answer side by side do not make it flap.
 */
import { type Conflicts, createConflicts, recordConflict } from './conflicts.ts';

/** Requests in a row without an answer after which another host that answers takes over. */
const GIVE_UP = 3;
/** Claimants that are remembered: an attacker may use any number of addresses. */
const MOST_CLAIMANTS = 8;

export interface GatewayMac {
  /** The address that answers; undefined before the first answer. */
  mac: string | undefined;
  /** Another one that has answered a request to the whole link, since the known one answered last. */
  candidate: string | undefined;
  /** Claims by others since the last answer: conflicts, should the known one answer again. */
  claimants: Map<string, number>;
  conflicts: Conflicts;
}

export const createGatewayMac = (): GatewayMac => ({
  mac: undefined,
  candidate: undefined,
  claimants: new Map(),
  conflicts: createConflicts(),
});

/** A host claims to be the gateway. `answers`: in answer to the outstanding request, which went to the whole link. */
export function recordClaim(gateway: GatewayMac, mac: string, answers: boolean): void {
  const { claimants } = gateway;
  if (answers) gateway.candidate = mac;
  if (claimants.has(mac) || claimants.size < MOST_CLAIMANTS)
    claimants.set(mac, (claimants.get(mac) ?? 0) + 1);
}

/** The known one has answered: the claims of others are conflicts. Returns how many there were. */
export function confirm(gateway: GatewayMac, now: number): number {
  gateway.candidate = undefined;
  if (gateway.claimants.size === 0) return 0;
  let claims = 0;
  for (const [mac, count] of gateway.claimants) {
    recordConflict(gateway.conflicts, mac, now);
    claims += count;
  }
  gateway.claimants.clear();
  return claims;
}

/**
 * A request was not answered by the known one, the `lost`th in a row. Returns the one that takes over, if any.
 * @param failures this many lost requests mean silence
 */
export function replaceSilent(gateway: GatewayMac, lost: number, failures: number): string | undefined {
  const { candidate, mac } = gateway;
  if (candidate === undefined || (mac !== undefined && lost < Math.min(failures, GIVE_UP))) return undefined;
  adopt(gateway, candidate);
  return candidate;
}

/** Takes an Ethernet address as the gateway's. */
export function adopt(gateway: GatewayMac, mac: string): void {
  gateway.mac = mac;
  gateway.candidate = undefined;
  gateway.claimants.clear();
  gateway.conflicts.byMac.delete(mac);
}
