/**
 * Reads and writes the table of counters over netlink. The table is read whole again only after another transaction of
 * nf_tables, which the kernel numbers. Until then the answers about its rules differ in the numbers of the counters alone,
 * so a reading takes those from where they were and looks at nothing else.
 */
import { setImmediate as yieldToEvents } from 'node:timers/promises';
import { u64BeAt } from '../../lib/netlink-codec.ts';
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

const COUNTS = ['begins', 'original', 'reply'] as const;

/** Where the answers to a dump of a family's rules have their counters. Arrays of numbers: there may be 100 000 rules. */
interface Layout {
  family: Family;
  handle: number;
  /** The length of each answer, octets. */
  lengths: Uint32Array;
  /** Where in each answer the numbers of its counter are, octets from its beginning. */
  packetsAt: Uint32Array;
  bytesAt: Uint32Array;
  /** What each counts: the index of the mark in `marks`, times three, and that in COUNTS; -1: nothing for a mark. */
  counted: Int32Array;
  marks: Pick<MarkCounts, 'mark' | 'inBase'>[];
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
  #layouts: { generation: number; families: Layout[] } | undefined;

  constructor(open: () => NetfilterSocket) {
    this.#open = open;
  }

  async observe(): Promise<Partial<Record<Family, ObservedCounters>>> {
    const generation = this.#generation();
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
    let generation: number;
    try {
      generation = this.#generation();
    } catch (error) {
      if (NO_TABLE.has(codeOf(error) ?? '')) return [];
      throw error;
    }
    if (this.#layouts?.generation === generation) {
      const readings = await this.#readAgain(this.#layouts.families);
      if (readings !== undefined && this.#generation() === generation) return readings;
    }
    return this.#readWhole();
  }

  /** Reads the counters where they were; undefined when the answers are others. */
  async #readAgain(layouts: readonly Layout[]): Promise<Reading[] | undefined> {
    const readings: Reading[] = [];
    for (const { family, handle, lengths, packetsAt, bytesAt, counted, marks } of layouts) {
      const counts = marks.map(noCounts);
      let next = 0;
      let same = true;
      // An interrupted dump begins again, and has more answers than there are rules.
      await this.#dumpRules(family, (answer) => {
        const i = next++;
        const what = counted[i]!;
        if (lengths[i] !== answer.length) same = false;
        else if (what >= 0) {
          const value: [number, number] = [u64BeAt(answer, packetsAt[i]!), u64BeAt(answer, bytesAt[i]!)];
          record(counts, what, value);
        }
      });
      if (!same || next !== lengths.length) return undefined;
      readings.push({ family, handle, counts });
    }
    return readings;
  }

  async #readWhole(): Promise<Reading[]> {
    this.#layouts = undefined;
    const generation = this.#generation();
    const readings: Reading[] = [];
    const layouts: Layout[] = [];
    for (const family of FAMILIES) {
      const handle = this.#handle(family);
      if (handle === undefined) continue;
      const answers = await this.#dumpRules(family, (answer) => ({
        ...{ rule: parseRule(answer), length: answer.length },
      }));
      // What was dumped is of one table only if it is there before and after.
      if (this.#handle(family) !== handle) continue;
      const layout = layoutOf(family, handle, answers);
      const counts = layout.marks.map(noCounts);
      for (const [i, { rule }] of answers.entries()) {
        const what = layout.counted[i]!;
        if (what >= 0) record(counts, what, [rule.counter!.packets, rule.counter!.bytes]);
      }
      layouts.push(layout);
      readings.push({ family, handle, counts });
    }
    if (this.#generation() === generation) {
      this.#layouts = { generation, families: layouts };
    }
    return readings;
  }

  /** The number of the last transaction. Throws what the kernel answers. */
  #generation(): number {
    return generationOf(this.#socket.ask(NFT_GET.generation, generationQuestion()));
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
    for (const { chain, comment } of await this.#dumpRules(family, parseRule)) {
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

  #dumpRules<T>(family: Family, parse: (answer: Buffer) => T): Promise<T[]> {
    return this.#socket.dumpInTurns(NFT_GET.rule, tableQuestion(COUNTER_TABLE, family), parse);
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

const noCounts = ({ mark, inBase }: Layout['marks'][number]): MarkCounts => ({
  ...{ mark, inBase, begins: [0, 0], original: [0, 0], reply: [0, 0] },
});

const record = (counts: MarkCounts[], what: number, value: [packets: number, bytes: number]): void => {
  counts[Math.floor(what / COUNTS.length)]![COUNTS[what % COUNTS.length]!] = value;
};

/** Where the counters of all marks are in these answers. */
function layoutOf(
  family: Family,
  handle: number,
  answers: readonly { rule: ObservedRule; length: number }[],
): Layout {
  const marks: Layout['marks'] = [];
  const indices = new Map<string, number>();
  const counted = answers.map(({ rule }) => {
    const found = rule.counter?.at && countedBy(rule);
    if (found === undefined) return -1;
    const { mark, inBase, counts } = found;
    const key = `${mark} ${inBase}`;
    const index = indices.get(key) ?? marks.push({ mark, inBase }) - 1;
    indices.set(key, index);
    return index * COUNTS.length + COUNTS.indexOf(counts);
  });
  return {
    ...{ family, handle, marks, counted: Int32Array.from(counted) },
    lengths: Uint32Array.from(answers, ({ length }) => length),
    packetsAt: Uint32Array.from(answers, ({ rule }) => rule.counter?.at?.packets ?? 0),
    bytesAt: Uint32Array.from(answers, ({ rule }) => rule.counter?.at?.bytes ?? 0),
  };
}

/** What the counter of a rule counts; undefined: nothing for a mark. */
function countedBy({
  chain,
  comment,
}: ObservedRule): (Layout['marks'][number] & { counts: (typeof COUNTS)[number] }) | undefined {
  const { kind, mark = markOfRule(comment) } = markOfChain(chain) ?? { kind: 'base' };
  if (mark === undefined) return undefined;
  const inBase = kind === 'base';
  if (kind === 'begin') return { mark, inBase, counts: 'begins' };
  const isReply = comment === (inBase ? ruleMark(primaryAnswers(mark)) : ANSWERS_MARK);
  return { mark, inBase, counts: isReply ? 'reply' : 'original' };
}
