/** A stand-in for the netlink socket of nf_tables. */
import { NFGEN_HEADER } from '../../lib/linux.ts';
import { Attributes, attribute, nfgenHeader, u32Be } from '../../lib/netlink-codec.ts';
import { NFT_DELETE, NFT_GET, NFT_NEW, type NftMessage } from '../../lib/nft-codec.ts';
import type { NetfilterSocket } from '../../nat/port-kernel.ts';

/** The text in an attribute of a message. */
export const textOf = (data: Uint8Array, type: number): string => {
  const attributes = new Attributes(Buffer.from(data), NFGEN_HEADER);
  while (attributes.next()) if (attributes.type === type) return attributes.string;
  return '';
};
export const u64Be = (value: number): Buffer => Buffer.concat([u32Be(0), u32Be(value)]);

export interface FakeTable {
  handle: number;
  chains: Map<string, Buffer>;
  rules: { chain: string; data: Buffer }[];
  sets: Map<string, { data: Buffer; elements: Buffer[] }>;
}

/** nf_tables with one table a family, as far as the agent uses it: what was written is what is dumped. */
export class FakeNft implements NetfilterSocket {
  readonly tables = new Map<number, FakeTable>();
  transactions = 0;
  dumps = 0;
  /** The types of the requests for one object. */
  readonly asked: number[] = [];
  /** Messages of this type are refused, with this errno. */
  refuse: number | undefined;
  code = 'ENOTSUP';
  /** The kernel has no nf_tables. */
  missing = false;
  #handles = 0;

  ask(type: number, data: Uint8Array): Buffer {
    this.asked.push(type);
    if (this.missing) throw Object.assign(new Error('invalid argument'), { code: 'EINVAL' });
    if (type === NFT_GET.generation) {
      return Buffer.concat([nfgenHeader(0), attribute(1, u32Be(this.transactions))]);
    }
    const table = this.tables.get(data[0]!);
    if (table === undefined) throw Object.assign(new Error('no table'), { code: 'ENOENT' });
    if (type === NFT_GET.table) {
      return Buffer.concat([nfgenHeader(data[0]!), attribute(4, u64Be(table.handle))]);
    }
    const chain = table.chains.get(textOf(data, 3));
    if (chain === undefined) throw Object.assign(new Error('no chain'), { code: 'ENOENT' });
    return chain;
  }

  async dumpInTurns<T>(type: number, data: Uint8Array, parse: (answer: Buffer) => T): Promise<T[]> {
    return this.dump(type, data, parse);
  }

  dump<T>(type: number, data: Uint8Array, parse: (answer: Buffer) => T): T[] {
    this.dumps++;
    const table = this.tables.get(data[0]!)!;
    const answers =
      type === NFT_GET.rule
        ? table.rules.map((rule) => rule.data)
        : type === NFT_GET.set
          ? [...table.sets.values()].map((set) => set.data)
          : table.sets.get(textOf(data, 2))!.elements;
    return answers.map(parse);
  }

  sendAll(messages: readonly NftMessage[]): void {
    this.transactions++;
    for (const { type, data } of messages.slice(1, -1)) {
      if (type === this.refuse) throw Object.assign(new Error('not supported'), { code: this.code });
      this.#carryOut(type, Buffer.from(data));
    }
  }

  #carryOut(type: number, data: Buffer): void {
    const protocol = data[0]!;
    const table = this.tables.get(protocol);
    if (type === NFT_NEW.table) {
      if (table === undefined) {
        this.tables.set(protocol, {
          ...{ handle: ++this.#handles, chains: new Map(), rules: [], sets: new Map() },
        });
      }
      return;
    }
    if (type === NFT_DELETE.table) this.tables.delete(protocol);
    else if (type === NFT_NEW.chain) table!.chains.set(textOf(data, 3), data);
    else if (type === NFT_DELETE.chain) table!.chains.delete(textOf(data, 3));
    else if (type === NFT_NEW.rule) table!.rules.push({ chain: textOf(data, 2), data });
    else if (type === NFT_DELETE.rule) {
      table!.rules = table!.rules.filter(({ chain }) => chain !== textOf(data, 2));
    } else if (type === NFT_NEW.set) table!.sets.set(textOf(data, 2), { data, elements: [] });
    else if (type === NFT_DELETE.set) table!.sets.delete(textOf(data, 2));
    else table!.sets.get(textOf(data, 2))!.elements.push(data);
  }
}
