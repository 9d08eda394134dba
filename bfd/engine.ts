/**
 * The engine: owns the sessions and their sockets, and moves the sessions by `step`.
 *
 * Time is the scheduler's (scheduler.ts), packets come through the transport (transport.ts), and what outlives the
 * process is in the checkpoint (checkpoint.ts). `bfdd-control` acts on the sessions through bfdd-control.ts.
 */
import { systemClock, type Timer } from '../lib/clock.ts';
import { ifNametoindex } from '../lib/libc.ts';
import type { Log } from '../lib/log.ts';
import { randomUint32 } from '../lib/random.ts';
import { sign } from './auth.ts';
import { Checkpoint } from './checkpoint.ts';
import { currentMoment, monotonicMicroseconds } from './clock.ts';
import { DIAG, type DiscardReason } from './constants.ts';
import { type Path, pathKey, select } from './demux.ts';
import { Discards } from './discards.ts';
import type { EarlyListener } from './early-listener.ts';
import { endpointsOf } from './endpoints.ts';
import type { BfdIntent, EngineReport, FamilyReadiness, PeerIntent } from './intent.ts';
import { KeyRing, keyReader } from './keys.ts';
import { LatenessHistogram } from './lateness.ts';
import {
  labelOf,
  type ManagedSession,
  reportOf,
  type SessionDefaults,
  sameNegotiation,
  savedOf,
} from './managed-session.ts';
import { type NextHop, NextHopResolver, nextHopKey } from './next-hop-resolver.ts';
import { decode, encode } from './packet.ts';
import { type Endpoint, STRANGE_LENGTH } from './receive-filter.ts';
import type { SavedSession } from './saved.ts';
import { Scheduler } from './scheduler.ts';
import { SelectiveLog } from './selective-log.ts';
import {
  createSession,
  type Hold,
  peerDetectionTime,
  type SessionAction,
  type SessionConfig,
  type SessionEvent,
  step,
} from './session.ts';
import { NEVER } from './timers.ts';
import { Transport } from './transport.ts';

export interface EngineOptions {
  logger: Log;
  /** The state file for a hitless restart. Without it a restart is a new start. */
  checkpoint?: string;
  /** Called after every change of a session's state. */
  onChange?: (report: EngineReport) => void;
  /** Numbers in [0, 1) for jitter and ports. Discriminators come from the kernel. Default: Math.random. */
  random?: () => number;
  /** Default: 256. */
  maxSessions?: number;
  /** The C bit (6.8.7): the sessions outlive a restart of what programs the forwarding. */
  controlPlaneIndependent?: boolean;
  /** What peers have sent before there were sessions; closed when it is no longer needed. */
  early?: Pick<EarlyListener, 'take' | 'close'>;
  /** The parameters of sessions that `bfdd-control allow` and `connect` create. */
  newSession?: Partial<SessionDefaults>;
}

const NEW_SESSION: SessionDefaults = {
  desiredMinTx: 1_000_000,
  requiredMinRx: 1_000_000,
  detectMult: 3,
  minTTL: 254,
  adoptDiscriminator: true,
};

/** Minimum interval between log lines for send errors of one session, microseconds. */
const SEND_ERROR_LOG_PERIOD = 10_000_000;
/** How often key files are read again and vanished peers are looked for, ms. */
const MAINTENANCE_PERIOD = 1000;
/** A session that `allow` created is removed when its peer was silent for this long, microseconds. */
const FORGET_ALLOWED_AFTER = 15_000_000;
/** The longest time that `stop` gives the peers to see AdminDown, microseconds. */
const LONGEST_STOP = 10_000_000;
/** States that a session's history keeps. */
const MAX_HISTORY = 4;
/** How long packets may come before their session, and how long after the first session others may begin, microseconds. */
const EARLY = { first: 30_000_000, others: 1_000_000 } as const;
/** Pairs of addresses without a session whose counters are kept. */
const MAX_FORMER = 1000;
/**
 * Packets that a session may have sent and not saved when the process ended. More would leave the window of a peer that
 * takes three of its own Detect Mult for it, as BIRD does, after a few restarts.
 */
