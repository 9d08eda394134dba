/**
 * Reads documents as machines print them, without a syntax tree: block maps and lists with scalars on one line, or
 * JSON. It takes a tenth of the parser's time and memory. Whatever is not as expected, and whatever may be wrong, is
 * left to the parser, which reads all of YAML and knows the places. Pure.
 */

/** Blanks, the dash of an item, a key, and the scalar. */
const LINE = /^( *)(- )?(?:([\w./-]+|"[^"\\]+"|'[^']+'):(?: |$))?([\s\S]*)$/;
/** Text that is nothing but itself: no indicator, no comment, no `: `. */
const WORDS = /^[\w./][\w./+@%=,()~-]*(?:(?: |:+)[\w./+@%=,()~-]+)*$/;
/** What YAML's core schema takes for something else than text (YAML 1.2.2, 10.3.2). */
const NO_TEXT =
  /^(?:null|true|false|[-+]?\d+|0o[0-7]+|0x[\da-f]+|[-+]?(?:\.\d+|\d+(?:\.\d*)?)(?:e[-+]?\d+)?|[-+]?\.inf|\.nan)$/i;
const WHOLE_NUMBER = /^(?:0|[1-9]\d{0,14})$/;
/** A string with the colon that makes it a key; or a comma with nothing behind it. */
const JSON_TOKEN = /"(?:[^"\\]|\\.)*"(\s*:)?|,(?=\s*[}\]])/g;

/** What is left to the parser. */
class Beyond extends Error {}

const BEYOND = new Beyond();

export interface Plain {
  value: unknown;
  /** About how many values there are in it. */
  size: number;
}

/** The value of a document; undefined when it is left to the parser. */
export function readPlain(text: string, texts: Texts): Plain | undefined {
  try {
    return text.trimStart().startsWith('{') ? readJson(text) : new Lines(text, texts).read();
  } catch (error) {
    if (error instanceof Beyond || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function readJson(text: string): Plain {
  let keys = 0;
  const strict = text.replace(JSON_TOKEN, (token, colon?: string) => {
    if (colon !== undefined) keys++;
    return token === ',' ? '' : token;
  });
  const value: unknown = JSON.parse(strict);
  // A duplicate key is an error.
  if (countKeys(value) !== keys) throw BEYOND;
  return { value, size: keys };
}

function countKeys(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0;
  const values = Object.values(value);
  return values.reduce<number>((sum, one) => sum + countKeys(one), Array.isArray(value) ? 0 : values.length);
}

/** The lines of a YAML document. */
class Lines {
  readonly #lines: string[];
  readonly #texts: Texts;
  #at = 0;
  /** The next line: its indentation, or -1 at the end; a dash; a key; what follows. */
  #indent = -1;
  #dash = false;
  #key: string | undefined;
  #rest = '';

  constructor(text: string, texts: Texts) {
    this.#texts = texts;
    this.#lines = text.split('\n');
    if (this.#lines.at(-1) === '') this.#lines.pop();
    this.#look();
  }

  read(): Plain {
    const value = this.#map(this.#indent);
    if (this.#indent !== -1) throw BEYOND;
    return { value, size: this.#lines.length };
  }

  #look(): void {
    const line = this.#lines[this.#at];
    if (line === undefined) {
      this.#indent = -1;
      return;
    }
    const [, { length } = '', dash, key, rest = ''] = LINE.exec(line)!;
    this.#indent = length;
    this.#dash = dash !== undefined;
    this.#key = key;
    this.#rest = rest;
  }

  #next(): void {
    this.#at++;
    this.#look();
  }

  #map(indent: number): Record<string, unknown> {
    const map: Record<string, unknown> = {};
    while (this.#indent === indent && !this.#dash) {
      if (this.#key === undefined) throw BEYOND;
      const key = /^["']/.test(this.#key) ? this.#key.slice(1, -1) : this.#key;
      if (Object.hasOwn(map, key) || key === '__proto__') throw BEYOND;
      map[key] = this.#value(indent);
    }
    return map;
  }

  /** The value of a key on this line, or below it. */
  #value(indent: number): unknown {
    const text = this.#rest;
    this.#next();
    if (text !== '') {
      // It may go on in the next line.
      if (this.#indent > indent) throw BEYOND;
      return scalar(text, this.#texts);
    }
    if (this.#dash && this.#indent >= indent) return this.#list(this.#indent);
    return this.#indent > indent ? this.#map(this.#indent) : null;
  }

  #list(indent: number): unknown[] {
    const list: unknown[] = [];
    while (this.#indent === indent && this.#dash) {
      if (this.#key === undefined) {
        const text = this.#rest;
        this.#next();
        if (this.#indent > indent) throw BEYOND;
        list.push(scalar(text, this.#texts));
      } else {
        // The fields of an item are below the first one.
        this.#indent += 2;
        this.#dash = false;
        list.push(this.#map(indent + 2));
      }
    }
    if (this.#indent > indent) throw BEYOND;
    // A list that has grown has room for more, which thousands of short ones cannot afford.
    return list.slice();
  }
}

/** Interned texts: names of nodes and namespaces occur in thousands of documents. */
export class Texts {
  readonly #known = new Map<string, string>();

  /** The same text for the same text, as long as it comes again soon. */
  share(text: string): string {
    const known = this.#known.get(text);
    if (known !== undefined) return known;
    if (this.#known.size === MAX_TEXTS) this.#known.clear();
    this.#known.set(text, text);
    return text;
  }
}

const MAX_TEXTS = 500;

function scalar(text: string, texts: Texts): unknown {
  if (text === '{}') return {};
  if (text === '[]') return [];
  const first = text[0];
  if (first === '"' || first === "'") {
    const inner = text.slice(1, -1);
    if (text.length < 2 || !text.endsWith(first) || inner.includes(first) || inner.includes('\\'))
      throw BEYOND;
    return texts.share(inner);
  }
  if (!WORDS.test(text)) throw BEYOND;
  if (!NO_TEXT.test(text)) return texts.share(text);
  if (text === 'null') return null;
  if (text === 'true' || text === 'false') return text === 'true';
  if (!WHOLE_NUMBER.test(text)) throw BEYOND;
  return Number(text);
}
