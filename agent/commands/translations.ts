/** The command `veg-agent translations`: who was behind an external address at some time. */
import { callControl, NoAgentError } from '../../lib/control/client.ts';
import { LOOKUP_OPTIONS } from '../flows/lookup-options.ts';
import { LookupError, parseLookup, type TranslationsDocument } from '../flows/translations-query.ts';
import { EXIT, type Options, UsageError } from '../options.ts';
import { translationsOutput } from '../show/command-output.ts';
import { print } from './print.ts';

/** Asks the running agent. 0 found, 6 none found, 1 no agent or no log. Throws `UsageError`. */
export async function translations(options: Options, flags: Record<string, unknown>): Promise<number> {
  const params = Object.fromEntries(
    Object.keys(LOOKUP_OPTIONS).flatMap((flag) =>
      flags[flag] === undefined ? [] : [[flag, String(flags[flag])]],
    ),
  );
  try {
    parseLookup(params);
  } catch (error) {
    if (error instanceof LookupError) throw new UsageError(`--${error.message}`);
    throw error;
  }
  const complain = (reason: string): number => {
    process.stderr.write(`veg-agent: ${reason.trim()}\n`);
    return EXIT.failed;
  };
  try {
    const path = `/v1/translations?${new URLSearchParams(params)}`;
    const { status, body } = await callControl(options.stateDir, 'GET', path);
    if (status !== 200) return complain(body);
    const document = JSON.parse(body) as TranslationsDocument;
    return print(translationsOutput(document, flags.json === true ? 'json' : 'text'));
  } catch (error) {
    if (error instanceof NoAgentError) return complain(error.message);
    throw error;
  }
}
