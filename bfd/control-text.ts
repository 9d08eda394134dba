/**
 * The text of `bfdd-control`: parses the words of a command, and formats the replies as OpenBFDD 0.5.4 does. Its parse
 * errors are kept to the letter, mistakes included, because operators and Kube-OVN's supervisor read them. Pure.
 */
import { Address4, Address6 } from 'ip-address';
import { DIAG, DIAGNOSTICS } from './constants.ts';
import type { SessionStateName } from './intent.ts';

/** Which sessions a command is about. */
export type Selector =
  | { by: 'all' }
  | { by: 'new' }
  | { by: 'id'; id: number }
  | { by: 'pair'; local: string; remote: string };

/** The format of `status`: the detail (0 – 4), one line for each session, numbers instead of words. */
export interface StatusStyle {
  level: number;
  compact: boolean;
  brief: boolean;
}

/** The action of `session …`; times in microseconds. */
export type SessionCommand =
  | { action: 'set'; item: 'mintx' | 'minrx'; microseconds: number }
  | { action: 'set'; item: 'multi'; multiplier: number }
  | { action: 'set'; item: 'cpi' | 'admin_up_poll'; on: boolean }
  | { action: 'state'; state: 'AdminDown' | 'Down' | 'Up'; diagnostic: number }
  | { action: 'kill' | 'reset' | 'suspend' | 'resume' };

export type Command =
  | { command: 'status'; select: Selector; style: StatusStyle }
  | { command: 'version' | 'stop' }
  | { command: 'allow' | 'block'; address: string }
  | { command: 'connect'; local: string; remote: string }
  | { command: 'session'; select: Selector; what: SessionCommand }
  | { command: 'log level'; level: string }
  | { command: 'log type'; type: string; on: boolean }
  | { command: 'log timing'; on: boolean }
  | { command: 'load'; file: string }
  /** A question that needs no session. */
  | { command: 'answer'; text: string }
  /** An invalid command. */
  | { command: 'error'; text: string };

const failed = (text: string): Command => ({ command: 'error', text });

/** An address in canonical text, its zone kept, or undefined. */
export function parseAddress(word: string): string | undefined {
  const match = /^([0-9A-Fa-f.:]+)(%[\w.-]+)?$/.exec(word);
  if (match === null) return undefined;
  try {
    if (!word.includes(':')) return match[2] === undefined ? new Address4(word).correctForm() : undefined;
    return new Address6(match[1]!).correctForm() + (match[2] ?? '');
  } catch {
    return undefined;
  }
}

/** Splits a request into words: blanks, line ends and NULs separate. */
export const splitWords = (text: string): string[] => text.split(/[\s\0]+/).filter((word) => word !== '');

/** Parses the words of one command. Its name may be in capitals, its arguments not. */
export function parse(words: readonly string[]): Command {
  const [name = '', ...rest] = words;
  switch (name.toLowerCase()) {
    case 'status':
      return parseStatus(rest);
    case 'version':
      return { command: 'version' };
    case 'stop':
      return { command: 'stop' };
    case 'allow':
      return parseAllow('allow', 'Must supply ip address.', rest);
    case 'block':
      return parseAllow('block', 'Must supply an IPv4 or IPv6 address.', rest);
    case 'connect':
      return parseConnect(rest);
    case 'session':
      return parseSession(rest);
    case 'log':
      return parseLog(rest);
    case 'load':
      return rest[0] === undefined ? failed('Must supply a filename.') : { command: 'load', file: rest[0] };
    default:
      return failed(`Unknown command <${name}>`);
  }
}

function parseAllow(command: 'allow' | 'block', missing: string, [word]: string[]): Command {
  if (word === undefined) return failed(missing);
  const address = parseAddress(word);
  return address === undefined ? failed(`Invalid IPv4 or IPv6 address <${word}>.`) : { command, address };
}

