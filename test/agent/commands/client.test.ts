/** The commands that ask a daemon. */

import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { callControl } from '../../../lib/control/client.ts';
import { socketPath } from '../../../lib/control/path.ts';
import { serveControl } from '../../../lib/control/server.ts';
import { silentLog } from '../../bfd/silent.ts';

const MAIN = fileURLToPath(new URL('../../../agent/main.ts', import.meta.url));

/** The policy of a member of a group. */
const GROUP = `
apiVersion: veg-agent.io/v1alpha1
kind: GatewayPolicy
metadata: { name: gateway1, namespace: default }
spec:
  internal: { gateways: [10.16.0.1] }
  external: { gateways: [172.17.0.1] }
  group: { members: [10.16.0.12, 10.16.0.13], keyFile: KEY }
`;

/** A daemon whose drain takes some time, ms; what it was asked, and how many drains have ended. */
async function daemon(t: Test, takes: number) {
  const dir = mkdtempSync(join(tmpdir(), 'veg-client-'));
  const asked: (string | null)[] = [];
  const ended = { count: 0 };
  const server = await serveControl(
    dir,
    {
      'POST /v1/drain': async ({ query }) => {
        asked.push(query.get('timeout'));
        await sleep(takes, undefined, { ref: false });
        ended.count++;
        return { status: 200, body: 'drained\n' };
      },
    },
    silentLog,
  );
  t.teardown(async () => {
    await server.close();
    rmSync(dir, { recursive: true });
  });
  return { dir, asked, ended, server };
}

function drain(dir: string, ...args: string[]) {
  const command = [MAIN, 'drain', '--state-dir', dir, ...args];
  let kill = (_signal: NodeJS.Signals): void => {};
  const result = new Promise<{ code: number; stdout: string; stderr: string }>((resolve) => {
    // The client's own idea of a drain timeout has no say.
    const env = { ...process.env, VEG_AGENT_DRAIN_TIMEOUT: '0s' };
    const child = execFile(process.execPath, command, { env }, (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }),
    );
    kill = (signal) => child.kill(signal);
  });
  return { result, kill: (signal: NodeJS.Signals) => kill(signal) };
}

t.test('drain waits as long as the daemon does', async (t) => {
  const { dir, asked } = await daemon(t, 6000);
  t.match(await drain(dir).result, { code: 0, stdout: 'drained\n', stderr: '' });
  t.strictSame(asked, [null]);
});

t.test('a timeout is seconds or a time', async (t) => {
  const { dir, asked } = await daemon(t, 0);
  for (const timeout of ['20', '1.5', '20s', '200ms']) {
    t.match(await drain(dir, '--timeout', timeout).result, { code: 0, stderr: '' });
  }
  t.strictSame(asked, ['20000ms', '1500ms', '20000ms', '200ms']);
});

t.test('nothing else is one', async (t) => {
  const { dir, asked } = await daemon(t, 0);
  for (const timeout of ['0', '0s', '-1', 'soon', '', '1d', '1e3', '2000000', '25h']) {
    const { code, stderr } = await drain(dir, `--timeout=${timeout}`).result;
    t.equal(code, 2, JSON.stringify(timeout));
    t.match(stderr, /--timeout must be seconds \(20\) or a time \(20s\), more than 0 and at most 24h/);
  }
  t.strictSame(asked, []);
});

t.test('a daemon that goes away meanwhile is an error that says so', async (t) => {
  const { dir, asked, server } = await daemon(t, 60_000);
  const call = t.rejects(
    callControl(dir, 'POST', '/v1/drain', { timeoutMs: 60_000 }),
    /closed the connection before it answered/,
  );
  const { result } = drain(dir);
  while (asked.length < 2) await sleep(10);
  await server.close();
  t.match(await result, {
    code: 1,
    stderr: `the agent on ${socketPath(dir)} closed the connection before it answered`,
  });
  await call;
});

t.test('a client that is interrupted says what it leaves behind', async (t) => {
  const { dir, asked } = await daemon(t, 60_000);
  const { result, kill } = drain(dir);
  while (asked.length < 1) await sleep(10);
  kill('SIGINT');
  t.match(await result, { code: 130, stderr: /the gateway stays drained until veg-agent undrain/ });
});

t.test('a client that leaves in the middle of an answer costs nothing', async (t) => {
  const { dir, asked, ended } = await daemon(t, 200);
  const socket = connect(socketPath(dir));
  socket.end('POST /v1/drain HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n');
  while (asked.length < 1) await sleep(10);
  socket.destroy();
  while (ended.count < 1) await sleep(10);
  t.match(await drain(dir).result, { code: 0, stdout: 'drained\n' });
});

