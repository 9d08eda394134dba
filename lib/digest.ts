/**
 * Texts that are compared with earlier ones, kept short. node:crypto is loaded for long ones only: it takes an interpreter 10 ms
 * and 1 MiB.
 */

/** A text up to this length, characters, is kept as it is. */
const SHORT = 4096;

/** Equal texts have equal digests, and others have others. */
export function digest(text: string): string {
  if (text.length <= SHORT) return `=${text}`;
  return process.getBuiltinModule('node:crypto').createHash('sha256').update(text).digest('base64');
}