/** `local A remote B` in either order, at the start of `words`: the pair, or the error. */
function parsePair(words: string[]): { local: string; remote: string } | string {
  const [first, firstAddress, second, secondAddress] = words;
  if (first !== 'local' && first !== 'remote') return `Unknown <${first}> should be 'remote' or 'local'.`;
  const other = first === 'local' ? 'remote' : 'local';
  if (firstAddress === undefined) return `'${first}' should be followed by an Pv4 or IPv6 address.`;
  const one = parseAddress(firstAddress);
  if (one === undefined) return `<${firstAddress}> is not an IPv4 or IPv6 address.`;
  if (second === undefined) return `'${other}' not found.`;
  if (second !== other) return `unknown <${second}>. '${first}' ip must be followed by '${other}'.`;
  if (secondAddress === undefined) return `'${other}' should be followed by an ip address.`;
  const two = parseAddress(secondAddress);
  if (two === undefined) return `<${secondAddress}> is not an IPv4 or IPv6 address.`;
  if (one.includes(':') !== two.includes(':')) return 'can not mix IPv4 and IPv6 addresses.';
  return first === 'local' ? { local: one, remote: two } : { local: two, remote: one };
}

function parseConnect(words: string[]): Command {
  if (words.length === 0) return failed("Must supply 'local ip remote ip' address pair.");
  const pair = parsePair(words);
  if (typeof pair === 'string') return failed(`'connect' must be followed by an ip pair. Error: ${pair}`);
  return { command: 'connect', ...pair };
}

/** The sessions that the words begin with, and the words after them; or the error. */
function parseSelector(
  words: string[],
  keywords: readonly ('all' | 'new')[],
): { select: Selector; rest: string[] } | string {
  const word = words[0] ?? '';
  const keyword = keywords.find((candidate) => candidate === word);
  if (keyword !== undefined) return { select: { by: keyword }, rest: words.slice(1) };
  if (/^[1-9][0-9]*$/.test(word)) return { select: { by: 'id', id: Number(word) }, rest: words.slice(1) };
  if (word !== 'local' && word !== 'remote') return `Unknown <${word}>.`;
  const pair = parsePair(words);
  return typeof pair === 'string'
    ? `Error: ${pair}`
    : { select: { by: 'pair', ...pair }, rest: words.slice(4) };
}

function parseStatus(words: string[]): Command {
  if (words.length === 0) words = ['all'];
  const selected = parseSelector(words, ['all']);
  if (typeof selected === 'string') {
    return failed(`Must supply 'all', session id or 'remote ip local ip' before other settings. ${selected}`);
  }
  const { select, rest } = selected;
  // One line for each session is the default for the plain list only.
  const style: StatusStyle = { level: 1, compact: select.by === 'all' && rest.length === 0, brief: false };
  for (let i = 0; i < rest.length; i++) {
    switch (rest[i]) {
      case 'compact':
        style.compact = true;
        break;
      case 'nocompact':
        style.compact = false;
        break;
      case 'brief':
        style.brief = true;
        break;
      case 'level': {
        const value = rest[++i];
        if (value === undefined) return failed('level must be followed by an integer.');
        if (!/^-?[0-9]+$/.test(value)) return failed(`level value must be an integer : <${value}>.`);
        style.level = Number(value);
        break;
      }
      default:
        return failed(`Unrecognized  status setting <${rest[i]}>.`);
    }
  }
  return { command: 'status', select, style };
}

function parseSession(words: string[]): Command {
  const choice = "Must supply 'all', 'new', session id or 'remote ip local ip'";
  if (words.length === 0) return failed(`${choice}.`);
  const selected = parseSelector(words, ['all', 'new']);
  if (typeof selected === 'string') return failed(`${choice} before other settings. ${selected}`);
  const { select, rest } = selected;
  const [action, ...args] = rest;
  const what = parseSessionCommand(action, args);
  return typeof what === 'string' ? failed(what) : { command: 'session', select, what };
}

function parseSessionCommand(action: string | undefined, args: string[]): SessionCommand | string {
  const actions = "'state', 'set', 'kill', 'reset', 'suspend' or 'resume'.";
  switch (action) {
    case undefined:
      return `Must supply session action: ${actions}`;
    case 'set':
      return parseSet(args);
    case 'state':
      return parseState(args);
    case 'kill':
    case 'reset':
    case 'suspend':
    case 'resume':
      return { action };
    default:
      return `Unrecognized session action <${action}> use: ${actions}`;
  }
}

