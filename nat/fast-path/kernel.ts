/** Reads and writes the table of the fast path over netlink; reads it again only after a transaction of nf_tables. */
import {
  generationOf,
  generationQuestion,
  isOfTable,
  NFT_GET,
  nestedIn,
  transaction,
} from '../../lib/nft-codec.ts';
import type { NetfilterSocket } from '../port-kernel.ts';
import {
  attributesOf,
  FAST_PATH_TABLE,
  type FastPathStep,
  fastPathMessages,
  fastPathQuestion,
  limitedQuestion,
  type ObservedFastPath,
} from './table.ts';

export interface FastPathKernel {
  /** The table; undefined without one. Throws what the kernel answers. */
  observe(): Promise<ObservedFastPath | undefined>;
  /** Throws what the kernel answers to the first step that it refuses. */
  apply(steps: readonly FastPathStep[]): void;
}

/** `open` returns the socket; it is called when first needed. */
export const createFastPathKernel = (open: () => NetfilterSocket): FastPathKernel =>
  new NetlinkFastPath(open);

const NFTA_SET_ELEM_LIST_ELEMENTS = 3;

const codeOf = (error: unknown): string | undefined => (error as NodeJS.ErrnoException).code;

class NetlinkFastPath implements FastPathKernel {
  readonly #open: () => NetfilterSocket;
  #opened: NetfilterSocket | undefined;
  #last: { generation: number; table: ObservedFastPath | undefined } | undefined;

  constructor(open: () => NetfilterSocket) {
    this.#open = open;
  }

  async observe(): Promise<ObservedFastPath | undefined> {
    const generation = generationOf(this.#socket.ask(NFT_GET.generation, generationQuestion()));
    if (this.#last?.generation !== generation) this.#last = { generation, table: await this.#read() };
    return this.#last.table;
  }

  apply(steps: readonly FastPathStep[]): void {
    for (const step of steps) this.#socket.sendAll(transaction(fastPathMessages(step)));
  }

  get #socket(): NetfilterSocket {
    this.#opened ??= this.#open();
    return this.#opened;
  }

  async #read(): Promise<ObservedFastPath | undefined> {
    try {
      this.#socket.ask(NFT_GET.table, fastPathQuestion());
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return undefined;
      throw error;
    }
    const list = async (type: number): Promise<Buffer[]> =>
      (await this.#socket.dumpInTurns(type, fastPathQuestion(), attributesOf)).filter((object) =>
        isOfTable(object, FAST_PATH_TABLE),
      );
    return {
      flowtables: await list(NFT_GET.flowtable),
      chains: await list(NFT_GET.chain),
      rules: await list(NFT_GET.rule),
      limited: await this.#limited(),
    };
  }

  async #limited(): Promise<Buffer[]> {
    try {
      const answers = await this.#socket.dumpInTurns(NFT_GET.elements, limitedQuestion(), elementsIn);
      return answers.flat();
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return [];
      throw error;
    }
  }
}

/** The elements in an answer, each as its attributes. */
function elementsIn(answer: Buffer): Buffer[] {
  const found: Buffer[] = [];
  const list = nestedIn(answer, NFTA_SET_ELEM_LIST_ELEMENTS);
  while (list.next()) found.push(Buffer.from(list.content));
  return found;
}
