/** Which blocks lie in which, for many blocks at once. Two CIDRs are disjoint or one holds the other. */
import {
  addressBits,
  addressNumber,
  type Family,
  familyOf,
  networkAddress,
  type Prefix,
  prefixLength,
} from '../../routing/prefix.ts';

/** Prefixes with a value each, that can be asked which of them hold another one. The first value stays. */
export class PrefixIndex<Value> {
  /** By family and length, the network numbers. */
  readonly #lengths: Record<Family, Map<number, Map<bigint, Value>>> = { 4: new Map(), 6: new Map() };

  add(prefix: Prefix, value: Value): void {
    const length = prefixLength(prefix);
    const lengths = this.#lengths[familyOf(prefix)];
    const networks = lengths.get(length) ?? new Map<bigint, Value>();
    lengths.set(length, networks);
    const network = networkBits(prefix, length);
    if (!networks.has(network)) networks.set(network, value);
  }

  /** The values of all prefixes that hold this one wholly, in no order. */
  *holding(prefix: Prefix): Generator<Value> {
    for (const [length, networks] of this.#lengths[familyOf(prefix)]) {
      if (length > prefixLength(prefix)) continue;
      const value = networks.get(networkBits(prefix, length));
      if (value !== undefined) yield value;
    }
  }
}

/** The first `length` bits of a prefix's address. */
const networkBits = (prefix: Prefix, length: number): bigint =>
  addressNumber(networkAddress(prefix)) >> BigInt(addressBits(familyOf(prefix)) - length);
