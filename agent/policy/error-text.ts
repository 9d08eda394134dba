/** The text of a policy's errors, for commands, status and log, and of its warnings for `check`. Pure. */
import type { FilePlace, PolicyError, PolicyWarning } from './model.ts';
import { quote } from './quote.ts';

/** `file:line:col: field.path: message`, on one line; parts that an error does not have are left out. */
export function formatError({ path, message, ...place }: PolicyError): string {
  return [formatPlace(place), ...(path === '' ? [] : [path]), message].join(': ');
}

/** `file:line:col: warning: message`; `veg-agent` in place of a place that is not known. */
export const formatWarning = ({ message, place }: PolicyWarning): string =>
  `${place === undefined ? 'veg-agent' : formatPlace(place)}: warning: ${message}`;

function formatPlace({ file, line, col }: FilePlace): string {
  const name = /^[\w./@+ -]+$/.test(file) ? file : quote(file);
  return [name, ...(line > 0 ? [line] : []), ...(col > 0 ? [col] : [])].join(':');
}
