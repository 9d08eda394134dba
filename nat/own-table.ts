/**
 * The nf_tables messages that make, change and read a table of the agent's, and what the answers say. Pure.
 *
 * A rule is recognised by its comment, a hash of its text; so an observed table is the comments of the rules of each chain.
 */
import { NFGEN_HEADER, NLM_F_APPEND, NLM_F_CREATE } from '../lib/linux.ts';
import { Attributes, attribute, nest, u32Be, zeroEnded } from '../lib/netlink-codec.ts';
import {
  NFPROTO,
  NFT_DELETE,
  NFT_NEW,
  type NftMessage,
  nestedIn,
  nftCreate,
  nftPayload,
  numberIn,
} from '../lib/nft-codec.ts';
import type { Family } from '../lib/prefix.ts';
import type { Part } from './expressions.ts';
import { hash, hex8 } from './marks.ts';

/** A table of the agent's: its name, and its chains that are hooked: the hook (NF_INET_*) and priority of each. */
export interface OwnTable {
  name: string;
  hooks: Readonly<Record<string, { hook: number; priority: number }>>;
}

/** A rule of a chain. */
export type OwnRule = readonly Part[];

const nameOf = ({ name }: OwnTable): Buffer => attribute(1, zeroEnded(name));

export const createTable = (table: OwnTable, family: Family): NftMessage =>
  nftCreate(NFT_NEW.table, NFPROTO[family], nameOf(table));

export const deleteTable = (table: OwnTable, family: Family): NftMessage => ({
  type: NFT_DELETE.table,
  flags: 0,
  data: nftPayload(NFPROTO[family], nameOf(table)),
});

/** Makes a chain without rules. */
export const createChain = (table: OwnTable, family: Family, chain: string): NftMessage => {
  const base = table.hooks[chain];
  return nftCreate(
    NFT_NEW.chain,
    NFPROTO[family],
    nameOf(table),
    attribute(3, zeroEnded(chain)),
    ...(base === undefined
      ? []
      : [
          nest(4, attribute(1, u32Be(base.hook)), attribute(2, u32Be(base.priority))),
          attribute(7, zeroEnded('filter')),
        ]),
  );
};

/** A message about an object of a table: `attributeType` is that of its name. */
export const inTable = (
  table: OwnTable,
  family: Family,
  type: number,
  name: string,
  attributeType: number,
): NftMessage => ({
  ...{ type, flags: 0 },
  data: nftPayload(NFPROTO[family], nameOf(table), attribute(attributeType, zeroEnded(name))),
});
export const deleteChain = (table: OwnTable, family: Family, chain: string): NftMessage =>
  inTable(table, family, NFT_DELETE.chain, chain, 3);
/** Deletes the rules of a chain. */
export const flushChain = (table: OwnTable, family: Family, chain: string): NftMessage =>
  inTable(table, family, NFT_DELETE.rule, chain, 2);

/** A rule's text, and the comment (NFTA_RULE_USERDATA, as nft writes it) that it is recognised by. */
export const ruleText = (rule: OwnRule): string => rule.map(({ text }) => text).join(' ');
export function ruleMark(rule: OwnRule): string {
  const mark = rule.find((part) => part.mark !== undefined)?.mark;
  return `veg-agent 1 ${hex8(hash(ruleText(rule)))}${mark === undefined ? '' : ` ${hex6(mark)}`}`;
}
export const hex6 = (mark: number): string => mark.toString(16).padStart(6, '0');
/** The mark that a rule counts for, from its comment; undefined where the name of its chain has it. */
export function markOfRule(comment: string): number | undefined {
  const hex = /^veg-agent 1 [0-9a-f]{8} ([0-9a-f]{6})$/.exec(comment)?.[1];
  return hex === undefined ? undefined : Number.parseInt(hex, 16);
}

export const addRule = (table: OwnTable, family: Family, chain: string, rule: OwnRule): NftMessage => {
  const words = ruleMark(rule);
  return {
    ...nftCreate(
      NFT_NEW.rule,
      NFPROTO[family],
      nameOf(table),
      attribute(2, zeroEnded(chain)),
      nest(4, ...rule.flatMap(({ code }) => code)),
      attribute(7, Buffer.of(0, words.length + 1), zeroEnded(words)),
    ),
    flags: NLM_F_CREATE | NLM_F_APPEND,
  };
};

/** The question for the table, or for all of its rules or sets; and for a chain. */
export const tableQuestion = (table: OwnTable, family: Family): Buffer =>
  nftPayload(NFPROTO[family], nameOf(table));
export const chainQuestion = (table: OwnTable, family: Family, chain: string): Buffer =>
  nftPayload(NFPROTO[family], nameOf(table), attribute(3, zeroEnded(chain)));

/** Whether a chain is hooked as `createChain` hooks it. */
export function isHooked({ hooks }: OwnTable, answer: Buffer, chain: string): boolean {
  const part = (type: number) => numberIn(nestedIn(answer, 4), type);
  const base = hooks[chain];
  return base !== undefined && part(1) === base.hook && part(2) === base.priority >>> 0;
}

/** A number that no other table of this network namespace has had: NFTA_TABLE_HANDLE. */
export function tableHandle(answer: Buffer): number {
  const attributes = new Attributes(answer, NFGEN_HEADER);
  while (attributes.next()) if (attributes.type === 4) return attributes.u64Be;
  return 0;
}

/** What a counter says, and where the answer has both numbers, if it has: octets from its beginning. */
export interface ObservedCounter {
  packets: number;
  bytes: number;
  at?: { packets: number; bytes: number };
}

/** A rule in an answer: its chain, the comment without its header, and its counter. */
export interface ObservedRule {
  chain: string;
  comment: string;
  counter?: ObservedCounter;
}

const COMMENT_HEADER = 2;

export function parseRule(answer: Buffer): ObservedRule {
  const rule: ObservedRule = { chain: '', comment: '' };
  const attributes = new Attributes(answer, NFGEN_HEADER);
  while (attributes.next()) {
    if (attributes.type === 2) rule.chain = attributes.string;
    else if (attributes.type === 4) {
      const counter = counterIn(attributes.nested);
      if (counter !== undefined) rule.counter = counter;
    } else if (attributes.type === 7) {
      rule.comment = attributes.contentFrom(COMMENT_HEADER).toString('latin1').replace(/\0.*$/s, '');
    }
  }
  return rule;
}

/** The counter among expressions. */
function counterIn(expressions: Attributes): ObservedCounter | undefined {
  while (expressions.next()) {
    const parts = expressions.nested;
    let isCounter = false;
    while (parts.next()) {
      if (parts.type === 1) isCounter = parts.string === 'counter';
      else if (parts.type === 2 && isCounter) {
        const counter: ObservedCounter = { packets: 0, bytes: 0 };
        const at = { packets: 0, bytes: 0 };
        const values = parts.nested;
        while (values.next()) {
          const number = values.type === 1 ? 'bytes' : values.type === 2 ? 'packets' : undefined;
          if (number === undefined || values.length < 8) continue;
          counter[number] = values.u64Be;
          at[number] = values.offset;
        }
        return at.packets > 0 && at.bytes > 0 ? { ...counter, at } : counter;
      }
    }
  }
  return undefined;
}
