/**
 * How large a policy may be. By itself, because the agent process needs these without the parser, which it loads when there
 * are documents (source.ts). Pure.
 */

/** A file, or all of them, in octets, without what the sieve leaves out: what a ConfigMap cannot hold by far. */
export const MAX_FILE_SIZE = 4 << 20;
export const MAX_SET_SIZE = 8 << 20;
/** And with it. */
export const MAX_RAW_SIZE = 64 << 20;
/** Of files that together are no larger everything is read and checked, also what has no effect. */
export const SMALL_SET = 32 << 10;
/** The YAML tokens (see `Budget` of parse.ts) that a policy of thousands of rules needs. */
export const DEFAULT_TOKENS = 300_000;
