/**
 * The exchange of one family: connections to the other members, and the core's actions carried out. It runs in a
 * thread of its own with the kernel side (docs/design/0009-group.md).
 *
 * Of two members the lower address connects, the higher listens. Who listens accepts connections from the addresses of
 * lower members only, on the internal address and interface only; connections without `hello` are few and
 * short-lived.
 */
import { randomInt } from 'node:crypto';
import { createServer, type Server, type Socket } from 'node:net';
import type { TLSSocket, Server as TlsServer } from 'node:tls';
import { ConnectionSlots } from '../../lib/connection-slots.ts';
import * as libc from '../../lib/libc.ts';
import {
  AF_INET,
  AF_INET6,
  IPV6_V6ONLY,
  SO_REUSEADDR,
  SOCK_STREAM,
  SOL_IPV6,
  SOL_SOCKET,
} from '../../lib/linux.ts';
import type { Log } from '../../lib/log.ts';
import { LogOnChange } from '../../lib/log-on-change.ts';
import { type Address, addressNumber, parseAddress } from '../../lib/prefix.ts';
import { type Hello, type Message, VERSION } from './codec.ts';
import { Connection } from './connection.ts';
import { type GroupAction, type GroupEvent, type GroupState, startGroup, step, viewGroup } from './core.ts';
import { type ExchangeCounts, LAG_BOUNDS } from './counts.ts';
import type { CredentialFiles, Credentials } from './credentials.ts';
import { type LookupAnswer, Lookups, type MemberAnswer } from './lookups.ts';
import type { FlowKernel, GroupConfig, GroupReport, GroupView } from './model.ts';
import { SLICES } from './slices.ts';
import { handshakeReason, identityOf, refusedClient, secureConnect, secureServer } from './tls.ts';

/** How often time passes for the core, ms. */
const TICK = 100;
/** How often files are read again, and a listener that failed is tried again, ms. */
const REFRESH = 1000;
/** Between two attempts to connect to a member: the first wait, and the longest, ms. */
const RETRY = { first: 100, longest: 2000 };
/** Connections before `hello`: all, and those of one member. */
const SLOTS = { total: 2 * SLICES, perClient: 2, octets: 0, readTimeout: 0 };
/** Connections that the kernel holds until they are accepted. */
const BACKLOG = 64;

export interface ExchangeOptions {
  config: GroupConfig;
  port: number;
  /** The internal interface; what comes by another one is not for us. */
  interface?: string;
  credentials: Credentials;
  /** A former process of this network namespace was live until shortly before: nothing has to be taken over first. */
  resumes?: boolean;
  /** Flows in its table; default 65 536. */
  capacity?: number;
  kernel: FlowKernel;
  log: Log;
  report(report: GroupReport): void;
  /** Answers a lookup of another member. */
  answer(query: string): Promise<LookupAnswer>;
}

/** Our attempts to connect to a higher member. */
interface Dial {
  wait: number;
  due: number;
  /** Which of our keys is next. */
  attempt: number;
  socket?: TLSSocket;
}

const precedes = (a: Address, b: Address): boolean => addressNumber(a) < addressNumber(b);

const endOf = ({ remotePort, remoteAddress }: Socket): string => `${remotePort} ${remoteAddress}`;

