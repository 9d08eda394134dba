/**
 * Runs programs; nothing else starts child processes: an argv array, text in, text out, no shell, the C locale, a timeout.
 */
import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';

export interface ExecResult {
  stdout: string;
  stderr: string;
  /** -1 if the program could not be started, was killed or timed out; `stderr` then has the reason. */
  exitCode: number;
}

export type Exec = (
  file: string,
  args: string[],
  options?: { input?: string; timeoutMs?: number },
) => Promise<ExecResult>;

const DEFAULT_TIMEOUT_MS = 20_000;

/** How long an exited child is remembered, ms: events about its last changes may arrive later. */
const REMEMBER_TIME = 10_000;

/** When the children of this process exited, by process id; infinite while they run. */
const children = new Map<number, number>();

/** Whether a process is a child of this one, or was until `REMEMBER_TIME` ago. */
export const isChild = (pid: number): boolean =>
  (children.get(pid) ?? Number.NEGATIVE_INFINITY) > performance.now() - REMEMBER_TIME;

function remember(pid: number | undefined, until: number): void {
  const old = performance.now() - REMEMBER_TIME;
  for (const [known, endedAt] of children) if (endedAt < old) children.delete(known);
  if (pid !== undefined) children.set(pid, until);
}

/** The search path if PATH is unset. */
const TOOL_DIRECTORIES = ['/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/local/bin', '/usr/bin', '/bin'];

const searchPath = (): string => process.env.PATH ?? TOOL_DIRECTORIES.join(':');

/** Whether `exec` finds a program in its search path that this user may run. */
export const isInstalled = (program: string): boolean =>
  searchPath()
    .split(':')
    .some((directory) => {
      try {
        accessSync(join(directory, program), constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });

/** The environment of a program. */
export const programEnvironment = (): Record<string, string> => ({
  LC_ALL: 'C',
  PATH: searchPath(),
  // A user other than root cannot write to the default lock file of iptables-legacy.
  ...(process.env.XTABLES_LOCKFILE && { XTABLES_LOCKFILE: process.env.XTABLES_LOCKFILE }),
});

/** Runs a program until it exits. Never throws: a failure is in the result. */
export const exec: Exec = async (file, args, { input, timeoutMs = DEFAULT_TIMEOUT_MS } = {}) => {
  // As large as the rest of what an agent process needs to answer: not before it is wanted.
  const { execa } = await import('execa');
  // An argument with a NUL is no result but an exception.
  if (args.some((text) => text.includes('\0'))) {
    return { stdout: '', stderr: `${file}: an argument with a NUL`, exitCode: -1 };
  }
  const child = execa(file, args, {
    reject: false,
    stripFinalNewline: false,
    extendEnv: false,
    env: programEnvironment(),
    timeout: timeoutMs,
    ...(input === undefined ? { stdin: 'ignore' as const } : { input }),
  });
  remember(child.pid, Number.POSITIVE_INFINITY);
  const result = await child;
  remember(child.pid, performance.now());
  const { stdout, stderr } = result;
  if (result.exitCode !== undefined) return { stdout, stderr, exitCode: result.exitCode };
  const reason = result.timedOut
    ? `${file}: timed out after ${timeoutMs / 1000} s`
    : result.code === 'ENOENT'
      ? `${file}: not found`
      : result.signal === undefined
        ? (result.originalMessage ?? result.shortMessage ?? `${file} has failed`)
        : `${file}: killed by ${result.signal}`;
  return { stdout, stderr: [stderr, reason].filter(Boolean).join('\n'), exitCode: -1 };
};
