/**
 * Reads and writes the table of counters over netlink. The table is read whole again only after another transaction of
 * nf_tables, which the kernel numbers.
 */
import { setImmediate as yieldToEvents } from 'node:timers/promises';
import {
  generationOf,
  generationQuestion,
  NFT_GET,
  type NftMessage,
  transaction,
} from '../../lib/nft-codec.ts';
import { FAMILIES, type Family } from '../../lib/prefix.ts';
import {
  addRule,
  chainQuestion,
  createChain,
  createTable,
  deleteChain,
  deleteTable,
  flushChain,
  isHooked,
  markOfRule,
  type ObservedRule,
  parseRule,
  ruleMark,
  tableHandle,
  tableQuestion,
} from '../own-table.ts';
import type { NetfilterSocket } from '../port-kernel.ts';
import { type CounterStep, isBase, type ObservedCounters } from './diff.ts';
import {
  addElements,
  createSet,
  deleteSet,
  elementsQuestion,
  elementsSum,
  elementTexts,
  setName,
} from './messages.ts';
import { ANSWERS, COUNTER_TABLE, type CounterTable, markOfChain, primaryAnswers } from './table.ts';

/** What the rules of a mark have counted: packets and octets. */
export interface MarkCounts {
  mark: number;
  /** Those in the base chain, which may begin at 0 again when the others do not. */
  inBase: boolean;
  /** Those that began a connection, other packets in its direction, and answers. */
  begins: [packets: number, bytes: number];
  original: [packets: number, bytes: number];
  reply: [packets: number, bytes: number];
}

/** A reading of a family's counters. Another `handle`: another table, whose counters have begun at 0. */
export interface Reading {
  family: Family;
  handle: number;
  counts: MarkCounts[];
}

export interface CounterKernel {
  /** The tables by family; one without a table is absent. Throws what the kernel answers. */
  observe(): Promise<Partial<Record<Family, ObservedCounters>>>;
  /** Throws what the kernel answers to the first step that it refuses. */
  apply(steps: readonly CounterStep[]): Promise<void>;
  /** What has been counted until now; a family without a table is absent, and so are both without nf_tables. */
  read(): Promise<Reading[]>;
}

/** Messages of one transaction; more are several, none of which is used before the last. */
const MESSAGES_PER_TRANSACTION = 64;

/** What the kernel answers without the table, and without nf_tables. */
const NO_TABLE: ReadonlySet<string> = new Set(['ENOENT', 'EINVAL']);

const codeOf = (error: unknown): string | undefined => (error as NodeJS.ErrnoException).code;

/** `open` returns the socket; it is called when first needed. */
export const createCounterKernel = (open: () => NetfilterSocket): CounterKernel =>
  new NftablesCounterKernel(open);

class NftablesCounterKernel implements CounterKernel {
  readonly #open: () => NetfilterSocket;
  #opened: NetfilterSocket | undefined;
  #last: { generation: number; tables: Partial<Record<Family, ObservedCounters>> } | undefined;

  constructor(open: () => NetfilterSocket) {
    this.#open = open;
  }

