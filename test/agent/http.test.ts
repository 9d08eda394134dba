import { request } from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import pino from 'pino';
import t from 'tap';
import { HttpListeners } from '../../agent/http.ts';

/** A free port on loopback. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

const state = { live: [] as string[], ready: [] as string[] };
const http = new HttpListeners(
  {
    metrics: async () => ({ type: 'text/plain', body: 'a_metric 1\n' }),
    notLive: () => state.live,
    notReady: () => state.ready,
    page: { html: 'the page\n', policy: "default-src 'none'" },
    data: {
      '/data/text': async () => ({ status: 409, body: 'not now\n' }),
      '/data/echo': async (query) => ({ status: 200, body: Object.fromEntries(query) }),
    },
  },
  pino({ level: 'silent' }),
);
const port = await freePort();
await http.listen([{ host: '127.0.0.1', port }]);
t.teardown(() => http.close());

function call(path: string, method = 'GET', headers = {}): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const call = request({ host: '127.0.0.1', port, path, method, headers, agent: false }, (response) => {
      let body = '';
      response.setEncoding('utf8');
      response.on('data', (part) => {
        body += part;
      });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body }));
    });
    call.on('error', reject);
    call.end();
  });
}

t.test('probes, metrics and the page, and nothing else', async (t) => {
  t.strictSame(await call('/metrics'), { status: 200, body: 'a_metric 1\n' });
  t.strictSame(await call('/livez'), { status: 200, body: 'ok\n' });
  state.ready = ['BFD: no session is Up', 'draining'];
  t.strictSame(
    await call('/readyz'),
    { status: 503, body: 'BFD: no session is Up\ndraining\n' },
    'the reasons as text',
  );
  state.live = ['no word from the BFD process'];
  t.equal((await call('/livez')).status, 503);
  t.strictSame(await call('/'), { status: 200, body: 'the page\n' }, 'the page on loopback');
  t.equal(
    (await call('/', 'GET', { Host: 'evil.example' })).status,
    403,
    'not under a foreign name (DNS rebinding)',
  );
  t.equal((await call('/', 'GET', { Host: 'localhost:8080' })).status, 200, 'but through a port-forward');
  t.strictSame(await call('/data/echo?external=172.17.0.11:1&at='), {
    status: 200,
    body: '{"external":"172.17.0.11:1","at":""}',
  });
  t.strictSame(await call('/data/text'), { status: 409, body: 'not now\n' });
  t.equal(
    (await call('/data/echo', 'GET', { Host: 'evil.example' })).status,
    403,
    'nor the data of the page',
  );
  t.equal((await call('/data/echo', 'POST')).status, 405);
  for (const path of ['/data', '/data/', '/data/toString', '/data/echo/x']) {
    t.equal((await call(path)).status, 404, path);
  }
  t.equal((await call('/v1/status')).status, 404, 'any other path is 404');
  t.equal((await call('/metrics', 'POST')).status, 405, 'any other method is 405');
  t.strictSame(await call('/metrics', 'HEAD'), { status: 200, body: '' });
  await http.listen([]);
  await t.rejects(call('/livez'), { code: 'ECONNREFUSED' }, 'an address that is no longer wanted is closed');
});
