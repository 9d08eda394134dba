/** The comparison of bfd.ts while a process on every core never sleeps. */
import { compare } from './bfd.ts';

export const part = compare(true);
