/**
 * One BFD session as a pure function: `step(session, event, now, random) → { session, actions }`. Pure.
 *
 * The variables are those of RFC 5880 6.8.1. The caller owns clock, sockets and randomness: it calls `step` with
 * every packet that was demultiplexed to the session, with every change of configuration, and with `timer` at
 * `nextDeadline(session)`. Times are microseconds on a monotonic clock.
 *
 * Two pairs of variables make live changes safe (6.8.3): `desiredMinTx` and `requiredMinRx` are advertised in our
 * packets, `effectiveMinTx` and `effectiveMinRx` are in force until a Poll Sequence has confirmed the change.
 */
import { type AuthKey, sectionLength, verify } from './auth.ts';
import {
  ADOPT_AFTER,
  type DiscardReason,
  KNOCK_INTERVAL,
  MANDATORY_LENGTH,
  OVERDUE,
  SLOW_INTERVAL,
} from './constants.ts';
import { type FsmEvent, receivedEvent, transition } from './fsm.ts';
import type { SessionStateName } from './intent.ts';
import type { Packet } from './packet.ts';
import { demandDetectionTime, detectionTime, NEVER, nextTransmit, transmitInterval } from './timers.ts';

/** The configuration of a session; intervals in microseconds. */
export interface SessionConfig {
  role: 'passive' | 'active';
  desiredMinTx: number;
  requiredMinRx: number;
  detectMult: number;
  /** The C bit. */
  controlPlaneIndependent: boolean;
  /** Leave AdminDown with a Poll Sequence, so that a peer that is known answers at once. */
  adminUpPoll: boolean;
  adoptDiscriminator: boolean;
  /**
   * The accepted keys, the one to send with first; absent without authentication, empty while the secret is unknown:
   * then no packet is sent or accepted.
   */
  authKeys?: readonly AuthKey[];
  /** Demand mode (6.6): no periodic packets when Up, a poll at this interval. Absent: never set the D bit. */
  demandPollInterval?: number;
}

/** A state that the session is held in, whatever the peer sends. */
export interface Hold {
  state: 'AdminDown' | 'Down';
  diagnostic: number;
}

export interface Session {
  config: SessionConfig;
  hold: Hold | undefined;
  /** Nothing is sent. */
  suspended: boolean;

  sessionState: SessionStateName;
  localDiscr: number;
  localDiag: number;
  desiredMinTx: number;
  requiredMinRx: number;
  effectiveMinTx: number;
  effectiveMinRx: number;
  /** A Poll Sequence of ours is outstanding (6.5). */
  polling: boolean;
  /** Another one has to follow it, because the parameters have changed since. */
  pollAgain: boolean;

  remoteSessionState: SessionStateName;
  remoteDiscr: number;
  remoteDiag: number;
  remoteMinTx: number;
  remoteMinRx: number;
  remoteDetectMult: number;
  remoteDemandMode: boolean;

  xmitAuthSeq: number;
  rcvAuthSeq: number;
  authSeqKnown: boolean;
  /** The key under which the peer was last heard. */
  authKey: AuthKey | undefined;

  /** The unknown Your Discriminator that the peer keeps sending, how often it came, and when it is overdue. */
  staleDiscr: number;
  staleCount: number;
  staleOverdueAt: number;

  /** Microseconds; 0 while nothing is sent periodically. */
  transmitInterval: number;
  /** Microseconds; 0 before the first packet. */
  detectionTime: number;
  lastTransmit: number;
  lastReceive: number;
  lastKnock: number;
  pollStarted: number;

  transmitAt: number;
  detectAt: number;
  forgetSequenceAt: number;
  knockAt: number;
  demandPollAt: number;
}

export type SessionEvent =
  /** A packet for this session. `stale`: its Your Discriminator is unknown, but the addresses are this session's. */
  | { type: 'receive'; packet: Packet; payload: Buffer; stale: boolean }
  /** A deadline has passed. Packets that arrived until `readUntil` have been read: what was due by then may expire. */
  | { type: 'timer'; readUntil: number }
  | { type: 'configure'; config: SessionConfig }
  | { type: 'hold'; hold: Hold | undefined }
  | { type: 'suspend'; suspended: boolean }
  /** Down, as if the session were new; `localDiscr` stays. */
  | { type: 'reset' };

