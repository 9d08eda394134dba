/**
 * The nf_tables messages (linux/netfilter/nf_tables.h) for the one thing that iptables and ipset cannot do: look up
 * the address and the ports of a source. iptables does everything else (docs/design/0007).
 *
 *     table VEG-PORT-BLOCKS
 *       map slices     mark : address . first port - address . last port
 *       map blocks     mark . source : address . first port - address . last port
 *       chain          nat, POSTROUTING, behind iptables': a mark of port blocks → SNAT by the maps,
 *                      and DROP without an element
 *
 * A slice is a block that all sources of a policy have in common: what a gateway of a group may allocate. Only a table
 * of a group has `slices`. There, what belongs to a connection that began before is dropped: its entry was deleted, or
 * has not come from the other member yet, and another port would end the connection. The sender sends it again.
 *
 * Pure.
 */
import {
  IPPROTO_SCTP,
  IPPROTO_TCP,
  NFGEN_HEADER,
  NLA_HEADER,
  NLM_F_APPEND,
  NLM_F_CREATE,
} from '../lib/linux.ts';
import { Attributes, attribute, nest, u8, u32, u32Be, zeroEnded } from '../lib/netlink-codec.ts';
import {
  expression,
  NF_INET_POST_ROUTING,
  NFPROTO,
  NFT_CMP_EQ,
  NFT_CMP_NEQ,
  NFT_DELETE,
  type NFT_GET,
  NFT_META_L4PROTO,
  NFT_META_MARK,
  NFT_NEW,
  NFT_PAYLOAD_NETWORK_HEADER,
  NFT_PAYLOAD_TRANSPORT_HEADER,
  NFT_REG32_00,
  type NftMessage,
  nestedIn,
  nftCreate,
  nftPayload,
  nftValue,
  nftVerdict,
  numberIn,
  numbers,
} from '../lib/nft-codec.ts';
import { addressBits, addressBytes, addressFromBytes, type Family } from '../lib/prefix.ts';
import { eachBlock, type PortBlock, type PortBlocks } from './port-blocks.ts';

export const PORT_TABLE = 'VEG-PORT-BLOCKS';
const MAP = 'blocks';
const SLICES = 'slices';
const CHAIN = 'postrouting';

/** Right behind nat POSTROUTING of iptables, which decides and leaves the marks: NF_IP_PRI_NAT_SRC is 100. */
const PRIORITY = 101;
const NF_NAT_RANGE_PROTO_RANDOM_FULLY = 1 << 4;
const NFT_SET_MAP = 8;
const TCP_SYN = 0x02;
const SCTP_INIT = 1;
/** nft's numbers of data types, six bits each in a concatenation: only `nft list` looks at them. */
const TYPE = { mark: 19, 4: 7, 6: 8, port: 13 } as const;

/** Octets of elements that go into one message: an attribute has at most 64 KiB with its header. */
const OCTETS_PER_MESSAGE = 65_528;

/** Octets of the mark in front of the source in a key. */
const MARK_OCTETS = 4;

/** As the kernel keeps a mark: in the order of the machine. */
const markBytes = u32;

const DROP = nftVerdict(2, 0);

const payload = (family: Family, ...attributes: Uint8Array[]): Buffer =>
  nftPayload(NFPROTO[family], ...attributes);

const create = (type: number, family: Family, ...attributes: Uint8Array[]): NftMessage =>
  nftCreate(type, NFPROTO[family], ...attributes);

/**
 * The comments of the rules in their order: they identify the rules as ours, and as this version makes them
 * (NFTA_RULE_USERDATA, a comment as nft writes it).
 */
const SLICE_COMMENTS = [
  'veg-agent 1: TCP of the group without SYN',
  'veg-agent 1: SCTP of the group without INIT',
  'veg-agent 1: the slice of the group',
] as const;
const BLOCK_COMMENTS = [
  'veg-agent 1: the block of the source',
  'veg-agent 1: a source without a block',
] as const;
const commentsOf = (hasSlices: boolean): readonly string[] =>
  hasSlices ? [...SLICE_COMMENTS, ...BLOCK_COMMENTS] : BLOCK_COMMENTS;
const comment = (words: string): Buffer => Buffer.concat([Buffer.of(0, words.length + 1), zeroEnded(words)]);

