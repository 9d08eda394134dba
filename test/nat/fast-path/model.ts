/** A model of the kernel's nf_tables with the table of the fast path: it keeps the messages, and dumps them with more. */
import { attribute, nest, nfgenHeader, u32Be, zeroEnded } from '../../../lib/netlink-codec.ts';
import { NFT_DELETE, NFT_GET, NFT_NEW, type NftMessage, nestedIn } from '../../../lib/nft-codec.ts';
import type { NetfilterSocket } from '../../../nat/port-kernel.ts';

const BATCH = new Set([16, 17]);
const GET_OF = new Map<number, number>([
  ...([[NFT_NEW.flowtable, NFT_GET.flowtable]] as const),
  ...([[NFT_NEW.chain, NFT_GET.chain]] as const),
  ...([[NFT_NEW.rule, NFT_GET.rule]] as const),
  ...([[NFT_NEW.elements, NFT_GET.elements]] as const),
]);

/** A chain of another table of the same family: the kernel does not ask which table is meant. */
const OTHER_CHAINS = [
  Buffer.concat([nfgenHeader(1), attribute(1, zeroEnded('filter')), attribute(3, zeroEnded('forward'))]),
];

const errno = (code: string): Error => Object.assign(new Error(`refused (${code})`), { code });

export class NftablesModel implements NetfilterSocket {
  /** Answers by the type of question; undefined: there is no table. */
  objects: Map<number, Buffer[]> | undefined;
  generation = 1;
  /** The number of dumps. */
  dumps = 0;
  /** The number of transactions that it was asked for. */
  attempts = 0;
  /** What the kernel answers to a transaction, or to any question. */
  refuses: string | undefined;
  lacks: string | undefined;

  ask(type: number): Buffer {
    if (this.lacks !== undefined) throw errno(this.lacks);
    if (type === NFT_GET.generation)
      return Buffer.concat([nfgenHeader(0), attribute(1, u32Be(this.generation))]);
    if (this.objects === undefined) throw errno('ENOENT');
    return nfgenHeader(1);
  }

  async dumpInTurns<T>(type: number, _data: Uint8Array, parse: (answer: Buffer) => T): Promise<T[]> {
    this.dumps++;
    const answers = [...(this.objects?.get(type) ?? []), ...(type === NFT_GET.chain ? OTHER_CHAINS : [])];
    if (type === NFT_GET.elements && answers.length === 0) throw errno('ENOENT');
    return answers.map(parse);
  }

  sendAll(messages: readonly NftMessage[]): void {
    this.attempts++;
    if (this.refuses !== undefined) throw errno(this.refuses);
    for (const message of messages) if (!BATCH.has(message.type)) this.#apply(message);
    this.generation++;
  }

  #apply({ type, data }: NftMessage): void {
    if (type === NFT_DELETE.table) {
      if (this.objects === undefined) throw errno('ENOENT');
      this.objects = undefined;
    } else if (type === NFT_NEW.table) this.objects = new Map();
    const question = GET_OF.get(type);
    if (question === undefined) return;
    // NFTA_*_HANDLE and the like: the kernel says more than it was told.
    const answer = Buffer.concat([data, nest(30, attribute(1, u32Be(7)))]);
    this.objects!.set(question, [...(this.objects!.get(question) ?? []), answer]);
  }

  /** Another program deletes the table: `nft flush ruleset`. */
  flush(): void {
    this.objects = undefined;
    this.generation++;
  }

  /** The number of elements of the set. */
  get elements(): number {
    let count = 0;
    for (const answer of this.objects?.get(NFT_GET.elements) ?? []) {
      const list = nestedIn(answer, 3);
      while (list.next()) count++;
    }
    return count;
  }
}
