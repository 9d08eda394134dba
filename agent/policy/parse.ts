/**
 * From the text of one file to its documents, as plain values of which every part knows its line and column. Pure.
 *
 * YAML 1.2 with the core schema (JSON is a part of it): `yes` and `010` are what they look like, merge keys
 * are plain keys, a duplicate key is an error. What could make a small file cost much (deep nesting,
 * aliases of aliases) is bounded.
 */
import {
  Composer,
  type Document,
  isAlias,
  isScalar,
  isSeq,
  Lexer,
  LineCounter,
  type Node,
  type Pair,
  Parser,
  type Scalar,
  type YAMLMap,
  type YAMLSeq,
} from 'yaml';
import { DEFAULT_TOKENS } from './bounds.ts';
import { quote } from './quote.ts';
import { AddressRuns } from './runs.ts';
import type { Cuts } from './sieve.ts';

/** Where a value is in its document: `['spec', 'policies', 0, 'ipBlocks', 1]`. */
export type Path = readonly (string | number)[];

/** Both 1-based. */
export interface Position {
  line: number;
  col: number;
}

export interface ParsedDocument {
  value: unknown;
  /**
   * Where the value of a path was written; `key`: where its key was. When the path leads further than the
   * document does, the last thing on the way.
   */
  locate(path: Path, at?: 'key' | 'value'): Position;
}

export interface Parsed {
  documents: ParsedDocument[];
  errors: (Position & { message: string })[];
}

/** A manifest nests about ten deep; further in nothing could be meant, and every level costs stack. */
const MAX_DEPTH = 64;
/**
 * What a set of files may hold of what costs memory, each some hundred octets: YAML tokens, without the items
 * of runs.ts, which cost little. Counted down as files are parsed.
 */
export interface Budget {
  tokens: number;
  /** What it holds so far, for the message. */
  holds?: () => string;
}

/** Each alias multiplies what one line expands to. */
const MAX_ALIASES = 100;
const MAX_VALUES = 1_000_000;
/** Errors in the first lines cause further ones. */
const MAX_SYNTAX_ERRORS = 20;

const tooLarge = (holds = ''): string =>
  `the policy is too large from here on${holds && `, behind ${holds}`}: leave out what no rule needs, or give the pod more memory (docs/policy.md has the numbers)`;

/** Why a file is not read further. */
class Refused extends Error {
  readonly offset: number;

  constructor(offset: number, message: string) {
    super(message);
    this.offset = offset;
  }
}

/**
 * Parses a file, or a part of one, of which `position` then knows the places. Never throws: what is not YAML is in
 * `errors`, and its documents are left out.
 */
export function parseDocuments(
  text: string,
  budget: Budget = { tokens: DEFAULT_TOKENS },
  position = placesIn(text),
): Parsed {
  const documents: ParsedDocument[] = [];
  const errors: Parsed['errors'] = [];
  const fail = (offset: number, message: string) => errors.push({ ...position(offset), message });

  const runs = new AddressRuns();
  try {
    for (const { contents, errors: wrong, warnings } of compose(text, runs, budget)) {
      for (const { pos, message } of [...wrong, ...warnings]) fail(pos[0], `invalid YAML: ${message}`);
      if (wrong.length + warnings.length > 0 || contents === null) continue;
      const tree = new Tree(contents, runs);
      for (const key of tree.repeatedKeys) {
        fail(key.range![0], `duplicate key ${quote(keyText(key))}`);
      }
      if (tree.repeatedKeys.length > 0 || tree.value === null) continue;
      documents.push({ value: tree.value, locate: (path, at) => position(tree.locate(path, at)) });
    }
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    fail(error.offset, error.message);
  }
  return { documents, errors: firstPerLine(errors) };
}

/**
 * From an offset to its place, in a text from which parts were removed at `cuts`. The parser counts too,
 * but miscounts at unexpected tokens.
 */
export function placesIn(text: string, cuts: Cuts = []): (offset: number) => Position {
  let lines: LineCounter | undefined;
  return (offset) => {
    lines ??= countLines(text);
    const here = lines.linePos(offset);
    let [low, high] = [0, cuts.length / 3];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (cuts[3 * middle]! <= offset) low = middle + 1;
      else high = middle;
    }
    if (low === 0) return { line: Math.max(here.line, 1), col: Math.max(here.col, 1) };
    const [at, line, col] = cuts.slice(3 * (low - 1)) as [number, number, number];
    const before = lines.linePos(at);
    return {
      line: line + here.line - before.line,
      col: here.line === before.line ? col + here.col - before.col : here.col,
    };
  };
}

function countLines(text: string): LineCounter {
  const lines = new LineCounter();
  lines.addNewLine(0);
  for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n', end + 1)) lines.addNewLine(end + 1);
  return lines;
}

/** The documents of a text. Throws `Refused` at the first thing that is beyond the bounds. */
function* compose(text: string, runs: AddressRuns, budget: Budget): Generator<Document.Parsed> {
  const parser = new Parser();
  const composer = new Composer({ uniqueKeys: false, prettyErrors: false });
  let aliases = 0;
  let errors = 0;
  for (const lexeme of runs.filter(new Lexer().lex(text))) {
    const { offset } = runs;
    parser.offset = offset;
    if (--budget.tokens < 0) throw new Refused(offset, tooLarge(budget.holds?.()));
    if (lexeme.startsWith('*') && ++aliases > MAX_ALIASES) {
      throw new Refused(offset, `holds more than ${MAX_ALIASES} YAML aliases; write the values out`);
    }
    for (const token of parser.next(lexeme)) {
      yield* composer.next(token);
      if (token.type === 'error') errors++;
    }
    if (parser.stack.length > MAX_DEPTH) {
      throw new Refused(offset, `is nested more than ${MAX_DEPTH} levels deep`);
    }
    // The rest of the document cannot be understood; what is known by now is reported.
    if (errors > MAX_SYNTAX_ERRORS) break;
  }
  for (const token of parser.end()) yield* composer.next(token);
  yield* composer.end(false, text.length);
}

