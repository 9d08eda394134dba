/**
 * A command's output: what it prints of the daemon's answer, and its exit code. `veg-agent` makes it; for the few lines
 * of shell that the image has in its place (images/gateway/rootfs/usr/bin/veg-agent) the daemon does. Pure.
 */

import { type TranslationsDocument, translationsTable } from '../flows/translations-query.ts';
import { EXIT } from '../options.ts';
import type { PlanDocument } from './plan-document.ts';
import type { StatusDocument } from './status.ts';
import { statusText } from './text.ts';

export interface CommandOutput {
  stdout: string;
  stderr: string;
  exitCode: number;
}

/** The formats of an answer; `colours` is text for a terminal. */
export const FORMS = ['text', 'colours', 'json'] as const;
export type Form = (typeof FORMS)[number];

const lines = (texts: readonly string[]): string => texts.map((text) => `${text}\n`).join('');
const messages = (texts: readonly string[]): string => lines(texts.map((text) => `veg-agent: ${text}`));
const json = (document: object): string => `${JSON.stringify(document, undefined, 2)}\n`;

/** `status`: 0 ready, 5 not ready. `now`: Unix milliseconds. */
export const statusOutput = (document: StatusDocument, form: Form, now: number): CommandOutput => ({
  stdout: form === 'json' ? json(document) : statusText(document, now, form === 'colours'),
  stderr: '',
  exitCode: document.ready ? EXIT.ok : EXIT.notReady,
});

/** `plan`: 1 the kernel cannot be observed, 4 changes pending, 0 nothing to do. Only changes are on stdout. */
export function planOutput(document: PlanDocument, form: Form): CommandOutput {
  const { changes, notes, obstacles } = document;
  const exitCode = planExitCode(document);
  if (form === 'json') return { stdout: json(document), stderr: messages(obstacles), exitCode };
  const nothing = exitCode === EXIT.ok ? ['nothing to do: the kernel is as the policy says'] : [];
  const about = [...notes.map((note) => `note: ${note}`), ...obstacles, ...nothing];
  return { stdout: lines(changes), stderr: messages(about), exitCode };
}

function planExitCode({ observed, changes, obstacles }: PlanDocument): number {
  if (!observed) return EXIT.failed;
  if (changes.length > 0) return EXIT.changesPending;
  return obstacles.length > 0 ? EXIT.failed : EXIT.ok;
}

/** `translations`: 0 found, 6 none found. */
export function translationsOutput(document: TranslationsDocument, form: Form): CommandOutput {
  const found = document.translations.length + (document.computed?.length ?? 0);
  return {
    stdout: form === 'json' ? json(document) : translationsTable(document),
    stderr: '',
    exitCode: found > 0 ? EXIT.ok : EXIT.noneFound,
  };
}

/** `drain` and `undrain`. */
export const textOutput = (text: string): CommandOutput => ({ stdout: text, stderr: '', exitCode: EXIT.ok });

/** An answer other than 200. The body of a 422 is the errors of a policy. */
export const errorOutput = (status: number, body: string): CommandOutput =>
  status === 422
    ? { stdout: '', stderr: body, exitCode: EXIT.policyInvalid }
    : {
        stdout: '',
        stderr: messages([body.trim() || `the agent answered ${status}`]),
        exitCode: EXIT.failed,
      };

/** For a shell: the exit code and the number of lines of stderr, these lines, stdout, and the line `end`. */
export const shellReply = ({ stdout, stderr, exitCode }: CommandOutput): string =>
  `${exitCode} ${stderr.split('\n').length - 1}\n${stderr}${stdout}end\n`;
