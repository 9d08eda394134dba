/**
 * `veg-agent status --watch`: shows the status every second until it is interrupted. On a terminal it redraws the
 * alternate screen; elsewhere it prints the text, or a line of JSON, each time. The agent may come and go.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { callControl, NoAgentError } from '../../lib/control/client.ts';
import type { SourcesDocument } from '../flows/translations.ts';
import type { TranslationsDocument } from '../flows/translations-query.ts';
import { EXIT } from '../options.ts';
import type { StatusDocument } from '../show/status.ts';
import { awayView, terminalView, type Watched } from '../show/terminal.ts';
import { statusText } from '../show/text.ts';

/** Between two requests, ms. */
const PERIOD = 1000;
/** Timeout of a request, ms. */
const TIMEOUT = 3000;

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

/** The documents of the agent. Throws `NoAgentError`. */
async function fetchDocuments(stateDir: string, rows: number): Promise<Watched> {
  const get = async <T>(path: string): Promise<T | undefined> => {
    const { status, body } = await callControl(stateDir, 'GET', path, { timeoutMs: TIMEOUT });
    return status === 200 ? (JSON.parse(body) as T) : undefined;
  };
  const status = await get<StatusDocument>('/v1/status');
  if (status === undefined) throw new NoAgentError('the agent returned no status');
  if (!status.translationLog) return { status };
  const [sources, translations] = await Promise.all([
    get<SourcesDocument>('/v1/sources'),
    get<TranslationsDocument>(`/v1/translations?scope=local&limit=${rows}`),
  ]);
  return { status, ...(sources && { sources }), ...(translations && { translations }) };
}

/** Returns when it is interrupted, with the exit code of the last request: 0 ready, 5 not ready, 1 no agent. */
export async function watchStatus(
  stateDir: string,
  { json, colours }: { json: boolean; colours: boolean },
): Promise<number> {
  const { stdout } = process;
  const end = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => end.abort());
  // The reader, such as head, closes the pipe.
  stdout.once('error', () => end.abort());
  const onScreen = stdout.isTTY === true && !json;
  // A terminal of unknown size reports 0.
  const screen = () => ({ columns: stdout.columns || 80, rows: stdout.rows || 24, colours });
  let frame: (() => string[]) | undefined;
  const draw = () => {
    if (frame !== undefined) stdout.write(drawn(frame()));
  };
  if (onScreen) {
    stdout.write(ENTER);
    stdout.on('resize', draw);
  }
  let code: number = EXIT.failed;
  try {
    while (!end.signal.aborted) {
      try {
        const watched = await fetchDocuments(stateDir, screen().rows);
        code = watched.status.ready ? EXIT.ok : EXIT.notReady;
        const now = Date.now();
        frame = () => terminalView(watched, now, screen());
        if (json) stdout.write(`${JSON.stringify(watched.status)}\n`);
        else if (!onScreen) stdout.write(statusText(watched.status, now, colours));
      } catch (error) {
        if (!(error instanceof NoAgentError)) throw error;
        code = EXIT.failed;
        const { message } = error;
        frame = () => awayView(message, screen());
        if (!onScreen) process.stderr.write(`veg-agent: ${message}\n`);
      }
      if (onScreen && !end.signal.aborted) draw();
      await sleep(PERIOD, undefined, { signal: end.signal }).catch(() => {});
    }
  } finally {
    if (onScreen) stdout.write(LEAVE);
  }
  return code;
}
