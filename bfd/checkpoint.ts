/**
 * The state file of a hitless restart: discriminators, source ports and, for sessions that are Up, what was
 * negotiated. One JSON line, rewritten (a new file renamed over the old) when something in it changes, and behind
 * it a line a session that is overwritten in place with every packet sent: when that was, and the authentication
 * sequence numbers.
 *
 * A process that starts before a session's peer has missed it goes on as if nothing had happened. A file from
 * another boot or network namespace, or too old, gives no sessions, but still the discriminators. One that is damaged
 * or no file of ours is left aside with a warning, and the next change takes its place.
 */
import { closeSync, mkdirSync, readFileSync, readlinkSync, writeSync } from 'node:fs';
import { isIP } from 'node:net';
import { dirname } from 'node:path';
import { readState, replaceOpen } from '../lib/files.ts';
import type { Log } from '../lib/log.ts';
import { pathKey } from './demux.ts';
import {
  BEAT_LINE,
  BEAT_TIME_AT,
  type Beat,
  beatLine,
  beatTime,
  FORMAT,
  parseSaved,
  type SavedSession,
  type SavedState,
} from './saved.ts';

/** The sessions that there can be at most take less, octets. */
const MAX_SIZE = 1 << 20;
/** Between two rewritings of the whole file, ms; changes of a moment are written together. */
const WRITE_PERIOD = 5;
/** An error is logged so often, ms. */
const ERROR_LOG_PERIOD = 60_000;

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
  ours: boolean;
}

/** Reads a state file. Returns undefined when there is none. Throws when it is none of ours, or damaged. */
function load(file: string): Loaded | undefined {
  const content = readState(file, MAX_SIZE);
  if (content === undefined) return undefined;
  const saved = parseSaved(content, (text) => isIP(text) !== 0);
  if (saved === undefined) throw new Error(`${file} is damaged, or of another version`);
  const { bootId, netns } = here();
  return { sessions: saved.sessions, ours: saved.bootId === bootId && saved.netns === netns };
}

export class Checkpoint {
  readonly #file: string;
  readonly #log: Log;
  readonly #snapshot: () => SavedSession[];
  readonly #loaded: Loaded | undefined;
  readonly #discriminators = new Map<string, SavedSession>();
  #timer: NodeJS.Timeout | undefined;
  #immediate: NodeJS.Immediate | undefined;
  #written = -WRITE_PERIOD;
  #fd = -1;
  /** Where in the file each session's beat is, and the sequence numbers in it. */
  #beats = new Map<number, { at: number; xmitAuthSeq: number; rcvAuthSeq: number }>();
  #errorLogged = -ERROR_LOG_PERIOD;

  /** `snapshot` is asked for what to save. */
  constructor(file: string, log: Log, snapshot: () => SavedSession[]) {
    this.#file = file;
    this.#log = log;
    this.#snapshot = snapshot;
    try {
      this.#loaded = load(file);
    } catch (error) {
      const reason = (error as Error).message;
      log.warn({ reason }, 'the saved BFD state is left aside; the peers may see a restart');
    }
    for (const saved of this.#loaded?.sessions ?? []) this.#discriminators.set(pathKey(saved.intent), saved);
  }

  /** The sessions that were Up, and whose peers have not had the time to notice that we were away. */
  resumable(now: number): SavedSession[] {
    if (this.#loaded === undefined || !this.#loaded.ours) return [];
    return this.#loaded.sessions.filter(({ session, lastTransmit, peerDetectionTime }) => {
      const away = now - lastTransmit;
      return session !== undefined && away >= 0 && away < peerDetectionTime;
    });
  }

  /** What was saved of a path: its discriminator and source port are used again. */
  recall(key: string): SavedSession | undefined {
    return this.#discriminators.get(key);
  }

  /** Something that is saved has changed: it is written as soon as what goes on now is done. */
  changed(): void {
    const wait = this.#written + WRITE_PERIOD - performance.now();
    if (wait > 0) this.#timer ??= setTimeout(() => this.#write(), wait);
    else this.#immediate ??= setImmediate(() => this.#write());
  }

  /** A session has sent a packet. */
  beat(beat: Beat): void {
    const written = this.#beats.get(beat.id);
    if (this.#fd < 0 || written === undefined) {
      this.changed();
      return;
    }
    const { xmitAuthSeq, rcvAuthSeq } = beat;
    try {
      if (written.xmitAuthSeq === xmitAuthSeq && written.rcvAuthSeq === rcvAuthSeq) {
        writeSync(this.#fd, beatTime(beat.lastTransmit), written.at + BEAT_TIME_AT, 'latin1');
      } else {
        writeSync(this.#fd, beatLine(beat), written.at, 'latin1');
        Object.assign(written, { xmitAuthSeq, rcvAuthSeq });
      }
    } catch (error) {
      this.#complain(error as Error);
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
      const beatsAt = Buffer.byteLength(first);
      mkdirSync(dirname(this.#file), { recursive: true });
      const fd = replaceOpen(this.#file, [first + sessions.map(beatLine).join('')]);
      if (this.#fd >= 0) closeSync(this.#fd);
      this.#fd = fd;
      this.#beats = new Map(
        sessions.map(({ id, xmitAuthSeq, rcvAuthSeq }, i) => [
          id,
          { at: beatsAt + i * BEAT_LINE, xmitAuthSeq, rcvAuthSeq },
        ]),
      );
    } catch (error) {
      this.#complain(error as Error);
    }
  }

  #complain(error: Error): void {
    if (performance.now() - this.#errorLogged < ERROR_LOG_PERIOD) return;
    this.#errorLogged = performance.now();
    this.#log.warn(
      { err: error, file: this.#file },
      'cannot save the BFD state; a restart will be seen by the peers',
    );
  }

  /** Writes a last time and closes. */
  close(): void {
    this.#write();
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }
}
