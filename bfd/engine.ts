/**
 * The engine: owns sessions, sockets, clock and randomness, and moves the sessions by `step`.
 *
 * One timer serves all sessions. What is due to be sent is sent when it rings. An expiry is approached by a timer
 * that comes early and then waited for precisely with setImmediate, which comes after the poll phase of the event
 * loop: a session expires only if it was due before the sockets were read, so that a pause of the process does not
 * end a session whose packets have arrived meanwhile.
 */
import { randomInt } from 'node:crypto';
import type { Log } from '../lib/log.ts';
import type { Moment } from '../lib/moment.ts';
import { sign } from './auth.ts';
import { Checkpoint } from './checkpoint.ts';
import { DIAG, type DiscardReason } from './constants.ts';
import {
  allowReply,
  blockReply,
  type Command,
  connectReply,
  logTypesOf,
  noSessionReply,
  parse,
  type Selector,
  type SessionCommand,
  sessionReply,
  statusReply,
  versionReply,
} from './control-text.ts';
import { type Path, pathKey, select } from './demux.ts';
import {
  type Entry,
  nameOf,
  reportOf,
  type SessionDefaults,
  sameNegotiation,
  savedOf,
  viewOf,
} from './entry.ts';
import type { BfdIntent, EngineReport, FamilyReadiness, PeerIntent } from './intent.ts';
import { KeyRing, keyReader } from './keys.ts';
import { type NextHop, NextHopResolver, nextHopKey } from './next-hop-resolver.ts';
import { decode, encode } from './packet.ts';
import type { SavedSession } from './saved.ts';
import {
  createSession,
  type Hold,
  nextDeadline,
  peerDetectionTime,
  type Session,
  type SessionAction,
  type SessionConfig,
  type SessionEvent,
  step,
} from './session.ts';
import { NEVER } from './timers.ts';
import { type Endpoint, STRANGE_LENGTH, Transport } from './transport.ts';

export interface EngineOptions {
  logger: Log;
  /** What `bfdd-control version` prints. */
  version: string;
  /** The state file for a hitless restart. Without it a restart is a new start. */
  checkpoint?: string;
  /** Called after every change of a session's state. */
  onChange?: (report: EngineReport) => void;
  /** Called for `bfdd-control stop`. */
  onStop?: () => void;
  /** Numbers in [0, 1) for jitter and ports. Discriminators come from node:crypto. */
  random?: () => number;
  /** 256 unless told. */
  maxSessions?: number;
  /** The C bit (6.8.7): the sessions outlive a restart of what programs the forwarding. */
  controlPlaneIndependent?: boolean;
  /** What sessions are made of that `bfdd-control allow` and `connect` bring about. */
  newSession?: Partial<SessionDefaults>;
}

const NEW_SESSION: SessionDefaults = {
  desiredMinTx: 1_000_000,
  requiredMinRx: 1_000_000,
  detectMult: 3,
  minTTL: 254,
  adoptDiscriminator: true,
};

/** Upper bounds of the transmit lateness histogram, seconds. */
const LATENESS_BOUNDS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1];
/** A discard of the same reason is logged so often, ms. */
const DISCARD_LOG_PERIOD = 10_000;
/** A send error of the same session is logged so often, ms. */
const SEND_ERROR_LOG_PERIOD = 10_000;
/** How often key files, hold-downs and vanished peers are looked at, ms. */
const MAINTENANCE_PERIOD = 1000;
/** A session that nobody configured is dropped when its peer was silent for so long, microseconds. */
const FORGET_ALLOWED_AFTER = 15_000_000;
/** `stop` waits no longer than this for the peers to learn of it, microseconds. */
const LONGEST_STOP = 10_000_000;
/** How long before an expiry the precise waiting begins, microseconds. */
const PRECISE = 2000;
/** libuv reads so many packets of a socket in one iteration; as many may mean that there are more. */
const READ_BATCH = 32;
/** So many full iterations of reading are taken for all: sessions expire under a flood, too. */
const LONGEST_BACKLOG = 32;
/** setTimeout takes no more, ms. */
const LONGEST_TIMEOUT = 3_600_000;
/** So many pairs of addresses without a session are remembered. */
const MAX_PAST = 1000;
const KNOCK = Buffer.alloc(0);

/** The monotonic clock that the kernel's timers use, in microseconds: comparable across a restart. */
const ORIGIN = Number(process.hrtime.bigint() / 1000n) - performance.now() * 1000;
const clock = (): number => performance.now() * 1000 + ORIGIN;
/** Now, by both clocks. */
const moment = (): Moment => ({ wall: Date.now(), monotonic: performance.now() });