  async observe(): Promise<Partial<Record<Family, ObservedCounters>>> {
    const generation = generationOf(this.#socket.ask(NFT_GET.generation, generationQuestion()));
    if (this.#last?.generation !== generation) {
      const tables: Partial<Record<Family, ObservedCounters>> = {};
      for (const family of FAMILIES) {
        const table = await this.#observeFamily(family);
        if (table !== undefined) tables[family] = table;
      }
      this.#last = { generation, tables };
    }
    return this.#last.tables;
  }

  async apply(steps: readonly CounterStep[]): Promise<void> {
    for (const step of steps) await this.#applyStep(step);
  }

  async read(): Promise<Reading[]> {
    const readings: Reading[] = [];
    for (const family of FAMILIES) {
      const handle = this.#handle(family);
      if (handle === undefined) continue;
      const counts = new Map<string, MarkCounts>();
      for (const rule of await this.#rules(family)) addCounts(counts, rule);
      // What was dumped is of one table only if it is there before and after.
      if (this.#handle(family) === handle) readings.push({ family, handle, counts: [...counts.values()] });
    }
    return readings;
  }

  get #socket(): NetfilterSocket {
    this.#opened ??= this.#open();
    return this.#opened;
  }

  #handle(family: Family): number | undefined {
    try {
      return tableHandle(this.#socket.ask(NFT_GET.table, tableQuestion(COUNTER_TABLE, family)));
    } catch (error) {
      if (NO_TABLE.has(codeOf(error) ?? '')) return undefined;
      throw error;
    }
  }

  async #observeFamily(family: Family): Promise<ObservedCounters | undefined> {
    if (this.#handle(family) === undefined) return undefined;
    const hooked = Object.keys(COUNTER_TABLE.hooks).every((chain) => this.#isHooked(family, chain));
    const table: ObservedCounters = { hooked, rules: new Map(), sets: new Map() };
    for (const { chain, comment } of await this.#rules(family)) {
      const list = table.rules.get(chain);
      if (list === undefined) table.rules.set(chain, [comment]);
      else list.push(comment);
    }
    const sets = await this.#socket.dumpInTurns(NFT_GET.set, tableQuestion(COUNTER_TABLE, family), setName);
    for (const set of sets) {
      const question = elementsQuestion(family, set);
      const answers = await this.#socket.dumpInTurns(NFT_GET.elements, question, elementTexts);
      table.sets.set(set, elementsSum(answers));
    }
    return table;
  }

  #rules(family: Family): Promise<ObservedRule[]> {
    return this.#socket.dumpInTurns(NFT_GET.rule, tableQuestion(COUNTER_TABLE, family), parseRule);
  }

  #isHooked(family: Family, chain: string): boolean {
    try {
      return isHooked(
        COUNTER_TABLE,
        this.#socket.ask(NFT_GET.chain, chainQuestion(COUNTER_TABLE, family, chain)),
        chain,
      );
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return false;
      throw error;
    }
  }

  async #applyStep(step: CounterStep): Promise<void> {
    const { family } = step;
    switch (step.type) {
      case 'create-counters': {
        const { table, replace } = step;
        const [base, inner] = partition([...table.chains.keys()], isBase);
        this.#send([
          ...(replace ? [deleteTable(COUNTER_TABLE, family)] : []),
          createTable(COUNTER_TABLE, family),
        ]);
        await this.#sendInTurns(additions(table, { chains: inner, sets: [...table.sets.keys()] }));
        this.#send(
          base.flatMap((chain) => [createChain(COUNTER_TABLE, family, chain), ...rulesOf(table, chain)]),
        );
        return;
      }
      case 'edit-counters': {
        const { table, add, rewrite, remove } = step;
        await this.#sendInTurns(additions(table, add));
        this.#send(
          rewrite.flatMap((chain) => [flushChain(COUNTER_TABLE, family, chain), ...rulesOf(table, chain)]),
        );
        await this.#sendInTurns([
          ...remove.chains.map((chain) => flushChain(COUNTER_TABLE, family, chain)),
          ...remove.sets.map((set) => deleteSet(family, set)),
          ...remove.chains.map((chain) => deleteChain(COUNTER_TABLE, family, chain)),
        ]);
        return;
      }
      case 'delete-counters':
        this.#send([deleteTable(COUNTER_TABLE, family)]);
    }
  }

  #send(messages: readonly NftMessage[]): void {
    if (messages.length > 0) this.#socket.sendAll(transaction(messages));
  }

  /** Sends messages in transactions of some, and yields to other work after each. */
  async #sendInTurns(messages: Iterable<NftMessage>): Promise<void> {
    let some: NftMessage[] = [];
    for (const message of messages) {
      if (some.push(message) < MESSAGES_PER_TRANSACTION) continue;
      this.#send(some);
      some = [];
      await yieldToEvents();
    }
    this.#send(some);
  }
}

function partition<T>(list: readonly T[], is: (one: T) => boolean): [T[], T[]] {
  return [list.filter(is), list.filter((one) => !is(one))];
}

const rulesOf = ({ family, chains }: CounterTable, chain: string): NftMessage[] =>
  chains.get(chain)!.map((rule) => addRule(COUNTER_TABLE, family, chain, rule));

/** Makes chains, then sets, which may lead to them, then the rules. */
function* additions(
  table: CounterTable,
  { chains, sets }: { chains: readonly string[]; sets: readonly string[] },
): Generator<NftMessage> {
  const { family } = table;
  for (const chain of chains) yield createChain(COUNTER_TABLE, family, chain);
  for (const [id, name] of sets.entries()) {
    const set = table.sets.get(name)!;
    yield createSet(family, name, set, id + 1);
    yield* addElements(family, name, set);
  }
  for (const chain of chains) yield* rulesOf(table, chain);
}

const ANSWERS_MARK = ruleMark(ANSWERS);

/** Adds the counters of a rule, if it has any. */
function addCounts(counts: Map<string, MarkCounts>, { chain, comment, counter }: ObservedRule): void {
  if (counter === undefined) return;
  const { kind, mark = markOfRule(comment) } = markOfChain(chain) ?? { kind: 'base' };
  if (mark === undefined) return;
  const inBase = kind === 'base';
  const key = `${mark} ${inBase}`;
  let one = counts.get(key);
  if (one === undefined) {
    one = { mark, inBase, begins: [0, 0], original: [0, 0], reply: [0, 0] };
    counts.set(key, one);
  }
  const value: [number, number] = [counter.packets, counter.bytes];
  if (kind === 'begin') one.begins = value;
  else if (comment === (inBase ? ruleMark(primaryAnswers(mark)) : ANSWERS_MARK)) one.reply = value;
  else one.original = value;
}
