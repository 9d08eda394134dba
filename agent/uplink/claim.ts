/**
 * An address on a link from the first probe to its end: whether it is free (RFC 5227 2.1, RFC 4862 5.4), which of
 * several hosts that probe for it gets it, and how it is announced and defended once it is assigned (RFC 5227 2.3,
 * 2.4; RFC 4861 7.2.6). Pure: `now` is milliseconds of a monotonic clock.
 *
 *                    no answer                    the kernel has it
 *        probing ─────────────────────► free ─────────────────────────► assigned
 *          ▲ └──────┐                    │
 *          │        │ another host uses it, or probes
 *       no │        ▼ for it and precedes this one
 *   answer └───── conflict ◄─────────────┘ the same
 *
 * Of several hosts that probe at the same time the lowest Ethernet address precedes. Probes of others are received
 * until the kernel gets the address, and from then on they are answered, by the kernel or where it does not by claims.ts:
 * so exactly one host gets it. An assigned address is never given up: the policy decides whose it is.
 */
import { type Conflicts, createConflicts, isContested, recordConflict } from './conflicts.ts';

export const CLAIM = {
  /** The number of probes without an answer, and the time between them (ms), after which an address is free. */
  probes: 3,
  probeInterval: 100,
  /** How often an address in conflict is probed again, ms, and the random part on top. */
  conflictInterval: 250,
  conflictJitter: 100,
  /** How long an address that is free and not yet assigned is defended, ms: the kernel may refuse it. */
  freeFor: 5000,
  /** When an address is announced, ms after it was assigned: neighbours may miss one, a switch port may come up late. */
  announcements: [0, 1000, 3000],
  /**
   * Between two answers to a host that claims an assigned address, ms: the first pause, doubled up to the longest
   * while it goes on, so that two hosts with one address do not fill the link.
   */
  defendFirst: 100,
  defendLongest: 1000,
} as const;

export interface Claim {
  state: 'probing' | 'free' | 'conflict' | 'assigned';
  /** The Ethernet address of the host that uses it, or precedes. */
  holder: string | undefined;
  /** Probes since the last answer. */
  unanswered: number;
  /** When the next probe is due; of a free one, until when it is defended. */
  nextAt: number;
  /** When it is to be announced, in order. */
  announceAt: number[];
  announcedAt: number;
  /** The least time between two answers to a conflicting claim, ms. */
  pause: number;
  /** Assigned without a probe so far. */
  unprobed: boolean;
  /** Other hosts that claimed it while it was assigned here. */
  conflicts: Conflicts;
}

/** A packet of another host about the address: it uses it, or probes for it. */
export interface ClaimMessage {
  kind: 'claim' | 'probe';
  mac: string;
}

/** A new claim, to be probed for. */
export const createClaim = (now: number): Claim => ({
  state: 'probing',
  holder: undefined,
  unanswered: 0,
  nextAt: now,
  announceAt: [],
  announcedAt: Number.NEGATIVE_INFINITY,
  pause: CLAIM.defendFirst,
  unprobed: false,
  conflicts: createConflicts(),
});

/** The kernel has the address, on a link where it is not known yet: it is to be announced. */
export function assign(claim: Claim, now: number): void {
  claim.state = 'assigned';
  claim.holder = undefined;
  claim.nextAt = Number.POSITIVE_INFINITY;
  claim.announceAt = CLAIM.announcements.map((delay) => now + delay);
  claim.unprobed = true;
}

/** The kernel has refused the address: other hosts may have it meanwhile. */
export function refuse(claim: Claim): void {
  if (claim.state === 'free') claim.nextAt = Number.NEGATIVE_INFINITY;
}

/**
 * Takes a message of another host; `own` is the Ethernet address here, `random` from 0 to 1. Returns whether the state
 * has changed.
 */
export function receive(
  claim: Claim,
  { kind, mac }: ClaimMessage,
  own: string,
  now: number,
  random: number,
): boolean {
  if (claim.state === 'assigned') {
    // A probe is answered.
    if (kind === 'claim') {
      if (!isContested(claim.conflicts, now)) claim.pause = CLAIM.defendFirst;
      recordConflict(claim.conflicts, mac, now);
      defend(claim, now);
    }
    return false;
  }
  if (kind === 'probe' && mac > own) {
    // The other host learns that it is too late.
    if (claim.state === 'free' && now < claim.nextAt) defend(claim, now);
    return false;
  }
  const changed = claim.state !== 'conflict' || claim.holder !== mac;
  claim.state = 'conflict';
  claim.holder = mac;
  claim.unanswered = 0;
  claim.announceAt = [];
  claim.nextAt = now + CLAIM.conflictInterval + random * CLAIM.conflictJitter;
  return changed;
}

/** Announces it as soon as the pause allows. */
function defend(claim: Claim, now: number): void {
  const at = Math.max(now, claim.announcedAt + claim.pause);
  if ((claim.announceAt[0] ?? Number.POSITIVE_INFINITY) <= at) return;
  claim.announceAt.unshift(at);
  if (at > now) claim.pause = Math.min(claim.pause * 2, CLAIM.defendLongest);
}

/** What is due, once all received messages are taken; undefined: nothing yet. */
export function nextAction(claim: Claim, now: number): 'probe' | 'free' | 'announce' | undefined {
  if ((claim.announceAt[0] ?? Number.POSITIVE_INFINITY) <= now) return 'announce';
  if (claim.state === 'assigned' || claim.state === 'free' || claim.nextAt > now) return undefined;
  return claim.unanswered >= CLAIM.probes ? 'free' : 'probe';
}

/** A probe was sent. */
export function probed(claim: Claim, now: number): void {
  claim.unanswered++;
  claim.nextAt = now + CLAIM.probeInterval;
}

/** No probe could be sent. */
export function probeFailed(claim: Claim, now: number): void {
  claim.nextAt = now + CLAIM.conflictInterval;
}

/** No host has answered. */
export function setFree(claim: Claim, now: number): void {
  claim.state = 'free';
  claim.holder = undefined;
  claim.nextAt = now + CLAIM.freeFor;
}

/** It was announced. */
export function announced(claim: Claim, now: number): void {
  claim.announceAt.shift();
  claim.announcedAt = now;
  claim.unprobed = false;
}

/** When `nextAction` has something to do if nothing is received before. */
export function deadline({ state, nextAt, announceAt }: Claim): number {
  const probe = state === 'probing' || state === 'conflict' ? nextAt : Number.POSITIVE_INFINITY;
  return Math.min(probe, announceAt[0] ?? Number.POSITIVE_INFINITY);
}
