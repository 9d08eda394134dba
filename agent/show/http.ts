/**
 * The HTTP side that a kubelet, Prometheus and a person with a port-forward see. Read-only, small, bounded.
 */
import type { IncomingMessage, Server } from 'node:http';
import { networkInterfaces } from 'node:os';
import { type ConnectionLimits, isLoopback } from '../../lib/connection-slots.ts';
import { type HttpResponse, HttpServer } from '../../lib/http-server.ts';
import { ifNametoindex } from '../../lib/libc.ts';
import type { Logger } from '../../lib/log.ts';
import type { ListenAddress } from '../options.ts';
import { hasIPv6 } from '../pod/facts.ts';

export interface HttpContent {
  metrics: MetricsText;
  /** Empty when the process can do its work. */
  notLive(): string[];
  /** Empty when the gateway is ready. */
  notReady(): string[];
  /** The page for people, with its Content-Security-Policy. */
  page(): Promise<{ html: string; policy: string }>;
  /** The documents of the page, by path; a body that is not text is sent as JSON. */
  data: Record<string, (query: URLSearchParams) => Promise<{ status: number; body: unknown }>>;
}

/** Limits of all listeners together (lib/http-server.ts). */
export const HTTP_LIMITS: ConnectionLimits = {
  total: 64,
  perClient: 16,
  octets: 4 << 20,
  readTimeout: 10_000,
};

/** The share of time that generating metrics may take, and the time that may be used at once, ms. */
const METRICS_SHARE = 0.1;
const METRICS_BURST = 500;

const TEXT = 'text/plain; charset=utf-8';
const HTML = 'text/html; charset=utf-8';

/** Whether a client takes gzip (RFC 9110 12.5.3). */
export const acceptsGzip = (header = ''): boolean =>
  header.split(',').some((part) => /^\s*gzip\s*(?:;\s*q=(?!0(?:\.0*)?\s*$).*)?$/i.test(part));

/** An answer that is neither cached nor sniffed. */
export const answerOf = (
  status: number,
  type: string,
  body: string | Buffer,
  more: Record<string, string> = {},
): HttpResponse => ({
  status,
  headers: {
    'Content-Type': type,
    'Cache-Control': 'no-store',
    'X-Content-Type-Options': 'nosniff',
    'Cross-Origin-Resource-Policy': 'same-origin',
    ...more,
  },
  body,
});

/**
 * Whether an address is this machine's. The gateway's own masquerade rule gives what goes to 127.0.0.1 the source of
 * another interface, because that of `lo` is of scope host (inet_select_addr).
 */
function isOwn(address = ''): boolean {
  const plain = address.replace(/^::ffff:/, '');
  const own = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  return isLoopback(plain) || own.some((info) => info.address === plain);
}

const OCTET = '(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])';
const LOOPBACK_HOST = new RegExp(`^(?:localhost|127(?:\\.${OCTET}){3}|\\[::1\\])(?::[0-9]{1,5})?$`, 'i');

/** Whether a Host header, or the authority of a URL, is a name that no resolver can point to another host. */
export const isLoopbackHost = (host: string): boolean => LOOPBACK_HOST.test(host);