/** The rules of the chain, those of slices first. `bits` of the mark (in `mask`) identify one of port blocks. */
function rules(family: Family, bits: number, mask: number): { ofSlices: Buffer[][]; ofBlocks: Buffer[][] } {
  const words = addressBits(family) / 32;
  const registers = (n: number): number => NFT_REG32_00 + n;
  const compare = (operator: number, bytes: Uint8Array): Buffer =>
    expression('cmp', ...numbers(NFT_REG32_00, operator), nftValue(3, bytes));
  const and = (bytes: Uint8Array): Buffer =>
    expression(
      'bitwise',
      ...numbers(NFT_REG32_00, NFT_REG32_00, bytes.length),
      nftValue(4, bytes),
      nftValue(5, Buffer.alloc(bytes.length)),
    );
  const readMark = expression('meta', ...numbers(NFT_REG32_00, NFT_META_MARK));
  const isOurs = [readMark, and(markBytes(bits)), compare(NFT_CMP_EQ, markBytes(bits))];
  const lookedUp = [...isOurs, readMark, and(markBytes(mask))];
  /** Looks up the registers from the first on in a map. Without an element the rule ends. */
  const lookUp = (map: string): Buffer =>
    expression('lookup', attribute(1, zeroEnded(map)), ...numbers(undefined, NFT_REG32_00, NFT_REG32_00));
  const drop = [expression('counter'), expression('immediate', ...numbers(0), DROP)];
  /** Translates to what was looked up. */
  const translate = expression(
    'nat',
    ...numbers(
      0,
      NFPROTO[family],
      registers(0),
      registers(words + 1),
      registers(words),
      registers(2 * words + 1),
      NF_NAT_RANGE_PROTO_RANDOM_FULLY,
    ),
  );
  /** Drops what does not begin a connection, by the octet of its transport header at `offset`. */
  const dropOther = (protocol: number, offset: number, ...isOther: Buffer[]): Buffer[] => [
    expression('meta', ...numbers(NFT_REG32_00, NFT_META_L4PROTO)),
    compare(NFT_CMP_EQ, u8(protocol)),
    ...lookedUp,
    lookUp(SLICES),
    expression('payload', ...numbers(NFT_REG32_00, NFT_PAYLOAD_TRANSPORT_HEADER, offset, 1)),
    ...isOther,
    ...drop,
  ];
  const ofSlices = [
    dropOther(IPPROTO_TCP, 13, and(u8(TCP_SYN)), compare(NFT_CMP_EQ, u8(0))),
    dropOther(IPPROTO_SCTP, 12, compare(NFT_CMP_NEQ, u8(SCTP_INIT))),
    [...lookedUp, lookUp(SLICES), translate],
  ];
  const ofBlocks = [
    [
      ...lookedUp,
      expression(
        'payload',
        ...numbers(registers(1), NFT_PAYLOAD_NETWORK_HEADER, family === 4 ? 12 : 8, words * 4),
      ),
      lookUp(MAP),
      translate,
    ],
    [...isOurs, ...drop],
  ];
  return { ofSlices, ofBlocks };
}

/** A map to an address and ports. `type` is nft's name for the key; `octets` is its size. */
const map = (family: Family, name: string, id: number, type: number, octets: number): NftMessage =>
  create(
    NFT_NEW.set,
    family,
    attribute(1, zeroEnded(PORT_TABLE)),
    attribute(2, zeroEnded(name)),
    attribute(3, u32Be(NFT_SET_MAP)),
    attribute(4, u32Be(type)),
    attribute(5, u32Be(octets)),
    attribute(6, u32Be((TYPE[family] << 6) | TYPE.port)),
    attribute(7, u32Be(8 + addressBits(family) / 4)),
    attribute(10, u32Be(id)),
    // For nft's listing. NFTNL_UDATA_SET_KEYBYTEORDER: a mark is in the order of the machine; NFTNL_UDATA_SET_DATA_INTERVAL:
    // values are ranges.
    attribute(13, Buffer.of(0, 4, 1, 0, 0, 0, 6, 4, 1, 0, 0, 0)),
  );

const slicesMap = (family: Family): NftMessage => map(family, SLICES, 2, TYPE.mark, MARK_OCTETS);

/** A rule of the chain; `flags` place it at its end, or in front of all others. */
const rule = (family: Family, expressions: Buffer[], words: string, flags: number): NftMessage => ({
  ...create(
    NFT_NEW.rule,
    family,
    attribute(1, zeroEnded(PORT_TABLE)),
    attribute(2, zeroEnded(CHAIN)),
    nest(4, ...expressions),
    attribute(7, comment(words)),
  ),
  flags,
});

/**
 * Makes table, map, chain and rules anew, empty.
 * @param bits the bits of a mark that identify one of port blocks
 * @param mask the bits of a mark that are looked up
 * @param isThere whether something of that name is to be removed first
 * @param hasSlices whether it is that of a group
 */
