/** Blocks of addresses for policies: many, of the same size, none inside another. Pure. */

/** The i-th block; `generation` 0, 1 and 2 give others. */
export const block = (i: number, generation = 0): string =>
  `10.${64 + generation * 64 + (i >> 12)}.${(i >> 4) & 0xff}.${(i & 0xf) << 4}/28`;

export const blocks = (count: number, generation = 0): string[] =>
  Array.from({ length: count }, (_, i) => block(i, generation));