export class Exchange {
  readonly #options: ExchangeOptions;
  readonly #log: Log;
  readonly #failures = new LogOnChange();
  /** Names this process to the others. */
  readonly #instance = randomInt(1, 2 ** 32 - 1);
  readonly #startedAt = performance.now();
  readonly #counts: ExchangeCounts = {
    sent: 0,
    received: 0,
    rejected: {},
    lag: { buckets: Array<number>(LAG_BOUNDS.length + 1).fill(0), sum: 0 },
  };
  readonly #lookups: Lookups;
  /** Accepted connections before `hello`, by the other end's port and address. */
  readonly #pending = new Map<string, Socket>();
  readonly #slots = new ConnectionSlots<Socket>(SLOTS);
  readonly #connections = new Map<Address, Connection>();
  /** Before `hello`. */
  readonly #opening = new Set<Connection>();
  /** Those that BFD is Up with, members or not. */
  readonly #paths = new Set<Address>();
  readonly #dials = new Map<Address, Dial>();
  readonly #ticker: NodeJS.Timeout;
  #config: GroupConfig;
  #state: GroupState;
  #events: GroupEvent[] = [];
  #stepping = false;
  #server: Server | undefined;
  #tls: TlsServer | undefined;
  #refreshDue = 0;
  /** Why the credentials cannot be read, and why it cannot listen. */
  readonly #problems: { credentials?: string; listen?: string } = {};
  #closed = false;

  constructor(options: ExchangeOptions) {
    this.#options = options;
    this.#log = options.log;
    this.#config = options.config;
    const { resumes = false, capacity } = options;
    this.#state = startGroup(options.config, performance.now(), {
      resumes,
      ...(capacity !== undefined && { capacity }),
    });
    this.#lookups = new Lookups({
      send: (member, message) => this.#connections.get(member)?.send(message),
      answer: options.answer,
    });
    options.kernel.start((events) => this.#step({ type: 'flows', events }));
    this.#ticker = setInterval(() => this.#tick(), TICK);
    this.#tick();
  }

  get view(): GroupView {
    return viewGroup(this.#state);
  }

  get counts(): ExchangeCounts {
    return structuredClone(this.#counts);
  }

  /** Another list of members, other addresses, other files; `self` and the port stay. */
  configure(config: GroupConfig, files: CredentialFiles): void {
    this.#config = config;
    this.#options.credentials.use(files);
    for (const [member, connection] of this.#connections) {
      if (!config.members.includes(member)) connection.end();
    }
    this.#options.kernel.configure(config.shared);
    this.#step({ type: 'configure', config });
    for (const member of this.#paths) this.#step({ type: 'path', member, up: true });
  }

  /** BFD with a member is Up, or not. */
  setPath(member: Address, up: boolean): void {
    if (up) this.#paths.add(member);
    else this.#paths.delete(member);
    this.#step({ type: 'path', member, up });
  }

  /** Hands addresses and flows over to the others within this many ms; `handed-over` reports the end. */
  drain(limit: number): void {
    this.#step({ type: 'drain', limit });
  }

  undrain(): void {
    this.#step({ type: 'undrain' });
  }

  /** Asks all connected members. Throws `RangeError` for a query that is too long. */
  lookup(query: string, timeout: number): Promise<MemberAnswer[]> {
    return this.#lookups.ask([...this.#connections.keys()], query, timeout);
  }

  /** Announces that this member leaves, and closes everything. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#step({ type: 'leave' });
    this.#closed = true;
    clearInterval(this.#ticker);
    this.#server?.close();
    for (const { socket } of this.#dials.values()) socket?.destroy();
    for (const connection of this.#opening) connection.end();
    const ends = [...this.#connections.values()].map(
      ({ socket }) =>
        new Promise<void>((resolve) => {
          socket.once('close', () => resolve());
          socket.end();
          setTimeout(() => socket.destroy(), RETRY.longest).unref();
        }),
    );
    await Promise.all(ends);
    this.#options.kernel.close();
  }

  #step(event: GroupEvent): void {
    this.#events.push(event);
    // The kernel side may report while it carries out a change.
    if (this.#stepping || this.#closed) return;
    this.#stepping = true;
    try {
      for (let next = this.#events.shift(); next !== undefined; next = this.#events.shift()) {
        const { state, actions } = step(this.#state, next, performance.now());
        this.#state = state;
        for (const action of actions) this.#act(action);
      }
    } finally {
      this.#stepping = false;
    }
  }

  #act(action: GroupAction): void {
    const { family } = this.#config;
    switch (action.type) {
      case 'send':
        this.#connections.get(action.member)?.send(action.message);
        break;
      case 'kernel':
        for (const [reason, count] of Object.entries(this.#options.kernel.apply(action.changes))) {
          this.#reject(`kernel_${reason}`, count);
        }
        break;
      case 'settle':
        this.#options.kernel.settle(action.slots);
        break;
      case 'view':
        this.#options.report({ type: 'view', view: action.view });
        break;
      case 'announce':
        this.#options.report({ type: 'announce', family, address: action.address });
        break;
      case 'handed-over':
        this.#options.report({ type: 'handed-over', family, complete: action.complete });
        break;
      case 'holder':
        this.#log.info(
          { address: action.address, from: action.from, to: action.to, reason: action.reason },
          'group holder changed',
        );
        break;
      case 'adopted':
        this.#log.info({ member: action.member, flows: action.flows }, 'group flows adopted');
        break;
      case 'lag':
        this.#observeLag(action.lag, action.flows);
        break;
      case 'traffic':
        this.#counts.sent += action.sent;
        this.#counts.received += action.received;
        break;
      case 'rejected':
        this.#reject(action.reason, action.count);
        break;
      default:
        action satisfies never;
    }
  }

  #observeLag(lag: number, flows: number): void {
    const bucket = LAG_BOUNDS.findIndex((bound) => lag <= bound);
    this.#counts.lag.buckets[bucket < 0 ? LAG_BOUNDS.length : bucket]! += flows;
    this.#counts.lag.sum += lag * flows;
  }

  #reject(reason: string, count = 1): void {
    this.#counts.rejected[reason] = (this.#counts.rejected[reason] ?? 0) + count;
  }

  #tick(): void {
    const now = performance.now();
    if (now >= this.#refreshDue) {
      this.#refreshDue = now + REFRESH;
      this.#refresh(now);
    }
    for (const connection of [...this.#connections.values(), ...this.#opening]) connection.check(now);
    this.#dialDue(now);
    this.#step({ type: 'tick' });
  }

  /** Reads the credentials again, ends connections whose key is no longer accepted, and listens if it does not. */
  #refresh(now: number): void {
    const { credentials } = this.#options;
    const { changed, problem } = credentials.refresh(now);
    this.#noteCredentials(problem);
    if (changed) {
      this.#log.info({}, 'credentials of the group changed');
      this.#useCredentials();
      for (const connection of this.#connections.values()) {
        if (!credentials.identities.includes(connection.identity)) connection.end('former_key');
      }
    }
    if (this.#server === undefined && this.#tls !== undefined) this.#listen();
  }

  #noteCredentials(problem: string | undefined): void {
    if (problem === undefined) {
      this.#failures.ended('credentials');
      this.#setProblem('credentials', undefined);
      return;
    }
    if (this.#failures.isNew(problem, 'credentials')) {
      this.#log.error({ reason: problem }, 'cannot read the credentials of the group');
    }
    const isUsed = this.#options.credentials.identities.length > 0;
    const rest = isUsed ? '; what was read before stays in use' : '';
    this.#setProblem('credentials', `cannot read the credentials of the group: ${problem}${rest}`);
  }

  /** Puts what is wrong here into the view. */
  #setProblem(of: 'credentials' | 'listen', text: string | undefined): void {
    if (text === undefined) delete this.#problems[of];
    else this.#problems[of] = text;
    const problem = Object.values(this.#problems).join('; ') || undefined;
    if (problem !== this.#state.problem) this.#step({ type: 'problem', problem });
  }

  #useCredentials(): void {
    const tls = secureServer(this.#options.credentials);
    tls.on('secureConnection', (socket: TLSSocket) => this.#accepted(socket));
    tls.on('tlsClientError', (error: NodeJS.ErrnoException, socket: TLSSocket) => {
      this.#refuse(parseAddress(socket.remoteAddress ?? ''), handshakeReason(error));
      socket.destroy();
    });
    this.#tls = tls;
  }

  /** Counts a connection that was refused, and logs the first of a kind. */
  #refuse(member: Address | undefined, reason: string): void {
    this.#reject(reason);
    if (member === undefined || !this.#config.members.includes(member)) return;
    if (this.#failures.isNew(reason, `from ${member}`)) {
      this.#log.warn({ member, reason }, 'connection of a group member refused');
    }
  }

  #listen(): void {
    const { self, family } = this.#config;
    const { port, interface: device } = this.#options;
    let fd: number | undefined;
    try {
      fd = libc.socket(family === 4 ? AF_INET : AF_INET6, SOCK_STREAM, 0);
      libc.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, 1);
      if (family === 6) libc.setsockopt(fd, SOL_IPV6, IPV6_V6ONLY, 1);
      if (device !== undefined) libc.bindToDevice(fd, device);
      libc.bind(fd, libc.sockaddr(self, port));
    } catch (error) {
      if (fd !== undefined) libc.close(fd);
      this.#cannotListen(error as Error);
      return;
    }
    const server = createServer({ noDelay: true }, (socket) => this.#accept(socket));
    server.on('error', (error) => {
      this.#server = undefined;
      this.#cannotListen(error);
    });
    server.once('listening', () => {
      if (this.#failures.ended('listen')) this.#log.info({}, 'listening for group members');
      this.#setProblem('listen', undefined);
    });
    server.listen({ fd }, BACKLOG);
    this.#server = server;
  }

  #cannotListen(error: Error): void {
    const { self } = this.#config;
    const { port } = this.#options;
    if (this.#failures.isNew(error.message, 'listen')) {
      this.#log.error({ err: error, address: self, port }, 'cannot listen for group members, retrying');
    }
    this.#setProblem('listen', `cannot listen for group members on ${self} port ${port}: ${error.message}`);
  }

  #accept(socket: Socket): void {
    const member = parseAddress(socket.remoteAddress ?? '');
    socket.on('error', () => {});
    const { self, members } = this.#config;
    if (member === undefined || !members.includes(member) || !precedes(member, self)) {
      const isMember = member !== undefined && members.includes(member);
      this.#refuse(member, isMember ? 'wrong_direction' : 'not_a_member');
      socket.resetAndDestroy();
      return;
    }
    this.#pending.set(endOf(socket), socket);
    socket.once('close', () => this.#release(socket));
    for (const evicted of this.#slots.add(socket, member, false, performance.now())) {
      this.#reject('too_many');
      evicted.resetAndDestroy();
    }
    this.#tls!.emit('connection', socket);
  }

  /** An accepted connection has ended, or is established: it takes no slot any more. */
  #release(socket: Socket): void {
    this.#slots.remove(socket);
    for (const [end, pending] of this.#pending) if (pending === socket) this.#pending.delete(end);
  }

  #accepted(socket: TLSSocket): void {
    const member = parseAddress(socket.remoteAddress ?? '');
    const reason = refusedClient(this.#options.credentials, socket);
    if (member === undefined || reason !== undefined) {
      this.#refuse(member, reason ?? 'handshake_ended');
      socket.destroy();
      return;
    }
    this.#open(member, socket, identityOf(this.#options.credentials, socket));
  }

  /** Connects to higher members where it is time. */
  #dialDue(now: number): void {
    const { self, members } = this.#config;
    for (const member of this.#dials.keys()) if (!members.includes(member)) this.#dials.delete(member);
    for (const member of members) {
      if (!precedes(self, member) || this.#connections.has(member)) continue;
      const dial = this.#dials.get(member) ?? { wait: RETRY.first, due: 0, attempt: 0 };
      this.#dials.set(member, dial);
      if (dial.socket === undefined && now >= dial.due) this.#dial(member, dial, now);
    }
  }

  #dial(member: Address, dial: Dial, now: number): void {
    const { credentials, port } = this.#options;
    const { keys, certificates } = credentials;
    if (keys.length === 0 && certificates === undefined) return;
    // The member may have the former key only.
    const key = keys[dial.attempt++ % Math.max(keys.length, 1)];
    dial.due = now + dial.wait;
    dial.wait = Math.min(dial.wait * 2, RETRY.longest);
    const identity = key?.identity ?? certificates!.identity;
    const socket = secureConnect(credentials, key, { host: member, port, localAddress: this.#config.self });
    dial.socket = socket;
    const failed = (error: NodeJS.ErrnoException) => {
      if (handshakeReason(error) === 'certificate') this.#reject('certificate');
      if (this.#failures.isNew(error.message, `to ${member}`)) {
        this.#log.warn({ member, err: error }, 'cannot connect to a group member, retrying');
      }
    };
    socket.once('error', failed);
    socket.once('timeout', () => socket.destroy(new Error('the member does not answer')));
    socket.once('close', () => {
      if (dial.socket === socket) delete dial.socket;
    });
    socket.once('secureConnect', () => {
      socket.off('error', failed);
      this.#open(member, socket, identity);
    });
  }

  /** Both ends are authenticated: sends `hello` and waits for the other one. */
  #open(member: Address, socket: TLSSocket, identity: string): void {
    const { self, family } = this.#config;
    const connection: Connection = new Connection(
      socket,
      { member, family, identity },
      {
        hello: (hello) => this.#establish(connection, hello),
        message: (message) => this.#receive(member, message),
        end: (reason) => this.#ended(connection, reason),
      },
      performance.now(),
    );
    this.#opening.add(connection);
    connection.send({
      type: 'hello',
      minVersion: VERSION,
      maxVersion: VERSION,
      capabilities: 0,
      from: self,
      to: member,
      instance: this.#instance,
      uptime: Math.floor((performance.now() - this.#startedAt) / 1000),
    });
  }

  #establish(connection: Connection, hello: Hello): void {
    const { member } = connection;
    const { self, members } = this.#config;
    if (hello.from !== member || hello.to !== self || !members.includes(member)) {
      connection.end('hello');
      return;
    }
    this.#opening.delete(connection);
    const accepted = this.#pending.get(endOf(connection.socket));
    if (accepted !== undefined) this.#release(accepted);
    const former = this.#connections.get(member);
    if (former !== undefined) {
      former.end();
      this.#disconnect(former);
    }
    this.#connections.set(member, connection);
    this.#dials.delete(member);
    this.#failures.ended(`from ${member}`);
    this.#failures.ended(`to ${member}`);
    this.#log.info({ member }, 'group member connected');
    const { instance, uptime } = hello;
    this.#step({ type: 'connected', member, instance, uptime });
  }

  #receive(member: Address, message: Message): void {
    if (message.type === 'lookup' || message.type === 'answer') this.#lookups.receive(member, message);
    else this.#step({ type: 'message', member, message });
  }

  #ended(connection: Connection, reason: string | undefined): void {
    if (reason !== undefined) this.#refuse(connection.member, reason);
    this.#opening.delete(connection);
    if (this.#connections.get(connection.member) !== connection || this.#closed) return;
    this.#log.warn({ member: connection.member, reason }, 'group member disconnected');
    this.#disconnect(connection);
  }

  #disconnect({ member }: Connection): void {
    this.#connections.delete(member);
    this.#lookups.forget(member);
    this.#step({ type: 'disconnected', member });
  }
}
