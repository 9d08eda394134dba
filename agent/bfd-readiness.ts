/**
 * From the outcome of reconciles to the intent for the BFD process: the desired sessions, and for each family
 * whether its translation and routes are in the kernel. Pure: `now` is milliseconds of a monotonic clock.
 */
import type { BfdIntent, FamilyReadiness, PeerIntent } from '../bfd/intent.ts';
import { type Address, FAMILIES, type Family, familyOf } from '../lib/prefix.ts';
import type { Outcome } from './reconcile/reconciler.ts';
import { INTACT } from './reconcile/targets.ts';
import { WATCHDOG } from './watchdog.ts';

export interface BfdReadiness {
  /** Whether the translation and routes of a family are in the kernel; undefined: not known yet. */
  programmed: Record<Family, FamilyReadiness | undefined>;
  /** The sessions of each family; those of a family that is left alone stay as they were. */
  peers: Record<Family, PeerIntent[]>;
}

export const createBfdReadiness = (): BfdReadiness => ({
  programmed: { 4: undefined, 6: undefined },
  peers: { 4: [], 6: [] },
});

/** Not ready: the path behind this hop is not there (RFC 5880 6.8.17). */
const notReady = (reason = 'not reconciled yet'): FamilyReadiness => ({
  ready: false,
  diagnostic: 6,
  reason,
});

/**
 * Takes the outcome of a run.
 * @param seenAt when each family was last in view; a family that could not be read keeps what is known of it for a while
 */
export function recordOutcome(
  readiness: BfdReadiness,
  { observation: { plan }, families, failures }: Outcome,
  seenAt: (family: Family) => number,
  now: number,
): void {
  const programmed: BfdReadiness['programmed'] = { 4: notReady(), 6: notReady() };
  for (const { family, state, reason, pending } of plan.families) {
    const outcome = families[family];
    if (outcome === 'unknown' && state === 'programmed' && now - seenAt(family) < WATCHDOG.unwatched) {
      programmed[family] = readiness.programmed[family];
      continue;
    }
    const failure = failures.find((one) => one.family === undefined || one.family === family);
    const ready = state === 'programmed' && INTACT.has(outcome) && pending === undefined;
    programmed[family] = ready ? { ready } : notReady(reason ?? failure?.message ?? pending);
    if (!plan.leftAlone.includes(family)) {
      readiness.peers[family] = plan.peers.filter(({ remote }) => familyOf(remote as Address) === family);
    }
  }
  readiness.programmed = programmed;
}

/**
 * The intent for the BFD process; undefined before anything is known. It holds nothing of a family before both the
 * kernel and the uplink are known: a new agent process must not interrupt the sessions of the one before.
 *
 * Without its uplink a member of a group can neither answer for a shared address nor take what the others forward to it:
 * its sessions with them end too.
 */
export function bfdIntent(
  { programmed, peers }: BfdReadiness,
  uplink: (family: Family) => FamilyReadiness | undefined,
): BfdIntent | undefined {
  const intent: BfdIntent = { peers: [], readiness: {} };
  for (const family of FAMILIES) {
    const outside = uplink(family);
    const readiness = programmed[family]?.ready ? outside : programmed[family];
    if (readiness === undefined) continue;
    intent.readiness[family] = readiness;
    intent.peers.push(...(outside?.ready === false ? peers[family].map(withoutException) : peers[family]));
  }
  return Object.keys(intent.readiness).length > 0 ? intent : undefined;
}

/** The session as one that depends on the readiness of its family. */
const withoutException = ({ unconditional: _, ...peer }: PeerIntent): PeerIntent => peer;
