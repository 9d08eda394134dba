/**
 * Files that may not be what they should be: a FIFO that waits for a writer, a device without an end, a link that
 * leads elsewhere. Shared by the BFD process and the agent, as libc.ts is.
 *
 * What is read is a regular file of a bounded size, opened without waiting for anybody. What is written is a new
 * file, mode 0600, that takes the old one's place whole; what stands in its way is removed and never written
 * through. There are two kinds:
 *
 * - State, in the state directory: never through a link, and of root, of this user or of the directory's owner. The
 *   content is not to be trusted all the same: in Kubernetes every container of the pod may write to the directory.
 * - Mounted, policy and secrets: the kubelet's links (`key → ..data/key → ..2026_…/key`) are followed.
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

/** The smallest piece that a file is read in, octets. */
const PIECE = 4096;
/** And of a large one. */
const LARGE_PIECE = 64 << 10;

/** Reads a file that somebody mounts or names. Throws for all but a regular file of at most so many octets. */
export function readMounted(path: string, maxBytes: number): Buffer {
  // A device must not even be opened: that alone may do something.
  checkKind(path, statSync(path), maxBytes);
  return readAll(path, O_NONBLOCK | O_NOCTTY, maxBytes);
}

/** The same, a large one, piece by piece; a piece is good until the next one. */
export function* piecesOfMounted(path: string, maxBytes: number): Generator<Buffer> {
  checkKind(path, statSync(path), maxBytes);
  const fd = openSync(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  try {
    checkKind(path, fstatSync(fd), maxBytes);
    const piece = Buffer.allocUnsafe(LARGE_PIECE);
    let total = 0;
    for (let length = readSync(fd, piece); length > 0; length = readSync(fd, piece)) {
      total += length;
      // It may grow while it is read.
      if (total > maxBytes) throw tooLarge(path, maxBytes);
      yield piece.subarray(0, length);
    }
  } finally {
    closeSync(fd);
  }
}

/** Reads a file of the state directory; undefined when there is none. Throws when it is not what it should be. */
export function readState(path: string, maxBytes: number): Buffer | undefined {
  if (!checkState(path, maxBytes)) return undefined;
  return readAll(path, O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, maxBytes);
}

/** Whether a file of the state directory is there. Throws when it is not what it should be. */
export function checkState(path: string, maxBytes: number): boolean {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return false;
  checkKind(path, stat, maxBytes);
  const owners = [0, process.geteuid?.(), statSync(dirname(path)).uid];
  if (!owners.includes(stat.uid)) throw new Error(`${path} belongs to another user (uid ${stat.uid})`);
  return true;
}

/** Puts a file with this content in the place of the old one, mode 0600. Throws, and then the old one stays. */
export function replaceState(path: string, content: readonly (string | Uint8Array)[]): void {
  closeSync(replaceOpen(path, content));
}

/** The same, and the file stays open for writing. Returns its descriptor. */
export function replaceOpen(path: string, content: readonly (string | Uint8Array)[]): number {
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

/** Makes a directory of our own in the state directory, mode 0700. What stands there and is none is removed. */
export function makeOwnDirectory(path: string): void {
  mkdirSync(dirname(path), { recursive: true });
  if (lstatSync(path, { throwIfNoEntry: false })?.isDirectory()) return;
  clear(path);
  mkdirSync(path, { mode: 0o700 });
}

/** Removes whatever is there, a directory with what is in it; a link, not what it leads to. */
export function clear(path: string): void {
  rmSync(path, { recursive: true, force: true });
}

/** Creates a file, in the place of what a crash or somebody else has left there. */
function create(path: string): number {
  return clearing(path, () => openSync(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600));
}

/** Does something that makes a file. What is in the way is removed. */
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
    for (let piece = Math.max(stat.size + 1, PIECE); ; piece = PIECE) {
      const part = Buffer.allocUnsafe(Math.min(piece, maxBytes + 1 - total));
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

/** What stands there, with its article. */
export function kindOf(stat: Stats): string {
  if (stat.isDirectory()) return 'a directory';
  if (stat.isSymbolicLink()) return 'a symbolic link';
  if (stat.isFIFO()) return 'a FIFO';
  if (stat.isSocket()) return 'a socket';
  return stat.isFile() ? 'a regular file' : 'a device';
}
