/**
 * Where translation records go: stdout, or a file that is rotated. One write at a time; what waits is bounded, and
 * each record that is not written is counted. (pino's destination can neither say how many records it dropped
 * nor give up on a reader that hangs.)
 */
import { closeSync, fstatSync, mkdirSync, openSync, renameSync, write } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { Logger } from './log.ts';

const STDOUT = 1;
/** What a pipe takes without mixing it with what others write (PIPE_BUF). */
const PIECE = 4096;
/** Records that wait at most; about 5 MiB. */
const MAX_WAITING = 8192;
/** A full non-blocking pipe is tried again, ms. */
const RETRY = 50;
/** After a failure a file is opened again, ms. */
const REOPEN = 5000;
/** How long the end waits for a reader, ms. */
const CLOSE_TIMEOUT = 1000;
/** A file of that size becomes FILE.1, and so on to the last; octets. */
const FILE_SIZE = 16 << 20;
const OLD_FILES = 4;

const writeTo = promisify(write);

interface Piece {
  text: string;
  records: number;
}

export interface RecordOutputOptions {
  /** Absent: stdout. */
  file?: string;
  logger: Logger;
  /** Octets of a file before it is rotated. */
  fileSize?: number;
}

export class RecordOutput {
  /** Records that were not written, by reason. */
  readonly lost = { queue_full: 0, write_error: 0 };
  readonly #options: RecordOutputOptions;
  #pieces: Piece[] = [];
  /** Records in `#pieces`. */
  #waiting = 0;
  #writing: Promise<void> | undefined;
  #fd: number | undefined;
  #size = 0;
  #openDue = 0;
  #trouble = '';

  constructor(options: RecordOutputOptions) {
    this.#options = options;
    if (options.file === undefined) this.#fd = STDOUT;
  }

  /** Takes lines, each with its end. */
  write(lines: readonly string[]): void {
    const room = Math.max(0, MAX_WAITING - this.#waiting);
    this.lost.queue_full += Math.max(0, lines.length - room);
    for (const line of lines.slice(0, room)) {
      const last = this.#pieces.at(-1);
      if (last !== undefined && last.text.length + line.length <= PIECE) {
        last.text += line;
        last.records++;
      } else {
        this.#pieces.push({ text: line, records: 1 });
      }
      this.#waiting++;
    }
    this.#writing ??= this.#writeAll();
  }

  /** Resolves when everything was written, or nobody reads it. */
  async close(): Promise<void> {
    const timeout = new AbortController();
    await Promise.race([
      this.#writing,
      sleep(CLOSE_TIMEOUT, undefined, { signal: timeout.signal }).catch(() => {}),
    ]);
    timeout.abort();
    this.lost.write_error += this.#waiting;
    this.#pieces = [];
    if (this.#fd !== undefined && this.#fd !== STDOUT) closeSync(this.#fd);
  }

  async #writeAll(): Promise<void> {
    for (let piece = this.#pieces.shift(); piece !== undefined; piece = this.#pieces.shift()) {
      try {
        await this.#writePiece(Buffer.from(piece.text));
        this.#tell('');
      } catch (error) {
        this.lost.write_error += piece.records;
        this.#tell((error as Error).message);
      }
      this.#waiting -= piece.records;
    }
    this.#writing = undefined;
  }

  async #writePiece(octets: Buffer): Promise<void> {
    const fd = this.#open();
    for (let at = 0; at < octets.length; ) {
      try {
        at += (await writeTo(fd, octets, at)).bytesWritten;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
        await sleep(RETRY);
      }
    }
    this.#size += octets.length;
  }

  /** The open file, a fresh one when it is full. Throws when it cannot be opened. */
  #open(): number {
    const { file, fileSize = FILE_SIZE } = this.#options;
    if (file === undefined) return STDOUT;
    if (this.#fd !== undefined && this.#size >= fileSize) {
      closeSync(this.#fd);
      this.#fd = undefined;
      for (let n = OLD_FILES - 1; n >= 0; n--) {
        try {
          renameSync(n === 0 ? file : `${file}.${n}`, `${file}.${n + 1}`);
        } catch {
          // there are not as many yet
        }
      }
    }
    if (this.#fd === undefined) {
      if (performance.now() < this.#openDue) throw new Error(this.#trouble);
      this.#openDue = performance.now() + REOPEN;
      mkdirSync(dirname(file), { recursive: true });
      this.#fd = openSync(file, 'a', 0o600);
      this.#size = fstatSync(this.#fd).size;
      this.#openDue = 0;
    }
    return this.#fd;
  }

  /** Logs a failure when it is a new one, and its end. */
  #tell(trouble: string): void {
    if (trouble === this.#trouble) return;
    this.#trouble = trouble;
    const { file = 'stdout', logger } = this.#options;
    if (trouble === '') logger.info({ file }, 'translation records are written again');
    else logger.error({ file, reason: trouble }, 'cannot write translation records');
  }
}
