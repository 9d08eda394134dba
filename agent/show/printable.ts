/** Text from policies and names, made safe for a terminal. Pure. */

/** C0 and C1 control characters, and those that change the direction of text. */
const UNSAFE = /[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]/g;

/** A document of which no string can steer the terminal that it is printed on. */
export function printable<T>(document: T): T {
  if (typeof document === 'string') return document.replace(UNSAFE, '\u{fffd}') as T;
  if (Array.isArray(document)) return document.map(printable) as T;
  if (typeof document !== 'object' || document === null) return document;
  return Object.fromEntries(Object.entries(document).map(([key, value]) => [key, printable(value)])) as T;
}
