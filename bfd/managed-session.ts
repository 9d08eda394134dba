/**
 * A session as the engine manages it: the protocol's variables with where the session comes from, how `bfdd-control`
 * changed it, its socket and its counters; and how status, `bfdd-control` and the state file show it.
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

export interface ManagedSession extends Path {
  id: number;
  key: string;
  origin: 'intent' | 'connect' | 'allowed';
  intent: PeerIntent;
  /** Changes by `bfdd-control session … set` and `connect`, which a new intent for this session replaces. */
  overrides: Partial<Omit<SessionConfig, 'authKeys' | 'demandPollInterval'>>;
  session: Session;
  sender: Sender;
  keys: KeyRing;
  packetsIn: number;
  packetsOut: number;
  /** States and when they began, the present one last. */
  history: { state: Session['sessionState']; since: Moment }[];
  transitions: SessionReport['transitions'];
  /** The state in which `bfdd-control session … state` holds it. */
  forced: Hold | undefined;
  /** When the session is removed; it sends AdminDown until then. Microseconds; NEVER unless it is to be removed. */
  removeAt: number;
  /** When a send error was last logged, microseconds. */
  sendErrorLogged: number;
}

/** The session in a log line. */
export const labelOf = ({ id, local, remote }: ManagedSession) => ({ id, local, remote });

/** The session for the agent. */
export function reportOf(managed: ManagedSession, now: Moment): SessionReport {
  const { session } = managed;
  return {
    id: managed.id,
    local: managed.local,
    remote: managed.remote,
    role: session.config.role,
    state: session.sessionState,
    remoteState: session.remoteSessionState,
    localDiagnostic: session.localDiag,
    remoteDiagnostic: session.remoteDiag,
    localDiscriminator: session.localDiscr,
    remoteDiscriminator: session.remoteDiscr,
    since: wallTime(managed.history.at(-1)!.since, now),
    transmitInterval: session.transmitInterval,
    detectionTime: session.detectionTime,
    packetsIn: managed.packetsIn,
    packetsOut: managed.packetsOut,
    transitions: managed.transitions.map((transition) => ({ ...transition })),
  };
}

/** The session for `bfdd-control status`. */
export function viewOf(managed: ManagedSession, now: Moment): SessionView {
  const { session } = managed;
  const since = managed.history.map((past) => past.since.monotonic);
  const until = [...since.slice(1), now.monotonic];
  return {
    id: managed.id,
    local: managed.local,
    remote: managed.remote,
    role: session.config.role,
    state: session.sessionState,
    diagnostic: session.localDiag,
    forced: managed.forced !== undefined,
    suspended: session.suspended,
    remoteState: session.remoteSessionState,
    remoteDiagnostic: session.remoteDiag,
    localDiscriminator: session.localDiscr,
    remoteDiscriminator: session.remoteDiscr,
    times: managed.history.map(({ state }, i) => ({ state, duration: until[i]! - since[i]! })).reverse(),
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
export function savedOf(managed: ManagedSession): SavedSession {
  const { session } = managed;
  return {
    id: managed.id,
    origin: managed.origin,
    intent: managed.intent,
    port: managed.sender.port,
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

/** Whether two states of a session save the same. */
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
