/**
 * An HTTP/1.1 server for untrusted clients: what a client can take from this process is bounded, whatever it sends and
 * however little it reads. Bounded are the connections by client (connection-slots.ts), the requests in progress (one a
 * connection, and only after the kernel has the previous response), the octets of unread responses, and the kernel's
 * socket buffers.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { ACCEPT, type Bpf, DROP, JEQ_K, LD_W_ABS, SKF_AD_IFINDEX, SKF_AD_OFF } from './bpf.ts';
import { systemClock, type Timer } from './clock.ts';
import { type ConnectionLimits, ConnectionSlots, clientOf, isLocalConnection } from './connection-slots.ts';
import * as libc from './libc.ts';
import {
  AF_INET,
  AF_INET6,
  IPPROTO_TCP,
  IPV6_V6ONLY,
  SO_RCVBUF,
  SO_REUSEADDR,
  SO_SNDBUF,
  SOCK_STREAM,
  SOL_IPV6,
  SOL_SOCKET,
} from './linux.ts';
import type { Log } from './log.ts';

const LIMITS = {
  maxHeaderSize: 8192,
  headersTimeout: 5000,
  requestTimeout: 10_000,
  keepAliveTimeout: 5000,
  connectionsCheckingInterval: 1000,
};
/** Pipelined requests that may wait on a connection. */
const MAX_PIPELINED = 8;
/** How often unread responses are looked for, ms. */
const SWEEP_INTERVAL = 1000;
/** Connections that wait in the kernel for accept(2). */
const BACKLOG = 1024;

const TCP_USER_TIMEOUT = 18;
/** Socket buffers for responses and requests, octets; the kernel takes twice as much memory. */
const SEND_BUFFER = 64 << 10;
const RECEIVE_BUFFER = 4 << 10;
/** A client that acknowledges nothing for this long is dead, even after its connection was closed here, ms. */
const USER_TIMEOUT = 10_000;

/** Drops packets that arrived on one interface. */
const notFromInterface = (index: number): Bpf => [
  [LD_W_ABS, 0, 0, SKF_AD_OFF + SKF_AD_IFINDEX],
  [JEQ_K, 0, 1, index],
  DROP,
  ACCEPT,
];

export interface HttpResponse {
  status: number;
  headers: Record<string, string>;
  body: string | Buffer;
}

export interface HttpServerOptions {
  limits: ConnectionLimits;
  /** If it throws, the connection is closed. */
  handle(request: IncomingMessage): Promise<HttpResponse>;
  log: Log;
}

/** One or more listeners that share the connection slots. */
export class HttpServer {
  readonly #options: HttpServerOptions;
  readonly #slots: ConnectionSlots<Socket>;
  readonly #waiting = new WeakMap<Socket, [IncomingMessage, ServerResponse][]>();
  readonly #servers = new Set<Server>();
  readonly #sweeper: Timer;

