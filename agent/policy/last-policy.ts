/**
 * The last good policy, kept in the state directory: what came into force last, as its source had it, and what of it
 * the kernel refused. Every agent process that starts there, and cannot use the newest input, maintains it until a
 * newer one is valid.
 *
 * Documents are kept, not what was made of them: they are read again with every check that policy files pass, by
 * this version or a later one. The file is compressed, because a state directory in memory counts as the
 * container's, and replaced atomically; a damaged one is ignored.
 */
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { clear, readState, replaceState } from '../../lib/files.ts';
import { parseJson } from '../../lib/json.ts';
import type { Logger } from '../../lib/log.ts';
import { FAMILIES } from '../../lib/prefix.ts';
import { OPTIONAL_PARTS, type OptionalPart } from '../../nat/desired.ts';
import { MAX_SET_SIZE } from './bounds.ts';
import { LAST_POLICY_FILE, type Missing } from './last-good.ts';
import type { KeptPolicy } from './source.ts';

/** Changes when the layout of the file does. */
const VERSION = 1;
/** Octets: no policy that can be read comes to more, compressed or not. */
const MAX_SIZE = 2 * MAX_SET_SIZE;
/** Values in the file: files with their names and cuts, or variables. */
const MAX_VALUES = 1 << 18;
/** Characters of a document that are compressed at once. */
const PIECE = 1 << 18;
/** Minimum interval between log lines for failed writes, ms. */
const ERROR_LOG_PERIOD = 60_000;

/** Not loaded before it is wanted: an agent process that starts has more important things to do. */
const zlib = () => process.getBuiltinModule('node:zlib');

const fileIn = (stateDir: string): string => join(stateDir, LAST_POLICY_FILE);

/** Reads the saved policy; undefined when there is none or it cannot be used, with the reason to `warn`. */
export function readLastPolicy(stateDir: string, warn: (reason: string) => void): KeptPolicy | undefined {
  const file = fileIn(stateDir);
  try {
    const compressed = readState(file, MAX_SIZE);
    return compressed && parse(compressed);
  } catch (error) {
    warn(`ignoring ${file}: ${(error as Error).message}`);
    return undefined;
  }
}

/** Decodes the file. Throws when it is not what `format` writes. */
function parse(compressed: Buffer): KeptPolicy {
  const octets = zlib().gunzipSync(compressed, { maxOutputLength: MAX_SIZE });
  const kept = parseJson(octets, MAX_VALUES) as KeptPolicy & { version: number };
  const { version, source, since, content, missing } = kept;
  if (version !== VERSION) throw new Error(`unsupported version ${version}, expected ${VERSION}`);
  const strings = (values: unknown[]) => values.every((value) => typeof value === 'string');
  const sound =
    'files' in content
      ? content.files.every(
          ({ name, text, cuts = [] }) => strings([name, text]) && cuts.every((one) => Number.isInteger(one)),
        )
      : strings(Object.values(content.environment));
  if (
    !sound ||
    !isMissing(missing) ||
    typeof source !== 'string' ||
    Number.isNaN(new Date(since).getTime())
  ) {
    throw new Error('malformed content');
  }
  return { source, since, content, ...(missing && { missing }) };
}

/** Whether a value is a `Missing`, or absent. */
function isMissing(missing: Missing | undefined): boolean {
  if (missing === undefined) return true;
  const { without, lacking, broken = [] } = missing;
  const known = (part: OptionalPart) => OPTIONAL_PARTS.some((one) => one.part === part);
  return (
    FAMILIES.every((family) => without[family].every(known)) &&
    broken.every((family) => FAMILIES.includes(family)) &&
    lacking.every((key) => typeof key === 'string')
  );
}

/** The file but for its end, as one member of gzip after the other: a large policy is never there as a whole once more. */
function format(kept: KeptPolicy): Buffer {
  const members: Buffer[] = [];
  // Level 1 takes a third of the time and yields a tenth more.
  for (const piece of pieces(kept)) members.push(zlib().gzipSync(piece, { level: 1 }));
  return Buffer.concat(members);
}

/** The end of the file, which changes while the policy stays. */
const formatEnd = (missing: Missing | undefined): Buffer =>
  zlib().gzipSync(missing === undefined ? '}' : `,"missing":${JSON.stringify(missing)}}`);

/** The JSON of what is kept but for its end, in pieces. */
function* pieces({ content, missing: _, ...rest }: KeptPolicy): Generator<string> {
  const head = JSON.stringify({ version: VERSION, ...rest }).slice(0, -1);
  if ('environment' in content) {
    yield `${head},"content":${JSON.stringify(content)}`;
    return;
  }
  yield `${head},"content":{"files":[`;
  for (const [i, { text, ...file }] of content.files.entries()) {
    yield `${i === 0 ? '' : ','}${JSON.stringify({ ...file, text: '' }).slice(0, -2)}`;
    for (let at = 0; at < text.length; at += PIECE)
      yield JSON.stringify(text.slice(at, at + PIECE)).slice(1, -1);
    yield '"}';
  }
  yield ']}';
}

/** Replaces the file. Throws when that cannot be done; then the old one is still there. */
function write(stateDir: string, compressed: Buffer, missing: Missing | undefined): void {
  mkdirSync(stateDir, { recursive: true });
  replaceState(fileIn(stateDir), [compressed, formatEnd(missing)]);
}

/** Forgets what was kept: a gateway that was removed must not come back by itself. */
export function removeLastPolicy(stateDir: string): void {
  clear(fileIn(stateDir));
}

/** Keeps a policy that has just come into force. Throws when that cannot be done. */
export function keepPolicy(stateDir: string, kept: KeptPolicy): void {
  write(stateDir, format(kept), kept.missing);
}

/** Keeps the policy in force on disk, for as long as this process runs. */
export class LastPolicy {
  readonly #stateDir: string;
  readonly #logger: Logger;
  /** The file of the policy in force. It takes a tenth of the documents, which are not held. */
  #compressed: Buffer | undefined;
  #missing: Missing | undefined;
  #written = false;
  #errorLogged = Number.NEGATIVE_INFINITY;

  constructor(stateDir: string, logger: Logger) {
    this.#stateDir = stateDir;
    this.#logger = logger;
  }

  /**
   * The policy that was handed over last is in force, but for what is `missing`. `fresh`: it is another one. Otherwise
   * the file is written again only when another part is missing, or when the file does not exist because it was removed
   * or the disk was full.
   */
  keep(fresh?: KeptPolicy, missing?: Missing): void {
    if (fresh !== undefined) {
      this.#compressed = format(fresh);
      this.#written = false;
    }
    if (this.#compressed === undefined) return;
    if (!isDeepStrictEqual(missing, this.#missing)) {
      this.#missing = missing;
      this.#written = false;
    }
    if (this.#written && existsSync(fileIn(this.#stateDir))) return;
    try {
      write(this.#stateDir, this.#compressed, this.#missing);
      this.#written = true;
    } catch (error) {
      this.#complain(error as Error);
    }
  }

  /** Nothing is kept from now on, nor over a restart. */
  remove(): void {
    try {
      removeLastPolicy(this.#stateDir);
    } catch (error) {
      this.#complain(error as Error);
    }
  }

  #complain({ message }: Error): void {
    if (performance.now() - this.#errorLogged < ERROR_LOG_PERIOD) return;
    this.#errorLogged = performance.now();
    this.#logger.warn(
      { reason: message },
      'cannot keep the policy in the state directory; a restart with an invalid one would have none',
    );
  }
}
