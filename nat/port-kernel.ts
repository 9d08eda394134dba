/**
 * Reads and writes port blocks and slices in the kernel: the nf_tables table of `nftables.ts`, over netlink.
 *
 * A dump of 100 000 elements takes seconds, so that a table is read again only after another transaction of nf_tables:
 * the kernel numbers them (NFT_MSG_GETGEN).
 */
import { setImmediate as yieldToEvents } from 'node:timers/promises';
import { generationOf, generationQuestion, NFT_GET, type NftMessage, transaction } from '../lib/nft-codec.ts';
import { FAMILIES, type Family } from '../lib/prefix.ts';
import { NatError, type NatErrorKind } from './errors.ts';
import {
  addElement,
  addSlices,
  createTable,
  deleteTable,
  type ElementSum,
  eachElement,
  elementMessages,
  elementsOf,
  layoutOf,
  PORT_TABLE,
  type PortElement,
  question,
  sliceMessages,
  slicesIn,
} from './nftables.ts';
import type { PortStep } from './port-steps.ts';
import { DECISION_MASK, PORT_BLOCKS_MARK } from './rules.ts';
import type { PortTable } from './state.ts';

/** What is needed of a NETLINK_NETFILTER socket. Errors carry the errno's name as `code`. */
export interface NetfilterSocket {
  /** The reply to a request for one object. */
  ask(type: number, data: Uint8Array): Buffer;
  /**
   * The result of `parse` for each reply; yields to other work between them. An interrupted dump is repeated: `parse`
   * may then see replies whose results are discarded.
   */
  dumpInTurns<T>(type: number, data: Uint8Array, parse: (answer: Buffer) => T): Promise<T[]>;
  /** Sends messages at once, and throws the first error that the kernel returns for one of them. */
  sendAll(messages: readonly NftMessage[]): void;
}

export interface PortKernel {
  /**
   * The tables by family; a family without a table is absent. If they cannot be read: throws `NatError` when they are
   * required, otherwise returns none.
   */
  observe(required: boolean): Promise<Partial<Record<Family, PortTable>>>;
  /** Applies the steps in order. Throws `NatError` at the first that fails. */
  apply(steps: readonly PortStep[]): Promise<void>;
}

const codeOf = (error: unknown): string | undefined => (error as NodeJS.ErrnoException).code;

const KINDS: Record<string, NatErrorKind> = {
  EPERM: 'not-permitted',
  EACCES: 'not-permitted',
  ENOENT: 'changed',
  EEXIST: 'changed',
  EBUSY: 'changed',
  // Node names errno 95, EOPNOTSUPP, so.
  ENOTSUP: 'unsupported',
  EPROTONOSUPPORT: 'unsupported',
  EINVAL: 'unsupported',
};

const natError = (what: string, error: unknown): NatError =>
  new NatError(KINDS[codeOf(error) ?? ''] ?? 'failed', `nf_tables: ${what}: ${(error as Error).message}`, {
    ...{ object: 'port_blocks', subject: PORT_TABLE },
  });

function sumFor(sums: Map<number, ElementSum>, mark: number): ElementSum {
  const sum = sums.get(mark) ?? { elements: 0, digest: 0 };
  sums.set(mark, sum);
  return sum;
}

const keyOf = (source: Buffer): string => source.toString('latin1');

/** Access to the port blocks of this network namespace. `open` returns the socket; it is called when first needed. */
export const createPortKernel = (open: () => NetfilterSocket): PortKernel => new NftablesPortKernel(open);

class NftablesPortKernel implements PortKernel {
  readonly #open: () => NetfilterSocket;
  #opened: NetfilterSocket | undefined;
  /** The last observation, and the generation of nf_tables that it is of. */
  #last: { generation: number; tables: Partial<Record<Family, PortTable>> } | undefined;

  constructor(open: () => NetfilterSocket) {
    this.#open = open;
  }

  async observe(required: boolean): Promise<Partial<Record<Family, PortTable>>> {
    try {
      const generation = generationOf(this.#socket.ask(NFT_GET.generation, generationQuestion()));
      if (this.#last?.generation !== generation) {
        const tables: Partial<Record<Family, PortTable>> = {};
        for (const family of FAMILIES) {
          const table = await this.#observeTable(family);
          if (table !== undefined) tables[family] = table;
        }
        this.#last = { generation, tables };
      }
      return this.#last.tables;
    } catch (error) {
      if (!required) return {};
      throw natError('read port blocks', error);
    }
  }

  async apply(steps: readonly PortStep[]): Promise<void> {
    for (const step of steps) await this.#applyStep(step);
  }

  get #socket(): NetfilterSocket {
    this.#opened ??= this.#open();
    return this.#opened;
  }

