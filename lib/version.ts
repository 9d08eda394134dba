/** The version, from package.json. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** package.json is one level up from the sources, and two levels up from dist/. */
function readVersion(): string {
  for (const up of ['..', '../..']) {
    try {
      const text = readFileSync(join(import.meta.dirname, up, 'package.json'), 'utf8');
      return (JSON.parse(text) as { version: string }).version;
    } catch {
      // not here
    }
  }
  throw new Error('package.json is missing beside the program');
}

export const VERSION = readVersion();
