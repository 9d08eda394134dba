/** Reads and writes the port blocks in the kernel: the table of `nftables.ts`, over netlink. */
import { setImmediate as turn } from 'node:timers/promises';
import { FAMILIES, type Family } from '../lib/prefix.ts';
import { NatError, type NatErrorKind } from './errors.ts';
import {
  addElement,
  createTable,
  deleteTable,
  type ElementSum,
  eachElement,
  elementMessages,
  elementsOf,
  generationOf,
  generationQuestion,
  isIntact,
  NFT_GET,
  type NftMessage,
  PORT_TABLE,
  type PortElement,
  question,
  sliceMessages,
  slicesIn,
  transaction,
} from './nftables.ts';
import type { PortStep } from './port-steps.ts';
import { DECISION_MASK, PORT_BLOCKS_MARK } from './rules.ts';
import type { PortTable } from './state.ts';

/** The netlink socket (NETLINK_NETFILTER) that is needed. All throw errors that have the errno's name as `code`. */
export interface NetfilterSocket {
  /** The answer to a question about one thing. */
  ask(type: number, data: Uint8Array): Buffer;
  /** What `parse` makes of each answer; other work goes on in between. An answer may be read in vain. */
  dumpInTurns<T>(type: number, data: Uint8Array, parse: (answer: Buffer) => T): Promise<T[]>;
  /** Sends messages at once, and throws the first error that one of them meets. */
  sendAll(messages: readonly NftMessage[]): void;
}

export interface PortKernel {
  /**
   * The tables of both families; none where there is none. What cannot be read is not there, unless it is
   * required: then throws `NatError`.
   */
  observe(required: boolean): Promise<Partial<Record<Family, PortTable>>>;
  /** Throws `NatError`. */
  apply(steps: readonly PortStep[]): Promise<void>;
}

const codeOf = (error: unknown): string | undefined => (error as NodeJS.ErrnoException).code;

const KINDS: Record<string, NatErrorKind> = {
  EPERM: 'not-permitted',
  EACCES: 'not-permitted',
  ENOENT: 'changed',
  EEXIST: 'changed',
  EBUSY: 'changed',
  EOPNOTSUPP: 'unsupported',
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

/** The access to the port blocks of this network namespace. `open` gives the socket when it is first needed. */
export function createPortKernel(open: () => NetfilterSocket): PortKernel {
  let opened: NetfilterSocket | undefined;
  const socket = (): NetfilterSocket => {
    opened ??= open();
    return opened;
  };
  /** What was read last, and the generation of nf_tables that it was. */
  let last: { generation: number; tables: Partial<Record<Family, PortTable>> } | undefined;

  function isThere(family: Family): boolean {
    try {
      socket().ask(NFT_GET.table, question('table', family));
      return true;
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return false;
      throw error;
    }
  }

  /** The elements of a mark. */
  async function elementsInKernel(family: Family, mark: number): Promise<PortElement[]> {
    const parts = await socket().dumpInTurns(NFT_GET.elements, question('elements', family), (answer) => {
      const part: PortElement[] = [];
      eachElement(answer, (element) => {
        if (element.mark === mark) part.push(element);
      });
      return part;
    });
    return parts.flat();
  }

  /** The sum of the elements of each mark. */
  async function sumsInKernel(family: Family): Promise<Map<number, ElementSum>> {
    const sums = new Map<number, ElementSum>();
    const parts = await socket().dumpInTurns(NFT_GET.elements, question('elements', family), (answer) => {
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

  async function observeTable(family: Family): Promise<PortTable | undefined> {
    if (!isThere(family)) return undefined;
    const table: PortTable = { intact: false, policies: new Map(), slices: new Map() };
    try {
      const chain = socket().ask(NFT_GET.chain, question('chain', family));
      const set = socket().ask(NFT_GET.set, question('set', family));
      const rules = await socket().dumpInTurns(NFT_GET.rule, question('rule', family), (answer) => answer);
      table.intact = isIntact(family, chain, rules, set);
    } catch (error) {
      if (codeOf(error) !== 'ENOENT') throw error;
    }
    if (!table.intact) return table;
    table.policies = await sumsInKernel(family);
    const parts = await socket().dumpInTurns(NFT_GET.elements, question('slices', family), slicesIn);
    table.slices = new Map(parts.flatMap((part) => [...part]));
    return table;
  }

  function send(what: string, messages: readonly NftMessage[]): void {
    try {
      socket().sendAll(transaction(messages));
    } catch (error) {
      throw natError(what, error);
    }
  }

  /** Sends messages one by one, with other work in between. */
  async function sendInTurns(what: string, messages: Iterable<NftMessage>): Promise<void> {
    for (const message of messages) {
      send(what, [message]);
      await turn();
    }
  }

  /** Makes the elements of a mark those that `wanted` gives. */
  async function repair(family: Family, mark: number, wanted: () => Iterable<PortElement>): Promise<void> {
    const there = await elementsInKernel(family, mark).catch((error: unknown) => {
      throw natError('read port blocks', error);
    });
    const wrong = new Map(there.map((element) => [keyOf(element.source), element]));
    const right = new Set<string>();
    if (wrong.size > 0) {
      for (const { source, data } of wanted()) {
        const key = keyOf(source);
        if (wrong.get(key)?.data.equals(data) !== true) continue;
        wrong.delete(key);
        right.add(key);
      }
    }
    function* missing(): Generator<PortElement> {
      for (const element of wanted()) if (!right.has(keyOf(element.source))) yield element;
    }
    // An element cannot be changed: what is wrong goes first.
    await sendInTurns('delete port blocks', elementMessages('delete', family, wrong.values()));
    await sendInTurns('add port blocks', elementMessages('add', family, missing()));
  }

  async function carryOut(step: PortStep): Promise<void> {
    const { family } = step;
    switch (step.type) {
      case 'create-port-table':
        return send('make the table', createTable(family, PORT_BLOCKS_MARK, DECISION_MASK, step.replace));
      case 'write-port-blocks': {
        const wanted = () => elementsOf(step.mark, step.blocks, family);
        if (step.repair) return repair(family, step.mark, wanted);
        return sendInTurns('add port blocks', elementMessages('add', family, wanted()));
      }
      case 'delete-port-blocks':
        return repair(family, step.mark, () => []);
      case 'write-slice':
        return send('add a slice', sliceMessages(family, step.mark, step.replace, step.slice));
      case 'delete-slice':
        return send('delete a slice', sliceMessages(family, step.mark, true, undefined));
      case 'delete-port-table':
        return send('delete the table', [deleteTable(family)]);
    }
  }

  return {
    async observe(required) {
      try {
        const generation = generationOf(socket().ask(NFT_GET.generation, generationQuestion()));
        if (last?.generation !== generation) {
          const tables: Partial<Record<Family, PortTable>> = {};
          for (const family of FAMILIES) {
            const table = await observeTable(family);
            if (table !== undefined) tables[family] = table;
          }
          last = { generation, tables };
        }
        return last.tables;
      } catch (error) {
        if (!required) return {};
        throw natError('read port blocks', error);
      }
    },

    async apply(steps) {
      for (const step of steps) await carryOut(step);
    },
  };
}
