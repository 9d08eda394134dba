/** Spidernet's pools of egress addresses: single addresses, ranges `a-b` and CIDRs, of one family each. Pure. */
import {
  type Address,
  addressBits,
  addressNumber,
  type Family,
  familyOf,
  networkAddress,
  parseAddress,
  parsePrefix,
  prefixLength,
} from '../../../lib/prefix.ts';

/** Consecutive addresses, inclusive, as numbers. */
interface Range {
  first: bigint;
  last: bigint;
}

/** Parses an item of a pool of a family; a string is the error. */
export function parsePoolItem(text: string, family: Family): Range | string {
  const [from, to, more] = text.split('-').map((part) => part.trim());
  if (to === undefined) return parseCidr(text, family);
  const first = parseAddress(from!);
  const last = parseAddress(to);
  if (first === undefined || last === undefined || more !== undefined) return 'is not a range of addresses';
  if (familyOf(first) !== familyOf(last)) return 'is a range from one address family to the other';
  if (familyOf(first) !== family) return `is not IPv${family}`;
  const range = { first: addressNumber(first), last: addressNumber(last) };
  return range.first <= range.last ? range : 'is a range that ends before it begins';
}

/** The addresses of a CIDR; an IPv4 one of more than two loses the first and the last. */
function parseCidr(text: string, family: Family): Range | string {
  const prefix = parsePrefix(text);
  if (prefix === undefined) return 'is not an address, a range or a CIDR';
  if (familyOf(prefix) !== family) return `is not IPv${family}`;
  const first = addressNumber(networkAddress(prefix));
  const size = 1n << BigInt(addressBits(family) - prefixLength(prefix));
  const edges = family === 4 && size > 2n ? 1n : 0n;
  return { first: first + edges, last: first + size - 1n - edges };
}

/** The number of different addresses in ranges. */
export function poolSize(ranges: readonly Range[]): bigint {
  let total = 0n;
  let end = -1n;
  for (const { first, last } of ranges.toSorted((a, b) => (a.first < b.first ? -1 : 1))) {
    const from = first > end ? first : end + 1n;
    if (last < from) continue;
    total += last - from + 1n;
    end = last;
  }
  return total;
}

/** Whether an address is in ranges of its family. */
export function inPool(ranges: readonly Range[], address: Address): boolean {
  const number = addressNumber(address);
  return ranges.some(({ first, last }) => first <= number && number <= last);
}
