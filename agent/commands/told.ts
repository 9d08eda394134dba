/**
 * What a command prints of the daemon's answer, and its exit code. `veg-agent` tells it, and the daemon itself where the
 * command is only a few lines of shell (images/gateway/rootfs/usr/bin/veg-agent). Pure.
 */

import { type TranslationsDocument, translationsTable } from '../flows/translations-query.ts';
import { EXIT } from '../options.ts';
import type { PlanDocument } from '../show/plan-document.ts';
import { type StatusDocument, statusText } from '../show/status.ts';

export interface Told {
  out: string;
  err: string;
  code: number;
}

/** How an answer is wanted. */
export const FORMS = ['text', 'colours', 'json'] as const;
export type Form = (typeof FORMS)[number];

const lines = (texts: readonly string[]): string => texts.map((text) => `${text}\n`).join('');
const ours = (texts: readonly string[]): string => lines(texts.map((text) => `veg-agent: ${text}`));
const json = (document: object): string => `${JSON.stringify(document, undefined, 2)}\n`;

/** `status`: 0 ready, 5 not ready. `now`: Unix milliseconds. */
export const tellStatus = (document: StatusDocument, form: Form, now: number): Told => ({
  out: form === 'json' ? json(document) : statusText(document, now, form === 'colours'),
  err: '',
  code: document.ready ? EXIT.ok : EXIT.notReady,
});

/** `plan`: 0 nothing to do, 4 changes pending, 1 cannot tell. Only changes are on stdout. */
export function tellPlan(document: PlanDocument, form: Form): Told {
  const { changes, notes, obstacles } = document;
  const code = changes.length > 0 ? EXIT.changesPending : obstacles.length > 0 ? EXIT.failed : EXIT.ok;
  if (form === 'json') return { out: json(document), err: ours(obstacles), code };
  const nothing = code === EXIT.ok ? ['nothing to do: the kernel is as the policy says'] : [];
  const about = [...notes.map((note) => `note: ${note}`), ...obstacles, ...nothing];
  return { out: lines(changes), err: ours(about), code };
}

/** `translations`: 0 found, 6 none found. */
export function tellTranslations(document: TranslationsDocument, form: Form): Told {
  const found = document.translations.length + (document.computed?.length ?? 0);
  return {
    out: form === 'json' ? json(document) : translationsTable(document),
    err: '',
    code: found > 0 ? EXIT.ok : EXIT.noneFound,
  };
}

/** `drain` and `undrain`. */
export const tellText = (text: string): Told => ({ out: text, err: '', code: EXIT.ok });

/** An answer that is none: 422 are the errors of a policy. */
export const tellRefusal = (status: number, body: string): Told =>
  status === 422
    ? { out: '', err: body, code: EXIT.policyInvalid }
    : { out: '', err: ours([body.trim() || `the agent answered ${status}`]), code: EXIT.failed };

/** For a shell: the exit code and the number of lines of stderr, those lines, stdout, and a line that says that it is all. */
export const shellText = ({ out, err, code }: Told): string =>
  `${code} ${err.split('\n').length - 1}\n${err}${out}end\n`;
