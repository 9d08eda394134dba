/** The checks of the formats, with a limit for what is reported of a document. Pure. */
import { FORMATS } from './formats.ts';

/** Texts of a wrong form that are reported of one document. */
export const MAX_MISFITS = 1000;

let misfits = 0;

/** Begins the next document. */
export function resetMisfits(): void {
  misfits = 0;
}

/** A list that is wrong throughout does not get an error object for each of its 100 000 items. */
export const FORMAT_TESTS: Readonly<Record<string, (text: string) => boolean>> = Object.fromEntries(
  Object.entries(FORMATS).map(([name, { test }]) => [
    name,
    (text: string) => test(text) || ++misfits > MAX_MISFITS,
  ]),
);
