/**
 * The state directory of a daemon, and the promise that no other daemon has it.
 *
 * The lock is flock(2) on the directory itself: it is there on a full or read-only file system, it counts between
 * containers that share the volume and nothing else, whatever the directory is called there, and the kernel takes
 * it back the moment the process ends, however it ends. What a daemon starts does not inherit it (O_CLOEXEC).
 */
import { accessSync, closeSync, constants, fstatSync, mkdirSync, openSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { flock } from './libc.ts';

/** A daemon that was told to end may still be about to: so long is waited for it, ms. */
const PATIENCE = 500;
const RETRY = 10;

/** The state directory cannot be had. The message names it and says what to do. */
export class StateDirError extends Error {}

const codeOf = (error: unknown): string | undefined => (error as NodeJS.ErrnoException).code;

/** Makes a directory and those above it. (Node's own `recursive` never returns where the kernel lets nobody make one.) */
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

/** Opens the directory, which is made where it is missing. Throws `StateDirError`. */
function open(path: string): number {
  try {
    make(path);
    const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      accessSync(path, constants.W_OK | constants.X_OK);
    } catch (error) {
      // A read-only file system is lived with, as a full one is: a gateway is not given up for it.
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

/** Locks an open directory; false where another process has it. Throws `StateDirError`. */
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

/** A state directory that is this process's own as long as it lives. */
export class StateDir {
  readonly path: string;
  #fd: number;

  private constructor(path: string, fd: number) {
    this.path = path;
    this.#fd = fd;
  }

  /** Takes the directory for this process. Throws `StateDirError`. */
  static async take(path: string): Promise<StateDir> {
    const fd = open(path);
    const end = performance.now() + PATIENCE;
    while (!lock(fd, path)) {
      if (performance.now() > end) {
        throw new StateDirError(
          `another daemon uses the state directory ${path}; end it, or give this one another with --state-dir`,
        );
      }
      await sleep(RETRY);
    }
    return new StateDir(path, fd);
  }

  /**
   * Takes the directory that now has the name, where the one that was taken has been removed. Throws
   * `StateDirError` when another daemon was faster.
   */
  keep(): void {
    const [held, named] = [fstatSync(this.#fd), statSync(this.path, { throwIfNoEntry: false })];
    if (named?.ino === held.ino && named.dev === held.dev) return;
    const fd = open(this.path);
    if (!lock(fd, this.path)) {
      closeSync(fd);
      throw new StateDirError(`another daemon has made the state directory ${this.path} its own`);
    }
    closeSync(this.#fd);
    this.#fd = fd;
  }
}
