/** Which blocks lie in which, for many blocks at once. Two CIDRs are disjoint or one holds the other. Pure. */
import { around, type Family, familyOf, type Prefix, prefixLength } from '../../lib/prefix.ts';

/** Prefixes with a value each, that can be asked which of them hold another one. The first value stays. */
export class PrefixIndex<Value> {
  readonly #values = new Map<Prefix, Value>();
  readonly #lengths: Record<Family, Set<number>> = { 4: new Set(), 6: new Set() };

  add(prefix: Prefix, value: Value): void {
    if (this.#values.has(prefix)) return;
    this.#values.set(prefix, value);
    this.#lengths[familyOf(prefix)].add(prefixLength(prefix));
  }

  /** The values of all prefixes that hold this one wholly, in no order. */
  *holding(prefix: Prefix): Generator<Value> {
    const own = prefixLength(prefix);
    for (const length of this.#lengths[familyOf(prefix)]) {
      if (length > own) continue;
      const value = this.#values.get(around(prefix, length));
      if (value !== undefined) yield value;
    }
  }
}

/** The blocks that hold one of some prefixes wholly, or are it. */
export function holders(blocks: readonly Prefix[], held: readonly Prefix[]): Set<Prefix> {
  const all = new Set(blocks);
  const lengths = [...new Set(blocks.map(prefixLength))];
  const found = held.flatMap((prefix) =>
    lengths.filter((length) => length <= prefixLength(prefix)).map((length) => around(prefix, length)),
  );
  return new Set(found.filter((block) => all.has(block)));
}