export type SessionAction =
  /** `due`: when the packet should have been sent, for periodic ones. */
  | { type: 'send'; packet: Packet; key: AuthKey | undefined; sequence: number; due?: number }
  /** An empty datagram that wakes a quiet peer (docs/bfd.md). */
  | { type: 'knock' }
  /** The state has changed. */
  | {
      type: 'notify';
      event: FsmEvent | 'reset';
      from: SessionStateName;
      to: SessionStateName;
      diagnostic: number;
    }
  /** LocalDiscr is now the one that the peer kept sending. */
  | { type: 'adopt'; from: number; to: number };

export interface Step {
  session: Session;
  actions: readonly SessionAction[];
  /** Why the received packet was discarded. */
  discard?: DiscardReason;
}

/** A session in state Down that has heard and sent nothing. `localDiscr` is random, unique and not 0. */
export function createSession(config: SessionConfig, localDiscr: number, xmitAuthSeq: number): Session {
  return {
    config,
    hold: undefined,
    suspended: false,
    sessionState: 'Down',
    localDiscr,
    localDiag: 0,
    desiredMinTx: Math.max(config.desiredMinTx, SLOW_INTERVAL),
    requiredMinRx: config.requiredMinRx,
    effectiveMinTx: Math.max(config.desiredMinTx, SLOW_INTERVAL),
    effectiveMinRx: config.requiredMinRx,
    polling: false,
    pollAgain: false,
    ...NO_REMOTE,
    remoteDiag: 0,
    remoteMinTx: 0,
    remoteDetectMult: 0,
    xmitAuthSeq,
    rcvAuthSeq: 0,
    authSeqKnown: false,
    authKey: undefined,
    staleDiscr: 0,
    staleCount: 0,
    staleOverdueAt: NEVER,
    transmitInterval: 0,
    detectionTime: 0,
    lastTransmit: -NEVER,
    lastReceive: -NEVER,
    lastKnock: -NEVER,
    pollStarted: -NEVER,
    transmitAt: NEVER,
    detectAt: NEVER,
    forgetSequenceAt: NEVER,
    knockAt: NEVER,
    demandPollAt: NEVER,
  };
}

/** The remote's variables while it is not known (6.8.1). */
const NO_REMOTE = {
  remoteSessionState: 'Down',
  remoteDiscr: 0,
  remoteMinRx: 1,
  remoteDemandMode: false,
} as const;

/** When to call `step` with `timer`; `NEVER` when only a packet or a change of configuration has an effect. */
export function nextDeadline(s: Session): number {
  return Math.min(s.transmitAt, s.detectAt, s.forgetSequenceAt, s.knockAt, s.demandPollAt);
}

/** Whether Demand mode is active here: the peer sends no periodic packets (6.6). */
function demandActive(s: Session): boolean {
  return (
    s.config.demandPollInterval !== undefined && s.sessionState === 'Up' && s.remoteSessionState === 'Up'
  );
}

/** The Detection Time of the peer: how long it waits for our packets (6.8.4). */
export function peerDetectionTime(s: Session): number {
  return demandDetectionTime(s.config.detectMult, s.effectiveMinTx, s.remoteMinRx);
}

/** Applies one event. Does not change its argument. */
export function step(before: Session, event: SessionEvent, now: number, random: () => number): Step {
  const s = { ...before };
  const actions: SessionAction[] = [];
  let discard: DiscardReason | undefined;
  switch (event.type) {
    case 'receive':
      discard = receive(s, event.packet, event.payload, event.stale, now, actions);
      break;
    case 'timer':
      runTimers(s, event.readUntil, now, actions);
      break;
    case 'configure':
      s.config = event.config;
      negotiate(s, now);
      break;
    case 'hold':
      hold(s, event.hold, now, actions);
      break;
    case 'suspend':
      s.suspended = event.suspended;
      break;
    case 'reset':
      reset(s, now, actions);
      break;
    default:
      event satisfies never;
  }
  schedule(s, now, random);
  return discard === undefined ? { session: s, actions } : { session: s, actions, discard };
}

