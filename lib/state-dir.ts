/**
 * The state directory of a daemon, locked so that no other daemon uses it.
 *
 * The lock is flock(2) on the directory itself. It works on a full or read-only file system, it holds between containers
 * that share nothing but the volume, whatever its path there, and the kernel releases it when the process exits for
 * whatever reason. Child processes do not inherit it (O_CLOEXEC).
 */
import { accessSync, closeSync, constants, fstatSync, mkdirSync, openSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { flock } from './libc.ts';

/**
 * How long to wait for the daemon that holds the lock to exit, ms. Long enough to start the next one beside it and then
 * end it: the sessions change hands while their peers notice nothing (docs/install.md).
 */
const LOCK_TIMEOUT = 5000;
const RETRY_INTERVAL = 10;

/** The state directory cannot be used. The message names it and has what to do. */
export class StateDirError extends Error {}

const codeOf = (error: unknown): string | undefined => (error as NodeJS.ErrnoException).code;

/** Creates a directory and its parents. (Node's `recursive` never returns where the kernel forbids it.) */
function make(path: string): void {
  try {
    mkdirSync(path, 0o755);
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return;
    if (codeOf(error) !== 'ENOENT' || dirname(path) === path) throw error;
    make(dirname(path));
    mkdirSync(path, 0o755);
  }
}

/** Opens the directory, and creates it if it is missing. Throws `StateDirError`. */
function open(path: string): number {
  try {
    make(path);
    const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      accessSync(path, constants.W_OK | constants.X_OK);
    } catch (error) {
      // A gateway works on a read-only file system, as it does on a full one.
      if (codeOf(error) !== 'EROFS') {
        closeSync(fd);
        throw error;
      }
    }
    return fd;
  } catch (error) {
    throw new StateDirError(
      `the state directory ${path} cannot be used: ${(error as Error).message}; make it writable for this user, or name another one with --state-dir`,
    );
  }
}

/** Locks an open directory; false if another process holds the lock. Throws `StateDirError`. */
function lock(fd: number, path: string): boolean {
  try {
    flock(fd);
    return true;
  } catch (error) {
    if (codeOf(error) === 'EAGAIN') return false;
    throw new StateDirError(
      `the state directory ${path} cannot be locked: ${(error as Error).message}; put it on a tmpfs or an emptyDir`,
    );
  }
}

/** A state directory that this process holds until it exits. */
export class StateDir {
  readonly path: string;
  #fd: number;

  private constructor(path: string, fd: number) {
    this.path = path;
    this.#fd = fd;
  }

  /**
   * Creates and locks the directory. Throws `StateDirError`.
   * @param onWait called once when another daemon holds the lock
   * @param timeout how long to wait for that one to exit, ms
   */
  static async acquire(
    path: string,
    { onWait, timeout = LOCK_TIMEOUT }: { onWait?: () => void; timeout?: number } = {},
  ): Promise<StateDir> {
    const fd = open(path);
    const end = performance.now() + timeout;
    for (let waits = 0; !lock(fd, path); waits++) {
      if (waits === 0) onWait?.();
      if (performance.now() > end) {
        closeSync(fd);
        throw new StateDirError(
          `another daemon uses the state directory ${path}; end it, or give this one another with --state-dir`,
        );
      }
      await sleep(RETRY_INTERVAL);
    }
    return new StateDir(path, fd);
  }

  /**
   * Recreates and locks the directory if it was removed. Throws `StateDirError` if another daemon was faster.
   */
  ensure(): void {
    const [held, named] = [fstatSync(this.#fd), statSync(this.path, { throwIfNoEntry: false })];
    if (named?.ino === held.ino && named.dev === held.dev) return;
    const fd = open(this.path);
    if (!lock(fd, this.path)) {
      closeSync(fd);
      throw new StateDirError(`another daemon has recreated and locked the state directory ${this.path}`);
    }
    closeSync(this.#fd);
    this.#fd = fd;
  }
}
