/**
 * Secrets from key files. After a file has changed, its previous secret is accepted for a while, so that both ends
 * can change theirs without the session going down.
 */

import { readMounted } from '../lib/files.ts';
import { LogOnChange } from '../lib/log-on-change.ts';
import { type AuthKey, longestSecret } from './auth.ts';
import type { AuthIntent } from './intent.ts';

/** Octets of a key file that are read: more than a secret takes, so that the error names the size. */
const MAX_SIZE = 4096;
/** How long the previous key is accepted, microseconds: longer than a kubelet takes to refresh a Secret. */
const GRACE = 150_000_000;

/** Reads a secret: the octets of the file, without a line end. Throws with a message that does not hold it. */
export function readKey({ type, keyId, keyFile }: AuthIntent): AuthKey {
  let bytes = readMounted(keyFile, MAX_SIZE);
  while (bytes.at(-1) === 0x0a || bytes.at(-1) === 0x0d) bytes = bytes.subarray(0, -1);
  const longest = longestSecret(type);
  if (bytes.length === 0) throw new Error(`${keyFile} is empty`);
  if (bytes.length > longest) {
    throw new Error(`${keyFile} holds ${bytes.length} octets; ${type} takes at most ${longest}`);
  }
  return { type, id: keyId, secret: Uint8Array.from(bytes) };
}

/** Reads each file once, for sessions that share it. For one round of `KeyRing.refresh`. */
export function keyReader(): (auth: AuthIntent) => AuthKey {
  const read = new Map<string, AuthKey>();
  return (auth) => {
    const id = `${auth.type} ${auth.keyId} ${auth.keyFile}`;
    const key = read.get(id) ?? readKey(auth);
    read.set(id, key);
    return key;
  };
}

const sameKey = (a: AuthKey, b: AuthKey): boolean =>
  a.type === b.type && a.id === b.id && Buffer.compare(a.secret, b.secret) === 0;

/** The keys of one session, the current one first. */
export class KeyRing {
  #keys: readonly AuthKey[] = [];
  #previousUntil = 0;
  readonly #failures = new LogOnChange();

  /** The keys to accept, an empty list while none could be read. The list stays the same until it changes. */
  get keys(): readonly AuthKey[] {
    return this.#keys;
  }

  /** Reads the file again. Returns an error message when it cannot be read, once for each cause. */
  refresh(auth: AuthIntent, now: number, read: (auth: AuthIntent) => AuthKey = readKey): string | undefined {
    if (this.#keys.length > 1 && now > this.#previousUntil) this.#keys = this.#keys.slice(0, 1);
    try {
      const key = read(auth);
      this.#failures.ended();
      const current = this.#keys[0];
      if (current !== undefined && sameKey(current, key)) return undefined;
      this.#keys = current === undefined ? [key] : [key, current];
      this.#previousUntil = now + GRACE;
      return undefined;
    } catch (error) {
      const { message } = error as Error;
      return this.#failures.isNew(message) ? message : undefined;
    }
  }
}