/** One mistake causes several errors in its line: the first is reported. */
function firstPerLine(errors: Parsed['errors']): Parsed['errors'] {
  const first = errors.filter(({ line }, i) => errors[i - 1]?.line !== line);
  if (first.length <= MAX_SYNTAX_ERRORS) return first;
  const { line, col } = first[MAX_SYNTAX_ERRORS]!;
  return [...first.slice(0, MAX_SYNTAX_ERRORS), { line, col, message: 'invalid YAML from here on' }];
}

const keyText = (key: Node): string => (isScalar(key) ? String(key.value ?? '') : key.toString());

type Pairs = Map<string, Pair<Node, Node | null>>;

/** The nodes of one document, as a plain value and as places in the text. */
class Tree {
  readonly value: unknown;
  /** The keys that repeat an earlier key of their map. */
  readonly repeatedKeys: Node[] = [];
  readonly #root: Node;
  readonly #runs: AddressRuns;
  /** Looking a key up in a large map must not walk it. */
  readonly #maps = new Map<Node, Pairs>();
  /** An alias refers to the last node before it with its anchor. */
  readonly #anchors = new Map<string, Node>();
  readonly #aliases = new Map<Node, Node>();
  /** Where the items of the lists with runs are. */
  readonly #places = new Map<Node, (Node | number)[]>();
  /** The collections that are being converted. */
  readonly #open = new Set<Node>();
  #values = 0;

  /** Throws `Refused` for an alias that leads nowhere, into itself, or to too much. */
  constructor(root: Node, runs: AddressRuns) {
    this.#root = root;
    this.#runs = runs;
    this.value = this.#convert(root);
  }

  #convert(node: Node | null): unknown {
    if (node === null) return null;
    const offset = node.range?.[0] ?? 0;
    if (++this.#values > MAX_VALUES) throw new Refused(offset, `expands to more than ${MAX_VALUES} values`);
    if (isAlias(node)) {
      const target = this.#aliases.get(node) ?? this.#anchors.get(node.source);
      const name = quote(`*${node.source}`);
      if (target === undefined) throw new Refused(offset, `${name} has no anchor before it`);
      if (this.#open.has(target)) throw new Refused(offset, `${name} refers to a value that contains it`);
      this.#aliases.set(node, target);
      return this.#convert(target);
    }
    const { anchor } = node as Scalar | YAMLMap | YAMLSeq;
    if (anchor) this.#anchors.set(anchor, node);
    if (isScalar(node)) return node.value;
    this.#open.add(node);
    const value = isSeq(node)
      ? this.#convertList(node as YAMLSeq<Node>)
      : this.#convertMap(node as YAMLMap<Node, Node | null>);
    this.#open.delete(node);
    return value;
  }

  #convertList(list: YAMLSeq<Node>): unknown[] {
    const values: unknown[] = [];
    const places: (Node | number)[] = [];
    for (const item of list.items) {
      values.push(this.#convert(item));
      places.push(item);
      const run = this.#runs.after(item.range?.[0]);
      if (run === undefined) continue;
      this.#values += run.values.length;
      for (const [i, value] of run.values.entries()) {
        values.push(value);
        places.push(run.offsets[i]!);
      }
    }
    if (values.length > list.items.length) this.#places.set(list, places);
    return values;
  }

  #convertMap(map: YAMLMap<Node, Node | null>): unknown {
    const pairs: Pairs = new Map();
    for (const pair of map.items) {
      const key = keyText(pair.key);
      const offset = pair.key.range?.[0];
      if (this.#runs.after(offset)) throw new Refused(offset!, 'a list is not a key of a map');
      if (!pairs.has(key)) pairs.set(key, pair);
      else if (!this.#maps.has(map)) this.repeatedKeys.push(pair.key);
    }
    this.#maps.set(map, pairs);
    // Not by assignment: a key may be called __proto__.
    return Object.fromEntries([...pairs].map(([key, { value }]) => [key, this.#convert(value)]));
  }

  /** The offset at which the value (or the key) of a path was written. */
  locate(path: Path, at: 'key' | 'value' = 'value'): number {
    let node: Node | null = this.#root;
    let key: Node | undefined;
    for (const segment of path) {
      const collection: Node | null = (node && this.#aliases.get(node)) ?? node;
      const pair: Pair<Node, Node | null> | null | undefined =
        collection && this.#maps.get(collection)?.get(String(segment));
      const place: Node | number | false | null | undefined =
        typeof segment === 'number' && collection && this.#places.get(collection)?.[segment];
      if (typeof place === 'number') return place;
      if (pair) [key, node] = [pair.key, pair.value];
      else if (place) [key, node] = [undefined, place];
      else if (isSeq(collection) && typeof segment === 'number' && segment < collection.items.length) {
        [key, node] = [undefined, collection.items[segment] as Node];
      } else break;
    }
    // A value left empty has no text of its own.
    const empty = node === null || (isScalar(node) && node.range?.[0] === node.range?.[1]);
    const target = key !== undefined && (at === 'key' || empty) ? key : node;
    return target?.range?.[0] ?? 0;
  }
}
