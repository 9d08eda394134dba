/** The client of the control socket (server.ts). It loads nothing of the server. */
import { request } from 'node:http';
import { socketPath } from './path.ts';

/** No agent answered on the socket. */
export class NoAgentError extends Error {
  /** Nothing listens on the socket. */
  readonly absent: boolean;

  constructor(message: string, absent = false) {
    super(message);
    this.absent = absent;
  }
}

/** Why no agent answers on the socket, and what to do. */
export function noAnswer(socket: string, { message, code }: NodeJS.ErrnoException): string {
  const help =
    code === 'EACCES'
      ? "run the command as the daemon's user"
      : 'is `veg-agent run` running, with the same --state-dir?';
  return `no agent answers on ${socket} (${message}); ${help}`;
}

/**
 * Calls a running agent. `path` is for example `/v1/status`, with its query. An infinite `timeoutMs` waits as long as the
 * agent takes. Throws `NoAgentError` if nothing listens, the agent exits, or no response comes within `timeoutMs`.
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
      const away = `the agent on ${socket} closed the connection before it answered (${error.message})`;
      reject(new NoAgentError(connected && !late ? away : noAnswer(socket, error), !connected && !late));
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