export function createTable(
  family: Family,
  bits: number,
  mask: number,
  { isThere, hasSlices }: { isThere: boolean; hasSlices: boolean },
): NftMessage[] {
  const table = attribute(1, zeroEnded(PORT_TABLE));
  const chain = create(
    NFT_NEW.chain,
    family,
    table,
    attribute(3, zeroEnded(CHAIN)),
    nest(4, attribute(1, u32Be(NF_INET_POST_ROUTING)), attribute(2, u32Be(PRIORITY))),
    attribute(7, zeroEnded('nat')),
  );
  const { ofSlices, ofBlocks } = rules(family, bits, mask);
  const comments = commentsOf(hasSlices);
  return [
    ...(isThere ? [deleteTable(family)] : []),
    create(NFT_NEW.table, family, table),
    ...(hasSlices ? [slicesMap(family)] : []),
    map(family, MAP, 1, (TYPE.mark << 6) | TYPE[family], MARK_OCTETS + addressBits(family) / 8),
    chain,
    ...[...(hasSlices ? ofSlices : []), ...ofBlocks].map((expressions, i) =>
      rule(family, expressions, comments[i]!, NLM_F_CREATE | NLM_F_APPEND),
    ),
  ];
}

/**
 * Adds the map of slices and its rules to a table without them: blocks that are in use stay. `bits` and `mask` as of
 * `createTable`.
 */
export const addSlices = (family: Family, bits: number, mask: number): NftMessage[] => [
  slicesMap(family),
  // Each comes in front of those before it.
  ...rules(family, bits, mask)
    .ofSlices.map((expressions, i) => rule(family, expressions, SLICE_COMMENTS[i]!, NLM_F_CREATE))
    .reverse(),
];

/** Removes the table with everything in it. */
export const deleteTable = (family: Family): NftMessage => ({
  type: NFT_DELETE.table,
  flags: 0,
  data: payload(family, attribute(1, zeroEnded(PORT_TABLE))),
});

/** A question about the table, the map of blocks, the chain, its rules, or the elements of a map. */
export function question(
  what: Exclude<keyof typeof NFT_GET, 'generation' | 'flowtable'> | 'slices',
  family: Family,
): Buffer {
  const table = attribute(1, zeroEnded(PORT_TABLE));
  switch (what) {
    case 'table':
      return payload(family, table);
    case 'chain':
      return payload(family, table, attribute(3, zeroEnded(CHAIN)));
    case 'rule':
      return payload(family, table, attribute(2, zeroEnded(CHAIN)));
    case 'set':
    case 'elements':
      return payload(family, table, attribute(2, zeroEnded(MAP)));
    case 'slices':
      return payload(family, table, attribute(2, zeroEnded(SLICES)));
  }
}

/**
 * Whether answers describe chain, rules and map as `createTable` makes them, with slices or without; undefined if they
 * do not.
 */
export function layoutOf(
  family: Family,
  chain: Buffer,
  ruleList: readonly Buffer[],
  set: Buffer,
): { hasSlices: boolean } | undefined {
  const hook = (type: number) => numberIn(nestedIn(chain, 4), type);
  const map = (type: number) => numberIn(new Attributes(set, NFGEN_HEADER), type);
  const words = addressBits(family) / 32;
  const isPlaced =
    hook(1) === NF_INET_POST_ROUTING &&
    hook(2) === PRIORITY &&
    map(5) === 4 + 4 * words &&
    map(7) === 8 + 8 * words;
  if (!isPlaced) return undefined;
  return [{ hasSlices: true }, { hasSlices: false }].find(({ hasSlices }) => {
    const comments = commentsOf(hasSlices);
    return ruleList.length === comments.length && ruleList.every((rule, i) => hasComment(rule, comments[i]!));
  });
}

function hasComment(rule: Buffer, words: string): boolean {
  const attributes = new Attributes(rule, NFGEN_HEADER);
  while (attributes.next()) if (attributes.type === 7) return attributes.content.equals(comment(words));
  return false;
}

const EMPTY = Buffer.alloc(0);

/** An element: the mark, and the octets of source and of what it gets. */
export interface PortElement {
  mark: number;
  source: Buffer;
  data: Buffer;
}

/** Calls `visit` for each element in an answer. The octets are views of the answer. */
export function eachElement(answer: Buffer, visit: (element: PortElement) => void): void {
  const list = nestedIn(answer, 3);
  while (list.next()) {
    const element: PortElement = { mark: 0, source: EMPTY, data: EMPTY };
    const parts = list.nested;
    while (parts.next()) {
      // Key and data hold one attribute: the octets.
      if (parts.type === 1) {
        const key = parts.nested;
        if (key.next()) element.mark = key.u32;
        element.source = parts.contentFrom(NLA_HEADER + MARK_OCTETS);
      } else if (parts.type === 2) element.data = parts.contentFrom(NLA_HEADER);
    }
    visit(element);
  }
}

