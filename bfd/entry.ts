/**
 * A session with all that is not the protocol's: where it comes from, what it was told to do, its socket and
 * counters; and how the outside sees it.
 */

import { type Moment, wallTime } from '../lib/moment.ts';
import type { SessionView } from './control-text.ts';
import type { Path } from './demux.ts';
import type { PeerIntent, SessionReport } from './intent.ts';
import type { KeyRing } from './keys.ts';
import type { Resumed, SavedSession } from './saved.ts';
import { type Hold, peerDetectionTime, type Session, type SessionConfig } from './session.ts';
import type { Sender } from './transport.ts';

/** The parameters of sessions that no policy describes. */
export type SessionDefaults = Omit<PeerIntent, 'local' | 'remote' | 'role' | 'multihop'>;

/** A session with everything that is not the protocol's. */
export interface Entry extends Path {
  id: number;
  key: string;
  origin: 'intent' | 'connect' | 'allowed';
  intent: PeerIntent;
  /** Changes by `bfdd-control session … set` and `connect`, until the policy says something new. */
  overrides: Partial<
    Pick<SessionConfig, 'role' | 'desiredMinTx' | 'requiredMinRx' | 'detectMult' | 'controlPlaneIndependent'>
  >;
  session: Session;
  sender: Sender;
  keys: KeyRing;
  packetsIn: number;
  packetsOut: number;
  /** States and when they began, the present one last. */
  history: { state: Session['sessionState']; since: Moment }[];
  transitions: SessionReport['transitions'];
  /** Kept in a state by `bfdd-control session … state`. */
  forced: Hold | undefined;
  /** Times at which the session left Up, and until when it is held down for that, ms of the monotonic clock. */
  flaps: number[];
  heldDownUntil: number;
  /** Set when the session is to be removed: it says AdminDown until then. */
  leavingUntil: number;
  sendErrorLogged: number;
}

/** The session's name in the log. */
export const nameOf = ({ id, local, remote }: Entry) => ({ id, local, remote });

/** The session for the agent. */
export function reportOf(entry: Entry, now: Moment): SessionReport {
  const { session } = entry;
  return {
    id: entry.id,
    local: entry.local,
    remote: entry.remote,
    role: session.config.role,
    state: session.sessionState,
    remoteState: session.remoteSessionState,
    localDiagnostic: session.localDiag,
    remoteDiagnostic: session.remoteDiag,
    localDiscriminator: session.localDiscr,
    remoteDiscriminator: session.remoteDiscr,
    since: wallTime(entry.history.at(-1)!.since, now),
    transmitInterval: session.transmitInterval,
    detectionTime: session.detectionTime,
    packetsIn: entry.packetsIn,
    packetsOut: entry.packetsOut,
    transitions: entry.transitions.map((transition) => ({ ...transition })),
  };
}

/** The session for `bfdd-control status`. */
export function viewOf(entry: Entry, now: Moment): SessionView {
  const { session } = entry;
  const since = entry.history.map((one) => one.since.monotonic);
  const until = [...since.slice(1), now.monotonic];
  return {
    id: entry.id,
    local: entry.local,
    remote: entry.remote,
    role: session.config.role,
    state: session.sessionState,
    diagnostic: session.localDiag,
    forced: entry.forced !== undefined,
    suspended: session.suspended,
    remoteState: session.remoteSessionState,
    remoteDiagnostic: session.remoteDiag,
    localDiscriminator: session.localDiscr,
    remoteDiscriminator: session.remoteDiscr,
    times: entry.history.map(({ state }, i) => ({ state, duration: until[i]! - since[i]! })).reverse(),
    transmitInterval: session.transmitInterval,
    detectionTime: session.detectionTime,
    detectMult: session.config.detectMult,
    desiredMinTx: {
      advertised: session.desiredMinTx,
      effective: session.effectiveMinTx,
      configured: session.config.desiredMinTx,
    },
    requiredMinRx: { advertised: session.requiredMinRx, effective: session.effectiveMinRx },
    remoteDetectMult: session.remoteDetectMult,
    remoteDesiredMinTx: session.remoteMinTx,
    remoteRequiredMinRx: session.remoteMinRx,
  };
}

/** The session for the state file. */
export function savedOf(entry: Entry): SavedSession {
  const { session } = entry;
  return {
    id: entry.id,
    origin: entry.origin,
    intent: entry.intent,
    port: entry.sender.port,
    localDiscr: session.localDiscr,
    xmitAuthSeq: session.xmitAuthSeq,
    rcvAuthSeq: session.rcvAuthSeq,
    lastTransmit: Math.max(0, session.lastTransmit),
    peerDetectionTime: peerDetectionTime(session),
    session: session.sessionState === 'Up' ? resumable(session) : undefined,
  };
}

function resumable(s: Session): Resumed {
  return {
    sessionState: s.sessionState,
    localDiag: s.localDiag,
    desiredMinTx: s.desiredMinTx,
    requiredMinRx: s.requiredMinRx,
    effectiveMinTx: s.effectiveMinTx,
    effectiveMinRx: s.effectiveMinRx,
    polling: s.polling,
    pollAgain: s.pollAgain,
    remoteSessionState: s.remoteSessionState,
    remoteDiscr: s.remoteDiscr,
    remoteDiag: s.remoteDiag,
    remoteMinTx: s.remoteMinTx,
    remoteMinRx: s.remoteMinRx,
    remoteDetectMult: s.remoteDetectMult,
    remoteDemandMode: s.remoteDemandMode,
    authSeqKnown: s.authSeqKnown,
    transmitInterval: s.transmitInterval,
    detectionTime: s.detectionTime,
  };
}

/** Whether what is saved of a session is the same. */
export function sameNegotiation(a: Session, b: Session): boolean {
  return (
    a.sessionState === b.sessionState &&
    a.localDiscr === b.localDiscr &&
    a.remoteDiscr === b.remoteDiscr &&
    a.polling === b.polling &&
    a.desiredMinTx === b.desiredMinTx &&
    a.requiredMinRx === b.requiredMinRx &&
    a.transmitInterval === b.transmitInterval &&
    a.detectionTime === b.detectionTime &&
    a.config.detectMult === b.config.detectMult &&
    a.remoteDemandMode === b.remoteDemandMode
  );
}
