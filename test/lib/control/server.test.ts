import { execFileSync } from 'node:child_process';
import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pino from 'pino';
import t, { type Test } from 'tap';
import { callControl, NoAgentError } from '../../../lib/control/client.ts';
import { socketPath } from '../../../lib/control/path.ts';
import { serveControl } from '../../../lib/control/server.ts';

const silent = pino({ level: 'silent' });

function stateDir(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'veg-control-'));
  t.teardown(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

async function serve(t: Test, dir = stateDir(t)) {
  const server = await serveControl(
    dir,
    {
      'GET /v1/status': async ({ query }) => ({ status: 200, body: { asked: query.get('q') } }),
      'POST /v1/bfdd': async ({ body }) => ({ status: 200, body: `${body.toUpperCase()}\n` }),
      'POST /v1/broken': async () => {
        throw new Error('broken on purpose');
      },
    },
    silent,
  );
  t.teardown(() => server.close());
  return dir;
}

t.test('answers JSON and text over the unix socket, mode 0600', async (t) => {
  const dir = await serve(t);
  t.equal(statSync(socketPath(dir)).mode & 0o777, 0o600);
  t.strictSame(await callControl(dir, 'GET', '/v1/status?q=1'), { status: 200, body: '{"asked":"1"}\n' });
  t.strictSame(await callControl(dir, 'POST', '/v1/bfdd', { body: 'status' }), {
    status: 200,
    body: 'STATUS\n',
  });
});

t.test('an unknown path is 404, another method 405, a failing handler 500, a large body 413', async (t) => {
  const dir = await serve(t);
  t.equal((await callControl(dir, 'GET', '/v1/nothing')).status, 404);
  t.equal((await callControl(dir, 'POST', '/v1/status')).status, 405);
  t.strictSame(await callControl(dir, 'POST', '/v1/broken'), { status: 500, body: 'broken on purpose\n' });
  t.equal((await callControl(dir, 'POST', '/v1/bfdd', { body: 'x'.repeat(20_000) })).status, 413);
});

t.test('clients that hang do not hold up the next one', async (t) => {
  const dir = await serve(t);
  const hung: Socket[] = [];
  for (let i = 0; i < 20; i++) {
    const socket = connect(socketPath(dir));
    socket.write('POST /v1/bfdd HTTP/1.1\r\nContent-Length: 100\r\n\r\nsta');
    hung.push(socket);
  }
  t.equal((await callControl(dir, 'POST', '/v1/bfdd', { body: 'x' })).body, 'X\n');
  for (const socket of hung) socket.destroy();
});

t.test('no agent is an error of its own that says where it looked', async (t) => {
  const dir = stateDir(t);
  const error = await callControl(dir, 'GET', '/v1/status').catch((reason: unknown) => reason);
  t.ok(error instanceof NoAgentError);
  t.match((error as Error).message, socketPath(dir));
});

t.test('takes the place of a dead socket, not of a living agent', async (t) => {
  const dir = await serve(t);
  await t.rejects(serveControl(dir, {}, silent), { message: /another daemon serves/ });
  const dead = stateDir(t);
  writeFileSync(socketPath(dead), '');
  await serve(t, dead);
  t.equal((await callControl(dead, 'GET', '/v1/status')).status, 200);
});

t.test('takes the place of whatever stands there, and of a link, not of what it leads to', async (t) => {
  const other = await serve(t);
  const target = join(stateDir(t), 'target');
  writeFileSync(target, 'precious');
  for (const make of [
    (path: string) => symlinkSync(socketPath(other), path),
    (path: string) => symlinkSync(target, path),
    (path: string) => execFileSync('mkfifo', [path]),
    (path: string) => {
      mkdirSync(path);
      writeFileSync(join(path, 'inside'), '');
    },
  ]) {
    const dir = stateDir(t);
    make(socketPath(dir));
    await serve(t, dir);
    t.equal((await callControl(dir, 'GET', '/v1/status')).status, 200);
    t.equal(lstatSync(socketPath(dir)).mode & 0o777, 0o600);
  }
  t.equal((await callControl(other, 'GET', '/v1/status')).status, 200);
  t.equal(readFileSync(target, 'utf8'), 'precious');
});

t.test('a deleted socket comes back', async (t) => {
  const dir = await serve(t);
  unlinkSync(socketPath(dir));
  let status = 0;
  for (let i = 0; i < 100 && status !== 200; i++) {
    await sleep(50);
    status = await callControl(dir, 'GET', '/v1/status').then(
      (reply) => reply.status,
      () => 0,
    );
  }
  t.equal(status, 200);
});

t.test('a directory that cannot be written is waited for', async (t) => {
  const file = join(stateDir(t), 'state');
  writeFileSync(file, 'in the way');
  await serve(t, file);
  await t.rejects(callControl(file, 'GET', '/v1/status'), { message: /no agent answers/ });
  unlinkSync(file);
  let status = 0;
  for (let i = 0; i < 100 && status !== 200; i++) {
    await sleep(50);
    status = await callControl(file, 'GET', '/v1/status').then(
      (reply) => reply.status,
      () => 0,
    );
  }
  t.equal(status, 200);
});
