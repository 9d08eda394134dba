/**
 * Numbers groups of flows by a key of octets, outside the heap: a full table may have as many groups as flows, and an
 * object or a string for each would be more than the thread has memory for. Pure.
 *
 * A key is known by 64 bits of its hash alone: that two of 65 536 share them happens once in ten thousand million
 * times.
 */

const FIRST_SLOTS = 1024;
/** A slot: two hashes of the key, and the number of its group, from 1; 0 when it is free. */
const WORDS = 3;

export class Groups {
  /** How many there are. */
  size = 0;
  #slots = new Uint32Array(FIRST_SLOTS * WORDS);

  /** The number of the key's group, from 0 in the order in which they came. */
  numberOf(key: Uint8Array): number {
    // FNV-1a with two primes.
    let a = 0x811c9dc5;
    let b = 0x9747b28c;
    for (let i = 0; i < key.length; i++) {
      a = Math.imul(a ^ key[i]!, 0x01000193);
      b = Math.imul(b ^ key[i]!, 0x85ebca6b);
    }
    b ^= b >>> 15;
    const slots = this.#slots;
    const at = find(slots, a >>> 0, b >>> 0);
    if (slots[at + 2] !== 0) return slots[at + 2]! - 1;
    slots.set([a, b, ++this.size], at);
    if (this.size * WORDS * 2 > slots.length) this.#grow();
    return this.size - 1;
  }

  #grow(): void {
    const old = this.#slots;
    const slots = new Uint32Array(2 * old.length);
    for (let at = 0; at < old.length; at += WORDS) {
      if (old[at + 2] !== 0) slots.set(old.subarray(at, at + WORDS), find(slots, old[at]!, old[at + 1]!));
    }
    this.#slots = slots;
  }
}

/** Where the slot of two hashes is, or the free one where it belongs. */
function find(slots: Uint32Array, a: number, b: number): number {
  const count = slots.length / WORDS;
  for (let slot = (a ^ b) & (count - 1); ; slot = (slot + 1) & (count - 1)) {
    const at = slot * WORDS;
    if (slots[at + 2] === 0 || (slots[at] === a && slots[at + 1] === b)) return at;
  }
}
