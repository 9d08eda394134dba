/**
 * The control socket: HTTP/1.1 over `<state-dir>/control.sock`, for `veg-agent status`, `bfdd-control` and curl. The
 * agent and veg-bfdd serve it. A slow or hung client occupies one of a bounded number of connections and nothing else.
 */
import { lstatSync, mkdirSync } from 'node:fs';
import type { IncomingMessage, Server } from 'node:http';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { systemClock } from '../clock.ts';
import type { ConnectionLimits } from '../connection-slots.ts';
import { clear } from '../files.ts';
import { type HttpResponse, HttpServer } from '../http-server.ts';
import type { Log } from '../log.ts';
import { LogOnChange } from '../log-on-change.ts';
import { socketPath } from './path.ts';

/** The largest request body, octets. */
const MAX_BODY = 16 * 1024;
/** All clients are the same user. */
const LIMITS: ConnectionLimits = { total: 64, perClient: 64, octets: 16 << 20, readTimeout: 10_000 };
/** How often the socket file is checked, ms. */
const CHECK_INTERVAL = 1000;

export interface ControlReply {
  status: number;
  /** A string is sent as text, anything else as JSON. */
  body: unknown;
}

/** Handles one route, for example `GET /v1/status`. */
export type ControlHandler = (call: { body: string; query: URLSearchParams }) => Promise<ControlReply>;

export interface ControlServer {
  close(): Promise<void>;
}

/** Undefined if it is too large. The rest is still read, or the client could not read the response. */
async function readBody(message: IncomingMessage): Promise<string | undefined> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of message as AsyncIterable<Buffer>) {
    size += part.length;
    if (size <= MAX_BODY) parts.push(part);
  }
  return size > MAX_BODY ? undefined : Buffer.concat(parts).toString('utf8');
}

async function dispatch(
  message: IncomingMessage,
  routes: Record<string, ControlHandler>,
): Promise<ControlReply> {
  const url = new URL(message.url ?? '/', 'http://control');
  const handler = routes[`${message.method} ${url.pathname}`];
  if (handler === undefined) {
    const known = Object.keys(routes).some((route) => route.split(' ')[1] === url.pathname);
    return known ? { status: 405, body: 'method not allowed\n' } : { status: 404, body: 'not found\n' };
  }
  const body = await readBody(message);
  if (body === undefined) return { status: 413, body: `a request has at most ${MAX_BODY} octets\n` };
  return handler({ body, query: url.searchParams });
}

const statOf = (path: string) => lstatSync(path, { throwIfNoEntry: false });

/** How long to wait for a daemon that may be about to exit, ms. */
const TAKEOVER_TIMEOUT = 500;
const RETRY_INTERVAL = 20;

/** Whether a process accepts connections on a unix socket. EAGAIN is a full backlog: it is only slow. */
const isServed = (path: string): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', ({ code }: NodeJS.ErrnoException) => resolve(code === 'EAGAIN'));
  });

/** Another daemon serves the socket. */
export class SocketInUseError extends Error {}

/**
 * Serves the control socket, mode 0600, and recreates it when its file is deleted. While the directory is not writable
 * it retries: a gateway works without its control socket. Throws `SocketInUseError` while another daemon serves it.
 */
export async function serveControl(
  stateDir: string,
  routes: Record<string, ControlHandler>,
  log: Log,
): Promise<ControlServer> {
  const http = new HttpServer({ limits: LIMITS, log, handle: (message) => respond(message, routes, log) });
  const socket = new ControlSocket(stateDir, http, log);
  await socket.take();
  const watcher = systemClock.every(CHECK_INTERVAL, () => void socket.check());
  watcher.unref();
  return {
    async close() {
      watcher.cancel();
      await http.close();
    },
  };
}

async function respond(
  message: IncomingMessage,
  routes: Record<string, ControlHandler>,
  log: Log,
): Promise<HttpResponse> {
  const { status, body } = await dispatch(message, routes).catch((error: Error): ControlReply => {
    log.error({ err: error, path: message.url }, 'control request failed');
    return { status: 500, body: `${error.message}\n` };
  });
  return typeof body === 'string'
    ? { status, headers: { 'Content-Type': 'text/plain' }, body }
    : { status, headers: { 'Content-Type': 'application/json' }, body: `${JSON.stringify(body)}\n` };
}

/** The socket file, and the listener behind it. */
class ControlSocket {
  readonly #stateDir: string;
  readonly #path: string;
  readonly #http: HttpServer;
  readonly #log: Log;
  readonly #failures = new LogOnChange();
  #server: Server | undefined;
  #inode = 0;
  #checking = false;

  constructor(stateDir: string, http: HttpServer, log: Log) {
    this.#stateDir = stateDir;
    this.#path = socketPath(stateDir);
    this.#http = http;
    this.#log = log;
  }

  /** Listens, or logs why not. Throws `SocketInUseError` while another daemon serves the socket. */
  async take(): Promise<void> {
    const deadline = performance.now() + TAKEOVER_TIMEOUT;
    for (let inUse = true; inUse; ) {
      inUse = false;
      await this.#open().catch(async (error: Error) => {
        if (!(error instanceof SocketInUseError)) return this.#fail(error);
        if (performance.now() > deadline) throw error;
        inUse = true;
        await sleep(RETRY_INTERVAL);
      });
    }
  }

  /** Listens again if the file is gone or another one. Never rejects. */
  async check(): Promise<void> {
    if (this.#checking) return;
    this.#checking = true;
    try {
      if (this.#server === undefined || statOf(this.#path)?.ino !== this.#inode) {
        await this.#close();
        await this.#open();
        this.#log.warn({ path: this.#path }, 'recreated the control socket');
        this.#failures.ended();
      }
    } catch (error) {
      this.#fail(error as Error);
    }
    this.#checking = false;
  }

  async #open(): Promise<void> {
    mkdirSync(this.#stateDir, { recursive: true, mode: 0o755 });
    // A symbolic link may point to a socket that is not ours.
    if (statOf(this.#path)?.isSocket() && (await isServed(this.#path))) {
      throw new SocketInUseError(`another daemon serves ${this.#path}`);
    }
    clear(this.#path);
    const mask = process.umask(0o177);
    try {
      this.#server = await this.#http.listenAt(this.#path);
    } finally {
      process.umask(mask);
    }
    this.#inode = statOf(this.#path)?.ino ?? 0;
  }

  async #close(): Promise<void> {
    const closing = this.#server;
    this.#server = undefined;
    if (closing !== undefined) await this.#http.closeServer(closing);
  }

  #fail(err: Error): void {
    if (this.#failures.isNew(err.message)) {
      this.#log.error({ err, path: this.#path }, 'cannot serve the control socket, retrying');
    }
  }
}
