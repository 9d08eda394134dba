/** Which prefixes contain an address. Pure. */
import {
  addressBytes,
  type Family,
  familyOf,
  networkAddress,
  type Prefix,
  prefixLength,
} from '../lib/prefix.ts';

/** The leading bits of an address, as a key. */
function leadingBits(address: Uint8Array, length: number): string {
  const whole = length >> 3;
  let key = '';
  for (let i = 0; i < whole; i++) key += String.fromCharCode(address[i]!);
  const rest = length & 7;
  return rest === 0 ? key : key + String.fromCharCode(address[whole]! & (0xff00 >> rest));
}

/** Finds the prefixes that contain an address, each with a number. A search costs one step for each length that occurs. */
export class PrefixMatcher {
  readonly #lengths: Record<Family, Map<number, Map<string, number | number[]>>> = {
    4: new Map(),
    6: new Map(),
  };

  add(prefix: Prefix, value: number): void {
    const lengths = this.#lengths[familyOf(prefix)];
    const length = prefixLength(prefix);
    let keys = lengths.get(length);
    if (keys === undefined) {
      keys = new Map();
      lengths.set(length, keys);
    }
    const key = leadingBits(addressBytes(networkAddress(prefix)), length);
    const known = keys.get(key);
    if (known === undefined) keys.set(key, value);
    else if (typeof known === 'number') keys.set(key, [known, value]);
    else known.push(value);
  }

  /** The numbers of all prefixes that contain the address, the smallest first. */
  find(address: Uint8Array): number[] {
    const found: number[] = [];
    for (const [length, keys] of this.#lengths[address.length === 4 ? 4 : 6]) {
      const value = keys.get(leadingBits(address, length));
      if (typeof value === 'number') found.push(value);
      else if (value !== undefined) found.push(...value);
    }
    return found.sort((a, b) => a - b);
  }

  /** Whether any prefix contains the address. */
  has(address: Uint8Array): boolean {
    for (const [length, keys] of this.#lengths[address.length === 4 ? 4 : 6]) {
      if (keys.has(leadingBits(address, length))) return true;
    }
    return false;
  }
}

/** A matcher of these prefixes; undefined for an empty list. */
export function prefixMatcher(prefixes: readonly Prefix[] = []): PrefixMatcher | undefined {
  if (prefixes.length === 0) return undefined;
  const matcher = new PrefixMatcher();
  for (const prefix of prefixes) matcher.add(prefix, 0);
  return matcher;
}
