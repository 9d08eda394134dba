/**
 * HTTP/1.1 for strangers: what a client may take of this process is bounded, whatever it sends and however little it
 * reads. Connections by client (places.ts); one request of a connection at a time, and only when the answer before it
 * has gone to the kernel; octets of answers that nobody reads; what the kernel keeps of a connection.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import * as libc from './libc.ts';
import type { Log } from './log.ts';
import { clientOf, isFromHere, type PlaceLimits, Places } from './places.ts';

const LIMITS = {
  maxHeaderSize: 8192,
  headersTimeout: 5000,
  requestTimeout: 10_000,
  keepAliveTimeout: 5000,
  connectionsCheckingInterval: 1000,
};
/** Requests of a connection that may wait for the one before. */
const MAX_PIPELINED = 8;
/** Answers that nobody reads are looked for so often, ms. */
const TICK = 1000;
/** Connections that the kernel holds until they are taken. */
const BACKLOG = 1024;

const { SOL_SOCKET, SOL_IPV6 } = libc;
const SOCK_STREAM = 1;
const SO_REUSEADDR = 2;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const IPV6_V6ONLY = 26;
const IPPROTO_TCP = 6;
const TCP_USER_TIMEOUT = 18;
/** What the kernel keeps of an answer, and of requests, octets; it takes twice as much memory. */
const SEND_BUFFER = 64 << 10;
const RECEIVE_BUFFER = 4 << 10;
/** A client that acknowledges nothing for so long is gone, also when its connection is closed here, ms. */
const USER_TIMEOUT = 10_000;

// Classic BPF (linux/filter.h).
const LD_WORD = 0x20;
const JEQ = 0x15;
const RET = 0x06;
/** The index of the interface that a packet has come by. */
const IFINDEX = -0x1000 + 8;
const ALL = 0x7fff_ffff;

/** Drops what comes by one interface. */
const notBy = (index: number): libc.Bpf => [
  [LD_WORD, 0, 0, IFINDEX],
  [JEQ, 0, 1, index],
  [RET, 0, 0, 0],
  [RET, 0, 0, ALL],
];

export interface HttpAnswer {
  status: number;
  headers: Record<string, string>;
  body: string | Buffer;
}

export interface HttpServerOptions {
  limits: PlaceLimits;
  /** May throw: then the connection ends. */
  answer(request: IncomingMessage): Promise<HttpAnswer>;
  log: Log;
}

/** Servers with places in common. */
export class HttpServer {
  readonly #options: HttpServerOptions;
  readonly #places: Places<Socket>;
  readonly #waiting = new WeakMap<Socket, [IncomingMessage, ServerResponse][]>();
  readonly #servers = new Set<Server>();
  readonly #ticker: NodeJS.Timeout;

  constructor(options: HttpServerOptions) {
    this.#options = options;
    this.#places = new Places(options.limits);
    this.#ticker = setInterval(() => this.#drop(this.#places.overdue(performance.now())), TICK);
    this.#ticker.unref();
  }

  /**
   * Listens on a TCP address; `::` takes IPv4 too. Who comes by the interface with the index `notFrom` finds nobody:
   * Linux takes packets for an address by every interface. Rejects when it cannot be had.
   */
  async listen(host: string, port: number, notFrom = 0): Promise<Server> {
    const v6 = host.includes(':');
    const fd = libc.socket(v6 ? libc.AF_INET6 : libc.AF_INET, SOCK_STREAM, 0);
    try {
      libc.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, 1);
      if (v6) libc.setsockopt(fd, SOL_IPV6, IPV6_V6ONLY, Number(host !== '::'));
      // Connections inherit these.
      libc.setsockopt(fd, SOL_SOCKET, SO_SNDBUF, SEND_BUFFER);
      libc.setsockopt(fd, SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER);
      libc.setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, USER_TIMEOUT);
      if (notFrom > 0) libc.attachFilter(fd, notBy(notFrom));
      libc.bind(fd, libc.sockaddr(host, port));
    } catch (error) {
      libc.close(fd);
      throw error;
    }
    return this.#listen((server) => server.listen({ fd }, BACKLOG));
  }

  /** Listens on a unix socket. Rejects when it cannot be had. */
  listenAt(path: string): Promise<Server> {
    return this.#listen((server) => server.listen(path));
  }

  /** Ends one server and its connections. */
  async end(server: Server): Promise<void> {
    this.#servers.delete(server);
    const closed = new Promise((resolve) => server.close(resolve));
    server.closeAllConnections();
    await closed;
  }

  async close(): Promise<void> {
    clearInterval(this.#ticker);
    await Promise.all([...this.#servers].map((server) => this.end(server)));
  }

  async #listen(begin: (server: Server) => void): Promise<Server> {
    const server = createServer({ ...LIMITS, noDelay: true }, (request, response) =>
      this.#take(request, response),
    );
    server.on('connection', (socket) => this.#enter(socket));
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.once('listening', resolve);
      begin(server);
    });
    server.removeAllListeners('error');
    server.on('error', (error) => this.#options.log.warn({ err: error }, 'HTTP listener'));
    this.#servers.add(server);
    return server;
  }

  #enter(socket: Socket): void {
    const { localAddress = '', remoteAddress } = socket;
    // Without one it is of a unix socket.
    const client = remoteAddress === undefined ? '' : clientOf(remoteAddress);
    const local = remoteAddress === undefined || isFromHere(localAddress, remoteAddress);
    socket.once('close', () => this.#places.leave(socket));
    this.#drop(this.#places.enter(socket, client, local, performance.now()));
  }

  /** Closes at once: what the kernel has of their answers goes as well. */
  #drop(sockets: readonly Socket[]): void {
    for (const socket of sockets) {
      this.#places.leave(socket);
      if (socket.remoteAddress === undefined) socket.destroy();
      else socket.resetAndDestroy();
    }
  }

  #take(request: IncomingMessage, response: ServerResponse): void {
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

  /** Answers what waits on a connection, one after the other. */
  async #serve(socket: Socket): Promise<void> {
    const waiting = this.#waiting.get(socket)!;
    for (let next = waiting[0]; next !== undefined && !socket.destroyed; next = waiting[0]) {
      const [request, response] = next;
      this.#places.turn(socket, true, performance.now());
      try {
        await this.#send(request, response, await this.#options.answer(request));
      } catch (error) {
        if (!socket.destroyed) {
          this.#options.log.error({ err: error, path: request.url }, 'cannot answer an HTTP request');
        }
        socket.destroy();
      }
      waiting.shift();
    }
    this.#waiting.delete(socket);
    this.#places.turn(socket, false, performance.now());
  }

  /** Resolves when the kernel has the answer, or the connection has ended. */
  async #send(
    request: IncomingMessage,
    response: ServerResponse,
    { status, headers, body }: HttpAnswer,
  ): Promise<void> {
    const { socket } = request;
    if (socket.destroyed) return;
    const octets = typeof body === 'string' ? Buffer.from(body) : body;
    const over = new Promise((resolve) => response.once('close', resolve));
    response.writeHead(status, {
      ...headers,
      'Content-Length': octets.length,
      // A body that nobody has asked for is not read.
      ...(!request.complete && { Connection: 'close' }),
    });
    this.#drop(this.#places.answer(socket, octets.length, performance.now()));
    response.end(request.method === 'HEAD' ? undefined : octets);
    await over;
  }
}
