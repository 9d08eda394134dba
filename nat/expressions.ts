/**
 * The expressions that the rules of the agent's nf_tables tables consist of, each with its text in nft's syntax. Pure.
 */
import { attribute, u8, u32, u32Be, zeroEnded } from '../lib/netlink-codec.ts';
import {
  expression,
  NFT_PAYLOAD_NETWORK_HEADER,
  NFT_REG32_00,
  nftValue,
  nftVerdict,
  numbers,
} from '../lib/nft-codec.ts';
import {
  addressBits,
  addressBytes,
  type Family,
  networkAddress,
  type Prefix,
  prefixLength,
} from '../lib/prefix.ts';
import { hex } from './rules.ts';

/** A part of a rule: what nft prints, and the expressions. */
export interface Part {
  text: string;
  code: Buffer[];
  /** The mark that a counter counts for, in a chain whose name does not have it. */
  mark?: number;
}

// linux/netfilter/nf_tables.h: nft_ct_keys, nft_meta_keys, nft_cmp_ops
const CT = { state: 0, direction: 1, status: 2, mark: 3 } as const;
const CT_SOURCE = { 4: 19, 6: 21 } as const;
const META_IIF = 4;
const META_IIFNAME = 6;
const META_OIFNAME = 7;
const EQUAL = 0;
const NOT_EQUAL = 1;
const NF_DROP = 0;
const NF_ACCEPT = 1;
const NFT_GOTO = -4;
const LOOKUP_INVERTED = 1;
const VERDICT_REGISTER = 0;
const INTERFACE_NAME_SIZE = 16;

/** enum ip_conntrack_dir */
const DIRECTION = { original: 0, reply: 1 } as const;
export type Direction = keyof typeof DIRECTION;
/** NF_CT_STATE_BIT of enum ip_conntrack_info; NF_CT_STATE_INVALID_BIT of a packet that belongs to no connection. */
const STATE = { invalid: 1 << 0, established: 1 << 1, related: 1 << 2 } as const;
/** enum ip_conntrack_status */
const STATUS = { confirmed: 1 << 3, snat: 1 << 4, dnat: 1 << 5, nat: (1 << 4) | (1 << 5) } as const;

const REGISTER = NFT_REG32_00;
const load = (key: number): Buffer => expression('ct', ...numbers(REGISTER, key));
const compare = (bytes: Uint8Array, operator = EQUAL): Buffer =>
  expression('cmp', ...numbers(REGISTER, operator), nftValue(3, bytes));
const bitwise = (mask: Uint8Array, xor: Uint8Array): Buffer =>
  expression('bitwise', ...numbers(REGISTER, REGISTER, mask.length), nftValue(4, mask), nftValue(5, xor));
const masked = (mask: number, xor = 0): Buffer => bitwise(u32(mask), u32(xor));

const UPPER_OCTET = 0xff00_0000;
const POLICY_BITS = 0x00ff_ffff;

/** The connection has this mark, whatever its upper octet is. */
export const hasMark = (mark: number): Part => ({
  text: `ct mark & 0x00ffffff == ${hex(mark)}`,
  code: [load(CT.mark), masked(POLICY_BITS), compare(u32(mark))],
});

/** The packet belongs to a connection with another mark, or none. */
export const hasOtherMark = (mark: number): Part => ({
  text: `ct mark & 0x00ffffff != ${hex(mark)}`,
  code: [load(CT.mark), masked(POLICY_BITS), compare(u32(mark), NOT_EQUAL)],
});

/** The verdict of a map from marks. */
export const byMark = (map: string): Part => ({
  text: `ct mark & 0x00ffffff vmap @${map}`,
  code: [load(CT.mark), masked(POLICY_BITS), lookUp(map)],
});

/** Gives the connection a mark, and keeps the upper octet. */
export const setMark = (mark: number): Part => ({
  text: `ct mark set ct mark & 0xff000000 | ${hex(mark)}`,
  code: [
    load(CT.mark),
    masked(UPPER_OCTET, mark),
    expression('ct', ...numbers(undefined, CT.mark, undefined, REGISTER)),
  ],
});

export const hasDirection = (direction: Direction): Part => ({
  text: `ct direction ${direction}`,
  code: [load(CT.direction), compare(u8(DIRECTION[direction]))],
});

export const isEstablished: Part = {
  text: 'ct state established',
  code: [load(CT.state), compare(u32(STATE.established))],
};
/** Also of a packet that belongs to no connection. */
export const isNotEstablished: Part = {
  text: 'ct state != established',
  code: [load(CT.state), compare(u32(STATE.established), NOT_EQUAL)],
};
/** Not an ICMP error about a connection. */
export const isNotRelated: Part = {
  text: 'ct state != related',
  code: [load(CT.state), compare(u32(STATE.related), NOT_EQUAL)],
};

/** Conntrack has found it valid, or was told not to look at it. */
export const isNotInvalid: Part = {
  text: 'ct state != invalid',
  code: [load(CT.state), compare(u32(STATE.invalid), NOT_EQUAL)],
};

const hasStatus = (name: keyof typeof STATUS, text: string, wanted: boolean): Part => ({
  text,
  code: [load(CT.status), masked(STATUS[name]), compare(u32(0), wanted ? NOT_EQUAL : EQUAL)],
});
/** The packet begins its connection. */
export const isUnconfirmed = hasStatus('confirmed', 'ct status & confirmed == 0', false);
export const hasSource = hasStatus('snat', 'ct status & snat != 0', true);
/** Also an EIP or a DNAT; a packet that belongs to no connection has no status. */
export const hasDestination = hasStatus('dnat', 'ct status & dnat != 0', true);
export const keepsSource = hasStatus('snat', 'ct status & snat == 0', false);
/** The packet belongs to a connection: BFD, Neighbor Discovery and what a group forwards on do not. */
export const isTracked: Part = {
  text: 'ct status != 0',
  code: [load(CT.status), compare(u32(0), NOT_EQUAL)],
};
export const isUnchanged = hasStatus('nat', 'ct status & (snat | dnat) == 0', false);

