/**
 * The text of the state file (checkpoint.ts): one JSON line with all sessions, followed by a line for each session,
 * the sent record, that is overwritten with every packet sent. Pure.
 *
 * Anybody with access to the state directory may have written it, so every field is validated. An invalid one makes
 * the whole file damaged.
 */

import { parseJson } from '../lib/json.ts';
import { AUTH_TYPES, SOURCE_PORTS, STATES } from './constants.ts';
import { pathKey } from './demux.ts';
import type { AuthIntent, PeerIntent } from './intent.ts';
import type { Session } from './session.ts';

/** One session in the file. */
export interface SavedSession {
  id: number;
  origin: 'intent' | 'connect' | 'allowed';
  intent: PeerIntent;
  port: number;
  localDiscr: number;
  xmitAuthSeq: number;
  rcvAuthSeq: number;
  /** Of the last packet sent, microseconds of the monotonic clock. */
  lastTransmit: number;
  /** How long after it the peer times out, microseconds. */
  peerDetectionTime: number;
  /** Present when the session was Up. */
  session: Resumed | undefined;
}

/** The variables of a session that is Up. */
export type Resumed = Pick<
  Session,
  | 'sessionState'
  | 'localDiag'
  | 'desiredMinTx'
  | 'requiredMinRx'
  | 'effectiveMinTx'
  | 'effectiveMinRx'
  | 'polling'
  | 'pollAgain'
  | 'remoteSessionState'
  | 'remoteDiscr'
  | 'remoteDiag'
  | 'remoteMinTx'
  | 'remoteMinRx'
  | 'remoteDetectMult'
  | 'remoteDemandMode'
  | 'authSeqKnown'
  | 'transmitInterval'
  | 'detectionTime'
>;

/** The file's first line. */
export interface SavedState {
  version: number;
  bootId: string;
  netns: string;
  sessions: SavedSession[];
}

/** Changes with the meaning of a field. */
export const FORMAT = 1;

/** Most JSON values in the first line: a session has some forty. */
const MAX_VALUES = 1 << 15;
/** A sent record: four numbers of fixed width, the session's id first. */
const SENT_WIDTH = 16;
export const SENT_LINE = 4 * (SENT_WIDTH + 1);
const SENT = new RegExp(`^${Array(4).fill(`(\\d{${SENT_WIDTH}})`).join(' ')}$`);

export type SentRecord = Pick<SavedSession, 'id' | 'xmitAuthSeq' | 'rcvAuthSeq' | 'lastTransmit'>;

/** The last number of a sent record: the only one that changes where packets are not authenticated. */
export const sentTime = (lastTransmit: number): string =>
  String(Math.round(lastTransmit)).padStart(SENT_WIDTH, '0');
export const SENT_TIME_AT = 3 * (SENT_WIDTH + 1);

export const sentLine = ({ id, xmitAuthSeq, rcvAuthSeq, lastTransmit }: SentRecord): string =>
  `${[id, xmitAuthSeq, rcvAuthSeq].map((number) => `${String(number).padStart(SENT_WIDTH, '0')} `).join('')}${sentTime(lastTransmit)}\n`;

type Check = (value: unknown) => boolean;

const integer =
  (least: number, most: number): Check =>
  (value) =>
    Number.isInteger(value) && (value as number) >= least && (value as number) <= most;
/** Times in microseconds; not always integers. */
const time = (value: unknown): boolean =>
  typeof value === 'number' && value >= 0 && value <= Number.MAX_SAFE_INTEGER;
const oneOf =
  (...values: unknown[]): Check =>
  (value) =>
    values.includes(value);
const flag = oneOf(true, false);
const text =
  (form: RegExp): Check =>
  (value) =>
    typeof value === 'string' && form.test(value);
const optional =
  (check: Check): Check =>
  (value) =>
    value === undefined || check(value);
const fields =
  <T>(checks: { [K in keyof Required<T>]: Check }): Check =>
  (value) =>
    typeof value === 'object' &&
    value !== null &&
    Object.entries<Check>(checks).every(([name, check]) => check((value as Record<string, unknown>)[name]));

const uint8 = integer(0, 0xff);
const uint32 = integer(0, 0xffff_ffff);
const positive32 = integer(1, 0xffff_ffff);