const UNSAVED_PACKETS = 2;
const KNOCK = Buffer.alloc(0);

type Counters = Pick<ManagedSession, 'packetsIn' | 'packetsOut' | 'transitions'>;

export class Engine {
  /** Lines about sessions, packets and commands, as `bfdd-control log` selects them. */
  readonly log: SelectiveLog;
  readonly #log: Log;
  readonly #options: EngineOptions;
  readonly #random: () => number;
  readonly #transport: Transport;
  readonly #resolver: NextHopResolver;
  readonly #scheduler: Scheduler<ManagedSession>;
  readonly #checkpoint: Checkpoint | undefined;
  readonly #sessions = new Map<number, ManagedSession>();
  readonly #byPath = new Map<string, ManagedSession>();
  readonly #byDiscriminator = new Map<number, ManagedSession>();
  readonly #maintenance: Timer;

  /** The latest intent of each family. */
  #intent: BfdIntent = { peers: [], readiness: {} };
  #gate: FamilyReadiness = { ready: true };
  readonly #newSession: SessionDefaults;
  readonly #allowed = new Set<string>();
  readonly #blocked = new Set<string>();
  /** Configured sessions that were killed while their peer was blocked: their intent then, as JSON, by path. */
  readonly #killed = new Map<string, string>();
  /** The counters of pairs of addresses whose session is gone: a new session continues them. */
  readonly #former = new Map<string, Counters>();
  #lastId = 0;
  #draining = false;
  #stopping = false;
  #closed = false;
  /** When every peer has had the time to see the drain, microseconds. */
  #drainedAt = 0;

  /** When what peers have sent before is no longer needed, microseconds. */
  #earlyUntil = monotonicMicroseconds() + EARLY.first;
  readonly #discards: Discards;
  readonly #lateness = new LatenessHistogram();
  #adopted = 0;

