/**
 * The policy directory as text: read whole, and read again when it changes.
 *
 * A ConfigMap is mounted as a `..data` symlink that is swapped from one directory to the next, with a symlink
 * through it for each file; both this and a plain directory are followed. inotify tells of a change at once,
 * and a look at the files' metadata twice a second finds what inotify cannot tell (a mount that came or went, a
 * link to elsewhere, a watch that could not be had).
 */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { StringDecoder } from 'node:string_decoder';
import v8 from 'node:v8';
import { chunksOfMounted, kindOf, readMounted } from '../../lib/files.ts';
import { MAX_FILE_SIZE, MAX_RAW_SIZE, MAX_SET_SIZE, SMALL_SET } from './documents.ts';
import type { PolicyFile } from './model.ts';
import { DEFAULT_TOKENS } from './parse.ts';
import { Sieve, type Sieved } from './sieve.ts';

/** What the agent needs of its heap besides the documents, octets. */
const AGENT_HEAP = 16 << 20;
/** And a command. Its heap is smaller by the difference (images/gateway/rootfs/usr/libexec/veg-agent/launch). */
export const COMMAND_HEAP = 8 << 20;

/**
 * How many YAML tokens (see `loadPolicy`) this process can afford: what its heap may grow to, less what it needs besides,
 * in tokens of 500 octets, which is what they were measured to cost at worst.
 */
export function affordableTokens(besides = AGENT_HEAP): number {
  const octets = v8.getHeapStatistics().heap_size_limit - besides;
  return Math.max(10_000, Math.min(DEFAULT_TOKENS, Math.floor(octets / 500)));
}

/** What stands in the directory, or why that cannot be told. */
export type PolicySource = PolicyFile[] | { unreadable: string };

export interface PolicyWatch {
  /** Reads now. What it returns counts as delivered: `onChange` tells of what differs from it. */
  read(): PolicySource;
  close(): void;
}

export interface WatchOptions {
  /** A change is read after so long without a further one, milliseconds. */
  settle?: number;
  /** But no later than so long after the first, milliseconds. */
  settleAtMost?: number;
  /** Between two looks at the metadata, milliseconds. */
  poll?: number;
}

/** The symlink through which the kubelet swaps all files of a ConfigMap at once. */
const DATA_LINK = '..data';
/** A swap while reading is read again; this often in a row is something else. */
const MAX_ATTEMPTS = 5;

const isHidden = (name: string): boolean => name.startsWith('.');
const isPolicyName = (name: string): boolean => !isHidden(name) && /\.(ya?ml|json)$/.test(name);

const reasons: Record<string, string> = {
  ENOENT: 'no such file or directory',
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  EIO: 'input/output error',
  ESTALE: 'stale file handle',
  ENOTCONN: 'the mount is not connected',
};

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
      const where = (error as NodeJS.ErrnoException).path ?? location;
      return { unreadable: `cannot read ${where}: ${reasons[code ?? ''] ?? message}` };
    }
  }
}

/** Where the files of a policy directory are: what `..data` leads to, if there is one. */
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

/** The files that look as if somebody meant them for a policy, and are not read. */
function otherFiles(directory: string): string[] {
  return fs
    .readdirSync(directory)
    .filter((name) => !isHidden(name) && !isPolicyName(name))
    .filter((name) => fs.statSync(path.join(directory, name), { throwIfNoEntry: false })?.isFile())
    .sort();
}

/** What the files of a directory may come to, in octets. */
class Room {
  /** They are large: what nobody reads is left out. */
  readonly large: boolean;
  left = MAX_SET_SIZE;
  leftRaw = MAX_RAW_SIZE;

  constructor(total: number) {
    this.large = total > SMALL_SET;
  }
}

/** Reads a file; undefined for a directory. What else is no regular file comes with what it is. */
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

/** Reads a file piece by piece, without what nobody reads of it; undefined when more than `most` is left. */
function readSieved(location: string, most: number): Sieved | undefined {
  const [sieve, decoder] = [new Sieve(), new StringDecoder('utf8')];
  for (const piece of chunksOfMounted(location, MAX_RAW_SIZE)) {
    sieve.write(decoder.write(piece));
    if (sieve.length > most) return undefined;
  }
  sieve.write(decoder.end());
  return sieve.end();
}

