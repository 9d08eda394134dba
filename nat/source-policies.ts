/** Which policies speak about each source, where blocks of sources lie in each other. Pure. */
import { addressNumber, type Family, networkAddress, type Prefix, prefixLength } from '../lib/prefix.ts';

/** The first and last address of a block as numbers; for IPv4 without the cost of big ones. */
function bounds(block: Prefix, family: Family): { first: number | bigint; last: number | bigint } {
  const length = prefixLength(block);
  if (family === 6) {
    const first = addressNumber(networkAddress(block));
    return { first, last: first | ((1n << BigInt(128 - length)) - 1n) };
  }
  const first = networkAddress(block)
    .split('.')
    .reduce((value, octet) => value * 256 + Number(octet), 0);
  return { first, last: first + 2 ** (32 - length) - 1 };
}

/** Two ascending lists as one, without repetitions. */
export const merged = (a: readonly number[], b: readonly number[]): readonly number[] =>
  a.length === 0 ? b : b.length === 0 ? a : [...new Set([...a, ...b])].sort((x, y) => x - y);

/**
 * The sources of all policies, each with the policies whose blocks it lies in (itself included), in order. Sources
 * that have but one policy share the list.
 */
export function policiesOfSources(
  policies: readonly { sources: readonly Prefix[] }[],
  family: Family,
): Map<Prefix, readonly number[]> {
  const own = new Map<Prefix, readonly number[]>();
  policies.forEach(({ sources }, i) => {
    const alone = [i];
    for (const source of sources) {
      const list = own.get(source);
      own.set(source, list === undefined ? alone : merged(list, alone));
    }
  });
  const sorted = [...own]
    .map(([source, list]) => ({ source, list, ...bounds(source, family) }))
    .sort((a, b) => (a.first < b.first ? -1 : a.first > b.first ? 1 : a.last > b.last ? -1 : 1));
  const lists = new Map<Prefix, readonly number[]>();
  /** The blocks around the current one, each with its whole list. */
  const around: { last: number | bigint; list: readonly number[] }[] = [];
  for (const block of sorted) {
    while (around.length > 0 && around.at(-1)!.last < block.first) around.pop();
    const list = merged(around.at(-1)?.list ?? [], block.list);
    lists.set(block.source, list);
    around.push({ last: block.last, list });
  }
  return lists;
}