  constructor(options: EngineOptions) {
    this.#options = options;
    this.#log = options.logger;
    this.log = new SelectiveLog(options.logger);
    this.#discards = new Discards(options.logger);
    this.#random = options.random ?? Math.random;
    this.#newSession = { ...NEW_SESSION, ...options.newSession };
    this.#transport = new Transport(
      (payload, from, endpoint) => this.#receive(payload, from, endpoint),
      this.#log,
      this.#random,
    );
    this.#resolver = new NextHopResolver(this.#log, () => this.#listen());
    this.#scheduler = new Scheduler(this.#sessions, (managed, readUntil) =>
      this.#dispatch(managed, { type: 'timer', readUntil }),
    );
    this.#maintenance = systemClock.every(MAINTENANCE_PERIOD, () => this.#maintain());
    if (options.checkpoint !== undefined) {
      this.#checkpoint = new Checkpoint(options.checkpoint, this.#log, () =>
        [...this.#sessions.values()].map(savedOf),
      );
      this.#resume();
    }
  }

  // Configuration ------------------------------------------------------------------------------------------

  /**
   * Applies an intent: parameters of a session that is Up change through Poll Sequences, sessions that are not in it
   * send AdminDown for a Detection Time and are removed. Changes by `bfdd-control` persist until the intent of that
   * session changes. A family without readiness in the intent keeps its sessions, resumed ones included.
   */
  configure(intent: BfdIntent): void {
    const desired = new Map(intent.peers.map((peer) => [pathKey(peer), peer]));
    const isKnown = (address: string) => intent.readiness[familyOf(address)] !== undefined;
    this.#intent = {
      ...intent,
      peers: [...this.#intent.peers.filter(({ local }) => !isKnown(local)), ...intent.peers],
      readiness: { ...this.#intent.readiness, ...intent.readiness },
    };
    for (const managed of this.#byPath.values()) {
      const { origin, local, key } = managed;
      if (origin === 'intent' && isKnown(local) && !desired.has(key)) this.#retire(managed);
    }
    for (const key of this.#killed.keys()) if (isKnown(key) && !desired.has(key)) this.#killed.delete(key);
    const added = [...desired].map(([key, peer]) => this.#configurePeer(key, peer));
    // Before anything is sent: another process may have the address.
    this.#listen();
    for (const managed of added) if (managed !== undefined) this.#begin(managed);
    this.#holdAll();
    for (const managed of added) if (managed !== undefined) this.#receiveEarly(managed);
  }

  /** Applies the intent of one session. Returns it if it is new. */
  #configurePeer(key: string, peer: PeerIntent): ManagedSession | undefined {
    const killed = this.#killed.get(key);
    if (killed === JSON.stringify(peer)) return undefined;
    if (killed !== undefined) this.#unblock(peer.remote);
    const managed = this.#byPath.get(key);
    if (managed === undefined) return this.#hasRoom(peer.remote) ? this.#add(peer, 'intent') : undefined;
    const same = managed.origin === 'intent' && JSON.stringify(managed.intent) === JSON.stringify(peer);
    if (!same) {
      managed.overrides = {};
      managed.forced = undefined;
      this.suspend(managed, false);
      this.#blocked.delete(managed.remote);
    }
    managed.origin = 'intent';
    managed.intent = peer;
    managed.removeAt = NEVER;
    this.#reconfigure(managed);
    return undefined;
  }

  /** Takes precedence over the readiness of every intent: while not ready, no session is Up, resumed ones included. */
  gate(readiness: FamilyReadiness): void {
    this.#gate = readiness;
    this.#holdAll();
  }

  /**
   * Sends AdminDown at once and stays there (6.8.16); discriminators are kept. Unconditional sessions go on until `stop`: the
   * system is reachable while it drains.
   */
  drain(): void {
    if (this.#draining) return;
    this.#draining = true;
    this.#drainedAt = this.#seenAt();
    this.#holdAll();
  }

  undrain(): void {
    this.#draining = false;
    this.#holdAll();
  }

  /** Drains, waits until every peer had the time to see it, and closes. */
  async stop(): Promise<void> {
    if (this.#closed) return;
    this.drain();
    const seenAt = Math.max(
      this.#drainedAt,
      this.#seenAt(({ intent }) => intent.unconditional === true),
    );
    this.#stopping = true;
    this.#holdAll();
    const wait = Math.min(seenAt - monotonicMicroseconds(), LONGEST_STOP);
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait / 1000));
    this.#close();
  }

  /** When the peers of sessions that change now have had the time to see it, microseconds. */
  #seenAt(concerned: (managed: ManagedSession) => boolean = () => true): number {
    let longest = 0;
    for (const managed of this.#sessions.values()) {
      const { session } = managed;
      if (session.remoteDiscr !== 0 && concerned(managed))
        longest = Math.max(longest, peerDetectionTime(session));
    }
    return monotonicMicroseconds() + longest;
  }

  /** Closes at once and sends nothing: for a restart in place that the peers must not notice. */
  abandon(): void {
    this.#close();
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#checkpoint?.close();
    this.#maintenance.cancel();
    this.#scheduler.close();
    this.#transport.close();
    this.#resolver.close();
    this.#options.early?.close();
    for (const managed of this.#sessions.values()) managed.sender.close();
  }

  /** Opens the sockets that the sessions, and peers that may be let in, need. */
  #listen(): void {
    const sessions = [...this.#sessions.values()];
    this.#resolver.watch(sessions.map(nextHopOf).filter((hop) => hop !== undefined));
    const macsOf = (managed: ManagedSession) => {
      const hop = nextHopOf(managed);
      return hop === undefined ? [] : this.#resolver.macsOf(nextHopKey(hop));
    };
    const { listen = [] } = this.#intent;
    this.#transport.listen(endpointsOf(sessions, macsOf, listen, this.#newSession));
  }

  // Sessions -----------------------------------------------------------------------------------------------

  #hasRoom(remote: string): boolean {
    const max = this.#options.maxSessions ?? 256;
    if (this.#sessions.size < max) return true;
    this.#log.warn({ remote, max }, 'too many BFD sessions, ignoring this one');
    return false;
  }

  #add(peer: PeerIntent, origin: ManagedSession['origin'], saved?: SavedSession): ManagedSession {
    const key = pathKey(peer);
    const { local, remote, multihop } = peer;
    const keys = new KeyRing();
    this.#readKey(peer, keys);
    const known = saved ?? this.#checkpoint?.recall(key);
    const inUse = known === undefined || this.#byDiscriminator.has(known.localDiscr);
    const session = createSession(
      this.#config(peer, {}, keys),
      inUse ? this.#newDiscriminator() : known.localDiscr,
      randomUint32(),
    );
    const managed: ManagedSession = {
      id: ++this.#lastId,
      key,
      local,
      remote,
      multihop,
      origin,
      intent: peer,
      overrides: {},
      session,
      sender: this.#transport.sender(peer, known?.port ?? 0),
      keys,
      ...(this.#former.get(`${local} ${remote}`) ?? { packetsIn: 0, packetsOut: 0, transitions: [] }),
      history: [{ state: session.sessionState, since: currentMoment() }],
      forced: undefined,
      removeAt: NEVER,
      sendErrorLogged: -NEVER,
    };
    this.#sessions.set(managed.id, managed);
    this.#byPath.set(key, managed);
    this.#byDiscriminator.set(session.localDiscr, managed);
    return managed;
  }

  /** Starts a new session. */
  #begin(managed: ManagedSession): void {
    this.#dispatch(managed, { type: 'hold', hold: this.#holdOf(managed) });
  }

  /** Hands a new session what its peer has sent before, as far as it would be accepted now. */
  #receiveEarly({ local, remote, multihop, intent: { minTTL, interface: device } }: ManagedSession): void {
    const { early } = this.#options;
    if (early === undefined || multihop) return;
    this.#earlyUntil = Math.min(this.#earlyUntil, monotonicMicroseconds() + EARLY.others);
    const endpoint = { local, multihop, interface: device, minTTL, guard: { remotes: [], macs: [] } };
    const ifindex = device === undefined ? undefined : ifNametoindex(device);
    for (const packet of early.take(local, remote)) {
      const accepted = packet.ttl >= minTTL && (ifindex === undefined || packet.ifindex === ifindex);
      if (accepted) this.#receive(packet.payload, remote, endpoint);
    }
  }

  #newDiscriminator(): number {
    for (;;) {
      const discriminator = randomUint32();
      if (discriminator !== 0 && !this.#byDiscriminator.has(discriminator)) return discriminator;
    }
  }

  #config(intent: PeerIntent, overrides: ManagedSession['overrides'], keys: KeyRing): SessionConfig {
    return {
      role: intent.role,
      desiredMinTx: intent.desiredMinTx,
      requiredMinRx: intent.requiredMinRx,
      detectMult: intent.detectMult,
      controlPlaneIndependent:
        intent.controlPlaneIndependent ?? this.#options.controlPlaneIndependent ?? false,
      adminUpPoll: intent.adminUpPoll ?? true,
      adoptDiscriminator: intent.adoptDiscriminator,
      ...overrides,
      ...(intent.auth === undefined ? {} : { authKeys: keys.keys }),
      ...(intent.demandPollInterval === undefined ? {} : { demandPollInterval: intent.demandPollInterval }),
    };
  }

  #reconfigure(managed: ManagedSession, read = keyReader()): void {
    this.#readKey(managed.intent, managed.keys, read);
    const config = this.#config(managed.intent, managed.overrides, managed.keys);
    const present = managed.session.config;
    const same =
      config.authKeys === present.authKeys &&
      JSON.stringify({ ...config, authKeys: [] }) === JSON.stringify({ ...present, authKeys: [] });
    if (!same) this.#dispatch(managed, { type: 'configure', config });
  }

  #readKey({ auth, remote }: PeerIntent, keys: KeyRing, read = keyReader()): void {
    if (auth === undefined) return;
    const reason = keys.refresh(auth, monotonicMicroseconds(), read);
    if (reason === undefined) return;
    const effect =
      keys.keys.length > 0
        ? 'keeping the previous key'
        : 'no packet is sent or accepted until it is readable';
    this.#log.error({ remote, reason }, `cannot read the BFD authentication key; ${effect}`);
  }

  /** Ends a session: AdminDown for a Detection Time, then it is removed. */
  #retire(managed: ManagedSession): void {
    if (managed.removeAt !== NEVER) return;
    const { session } = managed;
    const heard = session.remoteDiscr !== 0 && session.sessionState !== 'AdminDown';
    managed.removeAt = monotonicMicroseconds() + (heard ? peerDetectionTime(session) : 0);
    this.#applyHold(managed);
    if (!heard) this.#remove(managed);
  }

  #remove(managed: ManagedSession): void {
    const { local, remote, packetsIn, packetsOut, transitions } = managed;
    const pair = `${local} ${remote}`;
    this.#former.delete(pair);
    this.#former.set(pair, { packetsIn, packetsOut, transitions });
    if (this.#former.size > MAX_FORMER) this.#former.delete(this.#former.keys().next().value!);
    managed.sender.close();
    this.#sessions.delete(managed.id);
    this.#byPath.delete(managed.key);
    this.#byDiscriminator.delete(managed.session.localDiscr);
    this.#checkpoint?.changed();
  }

  /** The state that a session is held in, by the strongest reason. */
  #holdOf(managed: ManagedSession): Hold | undefined {
    const draining = this.#draining && !managed.intent.unconditional;
    if (draining || this.#stopping || managed.removeAt !== NEVER) {
      return { state: 'AdminDown', diagnostic: DIAG.administrativelyDown };
    }
    const readiness = this.#readinessOf(managed);
    // AdminDown, not Down: a peer that sees Down may go to Init, and OVN forwards to a next hop in Init.
    if (readiness?.ready === false && !managed.intent.unconditional) {
      return { state: 'AdminDown', diagnostic: readiness.diagnostic };
    }
    return managed.forced;
  }

  #readinessOf({ local }: ManagedSession): FamilyReadiness | undefined {
    return this.#gate.ready ? this.#intent.readiness[familyOf(local)] : this.#gate;
  }

  #applyHold(managed: ManagedSession): void {
    const wanted = this.#holdOf(managed);
    const present = managed.session.hold;
    if (wanted?.state === present?.state && wanted?.diagnostic === present?.diagnostic) return;
    this.#dispatch(managed, { type: 'hold', hold: wanted });
  }

  #holdAll(): void {
    for (const managed of this.#sessions.values()) this.#applyHold(managed);
  }

  #maintain(): void {
    const now = monotonicMicroseconds();
    if (now >= this.#earlyUntil) this.#options.early?.close();
    this.#resolver.retry();
    this.#transport.check(now / 1000);
    const read = keyReader();
    let removed = false;
    for (const managed of this.#sessions.values()) {
      const { session } = managed;
      const forgotten =
        managed.origin === 'allowed' &&
        session.sessionState === 'Down' &&
        session.remoteDiscr === 0 &&
        now - session.lastReceive > FORGET_ALLOWED_AFTER;
      if (managed.removeAt <= now || forgotten) {
        this.#remove(managed);
        removed = true;
      } else if (managed.intent.auth !== undefined) {
        this.#reconfigure(managed, read);
      }
    }
    if (removed) this.#listen();
  }

  // Packets ------------------------------------------------------------------------------------------------

  #receive(payload: Buffer, from: string, endpoint: Endpoint): void {
    if (this.#closed) return;
    this.#scheduler.packetRead();
    if (payload.length === STRANGE_LENGTH && endpoint.guard.remotes.includes(from)) {
      this.#strangeMac(from, endpoint);
      return;
    }
    const packet = decode(payload);
    if (typeof packet === 'string') {
      this.#discards.add(packet, from, endpoint.local);
      return;
    }
    const path = { local: endpoint.local, remote: from, multihop: endpoint.multihop };
    const table = { byDiscriminator: this.#byDiscriminator, byPath: this.#byPath };
    let selection = select(packet, path, table);
    if (selection === 'create') selection = this.#create(path);
    if (typeof selection === 'string') {
      this.#discards.add(selection as DiscardReason, from, endpoint.local);
      return;
    }
    const { session: managed, stale } = selection;
    if (packet.yourDiscriminator === 0 && this.#blocked.has(from) && managed.session.sessionState !== 'Up') {
      this.#discards.add('blocked', from, endpoint.local);
      return;
    }
    const discard = this.#dispatch(managed, { type: 'receive', packet, payload, stale });
    if (discard !== undefined) {
      this.#discards.add(discard, from, endpoint.local);
      return;
    }
    managed.packetsIn++;
    if (this.log.has('packet')) {
      this.log.info('packet', { session: labelOf(managed), packet }, 'packet received');
    }
  }

  /** A packet of a guarded peer from another Ethernet address: an attack, or its next hop has a new one. */
  #strangeMac(from: string, { local, multihop }: Endpoint): void {
    this.#discards.add('wrong-mac', from, local);
    const managed = this.#byPath.get(pathKey({ local, remote: from, multihop }));
    const hop = managed && nextHopOf(managed);
    if (hop === undefined) return;
    const { detectionTime, remoteDetectMult } = managed!.session;
    const interval = detectionTime > 0 ? detectionTime / Math.max(1, remoteDetectMult) / 1000 : undefined;
    this.#resolver.ask(nextHopKey(hop), interval);
  }

  #create(path: Path): { session: ManagedSession; stale: boolean } | DiscardReason {
    if (!this.#allowed.has(path.remote)) return 'no-session';
    if (this.#sessions.size >= (this.#options.maxSessions ?? 256)) return 'too-many-sessions';
    const managed = this.#add({ ...this.#newSession, ...path, role: 'passive' }, 'allowed');
    this.#begin(managed);
    this.log.info('session', { session: labelOf(managed) }, 'session created');
    return { session: managed, stale: false };
  }

  /** Applies one event to a session and performs the actions. Returns why a packet was discarded. */
  #dispatch(managed: ManagedSession, event: SessionEvent): DiscardReason | undefined {
    const now = monotonicMicroseconds();
    const before = managed.session;
    const { session, actions, discard } = step(before, event, now, this.#random);
    managed.session = session;
    if (session.localDiscr !== before.localDiscr) {
      this.#byDiscriminator.delete(before.localDiscr);
      this.#byDiscriminator.set(session.localDiscr, managed);
    }
    if (!sameNegotiation(before, session)) this.#checkpoint?.changed();
    for (const action of actions) this.#perform(managed, action, now);
    this.#scheduler.update(managed.session);
    return discard;
  }

  #perform(managed: ManagedSession, action: SessionAction, now: number): void {
    switch (action.type) {
      case 'send': {
        const bytes = encode(action.packet);
        if (action.key !== undefined) sign(bytes, action.key, action.sequence);
        if (!this.#transmit(managed, bytes, now)) break;
        managed.packetsOut++;
        if (action.due !== undefined) this.#lateness.observe((now - action.due) / 1e6);
        this.#checkpoint?.packetSent({
          id: managed.id,
          xmitAuthSeq: action.sequence,
          rcvAuthSeq: managed.session.rcvAuthSeq,
          lastTransmit: now,
        });
        if (this.log.has('packet')) {
          this.log.info('packet', { session: labelOf(managed), packet: action.packet }, 'packet sent');
        }
        break;
      }
      case 'knock':
        this.#transmit(managed, KNOCK, now);
        break;
      case 'adopt':
        this.#log.info(
          { session: labelOf(managed), from: action.from, to: action.to },
          'adopted the stale discriminator that the peer keeps sending',
        );
        this.#adopted++;
        break;
      case 'notify':
        this.#stateChanged(managed, action);
        break;
      default:
        action satisfies never;
    }
  }

  #transmit(managed: ManagedSession, bytes: Uint8Array, now: number): boolean {
    const error = managed.sender.send(bytes);
    this.#transport.check(now / 1000);
    if (error === undefined) return true;
    if (now - managed.sendErrorLogged > SEND_ERROR_LOG_PERIOD) {
      managed.sendErrorLogged = now;
      this.#log.warn({ session: labelOf(managed), err: error }, 'cannot send to the BFD peer, retrying');
    }
    return false;
  }

  #stateChanged(managed: ManagedSession, action: SessionAction & { type: 'notify' }): void {
    const { event, from, to, diagnostic } = action;
    managed.history.push({ state: to, since: currentMoment() });
    if (managed.history.length > MAX_HISTORY) managed.history.shift();
    const known = managed.transitions.find(
      (t) => t.from === from && t.to === to && t.diagnostic === diagnostic,
    );
    if (known === undefined) managed.transitions.push({ from, to, diagnostic, count: 1 });
    else known.count++;
    const { remoteDiag: remoteDiagnostic } = managed.session;
    const readiness = this.#readinessOf(managed);
    // Why it is held.
    const because =
      to === 'AdminDown' && readiness?.ready === false && diagnostic === readiness.diagnostic
        ? { reason: readiness.reason }
        : {};
    this.log.info(
      'session',
      { session: labelOf(managed), event, from, to, diagnostic, remoteDiagnostic, ...because },
      'BFD session state changed',
    );
    this.#options.onChange?.(this.report());
  }

  report(): EngineReport {
    const now = currentMoment();
    const drops = this.#transport.drops();
    const { counts } = this.#discards;
    const { problems } = this.#transport;
    return {
      sessions: [...this.#sessions.values()].map((managed) => reportOf(managed, now)),
      discards: drops === 0 ? { ...counts } : { ...counts, kernel: drops },
      lateness: this.#lateness.report(),
      draining: this.#draining,
      ...(problems.length > 0 && { problems }),
      adoptedDiscriminators: this.#adopted,
    };
  }

  // For bfdd-control ---------------------------------------------------------------------------------------

  /** The sessions that are not about to be removed. */
  get sessions(): ManagedSession[] {
    return [...this.#sessions.values()].filter(({ removeAt }) => removeAt === NEVER);
  }

  /** Lets a peer create sessions, and brings back those that were killed while it was blocked. */
  allow(remote: string): void {
    this.#allowed.add(remote);
    this.#unblock(remote);
    this.configure(this.#intent);
  }

  /** Discards packets of a peer that would begin a session. */
  block(remote: string): void {
    this.#allowed.delete(remote);
    this.#blocked.add(remote);
  }

  #unblock(remote: string): void {
    this.#blocked.delete(remote);
    for (const [key, intent] of this.#killed) {
      if ((JSON.parse(intent) as PeerIntent).remote === remote) this.#killed.delete(key);
    }
  }

  /** Opens an active session, or makes the one that is there active. False when there are too many. */
  connect(local: string, remote: string): boolean {
    const managed = this.#byPath.get(pathKey({ local, remote, multihop: false }));
    if (managed === undefined) {
      if (!this.#hasRoom(remote)) return false;
      const peer: PeerIntent = { ...this.#newSession, local, remote, multihop: false, role: 'active' };
      const added = this.#add(peer, 'connect');
      this.#listen();
      this.#begin(added);
      return true;
    }
    managed.removeAt = NEVER;
    this.override(managed, { role: 'active' });
    this.#applyHold(managed);
    return true;
  }

  /** Changes the parameters of sessions that `allow` and `connect` create from now on. */
  setDefaults(changes: Partial<SessionDefaults>): void {
    Object.assign(this.#newSession, changes);
  }

  /** Changes parameters of a session until its intent changes. */
  override(managed: ManagedSession, changes: ManagedSession['overrides']): void {
    managed.overrides = { ...managed.overrides, ...changes };
    this.#reconfigure(managed);
  }

  /** Holds a session in a state until its intent changes; undefined: no longer. */
  force(managed: ManagedSession, forced: Hold | undefined): void {
    managed.forced = forced;
    this.#applyHold(managed);
  }

  /** A suspended session sends nothing. */
  suspend(managed: ManagedSession, suspended: boolean): void {
    if (managed.session.suspended !== suspended) this.#dispatch(managed, { type: 'suspend', suspended });
  }

  /** Ends a session. A configured one only begins again, unless its peer is blocked: the next packet would create it. */
  kill(managed: ManagedSession): void {
    const configured = managed.origin === 'intent';
    if (configured && !this.#blocked.has(managed.remote)) {
      this.reset(managed);
      return;
    }
    if (configured) this.#killed.set(managed.key, JSON.stringify(managed.intent));
    this.#retire(managed);
  }

  /** Begins the session again under the next id. */
  reset(managed: ManagedSession): void {
    this.#sessions.delete(managed.id);
    managed.id = ++this.#lastId;
    this.#sessions.set(managed.id, managed);
    managed.forced = undefined;
    managed.overrides = {};
    this.#dispatch(managed, { type: 'reset' });
    this.suspend(managed, false);
    this.#reconfigure(managed);
    this.#applyHold(managed);
  }

  // Checkpoint ---------------------------------------------------------------------------------------------

  /** Resumes the sessions that were Up when the previous process ended, before any policy has been read. */
  #resume(): void {
    const now = monotonicMicroseconds();
    const resumed: ManagedSession[] = [];
    for (const saved of this.#checkpoint?.resumable(now) ?? []) {
      if (!this.#hasRoom(saved.intent.remote)) break;
      const managed = this.#add(saved.intent, saved.origin, saved);
      Object.assign(managed.session, saved.session, {
        lastReceive: now,
        // At once: the peer may be about to time out.
        transmitAt: now,
        xmitAuthSeq: (saved.xmitAuthSeq + UNSAVED_PACKETS) >>> 0,
        rcvAuthSeq: saved.rcvAuthSeq,
        // What the peer has sent since was not heard (RFC 5880, 6.8.1).
        authSeqKnown:
          saved.session?.authSeqKnown === true && now < saved.lastTransmit + 2 * saved.session.detectionTime,
      });
      managed.history = [{ state: managed.session.sessionState, since: currentMoment() }];
      const awayMs = Math.round((now - saved.lastTransmit) / 1000);
      this.#log.info({ session: labelOf(managed), awayMs }, 'BFD session resumed');
      resumed.push(managed);
    }
    this.#listen();
    for (const managed of resumed) this.#dispatch(managed, { type: 'timer', readUntil: 0 });
  }
}

/** The family of an address, or of a path's key. */
const familyOf = (address: string): 4 | 6 => (address.includes(':') ? 6 : 4);

/** The next hop whose Ethernet address a session's packets must have. */
function nextHopOf({ local, intent: { via, interface: device } }: ManagedSession): NextHop | undefined {
  return via && device ? { interface: device, local, gateway: via.gateway, mac: via.mac } : undefined;
}