function parseSet([item, value, unit]: string[]): SessionCommand | string {
  const items = "'mintx', 'minrx', 'multi', 'cpi' or 'admin_up_poll'.";
  switch (item) {
    case undefined:
      return `Must supply item to set: ${items}`;
    case 'mintx':
    case 'minrx': {
      const microseconds = parseInterval(item, value, unit);
      if (typeof microseconds === 'string') return microseconds;
      if (item === 'mintx' && microseconds === 0) return "'set mintx' value can not be 0.";
      return { action: 'set', item, microseconds };
    }
    case 'multi': {
      if (value === undefined) return "Must supply value for 'set multi'.";
      if (!/^[0-9]+$/.test(value)) return "Must supply an non-zero integer value for 'set multi'.";
      const multiplier = Number(value);
      if (multiplier === 0) return "'set multi' value can not be 0.";
      if (multiplier > 255) return "Value for 'set multi is too large..";
      return { action: 'set', item, multiplier };
    }
    case 'cpi':
    case 'admin_up_poll':
      if (value === undefined) return `Must supply 'yes' or 'no' for 'set ${item}'.`;
      if (value === 'yes' || value === 'no') return { action: 'set', item, on: value === 'yes' };
      return `Must supply 'yes' or 'no' for 'set ${item}'. Unknown value <${value}>.`;
    default:
      return `Unrecognized item to set <${item}> use ${items}`;
  }
}

const UNITS: Record<string, { name: string; microseconds: number }> = {
  s: { name: 'seconds', microseconds: 1_000_000 },
  ms: { name: 'milliseconds', microseconds: 1000 },
  us: { name: 'microseconds', microseconds: 1 },
};

function parseInterval(item: string, value: string | undefined, unit: string | undefined): number | string {
  if (value === undefined) return `Must supply value for 'set ${item}'.`;
  if (!/^-?[0-9]+$/.test(value)) {
    return `'set ${item}' value must be an integer followed by time unit : <${value}>.`;
  }
  if (unit === undefined) return `Must supply a unit after the value ${value}: 's', 'ms' or 'us'`;
  const scale = UNITS[unit];
  if (scale === undefined) return `Unknown unit <${unit}>. Use: 's', 'ms' or 'us'`;
  if (value.startsWith('-')) return 'Negative values not allowed';
  const microseconds = Number(value) * scale.microseconds;
  if (microseconds <= 0xffffffff) return microseconds;
  const limit = unit === 'us' ? 'too large.' : 'too large to be converted to microseconds.';
  return `Value <${value}> ${scale.name} is ${limit}`;
}

const STATE_WORDS: Record<string, { state: 'AdminDown' | 'Down' | 'Up'; diagnostic: number }> = {
  up: { state: 'Up', diagnostic: DIAG.none },
  admin: { state: 'AdminDown', diagnostic: DIAG.administrativelyDown },
  down: { state: 'Down', diagnostic: DIAG.pathDown },
};

function parseState([word, diagnostic]: string[]): SessionCommand | string {
  const states = "'up', 'admin', or 'down'.";
  if (word === undefined) return `Must supply state: ${states}`;
  const wanted = STATE_WORDS[word];
  if (wanted === undefined) return `Unrecognized state <${word}> use ${states}`;
  if (diagnostic === undefined) return { action: 'state', ...wanted };
  if (wanted.state === 'Up') return 'State up can not have diagnostic value.';
  if (!/^-?[0-9]+$/.test(diagnostic)) {
    return `Unrecognized diagnostic value. Must be integer <${diagnostic}>.`;
  }
  const value = Number(diagnostic);
  if (value < 0 || value > 31) return 'Diagnostic value. Must be integer between 0 and 31.';
  return { action: 'state', state: wanted.state, diagnostic: value };
}

/** OpenBFDD's log levels, and its types with their descriptions. */
const LOG_LEVELS = ['none', 'minimal', 'normal', 'detailed', 'dev', 'all'] as const;
const LOG_TYPE_TEXT: Record<string, string | undefined> = {
  critical: undefined,
  error: undefined,
  warn: undefined,
  debug: undefined,
  app: 'General application messages',
  app_detail: 'Detailed application messages',
  session: 'Session creation and state change',
  session_detail: 'Detailed session creation and state change',
  discard: 'Packet discards and errors',
  discard_detail: 'Contents of (some) discarded packets',
  packet: 'Detailed packet info',
  packet_contents: 'Log every non-discarded packet',
  command: 'Incoming commands',
  command_detail: 'Detailed info about command processing',
  timer_detail: 'Detailed info about timers and scheduler',
  temp: 'Special temporary developer messages',
};
const LOG_TYPES: readonly string[] = Object.keys(LOG_TYPE_TEXT);

