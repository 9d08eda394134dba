/** Reads a transcript (transcripts/README.md), runs it through `session.step`, and writes down what happened. */
import { type AuthKey, sectionLength, sign } from '../../bfd/auth.ts';
import { AUTH_TYPES, STATES } from '../../bfd/constants.ts';
import { encode, type Packet } from '../../bfd/packet.ts';
import {
  createSession,
  type Hold,
  nextDeadline,
  type Session,
  type SessionAction,
  type SessionConfig,
  type SessionEvent,
  step,
} from '../../bfd/session.ts';

import { CONFIG, LOCAL, PEER } from './simulation.ts';

/** An event of the conversation, and its time in ms. */
interface Input {
  at: number;
  words: string[];
}

export interface Transcript {
  config: SessionConfig;
  inputs: Input[];
  /** The lines that the session has to produce, in order. */
  expected: string[];
}

const FIRST_SEQUENCE = 1000;
/** The signs of lines that the session produces: packets, states, discards, knocks, adopted discriminators. */
const OUTPUT = new Set(['>', '=', '!', 'knock', 'adopt']);

/** The lines of a transcript. Throws for one that cannot be read. */
export function parseTranscript(text: string): Transcript {
  let config = CONFIG;
  const inputs: Input[] = [];
  const expected: string[] = [];
  for (const line of text.split('\n')) {
    const words = line.replace(/#.*/, '').trim().split(/\s+/);
    const [first = '', sign = ''] = words;
    if (first === '') continue;
    if (first === 'config') {
      config = configure(config, words.slice(1));
      continue;
    }
    const at = Number(first);
    if (Number.isNaN(at)) throw new Error(`a line begins with a time in ms, or config: ${line}`);
    if (OUTPUT.has(sign)) expected.push(words.join(' '));
    else inputs.push({ at, words: words.slice(1) });
  }
  return { config, inputs, expected };
}

/** A session tells its keys apart by identity, as a key ring keeps them. */
const keys = new Map<string, AuthKey>();

/** `TYPE:ID:SECRET`. */
function parseKey(text: string): AuthKey {
  const cached = keys.get(text);
  if (cached !== undefined) return cached;
  const [type, id, secret = ''] = text.split(':');
  const known = AUTH_TYPES.find((name) => name === type);
  if (known === undefined) throw new Error(`not an authentication type: ${type}`);
  const key = { type: known, id: Number(id), secret: Buffer.from(secret) };
  keys.set(text, key);
  return key;
}

function configure(before: SessionConfig, words: string[]): SessionConfig {
  const config = { ...before };
  for (const word of words) {
    const [name, value = ''] = word.split('=');
    if (name === 'role') config.role = value as SessionConfig['role'];
    else if (name === 'tx') config.desiredMinTx = Number(value) * 1000;
    else if (name === 'rx') config.requiredMinRx = Number(value) * 1000;
    else if (name === 'mult') config.detectMult = Number(value);
    else if (name === 'adopt') config.adoptDiscriminator = value === 'yes';
    else if (name === 'admin-up-poll') config.adminUpPoll = value === 'yes';
    else if (name === 'demand') config.demandPollInterval = Number(value) * 1000;
    else if (name === 'keys') config.authKeys = value.split(',').filter(Boolean).map(parseKey);
    else throw new Error(`unknown parameter: ${word}`);
  }
  return config;
}

const FLAGS = {
  P: 'poll',
  F: 'final',
  C: 'controlPlaneIndependent',
  D: 'demand',
} as const satisfies Record<string, keyof Packet>;

/** A packet of the peer: what the words do not name is as in its previous packet, except the flags. */
function parsePacket(before: Packet, [state = '', ...words]: string[]) {
  const [, name, diagnostic] = /^(\w+)(?:\((\d+)\))?$/.exec(state) ?? [];
  const known = STATES.find((candidate) => candidate === name);
  if (known === undefined) throw new Error(`not a state: ${state}`);
  const packet: Packet = {
    ...before,
    ...{ state: known, diagnostic: Number(diagnostic ?? 0) },
    ...{ poll: false, final: false, controlPlaneIndependent: false, demand: false },
  };
  let key: AuthKey | undefined;
  let sequence = 0;
  let stale = false;
  for (const word of words) {
    const [name = '', value = ''] = word.split('=');
    if (name in FLAGS) packet[FLAGS[name as keyof typeof FLAGS]] = true;
    else if (name === 'stale') stale = true;
    else if (name === 'my') packet.myDiscriminator = Number.parseInt(value, 16);
    else if (name === 'your') packet.yourDiscriminator = Number.parseInt(value, 16);
    else if (name === 'tx') packet.desiredMinTx = Number(value) * 1000;
    else if (name === 'rx') packet.requiredMinRx = Number(value) * 1000;
    else if (/^x\d+$/.test(name)) packet.detectMult = Number(name.slice(1));
    else if (name === 'key') key = parseKey(value);
    else if (name === 'seq') sequence = Number(value);
    else throw new Error(`unknown field of a packet: ${word}`);
  }
  packet.authenticationPresent = key !== undefined;
  packet.length = 24 + (key === undefined ? 0 : sectionLength(key));
  const octets = encode(packet);
  return { packet, stale, payload: key === undefined ? octets : sign(octets, key, sequence) };
}

function packetText(p: Packet, key: AuthKey | undefined, sequence: number): string {
  const flags = Object.entries(FLAGS).flatMap(([letter, name]) => (p[name] ? [letter] : []));
  return [
    p.diagnostic === 0 ? p.state : `${p.state}(${p.diagnostic})`,
    `my=${p.myDiscriminator.toString(16)}`,
    `your=${p.yourDiscriminator.toString(16)}`,
    `tx=${p.desiredMinTx / 1000}`,
    `rx=${p.requiredMinRx / 1000}`,
    `x${p.detectMult}`,
    ...flags,
    ...(key === undefined ? [] : [`key=${key.type}:${key.id}:${Buffer.from(key.secret)}`, `seq=${sequence}`]),
  ].join(' ');
}

function actionText(action: SessionAction): string {
  switch (action.type) {
    case 'send':
      return `> ${packetText(action.packet, action.key, action.sequence)}`;
    case 'notify':
      return `= ${action.from} → ${action.to} (${action.diagnostic}) ${action.event}`;
    case 'adopt':
      return `adopt ${action.to.toString(16)}`;
    case 'knock':
      return 'knock';
    default:
      return action satisfies never;
  }
}

/** Runs a conversation and returns the lines that the session produced. Throws for an event that is unknown. */
export function runTranscript({ config, inputs }: Transcript): string[] {
  const lines: string[] = [];
  // Not 0: a session must not depend on where its clock begins.
  const start = 10_000_000;
  let now = start;
  let session: Session = createSession(config, LOCAL, FIRST_SEQUENCE);
  let peer = PEER;
  const apply = (event: SessionEvent) => {
    const result = step(session, event, now, () => 0);
    session = result.session;
    const texts = result.actions.map(actionText);
    if (result.discard !== undefined) texts.push(`! ${result.discard}`);
    lines.push(...texts.map((text) => `${(now - start) / 1000} ${text}`));
  };
  const pass = (end: number) => {
    for (let at = nextDeadline(session); at <= end; at = nextDeadline(session)) {
      now = Math.max(now, at);
      apply({ type: 'timer', readUntil: now });
    }
    now = end;
  };
  for (const { at, words } of inputs) {
    const [verb = '', ...rest] = words;
    const end = start + at * 1000;
    if (end < now) throw new Error(`times go forward: ${at} ${words.join(' ')}`);
    pass(end);
    switch (verb) {
      case '<': {
        const received = parsePacket(peer, rest);
        peer = received.packet;
        apply({ type: 'receive', ...received });
        break;
      }
      case 'config':
        apply({ type: 'configure', config: configure(session.config, rest) });
        break;
      case 'hold': {
        const [state, diagnostic] = rest;
        apply({ type: 'hold', hold: { state: state as Hold['state'], diagnostic: Number(diagnostic) } });
        break;
      }
      case 'release':
        apply({ type: 'hold', hold: undefined });
        break;
      case 'suspend':
      case 'resume':
        apply({ type: 'suspend', suspended: verb === 'suspend' });
        break;
      case 'reset':
        apply({ type: 'reset' });
        break;
      case 'end':
        break;
      default:
        throw new Error(`unknown event: ${at} ${words.join(' ')}`);
    }
  }
  return lines;
}
