/** Counters of the kernel that have 32 bits: after 2^32 they begin at 0 again. Sums of such, as over processors, likewise. Pure. */

const SIZE = 2 ** 32;

/**
 * By how much a counter has grown. One that is less than before has gone past 2^32, or was made anew and began at 0: then it
 * would have to have grown by most of 2^32.
 */
export function increase(now: number, last: number): number {
  if (now >= last) return now - last;
  const past = (now - last) >>> 0;
  return past < SIZE / 2 ? past : now;
}

/** Reads a counter that goes on past 2^32. It begins with what is first read. */
export function unending(read: () => number | undefined): () => number | undefined {
  let last = 0;
  let total = 0;
  return () => {
    const now = read();
    if (now === undefined) return undefined;
    total += increase(now, last);
    last = now;
    return total;
  };
}
