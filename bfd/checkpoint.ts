/**
 * The state file of a hitless restart: discriminators, source ports and, for sessions that are Up, what was
 * negotiated. One JSON line, rewritten (a new file renamed over the old) when something in it changes, and behind
 * it a line a session that is overwritten in place with every packet sent: when that was, and the authentication
 * sequence numbers.
 *
 * A process that starts before a session's peer has missed it goes on as if nothing had happened. A file from
 * another boot or network namespace, too old or damaged, gives no sessions; what can be read of it still gives
 * the discriminators.
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
  /** Of the last packet sent, microseconds of the monotonic clock. */
  lastTransmit: number;
  /** In this time after it the peer gives the session up, microseconds. */
  peerDetectionTime: number;
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
/** A beat: four numbers of fixed width, the session's id first. */
const BEAT_WIDTH = 16;
const BEAT_LINE = 4 * (BEAT_WIDTH + 1);
/** Between two rewritings of the whole file, ms; changes of a moment are written together. */
const WRITE_PERIOD = 5;
/** An error is logged so often, ms. */
const ERROR_LOG_PERIOD = 60_000;

type Beat = Pick<SavedSession, 'id' | 'xmitAuthSeq' | 'rcvAuthSeq' | 'lastTransmit'>;

/** The last number of a beat, alone in changing where packets are not authenticated. */
const beatTime = (lastTransmit: number): string => String(Math.round(lastTransmit)).padStart(BEAT_WIDTH, '0');
const BEAT_TIME_AT = 3 * (BEAT_WIDTH + 1);

const beatLine = ({ id, xmitAuthSeq, rcvAuthSeq, lastTransmit }: Beat): string =>
  `${[id, xmitAuthSeq, rcvAuthSeq].map((number) => `${String(number).padStart(BEAT_WIDTH, '0')} `).join('')}${beatTime(lastTransmit)}\n`;

function parseBeat(line: string): Beat | undefined {
  const [id = 0, xmitAuthSeq = 0, rcvAuthSeq = 0, lastTransmit = 0] = line.split(' ').map(Number);
  return line.length === BEAT_LINE - 1 ? { id, xmitAuthSeq, rcvAuthSeq, lastTransmit } : undefined;
}

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

/** Reads a state file. Returns undefined when there is none or it makes no sense. */
function load(file: string): Loaded | undefined {
  try {
    const [first = '', ...lines] = readFileSync(file, 'utf8').split('\n');
    const header = JSON.parse(first) as Header;
    if (header.version !== FORMAT) return undefined;
    const beats = new Map(lines.map(parseBeat).map((beat) => [beat?.id, beat]));
    const sessions = header.sessions.map((saved) => ({ ...saved, ...beats.get(saved.id) }));
    const wellFormed = sessions.every(
      ({ localDiscr, intent }) =>
        Number.isInteger(localDiscr) &&
        localDiscr > 0 &&
        localDiscr <= 0xffffffff &&
        typeof intent.local === 'string' &&
        typeof intent.remote === 'string',
    );
    if (!wellFormed) return undefined;
    const { bootId, netns } = here();
    return { sessions, ours: header.bootId === bootId && header.netns === netns };
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
    this.#loaded = load(file);
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
    const header: Header = { version: FORMAT, ...here(), sessions };
    const first = `${JSON.stringify(header)}\n`;
    const beatsAt = Buffer.byteLength(first);
    this.#beats = new Map(
      sessions.map(({ id, xmitAuthSeq, rcvAuthSeq }, i) => [
        id,
        { at: beatsAt + i * BEAT_LINE, xmitAuthSeq, rcvAuthSeq },
      ]),
    );
    const draft = `${this.#file}.new`;
    try {
      mkdirSync(dirname(this.#file), { recursive: true });
      const fd = openSync(draft, 'w', 0o600);
      try {
        writeSync(fd, first + sessions.map(beatLine).join(''));
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