export class Engine {
  readonly #log: Log;
  readonly #options: EngineOptions;
  readonly #random: () => number;
  readonly #transport: Transport;
  readonly #nextHops: NextHopResolver;
  readonly #checkpoint: Checkpoint | undefined;
  readonly #entries = new Map<number, Entry>();
  readonly #byPath = new Map<string, Entry>();
  readonly #byDiscriminator = new Map<number, Entry>();
  readonly #maintenance: NodeJS.Timeout;

  /** The last that was said of each family. */
  #intent: BfdIntent = { peers: [], readiness: {} };
  #gate: FamilyReadiness = { ready: true };
  #newSession: SessionDefaults;
  readonly #allowed = new Set<string>();
  readonly #blocked = new Set<string>();
  /** Sessions of the intent that were killed while their peer was blocked, by path; as the intent had them. */
  readonly #killed = new Map<string, string>();
  /** What was counted of pairs of addresses whose session is gone: it goes on when there is one again. */
  readonly #past = new Map<string, Pick<Entry, 'packetsIn' | 'packetsOut' | 'transitions'>>();
  #lastId = 0;
  #draining = false;
  #closed = false;
  /** When, on the monotonic clock, every peer has had the time to learn of the drain. */
  #drainedAt = 0;

  #wakeAt = NEVER;
  /** Inside `#ring`. */
  #running = false;
  #timer: NodeJS.Timeout | undefined;
  #immediate: NodeJS.Immediate | undefined;
  #lastRun = 0;
  #readSinceRun = 0;
  #backlog = 0;
  /** Packets that arrived until then have been read, microseconds. */
  #readUntil = 0;

  readonly #discards: Record<string, number> = {};
  readonly #discardLogged = new Map<string, { at: number; count: number }>();
  readonly #lateness = { buckets: LATENESS_BOUNDS.map(() => 0), count: 0, sum: 0 };
  #adopted = 0;
  #logTypes = logTypesOf('normal');
  #logTiming = false;

