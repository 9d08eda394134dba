/**
 * Keeps the items of long lists of addresses from the YAML parser. Pure.
 *
 * A parsed node costs a hundred times what its text does, and it is lists of addresses that make a policy
 * large: with this a hundred thousand blocks fit into the memory of a gateway pod. It stands between the lexer
 * and the parser. An item is kept back when the tokens between it and the item before (line break,
 * indentation, dash; or comma) are those between that one and its own predecessor, and when a line break or a
 * comma follows it: then it would leave the parser in the very state in which it finds it.
 */
import { CST } from 'yaml';

/** The items that follow one that was parsed, with the offset of each. */
export interface Run {
  values: string[];
  offsets: number[];
}

// An address or CIDR, quoted or not, that YAML cannot take for a number.
const ADDRESS = /^(["']?)([0-9a-fA-F]*(?:\.[0-9]+\.|:[0-9a-fA-F]*:)[0-9a-fA-F.:]*(?:\/[0-9]+)?)\1$/;
const BETWEEN_ITEMS = /^(?:\r?\n *- +| *, *(?:\r?\n *)?)\x1f?$/;
const MAX_BETWEEN = 8;

/** Lexemes that announce something and have no text of their own. */
const ANNOUNCEMENTS: ReadonlySet<string> = new Set([CST.DOCUMENT, CST.FLOW_END, CST.SCALAR]);

const isLineBreak = (lexeme: string): boolean => lexeme === '\n' || lexeme === '\r\n';

export class AddressRuns {
  /** By the offset of the item that they follow. */
  readonly #runs = new Map<number, Run>();

  /** What follows the item at an offset. */
  after(offset: number | undefined): Run | undefined {
    return offset === undefined ? undefined : this.#runs.get(offset);
  }

  /** The offset of the lexeme that `filter` gave last. */
  offset = 0;
  /** The offset of the lexeme that comes next. */
  #next = 0;

  /** The lexemes without those of the runs. */
  *filter(lexemes: Iterable<string>): Generator<string> {
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
          this.#keep(last!, between, candidate);
          [between, candidate] = [[lexeme], undefined];
          continue;
        }
        yield* this.#give([...between, candidate]);
        [last, between, candidate] = [undefined, [], undefined];
      }
      if (ADDRESS.test(lexeme)) {
        const gap = between.join('');
        if (last !== undefined && gap === usual && BETWEEN_ITEMS.test(gap)) {
          candidate = lexeme;
          continue;
        }
        yield* this.#give(between);
        [last, usual, between] = [this.#next, gap, []];
        yield* this.#give([lexeme]);
      } else if (last !== undefined && between.length < MAX_BETWEEN && isBetween(lexeme)) {
        between.push(lexeme);
      } else {
        yield* this.#give([...between, lexeme]);
        [last, between] = [undefined, []];
      }
    }
    yield* this.#give(candidate === undefined ? between : [...between, candidate]);
  }

  *#give(lexemes: string[]): Generator<string> {
    for (const lexeme of lexemes) {
      this.offset = this.#next;
      this.#next += textLength(lexeme);
      yield lexeme;
    }
  }

  #keep(last: number, between: string[], item: string): void {
    for (const lexeme of between) this.#next += textLength(lexeme);
    const run = this.#runs.get(last) ?? { values: [], offsets: [] };
    this.#runs.set(last, run);
    run.values.push(ADDRESS.exec(item)![2]!);
    run.offsets.push(this.#next);
    this.#next += item.length;
  }
}

const textLength = (lexeme: string): number => (ANNOUNCEMENTS.has(lexeme) ? 0 : lexeme.length);

const isBetween = (lexeme: string): boolean =>
  lexeme === '-' || lexeme === ',' || lexeme === CST.SCALAR || isLineBreak(lexeme) || /^ +$/.test(lexeme);
