/** The log lines that `bfdd-control log level`, `log type` and `log timing` switch on and off. */
import type { Log } from '../lib/log.ts';
import { monotonicMicroseconds } from './clock.ts';
import { logTypesOf } from './control-text.ts';

export class SelectiveLog {
  readonly #log: Log;
  #types = logTypesOf('normal');
  /** Whether each line carries the monotonic time. */
  timing = false;

  constructor(log: Log) {
    this.#log = log;
  }

  has(type: string): boolean {
    return this.#types.has(type);
  }

  setLevel(level: string): void {
    this.#types = logTypesOf(level);
  }

  setType(type: string, on: boolean): void {
    if (on) this.#types.add(type);
    else this.#types.delete(type);
  }

  /** Logs a line of a type that is on. */
  info(type: string, fields: object, message: string): void {
    if (!this.#types.has(type)) return;
    const monotonicUs = this.timing ? { monotonicUs: Math.round(monotonicMicroseconds()) } : {};
    this.#log.info({ ...fields, ...monotonicUs }, message);
  }
}
