/** The text of a policy error, for commands, status and log. Pure. */
import type { PolicyError } from './model.ts';
import { quote } from './quote.ts';

/** `file:line:col: field.path: message`, on one line; parts that an error does not have are left out. */
export function formatError({ file, line, col, path, message }: PolicyError): string {
  const name = /^[\w./@+ -]+$/.test(file) ? file : quote(file);
  const place = [name, ...(line > 0 ? [line] : []), ...(col > 0 ? [col] : [])].join(':');
  return [place, ...(path === '' ? [] : [path]), message].join(': ');
}