t.test('plan asks the daemon, and its exit code says what the answer comes to', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'veg-client-'));
  let reply: { status: number; body: unknown };
  const asked: string[] = [];
  const server = await serveControl(
    dir,
    {
      'GET /v1/plan': async ({ query }) => {
        asked.push(`${query}`);
        return reply;
      },
    },
    silentLog,
  );
  t.teardown(async () => {
    await server.close();
    rmSync(dir, { recursive: true });
  });
  const plan = (answer: typeof reply, ...args: string[]) => {
    reply = answer;
    const command = [MAIN, 'plan', '--state-dir', dir, ...args];
    return new Promise<{ code: number; stdout: string; stderr: string }>((resolve) =>
      execFile(process.execPath, command, (error, stdout, stderr) =>
        resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }),
      ),
    );
  };
  const nothing = {
    schemaVersion: 'v1',
    changes: [],
    observed: true,
    families: [],
    notes: [],
    obstacles: [],
  };
  t.match(await plan({ status: 200, body: nothing }), {
    ...{ code: 0, stdout: '', stderr: 'veg-agent: nothing to do: the kernel is as the policy says\n' },
  });
  t.match(await plan({ status: 200, body: nothing }, '--json'), { code: 0, stdout: '{', stderr: '' });
  const changes = ['ip rule add a', 'ip rule add b'];
  t.match(await plan({ status: 200, body: { ...nothing, changes, notes: ['n'] } }), {
    ...{ code: 4, stdout: 'ip rule add a\nip rule add b\n', stderr: 'veg-agent: note: n\n' },
  });
  t.match(await plan({ status: 200, body: { ...nothing, obstacles: ['IPv4: no address'] } }), {
    ...{ code: 1, stdout: '', stderr: 'veg-agent: IPv4: no address\n' },
  });
  t.match(await plan({ status: 422, body: 'a.yaml:1:1: kind: wrong\n' }), {
    ...{ code: 3, stdout: '', stderr: 'a.yaml:1:1: kind: wrong\n' },
  });
  t.match(await plan({ status: 503, body: 'no policy was loaded yet\n' }), {
    ...{ code: 1, stderr: 'veg-agent: no policy was loaded yet\n' },
  });
  const elsewhere = await plan({ status: 409, body: 'other flags\n' }, '--policy-dir', join(dir, 'none'));
  t.equal(elsewhere.code, 3, 'another directory is looked at by the command itself');
  t.same(asked.at(0), '');
  t.match(asked.at(-1), /^policy-dir=/);
});

t.test('a user who may not use the socket gets an error, not what a missing daemon means', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'veg-client-'));
  const [stateDir, policyDir, keyFile] = ['state', 'policy', 'key'].map((name) => join(dir, name)) as [
    string,
    string,
    string,
  ];
  mkdirSync(stateDir, { mode: 0o000 });
  t.teardown(() => rmSync(dir, { recursive: true }));
  writeFileSync(keyFile, 'k'.repeat(40), { mode: 0o600 });
  mkdirSync(policyDir);
  writeFileSync(join(policyDir, 'policy.yaml'), GROUP.replace('KEY', keyFile));
  const may = `this user may not ask an agent on ${socketPath(stateDir)} (connect EACCES ${socketPath(stateDir)}); run the command as root, or as the user of the daemon`;
  const expected = {
    status: may,
    plan: may,
    apply: may,
    cleanup: `nothing was removed: ${may}`,
    drain: may,
    undrain: may,
    translations: may,
  };
  const user = process.getuid?.() === 0 ? ['setpriv', '--bounding-set=-all', '--inh-caps=-all'] : [];
  for (const [name, stderr] of Object.entries(expected)) {
    // Without a program to list the kernel with: what runs on this machine stays as it is.
    const [command = '', ...args] = [...user, 'env', 'PATH=/nonexistent', process.execPath, MAIN, name];
    args.push('--state-dir', stateDir, '--policy-dir', policyDir);
    const ended = await new Promise<{ code: number; stdout: string; stderr: string }>((resolve) =>
      execFile(command, args, (error, stdout, stderr) =>
        resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }),
      ),
    );
    t.match(ended, { code: 1, stdout: '' }, name);
    t.ok(ended.stderr.endsWith(`veg-agent: ${stderr}\n`), ended.stderr);
  }
});

t.test('a command beside the daemon lets the kernel kill it first', async (t) => {
  const { dir, asked } = await daemon(t, 60_000);
  const child = execFile(process.execPath, [MAIN, 'drain', '--state-dir', dir]);
  while (asked.length < 1) await sleep(10);
  t.equal(readFileSync(`/proc/${child.pid}/oom_score_adj`, 'utf8'), '1000\n');
  child.kill('SIGKILL');
});
