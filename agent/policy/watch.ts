/**
 * The policy directory as text: read whole, and read again when it changes.
 *
 * A ConfigMap is mounted as a `..data` symlink that is swapped from one directory to the next, with a symlink
 * through it for each file; both this and a plain directory are watched. inotify reports a change at once,
 * and reading the files' metadata every 400 ms finds what inotify cannot report (a new or removed mount, a
 * link to elsewhere, a watch that could not be created).
 */
import fs from 'node:fs';
import path from 'node:path';
import { StringDecoder } from 'node:string_decoder';
import v8 from 'node:v8';
import { systemClock, type Timer } from '../../lib/clock.ts';
import { digest } from '../../lib/digest.ts';
import { chunksOfMounted, kindOf, READ_ERRORS, readMounted } from '../../lib/files.ts';
import { DEFAULT_TOKENS, MAX_FILE_SIZE, MAX_RAW_SIZE, MAX_SET_SIZE, SMALL_SET } from './bounds.ts';
import type { PolicyFile } from './model.ts';
import { Sieve, type Sieved } from './sieve.ts';

/** What the agent needs of its heap besides the documents, octets. */
const AGENT_HEAP = 16 << 20;
/** And a command. Its heap is smaller by the difference (images/gateway/rootfs/usr/libexec/veg-agent/launch). */
export const COMMAND_HEAP = 4 << 20;

/**
 * How many YAML tokens (see `loadPolicy`) this process can afford: what its heap may grow to, less what it needs besides,
 * in tokens of 500 octets, which is what they were measured to cost at worst.
 */
export function affordableTokens(besides = AGENT_HEAP): number {
  const octets = v8.getHeapStatistics().heap_size_limit - besides;
  return Math.max(10_000, Math.min(DEFAULT_TOKENS, Math.floor(octets / 500)));
}

/** A path, and why it cannot be read. */
export interface Unreadable {
  path: string;
  unreadable: string;
}

/** The files of the directory, or why they cannot be read. */
export type PolicySource = PolicyFile[] | Unreadable;

export interface PolicyWatch {
  /** Reads now. The result counts as delivered: `onChange` is called for what differs from it. */
  read(): PolicySource;
  close(): void;
}

export interface WatchOptions {
  /** A change is read after this time without a further one, milliseconds. */
  settle?: number;
  /** But no later than this after the first, milliseconds. */
  settleAtMost?: number;
  /** Interval of polling the metadata, milliseconds. */
  poll?: number;
}

/** The symlink through which the kubelet swaps all files of a ConfigMap at once. */
const DATA_LINK = '..data';
/** A swap during a read is read again, this often at most. */
const MAX_ATTEMPTS = 5;

const isHidden = (name: string): boolean => name.startsWith('.');
const isPolicyName = (name: string): boolean => !isHidden(name) && /\.(ya?ml|json)$/.test(name);

/**
 * Reads every `*.yaml`, `*.yml` and `*.json` of a directory in the order of their names, or the one file that
 * the path names, or standard input for `-`. A file beyond the bounds is not read, it comes with its size. The other
 * files of the directory come after them by their names alone.
 */
export function readPolicy(location: string): PolicySource {
  if (location === '-') return [{ name: '-', text: fs.readFileSync(0, 'utf8') }];
  for (let attempt = 1; ; attempt++) {
    try {
      const file = readFile(location, location, new Room(fs.statSync(location).size));
      if (file !== undefined) return [file];
      const before = dataDirectory(location);
      const files = readDirectory(before);
      if (dataDirectory(location) === before || attempt === MAX_ATTEMPTS) return files;
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      const gone = code === 'ENOENT' && fs.existsSync(location);
      if (gone && attempt < MAX_ATTEMPTS) continue;
      return {
        path: (error as NodeJS.ErrnoException).path ?? location,
        unreadable: `cannot be read: ${READ_ERRORS[code ?? ''] ?? message}`,
      };
    }
  }
}

