/**
 * The state file of a hitless restart: discriminators, source ports and, for sessions that are Up, what was
 * negotiated. One JSON line, rewritten (a new file renamed over the old) when something in it changes, and behind
 * it a beat that is overwritten in place as packets are sent: when the process was last alive, and the
 * authentication sequence numbers of each session, sent and received.
 *
 * A process that starts within the Detection Time of the last beat goes on with a session as if nothing had
 * happened. A file from another boot or network namespace, too old or damaged, gives no sessions; what can be
 * read of it still gives the discriminators.
 */
import { closeSync, mkdirSync, openSync, readFileSync, readlinkSync, renameSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { pathKey } from './demux.ts';
import type { PeerIntent } from './intent.ts';
import type { Session } from './session.ts';
import type { Log } from './transport.ts';

/** One session in the file. */
export interface SavedSession {
  id: number;
  origin: 'intent' | 'connect' | 'allowed';
  intent: PeerIntent;
  port: number;
  localDiscr: number;
  xmitAuthSeq: number;
  rcvAuthSeq: number;
  /** Present when the session was Up. */
  session: Partial<Session> | undefined;
}

/** The file's first line. */
interface Header {
  version: number;
  bootId: string;
  netns: string;
  sessions: SavedSession[];
}

const FORMAT = 1;
/** The beat: numbers of fixed width, three a line. First the time, then each session's id and sequence numbers. */
const BEAT_WIDTH = 17;
const BEAT_LINE = 3 * (BEAT_WIDTH + 1);
/** A beat is written no more often than this, microseconds. */
const BEAT_PERIOD = 5000;
/** Changes of a moment are written together, ms. */
const WRITE_DELAY = 5;
/** An error is logged so often, ms. */
const ERROR_LOG_PERIOD = 60_000;

const beatLine = (...numbers: [number, number, number]): string =>
  `${numbers.map((number) => String(number).padStart(BEAT_WIDTH, '0')).join(' ')}\n`;

/** This boot and this network namespace. */
function here(): { bootId: string; netns: string } {
  return {
    bootId: readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim(),
    netns: readlinkSync('/proc/self/ns/net'),
  };
}

interface Loaded {
  sessions: SavedSession[];
  /** When the process that wrote it was last alive, on the monotonic clock; -Infinity when it cannot be told. */
  alive: number;
}

/** Reads a state file. Returns undefined when there is none or it makes no sense. */
export function load(file: string): Loaded | undefined {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch {
    return undefined;
  }
  try {
    const [first = '', beat = '', ...sequences] = text.split('\n');
    const header = JSON.parse(first) as Header;
    if (header.version !== FORMAT) return undefined;
    const beats = new Map(
      sequences.map((line) => line.split(' ').map(Number)).map((beat) => [beat[0], beat]),
    );
    const sessions = header.sessions.map((saved) => {
      const [, xmitAuthSeq = saved.xmitAuthSeq, rcvAuthSeq = saved.rcvAuthSeq] = beats.get(saved.id) ?? [];
      return { ...saved, xmitAuthSeq, rcvAuthSeq };
    });
    const wellFormed = sessions.every(
      (saved) =>
        Number.isInteger(saved.localDiscr) &&
        saved.localDiscr > 0 &&
        saved.localDiscr <= 0xffffffff &&
        typeof saved.intent.local === 'string' &&
        typeof saved.intent.remote === 'string',
    );
    if (!wellFormed) return undefined;
    const { bootId, netns } = here();
    const foreign = header.bootId !== bootId || header.netns !== netns;
    const alive = Number(beat.split(' ')[0]);
    return { sessions, alive: foreign || !(alive > 0) ? Number.NEGATIVE_INFINITY : alive };
  } catch {
    return undefined;
  }
}

export class Checkpoint {
  readonly #file: string;
  readonly #log: Log;
  readonly #snapshot: () => SavedSession[];
  readonly #loaded: Loaded | undefined;
  readonly #discriminators = new Map<string, SavedSession>();
  #timer: NodeJS.Timeout | undefined;
  #fd = -1;
  #beatOffset = 0;
  #beatBytes = Buffer.alloc(0);
  #beatLines = new Map<number, number>();
  #lastBeat = 0;
  #errorLogged = -ERROR_LOG_PERIOD;

  /** `snapshot` is asked for what to save. */
  constructor(file: string, log: Log, snapshot: () => SavedSession[]) {
    this.#file = file;
    this.#log = log;
    this.#snapshot = snapshot;
    this.#loaded = load(file);
    for (const saved of this.#loaded?.sessions ?? []) this.#discriminators.set(pathKey(saved.intent), saved);
  }

  /** The sessions that were Up so short a time ago that their peers have not noticed anything. */
  resumable(now: number): SavedSession[] {
    const { sessions, alive } = this.#loaded ?? { sessions: [], alive: Number.NEGATIVE_INFINITY };
    const away = now - alive;
    return sessions.filter(({ session }) => {
      if (session === undefined || away < 0) return false;
      return away < (session.detectionTime ?? 0);
    });
  }

  /** What was saved of a path: its discriminator and source port are used again. */
  recall(key: string): SavedSession | undefined {
    return this.#discriminators.get(key);
  }

  /** Something that is saved has changed: it is written in a moment. */
  changed(): void {
    this.#timer ??= setTimeout(() => this.#write(), WRITE_DELAY);
  }

  /** The process is alive, and this session has come to these sequence numbers. */
  beat(id: number, xmitAuthSeq: number, rcvAuthSeq: number, now: number): void {
    const line = this.#beatLines.get(id);
    if (this.#fd < 0 || line === undefined) {
      this.changed();
      return;
    }
    this.#beatBytes.write(beatLine(id, xmitAuthSeq, rcvAuthSeq), line);
    if (now - this.#lastBeat < BEAT_PERIOD) return;
    this.#lastBeat = now;
    this.#beatBytes.write(beatLine(Math.round(now), 0, 0), 0);
    try {
      writeSync(this.#fd, this.#beatBytes, 0, this.#beatBytes.length, this.#beatOffset);
    } catch (error) {
      this.#complain(error as Error);
    }
  }

  #write(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const sessions = this.#snapshot();
    const header: Header = { version: FORMAT, ...here(), sessions };
    const first = `${JSON.stringify(header)}\n`;
    this.#beatBytes = Buffer.alloc(BEAT_LINE * (1 + sessions.length));
    this.#beatBytes.write(beatLine(Number(process.hrtime.bigint() / 1000n), 0, 0), 0);
    this.#beatLines = new Map();
    sessions.forEach(({ id, xmitAuthSeq, rcvAuthSeq }, i) => {
      this.#beatLines.set(id, BEAT_LINE * (i + 1));
      this.#beatBytes.write(beatLine(id, xmitAuthSeq, rcvAuthSeq), BEAT_LINE * (i + 1));
    });
    this.#beatOffset = Buffer.byteLength(first);
    const draft = `${this.#file}.new`;
    try {
      mkdirSync(dirname(this.#file), { recursive: true });
      const fd = openSync(draft, 'w', 0o600);
      try {
        writeSync(fd, Buffer.concat([Buffer.from(first), this.#beatBytes]));
        renameSync(draft, this.#file);
      } catch (error) {
        closeSync(fd);
        throw error;
      }
      if (this.#fd >= 0) closeSync(this.#fd);
      this.#fd = fd;
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
