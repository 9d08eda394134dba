/**
 * Asks FRR's bgpd for its sessions, on the socket that `vtysh` uses, where it is there. A request takes at most a second and
 * reads at most 256 KiB; nothing waits for it.
 *
 * A command ends with a zero octet, its answer with three and the return code (lib/vty.c of FRR).
 */
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { type Clock, systemClock, type Timer } from '../../lib/clock.ts';
import { type BgpSession, parseSummary } from './sessions.ts';

const COMMAND = 'show bgp summary json\0';
const TIMEOUT = 1000;
const MAX_ANSWER = 256 << 10;
/** How often the sessions are asked for, ms. */
const PERIOD = 2000;
/** An answer is old after this time, ms. */
const OLD = 10_000;

/** The output of the command. Rejects when there is no socket, or no whole answer in time. */
export function askFrr(path: string, timeoutMs = TIMEOUT): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const socket = createConnection(path);
  const timer = setTimeout(() => socket.destroy(new Error(`no answer in ${timeoutMs} ms`)), timeoutMs);
  const parts: Buffer[] = [];
  let size = 0;
  socket.on('connect', () => socket.write(COMMAND));
  socket.on('data', (part: Buffer) => {
    parts.push(part);
    size += part.length;
    if (size > MAX_ANSWER) return void socket.destroy(new Error('the answer is too long'));
    const answer = Buffer.concat(parts);
    const end = answer.indexOf('\0\0\0');
    if (end < 0 || answer.length < end + 4) return;
    if (answer[end + 3] === 0) resolve(answer.subarray(0, end).toString('utf8'));
    else reject(new Error(`FRR returned ${answer[end + 3]}`));
    socket.destroy();
  });
  socket.on('error', reject);
  socket.on('close', () => {
    clearTimeout(timer);
    reject(new Error('FRR closed the connection'));
  });
  return promise;
}

export interface FrrSessionsParts {
  /** The directory of FRR's sockets. */
  directory: string;
  /** Whether the policy has BGP. */
  wanted(): boolean;
  ask?: typeof askFrr;
  clock?: Clock;
}

export class FrrSessions {
  readonly #parts: FrrSessionsParts;
  readonly #clock: Clock;
  readonly #timer: Timer;
  #last: { sessions: BgpSession[]; at: number } | undefined;
  #asking = false;

  constructor(parts: FrrSessionsParts) {
    this.#parts = parts;
    this.#clock = parts.clock ?? systemClock;
    this.#timer = this.#clock.every(PERIOD, () => this.#ask());
  }

  /** The sessions; undefined while FRR does not answer. */
  get sessions(): readonly BgpSession[] | undefined {
    if (this.#last === undefined || this.#clock.now() - this.#last.at > OLD) return undefined;
    return this.#last.sessions;
  }

  close(): void {
    this.#timer.cancel();
  }

  #ask(): void {
    const { directory, wanted, ask = askFrr } = this.#parts;
    if (this.#asking || !wanted()) return;
    this.#asking = true;
    const done = () => {
      this.#asking = false;
    };
    ask(join(directory, 'bgpd.vty'))
      .then((text) => {
        this.#last = { sessions: parseSummary(text), at: this.#clock.now() };
      })
      // It is not there, or not for this user: the kernel alone is shown.
      .then(done, done);
  }
}