/** 6.8.6 from the authentication on; what comes before is in packet.ts and demux.ts. */
function receive(
  s: Session,
  packet: Packet,
  payload: Buffer,
  stale: boolean,
  now: number,
  actions: SessionAction[],
): DiscardReason | undefined {
  const keys = s.config.authKeys;
  if (packet.authenticationPresent) {
    if (keys === undefined) return 'auth-unexpected';
    if (keys.length === 0) return 'auth-no-key';
    const verdict = verify(payload, packet, keys, s);
    if (typeof verdict === 'string') return verdict;
    s.authSeqKnown = true;
    s.rcvAuthSeq = verdict.sequence;
    s.authKey = verdict.key;
  } else if (keys !== undefined) {
    return 'auth-missing';
  }
  if (stale && !adopt(s, packet, actions)) {
    s.staleOverdueAt = now + overdueAfter(Math.max(packet.desiredMinTx, s.requiredMinRx));
    return 'unknown-discriminator';
  }
  s.staleCount = 0;
  s.staleOverdueAt = NEVER;

  s.remoteDiscr = packet.myDiscriminator;
  s.remoteSessionState = packet.state;
  s.remoteDiag = packet.diagnostic;
  s.remoteDemandMode = packet.demand;
  s.remoteMinTx = packet.desiredMinTx;
  s.remoteMinRx = packet.requiredMinRx;
  s.remoteDetectMult = packet.detectMult;
  if (packet.final && s.polling) endPoll(s, now);

  // Heard, for the ageing of RemoteDiscr, also in AdminDown; `schedule` derives the Detection Time.
  s.lastReceive = now;
  if (s.sessionState === 'AdminDown') return 'local-admin-down';
  if (s.hold === undefined) apply(s, receivedEvent(packet.state), now, actions);
  if (packet.poll) send(s, actions, { final: true });
  return undefined;
}

/**
 * The peer of a replaced gateway may keep sending the discriminator of the old one, and discard every packet that
 * does not use it. A session that is Down adopts the discriminator that its own peer sends repeatedly.
 */
function adopt(s: Session, packet: Packet, actions: SessionAction[]): boolean {
  if (!s.config.adoptDiscriminator || s.hold !== undefined) return false;
  if (s.sessionState !== 'Down' || packet.state !== 'Down') return false;
  s.staleCount = packet.yourDiscriminator === s.staleDiscr ? s.staleCount + 1 : 1;
  s.staleDiscr = packet.yourDiscriminator;
  if (s.staleCount < ADOPT_AFTER) return false;
  actions.push({ type: 'adopt', from: s.localDiscr, to: packet.yourDiscriminator });
  s.localDiscr = packet.yourDiscriminator;
  return true;
}

/** Runs the timers that are due at `now`. */
function runTimers(s: Session, readUntil: number, now: number, actions: SessionAction[]): void {
  if (readUntil >= s.detectAt) {
    // Send Down with the peer's discriminator, then forget the peer (6.8.1, 6.8.4).
    apply(s, 'timeout', now, actions);
    Object.assign(s, NO_REMOTE);
    s.polling = false;
    s.pollAgain = false;
    negotiate(s, now);
  }
  if (now >= s.forgetSequenceAt) s.authSeqKnown = false;
  if (now >= s.demandPollAt) startPoll(s, now);
  if (now >= s.transmitAt) {
    const due = s.transmitAt;
    send(s, actions, { due });
    s.lastTransmit = now;
    s.transmitAt = NEVER;
  }
  if (now >= s.knockAt) {
    actions.push({ type: 'knock' });
    s.lastKnock = now;
    s.staleOverdueAt = NEVER;
  }
}

