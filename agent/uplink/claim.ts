/**
 * An address on a link from the first question to its end: whether it can be had (RFC 5227 2.1, RFC 4862 5.4), who
 * gets it when several ask, and how it is told and defended once it is held (RFC 5227 2.3, 2.4; RFC 4861 7.2.6). Pure:
 * `now` is milliseconds of a monotonic clock.
 *
 *                    nobody answers               the kernel has it
 *        asking ─────────────────────► free ─────────────────────────► held
 *          ▲ └──────┐                    │
 *          │        │ somebody has it,   │ the same
 *   nobody │        ▼ or asks and goes before us
 *  answers └────── taken ◄───────────────┘
 *
 * Of several that ask at the same time the one with the lowest Ethernet address goes first. It is asked for until the
 * moment when the kernel is told, and from then on the kernel answers: so exactly one gets it. What is held is
 * never given up: the policy says whose it is.
 */
import { createRivals, hearRival, isContested, type Rivals } from './conflicts.ts';

export const CLAIM = {
  /** So many questions without an answer, so far apart (ms), mean that an address is free. */
  questions: 3,
  questionInterval: 100,
  /** How often the holder of an address is asked whether it still has it, ms, and what is added at random. */
  takenInterval: 250,
  takenJitter: 100,
  /** An address that is free and not yet held is defended for so long, ms: the kernel may refuse it. */
  freeFor: 5000,
  /** When an address is announced, ms after it came: neighbours may miss one, a switch port may come up late. */
  announcements: [0, 1000, 3000],
  /**
   * Between two answers to somebody who claims an address that is held, ms: the first pause, doubled up to the
   * longest while it goes on, so that two that both hold an address do not fill the link.
   */
  defendFirst: 100,
  defendLongest: 1000,
} as const;

export interface Claim {
  state: 'asking' | 'free' | 'taken' | 'held';
  /** Who has it, or is about to. */
  holder: string | undefined;
  /** Questions since the last answer. */
  unanswered: number;
  /** When the next question is due; of a free one, until when it is defended. */
  nextAt: number;
  /** When it is to be announced, in order. */
  announceAt: number[];
  announcedAt: number;
  /** The least time from one answer to a rival to the next, ms. */
  pause: number;
  /** Held, and nobody was asked yet whether he has it too. */
  unasked: boolean;
  /** Others that have claimed it while it was held. */
  rivals: Rivals;
}

/** What was heard of an address: somebody says that it has it, or asks whether it is free. */
export interface Word {
  kind: 'claim' | 'question';
  mac: string;
}

/** A new claim: it is asked for. */
export const createClaim = (now: number): Claim => ({
  state: 'asking',
  holder: undefined,
  unanswered: 0,
  nextAt: now,
  announceAt: [],
  announcedAt: Number.NEGATIVE_INFINITY,
  pause: CLAIM.defendFirst,
  unasked: false,
  rivals: createRivals(),
});

/** The kernel has the address, on a link where nobody knows yet: it is to be announced. */
export function hold(claim: Claim, now: number): void {
  claim.state = 'held';
  claim.holder = undefined;
  claim.nextAt = Number.POSITIVE_INFINITY;
  claim.announceAt = CLAIM.announcements.map((delay) => now + delay);
  claim.unasked = true;
}

/** The kernel has refused the address: others may have it meanwhile. */
export function refuse(claim: Claim): void {
  if (claim.state === 'free') claim.nextAt = Number.NEGATIVE_INFINITY;
}

/**
 * Takes what somebody else has said; `own` is the Ethernet address here, `random` from 0 to 1. Returns whether the
 * state has changed.
 */
export function hear(claim: Claim, { kind, mac }: Word, own: string, now: number, random: number): boolean {
  if (claim.state === 'held') {
    // A question is answered by the kernel.
    if (kind === 'claim') {
      if (!isContested(claim.rivals, now)) claim.pause = CLAIM.defendFirst;
      hearRival(claim.rivals, mac, now);
      defend(claim, now);
    }
    return false;
  }
  if (kind === 'question' && mac > own) {
    // Whoever asks learns that it is too late.
    if (claim.state === 'free' && now < claim.nextAt) defend(claim, now);
    return false;
  }
  const news = claim.state !== 'taken' || claim.holder !== mac;
  claim.state = 'taken';
  claim.holder = mac;
  claim.unanswered = 0;
  claim.announceAt = [];
  claim.nextAt = now + CLAIM.takenInterval + random * CLAIM.takenJitter;
  return news;
}

/** It is to be announced as soon as may be. */
function defend(claim: Claim, now: number): void {
  const at = Math.max(now, claim.announcedAt + claim.pause);
  if ((claim.announceAt[0] ?? Number.POSITIVE_INFINITY) <= at) return;
  claim.announceAt.unshift(at);
  if (at > now) claim.pause = Math.min(claim.pause * 2, CLAIM.defendLongest);
}

/** What is to be done now that all that has come was heard; undefined: nothing yet. */
export function next(claim: Claim, now: number): 'ask' | 'free' | 'announce' | undefined {
  if ((claim.announceAt[0] ?? Number.POSITIVE_INFINITY) <= now) return 'announce';
  if (claim.state === 'held' || claim.state === 'free' || claim.nextAt > now) return undefined;
  return claim.unanswered >= CLAIM.questions ? 'free' : 'ask';
}

/** A question was sent. */
export function asked(claim: Claim, now: number): void {
  claim.unanswered++;
  claim.nextAt = now + CLAIM.questionInterval;
}

/** No question could be sent. */
export function notAsked(claim: Claim, now: number): void {
  claim.nextAt = now + CLAIM.takenInterval;
}

/** Nobody has answered. */
export function setFree(claim: Claim, now: number): void {
  claim.state = 'free';
  claim.holder = undefined;
  claim.nextAt = now + CLAIM.freeFor;
}

/** It was announced. */
export function announced(claim: Claim, now: number): void {
  claim.announceAt.shift();
  claim.announcedAt = now;
  claim.unasked = false;
}

/** When `next` has something to do if nothing is heard before. */
export function deadline({ state, nextAt, announceAt }: Claim): number {
  const question = state === 'asking' || state === 'taken' ? nextAt : Number.POSITIVE_INFINITY;
  return Math.min(question, announceAt[0] ?? Number.POSITIVE_INFINITY);
}
