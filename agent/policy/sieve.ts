/**
 * Skips unused fields of large files while they are read in chunks: as kubectl prints it a Pod has two hundred lines,
 * of which ten hold its place and labels. Pure.
 *
 * What is left is the text as it was, so that everything after the sieve works on it as on a whole file; the places
 * where something was left out are noted, and lead from what is left to line and column of the file. YAML is taken
 * by its lines and their indentation, JSON by its brackets. Anything unexpected (such as a flow map in YAML)
 * is kept: the sieve never decides whether something is valid.
 */
import { leavesOut, type Unread, unreadOf } from './unread.ts';

/**
 * Where the text goes on after something that was left out: for each place the offset in what is left, and the line
 * and the column of the file (both 1-based), one after the other.
 */
export type Cuts = number[];

export interface Sieved {
  text: string;
  cuts: Cuts;
}

/** The text of a whole file. */
export function sieve(text: string): Sieved {
  const one = new Sieve();
  one.write(text);
  return one.end();
}

const BLANK = /[ \t\r\n]*/y;
const QUOTE = /["\\]/g;
const BRACKET = /["{}[\]]/g;
const SCALAR = /[^\s,\]}]+/y;
const OPENING = /^[\s\uFEFF]*([^\s\uFEFF])/;
/** Indentation, the dash of an item, a key, and what follows its colon. */
const LINE =
  /^( *)(- +)?(?:("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s"'#&*!|>%@`{}[\],?-][^\s:#]*) *:(?:[ \t]+(.*))?)?/;
const NO_VALUE = /^\s*(#.*)?$/;

const unquoted = (key: string): string => (/^["']/.test(key) ? key.slice(1, -1) : key);

interface Type {
  apiVersion: string;
  kind: string;
}

const NO_TYPE: Type = { apiVersion: '', kind: '' };

/** The type of the items of a `PodList`, which do not have it themselves; those of a `List` do. */
const listedType = (apiVersion: string, kind: string): Type =>
  /.List$/.test(kind) ? { apiVersion, kind: kind.slice(0, -4) } : NO_TYPE;

/** One file, from its first piece to its last. */
export class Sieve {
  /** What is kept of the pieces, and of the present one. */
  readonly #done: Buffer[] = [];
  #kept: string[] = [];
  /** The length of what is kept. */
  #length = 0;
  #cuts: Cuts = [];
  /** Input that is not decided yet; everything before `#from` is. */
  #text = '';
  #from = 0;
  #at = 0;
  /** What begins here may be left out: it is not kept before that is known. */
  #hold: number | undefined;
  #ended = false;
  /** Up to where lines are counted, the number of that line and the place where it begins. */
  #counted = 0;
  /** The end of the line there, or of the text. */
  #nextEnd: number | undefined;
  #line = 1;
  #lineStart = 0;
  #run: Generator<void> | undefined;

  /** How much is kept so far, or may be. */
  get length(): number {
    return this.#length + this.#text.length;
  }

  write(piece: string): void {
    this.#text += piece;
    this.#nextEnd = undefined;
    this.#go();
  }

  end(): Sieved {
    this.#ended = true;
    this.#go();
    this.#keep(this.#text.length);
    this.#settle();
    const all = Buffer.concat(this.#done);
    // Large text of one octet a character stays out of the heap, where there is little room.
    const text = all.length === this.#length ? all.toString('latin1') : all.toString();
    return { text, cuts: this.#cuts };
  }

  #go(): void {
    this.#run ??= this.#choose();
    this.#run?.next();
    const done = this.#hold ?? this.#at;
    this.#keep(done);
    this.#count(done);
    this.#text = this.#text.slice(done);
    if (this.#hold !== undefined) this.#hold = 0;
    this.#at -= done;
    this.#from -= done;
    this.#counted -= done;
    this.#nextEnd = undefined;
    this.#lineStart -= done;
    this.#settle();
  }

  /** Copies what is kept: a slice would hold the whole piece. */
  #settle(): void {
    if (this.#kept.length > 0) this.#done.push(Buffer.from(this.#kept.join('')));
    this.#kept = [];
  }

  #choose(): Generator<void> | undefined {
    const first = OPENING.exec(this.#text)?.[1];
    if (first === undefined) return undefined;
    return first === '{' ? this.#json() : this.#yaml();
  }

  /** Keeps what is undecided up to a place. */
  #keep(to: number): void {
    if (to <= this.#from) return;
    this.#kept.push(this.#text.slice(this.#from, to));
    this.#length += to - this.#from;
    this.#from = to;
  }

  /** Skips the text between two places. */
  #drop(from: number, to: number): void {
    this.#keep(from);
    this.#from = to;
    this.#count(to);
    const cuts = this.#cuts;
    // One cut follows the other.
    if (cuts.at(-3) === this.#length) cuts.length -= 3;
    cuts.push(this.#length, this.#line, to - this.#lineStart + 1);
  }

  /** Counts the lines up to a place. */
  #count(to: number): void {
    for (;;) {
      if (this.#nextEnd === undefined) {
        const end = this.#text.indexOf('\n', this.#counted);
        this.#nextEnd = end < 0 ? this.#text.length : end;
      }
      if (this.#nextEnd >= to || this.#nextEnd === this.#text.length) return;
      this.#line++;
      this.#counted = this.#nextEnd + 1;
      this.#nextEnd = undefined;
      this.#lineStart = this.#counted;
    }
  }

  // YAML ---------------------------------------------------------------------------------------------------

  *#yaml(): Generator<void> {
    let state = new Place();
    /** Lines that are indented further belong to something that is left out. */
    let leaving: string | undefined;
    for (;;) {
      const end = this.#text.indexOf('\n', this.#at);
      if (end < 0 && !this.#ended) {
        yield;
        continue;
      }
      const [from, to] = [this.#at, end < 0 ? this.#text.length : end + 1];
      if (from === to) return;
      if (leaving !== undefined && this.#belongs(leaving, from)) {
        this.#drop(from, to);
        this.#at = to;
        continue;
      }
      leaving = undefined;
      const line = this.#text.slice(from, end < 0 ? to : end);
      if (/^(---|\.\.\.)(\s|$)/.test(line)) {
        state = new Place();
        if (!/^...\s*(#.*)?$/.test(line)) state.opaque = true;
      } else if (!state.opaque && !state.follow(line)) {
        leaving = ' '.repeat(state.indent);
        this.#drop(from, to);
      }
      this.#at = to;
    }
  }

  /** Whether a line is indented further, or is an item of a list that is not, or is nothing. */
  #belongs(indent: string, at: number): boolean {
    const text = this.#text;
    if (text.startsWith(indent, at)) {
      const [next, after] = [text[at + indent.length], text[at + indent.length + 1]];
      if (next === ' ' || (next === '-' && (after === ' ' || after === '\n' || after === '\r'))) return true;
    }
    BLANK.lastIndex = at;
    BLANK.exec(text);
    const first = text[BLANK.lastIndex];
    const end = text.indexOf('\n', at);
    return first === undefined || first === '#' || (end >= 0 && BLANK.lastIndex > end);
  }

  // JSON ---------------------------------------------------------------------------------------------------

  *#json(): Generator<void> {
    try {
      yield* this.#blank();
      yield* this.#resource();
    } catch (error) {
      if (!(error instanceof Unexpected)) throw error;
    }
    this.#hold = undefined;
    for (;;) {
      this.#at = this.#text.length;
      yield;
    }
  }

  /** A resource or a list of them; `listed`: the type of the items by the list. */
  *#resource(listed?: Type): Generator<void> {
    let { apiVersion, kind } = listed ?? NO_TYPE;
    yield* this.#members(
      (key) => unreadOf(apiVersion, kind)[key] === 'all',
      function* (this: Sieve, key) {
        const first = this.#text[this.#at];
        const unread = unreadOf(apiVersion, kind)[key];
        if (key === 'items' && first === '[' && listed === undefined) {
          yield* this.#items(listedType(apiVersion, kind));
        } else if (unread !== undefined && first === '{') {
          yield* this.#members((name) => leavesOut(unread, name), this.#value);
        } else {
          const isType = key === 'apiVersion' || key === 'kind';
          if (isType) this.#hold = this.#at;
          yield* this.#value();
          if (!isType) return;
          const value = unquoted(this.#text.slice(this.#hold, this.#at));
          if (key === 'kind') kind = value;
          else apiVersion = value;
          this.#hold = undefined;
        }
      },
    );
  }

  *#items(type: Type): Generator<void> {
    this.#at++;
    for (;;) {
      yield* this.#blank();
      const first = this.#text[this.#at];
      if (first === ']' || first === ',') this.#at++;
      if (first === ']') return;
      if (first === '{') yield* this.#resource(type);
      else if (first !== ',') yield* this.#value();
    }
  }

  /** The members of a map; those that are kept are read by `read`, at their value. */
  *#members(
    leaveOut: (key: string) => boolean,
    read: (this: Sieve, key: string) => Generator<void>,
  ): Generator<void> {
    if (this.#text[this.#at] !== '{') throw new Unexpected();
    this.#at++;
    for (;;) {
      this.#hold = this.#at;
      yield* this.#blank();
      const first = this.#text[this.#at];
      if (first === '}') {
        this.#at++;
        this.#hold = undefined;
        return;
      }
      if (first !== '"') throw new Unexpected();
      yield* this.#value();
      const key = unquoted(this.#text.slice(this.#hold, this.#at).trim());
      yield* this.#blank();
      if (this.#text[this.#at] !== ':') throw new Unexpected();
      this.#at++;
      yield* this.#blank();
      const left = leaveOut(key);
      if (!left) this.#hold = undefined;
      if (left) yield* this.#value();
      else yield* read.call(this, key);
      yield* this.#blank();
      if (this.#text[this.#at] === ',') this.#at++;
      else if (this.#text[this.#at] !== '}') throw new Unexpected();
      if (this.#hold !== undefined) this.#drop(this.#hold, this.#at);
      this.#hold = undefined;
    }
  }

  *#blank(): Generator<void> {
    for (;;) {
      BLANK.lastIndex = this.#at;
      BLANK.exec(this.#text);
      this.#at = BLANK.lastIndex;
      if (this.#at < this.#text.length) return;
      if (this.#ended) throw new Unexpected();
      yield;
    }
  }

  /** Goes behind a value of any kind. */
  *#value(): Generator<void> {
    let depth = 0;
    do {
      const first = this.#text[this.#at];
      if (depth > 0 || first === '{' || first === '[') {
        BRACKET.lastIndex = this.#at;
        const found = BRACKET.exec(this.#text)?.[0];
        if (found === undefined) {
          this.#at = this.#text.length;
          yield* this.#more();
          continue;
        }
        this.#at = BRACKET.lastIndex - 1;
        if (found === '"') {
          yield* this.#string();
          continue;
        }
        this.#at++;
        depth += found === '{' || found === '[' ? 1 : -1;
      } else if (first === '"') {
        yield* this.#string();
      } else {
        SCALAR.lastIndex = this.#at;
        if (SCALAR.exec(this.#text) === null) throw new Unexpected();
        // The rest of it may be in the next piece.
        if (SCALAR.lastIndex === this.#text.length && !this.#ended) {
          yield;
          SCALAR.lastIndex = this.#at;
          SCALAR.exec(this.#text);
        }
        this.#at = SCALAR.lastIndex;
      }
    } while (depth > 0);
  }

  *#string(): Generator<void> {
    this.#at++;
    for (;;) {
      QUOTE.lastIndex = this.#at;
      const found = QUOTE.exec(this.#text)?.[0];
      if (found === '"') {
        this.#at = QUOTE.lastIndex;
        return;
      }
      if (found === undefined) this.#at = this.#text.length;
      else if (QUOTE.lastIndex < this.#text.length) {
        this.#at = QUOTE.lastIndex + 1;
        continue;
      }
      yield* this.#more();
    }
  }

  *#more(): Generator<void> {
    if (this.#ended) throw new Unexpected();
    yield;
  }
}

/** What is no JSON of a resource. */
class Unexpected extends Error {}

/** Where in a YAML document a line is: in which resource, and in which of its fields. */
class Place {
  /** Nothing is known about this document; it stays whole. */
  opaque = false;
  /** The indentation of the key that is left out. */
  indent = 0;
  /** The column of the fields of the resource. */
  #base = 0;
  #apiVersion = '';
  #kind = '';
  /** The column of the dashes of a list of resources; `due`: its first line comes next. */
  #dashes: number | undefined;
  #due = false;
  /** The type of the items by the list. */
  #listed = NO_TYPE;
  /** An item that is no block map stays whole. */
  #opaqueItem = false;
  /** What of the field above is unread, and the column of its own fields. */
  #part: Unread | undefined;
  #partColumn: number | undefined;

  /** Takes in the next line. False when it, and all that belongs to it, is left out. */
  follow(line: string): boolean {
    if (NO_VALUE.test(line)) return true;
    const [, { length: indent } = '', dash, quoted, rest = ''] = LINE.exec(line)!;
    const item = dash !== undefined && (this.#due || indent === this.#dashes);
    this.#due = false;
    if (item) {
      this.#dashes = indent;
      this.#enter(indent + dash.length, this.#listed);
      this.#opaqueItem = quoted === undefined;
    } else if (this.#dashes !== undefined && indent <= this.#dashes) {
      this.#dashes = undefined;
      this.#enter(0, NO_TYPE);
    }
    if (quoted === undefined || this.#opaqueItem || (dash !== undefined && !item)) return true;
    const key = unquoted(quoted);
    if (item || indent === this.#base) return this.#field(key, rest.trim(), item);
    if (this.#part === undefined) return true;
    this.#partColumn ??= indent;
    if (indent !== this.#partColumn || !leavesOut(this.#part, key)) return true;
    this.indent = indent;
    return false;
  }

  #enter(base: number, { apiVersion, kind }: Type): void {
    this.#base = base;
    [this.#apiVersion, this.#kind] = [apiVersion, kind];
    this.#opaqueItem = false;
    this.#part = undefined;
  }

  /** A field of the resource; the first of an item follows its dash and is kept. */
  #field(key: string, value: string, first: boolean): boolean {
    this.#part = undefined;
    if (key === 'apiVersion') this.#apiVersion = plain(value);
    if (key === 'kind') this.#kind = plain(value);
    const unread = unreadOf(this.#apiVersion, this.#kind)[key];
    if (unread === 'all' && !first) {
      this.indent = this.#base;
      return false;
    }
    if (!NO_VALUE.test(value)) return true;
    if (key === 'items' && this.#dashes === undefined) {
      this.#due = true;
      this.#listed = listedType(this.#apiVersion, this.#kind);
    }
    [this.#part, this.#partColumn] = [unread, undefined];
    return true;
  }
}

const plain = (value: string): string => unquoted(value.replace(/\s+#.*$/, ''));
