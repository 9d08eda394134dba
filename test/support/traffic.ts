/** Running traffic through a gateway: the two ends of echo.ts in namespaces. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface, type Interface } from 'node:readline';
import type { Report } from './echo.ts';
import { PATIENCE } from './machine.ts';
import { type Daemon, type Namespace, NODE, ROOT, URGENTLY, until } from './netns.ts';

export type { Report } from './echo.ts';

/** The port of the echo server. */
export const ECHO_PORT = 8000;

const PROGRAM = `${ROOT}/test/support/echo.ts`;

/** Starts the server end and waits until it listens. */
export async function startEchoServer(ns: Namespace): Promise<Daemon> {
  const [file, ...args] = [...URGENTLY, NODE, PROGRAM, 'server', `${ECHO_PORT}`];
  const daemon = ns.spawn(file!, args, { name: 'echo' });
  await until(() => /:8000\b/.test(ns.sh('ss -Hltn')), { what: 'the echo server listens' });
  return daemon;
}

/** Connections held open from one namespace. */
export class Traffic {
  readonly #child: ChildProcess;
  readonly #lines: Interface;

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.#lines = createInterface({ input: child.stdout! });
  }

  /** Opens `tcp:HOST`, `udp:HOST`, `new:HOST` and `dial:HOST` paths (see echo.ts) and waits until each has had an answer. */
  static async open(ns: Namespace, paths: string[]): Promise<Traffic> {
    const program = [...URGENTLY, NODE, PROGRAM, 'client', `${ECHO_PORT}`, ...paths];
    const child = spawn('ip', ['netns', 'exec', ns.name, ...program], { stdio: ['pipe', 'pipe', 'inherit'] });
    const traffic = new Traffic(child);
    await until(async () => (await traffic.report()).every((r) => r.received > 0), {
      what: `an answer on every path of ${paths.join(' ')} from ${ns.name}`,
    });
    return traffic;
  }

  async #next(): Promise<Report[]> {
    const [line] = (await once(this.#lines, 'line', { signal: AbortSignal.timeout(PATIENCE) })) as [string];
    return JSON.parse(line) as Report[];
  }

  /** What each path has seen until now. */
  async report(): Promise<Report[]> {
    const next = this.#next();
    this.#child.stdin!.write('\n');
    return next;
  }

  /** What each path has seen since the last time, from when they count anew. */
  async restart(): Promise<Report[]> {
    const next = this.#next();
    this.#child.stdin!.write('restart\n');
    return next;
  }

  /** Stops sending, waits for what is under way and reports. */
  async close(): Promise<Report[]> {
    const next = this.#next();
    this.#child.stdin!.end();
    return next;
  }
}

/** One TCP connection: the source that the server at `host` sees, as `address port`. Throws without one. */
export async function sourceSeen(ns: Namespace, host: string): Promise<string> {
  const traffic = await Traffic.open(ns, [`tcp:${host}`]);
  const [report] = await traffic.close();
  return report!.seen;
}
