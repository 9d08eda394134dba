/**
 * A copy of an ASCII string in one piece. V8 keeps one that was put together or cut out as references to its parts: of
 * ten thousand addresses these take twice the memory of the text, or keep the whole output that they were cut from.
 * Pure.
 */
export const flatText = <T extends string>(text: T): T => Buffer.from(text, 'latin1').toString('latin1') as T;