/** The types of messages that are logged at a level. */
export function logTypesOf(level: string): Set<string> {
  switch (level) {
    case 'none':
    case 'minimal':
      return new Set(['critical', 'error', 'warn']);
    case 'normal':
      return new Set(['critical', 'error', 'warn', 'app', 'session', 'command']);
    case 'detailed':
      return new Set(LOG_TYPES.filter((type) => !type.startsWith('packet') && type !== 'temp'));
    default:
      return new Set(LOG_TYPES);
  }
}

function parseLog([what, value, setting]: string[]): Command {
  const types = "'level', 'type' or 'timing'.";
  switch (what) {
    case undefined:
      return failed(`Must specify: ${types}`);
    case 'level':
      if (value === undefined) return failed("Must specify a level name or 'list'.");
      if (value === 'list') {
        return { command: 'answer', text: `Available log levels: ${LOG_LEVELS.join(', ')}` };
      }
      if (!LOG_LEVELS.some((level) => level === value)) return failed(`Unknown level: ${value}.`);
      return { command: 'log level', level: value };
    case 'type': {
      if (value === undefined) return failed("'type' must be followed by 'list' or a log type.");
      if (value === 'list') {
        const lines = LOG_TYPES.map((type) => {
          const text = LOG_TYPE_TEXT[type];
          return text === undefined ? `    ${type}` : `    ${type} - ${text}`;
        });
        return { command: 'answer', text: ['Available log types:', ...lines].join('\n') };
      }
      if (!LOG_TYPES.includes(value)) return failed(`Unknown log type: ${value}.`);
      if (setting !== 'yes' && setting !== 'no') return failed("Must specify 'yes' or 'no'.");
      return { command: 'log type', type: value, on: setting === 'yes' };
    }
    case 'timing':
      if (value !== 'yes' && value !== 'no') return failed("Must specify 'yes' or 'no'.");
      return { command: 'log timing', on: value === 'yes' };
    default:
      return failed(`'log' must be followed by one of ${types.replace(/\.$/, '')}. Unknown <${what}>`);
  }
}

/** The reply to a `session` command. */
export function sessionReply(what: SessionCommand): string {
  switch (what.action) {
    case 'set':
      switch (what.item) {
        case 'mintx':
        case 'minrx':
          return `Attempting to set ${what.item} to ${thousands(what.microseconds)} us.`;
        case 'multi':
          return `Attempting to set multi to ${what.multiplier}.`;
        case 'cpi':
          return `Attempting to set control plane independent (C) bit to ${what.on ? 'yes' : 'no'}.`;
        default:
          return `Attempting to ${what.on ? 'enable' : 'disable'} admin_up_poll workaround.`;
      }
    case 'state': {
      const diagnostic = diagnosticText(what.diagnostic);
      return `Attempting to put session(s) into ${what.state} state with diagnostic <${diagnostic}>.`;
    }
    default:
      return `Attempting to ${what.action} session(s).`;
  }
}

/** The error when no session was found. */
export function noSessionReply(select: Selector): string {
  if (select.by === 'id') return `No session with id=${select.id}.`;
  if (select.by === 'pair') return `No session with local ip=${select.local} and remote ip=${select.remote}.`;
  return "'new' can only be used with 'set'.";
}

export const versionReply = (version: string): string => `bfdd-control v${version}\nbfdd-beacon v${version}`;
export const allowReply = (address: string): string => `Allowing connections from ${address}`;
export const blockReply = (address: string): string =>
  `Blocking connections from ${address}. This will not terminate any ongoing session.`;
export const connectReply = (ok: boolean, local: string, remote: string): string =>
  `${ok ? 'Opened' : 'Failed to open'} connection from local ${local} to remote ${remote}`;

/** A diagnostic code in words. */
export const diagnosticText = (code: number): string => DIAGNOSTICS[code] ?? `Unknown (${code})`;

const thousands = (value: number): string => String(value).replace(/\B(?=(\d{3})+$)/g, ',');

