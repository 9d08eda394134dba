/**
 * The control socket: HTTP/1.1 over `<state-dir>/control.sock`, for `veg-agent status`, `bfdd-control` and curl. The
 * agent and veg-bfdd serve it. A slow or hung client holds one of a bounded number of connections and nothing else.
 */
import { lstatSync, mkdirSync } from 'node:fs';
import type { IncomingMessage, Server } from 'node:http';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { clear } from '../files.ts';
import { HttpServer } from '../http-server.ts';
import type { Log } from '../log.ts';
import { LogOnChange } from '../log-on-change.ts';
import type { PlaceLimits } from '../places.ts';
import { socketPath } from './path.ts';

/** Requests are words or nothing. */
const MAX_BODY = 16 * 1024;
/** All clients are the same user. */
const LIMITS: PlaceLimits = { total: 64, perClient: 64, octets: 16 << 20, patience: 10_000 };
/** How often the socket file is looked for, ms. */
const WATCH_PERIOD = 1000;

export interface ControlReply {
  status: number;
  /** Text as it is, anything else as JSON. */
  body: unknown;
}

/** Answers one route: `GET /v1/status`. */
export type ControlHandler = (call: { body: string; query: URLSearchParams }) => Promise<ControlReply>;

export interface ControlServer {
  close(): Promise<void>;
}

/** Undefined when it is too large: what is too much is read, or the client could not read the answer. */
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

const lookAt = (path: string) => lstatSync(path, { throwIfNoEntry: false });

/** One that answered a moment ago may be about to end: so long is waited for it, ms. */
const PATIENCE = 500;
const RETRY = 20;

/** Whether somebody answers on a unix socket. A queue that is full has somebody who is slow to answer. */
const isAlive = (path: string): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', ({ code }: NodeJS.ErrnoException) => resolve(code === 'EAGAIN'));
  });

/** Another daemon serves the socket. */
export class TakenError extends Error {}

/**
 * Serves the control socket, mode 0600, and makes it anew when its file is deleted. While the directory cannot be
 * written there is none, and it is tried again: a gateway is not given up for it.
 * Throws `TakenError` when another daemon goes on answering there.
 */
export async function serveControl(
  stateDir: string,
  routes: Record<string, ControlHandler>,
  log: Log,
): Promise<ControlServer> {
  const path = socketPath(stateDir);
  const http = new HttpServer({
    limits: LIMITS,
    log,
    async answer(message) {
      const { status, body } = await dispatch(message, routes).catch((error: Error): ControlReply => {
        log.error({ err: error, path: message.url }, 'cannot answer on the control socket');
        return { status: 500, body: `${error.message}\n` };
      });
      return typeof body === 'string'
        ? { status, headers: { 'Content-Type': 'text/plain' }, body }
        : { status, headers: { 'Content-Type': 'application/json' }, body: `${JSON.stringify(body)}\n` };
    },
  });
  let server: Server | undefined;
  let inode = 0;

  const open = async () => {
    mkdirSync(stateDir, { recursive: true, mode: 0o755 });
    // A link may lead to anybody's socket.
    if (lookAt(path)?.isSocket() && (await isAlive(path))) {
      throw new TakenError(`another daemon answers on ${path}`);
    }
    clear(path);
    const mask = process.umask(0o177);
    try {
      server = await http.listenAt(path);
    } finally {
      process.umask(mask);
    }
    inode = lookAt(path)?.ino ?? 0;
  };

  const close = async () => {
    const closing = server;
    server = undefined;
    if (closing !== undefined) await http.end(closing);
  };

  const failures = new LogOnChange();
  const fail = ({ message: reason }: Error): void => {
    if (failures.isNew(reason)) log.error({ reason, path }, 'no control socket, retrying');
  };

  const patience = performance.now() + PATIENCE;
  for (let taken = true; taken; ) {
    taken = false;
    await open().catch(async (error: Error) => {
      if (!(error instanceof TakenError)) return fail(error);
      if (performance.now() > patience) throw error;
      taken = true;
      await sleep(RETRY);
    });
  }
  let checking = false;
  const watcher = setInterval(async () => {
    if (checking) return;
    checking = true;
    try {
      if (server === undefined || lookAt(path)?.ino !== inode) {
        await close();
        await open();
        log.warn({ path }, 'the control socket was gone and is back');
        failures.ended();
      }
    } catch (error) {
      fail(error as Error);
    }
    checking = false;
  }, WATCH_PERIOD);
  watcher.unref();

  return {
    async close() {
      clearInterval(watcher);
      await http.close();
    },
  };
}
