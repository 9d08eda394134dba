/**
 * The HTTP side that a kubelet, Prometheus and a person with a port-forward see. Read-only, small, bounded.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { networkInterfaces } from 'node:os';
import { hasIPv6 } from './facts.ts';
import type { Logger } from './log.ts';
import type { ListenAddress } from './options.ts';

export interface HttpContent {
  metrics(): Promise<{ type: string; body: string }>;
  /** Empty when the process can do its work. */
  notLive(): string[];
  /** Empty when the gateway is ready. */
  notReady(): string[];
  /** The page for people, with what its browser may do (Content-Security-Policy). */
  page: { html: string; policy: string };
  /** What the page shows, by path; an answer that is no text goes as JSON. */
  data: Record<string, (query: URLSearchParams) => Promise<{ status: number; body: unknown }>>;
}

/** Bounds on what a client may take. */
const LIMITS = {
  maxHeaderSize: 8192,
  headersTimeout: 5000,
  requestTimeout: 10_000,
  keepAliveTimeout: 5000,
  connectionsCheckingInterval: 1000,
  connections: 64,
} as const;

const isLoopback = (address: string | undefined): boolean =>
  address !== undefined && (address === '::1' || /^(?:::ffff:)?127\./.test(address));

function reply(response: ServerResponse, status: number, type: string, body: string, more = {}): void {
  response.writeHead(status, {
    ...more,
    'Content-Type': type,
    'Content-Length': Buffer.byteLength(body),
    'Cache-Control': 'no-store',
    'X-Content-Type-Options': 'nosniff',
  });
  response.end(response.req.method === 'HEAD' ? '' : body);
}

const TEXT = 'text/plain; charset=utf-8';

/**
 * Whether an address is this machine's. The gateway's own masquerade rule gives what goes to 127.0.0.1 the source of
 * another interface, because that of `lo` is of scope host (inet_select_addr).
 */
function isOwn(address = ''): boolean {
  const plain = address.replace(/^::ffff:/, '');
  const own = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  return isLoopback(plain) || own.some((info) => info.address === plain);
}

/** Whether a page and its data may be shown: they name pods, so only on loopback, and by its names. */
function isLocal({ socket, headers }: IncomingMessage): boolean {
  // A Host header that is a name would let a page elsewhere read this one through DNS rebinding.
  const host = (headers.host ?? '').replace(/:\d+$/, '').replace(/^\[|\]$/g, '');
  const local = isLoopback(socket.localAddress) && isOwn(socket.remoteAddress);
  return local && (host === 'localhost' || isLoopback(host));
}

async function answer(request: IncomingMessage, response: ServerResponse, content: HttpContent) {
  const [path = '/', query] = (request.url ?? '/').split('?', 2);
  const probe = (reasons: string[]) =>
    reply(response, reasons.length === 0 ? 200 : 503, TEXT, `${reasons.join('\n') || 'ok'}\n`);
  const data = Object.hasOwn(content.data, path) ? content.data[path] : undefined;
  const known = path === '/' || path === '/metrics' || path === '/livez' || path === '/readyz';
  if (!known && data === undefined) return reply(response, 404, TEXT, 'not found\n');
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.setHeader('Allow', 'GET, HEAD');
    return reply(response, 405, TEXT, 'method not allowed\n');
  }
  if (path === '/livez') return probe(content.notLive());
  if (path === '/readyz') return probe(content.notReady());
  if (path === '/metrics') {
    const { type, body } = await content.metrics();
    return reply(response, 200, type, body);
  }
  if (!isLocal(request)) {
    return reply(response, 403, TEXT, 'this page answers on loopback only: use kubectl port-forward\n');
  }
  if (data !== undefined) {
    const { status, body } = await data(new URLSearchParams(query));
    if (typeof body === 'string') return reply(response, status, TEXT, body);
    return reply(response, status, 'application/json', JSON.stringify(body));
  }
  const { html, policy } = content.page;
  return reply(response, 200, 'text/html; charset=utf-8', html, {
    'Content-Security-Policy': policy,
    'Referrer-Policy': 'no-referrer',
  });
}

/** An address to listen on; `::` stands for every address of the families that this kernel has. */
export const listenable = (host: string): string => (host === '::' && !hasIPv6() ? '0.0.0.0' : host);

/** A set of listeners that follows the addresses it is told. */
export class HttpListeners {
  readonly #servers = new Map<string, Server>();
  readonly #content: HttpContent;
  readonly #log: Logger;
  /** Failures already told, so that a retry says nothing new. */
  readonly #told = new Set<string>();

  constructor(content: HttpContent, log: Logger) {
    this.#content = content;
    this.#log = log;
  }

  /**
   * Listens on exactly these addresses from now on. One that cannot be had is logged once and tried again at
   * the next call; the others work.
   */
  async listen(addresses: ListenAddress[]): Promise<void> {
    const wanted = new Map(addresses.map((address) => [`${address.host} ${address.port}`, address]));
    for (const [key, server] of this.#servers) {
      if (wanted.has(key)) continue;
      server.close();
      server.closeAllConnections();
      this.#servers.delete(key);
    }
    for (const [key, address] of wanted) {
      if (!this.#servers.has(key)) await this.#open(key, address);
    }
  }

  async close(): Promise<void> {
    await this.listen([]);
  }

  async #open(key: string, { host, port }: ListenAddress): Promise<void> {
    const server = createServer({ ...LIMITS, noDelay: true }, (request, response) => {
      request.resume();
      answer(request, response, this.#content).catch((error: unknown) => {
        this.#log.error({ err: error, path: request.url }, 'cannot answer an HTTP request');
        response.destroy();
      });
    });
    server.maxConnections = LIMITS.connections;
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(
          { host: listenable(host), port, ipv6Only: host !== '::' && host.includes(':') },
          resolve,
        );
      });
      server.removeAllListeners('error');
      server.on('error', (error) => this.#log.warn({ err: error, host, port }, 'HTTP listener'));
      this.#servers.set(key, server);
      this.#told.delete(key);
      this.#log.info({ host, port }, 'HTTP listening');
    } catch (error) {
      server.close();
      if (this.#told.has(key)) return;
      this.#told.add(key);
      this.#log.warn({ err: error, host, port }, 'cannot listen for HTTP; will try again');
    }
  }
}
