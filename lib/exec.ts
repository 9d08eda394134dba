/**
 * The only way to a child process: an argv array, text in, text out, no shell, the C locale, a time limit.
 */
import { execa } from 'execa';

export interface ExecResult {
  stdout: string;
  stderr: string;
  /** -1 when the program could not be started, was killed or ran out of time; `stderr` then says why. */
  exitCode: number;
}

export type Exec = (
  file: string,
  args: string[],
  options?: { input?: string; timeoutMs?: number },
) => Promise<ExecResult>;

const DEFAULT_TIMEOUT_MS = 20_000;

/** How long a process that has ended is still known, ms: what it did last may be told later. */
const REMEMBERED = 10_000;

/** When the children of this process ended, by process id. */
const children = new Map<number, number>();

/** Whether a process is a child of this one, or was until a moment ago. */
export const isChild = (pid: number): boolean =>
  (children.get(pid) ?? Number.NEGATIVE_INFINITY) > performance.now() - REMEMBERED;

function remember(pid: number | undefined, until: number): void {
  const old = performance.now() - REMEMBERED;
  for (const [known, endedAt] of children) if (endedAt < old) children.delete(known);
  if (pid !== undefined) children.set(pid, until);
}

/** Where the tools of an image live when PATH was trimmed. */
const TOOL_DIRECTORIES = ['/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/local/bin', '/usr/bin', '/bin'];

/** Runs a program to its end. Never throws: what went wrong is in the result. */
export const exec: Exec = async (file, args, { input, timeoutMs = DEFAULT_TIMEOUT_MS } = {}) => {
  const child = execa(file, args, {
    reject: false,
    stripFinalNewline: false,
    extendEnv: false,
    env: {
      LC_ALL: 'C',
      PATH: process.env.PATH ?? TOOL_DIRECTORIES.join(':'),
      // Where a user other than root can lock the legacy tables.
      ...(process.env.XTABLES_LOCKFILE && { XTABLES_LOCKFILE: process.env.XTABLES_LOCKFILE }),
    },
    timeout: timeoutMs,
    ...(input === undefined ? { stdin: 'ignore' as const } : { input }),
  });
  remember(child.pid, Number.POSITIVE_INFINITY);
  const result = await child;
  remember(child.pid, performance.now());
  const { stdout, stderr } = result;
  if (result.exitCode !== undefined) return { stdout, stderr, exitCode: result.exitCode };
  const reason = result.timedOut
    ? `${file}: no end after ${timeoutMs / 1000} s`
    : result.code === 'ENOENT'
      ? `${file}: not found`
      : (result.originalMessage ?? result.shortMessage ?? `${file}: ended by ${result.signal}`);
  return { stdout, stderr: [stderr, reason].filter(Boolean).join('\n'), exitCode: -1 };
};
