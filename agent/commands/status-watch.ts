/**
 * `veg-agent status --watch`: shows the status every second until it is interrupted. On a terminal it redraws the
 * alternate screen; elsewhere it prints the text, or a line of JSON, each time. The agent may come and go.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { callControl, NoAgentError } from '../../lib/control/client.ts';
import type { SourcesDocument } from '../flows/translations.ts';
import type { TranslationsDocument } from '../flows/translations-query.ts';
import { EXIT } from '../options.ts';
import type { HistoryDocument } from '../show/plots/recorder.ts';
import type { Range } from '../show/plots/series.ts';
import type { StatusDocument } from '../show/status.ts';
import { awayView, FIRST_VIEW, terminalView, type Watched } from '../show/terminal.ts';
import { statusText } from '../show/text.ts';
import { pressed } from './watch-keys.ts';
import { WatchScreen } from './watch-screen.ts';

/** Between two requests, ms. */
const PERIOD = 1000;
/** The longest time between two requests for the plots, ms. */
const PLOT_PERIOD = 5000;
/** Timeout of a request, ms. */
const TIMEOUT = 3000;

/** The answer to a request; undefined: the agent has none. Throws `NoAgentError`. */
async function get<T>(stateDir: string, path: string): Promise<T | undefined> {
  const { status, body } = await callControl(stateDir, 'GET', path, { timeoutMs: TIMEOUT });
  return status === 200 ? (JSON.parse(body) as T) : undefined;
}

/** The documents of the agent. Throws `NoAgentError`. */
async function fetchDocuments(stateDir: string, rows: number): Promise<Watched> {
  const status = await get<StatusDocument>(stateDir, '/v1/status');
  if (status === undefined) throw new NoAgentError('the agent returned no status');
  if (!status.translationLog) return { status };
  const [sources, translations] = await Promise.all([
    get<SourcesDocument>(stateDir, '/v1/sources'),
    get<TranslationsDocument>(stateDir, `/v1/translations?scope=local&limit=${rows}`),
  ]);
  return { status, ...(sources && { sources }), ...(translations && { translations }) };
}

/** The plots of a range, which are asked for when they have changed. */
class PlotSource {
  readonly #stateDir: string;
  #last: HistoryDocument | undefined;
  #at = Number.NEGATIVE_INFINITY;

  constructor(stateDir: string) {
    this.#stateDir = stateDir;
  }

  get last(): HistoryDocument | undefined {
    return this.#last;
  }

  async fetch(range: Range): Promise<HistoryDocument | undefined> {
    const now = performance.now();
    const period = Math.min(PLOT_PERIOD, 1000 * (this.#last?.step ?? 0));
    if (this.#last?.range === range && now - this.#at < period) return this.#last;
    this.#at = now;
    this.#last = await get<HistoryDocument>(this.#stateDir, `/v1/history?range=${range}`);
    return this.#last;
  }
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
  if (stdout.isTTY === true && !json) return watchOnScreen(stateDir, colours, end);
  const show = ({ status }: Watched) =>
    stdout.write(json ? `${JSON.stringify(status)}\n` : statusText(status, Date.now(), colours));
  const away = (message: string) => process.stderr.write(`veg-agent: ${message}\n`);
  return watch(
    () => fetchDocuments(stateDir, 1),
    { show, away },
    () => end.signal,
    end.signal,
  );
}

/** The same on a terminal, with plots and keys. */
async function watchOnScreen(stateDir: string, colours: boolean, end: AbortController): Promise<number> {
  const plots = new PlotSource(stateDir);
  let view = FIRST_VIEW;
  let wake = new AbortController();
  const screen = new WatchScreen(colours, (key) => {
    const asked = pressed(key, view, plots.last);
    if (asked === 'quit') end.abort();
    else if (asked === 'suspend') screen.suspend();
    else if (asked !== undefined) {
      view = asked;
      screen.draw();
      wake.abort();
    }
  });
  const fetch = async (): Promise<Watched> => {
    const watched = await fetchDocuments(stateDir, screen.rows);
    const history = await plots.fetch(view.range);
    return { ...watched, ...(history && { history }) };
  };
  const show = (watched: Watched) => {
    const now = Date.now();
    screen.show((size) => terminalView(watched, now, size, view));
  };
  const away = (message: string) => screen.show((size) => awayView(message, size));
  const untilKey = () => {
    wake = new AbortController();
    return AbortSignal.any([end.signal, wake.signal]);
  };
  try {
    return await watch(fetch, { show, away }, untilKey, end.signal);
  } finally {
    screen.close();
  }
}

interface Shows {
  show(watched: Watched): void;
  /** No agent answers, and why. */
  away(message: string): void;
}

/** Fetches and shows every `PERIOD`, or sooner after a signal of `pause`, until `end`. */
async function watch(
  fetch: () => Promise<Watched>,
  { show, away }: Shows,
  pause: () => AbortSignal,
  end: AbortSignal,
): Promise<number> {
  let code: number = EXIT.failed;
  while (!end.aborted) {
    const wake = pause();
    try {
      const watched = await fetch();
      code = watched.status.ready ? EXIT.ok : EXIT.notReady;
      if (!end.aborted) show(watched);
    } catch (error) {
      if (!(error instanceof NoAgentError)) throw error;
      code = EXIT.failed;
      if (!end.aborted) away(error.message);
    }
    await sleep(PERIOD, undefined, { signal: wake }).catch(() => {});
  }
  return code;
}
