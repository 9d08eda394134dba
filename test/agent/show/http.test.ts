import { request } from 'node:http';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import pino from 'pino';
import t from 'tap';
import {
  acceptsGzip,
  HTTP_LIMITS,
  HttpListeners,
  isLoopbackHost,
  shareMetrics,
} from '../../../agent/show/http.ts';

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
    page: async () => ({ html: 'the page\n', policy: "default-src 'none'" }),
    data: {
      '/data/text': async () => ({ status: 409, body: 'not now\n' }),
      '/data/echo': async (query) => ({ status: 200, body: Object.fromEntries(query) }),
    },
  },
  pino({ level: 'silent' }),
);
const port = await freePort();
await http.listen([{ host: '127.0.0.1', port }]);
const sockets: Socket[] = [];
t.teardown(async () => {
  for (const socket of sockets) socket.destroy();
  await http.close();
});

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

/** Sends text as it is, and returns all that comes until the end. */
function raw(text: string): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(text));
    sockets.push(socket);
    let answer = '';
    socket.on('data', (part) => {
      answer += part;
    });
    socket.on('error', () => {});
    socket.on('close', () => resolve(answer));
  });
}

/** The status of a request with these header lines. */
const statusOf = async (target: string, ...headers: string[]): Promise<number> =>
  Number(
    (
      await raw(
        [
          'GET ',
          target,
          ' HTTP/1.1\r\n',
          ...headers.map((line) => `${line}\r\n`),
          'Connection: close\r\n\r\n',
        ].join(''),
      )
    ).split(' ')[1],
  );

t.test('the names of loopback are these, and no others', async (t) => {
  for (const host of [
    'localhost',
    'localhost:8080',
    'LOCALHOST',
    '127.0.0.1',
    '127.9.9.9:1',
    '[::1]',
    '[::1]:10669',
  ]) {
    t.ok(isLoopbackHost(host), host);
  }
  for (const host of [
    ...['', ' ', '127.attacker.example', '127.0.0.1.nip.io', '127.0.0.1.attacker.example:80', '127.0.0.1.'],
    ...[
      'localhost.attacker.example',
      'attacker.localhost',
      'localhost.',
      'localhost:',
      'localhost:x',
      'xlocalhost',
    ],
    ...[
      '127.1',
      '127.0.0.256',
      '127.0.0.01',
      '0127.0.0.1',
      '128.0.0.1',
      '2130706433',
      '0x7f000001',
      '127.0.0.1:123456',
    ],
    ...[
      '::1',
      '[::1',
      '[::1].example',
      '[::ffff:127.0.0.1]',
      '[0:0:0:0:0:0:0:1]',
      '[::2]',
      '0.0.0.0',
      '10.16.0.12',
    ],
    ...[
      '127.0.0.1, evil.example',
      'evil.example, 127.0.0.1',
      'evil@127.0.0.1',
      '127.0.0.1@evil',
      '127.0.0.1\n',
    ],
  ]) {
    t.notOk(isLoopbackHost(host), host);
  }
});

t.test('the page and its data are shown under a name of loopback only', async (t) => {
  for (const target of ['/', '/data/echo?a=b']) {
    t.equal(await statusOf(target, 'Host: 127.0.0.1'), 200);
    t.equal(await statusOf(target, 'Host: [::1]:10669', 'Origin: http://[::1]:10669'), 200);
    t.equal(await statusOf(`http://localhost:${port}${target}`, `Host: localhost:${port}`), 200);
    for (const headers of [
      ['Host: 127.attacker.example'],
      ['Host: 127.0.0.1.nip.io'],
      ['Host: localhost.attacker.example'],
      ['Host: [::ffff:127.0.0.1]'],
      ['Host: '],
      ['Host: 127.0.0.1', 'Host: evil.example'],
      ['Host: evil.example', 'Host: 127.0.0.1'],
      ['Host: 127.0.0.1', 'Host: 127.0.0.1'],
      ['Host: 127.0.0.1', 'Origin: http://evil.example'],
      ['Host: 127.0.0.1', 'Origin: null'],
    ]) {
      t.ok([400, 403].includes(await statusOf(target, ...headers)), headers.join(', '));
    }
    t.equal(await statusOf(`http://evil.example${target}`, 'Host: 127.0.0.1'), 403);
    t.equal(await statusOf(`http://127.0.0.1@evil.example${target}`, 'Host: 127.0.0.1'), 403);
    t.match(await raw(`GET ${target} HTTP/1.0\r\n\r\n`), /^HTTP\/1.1 403 /, 'no Host at all');
  }
  t.match(await raw('GET /livez HTTP/1.0\r\n\r\n'), /^HTTP\/1.1 200 /, 'a probe needs none');
  t.equal(await statusOf('http://evil.example/livez', 'Host: evil.example'), 200);
});

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
  const packed = await raw(
    'GET / HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n',
  );
  t.match(packed, /^Content-Encoding: gzip\r$/m);
  t.match(packed, /^Vary: Accept-Encoding\r$/m);
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

