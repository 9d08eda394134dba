/** Parses untrusted JSON. Pure. */

const QUOTE = 0x22;
const COMMA = 0x2c;
const BEGIN_LIST = 0x5b;
const BACKSLASH = 0x5c;
const BEGIN_OBJECT = 0x7b;

/**
 * Parses JSON with at most about `maxValues` values: a few octets of text may take twenty times as much memory. Throws if
 * the text is invalid or has more.
 */
export function parseJson(octets: Uint8Array, maxValues: number): unknown {
  let values = 0;
  let inString = false;
  for (let i = 0; i < octets.length; i++) {
    const octet = octets[i];
    if (octet === QUOTE) inString = !inString;
    else if (inString && octet === BACKSLASH) i++;
    else if (!inString && (octet === COMMA || octet === BEGIN_LIST || octet === BEGIN_OBJECT)) values++;
  }
  if (values > maxValues) throw new Error(`more than ${maxValues} values`);
  return JSON.parse(new TextDecoder().decode(octets));
}