/** Holds the session in a state, or releases it. */
function hold(s: Session, wanted: Hold | undefined, now: number, actions: SessionAction[]): void {
  s.hold = wanted;
  if (wanted === undefined) {
    const poll = s.config.adminUpPoll && s.sessionState === 'AdminDown' && s.remoteDiscr !== 0;
    if (poll) startPoll(s, now);
    apply(s, 'enable', now, actions);
  } else if (s.sessionState === wanted.state) {
    s.localDiag = wanted.diagnostic;
  } else {
    apply(s, wanted.state === 'Down' ? 'force down' : 'disable', now, actions, wanted.diagnostic);
  }
}

function reset(s: Session, now: number, actions: SessionAction[]): void {
  if (s.hold === undefined && s.sessionState !== 'Down') {
    enter(s, 'reset', { state: 'Down', diagnostic: 0 }, now, actions);
  }
  Object.assign(s, NO_REMOTE);
  s.polling = false;
  s.pollAgain = false;
  s.authSeqKnown = false;
  s.lastReceive = -NEVER;
  negotiate(s, now);
}

/** Applies an event to the state machine. */
function apply(
  s: Session,
  event: FsmEvent,
  now: number,
  actions: SessionAction[],
  diagnostic?: number,
): void {
  const next = transition(s.sessionState, event);
  if (next === undefined) return;
  enter(s, event, diagnostic === undefined ? next : { ...next, diagnostic }, now, actions);
}

/** Enters a state and sends a packet at once (6.8.7). */
function enter(
  s: Session,
  event: FsmEvent | 'reset',
  next: { state: SessionStateName; diagnostic: number },
  now: number,
  actions: SessionAction[],
): void {
  const from = s.sessionState;
  s.sessionState = next.state;
  s.localDiag = next.diagnostic;
  negotiate(s, now);
  if (send(s, actions)) {
    s.lastTransmit = now;
    s.transmitAt = NEVER;
  }
  actions.push({ type: 'notify', event, from, to: next.state, diagnostic: next.diagnostic });
}

/** Derives the advertised parameters from configuration and state, and polls when they change (6.8.3). */
function negotiate(s: Session, now: number): void {
  const up = s.sessionState === 'Up';
  const desiredMinTx = up ? s.config.desiredMinTx : Math.max(s.config.desiredMinTx, SLOW_INTERVAL);
  const requiredMinRx = s.config.requiredMinRx;
  const changed = desiredMinTx !== s.desiredMinTx || requiredMinRx !== s.requiredMinRx;
  s.desiredMinTx = desiredMinTx;
  s.requiredMinRx = requiredMinRx;
  // Up: neither a longer interval nor a shorter Detection Time until the peer has confirmed it.
  s.effectiveMinTx = up ? Math.min(s.effectiveMinTx, desiredMinTx) : desiredMinTx;
  s.effectiveMinRx = up ? Math.max(s.effectiveMinRx, requiredMinRx) : requiredMinRx;
  if (changed && s.remoteDiscr !== 0) startPoll(s, now);
}

function startPoll(s: Session, now: number): void {
  if (s.polling) {
    s.pollAgain = true;
  } else {
    s.polling = true;
    s.pollStarted = now;
  }
}

/** A Final was received. Changes since the Poll began need a Poll Sequence of their own (6.5). */
function endPoll(s: Session, now: number): void {
  s.polling = s.pollAgain;
  s.pollAgain = false;
  s.pollStarted = now;
  if (s.polling) return;
  s.effectiveMinTx = s.desiredMinTx;
  s.effectiveMinRx = s.requiredMinRx;
}

