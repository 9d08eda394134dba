/**
 * The state file of a hitless restart: discriminators, source ports and, for sessions that are Up, what was
 * negotiated. One JSON line, rewritten (a new file renamed over the old) when something in it changes, followed by a
 * line for each session that is overwritten in place with every packet sent: its time, and the authentication
 * sequence numbers.
 *
 * What is promised: a process that starts before a session's peer can have missed the previous one resumes the
 * session. A file of another boot or network namespace, or one that is too old, gives no sessions, but still the
 * discriminators. A damaged file, or one that is not ours, is ignored with a warning and replaced by the next change.
 * A file that cannot be written delays no packet; it is written again with the next change.
 */
import { closeSync, mkdirSync, readFileSync, readlinkSync, writeSync } from 'node:fs';
import { isIP } from 'node:net';
import { dirname } from 'node:path';
import { readState, replaceOpen } from '../lib/files.ts';
import type { Log } from '../lib/log.ts';
import { pathKey } from './demux.ts';
import {
  FORMAT,
  parseSaved,
  type SavedSession,
  type SavedState,
  SENT_LINE,
  SENT_TIME_AT,
  type SentRecord,
  sentLine,
  sentTime,
} from './saved.ts';

/** More than the largest number of sessions takes, octets. */
const MAX_SIZE = 1 << 20;
/** Minimum interval between rewrites of the whole file, ms; changes in between are written together. */
const WRITE_PERIOD = 5;
/** Minimum interval between log lines for errors, ms. */
const ERROR_LOG_PERIOD = 60_000;

/** What the checkpoint needs of the file system. */
export interface CheckpointFiles {
  /** Replaces a file and returns it open for writing. Throws. */
  replace(file: string, content: string): number;
  /** Overwrites a part of an open file. Throws. */
  write(fd: number, text: string, at: number): void;
  close(fd: number): void;
}

const FILES: CheckpointFiles = {
  replace(file, content) {
    mkdirSync(dirname(file), { recursive: true });
    return replaceOpen(file, [content]);
  },
  write: (fd, text, at) => writeSync(fd, text, at, 'latin1'),
  close: closeSync,
};

/** This boot and this network namespace. */
function here(): { bootId: string; netns: string } {
  return {
    bootId: readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim(),
    netns: readlinkSync('/proc/self/ns/net'),
  };
}

interface Loaded {
  sessions: SavedSession[];
  /** Written in this boot and network namespace. */
  current: boolean;
}

/** Reads a state file. Returns undefined when there is none. Throws when it is not ours, or damaged. */
function load(file: string): Loaded | undefined {
  const content = readState(file, MAX_SIZE);
  if (content === undefined) return undefined;
  const saved = parseSaved(content, (text) => isIP(text) !== 0);
  if (saved === undefined) throw new Error(`${file} is damaged, or of another version`);
  const { bootId, netns } = here();
  return { sessions: saved.sessions, current: saved.bootId === bootId && saved.netns === netns };
}

export class Checkpoint {
  readonly #file: string;
  readonly #log: Log;
  readonly #snapshot: () => SavedSession[];
  readonly #files: CheckpointFiles;
  readonly #loaded: Loaded | undefined;
  readonly #byPath = new Map<string, SavedSession>();
  #timer: NodeJS.Timeout | undefined;
  #immediate: NodeJS.Immediate | undefined;
  #written = -WRITE_PERIOD;
  #fd = -1;
  /** Where in the file each session's line is, and the sequence numbers in it. */
  #lines = new Map<number, { at: number; xmitAuthSeq: number; rcvAuthSeq: number }>();
  #errorLogged = -ERROR_LOG_PERIOD;

  /** `snapshot`: returns the sessions to save. */
  constructor(file: string, log: Log, snapshot: () => SavedSession[], files = FILES) {
    this.#file = file;
    this.#log = log;
    this.#snapshot = snapshot;
    this.#files = files;
    try {
      this.#loaded = load(file);
    } catch (error) {
      const reason = (error as Error).message;
      log.warn({ reason }, 'ignoring the saved BFD state; the peers may see a restart');
    }
    for (const saved of this.#loaded?.sessions ?? []) this.#byPath.set(pathKey(saved.intent), saved);
  }

  /** The sessions that were Up, and whose peers cannot have timed out yet. `now`: microseconds. */
  resumable(now: number): SavedSession[] {
    if (this.#loaded === undefined || !this.#loaded.current) return [];
    return this.#loaded.sessions.filter(({ session, lastTransmit, peerDetectionTime }) => {
      const away = now - lastTransmit;
      return session !== undefined && away >= 0 && away < peerDetectionTime;
    });
  }

  /** What was saved of a path: a new session uses its discriminator and source port again. */
  recall(key: string): SavedSession | undefined {
    return this.#byPath.get(key);
  }

  /** Something that is saved has changed: it is written after the present turn of the event loop. */
  changed(): void {
    const wait = this.#written + WRITE_PERIOD - performance.now();
    if (wait > 0) this.#timer ??= setTimeout(() => this.#write(), wait);
    else this.#immediate ??= setImmediate(() => this.#write());
  }

  /** A session has sent a packet. */
  packetSent(sent: SentRecord): void {
    const line = this.#lines.get(sent.id);
    if (this.#fd < 0 || line === undefined) {
      this.changed();
      return;
    }
    const { xmitAuthSeq, rcvAuthSeq } = sent;
    try {
      if (line.xmitAuthSeq === xmitAuthSeq && line.rcvAuthSeq === rcvAuthSeq) {
        this.#files.write(this.#fd, sentTime(sent.lastTransmit), line.at + SENT_TIME_AT);
      } else {
        this.#files.write(this.#fd, sentLine(sent), line.at);
        Object.assign(line, { xmitAuthSeq, rcvAuthSeq });
      }
    } catch (error) {
      this.#logError(error as Error);
    }
  }

  #write(): void {
    clearTimeout(this.#timer);
    clearImmediate(this.#immediate);
    this.#timer = undefined;
    this.#immediate = undefined;
    this.#written = performance.now();
    const sessions = this.#snapshot();
    try {
      const header: SavedState = { version: FORMAT, ...here(), sessions };
      const first = `${JSON.stringify(header)}\n`;
      const linesAt = Buffer.byteLength(first);
      const fd = this.#files.replace(this.#file, first + sessions.map(sentLine).join(''));
      if (this.#fd >= 0) this.#files.close(this.#fd);
      this.#fd = fd;
      this.#lines = new Map(
        sessions.map(({ id, xmitAuthSeq, rcvAuthSeq }, i) => [
          id,
          { at: linesAt + i * SENT_LINE, xmitAuthSeq, rcvAuthSeq },
        ]),
      );
    } catch (error) {
      this.#logError(error as Error);
    }
  }

  #logError(error: Error): void {
    if (performance.now() - this.#errorLogged < ERROR_LOG_PERIOD) return;
    this.#errorLogged = performance.now();
    this.#log.warn(
      { err: error, file: this.#file },
      'cannot save the BFD state, retrying; the peers would see a restart',
    );
  }

  /** Writes a last time and closes. */
  close(): void {
    this.#write();
    if (this.#fd >= 0) this.#files.close(this.#fd);
    this.#fd = -1;
  }
}