  constructor(options: EngineOptions) {
    this.#options = options;
    this.#log = options.logger;
    this.#random = options.random ?? Math.random;
    this.#newSession = { ...NEW_SESSION, ...options.newSession };
    this.#transport = new Transport(
      (payload, from, endpoint) => this.#receive(payload, from, endpoint),
      this.#log,
      this.#random,
    );
    this.#nextHops = new NextHopResolver(this.#log, () => this.#listen());
    this.#maintenance = setInterval(() => this.#maintain(), MAINTENANCE_PERIOD);
    if (options.checkpoint !== undefined) {
      this.#checkpoint = new Checkpoint(options.checkpoint, this.#log, () =>
        [...this.#entries.values()].map(savedOf),
      );
      this.#resume();
    }
  }

  // Configuration ------------------------------------------------------------------------------------------

  /**
   * Makes the sessions those of the intent, live: parameters of a session that is Up change through Poll
   * Sequences, sessions that are no longer wanted say AdminDown for a Detection Time and go. What
   * `bfdd-control` changed stays until the intent of that session differs from the one before. A family that the
   * intent says nothing of stays as it was, with sessions that were resumed.
   */
  configure(intent: BfdIntent): void {
    const wanted = new Map(intent.peers.map((peer) => [pathKey(peer), peer]));
    const isTold = (address: string) => intent.readiness[familyOf(address)] !== undefined;
    this.#intent = {
      ...intent,
      peers: [...this.#intent.peers.filter(({ local }) => !isTold(local)), ...intent.peers],
      readiness: { ...this.#intent.readiness, ...intent.readiness },
    };
    for (const entry of this.#byPath.values()) {
      if (entry.origin === 'intent' && isTold(entry.local) && !wanted.has(entry.key)) this.#leave(entry);
    }
    for (const key of this.#killed.keys()) if (isTold(key) && !wanted.has(key)) this.#killed.delete(key);
    for (const [key, peer] of wanted) {
      const killed = this.#killed.get(key);
      if (killed === JSON.stringify(peer)) continue;
      if (killed !== undefined) this.#revive(peer.remote);
      const entry = this.#byPath.get(key);
      if (entry === undefined) {
        if (this.#hasRoom(peer.remote)) this.#begin(this.#add(peer, 'intent'));
        continue;
      }
      const same = entry.origin === 'intent' && JSON.stringify(entry.intent) === JSON.stringify(peer);
      if (!same) {
        entry.overrides = {};
        entry.forced = undefined;
        if (entry.session.suspended) this.#dispatch(entry, { type: 'suspend', suspended: false });
        this.#blocked.delete(entry.remote);
      }
      entry.origin = 'intent';
      entry.intent = peer;
      entry.leavingUntil = NEVER;
      this.#reconfigure(entry);
    }
    this.#holdAll();
    this.#listen();
  }

  /** What stands above the readiness of every intent: while it is not ready, no session is Up, a resumed one neither. */
  gate(readiness: FamilyReadiness): void {
    this.#gate = readiness;
    this.#holdAll();
  }

  /** Every session says AdminDown at once and stays there (6.8.16); discriminators are kept. */
  drain(): void {
    if (this.#draining) return;
    this.#draining = true;
    const now = clock();
    let longest = 0;
    for (const { session } of this.#entries.values()) {
      if (session.remoteDiscr !== 0) longest = Math.max(longest, peerDetectionTime(session));
    }
    this.#drainedAt = now + longest;
    this.#holdAll();
  }

  undrain(): void {
    this.#draining = false;
    this.#holdAll();
  }

  /** Drains, waits until every peer had the time to learn of it, and closes. */
  async stop(): Promise<void> {
    if (this.#closed) return;
    this.drain();
    const wait = Math.min(this.#drainedAt - clock(), LONGEST_STOP);
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait / 1000));
    this.#close();
  }

  /** Closes at once and says nothing: for a restart in place that the peers must not notice. */
  abandon(): void {
    this.#close();
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#checkpoint?.close();
    clearInterval(this.#maintenance);
    clearTimeout(this.#timer);
    clearImmediate(this.#immediate);
    this.#transport.close();
    this.#nextHops.close();
    for (const entry of this.#entries.values()) entry.sender.close();
  }

  /** The sockets that the sessions, and addresses that peers may come to, need. */
  #listen(): void {
    const endpoints = new Map<string, Endpoint>();
    const add = (local: string, multihop: boolean, minTTL: number, device: string | undefined) => {
      const key = `${local} ${multihop}`;
      const known = endpoints.get(key);
      endpoints.set(key, {
        local,
        multihop,
        minTTL: Math.min(minTTL, known?.minTTL ?? 255),
        interface: multihop ? undefined : (device ?? known?.interface),
        guard: known?.guard ?? { remotes: [], macs: [] },
      });
      return endpoints.get(key)!;
    };
    const entries = [...this.#entries.values()];
    this.#nextHops.watch(entries.map(nextHopOf).filter((hop) => hop !== undefined));
    for (const entry of entries) {
      const endpoint = add(entry.local, entry.multihop, entry.intent.minTTL, entry.intent.interface);
      const hop = nextHopOf(entry);
      const known = hop === undefined ? [] : this.#nextHops.macsOf(nextHopKey(hop));
      if (known.length === 0) continue;
      const { remotes, macs } = endpoint.guard;
      endpoint.guard = { remotes: [...remotes, entry.remote], macs: [...new Set([...macs, ...known])] };
    }
    const { minTTL, interface: device } = this.#newSession;
    for (const local of this.#intent.listen ?? []) add(local, false, minTTL, device);
    this.#transport.listen([...endpoints.values()]);
  }

  #hasRoom(remote: string): boolean {
    const max = this.#options.maxSessions ?? 256;
    if (this.#entries.size < max) return true;
    this.#log.warn({ remote, max }, 'too many sessions; this one is left out');
    return false;
  }

  #add(peer: PeerIntent, origin: Entry['origin'], saved?: SavedSession): Entry {
    const key = pathKey(peer);
    const { local, remote, multihop } = peer;
    const keys = new KeyRing();
    this.#readKey(peer, keys);
    const known = saved ?? this.#checkpoint?.recall(key);
    const taken = known === undefined || this.#byDiscriminator.has(known.localDiscr);
    const config = this.#config(peer, {}, keys);
    const session = createSession(
      config,
      taken ? this.#newDiscriminator() : known.localDiscr,
      randomInt(2 ** 32),
    );
    const entry: Entry = {
      id: ++this.#lastId,
      key,
      local,
      remote,
      multihop,
      origin,
      intent: peer,
      overrides: {},
      session,
      sender: this.#transport.sender(local, remote, multihop, known?.port ?? 0),
      keys,
      ...(this.#past.get(`${local} ${remote}`) ?? { packetsIn: 0, packetsOut: 0, transitions: [] }),
      history: [{ state: session.sessionState, since: moment() }],
      forced: undefined,
      flaps: [],
      heldDownUntil: 0,
      leavingUntil: NEVER,
      sendErrorLogged: -NEVER,
    };
    this.#entries.set(entry.id, entry);
    this.#byPath.set(key, entry);
    this.#byDiscriminator.set(session.localDiscr, entry);
    return entry;
  }

  /** Sets a new session going. */
  #begin(entry: Entry): void {
    this.#dispatch(entry, { type: 'hold', hold: this.#holdOf(entry) });
  }

  #newDiscriminator(): number {
    for (;;) {
      const discriminator = randomInt(1, 2 ** 32);
      if (!this.#byDiscriminator.has(discriminator)) return discriminator;
    }
  }

  #config(intent: PeerIntent, overrides: Entry['overrides'], keys: KeyRing): SessionConfig {
    return {
      role: intent.role,
      desiredMinTx: intent.desiredMinTx,
      requiredMinRx: intent.requiredMinRx,
      detectMult: intent.detectMult,
      controlPlaneIndependent: this.#options.controlPlaneIndependent ?? false,
      adoptDiscriminator: intent.adoptDiscriminator,
      ...overrides,
      ...(intent.auth === undefined ? {} : { authKeys: keys.keys }),
      ...(intent.demandPollInterval === undefined ? {} : { demandPollInterval: intent.demandPollInterval }),
    };
  }

  #reconfigure(entry: Entry, read = keyReader()): void {
    this.#readKey(entry.intent, entry.keys, read);
    const config = this.#config(entry.intent, entry.overrides, entry.keys);
    const present = entry.session.config;
    const same =
      config.authKeys === present.authKeys &&
      JSON.stringify({ ...config, authKeys: [] }) === JSON.stringify({ ...present, authKeys: [] });
    if (!same) this.#dispatch(entry, { type: 'configure', config });
  }

  #readKey({ auth, remote }: PeerIntent, keys: KeyRing, read = keyReader()): void {
    if (auth === undefined) return;
    const error = keys.refresh(auth, clock(), read);
    if (error !== undefined) {
      const effect =
        keys.keys.length > 0 ? 'the former key stays' : 'nothing is sent or accepted until it can';
      this.#log.error({ remote, error }, `cannot read the BFD authentication key; ${effect}`);
    }
  }

  /** Ends a session: AdminDown for a Detection Time, then it is forgotten. */
  #leave(entry: Entry): void {
    if (entry.leavingUntil !== NEVER) return;
    const { session } = entry;
    const heard = session.remoteDiscr !== 0 && session.sessionState !== 'AdminDown';
    entry.leavingUntil = clock() + (heard ? peerDetectionTime(session) : 0);
    this.#applyHold(entry);
    if (!heard) this.#remove(entry);
  }

  #remove(entry: Entry): void {
    const { local, remote, packetsIn, packetsOut, transitions } = entry;
    const pair = `${local} ${remote}`;
    this.#past.delete(pair);
    this.#past.set(pair, { packetsIn, packetsOut, transitions });
    if (this.#past.size > MAX_PAST) this.#past.delete(this.#past.keys().next().value!);
    entry.sender.close();
    this.#entries.delete(entry.id);
    this.#byPath.delete(entry.key);
    this.#byDiscriminator.delete(entry.session.localDiscr);
    this.#checkpoint?.changed();
  }

  // Holds --------------------------------------------------------------------------------------------------

  /** Why the session is kept from the protocol's course, the strongest reason first. */
  #holdOf(entry: Entry): Hold | undefined {
    if (this.#draining || entry.leavingUntil !== NEVER) {
      return { state: 'AdminDown', diagnostic: DIAG.administrativelyDown };
    }
    const readiness = this.#gate.ready ? this.#intent.readiness[familyOf(entry.local)] : this.#gate;
    // AdminDown, not Down: a peer that sees Down may go to Init, and OVN forwards to a next hop in Init.
    if (readiness?.ready === false) return { state: 'AdminDown', diagnostic: readiness.diagnostic };
    if (entry.forced !== undefined) return entry.forced;
    if (performance.now() < entry.heldDownUntil) {
      return { state: 'AdminDown', diagnostic: DIAG.administrativelyDown };
    }
    return undefined;
  }

  #applyHold(entry: Entry): void {
    const wanted = this.#holdOf(entry);
    const present = entry.session.hold;
    if (wanted?.state === present?.state && wanted?.diagnostic === present?.diagnostic) return;
    this.#dispatch(entry, { type: 'hold', hold: wanted });
  }

  #holdAll(): void {
    for (const entry of this.#entries.values()) this.#applyHold(entry);
  }

  /** Counts a session that left Up towards its hold-down (6.8.18). */
  #countFlap(entry: Entry): void {
    const rule = entry.intent.holdDown;
    if (rule === undefined) return;
    const now = performance.now();
    entry.flaps = entry.flaps.filter((at) => now - at < rule.within);
    entry.flaps.push(now);
    if (entry.flaps.length < rule.flaps) return;
    entry.flaps = [];
    entry.heldDownUntil = now + rule.hold;
    this.#log.warn({ session: nameOf(entry), ms: rule.hold }, 'the session flaps; held down');
    this.#applyHold(entry);
  }

  #maintain(): void {
    const now = clock();
    this.#nextHops.retry();
    const read = keyReader();
    let removed = false;
    for (const entry of this.#entries.values()) {
      const { session } = entry;
      const forgotten =
        entry.origin === 'allowed' &&
        session.sessionState === 'Down' &&
        session.remoteDiscr === 0 &&
        now - session.lastReceive > FORGET_ALLOWED_AFTER;
      if (entry.leavingUntil <= now || forgotten) {
        this.#remove(entry);
        removed = true;
        continue;
      }
      if (entry.intent.auth !== undefined) this.#reconfigure(entry, read);
      this.#applyHold(entry);
    }
    if (removed) this.#listen();
  }

  // Packets ------------------------------------------------------------------------------------------------

  #receive(payload: Buffer, from: string, endpoint: Endpoint): void {
    if (this.#closed) return;
    this.#readSinceRun++;
    if (payload.length === STRANGE_LENGTH && endpoint.guard.remotes.includes(from)) {
      this.#stranger(from, endpoint);
      return;
    }
    const packet = decode(payload);
    if (typeof packet === 'string') {
      this.#discard(packet, from, endpoint.local);
      return;
    }
    const path = { local: endpoint.local, remote: from, multihop: endpoint.multihop };
    const table = { byDiscriminator: this.#byDiscriminator, byPath: this.#byPath };
    let selection = select(packet, path, table);
    if (selection === 'create') selection = this.#create(path);
    if (typeof selection === 'string') {
      this.#discard(selection as DiscardReason, from, endpoint.local);
      return;
    }
    const { session: entry, stale } = selection;
    if (packet.yourDiscriminator === 0 && this.#blocked.has(from) && entry.session.sessionState !== 'Up') {
      this.#discard('blocked', from, endpoint.local);
      return;
    }
    const discard = this.#dispatch(entry, { type: 'receive', packet, payload, stale });
    if (discard !== undefined) {
      this.#discard(discard, from, endpoint.local);
      return;
    }
    entry.packetsIn++;
    if (this.#logTypes.has('packet'))
      this.#say('packet', { session: nameOf(entry), packet }, 'packet received');
  }

  /** A packet of a guarded peer from a strange Ethernet address: an attack, or its next hop has another now. */
  #stranger(from: string, { local, multihop }: Endpoint): void {
    this.#discard('wrong-mac', from, local);
    const entry = this.#byPath.get(pathKey({ local, remote: from, multihop }));
    const hop = entry && nextHopOf(entry);
    if (hop === undefined) return;
    const { detectionTime, remoteDetectMult } = entry!.session;
    const interval = detectionTime > 0 ? detectionTime / Math.max(1, remoteDetectMult) / 1000 : undefined;
    this.#nextHops.ask(nextHopKey(hop), interval);
  }

  #create(path: Path): { session: Entry; stale: boolean } | DiscardReason {
    if (!this.#allowed.has(path.remote)) return 'no-session';
    if (this.#entries.size >= (this.#options.maxSessions ?? 256)) return 'too-many-sessions';
    const entry = this.#add({ ...this.#newSession, ...path, role: 'passive' }, 'allowed');
    this.#begin(entry);
    this.#say('session', { session: nameOf(entry) }, 'session created');
    return { session: entry, stale: false };
  }

  #discard(reason: DiscardReason, from: string, local: string): void {
    this.#discards[reason] = (this.#discards[reason] ?? 0) + 1;
    if (reason === 'empty' || reason === 'local-admin-down') return;
    const now = performance.now();
    const logged = this.#discardLogged.get(reason);
    if (logged !== undefined && now - logged.at < DISCARD_LOG_PERIOD) return;
    const count = this.#discards[reason];
    const more = count - (logged?.count ?? 0);
    this.#discardLogged.set(reason, { at: now, count });
    this.#log.warn({ reason, from, local, count: more }, 'discarded BFD packets');
  }

  /** Moves one session and does what follows. Returns why a packet was discarded. */
  #dispatch(entry: Entry, event: SessionEvent): DiscardReason | undefined {
    const now = clock();
    const before = entry.session;
    const { session, actions, discard } = step(before, event, now, this.#random);
    entry.session = session;
    if (session.localDiscr !== before.localDiscr) {
      this.#byDiscriminator.delete(before.localDiscr);
      this.#byDiscriminator.set(session.localDiscr, entry);
    }
    if (!sameNegotiation(before, session)) this.#checkpoint?.changed();
    for (const action of actions) this.#act(entry, action, now);
    const wake = wakeOf(entry.session);
    // A lone session that has heard its peer need not be woken to see that it is not overdue.
    if (this.#entries.size === 1 && !this.#running && wake > this.#wakeAt) this.#wakeAt = NEVER;
    this.#arm(wake);
    return discard;
  }

  #act(entry: Entry, action: SessionAction, now: number): void {
    switch (action.type) {
      case 'send': {
        const bytes = encode(action.packet);
        if (action.key !== undefined) sign(bytes, action.key, action.sequence);
        if (!this.#transmit(entry, bytes)) break;
        entry.packetsOut++;
        if (action.due !== undefined) this.#observeLateness((now - action.due) / 1e6);
        this.#checkpoint?.beat({
          id: entry.id,
          xmitAuthSeq: action.sequence,
          rcvAuthSeq: entry.session.rcvAuthSeq,
          lastTransmit: now,
        });
        if (this.#logTypes.has('packet')) {
          this.#say('packet', { session: nameOf(entry), packet: action.packet }, 'packet sent');
        }
        break;
      }
      case 'knock':
        this.#transmit(entry, KNOCK);
        break;
      case 'adopt':
        this.#log.info(
          { session: nameOf(entry), from: action.from, to: action.to },
          'the peer keeps sending an earlier discriminator of this address; it is ours now',
        );
        this.#adopted++;
        break;
      case 'notify':
        this.#changed(entry, action);
        break;
      default:
        action satisfies never;
    }
  }

  #transmit(entry: Entry, bytes: Uint8Array): boolean {
    const error = entry.sender.send(bytes);
    if (error === undefined) return true;
    const now = performance.now();
    if (now - entry.sendErrorLogged > SEND_ERROR_LOG_PERIOD) {
      entry.sendErrorLogged = now;
      this.#log.warn({ session: nameOf(entry), err: error }, 'cannot send to the BFD peer; trying on');
    }
    return false;
  }

  #changed(entry: Entry, { event, from, to, diagnostic }: SessionAction & { type: 'notify' }): void {
    entry.history.push({ state: to, since: moment() });
    if (entry.history.length > 4) entry.history.shift();
    const known = entry.transitions.find(
      (t) => t.from === from && t.to === to && t.diagnostic === diagnostic,
    );
    if (known === undefined) entry.transitions.push({ from, to, diagnostic, count: 1 });
    else known.count++;
    this.#say(
      'session',
      { session: nameOf(entry), event, from, to, diagnostic, remoteDiagnostic: entry.session.remoteDiag },
      'BFD session state changed',
    );
    if (from === 'Up') this.#countFlap(entry);
    this.#options.onChange?.(this.report());
  }

  #observeLateness(seconds: number): void {
    const { buckets } = this.#lateness;
    this.#lateness.count++;
    this.#lateness.sum += seconds;
    for (let i = LATENESS_BOUNDS.length - 1; i >= 0 && seconds <= LATENESS_BOUNDS[i]!; i--) buckets[i]!++;
  }

  #say(type: string, fields: object, message: string): void {
    if (!this.#logTypes.has(type)) return;
    this.#log.info(this.#logTiming ? { ...fields, monotonicUs: Math.round(clock()) } : fields, message);
  }

  // Timers -------------------------------------------------------------------------------------------------

  /** Makes sure that `#ring` comes at `at`. */
  #arm(at: number): void {
    if (at >= this.#wakeAt || this.#running || this.#closed) return;
    this.#wakeAt = at;
    clearTimeout(this.#timer);
    const wait = Math.ceil((at - clock()) / 1000);
    if (wait <= 0) this.#soon();
    else this.#timer = setTimeout(this.#ring, Math.min(wait, LONGEST_TIMEOUT));
  }

  /** After the sockets were read. */
  #soon(): void {
    clearImmediate(this.#immediate);
    this.#immediate = setImmediate(this.#afterReading);
  }

  readonly #afterReading = (): void => {
    // The sockets were read since the last time, to their end unless a batch was full.
    const all = this.#readSinceRun < READ_BATCH || this.#backlog === LONGEST_BACKLOG;
    this.#backlog = all ? 0 : this.#backlog + 1;
    if (all) this.#readUntil = this.#lastRun;
    this.#readSinceRun = 0;
    this.#lastRun = clock();
    this.#ring();
  };

  /** Does what is due, and arms the timer for what comes next. */
  readonly #ring = (): void => {
    const now = clock();
    // Armed once, at the end.
    this.#running = true;
    let wake = NEVER;
    let precise = false;
    for (const entry of this.#entries.values()) {
      if (nextDeadline(entry.session) <= now) {
        this.#dispatch(entry, { type: 'timer', readUntil: this.#readUntil });
      }
      if (entry.session.detectAt - now < PRECISE) precise = true;
      wake = Math.min(wake, wakeOf(entry.session));
    }
    this.#running = false;
    this.#wakeAt = NEVER;
    if (precise) this.#soon();
    else this.#arm(wake);
  };

  // Reports ------------------------------------------------------------------------------------------------

  report(): EngineReport {
    const now = moment();
    const drops = this.#transport.drops();
    return {
      sessions: [...this.#entries.values()].map((entry) => reportOf(entry, now)),
      discards: drops === 0 ? { ...this.#discards } : { ...this.#discards, kernel: drops },
      lateness: { bounds: LATENESS_BOUNDS, ...this.#lateness, buckets: [...this.#lateness.buckets] },
      draining: this.#draining,
      adoptedDiscriminators: this.#adopted,
    };
  }

  // bfdd-control -------------------------------------------------------------------------------------------

  /** Carries out a `bfdd-control` command. `ok: false`: the words are no command, or it could not be done. */
  command(words: readonly string[]): { ok: boolean; text: string } {
    const command = parse(words);
    // Probes ask for the status each second.
    if (command.command !== 'status') this.#say('command', { words }, 'bfdd-control');
    return this.#execute(command);
  }

  #execute(command: Command): { ok: boolean; text: string } {
    const done = (text: string) => ({ ok: true, text });
    switch (command.command) {
      case 'answer':
        return done(command.text);
      case 'error':
        return { ok: false, text: command.text };
      case 'version':
        return done(versionReply(this.#options.version));
      case 'status': {
        const found = this.#find(command.select);
        if (found.length === 0 && command.select.by !== 'all') {
          return { ok: false, text: noSessionReply(command.select) };
        }
        return done(
          statusReply(
            found.map((entry) => viewOf(entry, moment())),
            command.style,
            command.select.by === 'all',
          ),
        );
      }
      case 'allow':
        this.#allowed.add(command.address);
        this.#revive(command.address);
        this.configure(this.#intent);
        return done(allowReply(command.address));
      case 'block':
        this.#allowed.delete(command.address);
        this.#blocked.add(command.address);
        return done(blockReply(command.address));
      case 'connect':
        return this.#connect(command.local, command.remote);
      case 'session':
        return this.#sessionCommand(command.select, command.what);
      case 'log level':
        this.#logTypes = logTypesOf(command.level);
        return done(`Log level set to ${command.level}.`);
      case 'log type': {
        const was = this.#logTypes.has(command.type);
        if (command.on) this.#logTypes.add(command.type);
        else this.#logTypes.delete(command.type);
        return done(
          `Log type ${command.type} set to ${command.on ? 'yes' : 'no'}, was ${was ? 'yes' : 'no'}`,
        );
      }
      case 'log timing':
        this.#logTiming = command.on;
        return done(`Extended time logging ${command.on ? 'enabled' : 'disabled'}.`);
      case 'load':
        // Files are read aside (script.ts), and their commands come here one by one.
        return { ok: false, text: `Failed to load ${command.file}: this process reads no files` };
      case 'stop':
        this.#options.onStop?.();
        return done('stopping');
      default:
        return command satisfies never;
    }
  }

  #find(by: Selector): Entry[] {
    const shown = [...this.#entries.values()].filter((entry) => entry.leavingUntil === NEVER);
    switch (by.by) {
      case 'all':
        return shown;
      case 'id':
        return shown.filter((entry) => entry.id === by.id);
      case 'pair':
        return shown.filter((entry) => entry.local === by.local && entry.remote === by.remote);
      default:
        return [];
    }
  }

  #connect(local: string, remote: string): { ok: boolean; text: string } {
    const entry = this.#byPath.get(pathKey({ local, remote, multihop: false }));
    const unspecified = local === '0.0.0.0' || local === '::';
    if (unspecified || (entry === undefined && !this.#hasRoom(remote))) {
      return { ok: false, text: connectReply(false, local, remote) };
    }
    if (entry !== undefined) {
      entry.overrides.role = 'active';
      entry.leavingUntil = NEVER;
      this.#reconfigure(entry);
      this.#applyHold(entry);
    } else {
      this.#begin(
        this.#add({ ...this.#newSession, local, remote, multihop: false, role: 'active' }, 'connect'),
      );
      this.#listen();
    }
    return { ok: true, text: connectReply(true, local, remote) };
  }

  #sessionCommand(by: Selector, what: SessionCommand): { ok: boolean; text: string } {
    const text = sessionReply(what);
    if (by.by === 'new' && what.action === 'set') {
      Object.assign(this.#newSession, newSessionChange(what));
      return { ok: true, text };
    }
    const found = this.#find(by);
    if (found.length === 0 && by.by !== 'all') return { ok: false, text: `${text}\n${noSessionReply(by)}` };
    for (const entry of found) this.#change(entry, what);
    return { ok: true, text };
  }

  #change(entry: Entry, what: SessionCommand): void {
    switch (what.action) {
      case 'set':
        entry.overrides = { ...entry.overrides, ...newSessionChange(what) };
        if (what.item === 'cpi') entry.overrides.controlPlaneIndependent = what.on;
        this.#reconfigure(entry);
        break;
      case 'state':
        entry.forced =
          what.state === 'Up' ? undefined : { state: what.state as 'Down', diagnostic: what.diagnostic };
        this.#applyHold(entry);
        break;
      case 'suspend':
      case 'resume':
        this.#dispatch(entry, { type: 'suspend', suspended: what.action === 'suspend' });
        break;
      case 'kill':
        // A peer that is not blocked would have its session again with its next packet.
        if (entry.origin === 'intent' && !this.#blocked.has(entry.remote)) {
          this.#reset(entry);
          break;
        }
        if (entry.origin === 'intent') this.#killed.set(entry.key, JSON.stringify(entry.intent));
        this.#leave(entry);
        break;
      case 'reset':
        this.#reset(entry);
        break;
      default:
        what satisfies never;
    }
  }

  /** A peer is no longer blocked, and may have the sessions that were killed. */
  #revive(remote: string): void {
    this.#blocked.delete(remote);
    for (const [key, intent] of this.#killed) {
      if ((JSON.parse(intent) as PeerIntent).remote === remote) this.#killed.delete(key);
    }
  }

  /** Begins the session anew under the next id. */
  #reset(entry: Entry): void {
    this.#entries.delete(entry.id);
    entry.id = ++this.#lastId;
    this.#entries.set(entry.id, entry);
    entry.forced = undefined;
    entry.overrides = {};
    this.#dispatch(entry, { type: 'reset' });
    this.#dispatch(entry, { type: 'suspend', suspended: false });
    this.#reconfigure(entry);
    this.#applyHold(entry);
  }

  // Checkpoint ---------------------------------------------------------------------------------------------

  /** Takes up the sessions that were Up a moment ago, before any policy has been read. */
  #resume(): void {
    const now = clock();
    for (const saved of this.#checkpoint?.resumable(now) ?? []) {
      if (!this.#hasRoom(saved.intent.remote)) break;
      const entry = this.#add(saved.intent, saved.origin, saved);
      Object.assign(entry.session, saved.session, {
        lastReceive: now,
        // At once: the peer may be about to give up.
        transmitAt: now,
        // Some packets may have followed the last beat; the peer's window has room for them.
        xmitAuthSeq: (saved.xmitAuthSeq + entry.session.config.detectMult) >>> 0,
        rcvAuthSeq: saved.rcvAuthSeq,
      });
      entry.history = [{ state: entry.session.sessionState, since: moment() }];
      const awayMs = Math.round((now - saved.lastTransmit) / 1000);
      this.#log.info({ session: nameOf(entry), awayMs }, 'BFD session resumed');
      this.#dispatch(entry, { type: 'timer', readUntil: 0 });
    }
    this.#listen();
  }
}

/** The family of an address, or of a path's key. */
const familyOf = (address: string): 4 | 6 => (address.includes(':') ? 6 : 4);

/** When the timer has to ring for a session: at its next deadline, or a little before it expires. */
const wakeOf = (session: Session): number => Math.min(nextDeadline(session), session.detectAt - PRECISE / 2);

/** The next hop whose Ethernet address a session's packets must have. */
function nextHopOf({ local, intent: { via, interface: device } }: Entry): NextHop | undefined {
  return via && device ? { interface: device, local, gateway: via.gateway, mac: via.mac } : undefined;
}

/** What `set` changes of a session's parameters. */
function newSessionChange(what: SessionCommand & { action: 'set' }): Partial<SessionDefaults> {
  switch (what.item) {
    case 'mintx':
      return { desiredMinTx: what.microseconds };
    case 'minrx':
      return { requiredMinRx: what.microseconds };
    case 'multi':
      return { detectMult: what.multiplier };
    default:
      return {};
  }
}
