/**
 * Reads and writes files that may not be what they should be: a FIFO that blocks, an endless device, a symbolic link.
 *
 * Only regular files of a bounded size are read, and opening one never blocks. A write creates a new file, mode 0600,
 * and renames it over the old one; anything else at that path is removed and never written through. There are two kinds:
 *
 * - State files, in the state directory: symbolic links are refused, and so are files that belong to neither root, this
 *   user nor the owner of the directory. Their content is untrusted all the same: in Kubernetes every container of the
 *   pod may write to the directory.
 * - Mounted files, policy and secrets: the kubelet's links (`key → ..data/key → ..2026_…/key`) are followed.
 */
import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  type Stats,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';

const { O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_NOCTTY } = constants;

/** The smallest chunk that a file is read in, octets. */
const CHUNK = 4096;
/** The chunk of a large file, octets. */
const LARGE_CHUNK = 64 << 10;

/** Why a file cannot be read, by errno. */
export const READ_ERRORS: Readonly<Record<string, string>> = {
  ENOENT: 'no such file or directory',
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  EIO: 'input/output error',
  ESTALE: 'stale file handle',
  ENOTCONN: 'the mount is not connected',
};

/** The message of an error of reading a file; of an errno in words, with the file. */
export function readProblem(error: Error): string {
  const { code = '', path, message } = error as NodeJS.ErrnoException;
  const reason = READ_ERRORS[code];
  return reason === undefined || path === undefined ? message : `${path} cannot be read: ${reason}`;
}

/** Reads a mounted file, or one named on the command line. Throws unless it is a regular file of at most `maxBytes`. */
export function readMounted(path: string, maxBytes: number): Buffer {
  // Opening a device may already have an effect.
  checkKind(path, statSync(path), maxBytes);
  return readAll(path, O_NONBLOCK | O_NOCTTY, maxBytes);
}

/** Reads a mounted secret. Throws like `readMounted`, and for a file that any user of the machine may read. */
export function readSecret(path: string, maxBytes: number): Buffer {
  refuseReadableByOthers(path);
  return readMounted(path, maxBytes);
}

/** Throws for a file that any user of the machine may read, and for what is no file. */
export function refuseReadableByOthers(path: string): void {
  const stat = statSync(path);
  checkKind(path, stat, Number.POSITIVE_INFINITY);
  if ((stat.mode & 0o007) === 0) return;
  const octal = (stat.mode & 0o777).toString(8).padStart(4, '0');
  throw new Error(`${path} has mode ${octal}: other users can read it; mount it with defaultMode: 0400`);
}

/** Reads a large mounted file chunk by chunk. A chunk is valid until the next one. */
export function* chunksOfMounted(path: string, maxBytes: number): Generator<Buffer> {
  checkKind(path, statSync(path), maxBytes);
  const fd = openSync(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  try {
    checkKind(path, fstatSync(fd), maxBytes);
    const chunk = Buffer.allocUnsafe(LARGE_CHUNK);
    let total = 0;
    for (let length = readSync(fd, chunk); length > 0; length = readSync(fd, chunk)) {
      total += length;
      // It may grow while it is read.
      if (total > maxBytes) throw tooLarge(path, maxBytes);
      yield chunk.subarray(0, length);
    }
  } finally {
    closeSync(fd);
  }
}

/** Reads a state file; undefined if there is none. Throws if it is not a valid state file. */
export function readState(path: string, maxBytes: number): Buffer | undefined {
  if (!checkState(path, maxBytes)) return undefined;
  return readAll(path, O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, maxBytes);
}

/** Whether a state file exists. Throws if it is not a valid state file. */
export function checkState(path: string, maxBytes: number): boolean {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return false;
  checkKind(path, stat, maxBytes);
  const owners = [0, process.geteuid?.(), statSync(dirname(path)).uid];
  if (!owners.includes(stat.uid)) throw new Error(`${path} belongs to another user (uid ${stat.uid})`);
  return true;
}

/** Replaces a state file atomically, mode 0600. If it throws, the old file is unchanged. */
export function replaceState(path: string, content: Iterable<string | Uint8Array>): void {
  closeSync(replaceOpen(path, content));
}

/** Replaces a state file as `replaceState` does, and returns the descriptor, open for writing. */
export function replaceOpen(path: string, content: Iterable<string | Uint8Array>): number {
  const draft = `${path}.new`;
  const fd = create(draft);
  try {
    for (const part of content) writeFileSync(fd, part);
    clearing(path, () => renameSync(draft, path));
  } catch (error) {
    closeSync(fd);
    rmSync(draft, { force: true });
    throw error;
  }
  return fd;
}

/** Creates a directory in the state directory, mode 0700. Anything else at that path is removed. */
export function makeOwnDirectory(path: string): void {
  mkdirSync(dirname(path), { recursive: true });
  if (lstatSync(path, { throwIfNoEntry: false })?.isDirectory()) return;
  clear(path);
  mkdirSync(path, { mode: 0o700 });
}

/** Removes whatever is at a path: a directory with its content, a link but not its target. */
export function clear(path: string): void {
  rmSync(path, { recursive: true, force: true });
}

/** Creates a file; anything left at that path is removed. */
function create(path: string): number {
  return clearing(path, () => openSync(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600));
}

/** Runs `make`; if something else is at the path, removes it and runs `make` again. */
function clearing<T>(path: string, make: () => T): T {
  try {
    return make();
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException;
    if (!['EEXIST', 'EISDIR', 'ENOTEMPTY'].includes(code)) throw error;
    clear(path);
    return make();
  }
}

function readAll(path: string, flags: number, maxBytes: number): Buffer {
  const fd = openSync(path, O_RDONLY | flags);
  try {
    const stat = fstatSync(fd);
    checkKind(path, stat, maxBytes);
    const parts: Buffer[] = [];
    let total = 0;
    // It may grow while it is read.
    for (let chunk = Math.max(stat.size + 1, CHUNK); ; chunk = CHUNK) {
      const part = Buffer.allocUnsafe(Math.min(chunk, maxBytes + 1 - total));
      const length = readSync(fd, part, 0, part.length, null);
      if (length === 0) return parts.length === 1 ? parts[0]! : Buffer.concat(parts, total);
      parts.push(part.subarray(0, length));
      total += length;
      if (total > maxBytes) throw tooLarge(path, maxBytes);
    }
  } finally {
    closeSync(fd);
  }
}

function checkKind(path: string, stat: Stats, maxBytes: number): void {
  if (!stat.isFile()) throw new Error(`${path} is ${kindOf(stat)}, not a regular file`);
  if (stat.size > maxBytes) throw tooLarge(path, maxBytes);
}

const tooLarge = (path: string, maxBytes: number): Error =>
  new Error(`${path} is larger than ${maxBytes} octets`);

/** What kind of file it is, with its article. */
export function kindOf(stat: Stats): string {
  if (stat.isDirectory()) return 'a directory';
  if (stat.isSymbolicLink()) return 'a symbolic link';
  if (stat.isFIFO()) return 'a FIFO';
  if (stat.isSocket()) return 'a socket';
  return stat.isFile() ? 'a regular file' : 'a device';
}
