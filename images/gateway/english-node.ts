/**
 * Leaves out of Node what the programs of the image never ask ICU for: `node images/gateway/english-node.ts PROGRAM` changes that
 * copy of Node in place. Locales other than English and the dictionaries that break lines of Asian scripts are taken off the
 * table of contents of its ICU data, as ICU's own `icupkg --remove` does, and their octets become zero: they compress to nothing,
 * and no address moves. Node then behaves as one built with `--with-intl=small-icu`. Throws where the data is not as expected.
 */
import { readFileSync, writeFileSync } from 'node:fs';

/** An item of ICU's data: its entry in the table of contents, relative to the table, and its name. */
interface Item {
  nameAt: number;
  dataAt: number;
  name: string;
}

/** ICU's header of a common data file (udata.h): two octets with its size, the magic number, and 8 later the format. */
const MAGIC = Buffer.from([0xda, 0x27]);
const MAGIC_AT = 2;
const FORMAT = Buffer.from('CmnD');
const FORMAT_AT = 12;

/** Octets of an entry of the table of contents, which begins with their number. */
const ENTRY = 8;
const COUNT = 4;

/** Resources of a locale (`de.res`, `lang/zh_Hant_TW.res`) and what they have in common; the rest is of no language. */
const LOCALE = /^(?:[a-z]+\/)?[a-z]{2,3}(?:_[A-Za-z0-9_]+)?\.res$/;
const KEPT = /^(?:[a-z]+\/)?(?:en(?:_US(?:_POSIX)?|_001)?|res_index)\.res$/;
/** Dictionaries, encodings other than Unicode's and Latin 1, transliteration, profiles of stringprep. */
const OTHERS = /^(?:brkitr\/.*\.dict|translit\/.*|.*\.(?:cnv|spp))$/;

/** Whether an item of that name, without the name of the package, is left out. */
const isForeign = (name: string): boolean => OTHERS.test(name) || (LOCALE.test(name) && !KEPT.test(name));

/** Where the table of contents begins. */
function findTable(program: Buffer): number {
  for (let at = program.indexOf(FORMAT); at >= 0; at = program.indexOf(FORMAT, at + 1)) {
    const start = at - FORMAT_AT;
    if (start >= 0 && program.subarray(start + MAGIC_AT).indexOf(MAGIC) === 0) {
      return start + program.readUInt16LE(start);
    }
  }
  throw new Error('no ICU data in this program');
}

function readItems(table: Buffer): Item[] {
  return Array.from({ length: table.readUInt32LE(0) }, (_, i) => {
    const nameAt = table.readUInt32LE(COUNT + ENTRY * i);
    const name = table.toString('latin1', nameAt, table.indexOf(0, nameAt));
    return {
      nameAt,
      dataAt: table.readUInt32LE(COUNT + ENTRY * i + 4),
      name: name.slice(name.indexOf('/') + 1),
    };
  });
}

/** Removes the foreign items. Returns how many octets became zero. */
export function removeForeign(program: Buffer): number {
  const table = program.subarray(findTable(program));
  const items = readItems(table);
  const ordered = items.toSorted((a, b) => a.dataAt - b.dataAt);
  let zeroed = 0;
  for (const [i, { name, dataAt }] of ordered.entries()) {
    const next = ordered[i + 1];
    // Nothing says where the last item ends.
    if (next === undefined || !isForeign(name)) continue;
    table.fill(0, dataAt, next.dataAt);
    zeroed += next.dataAt - dataAt;
  }
  const kept = items.filter(({ name }) => !isForeign(name));
  if (kept.length === items.length || !kept.some(({ name }) => name === 'root.res')) {
    throw new Error('the ICU data of this program is not laid out as expected');
  }
  table.writeUInt32LE(kept.length, 0);
  table.fill(0, COUNT, COUNT + ENTRY * items.length);
  for (const [i, { nameAt, dataAt }] of kept.entries()) {
    table.writeUInt32LE(nameAt, COUNT + ENTRY * i);
    table.writeUInt32LE(dataAt, COUNT + ENTRY * i + 4);
  }
  return zeroed;
}

if (import.meta.main) {
  const [file] = process.argv.slice(2);
  if (file === undefined) throw new Error('usage: node images/gateway/english-node.ts PROGRAM');
  const program = readFileSync(file);
  removeForeign(program);
  writeFileSync(file, program);
}