/** A session as `status` shows it; intervals in microseconds, durations in milliseconds. */
export interface SessionView {
  id: number;
  local: string;
  remote: string;
  role: 'passive' | 'active';
  state: SessionStateName;
  diagnostic: number;
  /** Held in its state by a command. */
  forced: boolean;
  suspended: boolean;
  remoteState: SessionStateName;
  remoteDiagnostic: number;
  localDiscriminator: number;
  remoteDiscriminator: number;
  /** How long it was in each state, the current one first. */
  times: readonly { state: SessionStateName; duration: number }[];
  transmitInterval: number;
  detectionTime: number;
  detectMult: number;
  /** In our packets, in force until a Poll ends, and configured. */
  desiredMinTx: { advertised: number; effective: number; configured: number };
  requiredMinRx: { advertised: number; effective: number };
  remoteDetectMult: number;
  remoteDesiredMinTx: number;
  remoteRequiredMinRx: number;
}

/** How many past states `Time=` shows. */
const TIMES = 4;

/** The reply to `status`. `all`: with the count and a heading for each session. */
export function statusReply(sessions: readonly SessionView[], style: StatusStyle, all: boolean): string {
  const blocks = sessions.map((session) => {
    const fields = describe(session, style);
    const text = style.compact ? ` ${fields.join(' ')}` : fields.map((field) => ` ${field}`).join('\n');
    return all ? `Session ${session.id}\n${text}` : text;
  });
  const body = blocks.join(style.compact ? '\n' : '\n\n');
  if (!all) return body;
  const heading = `There are ${sessions.length} sessions:`;
  return sessions.length === 0 ? heading : `${heading}\n${body}`;
}

function describe(s: SessionView, { level, brief }: StatusStyle): string[] {
  const role = brief || level < 2 ? s.role[0] : s.role;
  const fields = [
    `id=${s.id}`,
    level < 1 ? `local=${s.local}` : `local=${s.local} (${role})`,
    `remote=${s.remote}`,
  ];
  if (level < 2) {
    fields.push(`state=${s.state}${s.suspended && level === 1 ? ' <Suspended>' : ''}`);
    return fields;
  }
  const mark = s.suspended ? 'Suspended: ' : s.forced ? 'Forced: ' : '';
  const diagnostic = (code: number) => (brief ? String(code) : diagnosticText(code));
  fields.push(
    `LocalState=${s.state}<${mark}${diagnostic(s.diagnostic)}>`,
    `RemoteState=${s.remoteState}<${diagnostic(s.remoteDiagnostic)}>`,
    `LocalId=${s.localDiscriminator}`,
    `RemoteId=${s.remoteDiscriminator}`,
  );
  if (level < 3) return fields;
  const us = (value: number) => `${brief ? value : thousands(value)} us`;
  const times = s.times.slice(0, level < 4 ? 1 : TIMES);
  fields.push(
    `Time=${times.map(({ state, duration }) => `${state}(${clock(duration)})`).join(' ')}`,
    `CurrentTxInterval=${us(s.transmitInterval)}`,
    `CurrentRxTimeout=${us(s.detectionTime)}`,
  );
  if (level < 4) return fields;
  const tx = s.desiredMinTx;
  const rx = s.requiredMinRx;
  const txNote =
    tx.advertised !== tx.configured
      ? ` (def ${us(tx.configured)})`
      : tx.effective !== tx.advertised
        ? ` (pending ${us(tx.advertised)})`
        : '';
  const rxNote = rx.effective !== rx.advertised ? ` (pending ${us(rx.advertised)})` : '';
  fields.push(
    `LocalDetectMulti=${s.detectMult}`,
    `LocalDesiredMinTx=${us(tx.effective)}${txNote}`,
    `LocalRequiredMinRx=${us(rx.effective)}${rxNote}`,
    `RemoteDetectMulti=${s.remoteDetectMult}`,
    `RemoteDesiredMinTx=${us(s.remoteDesiredMinTx)}`,
    `RemoteRequiredMinRx=${us(s.remoteRequiredMinRx)}`,
  );
  return fields;
}

/** Milliseconds as hh:mm:ss.mmm. */
function clock(milliseconds: number): string {
  const pad = (value: number, digits: number) => String(Math.floor(value)).padStart(digits, '0');
  const hours = pad(milliseconds / 3_600_000, 2);
  const minutes = pad((milliseconds / 60_000) % 60, 2);
  const seconds = pad((milliseconds / 1000) % 60, 2);
  return `${hours}:${minutes}:${seconds}.${pad(milliseconds % 1000, 3)}`;
}
