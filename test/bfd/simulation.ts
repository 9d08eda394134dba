/** A session on simulated time: packets in, and everything that it does as lines of a transcript. */
import { type AuthKey, sectionLength, sign } from '../../bfd/auth.ts';
import type { DiscardReason } from '../../bfd/constants.ts';
import { encode, type Packet } from '../../bfd/packet.ts';
import {
  createSession,
  nextDeadline,
  type Session,
  type SessionAction,
  type SessionConfig,
  type SessionEvent,
  step,
} from '../../bfd/session.ts';

export const LOCAL = 0x11;
export const REMOTE = 0x99;

export const CONFIG: SessionConfig = {
  role: 'passive',
  desiredMinTx: 100_000,
  requiredMinRx: 100_000,
  detectMult: 5,
  controlPlaneIndependent: false,
  adminUpPoll: true,
  adoptDiscriminator: true,
};

/** What the peer says unless told otherwise: an Up OVN at 100 ms × 5. */
export const PEER: Packet = {
  diagnostic: 0,
  state: 'Up',
  poll: false,
  final: false,
  controlPlaneIndependent: false,
  authenticationPresent: false,
  demand: false,
  detectMult: 5,
  length: 24,
  myDiscriminator: REMOTE,
  yourDiscriminator: LOCAL,
  desiredMinTx: 100_000,
  requiredMinRx: 100_000,
  requiredMinEchoRx: 0,
};

export class Simulation {
  session: Session;
  /** Microseconds. */
  now = 10_000_000;
  readonly #start = this.now;
  /** Everything since the last `take`. */
  #lines: string[] = [];
  readonly sent: { at: number; packet: Packet }[] = [];
  readonly actions: SessionAction[] = [];
  /** When it knocked; knocks are not in the transcript. */
  knocks: number[] = [];
  /** Discards of `receive`, the last one. */
  discard: DiscardReason | undefined;
  random: () => number = () => 0;

  constructor(config: Partial<SessionConfig> = {}) {
    this.session = createSession({ ...CONFIG, ...config }, LOCAL, 1000);
    this.event({ type: 'hold', hold: undefined });
  }

  /** Milliseconds since the start. */
  get ms(): number {
    return (this.now - this.#start) / 1000;
  }

  event(event: SessionEvent): void {
    const { session, actions, discard } = step(this.session, event, this.now, this.random);
    this.session = session;
    this.discard = discard;
    for (const action of actions) {
      if (action.type === 'knock') {
        this.knocks.push(this.ms);
        continue;
      }
      this.actions.push(action);
      if (action.type === 'send') this.sent.push({ at: this.ms, packet: action.packet });
      this.#lines.push(`${this.ms} ${describe(action)}`);
    }
  }

  /** A packet from the peer. Returns why it was discarded. */
  receive(changes: Partial<Packet> = {}, stale = false): DiscardReason | undefined {
    const packet = { ...PEER, ...changes };
    this.event({ type: 'receive', packet, payload: encode(packet), stale });
    return this.discard;
  }

  /** A packet from the peer, signed. Returns why it was discarded. */
  receiveSigned(key: AuthKey, sequence: number, changes: Partial<Packet> = {}): DiscardReason | undefined {
    const length = 24 + sectionLength(key);
    const packet = { ...PEER, authenticationPresent: true, length, ...changes };
    this.event({ type: 'receive', packet, payload: sign(encode(packet), key, sequence), stale: false });
    return this.discard;
  }

  /** Lets time pass, running the timers on the way. */
  pass(milliseconds: number): void {
    const end = this.now + milliseconds * 1000;
    for (let at = nextDeadline(this.session); at <= end; at = nextDeadline(this.session)) {
      this.now = Math.max(this.now, at);
      this.event({ type: 'timer', readUntil: this.now });
    }
    this.now = end;
  }

  /** Lets time pass while the peer sends every `interval` milliseconds. */
  passWithPeer(milliseconds: number, interval = 100, changes: Partial<Packet> = {}): void {
    for (let passed = 0; passed < milliseconds; passed += interval) {
      this.pass(Math.min(interval, milliseconds - passed));
      this.receive(changes);
    }
  }

  configure(changes: Partial<SessionConfig>): void {
    this.event({ type: 'configure', config: { ...this.session.config, ...changes } });
  }

  /** Brings the session Up by the passive way, and ends the Poll Sequence that this begins. */
  bringUp(changes: Partial<Packet> = {}): void {
    this.receive({ state: 'Down', yourDiscriminator: 0, ...changes });
    this.receive({ state: 'Up', ...changes });
    this.receive({ final: true, ...changes });
    this.take();
  }

  /** The transcript since the last call. */
  take(): string[] {
    const lines = this.#lines;
    this.#lines = [];
    return lines;
  }
}

/** `send Up my=11 your=99 tx=100 rx=100 x5 P`, `Init → Up (0) received Up`. */
function describe(action: Exclude<SessionAction, { type: 'knock' }>): string {
  switch (action.type) {
    case 'send': {
      const { packet: p } = action;
      const flags = [p.poll && 'P', p.final && 'F', p.demand && 'D'].filter(Boolean).join(' ');
      const diagnostic = p.diagnostic === 0 ? '' : `(${p.diagnostic})`;
      const my = p.myDiscriminator.toString(16);
      const your = p.yourDiscriminator.toString(16);
      const intervals = `tx=${p.desiredMinTx / 1000} rx=${p.requiredMinRx / 1000} x${p.detectMult}`;
      return `send ${p.state}${diagnostic} my=${my} your=${your} ${intervals} ${flags}`.trimEnd();
    }
    case 'adopt':
      return `adopt ${action.to.toString(16)}`;
    case 'notify':
      return `${action.from} → ${action.to} (${action.diagnostic}) ${action.event}`;
    default:
      return action satisfies never;
  }
}