/** The elements that port blocks come to; their octets are good until the next one. */
export function* elementsOf(mark: number, blocks: PortBlocks, family: Family): Generator<PortElement> {
  const length = addressBits(family) / 8;
  const data = Buffer.alloc(2 * length + 8);
  let address: string | undefined;
  for (const { source, block } of eachBlock(blocks)) {
    if (block.address !== address) {
      address = block.address;
      const bytes = addressBytes(block.address);
      data.set(bytes, 0);
      data.set(bytes, length + 4);
    }
    data.writeUInt16BE(block.first, length);
    data.writeUInt16BE(block.last, 2 * length + 4);
    yield { mark, source: Buffer.from(source.buffer, source.byteOffset, source.length), data };
  }
}

/** An element's value: from an address and a port to an address and a port. */
function blockData({ address, first, last }: PortBlock): Buffer {
  const bytes = addressBytes(address);
  const data = Buffer.alloc(2 * bytes.length + 8);
  data.set(bytes, 0);
  data.writeUInt16BE(first, bytes.length);
  data.set(bytes, bytes.length + 4);
  data.writeUInt16BE(last, 2 * bytes.length + 4);
  return data;
}

/** The slices in an answer, by mark. */
export function slicesIn(answer: Buffer): Map<number, PortBlock> {
  const slices = new Map<number, PortBlock>();
  eachElement(answer, ({ mark, data }) => {
    const length = data.length / 2 - 4;
    const address = data.subarray(0, length);
    const isOne = address.equals(data.subarray(length + 4, 2 * length + 4));
    slices.set(mark, {
      address: addressFromBytes(address),
      // The agent never writes a range of addresses: port 0 makes it differ from each slice.
      first: isOne ? data.readUInt16BE(length) : 0,
      last: data.readUInt16BE(2 * length + 4),
    });
  });
  return slices;
}

/** Messages that delete the element of a mark, where `isThere`, and add the given one, if any. */
export function sliceMessages(
  family: Family,
  mark: number,
  isThere: boolean,
  slice: PortBlock | undefined,
): NftMessage[] {
  const start = [attribute(1, zeroEnded(PORT_TABLE)), attribute(2, zeroEnded(SLICES))];
  const key = nftValue(1, markBytes(mark));
  const element = (...parts: Uint8Array[]): Buffer => payload(family, ...start, nest(3, nest(1, ...parts)));
  return [
    ...(isThere ? [{ type: NFT_DELETE.elements, flags: 0, data: element(key) }] : []),
    ...(slice === undefined
      ? []
      : [{ type: NFT_NEW.elements, flags: NLM_F_CREATE, data: element(key, nftValue(2, blockData(slice))) }]),
  ];
}

/** Sums elements up so that their order does not matter. */
export interface ElementSum {
  elements: number;
  digest: number;
}

/** Adds an element to a sum. */
export function addElement(sum: ElementSum, { source, data }: PortElement): void {
  let hash = 0x811c9dc5;
  for (let i = 0; i < source.length; i++) hash = Math.imul(hash ^ source[i]!, 0x01000193);
  for (let i = 0; i < data.length; i++) hash = Math.imul(hash ^ data[i]!, 0x01000193);
  sum.elements++;
  sum.digest = (sum.digest + hash) >>> 0;
}

/** The sum of the elements that port blocks come to. */
export function sumOf(blocks: PortBlocks, family: Family): ElementSum {
  const sum = { elements: 0, digest: 0 };
  for (const element of elementsOf(0, blocks, family)) addElement(sum, element);
  return sum;
}

/** Messages that add elements, or that delete them by their keys. */
export function* elementMessages(
  action: 'add' | 'delete',
  family: Family,
  elements: Iterable<PortElement>,
): Generator<NftMessage> {
  const start = [attribute(1, zeroEnded(PORT_TABLE)), attribute(2, zeroEnded(MAP))];
  const length = addressBits(family) / 8;
  const key = nftValue(1, Buffer.alloc(4 + length));
  const empty = action === 'add' ? nest(1, key, nftValue(2, Buffer.alloc(2 * length + 8))) : nest(1, key);
  const list = Buffer.alloc(OCTETS_PER_MESSAGE - (OCTETS_PER_MESSAGE % empty.length));
  let end = 0;
  const flush = (): NftMessage => {
    const data = payload(family, ...start, nest(3, list.subarray(0, end)));
    end = 0;
    return action === 'add'
      ? { type: NFT_NEW.elements, flags: NLM_F_CREATE, data }
      : { type: NFT_DELETE.elements, flags: 0, data };
  };
  for (const { mark, source, data } of elements) {
    list.set(empty, end);
    const content = end + 3 * NLA_HEADER;
    list.writeUInt32LE(mark, content);
    list.set(source, content + 4);
    if (action === 'add') list.set(data, end + NLA_HEADER + key.length + 2 * NLA_HEADER);
    end += empty.length;
    if (end === list.length) yield flush();
  }
  if (end > 0) yield flush();
}
