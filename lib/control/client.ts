/** The client of the control socket (server.ts). It loads nothing of the server. */
import { request } from 'node:http';
import { socketPath } from './path.ts';

/**
 * Why no agent answered: nothing listens on the socket; this user may not use it, so that nobody knows; or what listens did not
 * answer.
 */
export type NoAgentCause = 'absent' | 'denied' | 'silent';

/** No agent answered on the socket. */
export class NoAgentError extends Error {
  readonly why: NoAgentCause;

  constructor(message: string, why: NoAgentCause = 'silent') {
    super(message);
    this.why = why;
  }
}

/** The error of a socket that cannot be connected to, with what to do. */
function unreachable(socket: string, { message, code = '' }: NodeJS.ErrnoException): NoAgentError {
  if (code === 'EACCES' || code === 'EPERM') {
    const help = 'run the command as root, or as the user of the daemon';
    return new NoAgentError(`this user may not ask an agent on ${socket} (${message}); ${help}`, 'denied');
  }
  // EAGAIN: connections wait to be accepted.
  return new NoAgentError(noAnswer(socket, message), code === 'EAGAIN' ? 'silent' : 'absent');
}

/**
 * Why a command may not do by itself what a daemon on this state directory does: `runs`, if one serves the socket, also one that
 * hangs or ends meanwhile; or that this user cannot know. Undefined: there is none.
 */
export async function daemonObstacle(stateDir: string, runs: string): Promise<string | undefined> {
  try {
    await callControl(stateDir, 'GET', '/');
  } catch (error) {
    if (!(error instanceof NoAgentError)) throw error;
    if (error.why === 'absent') return undefined;
    if (error.why === 'denied') return error.message;
  }
  return runs;
}

const noAnswer = (socket: string, reason: string): string =>
  `no agent answers on ${socket} (${reason}); is \`veg-agent run\` running, with the same --state-dir?`;

/**
 * Calls a running agent. `path` is for example `/v1/status`, with its query. An infinite `timeoutMs` waits as long as the
 * agent takes. Throws `NoAgentError` if nothing listens, this user may not ask, the agent exits, or no response comes within
 * `timeoutMs`.
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
      if (late) reject(new NoAgentError(noAnswer(socket, error.message)));
      else reject(connected ? new NoAgentError(away) : unreachable(socket, error));
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