/** Sends one packet unless 6.8.7 forbids it. Returns whether it was sent. */
function send(s: Session, actions: SessionAction[], how: { final?: true; due?: number } = {}): boolean {
  if (!maySend(s)) return false;
  // The key that the peer used last, while it is accepted: a new key is used as soon as the peer uses it.
  const keys = s.config.authKeys;
  const key = keys?.find((accepted) => accepted === s.authKey) ?? keys?.[0];
  const final = how.final === true;
  const packet: Packet = {
    diagnostic: s.localDiag,
    state: s.sessionState,
    poll: s.polling && !final,
    final,
    controlPlaneIndependent: s.config.controlPlaneIndependent,
    authenticationPresent: key !== undefined,
    demand: demandActive(s),
    detectMult: s.config.detectMult,
    length: MANDATORY_LENGTH + (key === undefined ? 0 : sectionLength(key)),
    myDiscriminator: s.localDiscr,
    yourDiscriminator: s.remoteDiscr,
    desiredMinTx: s.desiredMinTx,
    requiredMinRx: s.requiredMinRx,
    requiredMinEchoRx: 0,
  };
  if (key !== undefined) s.xmitAuthSeq = (s.xmitAuthSeq + 1) >>> 0;
  const action: SessionAction = { type: 'send', packet, key, sequence: s.xmitAuthSeq };
  actions.push(how.due === undefined ? action : { ...action, due: how.due });
  return true;
}

/** Whether any packet may be sent (6.8.7): a passive session waits until it has heard the peer. */
function maySend(s: Session): boolean {
  if (s.suspended || s.config.authKeys?.length === 0) return false;
  return s.config.role === 'active' || s.remoteDiscr !== 0;
}

/** The interval of periodic packets, 0 when there are none (6.8.7). */
function periodicInterval(s: Session): number {
  if (!maySend(s)) return 0;
  const remoteDemandActive =
    s.remoteDemandMode && s.sessionState === 'Up' && s.remoteSessionState === 'Up' && !s.polling;
  return remoteDemandActive ? 0 : transmitInterval(s.effectiveMinTx, s.remoteMinRx);
}

/** Derives every deadline from the variables. Only the transmit timer has state of its own: its jitter is drawn once. */
function schedule(s: Session, now: number, random: () => number): void {
  const interval = periodicInterval(s);
  if (interval === 0) {
    s.transmitAt = NEVER;
  } else if (interval !== s.transmitInterval || s.transmitAt === NEVER) {
    s.transmitAt = Math.max(now, nextTransmit(s.lastTransmit, interval, random));
  }
  s.transmitInterval = interval;

  s.detectionTime =
    s.remoteDetectMult === 0 ? 0 : detectionTime(s.remoteDetectMult, s.effectiveMinRx, s.remoteMinTx);
  const heard = s.remoteDiscr !== 0 && s.detectionTime > 0;
  if (demandActive(s)) {
    s.detectAt = s.polling ? s.pollStarted + peerDetectionTime(s) : NEVER;
    s.demandPollAt = s.polling ? NEVER : s.pollStarted + s.config.demandPollInterval!;
  } else {
    s.detectAt = heard ? s.lastReceive + s.detectionTime : NEVER;
    s.demandPollAt = NEVER;
  }
  s.forgetSequenceAt = s.authSeqKnown ? s.lastReceive + 2 * s.detectionTime : NEVER;

  s.knockAt = nextKnock(s, now);
}

/** How long a peer that sends every `interval` may be silent before it is overdue. */
const overdueAfter = (interval: number): number => Math.max(OVERDUE.intervals * interval, OVERDUE.least);

/**
 * When to knock, to wake up a peer that sleeps (docs/bfd.md): a passive session that has not heard its peer, and any
 * session whose peer is overdue.
 */
function nextKnock(s: Session, now: number): number {
  if (s.hold !== undefined || s.suspended || demandActive(s)) return NEVER;
  if (s.remoteDiscr === 0) {
    const silent = s.config.role === 'passive' ? Math.max(s.lastKnock + KNOCK_INTERVAL, now) : NEVER;
    return Math.min(silent, s.staleOverdueAt);
  }
  if (s.detectionTime === 0) return NEVER;
  const interval = s.detectionTime / s.remoteDetectMult;
  const overdue = Math.max(s.lastReceive, s.lastKnock) + overdueAfter(interval);
  // Wait for a packet that is due soon afterwards: most often the peer is heard before.
  return s.transmitAt > overdue && s.transmitAt < overdue + interval ? s.transmitAt : overdue;
}
