/**
 * The control socket of `veg-bfdd`: HTTP/1.1 over a unix socket, `POST /v1/bfdd` with the words of a
 * `bfdd-control` command. A slow client holds its own connection and nothing else.
 */
import { chmodSync, mkdirSync, unlinkSync } from 'node:fs';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import { splitWords } from './control-text.ts';

/** A request is some words. */
const MAX_BODY = 16 * 1024;
const MAX_CONNECTIONS = 64;
const LIMITS = { maxHeaderSize: 8192, headersTimeout: 5000, requestTimeout: 5000, keepAliveTimeout: 1000 };

/** Whether somebody answers on the socket. */
const isAlive = (path: string): Promise<boolean> =>
  new Promise((resolve) => {
    const probe = connect(path, () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', () => resolve(false));
  });

/** Serves until the process ends. Throws when the socket cannot be made or another daemon answers there. */
export async function serve(
  path: string,
  command: (words: string[]) => { ok: boolean; text: string },
): Promise<void> {
  mkdirSync(dirname(path), { recursive: true });
  if (await isAlive(path)) throw new Error(`another daemon answers at ${path}`);
  try {
    unlinkSync(path);
  } catch {
    // there was none
  }
  const server = createServer(LIMITS, (request, response) => {
    const reply = (status: number, text: string) => {
      response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8' });
      response.end(`${text}\n`);
    };
    if (request.url !== '/v1/bfdd') return reply(404, 'not found');
    if (request.method !== 'POST') return reply(405, 'method not allowed');
    let body = '';
    request.setEncoding('utf8');
    request.on('data', (part: string) => {
      body += part;
      if (body.length > MAX_BODY) {
        reply(413, `a request has at most ${MAX_BODY} octets`);
        request.destroy();
      }
    });
    request.on('end', () => {
      const { ok, text } = command(splitWords(body));
      reply(ok ? 200 : 400, text);
    });
  });
  server.maxConnections = MAX_CONNECTIONS;
  const mask = process.umask(0o177);
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(path, resolve);
    });
  } finally {
    process.umask(mask);
  }
  chmodSync(path, 0o600);
}