/** The directory that holds the files: the target of `..data`, if there is one. */
function dataDirectory(directory: string): string {
  try {
    return fs.realpathSync.native(path.join(directory, DATA_LINK));
  } catch {
    return directory;
  }
}

function readDirectory(directory: string): PolicyFile[] {
  const names = fs.readdirSync(directory).filter(isPolicyName).sort();
  const sizes = names.map((name) => fs.statSync(path.join(directory, name)));
  const room = new Room(sizes.reduce((sum, stat) => sum + (stat.isFile() ? stat.size : 0), 0));
  const files = names.flatMap((name) => readFile(path.join(directory, name), name, room) ?? []);
  return [...files, ...otherFiles(directory).map((name) => ({ name, text: '', ignored: true as const }))];
}

/** Regular files that are not read because of their name. */
function otherFiles(directory: string, names = fs.readdirSync(directory)): string[] {
  return names
    .filter((name) => !isHidden(name) && !isPolicyName(name))
    .filter((name) => fs.statSync(path.join(directory, name), { throwIfNoEntry: false })?.isFile())
    .sort();
}

/** What the files of a directory may still hold, in octets. */
class Room {
  /** They are large: unused fields are skipped. */
  readonly large: boolean;
  left = MAX_SET_SIZE;
  leftRaw = MAX_RAW_SIZE;

  constructor(total: number) {
    this.large = total > SMALL_SET;
  }
}

/** Reads a file; undefined for a directory. Anything else that is not a regular file has a `problem`. */
function readFile(location: string, name: string, room: Room): PolicyFile | undefined {
  const stat = fs.statSync(location);
  if (stat.isDirectory()) return undefined;
  if (!stat.isFile()) return { name, text: '', problem: `is ${kindOf(stat)}, not a regular file` };
  room.leftRaw -= stat.size;
  const most = Math.min(MAX_FILE_SIZE, room.left);
  const tooLarge = room.leftRaw < 0 || most < 0 || (!room.large && stat.size > most);
  const read = tooLarge
    ? undefined
    : room.large
      ? readSieved(location, most)
      : { text: readMounted(location, most).toString() };
  room.left -= read?.text.length ?? stat.size;
  return { name, ...(read ?? { text: '', size: stat.size }) };
}

/** Reads a file in chunks and skips unused fields; undefined when more than `most` remains. */
function readSieved(location: string, most: number): Sieved | undefined {
  const [sieve, decoder] = [new Sieve(), new StringDecoder('utf8')];
  for (const piece of chunksOfMounted(location, MAX_RAW_SIZE)) {
    sieve.write(decoder.write(piece));
    if (sieve.length > most) return undefined;
  }
  sieve.write(decoder.end());
  return sieve.end();
}

/** Watches a policy directory, which need not exist yet, and delivers its content whenever that has changed. */
export const watchPolicy = (
  directory: string,
  onChange: (source: PolicySource) => void,
  options: WatchOptions = {},
): PolicyWatch => new DirectoryWatch(directory, onChange, options);

