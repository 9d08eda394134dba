/**
 * A file as parts that are parsed one after the other: its documents, and of a list its items, so that there
 * is never more than one item's syntax tree. Places in a part lead to places in the file. Pure.
 */

import { type Budget, type ParsedDocument, type Position, parseDocuments, placesIn } from './parse.ts';
import { readPlain, Texts } from './plain-yaml.ts';
import type { Cuts } from './sieve.ts';

/** Octets of a syntax tree for one of the value that remains of it. */
const TREE_TO_VALUE = 12;

/** Values of about 60 octets for a token of 500. */
const VALUES_A_TOKEN = 8;

/** A range of a file's text, or two without the gap between them. */
interface Part {
  from: number;
  to: number;
  /** Where a dash is replaced by a blank: an item of a block list is a document without it. */
  dash?: number;
  /** What is not in it. */
  gap?: { from: number; to: number };
}

/** A document of a file; of a list `items` has what it holds. */
export interface FilePart extends ParsedDocument {
  items?: () => Generator<FilePart | PartErrors>;
}

export interface PartErrors {
  errors: (Position & { message: string })[];
}

/** The documents of a text from which the sieve has left something out, or nothing. */
export function* readParts(text: string, cuts: Cuts, budget: Budget): Generator<FilePart | PartErrors> {
  const trees = new Trees(text, placesIn(text, cuts));
  for (const { part, items } of split(text)) {
    for (const read of trees.read(part, budget)) {
      if (items.length > 0 && 'value' in read) {
        (read.value as { items: unknown }).items = [];
        yield {
          ...read,
          *items() {
            for (const item of items) yield trees.only(item, budget);
          },
        };
      } else yield read;
    }
  }
}

/** Parses parts; a tree is made again for who asks for a place in it. */
class Trees {
  readonly #text: string;
  readonly #place: (offset: number) => Position;
  readonly #texts = new Texts();
  #last: { part: Part; documents: ParsedDocument[] } | undefined;

  constructor(text: string, place: (offset: number) => Position) {
    this.#text = text;
    this.#place = place;
  }

