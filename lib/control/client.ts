/** The client of the control socket (lib/control/server.ts), which loads nothing of the server. */
import { request } from 'node:http';
import { socketPath } from './path.ts';

/** No agent answers on the socket. */
export class NoAgentError extends Error {
  /** Nobody listens there. */
  readonly absent: boolean;

  constructor(message: string, absent = false) {
    super(message);
    this.absent = absent;
  }
}

/**
 * Calls a running agent. `path` is `/v1/status`, with its query. Infinite `timeoutMs`: as long as the agent takes.
 * Throws `NoAgentError` when nobody listens, the agent goes away, or no answer comes in `timeoutMs`.
 */
export function callControl(
  stateDir: string,
  method: 'GET' | 'POST',
  path: string,
  { body = '', timeoutMs = 5000 }: { body?: string; timeoutMs?: number } = {},
): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const socket = socketPath(stateDir);
    let connected = false;
    let late = false;
    const fail = (error: Error) => {
      const away = `the agent on ${socket} went away before it had answered (${error.message})`;
      const absent = `no agent answers on ${socket} (${error.message}); is \`veg-agent run\` running, with the same --state-dir?`;
      reject(new NoAgentError(connected && !late ? away : absent, !connected && !late));
    };
    const call = request(
      {
        socketPath: socket,
        method,
        path,
        agent: false,
        headers: { 'Content-Length': Buffer.byteLength(body) },
      },
      (response) => {
        const parts: Buffer[] = [];
        response.on('data', (part: Buffer) => parts.push(part));
        response.on('error', fail);
        response.on('end', () =>
          resolve({ status: response.statusCode ?? 0, body: Buffer.concat(parts).toString('utf8') }),
        );
      },
    );
    call.on('socket', (used) =>
      used.on('connect', () => {
        connected = true;
      }),
    );
    if (Number.isFinite(timeoutMs)) {
      call.setTimeout(timeoutMs, () => {
        late = true;
        call.destroy(new Error(`no answer in ${timeoutMs / 1000} s`));
      });
    }
    call.on('error', fail);
    call.end(body);
  });
}