  constructor(options: HttpServerOptions) {
    this.#options = options;
    this.#slots = new ConnectionSlots(options.limits);
    this.#sweeper = systemClock.every(SWEEP_INTERVAL, () =>
      this.#drop(this.#slots.overdue(performance.now())),
    );
    this.#sweeper.unref();
  }

  /**
   * Listens on a TCP address; `::` accepts IPv4 too. Packets that arrive on the interface with the index `notFrom` are
   * dropped, because Linux accepts packets for any of its addresses on every interface. Rejects if it cannot bind.
   */
  async listen(host: string, port: number, notFrom = 0): Promise<Server> {
    const v6 = host.includes(':');
    const fd = libc.socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
    try {
      libc.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, 1);
      if (v6) libc.setsockopt(fd, SOL_IPV6, IPV6_V6ONLY, Number(host !== '::'));
      // Connections inherit these.
      libc.setsockopt(fd, SOL_SOCKET, SO_SNDBUF, SEND_BUFFER);
      libc.setsockopt(fd, SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER);
      libc.setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, USER_TIMEOUT);
      if (notFrom > 0) libc.attachFilter(fd, notFromInterface(notFrom));
      libc.bind(fd, libc.sockaddr(host, port));
    } catch (error) {
      libc.close(fd);
      throw error;
    }
    return this.#listen((server) => server.listen({ fd }, BACKLOG));
  }

  /** Listens on a unix socket. Rejects if it cannot bind. */
  listenAt(path: string): Promise<Server> {
    return this.#listen((server) => server.listen(path));
  }

  /** Closes one listener and its connections. */
  async closeServer(server: Server): Promise<void> {
    this.#servers.delete(server);
    const closed = new Promise((resolve) => server.close(resolve));
    server.closeAllConnections();
    await closed;
  }

  async close(): Promise<void> {
    this.#sweeper.cancel();
    await Promise.all([...this.#servers].map((server) => this.closeServer(server)));
  }

  async #listen(begin: (server: Server) => void): Promise<Server> {
    const server = createServer({ ...LIMITS, noDelay: true }, (request, response) =>
      this.#enqueue(request, response),
    );
    server.on('connection', (socket) => this.#accept(socket));
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.once('listening', resolve);
      begin(server);
    });
    server.removeAllListeners('error');
    server.on('error', (error) => this.#options.log.warn({ err: error }, 'HTTP listener failed'));
    this.#servers.add(server);
    return server;
  }

  #accept(socket: Socket): void {
    const { localAddress = '', remoteAddress } = socket;
    // A unix socket has no remote address.
    const client = remoteAddress === undefined ? '' : clientOf(remoteAddress);
    const local = remoteAddress === undefined || isLocalConnection(localAddress, remoteAddress);
    socket.once('close', () => this.#slots.remove(socket));
    this.#drop(this.#slots.add(socket, client, local, performance.now()));
  }

  /** Closes connections at once; what the kernel still buffers of their responses is discarded. */
  #drop(sockets: readonly Socket[]): void {
    for (const socket of sockets) {
      this.#slots.remove(socket);
      if (socket.remoteAddress === undefined) socket.destroy();
      else socket.resetAndDestroy();
    }
  }

  #enqueue(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request;
    if (socket.destroyed) return;
    const waiting = this.#waiting.get(socket);
    if (waiting !== undefined && waiting.length > MAX_PIPELINED) {
      this.#drop([socket]);
    } else if (waiting !== undefined) {
      waiting.push([request, response]);
    } else {
      this.#waiting.set(socket, [[request, response]]);
      void this.#serve(socket);
    }
  }

  /** Handles the waiting requests of a connection in order. */
  async #serve(socket: Socket): Promise<void> {
    const waiting = this.#waiting.get(socket)!;
    for (let next = waiting[0]; next !== undefined && !socket.destroyed; next = waiting[0]) {
      const [request, response] = next;
      this.#slots.setBusy(socket, true, performance.now());
      try {
        await this.#send(request, response, await this.#options.handle(request));
      } catch (error) {
        if (!socket.destroyed) {
          this.#options.log.error({ err: error, path: request.url }, 'HTTP request failed');
        }
        socket.destroy();
      }
      waiting.shift();
    }
    this.#waiting.delete(socket);
    this.#slots.setBusy(socket, false, performance.now());
  }

  /** Resolves when the kernel has the response, or the connection is closed. */
  async #send(
    request: IncomingMessage,
    response: ServerResponse,
    { status, headers, body }: HttpResponse,
  ): Promise<void> {
    const { socket } = request;
    if (socket.destroyed) return;
    const octets = typeof body === 'string' ? Buffer.from(body) : body;
    const done = new Promise((resolve) => response.once('close', resolve));
    response.writeHead(status, {
      ...headers,
      'Content-Length': octets.length,
      // An unexpected request body is not read.
      ...(!request.complete && { Connection: 'close' }),
    });
    this.#drop(this.#slots.setPending(socket, octets.length, performance.now()));
    response.end(request.method === 'HEAD' ? undefined : octets);
    await done;
  }
}
