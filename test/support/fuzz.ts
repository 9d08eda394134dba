/** Damage for files: what a disk, a bug or somebody with bad intentions makes of their content. */

/** Numbers in [0, 1) that are the same in every run (mulberry32). */
export function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Values that no field expects. */
const STRANGE: readonly unknown[] = [
  ...[null, true, false, '', 'x', '../../../etc/passwd', '__proto__', '\0', 'é'.repeat(5000)],
  ...[0, -1, 0.5, 1e-300, 1e300, 2 ** 31, 2 ** 32, 2 ** 53, -(2 ** 53), Number.MAX_VALUE],
  ...[[], {}, [[]], [null], { length: 1e9 }, { toString: 1 }, Array(1000).fill({})],
];

const deep = (levels: number, value: unknown): unknown => {
  let made = value;
  for (let i = 0; i < levels; i++) made = i % 2 === 0 ? [made] : { a: made };
  return made;
};

/** A copy with one value changed, taken away, doubled or put elsewhere. */
export function mutateValue(value: unknown, random: () => number): unknown {
  const copy = structuredClone({ value }) as Record<string, unknown>;
  const places: [Record<string, unknown>, string][] = [];
  const walk = (holder: Record<string, unknown>): void => {
    for (const name of Object.keys(holder)) {
      places.push([holder, name]);
      const inner = holder[name];
      if (typeof inner === 'object' && inner !== null) walk(inner as Record<string, unknown>);
    }
  };
  walk(copy);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
  const [holder, name] = pick(places);
  const [other, otherName] = pick(places);
  const kind = random();
  if (kind < 0.6) holder[name] = structuredClone(pick(STRANGE));
  else if (kind < 0.7) delete holder[name];
  else if (kind < 0.8) holder[name] = structuredClone(other[otherName]);
  else if (kind < 0.9) holder[pick(STRANGE.filter((one) => typeof one === 'string'))] = holder[name];
  else if (Array.isArray(holder)) holder.push(structuredClone(holder[name as unknown as number]));
  else holder[name] = deep(500, holder[name]);
  return copy.value;
}

/** A copy with some octets flipped, cut out, repeated, put in, or its end gone. */
export function mutateOctets(octets: Buffer, random: () => number): Buffer {
  const at = Math.floor(random() * octets.length);
  const length = Math.floor(random() * Math.min(300, octets.length - at));
  const kind = random();
  if (kind < 0.2) return octets.subarray(0, at);
  if (kind < 0.3) return Buffer.concat([octets.subarray(0, at), octets.subarray(at + length)]);
  if (kind < 0.4) return Buffer.concat([octets.subarray(0, at + length), octets.subarray(at)]);
  const copy = Buffer.from(octets);
  if (kind < 0.6) {
    for (let i = at; i < at + length; i++) copy[i] = Math.floor(random() * 256);
    return copy;
  }
  for (let i = 0; i < 1 + length / 30; i++) copy[Math.floor(random() * copy.length)]! ^= 1 << (random() * 8);
  return copy;
}
