/** The recorder in the state directory, so that the plots continue over a restart of the agent. */
import { join } from 'node:path';
import { bootId, uptime } from '../../../lib/clock.ts';
import { readState, replaceState } from '../../../lib/files.ts';
import type { Log } from '../../../lib/log.ts';
import { LogOnChange } from '../../../lib/log-on-change.ts';
import { Recorder } from './recorder.ts';
import { type BootMoment, encode, MAX_OCTETS, restore } from './saved.ts';

const moment = (): BootMoment => ({ boot: bootId(), uptime: uptime(), wall: Date.now() });

export class HistoryFile {
  readonly #path: string;
  readonly #log: Log;
  readonly #failures = new LogOnChange();

  constructor(stateDir: string, log: Log) {
    this.#path = join(stateDir, 'history.bin');
    this.#log = log;
  }

  /** The recorder as it was saved; a new one when there is no file, or none that the agent can have written. */
  read(): Recorder {
    try {
      const content = readState(this.#path, MAX_OCTETS);
      if (content === undefined) return new Recorder();
      const recorder = new Recorder();
      restore(recorder, content, moment());
      return recorder;
    } catch (error) {
      const reason = (error as Error).message;
      this.#log.warn({ path: this.#path, reason }, 'ignoring the saved history, starting a new one');
      return new Recorder();
    }
  }

  /** Replaces the file. A failure is logged once. */
  write(recorder: Recorder): void {
    try {
      replaceState(this.#path, encode(recorder, moment()));
      this.#failures.ended('');
    } catch (error) {
      const reason = (error as Error).message;
      if (!this.#failures.isNew(reason, '')) return;
      this.#log.warn({ path: this.#path, reason }, 'cannot save the history, a restart would lose it');
    }
  }
}