/** `isAddress`: whether a text is an address, without a zone. */
function intentCheck(isAddress: (text: string) => boolean): Check {
  const address: Check = (value) =>
    typeof value === 'string' && /^[^%]+(%[^\s/%]{1,15})?$/.test(value) && isAddress(value.split('%')[0]!);
  return fields<PeerIntent>({
    local: address,
    remote: address,
    desiredMinTx: positive32,
    requiredMinRx: uint32,
    detectMult: integer(1, 255),
    role: oneOf('passive', 'active'),
    minTTL: integer(1, 255),
    interface: optional(text(/^[^\s/]{1,15}$/)),
    via: optional(
      fields<NonNullable<PeerIntent['via']>>({
        gateway: address,
        mac: text(/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/),
      }),
    ),
    multihop: flag,
    adoptDiscriminator: flag,
    unconditional: optional(flag),
    auth: optional(
      fields<AuthIntent>({
        type: oneOf(...AUTH_TYPES),
        keyId: uint8,
        keyFile: text(/^[^\0]{1,4096}$/),
      }),
    ),
    demandPollInterval: optional(positive32),
    controlPlaneIndependent: optional(flag),
    adminUpPoll: optional(flag),
  });
}

const sessionCheck = (intent: Check): Check =>
  fields<SavedSession>({
    id: integer(1, Number.MAX_SAFE_INTEGER),
    origin: oneOf('intent', 'connect', 'allowed'),
    intent,
    port: (value) => value === 0 || integer(SOURCE_PORTS.first, SOURCE_PORTS.last)(value),
    localDiscr: positive32,
    xmitAuthSeq: uint32,
    rcvAuthSeq: uint32,
    lastTransmit: time,
    peerDetectionTime: time,
    session: optional(
      fields<Resumed>({
        sessionState: oneOf('Up'),
        localDiag: integer(0, 31),
        desiredMinTx: positive32,
        requiredMinRx: uint32,
        effectiveMinTx: positive32,
        effectiveMinRx: uint32,
        polling: flag,
        pollAgain: flag,
        remoteSessionState: oneOf(...STATES),
        remoteDiscr: positive32,
        remoteDiag: integer(0, 31),
        remoteMinTx: uint32,
        remoteMinRx: uint32,
        remoteDetectMult: integer(1, 255),
        remoteDemandMode: flag,
        authSeqKnown: flag,
        transmitInterval: uint32,
        detectionTime: time,
      }),
    ),
  });

/** Whether no two sessions have the same id, discriminator or path. */
function areDistinct(sessions: readonly SavedSession[]): boolean {
  const isDistinct = (key: (saved: SavedSession) => unknown) =>
    new Set(sessions.map(key)).size === sessions.length;
  return (
    isDistinct(({ id }) => id) &&
    isDistinct(({ localDiscr }) => localDiscr) &&
    isDistinct(({ intent }) => pathKey(intent))
  );
}

function parseSent(line: string): SentRecord | undefined {
  const [id, xmitAuthSeq, rcvAuthSeq, lastTransmit] = (SENT.exec(line)?.slice(1) ?? []).map(Number);
  const sane = uint32(xmitAuthSeq) && uint32(rcvAuthSeq) && time(lastTransmit);
  return sane
    ? { id: id!, xmitAuthSeq: xmitAuthSeq!, rcvAuthSeq: rcvAuthSeq!, lastTransmit: lastTransmit! }
    : undefined;
}

/** Reads the file's content. Undefined when it is damaged, or of another version. */
export function parseSaved(content: Buffer, isAddress: (text: string) => boolean): SavedState | undefined {
  const end = content.indexOf('\n');
  let state: SavedState;
  try {
    state = parseJson(content.subarray(0, end), MAX_VALUES) as SavedState;
  } catch {
    return undefined;
  }
  const check = sessionCheck(intentCheck(isAddress));
  const wellFormed = fields<SavedState>({
    version: oneOf(FORMAT),
    bootId: text(/./),
    netns: text(/./),
    sessions: (value) => Array.isArray(value) && value.every(check),
  })(state);
  if (!wellFormed || !areDistinct(state.sessions)) return undefined;
  const lines = content.toString('latin1', end + 1).split('\n');
  const sent = new Map(lines.map(parseSent).map((record) => [record?.id, record]));
  return { ...state, sessions: state.sessions.map((saved) => ({ ...saved, ...sent.get(saved.id) })) };
}
