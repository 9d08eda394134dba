/** The alternate screen of a terminal: frames, keys, Ctrl-Z and back; at the end the terminal is as it was. */
import type { Screen } from '../show/terminal.ts';

// ECMA-48 and xterm control sequences: alternate screen, cursor off, autowrap off; and back.
const ENTER = '\x1b[?1049h\x1b[?25l\x1b[?7l';
const LEAVE = '\x1b[?7h\x1b[?25h\x1b[?1049l';
const HOME = '\x1b[H';
const REST_OF_LINE = '\x1b[K';
const REST_OF_SCREEN = '\x1b[J';

/**
 * A frame that overwrites the last one. Each line is cleared before it is written: after a line that fills the last
 * column the cursor is still on its last character, and clearing would remove that.
 */
export function drawn(lines: readonly string[]): string {
  const last = lines.length - 1;
  return HOME + lines.map((line, i) => (i < last ? REST_OF_LINE : REST_OF_SCREEN) + line).join('\r\n');
}

/** What a screen uses of the process; tests bring their own. */
export interface ScreenProcess {
  stdin: Pick<NodeJS.ReadStream, 'isTTY' | 'setRawMode' | 'setEncoding' | 'on' | 'off' | 'pause'>;
  stdout: Pick<NodeJS.WriteStream, 'columns' | 'rows' | 'write' | 'on'>;
  once(signal: 'SIGCONT', run: () => void): unknown;
  /** Stops the process as Ctrl-Z does. */
  stop(): void;
}

const ownProcess: ScreenProcess = {
  stdin: process.stdin,
  stdout: process.stdout,
  once: (signal, run) => process.once(signal, run),
  stop: () => process.kill(process.pid, 'SIGTSTP'),
};

export class WatchScreen {
  readonly #colours: boolean;
  readonly #onKey: (key: string) => void;
  readonly #process: ScreenProcess;
  #frame: ((screen: Screen) => string[]) | undefined;

  /** Takes the screen, and the keys where there is a keyboard. */
  constructor(colours: boolean, onKey: (key: string) => void, own = ownProcess) {
    this.#colours = colours;
    this.#onKey = onKey;
    this.#process = own;
    this.#enter();
    own.stdout.on('resize', this.draw);
    // What comes from a pipe is not pressed.
    if (own.stdin.isTTY)
      own.stdin
        .setEncoding('utf8')
        .on('data', this.#read)
        .on('error', () => {});
  }

  /** The rows of the terminal; one of unknown size reports 0. */
  get rows(): number {
    return this.#process.stdout.rows || 24;
  }

  /** Shows this from now on. */
  show(frame: (screen: Screen) => string[]): void {
    this.#frame = frame;
    this.draw();
  }

  readonly draw = (): void => {
    const { stdout } = this.#process;
    const screen = { columns: stdout.columns || 80, rows: this.rows, colours: this.#colours };
    if (this.#frame !== undefined) stdout.write(drawn(this.#frame(screen)));
  };

  /** Stops as Ctrl-Z does, until the shell continues it. */
  suspend(): void {
    this.#leave();
    this.#process.once('SIGCONT', () => {
      this.#enter();
      this.draw();
    });
    this.#process.stop();
  }

  close(): void {
    this.#process.stdin.off('data', this.#read).pause();
    this.#leave();
  }

  readonly #read = (data: string): void => {
    // An escape sequence is a key that has no meaning here.
    if (!data.startsWith('\x1b')) for (const key of data) this.#onKey(key);
  };

  #enter(): void {
    const { stdin, stdout } = this.#process;
    if (stdin.isTTY) stdin.setRawMode(true);
    stdout.write(ENTER);
  }

  #leave(): void {
    const { stdin, stdout } = this.#process;
    if (stdin.isTTY) stdin.setRawMode(false);
    stdout.write(LEAVE);
  }
}
