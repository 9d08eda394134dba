/** The commands that talk to a running agent over its control socket. */
import { callControl, NoAgentError } from '../../lib/control/client.ts';
import { EXIT, type Options } from '../options.ts';
import { type Form, statusOutput } from '../show/command-output.ts';
import type { StatusDocument } from '../show/status.ts';
import { print } from './print.ts';

/** Time for the answer beyond the drain itself, ms. */
const ANSWER_GRACE = 5000;

/** Calls the agent. Any other answer than 200, or none, goes to stderr. */
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
export async function status(options: Options, form: Form): Promise<number> {
  const body = await call(options.stateDir, 'GET', '/v1/status');
  if (body === undefined) return EXIT.failed;
  return print(statusOutput(JSON.parse(body) as StatusDocument, form, Date.now()));
}

/**
 * `drain`: returns when traffic has moved or `timeout` has passed (undefined: the timeout of the daemon). A daemon that
 * hangs ends the call with its agent process.
 */
export async function drain(options: Options, timeout: number | undefined): Promise<number> {
  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const) {
    process.once(signal, () => {
      process.stderr.write(
        'veg-agent: no longer waiting; the gateway stays drained until veg-agent undrain\n',
      );
      process.exit(code);
    });
  }
  const query = timeout === undefined ? '' : `?timeout=${timeout}ms`;
  const timeoutMs = timeout === undefined ? Number.POSITIVE_INFINITY : timeout + ANSWER_GRACE;
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
