/**
 * The control socket: HTTP/1.1 over `<state-dir>/control.sock`, for `veg-agent status`, `bfdd-control` and curl. The
 * agent and veg-bfdd serve it. A slow or hung client holds one of a bounded number of connections and nothing else.
 */
import { lstatSync, mkdirSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { clear } from './files.ts';
import type { Log } from './transport.ts';

/** Requests are words or nothing. */
const MAX_BODY = 16 * 1024;
const LIMITS = {
  maxHeaderSize: 8192,
  headersTimeout: 5000,
  requestTimeout: 10_000,
  keepAliveTimeout: 1000,
  connectionsCheckingInterval: 1000,
};
const MAX_CONNECTIONS = 64;
/** How often the socket file is looked for, ms. */
const WATCH_PERIOD = 1000;

export const socketPath = (stateDir: string): string => join(stateDir, 'control.sock');

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

async function readBody(message: IncomingMessage): Promise<string | undefined> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of message as AsyncIterable<Buffer>) {
    size += part.length;
    if (size > MAX_BODY) return undefined;
    parts.push(part);
  }
  return Buffer.concat(parts).toString('utf8');
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
 * Throws `TakenError` when another daemon answers there.
 */
export async function serveControl(
  stateDir: string,
  routes: Record<string, ControlHandler>,
  log: Log,
): Promise<ControlServer> {
  const path = socketPath(stateDir);
  let server: Server | undefined;
  let inode = 0;

  const open = async () => {
    mkdirSync(stateDir, { recursive: true, mode: 0o755 });
    // A link may lead to anybody's socket.
    if (lookAt(path)?.isSocket() && (await isAlive(path))) {
      throw new TakenError(`another daemon answers on ${path}`);
    }
    clear(path);
    const opened = createServer(LIMITS, (message, response) => {
      dispatch(message, routes)
        .catch((error: Error): ControlReply => {
          log.error({ err: error, path: message.url }, 'cannot answer on the control socket');
          return { status: 500, body: `${error.message}\n` };
        })
        .then(({ status, body }) => {
          const text = typeof body === 'string';
          response.writeHead(status, { 'Content-Type': text ? 'text/plain' : 'application/json' });
          response.end(text ? body : `${JSON.stringify(body)}\n`);
        })
        .catch((error: Error) => {
          log.error({ err: error, path: message.url }, 'cannot answer on the control socket');
          response.destroy();
        });
    });
    opened.maxConnections = MAX_CONNECTIONS;
    const mask = process.umask(0o177);
    try {
      await new Promise<void>((resolve, reject) => {
        opened.once('error', reject);
        opened.listen(path, resolve);
      });
    } finally {
      process.umask(mask);
    }
    opened.on('error', (error) => log.warn({ err: error }, 'control socket'));
    inode = lookAt(path)?.ino ?? 0;
    server = opened;
  };

  const close = async () => {
    const closing = server;
    server = undefined;
    if (closing === undefined) return;
    closing.closeAllConnections();
    await new Promise((resolve) => closing.close(resolve));
  };

  /** What was told last, so that a retry does not tell it again. */
  let told = '';
  const fail = (error: Error): void => {
    if (error.message !== told) log.error({ reason: error.message, path }, 'no control socket; trying on');
    told = error.message;
  };

  await open().catch((error: Error) => {
    if (error instanceof TakenError) throw error;
    fail(error);
  });
  let checking = false;
  const watcher = setInterval(async () => {
    if (checking) return;
    checking = true;
    try {
      if (server === undefined || lookAt(path)?.ino !== inode) {
        await close();
        await open();
        log.warn({ path }, 'the control socket was gone and is back');
        told = '';
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
      await close();
    },
  };
}