/** Whether the page and its data may be sent: they name pods, so only on loopback, and under its names. */
function isLocal({ socket, headersDistinct }: IncomingMessage, authority: string | undefined): boolean {
  const { host = [], origin = [] } = headersDistinct;
  // A Host header that is a name would let a page elsewhere read this one through DNS rebinding.
  const names = [...host, ...origin.map((text) => text.replace(/^https?:\/\//, ''))];
  if (authority !== undefined) names.push(authority);
  return (
    isLoopback(socket.localAddress ?? '') &&
    isOwn(socket.remoteAddress) &&
    host.length === 1 &&
    names.every(isLoopbackHost)
  );
}

async function answer(request: IncomingMessage, content: HttpContent): Promise<HttpResponse> {
  // The target may be a whole URL (RFC 9112 3.2.2).
  const [, authority, target = '/'] = /^(?:http:\/\/([^/?#]*))?(.*)$/s.exec(request.url ?? '/') ?? [];
  const [path = '/', query] = target.split('?', 2);
  const probe = (reasons: string[]) =>
    answerOf(reasons.length === 0 ? 200 : 503, TEXT, `${reasons.join('\n') || 'ok'}\n`);
  const data = Object.hasOwn(content.data, path) ? content.data[path] : undefined;
  const known = path === '/' || path === '/metrics' || path === '/livez' || path === '/readyz';
  if (!known && data === undefined) return answerOf(404, TEXT, 'not found\n');
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    return answerOf(405, TEXT, 'method not allowed\n', { Allow: 'GET, HEAD' });
  }
  if (path === '/livez') return probe(content.notLive());
  if (path === '/readyz') return probe(content.notReady());
  if (path === '/metrics') {
    const { type, body } = await content.metrics();
    return answerOf(200, type, body);
  }
  if (!isLocal(request, authority)) {
    return answerOf(403, TEXT, 'this page answers on loopback only: use kubectl port-forward\n');
  }
  if (data !== undefined) {
    const { status, body } = await data(new URLSearchParams(query));
    if (typeof body === 'string') return answerOf(status, TEXT, body);
    return answerOf(status, 'application/json', JSON.stringify(body));
  }
  const { html, policy } = await content.page();
  const headers = {
    'Content-Security-Policy': policy,
    'Referrer-Policy': 'no-referrer',
    Vary: 'Accept-Encoding',
  };
  if (!acceptsGzip(request.headers['accept-encoding'])) return answerOf(200, HTML, html, headers);
  const { gzipSync } = await import('node:zlib');
  return answerOf(200, HTML, gzipSync(html), { ...headers, 'Content-Encoding': 'gzip' });
}

/** An address to listen on; `::` means every address of the families that this kernel has. */
export const listenable = (host: string): string => (host === '::' && !hasIPv6() ? '0.0.0.0' : host);

export type MetricsText = () => Promise<{ type: string; body: string | Buffer }>;

/**
 * Current metrics for each request, and one text for concurrent requests. Requests beyond `METRICS_SHARE` get the last
 * text: clients that do not read their answers then share one buffer.
 */
export function shareMetrics(text: MetricsText, clock = () => performance.now()): MetricsText {
  let last: ReturnType<MetricsText> | undefined;
  let generating = false;
  let left = METRICS_BURST;
  let leftAt = clock();
  return () => {
    const began = clock();
    left = Math.min(METRICS_BURST, left + (began - leftAt) * METRICS_SHARE);
    leftAt = began;
    if (last !== undefined && (generating || left <= 0)) return last;
    generating = true;
    last = text()
      .then(({ type, body }) => ({ type, body: Buffer.from(body as string) }))
      .catch((error: unknown) => {
        last = undefined;
        throw error;
      })
      .finally(() => {
        generating = false;
        left -= clock() - began;
      });
    return last;
  };
}

/** An address to listen on, and the interface from which it must not be reached. */
export interface Listener extends ListenAddress {
  notFrom?: string;
}

/** The index of an interface, 0 for none; it changes when the interface is created again. */
const indexOf = (name?: string): number => (name === undefined ? 0 : ifNametoindex(name));

/** The HTTP listeners, at the addresses of the last call of `listen`. */
export class HttpListeners {
  readonly #servers = new Map<string, Server>();
  readonly #http: HttpServer;
  readonly #log: Logger;
  /** Why an address cannot be listened on. */
  readonly #problems = new Map<string, string>();

  constructor(content: HttpContent, log: Logger) {
    const shared = { ...content, metrics: shareMetrics(content.metrics) };
    this.#log = log;
    this.#http = new HttpServer({ limits: HTTP_LIMITS, handle: (request) => answer(request, shared), log });
  }

  /**
   * Listens on exactly these addresses from now on. A failure is logged once and retried at the next call; the other
   * addresses work.
   */
  async listen(addresses: Listener[]): Promise<void> {
    const wanted = new Map(
      addresses.map((address) => [`${address.host} ${address.port} ${indexOf(address.notFrom)}`, address]),
    );
    for (const [key, server] of this.#servers) {
      if (wanted.has(key)) continue;
      this.#servers.delete(key);
      void this.#http.closeServer(server);
    }
    for (const key of this.#problems.keys()) if (!wanted.has(key)) this.#problems.delete(key);
    for (const [key, address] of wanted) {
      if (!this.#servers.has(key)) await this.#open(key, address);
    }
  }

  /** Why nothing is served, for each address where that is so. */
  get problems(): string[] {
    return [...this.#problems.values()];
  }

  async close(): Promise<void> {
    this.#servers.clear();
    await this.#http.close();
  }

  async #open(key: string, { host, port, notFrom }: Listener): Promise<void> {
    try {
      this.#servers.set(key, await this.#http.listen(listenable(host), port, indexOf(notFrom)));
      this.#problems.delete(key);
      this.#log.info({ host, port }, 'HTTP listening');
    } catch (error) {
      const isNew = !this.#problems.has(key);
      const { message } = error as Error;
      this.#problems.set(key, `metrics and probes are not served on ${host} port ${port}: ${message}`);
      if (!isNew) return;
      this.#log.warn({ err: error, host, port }, 'cannot listen for HTTP, retrying');
    }
  }
}
