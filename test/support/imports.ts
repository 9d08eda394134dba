/** The import statements of the sources, for the rules (test/imports.test.ts) and the picture (test/support/picture.ts). */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../..', import.meta.url));
export const AREAS = ['agent', 'bfd', 'lib', 'nat', 'routing', 'shaping'] as const;

/** The source files, by their path from the root. */
export const sources = AREAS.flatMap((area) =>
  readdirSync(join(ROOT, area), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => `${area}/${name}`),
).sort();

export interface Import {
  /** The file of ours, by its path from the root, or the name of a package or `node:` module. */
  target: string;
  ours: boolean;
  /** Nothing of it is there at run time. */
  typeOnly: boolean;
}

/** A source without comments. Strings of ours do not hold comment marks after a blank or at a line's start. */
export const withoutComments = (text: string): string =>
  text.replace(/(^|\s)\/\*.*?\*\//gs, '$1').replace(/(^|\s)\/\/.*$/gm, '$1');

export function importsOf(file: string, text: string): Import[] {
  const found: Import[] = [];
  const add = (specifier: string, typeOnly: boolean) => {
    const ours = specifier.startsWith('.');
    const target = ours ? normalize(join(dirname(file), specifier)) : specifier;
    found.push({ target, ours, typeOnly });
  };
  const code = withoutComments(text);
  for (const [, typeWord, clause = '', specifier = ''] of code.matchAll(
    /^(?:import|export)\s+(type\s)?([^'";=()]*?)\bfrom\s*['"]([^'"]+)['"]/gm,
  )) {
    const names = /^\s*\{([^}]*)\}\s*$/
      .exec(clause)?.[1]
      ?.split(',')
      .map((name) => name.trim());
    const allTypes = names?.filter(Boolean).every((name) => name.startsWith('type ')) ?? false;
    add(specifier, typeWord !== undefined || allTypes);
  }
  for (const [, specifier = ''] of code.matchAll(/^import\s*['"]([^'"]+)['"]/gm)) add(specifier, false);
  for (const [, specifier = ''] of code.matchAll(/\bimport\(\s*['"]([^'"]+)['"]/g)) add(specifier, false);
  return found;
}

export const texts = new Map(sources.map((file) => [file, readFileSync(join(ROOT, file), 'utf8')]));
export const imports = new Map(sources.map((file) => [file, importsOf(file, texts.get(file)!)]));