/** Sent by this pod. */
export const isOwn: Part = {
  text: 'meta iif 0',
  code: [expression('meta', ...numbers(REGISTER, META_IIF)), compare(u32(0))],
};

/** The name of an interface as a register of 16 octets has it. */
export function interfaceName(name: string): Buffer {
  const bytes = Buffer.alloc(INTERFACE_NAME_SIZE);
  bytes.write(name, 'latin1');
  return bytes;
}

const compareName = (key: number, name: string, operator: number): Buffer[] => [
  expression('meta', ...numbers(REGISTER, key)),
  compare(interfaceName(name), operator),
];

/** Received on an interface, or not on it. */
export const isFrom = (name: string, wanted: boolean): Part => ({
  text: `iifname ${wanted ? '' : '!= '}"${name}"`,
  code: compareName(META_IIFNAME, name, wanted ? EQUAL : NOT_EQUAL),
});

/** Leaves by an interface. */
export const isTo = (name: string): Part => ({
  text: `oifname "${name}"`,
  code: compareName(META_OIFNAME, name, EQUAL),
});
/** From this pod to itself. */
export const isToItself = isTo('lo');

/** Where addresses are in the header of a packet, octets. */
const ADDRESS_OFFSET = { 4: { saddr: 12, daddr: 16 }, 6: { saddr: 8, daddr: 24 } } as const;

/** The packet's own source or destination is in a block. */
export function hasAddress(family: Family, side: 'saddr' | 'daddr', block: Prefix): Part {
  const length = addressBits(family) / 8;
  const offset = ADDRESS_OFFSET[family][side];
  return {
    text: `${family === 4 ? 'ip' : 'ip6'} ${side} ${block}`,
    code: [
      expression('payload', ...numbers(REGISTER, NFT_PAYLOAD_NETWORK_HEADER, offset, length)),
      ...compareBlock(family, block, EQUAL),
    ],
  };
}

/** Compares the address in the register with a block. */
function compareBlock(family: Family, block: Prefix, operator: number): Buffer[] {
  const length = prefixLength(block);
  const mask = netmask(family, length);
  const whole = length === addressBits(family);
  return [
    ...(whole ? [] : [bitwise(mask, Buffer.alloc(mask.length))]),
    compare(addressBytes(networkAddress(block)), operator),
  ];
}

/** An end of the connection: its source, or the source of its answers, which is its translated destination. */
const loadEnd = (family: Family, direction: Direction): Buffer =>
  expression('ct', ...numbers(REGISTER, CT_SOURCE[family]), attribute(3, u8(DIRECTION[direction])));
const endText = (family: Family, direction: Direction): string =>
  `ct ${direction} ${family === 4 ? 'ip' : 'ip6'} saddr`;

/** The octets of a netmask. */
function netmask(family: Family, length: number): Buffer {
  const bytes = Buffer.alloc(addressBits(family) / 8);
  for (let bit = 0; bit < length; bit++) bytes[bit >> 3]! |= 0x80 >> (bit & 7);
  return bytes;
}

/** An end of the connection is in a block. */
export const isIn = (family: Family, direction: Direction, block: Prefix, wanted = true): Part => ({
  text: `${endText(family, direction)} ${wanted ? '' : '!= '}${block}`,
  code: [loadEnd(family, direction), ...compareBlock(family, block, wanted ? EQUAL : NOT_EQUAL)],
});

/** An end of the connection is in a set. */
export const isInSet = (family: Family, direction: Direction, set: string, wanted: boolean): Part => ({
  text: `${endText(family, direction)} ${wanted ? '' : '!= '}@${set}`,
  code: [
    loadEnd(family, direction),
    expression(
      'lookup',
      attribute(1, zeroEnded(set)),
      ...numbers(undefined, REGISTER),
      ...(wanted ? [] : [attribute(5, u32Be(LOOKUP_INVERTED))]),
    ),
  ],
});

/** The verdict of a map from addresses. */
export const byEnd = (family: Family, direction: Direction, map: string): Part => ({
  text: `${endText(family, direction)} vmap @${map}`,
  code: [loadEnd(family, direction), lookUp(map)],
});

const lookUp = (map: string): Buffer =>
  expression(
    'lookup',
    attribute(1, zeroEnded(map)),
    ...numbers(undefined, REGISTER),
    attribute(3, u32Be(VERDICT_REGISTER)),
  );

export const counter: Part = { text: 'counter', code: [expression('counter')] };
export const counterOf = (mark: number): Part => ({ ...counter, mark });

const verdict = (code: number, chain?: string): Buffer =>
  expression('immediate', ...numbers(VERDICT_REGISTER), nftVerdict(2, code, chain));
export const accept: Part = { text: 'accept', code: [verdict(NF_ACCEPT)] };
export const drop: Part = { text: 'drop', code: [verdict(NF_DROP)] };
export const goTo = (chain: string): Part => ({
  text: `goto ${chain}`,
  code: [verdict(NFT_GOTO >>> 0, chain)],
});

/** The verdict of a map's element. */
export const gotoData = (chain: string): Buffer => nftVerdict(2, NFT_GOTO >>> 0, chain);