class DirectoryWatch implements PolicyWatch {
  readonly #directory: string;
  readonly #onChange: (source: PolicySource) => void;
  readonly #settle: number;
  readonly #settleAtMost: number;
  readonly #poll: Timer;
  readonly #watchers = new Map<string, { identity: string; watcher: fs.FSWatcher }>();
  /** Digest of the content that was delivered last. */
  #delivered: string | undefined;
  /** The metadata of the directory when it was read last. */
  #seen: string | undefined;
  /** The first event since then, ms of the monotonic clock. */
  #firstEvent: number | undefined;
  #swapped = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(
    directory: string,
    onChange: (source: PolicySource) => void,
    { settle = 50, settleAtMost = 150, poll = 400 }: WatchOptions,
  ) {
    this.#directory = directory;
    this.#onChange = onChange;
    this.#settle = settle;
    this.#settleAtMost = settleAtMost;
    this.#watchAll();
    this.#poll = systemClock.every(poll, () => {
      const data = dataDirectory(directory);
      this.#watchAll(data);
      if (metadata(directory, data) !== this.#seen) this.#changed();
    });
  }

  read(): PolicySource {
    this.#seen = metadata(this.#directory);
    const source = readPolicy(this.#directory);
    this.#delivered = digestOf(source);
    return source;
  }

  close(): void {
    this.#poll.cancel();
    clearTimeout(this.#timer);
    for (const { watcher } of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
  }

  #changed(name?: string): void {
    const now = performance.now();
    this.#firstEvent ??= now;
    // A swap is atomic: there is nothing to wait for, and the removal of the old files changes nothing.
    this.#swapped ||= name === DATA_LINK;
    const settle = this.#swapped ? 0 : this.#settle;
    clearTimeout(this.#timer);
    const delay = Math.max(0, Math.min(settle, this.#firstEvent + this.#settleAtMost - now));
    this.#timer = setTimeout(() => this.#deliver(), delay);
  }

  #deliver(): void {
    [this.#firstEvent, this.#swapped] = [undefined, false];
    this.#watchAll();
    this.#seen = metadata(this.#directory);
    const source = readPolicy(this.#directory);
    // A change during the read may have had its event before, or has it later.
    if (metadata(this.#directory) !== this.#seen) this.#changed();
    const content = digestOf(source);
    if (content === this.#delivered) return;
    this.#delivered = content;
    this.#onChange(source);
  }

  /** Watches the directory, its parent, and the target of `..data`, each as it is now. */
  #watchAll(data = dataDirectory(this.#directory)): void {
    const paths = new Set([path.dirname(path.resolve(this.#directory)), this.#directory, data]);
    for (const location of new Set([...paths, ...this.#watchers.keys()])) {
      const identity = paths.has(location) ? identify(location) : undefined;
      const old = this.#watchers.get(location);
      if (old?.identity === identity) continue;
      old?.watcher.close();
      this.#watchers.delete(location);
      if (identity !== undefined) this.#watch(location, identity);
    }
  }

  #watch(location: string, identity: string): void {
    const resolved = path.resolve(this.#directory);
    const isRelevant =
      location === path.dirname(resolved) ? (name: string) => name === path.basename(resolved) : isPolicyName;
    try {
      const watcher = fs.watch(location, (_event, name) => {
        if (name === null || name === DATA_LINK || isRelevant(name)) this.#changed(name ?? undefined);
      });
      // The next poll watches it again, and finds changes until then.
      watcher.on('error', () => {
        watcher.close();
        this.#watchers.delete(location);
      });
      this.#watchers.set(location, { identity, watcher });
    } catch {
      // No inotify watch left (fs.inotify.max_user_watches): polling remains.
    }
  }
}

/** Device and inode of what a path leads to now; undefined when it does not exist. */
function identify(location: string): string | undefined {
  const stat = fs.statSync(location, { bigint: true, throwIfNoEntry: false });
  return stat && `${stat.dev}:${stat.ino}`;
}

/** Changes when the content of the directory may have changed; reads no file. */
function metadata(directory: string, data = dataDirectory(directory)): string {
  try {
    const names = fs.readdirSync(data);
    const files = names.filter(isPolicyName).sort();
    const stats = files.map((name) => {
      const stat = fs.statSync(path.join(data, name), { bigint: true });
      return [name, stat.dev, stat.ino, stat.size, stat.mtimeNs, stat.ctimeNs].join(':');
    });
    return [identify(directory), data, ...stats, ...otherFiles(data, names)].join('\n');
  } catch (error) {
    return `${(error as NodeJS.ErrnoException).code}`;
  }
}

function digestOf(source: PolicySource): string {
  if ('unreadable' in source) return digest(`${source.path} ${source.unreadable}`);
  return source.map(({ text, ...rest }) => digest(`${JSON.stringify(rest)}\0${text}`)).join('\0');
}
