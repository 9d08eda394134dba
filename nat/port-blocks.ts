/**
 * Port blocks: each source has a block of ports of an egress address for itself, which follows from the policy
 * alone (deterministic NAT, RFC 7422), so that a translation is known without a record of it.
 *
 *     n  the place of the source: the addresses of all blocks of sources, in the order of the policy, from 0
 *     B  = 64512 div size, the blocks that an egress address has
 *     its address is number n div B of the egress addresses, its first port 1024 + (n mod B) · size
 *
 * Pure.
 */
import {
  type Address,
  addressBits,
  addressBytes,
  addressFromBytes,
  type Family,
  familyOf,
  networkAddress,
  type Prefix,
  prefixLength,
} from '../lib/prefix.ts';
import { PrefixMatcher } from './prefix-matcher.ts';

/** The ports that are divided: those that a source below 1024 does not get from NAT either. */
export const FIRST_PORT = 1024;
export const BLOCK_PORTS = 65_536 - FIRST_PORT;

/** The most sources that the blocks of a policy are made for: each is an element in the kernel. */
export const MAX_BLOCKS = 1 << 20;

/**
 * The protocols (IP protocol numbers) whose ports are divided: ICMP's identifiers serve as ports. Of any other the
 * source gets its egress address only.
 */
const DIVIDED = new Set([1, 6, 17, 33, 58, 132, 136]);
export const isDivided = (protocol: number): boolean => DIVIDED.has(protocol);

/** A policy's port blocks, in one family. */
export interface PortBlocks {
  /** Disjoint, in the order of the policy. */
  sources: readonly Prefix[];
  /** The egress addresses, in the order of the policy, each once. */
  addresses: readonly Address[];
  /** Ports in a block, 1 to `BLOCK_PORTS`. */
  size: number;
}

/** The ports of a source, the last included. */
export interface PortBlock {
  address: Address;
  first: number;
  last: number;
}

/** How many blocks this number of egress addresses has. */
export const capacity = (addresses: number, size: number): number =>
  addresses * Math.floor(BLOCK_PORTS / size);

/** The number of addresses in blocks; inexact, but never too small, above 2^53. */
export const sourceCount = (sources: readonly Prefix[]): number =>
  sources.reduce((sum, source) => sum + 2 ** (addressBits(familyOf(source)) - prefixLength(source)), 0);

/** The octets of an address; dotted decimal without the general parser, which 100 000 sources would wait for. */
const octets = (address: Address): Uint8Array =>
  address.includes(':') ? addressBytes(address) : Uint8Array.from(address.split('.'), Number);

const toNumber = (bytes: Uint8Array): bigint =>
  bytes.reduce((value, byte) => (value << 8n) | BigInt(byte), 0n);

function toAddress(value: bigint, family: Family): Address {
  const bytes = new Uint8Array(addressBits(family) / 8);
  let rest = value;
  for (let i = bytes.length - 1; i >= 0; i--, rest >>= 8n) bytes[i] = Number(rest & 0xffn);
  return addressFromBytes(bytes);
}

/** The block of the source in place `n`; undefined when there are not as many. */
export function blockAt({ addresses, size }: PortBlocks, n: number): PortBlock | undefined {
  const each = Math.floor(BLOCK_PORTS / size);
  const address = addresses[Math.floor(n / each)];
  if (address === undefined) return undefined;
  const first = FIRST_PORT + (n % each) * size;
  return { address, first, last: first + size - 1 };
}

/** The block of one source; undefined when it has none. */
export function blockOf(blocks: PortBlocks, source: Address): PortBlock | undefined {
  const wanted = toNumber(octets(source));
  let before = 0;
  for (const prefix of blocks.sources) {
    if (familyOf(prefix) !== familyOf(source)) return undefined;
    const count = sourceCount([prefix]);
    const offset = wanted - toNumber(octets(networkAddress(prefix)));
    if (offset >= 0n && offset < BigInt(count)) return blockAt(blocks, before + Number(offset));
    before += count;
  }
  return undefined;
}

/** Tells the blocks of many sources. */
export class BlockIndex {
  readonly #blocks: PortBlocks;
  readonly #prefixes = new PrefixMatcher();
  /** Of each block of sources its first address, and the number of sources before it. */
  readonly #starts: { first: bigint; before: number }[] = [];

  constructor(blocks: PortBlocks) {
    this.#blocks = blocks;
    let before = 0;
    for (const [i, source] of blocks.sources.entries()) {
      this.#prefixes.add(source, i);
      this.#starts.push({ first: toNumber(octets(networkAddress(source))), before });
      before += sourceCount([source]);
    }
  }

  /** The block of the source with these octets; undefined when it has none. */
  blockOf(source: Uint8Array): PortBlock | undefined {
    const [i] = this.#prefixes.find(source);
    if (i === undefined) return undefined;
    const { first, before } = this.#starts[i]!;
    return blockAt(this.#blocks, before + Number(toNumber(source) - first));
  }
}

/** The source that has this port of an egress address, and its block; undefined when it has none. */
export function sourceOf(
  blocks: PortBlocks,
  external: Address,
  port: number,
): { source: Address; block: PortBlock } | undefined {
  const each = Math.floor(BLOCK_PORTS / blocks.size);
  const at = blocks.addresses.indexOf(external);
  const inAddress = Math.floor((port - FIRST_PORT) / blocks.size);
  if (at < 0 || inAddress < 0 || inAddress >= each) return undefined;
  const n = at * each + inAddress;
  let before = 0;
  for (const block of blocks.sources) {
    const count = sourceCount([block]);
    if (n < before + count) {
      const source = toNumber(octets(networkAddress(block))) + BigInt(n - before);
      return { source: toAddress(source, familyOf(block)), block: blockAt(blocks, n)! };
    }
    before += count;
  }
  return undefined;
}

/** Every source as octets, with its block, in order. The octets are good until the next one. */
export function* eachBlock(blocks: PortBlocks): Generator<{ source: Uint8Array; block: PortBlock }> {
  let n = 0;
  for (const prefix of blocks.sources) {
    const source = octets(networkAddress(prefix));
    for (let left = sourceCount([prefix]); left > 0; left--) {
      const block = blockAt(blocks, n++);
      if (block === undefined) return;
      yield { source, block };
      let i = source.length - 1;
      while (i > 0 && source[i] === 0xff) source[i--] = 0;
      source[i]! += 1;
    }
  }
}