  *read(part: Part, budget: Budget): Generator<FilePart | PartErrors> {
    const plain = readPlain(this.#piece(part), this.#texts);
    if (plain !== undefined) {
      budget.tokens -= Math.ceil(plain.size / VALUES_A_TOKEN);
      if (budget.tokens >= 0) {
        yield { value: plain.value, locate: (path, at) => this.#document(part, 0).locate(path, at) };
        return;
      }
    }
    const before = budget.tokens;
    const { documents, errors } = this.#parse(part, budget);
    // What the tree took is free again, but for the value.
    if (budget.tokens >= 0)
      budget.tokens += Math.floor(((before - budget.tokens) * (TREE_TO_VALUE - 1)) / TREE_TO_VALUE);
    if (errors.length > 0) yield { errors };
    this.#last = { part, documents };
    for (const [i, document] of documents.entries()) {
      yield { value: document.value, locate: (path, at) => this.#document(part, i).locate(path, at) };
    }
  }

  /** Of a part that is one document, perhaps an empty one. */
  only(part: Part, budget: Budget): FilePart | PartErrors {
    for (const read of this.read(part, budget)) return read;
    const blank = /-[ \t]*/y;
    blank.lastIndex = part.dash ?? part.from;
    blank.exec(this.#text);
    return { value: null, locate: () => this.#place(blank.lastIndex) };
  }

  #document(part: Part, index: number): ParsedDocument {
    if (this.#last?.part !== part) {
      this.#last = { part, documents: this.#parse(part, { tokens: Number.POSITIVE_INFINITY }).documents };
    }
    return this.#last.documents[index]!;
  }

  #piece({ from, to, dash, gap }: Part): string {
    const text = this.#text;
    if (dash !== undefined) return `${text.slice(from, dash)} ${text.slice(dash + 1, to)}`;
    if (gap === undefined) return text.slice(from, to);
    return text.slice(from, gap.from) + text.slice(gap.to, to);
  }

  #parse(part: Part, budget: Budget): ReturnType<typeof parseDocuments> {
    const { from, gap } = part;
    const place = (offset: number): Position => {
      const at = from + offset;
      return this.#place(gap === undefined || at < gap.from ? at : at + gap.to - gap.from);
    };
    return parseDocuments(this.#piece(part), budget, place);
  }
}

/** The documents of a text, and the items of those that are lists. */
function* split(text: string): Generator<{ part: Part; items: Part[] }> {
  if (/^[\s\uFEFF]*\{/.test(text)) {
    const found = jsonItems(text);
    yield found === undefined ? { part: { from: 0, to: text.length }, items: [] } : found;
    return;
  }
  const marker = /^(?:---|\.\.\.)(?=\s|$)/gm;
  let from = 0;
  for (let match = marker.exec(text); match !== null; match = marker.exec(text)) {
    if (match.index > from) yield yamlItems(text, from, match.index);
    from = match.index;
  }
  yield yamlItems(text, from, text.length);
}

/** A YAML document, and the items of its root's list `items` in block style. */
function yamlItems(text: string, from: number, to: number): { part: Part; items: Part[] } {
  const whole = { part: { from, to }, items: [] };
  const key = /^items:[ \t]*(?:#.*)?\r?\n/gm;
  key.lastIndex = from;
  if (key.exec(text) === null || key.lastIndex > to) return whole;
  const first = key.lastIndex;
  const dash = /(?:[ \t]*(?:#.*)?\r?\n)*( *)-(?=\s)/y;
  dash.lastIndex = first;
  const indent = dash.exec(text)?.[1];
  if (indent === undefined) return whole;
  const items: Part[] = [];
  // An item begins with the dash; the list ends with what is not indented further than that.
  const next = new RegExp(`^(?:${indent}(-)(?=\\s)| {0,${indent.length}}(?=[^\\s#-]|-\\S))`, 'gm');
  next.lastIndex = first;
  let end = to;
  for (let match = next.exec(text); match !== null && match.index < to; match = next.exec(text)) {
    const last = items.at(-1);
    if (last !== undefined) last.to = match.index;
    if (match[1] === undefined) {
      end = match.index;
      break;
    }
    items.push({ from: match.index, to, dash: match.index + indent.length });
  }
  const last = items.at(-1);
  if (last === undefined) return whole;
  last.to = end;
  return { part: { from, to, gap: { from: first, to: end } }, items };
}

/** A JSON document whose root has a list of maps, `items`; undefined when it has none, or is cut off. */
function jsonItems(text: string): { part: Part; items: Part[] } | undefined {
  const token = /["{}[\]]/g;
  const string = /(?:[^"\\]|\\.)*"/y;
  const items: Part[] = [];
  let depth = 0;
  let list: number | undefined;
  /** Whether only commas are between the item before a place and the place. */
  const between = (to: number) => /^[\s,]*$/.test(text.slice(items.at(-1)?.to ?? list, to));
  for (let match = token.exec(text); match !== null; match = token.exec(text)) {
    if (match[0] === '"') {
      string.lastIndex = token.lastIndex;
      if (!string.test(text) || (list !== undefined && depth === 2)) return undefined;
      token.lastIndex = string.lastIndex;
      const opening = /\s*:\s*\[/y;
      opening.lastIndex = token.lastIndex;
      if (depth === 1 && list === undefined && text.slice(match.index, token.lastIndex) === '"items"') {
        if (!opening.test(text)) continue;
        list = opening.lastIndex;
        token.lastIndex = list;
        depth++;
      }
    } else if (match[0] === '{' || match[0] === '[') {
      if (list !== undefined && depth === 2) {
        if (match[0] === '[' || !between(match.index)) return undefined;
        items.push({ from: match.index, to: match.index });
      }
      depth++;
    } else {
      depth--;
      if (list === undefined) continue;
      if (depth === 2) items.at(-1)!.to = match.index + 1;
      if (depth === 1) {
        if (!between(match.index)) return undefined;
        return { part: { from: 0, to: text.length, gap: { from: list, to: match.index } }, items };
      }
    }
  }
  return undefined;
}
