/**
 * Writes translation records to stdout or to a file that it rotates. One write at a time: its promise resolves when the
 * records are written, so that the caller can bound its queue. Each record that is not written is counted. (pino's
 * destination cannot count dropped records, nor give up on a reader that hangs.)
 *
 * A link is not followed. A FIFO is written to while it has a reader, and never rotated.
 */
import { closeSync, constants, fstatSync, mkdirSync, openSync, renameSync, write } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { Logger } from '../../lib/log.ts';
import { LogOnChange } from '../../lib/log-on-change.ts';

const { O_WRONLY, O_APPEND, O_CREAT, O_NOFOLLOW, O_NONBLOCK, O_NOCTTY } = constants;
const STDOUT = 1;
/** What one write takes: a pipe does not mix so much with what others write (PIPE_BUF). A file is ours alone. */
const STDOUT_PIECE = 4096;
const FILE_PIECE = 65_536;
/** A full non-blocking pipe is tried again, ms. */
const RETRY = 50;
/** After a failure a file is opened again, ms. */
const REOPEN = 5000;
/** How long the end waits for a reader, ms. */
const CLOSE_TIMEOUT = 1000;
/** A file of that size becomes FILE.1, and so on to the last; octets. */
const FILE_SIZE = 16 << 20;
const OLD_FILES = 4;

const systemWrite = promisify(write) as NonNullable<RecordOutputOptions['writeTo']>;
const NEWLINE = 0x0a;

export interface RecordOutputOptions {
  /** Absent: stdout. */
  file?: string;
  logger: Logger;
  /** Octets of a file before it is rotated. */
  fileSize?: number;
  /** write(2), for tests. */
  writeTo?: (fd: number, octets: Buffer, at: number) => Promise<{ bytesWritten: number }>;
}

export class RecordOutput {
  /** Records that were not written. */
  lost = 0;
  readonly #options: RecordOutputOptions;
  readonly #piece: number;
  /** Records that wait, and the end of the last write. */
  #waiting = 0;
  #last: Promise<void> = Promise.resolve();
  #fd: number | undefined;
  #closed = false;
  #size = 0;
  #openDue = 0;
  /** Octets of the current piece that were written. */
  #written = 0;
  /** The last failed write left part of a line. */
  #inLine = false;
  /** Why writing failed last. */
  #lastReason = '';
  readonly #failures = new LogOnChange();
  readonly #rotationFailures = new LogOnChange();

  constructor(options: RecordOutputOptions) {
    this.#options = options;
    this.#piece = options.file === undefined ? STDOUT_PIECE : FILE_PIECE;
  }

  /** Writes lines, each with its end. Resolves when they were written, or counted as lost. */
  write(lines: readonly string[]): Promise<void> {
    this.#waiting += lines.length;
    this.#last = this.#last.then(() => this.#writeLines(lines));
    return this.#last;
  }

  /** Resolves when everything was written, or there is no reader. */
  async close(): Promise<void> {
    const timeout = new AbortController();
    const patience = sleep(CLOSE_TIMEOUT, undefined, { signal: timeout.signal }).catch(() => {});
    await Promise.race([this.#last, patience]);
    timeout.abort();
    this.lost += this.#waiting;
    this.#closed = true;
    if (this.#fd !== undefined) closeSync(this.#fd);
  }

  async #writeLines(lines: readonly string[]): Promise<void> {
    for (let i = 0; i < lines.length; ) {
      let piece = lines[i++]!;
      let records = 1;
      for (; i < lines.length && piece.length + lines[i]!.length <= this.#piece; records++)
        piece += lines[i++]!;
      const octets = Buffer.from(piece);
      this.#written = 0;
      try {
        await this.#writePiece(octets);
        this.#logRecovery();
      } catch (error) {
        // close() has counted what waited.
        if (this.#closed) return;
        const done = octets.subarray(0, this.#written);
        this.lost += records - done.filter((octet) => octet === NEWLINE).length;
        this.#inLine ||= done.length > 0 && done.at(-1) !== NEWLINE;
        this.#logFailure((error as Error).message);
      }
      this.#waiting -= records;
    }
  }

  async #writePiece(octets: Buffer): Promise<void> {
    const fd = this.#open();
    // The rest of a line whose write failed is lost: end it, so that the next record has a line of its own.
    if (this.#inLine) await this.#writeAll(fd, Buffer.of(NEWLINE), () => {});
    this.#inLine = false;
    await this.#writeAll(fd, octets, (written) => {
      this.#written += written;
    });
  }

  async #writeAll(fd: number, octets: Buffer, onWritten: (octets: number) => void): Promise<void> {
    const { writeTo = systemWrite } = this.#options;
    for (let at = 0; at < octets.length; ) {
      if (this.#closed) throw new Error('closed');
      try {
        const { bytesWritten } = await writeTo(fd, octets, at);
        at += bytesWritten;
        this.#size += bytesWritten;
        onWritten(bytesWritten);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
        await sleep(RETRY);
      }
    }
  }

  /** The open file, a fresh one when it is full. Throws when it cannot be opened. */
  #open(): number {
    const { file, fileSize = FILE_SIZE } = this.#options;
    if (file === undefined) return STDOUT;
    if (this.#fd !== undefined && this.#size >= fileSize && fstatSync(this.#fd).isFile()) {
      closeSync(this.#fd);
      this.#fd = undefined;
      this.#rotate(file);
    }
    if (this.#fd === undefined) {
      if (performance.now() < this.#openDue) throw new Error(this.#lastReason);
      this.#openDue = performance.now() + REOPEN;
      mkdirSync(dirname(file), { recursive: true });
      this.#fd = openSync(file, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0o600);
      this.#size = fstatSync(this.#fd).size;
      this.#openDue = 0;
    }
    return this.#fd;
  }

  /** Renames the file and the old ones. A file that cannot be renamed grows: records matter more than its size. */
  #rotate(file: string): void {
    const { logger } = this.#options;
    let failure: NodeJS.ErrnoException | undefined;
    for (let n = OLD_FILES - 1; n >= 0; n--) {
      try {
        renameSync(n === 0 ? file : `${file}.${n}`, `${file}.${n + 1}`);
      } catch (error) {
        // There may be fewer old files; without the last rename the file stays.
        if (n === 0) failure = error as NodeJS.ErrnoException;
      }
    }
    if (failure === undefined || failure.code === 'ENOENT') {
      if (this.#rotationFailures.ended()) logger.info({ file }, 'translation records are rotated again');
    } else if (this.#rotationFailures.isNew(failure.code ?? '')) {
      const { message: reason } = failure;
      logger.error({ file, reason }, 'cannot rotate translation records, the file grows');
    }
  }

  #logFailure(reason: string): void {
    this.#lastReason = reason;
    const { file = 'stdout', logger } = this.#options;
    if (this.#failures.isNew(reason)) logger.error({ file, reason }, 'cannot write translation records');
  }

  #logRecovery(): void {
    const { file = 'stdout', logger } = this.#options;
    if (this.#failures.ended()) logger.info({ file }, 'translation records are written again');
  }
}
