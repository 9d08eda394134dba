/**
 * `bfdd-control load FILE`: the commands of a file, line by line, and of the files that it loads in turn.
 *
 * Files are read asynchronously, and in the agent process where there is one, so that no packet waits for a file.
 * Whatever the name refers to (a FIFO, a device, a mount that hangs, a file that loads itself), the limits below bound
 * what it costs.
 */
import { constants, type Stats } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { kindOf } from '../lib/files.ts';
import type { Answer } from './bfdd-control.ts';
import { splitWords } from './control-text.ts';

/** Carries out the words of one command. Does not reject. */
type Execute = (words: string[]) => Answer | Promise<Answer>;

/** The largest file, octets. */
const MAX_SIZE = 64 << 10;
/** The deepest nesting of files. */
const MAX_DEPTH = 3;
/** The most commands, and files, of one `load` altogether. */
const MAX_COMMANDS = 1000;
const MAX_FILES = 16;
/** The longest answer, characters. */
const MAX_TEXT = 256 << 10;
/** How long reading a file may take, ms. */
const READ_TIMEOUT = 2000;

const { O_RDONLY, O_NONBLOCK, O_NOCTTY } = constants;

/** Carries out single commands, and those of the files that `load` names. */
export function createScripts(execute: Execute): (words: string[]) => Promise<Answer> {
  /** A read that hangs blocks a thread of the process: one at a time. */
  let reading = false;

  async function read(file: string): Promise<string> {
    if (reading) throw new Error('another file is being read');
    reading = true;
    const text = readBounded(file).finally(() => {
      reading = false;
    });
    const late = new AbortController();
    const timeout = sleep(READ_TIMEOUT, undefined, { signal: late.signal }).then(
      () => Promise.reject(new Error(`it cannot be read within ${READ_TIMEOUT / 1000} s`)),
      () => '',
    );
    return Promise.race([text, timeout]).finally(() => late.abort());
  }

  async function load(
    file: string,
    depth: number,
    left: { commands: number; files: number },
  ): Promise<Answer> {
    const failed = (reason: string): Answer => ({ ok: false, text: `Failed to load ${file}: ${reason}` });
    if (depth > MAX_DEPTH || left.files-- === 0) return failed('too many files load each other');
    let script: string;
    try {
      script = await read(file);
    } catch (error) {
      return failed((error as Error).message);
    }
    const answers: Answer[] = [];
    let length = 0;
    for (const line of script.split('\n')) {
      const words = splitWords(line.replace(/#.*/, ''));
      if (words.length === 0) continue;
      if (left.commands-- <= 0 || length > MAX_TEXT) {
        const most = length > MAX_TEXT ? 'the answer is too long' : `more than ${MAX_COMMANDS} commands`;
        answers.push(failed(`${most}; the rest is left out`));
        break;
      }
      const inner = loaded(words);
      const answer = await (inner === undefined ? execute(words) : load(inner, depth + 1, left));
      answers.push(answer);
      length += answer.text.length;
      // BFD packets first.
      await turn();
    }
    return { ok: answers.every(({ ok }) => ok), text: answers.map(({ text }) => text).join('\n') };
  }

  return async (words) => {
    const file = loaded(words);
    return file === undefined ? execute(words) : load(file, 1, { commands: MAX_COMMANDS, files: MAX_FILES });
  };
}

/** The file that a command loads. */
const loaded = ([command, file]: readonly string[]): string | undefined =>
  command?.toLowerCase() === 'load' ? file : undefined;

/** The text of a regular file. Rejects for anything else, and for one that is too large. */
async function readBounded(file: string): Promise<string> {
  // A device must not even be opened: that may have an effect.
  check(await stat(file));
  const handle = await open(file, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  try {
    check(await handle.stat());
    const buffer = Buffer.alloc(MAX_SIZE + 1);
    let length = 0;
    for (;;) {
      const { bytesRead } = await handle.read(buffer, length, buffer.length - length);
      if (bytesRead === 0) return buffer.toString('utf8', 0, length);
      length += bytesRead;
      if (length > MAX_SIZE) throw tooLarge();
    }
  } finally {
    await handle.close();
  }
}

const tooLarge = (): Error => new Error(`it is larger than ${MAX_SIZE} octets`);

function check(found: Stats): void {
  if (!found.isFile()) throw new Error(`it is ${kindOf(found)}, not a regular file`);
  if (found.size > MAX_SIZE) throw tooLarge();
}