/** Follows a policy directory, which need not exist yet, and tells when its content has changed. */
export function watchPolicy(
  directory: string,
  onChange: (source: PolicySource) => void,
  { settle = 50, settleAtMost = 150, poll = 500 }: WatchOptions = {},
): PolicyWatch {
  const parent = path.dirname(path.resolve(directory));
  const self = path.basename(path.resolve(directory));
  const watched = new Map<string, { identity: string; watcher: fs.FSWatcher }>();
  let delivered: string | undefined;
  let seen: string | undefined;
  let firstEvent: number | undefined;
  let swapped = false;
  let timer: NodeJS.Timeout | undefined;

  const changed = (name?: string) => {
    const now = performance.now();
    firstEvent ??= now;
    // What is swapped in is whole, it has no need to rest; what is cleared away behind it changes nothing.
    swapped ||= name === DATA_LINK;
    const rest = swapped ? 0 : settle;
    clearTimeout(timer);
    timer = setTimeout(deliver, Math.max(0, Math.min(rest, firstEvent + settleAtMost - now)));
  };

  const deliver = () => {
    [firstEvent, swapped] = [undefined, false];
    watchAll();
    seen = metadata(directory);
    const source = readPolicy(directory);
    // What changed while it was read has made no event yet, or one that comes later.
    if (metadata(directory) !== seen) changed();
    const content = digest(source);
    if (content === delivered) return;
    delivered = content;
    onChange(source);
  };

  /** Watches the directory, the one that holds it, and where `..data` leads, each as it is now. */
  const watchAll = () => {
    const paths = new Set([parent, directory, dataDirectory(directory)]);
    for (const location of new Set([...paths, ...watched.keys()])) {
      const identity = paths.has(location) ? identify(location) : undefined;
      const old = watched.get(location);
      if (old?.identity === identity) continue;
      old?.watcher.close();
      watched.delete(location);
      if (identity === undefined) continue;
      try {
        const concerns = location === parent ? (name: string) => name === self : isPolicyName;
        const watcher = fs.watch(location, (_event, name) => {
          if (name === null || name === DATA_LINK || concerns(name)) changed(name ?? undefined);
        });
        // A watch that breaks is had again at the next look; until then that look finds the changes.
        watcher.on('error', () => {
          watcher.close();
          watched.delete(location);
        });
        watched.set(location, { identity, watcher });
      } catch {
        // No watch to be had (fs.inotify.max_user_watches): the regular look remains.
      }
    }
  };

  const look = () => {
    watchAll();
    if (metadata(directory) !== seen) changed();
  };

  watchAll();
  const interval = setInterval(look, poll);
  return {
    read() {
      seen = metadata(directory);
      const source = readPolicy(directory);
      delivered = digest(source);
      return source;
    },
    close() {
      clearInterval(interval);
      clearTimeout(timer);
      for (const { watcher } of watched.values()) watcher.close();
      watched.clear();
    },
  };
}

/** Which file or directory a path leads to now; undefined when to none. */
function identify(location: string): string | undefined {
  const stat = fs.statSync(location, { bigint: true, throwIfNoEntry: false });
  return stat && `${stat.dev}:${stat.ino}`;
}

/** What tells that a directory may have changed, without reading its files. */
function metadata(directory: string): string {
  try {
    const data = dataDirectory(directory);
    const files = fs.readdirSync(data).filter(isPolicyName).sort();
    const stats = files.map((name) => {
      const stat = fs.statSync(path.join(data, name), { bigint: true });
      return [name, stat.dev, stat.ino, stat.size, stat.mtimeNs, stat.ctimeNs].join(':');
    });
    return [identify(directory), data, ...stats, ...otherFiles(data)].join('\n');
  } catch (error) {
    return `${(error as NodeJS.ErrnoException).code}`;
  }
}

function digest(source: PolicySource): string {
  const hash = createHash('sha256');
  if ('unreadable' in source) hash.update(source.unreadable);
  else
    for (const { text, ...rest } of source)
      hash.update(JSON.stringify(rest)).update('\0').update(text).update('\0');
  return hash.digest('base64');
}