t.test('fault: a port that another program has is a problem until it is free, or not wanted', async (t) => {
  const other = createServer();
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
  const taken = { host: '127.0.0.1', port: (other.address() as AddressInfo).port };
  await http.listen([taken]);
  t.match(http.problems, [/^metrics and probes are not served on 127\.0\.0\.1 port \d+: .*EADDRINUSE/]);
  await http.listen([]);
  t.same(http.problems, []);
  await http.listen([taken]);
  t.equal(http.problems.length, 1);
  await new Promise((resolve) => other.close(resolve));
  await http.listen([taken]);
  t.same(http.problems, []);
  await http.listen([]);
});

t.test('gzip is for clients that accept it', async (t) => {
  for (const header of ['gzip', 'gzip, deflate, br', 'br;q=1.0, gzip;q=0.8', 'GZIP ; q=0.001']) {
    t.ok(acceptsGzip(header), header);
  }
  for (const header of [undefined, '', 'br', 'gzip;q=0', 'gzip; q=0.000', 'xgzip', 'identity']) {
    t.notOk(acceptsGzip(header), header ?? 'none');
  }
});

t.test('pipelined requests are answered in order, one at a time, and not without end', async (t) => {
  await http.listen([{ host: '127.0.0.1', port }]);
  const get = (path: string) => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n`;
  const answers = await raw(
    `${get('/metrics')}\r\n${get('/nothing')}\r\n${get('/metrics')}Connection: close\r\n\r\n`,
  );
  t.same(answers.match(/^(HTTP\/1.1 \d+|a_metric|not found)/gm), [
    ...['HTTP/1.1 200', 'a_metric', 'HTTP/1.1 404', 'not found', 'HTTP/1.1 200', 'a_metric'],
  ]);
  t.equal(await raw(`${get('/metrics')}\r\n`.repeat(100)), '', 'a hundred are too many');
});

t.test('a body is not read, and ends the connection', async (t) => {
  const answer = await raw(
    'POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nsome of it',
  );
  t.match(answer, /^HTTP\/1.1 405 .*Connection: close/s);
});

t.test('silent connections of one client give way to its next one', async (t) => {
  const silent = Array.from({ length: 3 * HTTP_LIMITS.perClient }, () => connect(port, '127.0.0.1'));
  sockets.push(...silent);
  let ended = 0;
  for (const socket of silent) socket.on('error', () => {}).on('close', () => ended++);
  t.equal((await call('/metrics')).status, 200);
  while (ended <= 2 * HTTP_LIMITS.perClient) await new Promise((resolve) => setTimeout(resolve, 10));
  t.equal(ended, 2 * HTTP_LIMITS.perClient + 1);
});

t.test('metrics are made once for all who ask meanwhile, and in a tenth of the time at most', async (t) => {
  let made = 0;
  let now = 0;
  const metrics = shareMetrics(
    async () => {
      made++;
      now += 30;
      return { type: 'text/plain', body: `made ${made}\n` };
    },
    () => now,
  );
  const [one, two] = await Promise.all([metrics(), metrics()]);
  t.equal(one, two, 'one text for all who ask at a time');
  t.equal(String((await metrics()).body), 'made 2\n', 'fresh for who asks next');
  let text = one;
  while (made < 100) {
    const before = made;
    text = await metrics();
    if (made === before) break;
  }
  t.equal(made, 19, 'half a second is left for it, and what comes back meanwhile');
  t.equal((await metrics()).body, text.body, 'then the same octets');
  now += 300;
  t.equal(String((await metrics()).body), 'made 20\n', 'a tenth of the time');
  let fail = true;
  const broken = shareMetrics(async () => {
    if (fail) throw new Error('broken');
    return { type: '', body: 'mended' };
  });
  await t.rejects(broken(), /broken/);
  fail = false;
  t.equal(String((await broken()).body), 'mended', 'a failure is not kept');
});
