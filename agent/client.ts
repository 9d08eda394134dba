/** The commands that talk to a running agent over its control socket. */
import { setTimeout as sleep } from 'node:timers/promises';
import { EXIT } from './cli.ts';
import { callControl, NoAgentError } from './control.ts';
import type { Options } from './options.ts';
import { type StatusDocument, statusText } from './status.ts';

/** `status --watch` looks so often, ms. */
const WATCH_PERIOD = 1000;
/** What an answer may take beyond the drain itself, ms. */
const ANSWER_GRACE = 5000;

/** Calls the agent; no agent is said on stderr. */
async function call(...parameters: Parameters<typeof callControl>): Promise<string | undefined> {
  try {
    const { status, body } = await callControl(...parameters);
    if (status === 200) return body;
    process.stderr.write(`veg-agent: ${body.trim() || `the agent answered ${status}`}\n`);
  } catch (error) {
    if (!(error instanceof NoAgentError)) throw error;
    process.stderr.write(`veg-agent: ${error.message}\n`);
  }
  return undefined;
}

/** `status`: 0 ready, 5 not ready, 1 no agent. */
export async function status(
  options: Options,
  { json, watch, colours }: { json: boolean; watch: boolean; colours: boolean },
): Promise<number> {
  for (;;) {
    const body = await call(options.stateDir, 'GET', '/v1/status');
    if (body === undefined && !watch) return EXIT.failed;
    if (body !== undefined) {
      const document = JSON.parse(body) as StatusDocument;
      const text = json
        ? `${JSON.stringify(document, undefined, watch ? 0 : 2)}\n`
        : statusText(document, Date.now(), colours);
      // Home and clear, so that a watched status stays in place.
      process.stdout.write(watch && !json && process.stdout.isTTY ? `\x1b[H\x1b[2J${text}` : text);
      if (!watch) return document.ready ? EXIT.ok : EXIT.notReady;
    }
    await sleep(WATCH_PERIOD);
  }
}

/** `drain`: returns when traffic has moved or the time is over. */
export async function drain(options: Options, timeout: number | undefined): Promise<number> {
  const query = timeout === undefined ? '' : `?timeout=${timeout}`;
  const timeoutMs = (timeout ?? options.drainTimeout) + ANSWER_GRACE;
  const body = await call(options.stateDir, 'POST', `/v1/drain${query}`, { timeoutMs });
  if (body === undefined) return EXIT.failed;
  process.stdout.write(body);
  return EXIT.ok;
}

/** `undrain`. */
export async function undrain(options: Options): Promise<number> {
  const body = await call(options.stateDir, 'POST', '/v1/undrain');
  if (body === undefined) return EXIT.failed;
  process.stdout.write(body);
  return EXIT.ok;
}