  async #observeTable(family: Family): Promise<PortTable | undefined> {
    if (!this.#exists(family)) return undefined;
    const table: PortTable = { intact: false, hasSlices: false, policies: new Map(), slices: new Map() };
    try {
      const chain = this.#socket.ask(NFT_GET.chain, question('chain', family));
      const set = this.#socket.ask(NFT_GET.set, question('set', family));
      const rules = await this.#socket.dumpInTurns(
        NFT_GET.rule,
        question('rule', family),
        (answer) => answer,
      );
      const layout = layoutOf(family, chain, rules, set);
      Object.assign(table, { intact: layout !== undefined, ...layout });
    } catch (error) {
      if (codeOf(error) !== 'ENOENT') throw error;
    }
    if (!table.intact) return table;
    table.policies = await this.#observeSums(family);
    if (!table.hasSlices) return table;
    const parts = await this.#socket.dumpInTurns(NFT_GET.elements, question('slices', family), slicesIn);
    table.slices = new Map(parts.flatMap((part) => [...part]));
    return table;
  }

  #exists(family: Family): boolean {
    try {
      this.#socket.ask(NFT_GET.table, question('table', family));
      return true;
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return false;
      throw error;
    }
  }

  /** The sum of the elements of each mark. */
  async #observeSums(family: Family): Promise<Map<number, ElementSum>> {
    const sums = new Map<number, ElementSum>();
    const parts = await this.#dumpElements(family, (answer) => {
      const part = new Map<number, ElementSum>();
      eachElement(answer, (element) => addElement(sumFor(part, element.mark), element));
      return part;
    });
    for (const [mark, { elements, digest }] of parts.flatMap((part) => [...part])) {
      const sum = sumFor(sums, mark);
      sum.elements += elements;
      sum.digest = (sum.digest + digest) >>> 0;
    }
    return sums;
  }

  /** The elements of a mark. */
  async #observeElements(family: Family, mark: number): Promise<PortElement[]> {
    const parts = await this.#dumpElements(family, (answer) => {
      const part: PortElement[] = [];
      eachElement(answer, (element) => {
        if (element.mark === mark) part.push(element);
      });
      return part;
    });
    return parts.flat();
  }

  #dumpElements<T>(family: Family, parse: (answer: Buffer) => T): Promise<T[]> {
    return this.#socket.dumpInTurns(NFT_GET.elements, question('elements', family), parse);
  }

  async #applyStep(step: PortStep): Promise<void> {
    const { family } = step;
    switch (step.type) {
      case 'create-port-table':
        return this.#send(
          'create the table',
          createTable(family, PORT_BLOCKS_MARK, DECISION_MASK, {
            isThere: step.replace,
            hasSlices: step.hasSlices,
          }),
        );
      case 'add-slices':
        return this.#send('add slices', addSlices(family, PORT_BLOCKS_MARK, DECISION_MASK));
      case 'write-port-blocks': {
        const desired = () => elementsOf(step.mark, step.blocks, family);
        if (step.repair) return this.#repair(family, step.mark, desired);
        return this.#sendInTurns('add port blocks', elementMessages('add', family, desired()));
      }
      case 'delete-port-blocks':
        return this.#repair(family, step.mark, () => []);
      case 'write-slice':
        return this.#send('add a slice', sliceMessages(family, step.mark, step.replace, step.slice));
      case 'delete-slice':
        return this.#send('delete a slice', sliceMessages(family, step.mark, true, undefined));
      case 'delete-port-table':
        return this.#send('delete the table', [deleteTable(family)]);
    }
  }

  /** Deletes and adds the elements of a mark that differ from the desired ones. */
  async #repair(family: Family, mark: number, desired: () => Iterable<PortElement>): Promise<void> {
    const observed = await this.#observeElements(family, mark).catch((error: unknown) => {
      throw natError('read port blocks', error);
    });
    const wrong = new Map(observed.map((element) => [keyOf(element.source), element]));
    const right = new Set<string>();
    if (wrong.size > 0) {
      for (const { source, data } of desired()) {
        const key = keyOf(source);
        if (wrong.get(key)?.data.equals(data) !== true) continue;
        wrong.delete(key);
        right.add(key);
      }
    }
    function* missing(): Generator<PortElement> {
      for (const element of desired()) if (!right.has(keyOf(element.source))) yield element;
    }
    // The kernel cannot change an element: delete the wrong one first.
    await this.#sendInTurns('delete port blocks', elementMessages('delete', family, wrong.values()));
    await this.#sendInTurns('add port blocks', elementMessages('add', family, missing()));
  }

  /** Sends a transaction for each message, and yields to other work after each. */
  async #sendInTurns(what: string, messages: Iterable<NftMessage>): Promise<void> {
    for (const message of messages) {
      this.#send(what, [message]);
      await yieldToEvents();
    }
  }

  #send(what: string, messages: readonly NftMessage[]): void {
    try {
      this.#socket.sendAll(transaction(messages));
    } catch (error) {
      throw natError(what, error);
    }
  }
}
