/**
 * The messages of nf_tables (linux/netfilter/nf_tables.h) and the parts that rules, sets and chains are made of, as
 * netlink attributes. Attributes are written in the form in which the kernel dumps them, so that `isPartOf` can compare.
 * Pure.
 */
import {
  AF_INET,
  AF_INET6,
  AF_UNSPEC,
  NFGEN_HEADER,
  NLA_F_NESTED,
  NLA_HEADER,
  NLA_TYPE_MASK,
  NLM_F_CREATE,
} from './linux.ts';
import { Attributes, attribute, nest, nfgenHeader, u32Be, zeroEnded } from './netlink-codec.ts';
import type { Family } from './prefix.ts';

/** One message: its type with the subsystem, its flags, nfgenmsg header and attributes. */
export interface NftMessage {
  type: number;
  flags: number;
  data: Uint8Array;
}

const SUBSYSTEM = 10;
const message = (type: number): number => (SUBSYSTEM << 8) | type;
export const NFT_NEW = {
  table: message(0),
  chain: message(3),
  rule: message(6),
  set: message(9),
  elements: message(12),
  generation: message(15),
  flowtable: message(22),
} as const;
export const NFT_GET = {
  table: message(1),
  chain: message(4),
  rule: message(7),
  set: message(10),
  elements: message(13),
  generation: message(16),
  flowtable: message(23),
} as const;
export const NFT_DELETE = {
  table: message(2),
  chain: message(5),
  rule: message(8),
  set: message(11),
  elements: message(14),
} as const;

/** The multicast group of changes (linux/netfilter/nfnetlink.h). */
export const NFNLGRP_NFTABLES = 7;

// linux/netfilter/nfnetlink.h: what encloses the messages of a transaction.
const BATCH_BEGIN = 16;
const BATCH_END = 17;

export const NFPROTO_INET = 1;
/** The NFPROTO_* of a family. */
export const NFPROTO: Readonly<Record<Family, number>> = { 4: AF_INET, 6: AF_INET6 };
export const NF_INET_LOCAL_IN = 1;
export const NF_INET_POST_ROUTING = 4;

export const NFT_META_MARK = 3;
export const NFT_META_L4PROTO = 16;
export const NFT_PAYLOAD_NETWORK_HEADER = 1;
export const NFT_PAYLOAD_TRANSPORT_HEADER = 2;
export const NFT_CMP_EQ = 0;
export const NFT_CMP_NEQ = 1;
/** Registers of four octets, from which wider values go on. */
export const NFT_REG32_00 = 8;

/** A request or change: the header of a family (NFPROTO_*) and attributes. */
export const nftPayload = (protocol: number, ...attributes: Uint8Array[]): Buffer =>
  Buffer.concat([nfgenHeader(protocol), ...attributes]);

export const nftCreate = (type: number, protocol: number, ...attributes: Uint8Array[]): NftMessage => ({
  type,
  flags: NLM_F_CREATE,
  data: nftPayload(protocol, ...attributes),
});

/** Elements of a message: an attribute has at most 64 KiB. */
const ELEMENTS_PER_MESSAGE = 500;

/** The messages that add elements, each an attribute, to a set or map. `table`: the attribute with its name. */
export function* elementMessages(
  protocol: number,
  table: Uint8Array,
  set: string,
  elements: readonly Buffer[],
): Generator<NftMessage> {
  for (let i = 0; i < elements.length; i += ELEMENTS_PER_MESSAGE) {
    const part = elements.slice(i, i + ELEMENTS_PER_MESSAGE);
    yield nftCreate(NFT_NEW.elements, protocol, table, attribute(2, zeroEnded(set)), nest(3, ...part));
  }
}

/**
 * Whether the attributes from `start` on are of an object of a table: the kernel dumps the chains of all tables of a family.
 * @param start octets
 */
export function isOfTable(object: Buffer, name: string, start = 0): boolean {
  const attributes = new Attributes(object, start);
  while (attributes.next()) if (attributes.type === 1) return attributes.string === name;
  return false;
}

/** The transaction that holds messages: all of them are carried out, or none. */
export function transaction(messages: readonly NftMessage[]): NftMessage[] {
  const frame = (type: number): NftMessage => ({ type, flags: 0, data: nfgenHeader(AF_UNSPEC, SUBSYSTEM) });
  return [frame(BATCH_BEGIN), ...messages, frame(BATCH_END)];
}

/** NFTA_DATA_VALUE in an attribute. */
export const nftValue = (type: number, bytes: Uint8Array): Buffer => nest(type, attribute(1, bytes));

/** NFTA_DATA_VERDICT in an attribute: NF_DROP (0), NF_ACCEPT (1), NFT_RETURN (-5); or NFT_JUMP (-3) to a chain. */
export const nftVerdict = (type: number, code: number, chain?: string): Buffer =>
  nest(
    type,
    nest(2, attribute(1, u32Be(code)), ...(chain === undefined ? [] : [attribute(2, zeroEnded(chain))])),
  );

/** An expression of a rule by name, with its attributes. */
export const expression = (name: string, ...attributes: Uint8Array[]): Buffer =>
  nest(1, attribute(1, zeroEnded(name)), nest(2, ...attributes));

/** Attributes numbered from 1 where there is something. */
export const numbers = (...list: (number | undefined)[]): Buffer[] =>
  list.flatMap((number, i) => (number === undefined ? [] : [attribute(i + 1, u32Be(number))]));

/** The question for the number of the last transaction, and the number in the answer. */
export const generationQuestion = (): Buffer => Buffer.alloc(NFGEN_HEADER);
export const generationOf = (answer: Buffer): number =>
  numberIn(new Attributes(answer, NFGEN_HEADER), 1) ?? 0;

/** The number in the first attribute of a type. */
export function numberIn(attributes: Attributes, type: number): number | undefined {
  while (attributes.next()) if (attributes.type === type) return attributes.u32Be;
  return undefined;
}

/** The attributes in an attribute of a message; none where it is missing. */
export function nestedIn(answer: Buffer, type: number): Attributes {
  const attributes = new Attributes(answer, NFGEN_HEADER);
  while (attributes.next()) if (attributes.type === type) return attributes.nested;
  return attributes;
}

/** The attributes in a buffer, by type: whether they hold attributes, and their contents in order. */
function attributesByType(list: Buffer): Map<number, { isNested: boolean; contents: Buffer[] }> {
  const found = new Map<number, { isNested: boolean; contents: Buffer[] }>();
  for (let at = 0; at + NLA_HEADER <= list.length; ) {
    const length = list.readUInt16LE(at);
    const type = list.readUInt16LE(at + 2);
    if (length < NLA_HEADER) break;
    const one = found.get(type & NLA_TYPE_MASK) ?? { isNested: (type & NLA_F_NESTED) !== 0, contents: [] };
    one.contents.push(list.subarray(at + NLA_HEADER, at + length));
    found.set(type & NLA_TYPE_MASK, one);
    at += (length + 3) & ~3;
  }
  return found;
}

/**
 * Whether `dumped` has all attributes of `written`: as many of each type, in the same order, with the same content. The
 * kernel adds attributes of its own (handles, flags, defaults), which are ignored.
 */
export function isPartOf(written: Buffer, dumped: Buffer): boolean {
  const there = attributesByType(dumped);
  return [...attributesByType(written)].every(([type, { isNested, contents }]) => {
    const same = there.get(type)?.contents ?? [];
    return (
      same.length === contents.length &&
      contents.every((content, i) => (isNested ? isPartOf(content, same[i]!) : content.equals(same[i]!)))
    );
  });
}
