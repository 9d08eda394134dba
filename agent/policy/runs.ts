/**
 * Keeps the items of long lists of addresses from the YAML parser.
 *
 * A parsed node costs a hundred times what its text does, and it is lists of addresses that make a policy
 * large: with this a hundred thousand blocks fit into the memory of a gateway pod. It stands between the lexer
 * and the parser. An item is kept back when the tokens between it and the item before (line break,
 * indentation, dash; or comma) are those between that one and its own predecessor, and when a line break or a
 * comma follows it: then it would leave the parser in the very state in which it finds it.
 */
import type { LineCounter, Parser } from 'yaml';

/** The items that follow one that was parsed, with the offset of each. */
export interface Run {
  values: string[];
  offsets: number[];
}

// An address or CIDR, quoted or not, that YAML cannot take for a number.
const ADDRESS = /^(["']?)([0-9a-fA-F]*(?:\.[0-9]+\.|:[0-9a-fA-F]*:)[0-9a-fA-F.:]*(?:\/[0-9]+)?)\1$/;
/** The lexer's announcement of a plain scalar, which has no text of its own (yaml's cst.SCALAR). */
const PLAIN = '\x1f';
const BETWEEN_ITEMS = /^(?:\r?\n *- +| *, *(?:\r?\n *)?)\x1f?$/;
const MAX_BETWEEN = 8;

const isLineBreak = (lexeme: string): boolean => lexeme === '\n' || lexeme === '\r\n';

export class AddressRuns {
  /** By the offset of the item that they follow. */
  readonly #runs = new Map<number, Run>();

  /** What follows the item at an offset. */
  after(offset: number | undefined): Run | undefined {
    return offset === undefined ? undefined : this.#runs.get(offset);
  }

  /** The lexemes without those of the runs. `parser` must take each before the next one is asked for. */
  *filter(lexemes: Iterable<string>, parser: Parser, lines: LineCounter): Generator<string> {
    /** The offset of the last item that was parsed; undefined when the last lexeme did not belong to a list. */
    let last: number | undefined;
    /** What stood between the last two items. */
    let usual: string | undefined;
    /** What came after the last item. */
    let between: string[] = [];
    /** An item that is kept back if what follows allows it. */
    let candidate: string | undefined;

    for (const lexeme of lexemes) {
      if (candidate !== undefined) {
        if (isLineBreak(lexeme) || lexeme === ',') {
          this.#keep(last!, between, candidate, parser, lines);
          [between, candidate] = [[lexeme], undefined];
          continue;
        }
        yield* between;
        yield candidate;
        [last, between, candidate] = [undefined, [], undefined];
      }
      if (ADDRESS.test(lexeme)) {
        const gap = between.join('');
        if (last !== undefined && gap === usual && BETWEEN_ITEMS.test(gap)) {
          candidate = lexeme;
          continue;
        }
        yield* between;
        [last, usual, between] = [parser.offset, gap, []];
        yield lexeme;
      } else if (last !== undefined && between.length < MAX_BETWEEN && isBetween(lexeme)) {
        between.push(lexeme);
      } else {
        yield* between;
        [last, between] = [undefined, []];
        yield lexeme;
      }
    }
    yield* between;
    if (candidate !== undefined) yield candidate;
  }

  #keep(last: number, between: string[], item: string, parser: Parser, lines: LineCounter): void {
    for (const lexeme of between) {
      if (lexeme !== PLAIN) parser.offset += lexeme.length;
      if (isLineBreak(lexeme)) lines.addNewLine(parser.offset);
    }
    const run = this.#runs.get(last) ?? { values: [], offsets: [] };
    this.#runs.set(last, run);
    run.values.push(ADDRESS.exec(item)![2]!);
    run.offsets.push(parser.offset);
    parser.offset += item.length;
  }
}

const isBetween = (lexeme: string): boolean =>
  lexeme === '-' || lexeme === ',' || lexeme === PLAIN || isLineBreak(lexeme) || /^ +$/.test(lexeme);
