/**
 * Validates one document against the schema of its kind. Messages are for its author. Pure.
 */
import type { ErrorObject, ValidateFunction } from 'ajv';
import { resetMisfits } from './format-tests.ts';
import { FORMATS } from './formats.ts';
import type { Schema } from './json-schema.ts';
import type { Kind } from './kinds.ts';
import type { Path } from './parse.ts';
import { closest, describe, quote } from './quote.ts';
import { validatorOf } from './validators.ts';

/** An error in a document; `at`: whether its place is that of the key or of the value. */
export interface Violation {
  /** The field that is wrong or missing. */
  path: (string | number)[];
  /** What to point at in the text, when it is not `path` itself: of a missing field, what it is missing in. */
  where?: Path;
  at: 'key' | 'value';
  message: string;
}

/**
 * Checks a document. What is wrong is taken out of `value` (a list keeps its indices, with a hole), so that
 * what is left has the types of its kind and the rest can still be checked; with `MAX_MISFITS` violations or more it
 * is unusable.
 */
export const validate = (kind: Kind, value: unknown): Violation[] => violationsOf(validatorOf(kind), value);

/** The same with a given validator. */
export function violationsOf(check: ValidateFunction, value: unknown): Violation[] {
  resetMisfits();
  if (check(value)) return [];
  const errors = check.errors!;
  const violations = errors.map((error) => violation(error, value));
  for (const [i, { keyword }] of errors.entries()) {
    if (keyword !== 'required') remove(value, violations[i]!.path);
  }
  return violations;
}

function violation(error: ErrorObject, root: unknown): Violation {
  const path = pointerPath(error.instancePath, root);
  if (error.keyword === 'required') {
    const missing = error.params.missingProperty as string;
    return { path: [...path, missing], where: path, at: 'key', message: 'this field is required' };
  }
  if (error.keyword === 'additionalProperties') {
    const unknown = error.params.additionalProperty as string;
    const known = Object.keys((error.parentSchema as Schema).properties ?? {});
    return { path: [...path, unknown], at: 'key', message: unknownField(unknown, known) };
  }
  return { path, at: 'value', message: explain(error) };
}

/** More fields than these are not listed in a message. */
const MAX_LISTED = 25;

function unknownField(name: string, known: readonly string[]): string {
  if (name === '<<') return 'merge keys are YAML 1.1 and not read (this is YAML 1.2); write the fields out';
  const meant = closest(name, known);
  if (meant !== undefined) return `unknown field ${quote(name)}; did you mean ${quote(meant)}?`;
  const fields = known.length > MAX_LISTED ? '' : `; the fields here are ${known.join(', ')}`;
  return `unknown field ${quote(name)}${fields}`;
}

const TYPES: Record<string, string> = {
  string: 'a string',
  boolean: 'true or false',
  integer: 'a whole number',
  number: 'a number',
  array: 'a list',
  object: 'a map of fields',
};

/** What to do about an empty list that could be taken for "any". */
const EMPTY: Record<string, string> = {
  ipBlocks: ': leave the field out for any source',
  destinationCIDRs: ': leave the field out for any destination',
  excludedCIDRs: ': leave the field out for none',
};

function explain({ keyword, instancePath, params, parentSchema, data, message }: ErrorObject): string {
  const schema = parentSchema as Schema;
  const unitless = keyword === 'type' || keyword === 'format' ? unitHint(schema, data) : undefined;
  if (unitless !== undefined) return unitless;
  switch (keyword) {
    case 'type': {
      const types = [schema.type].flat() as string[];
      const wanted = types.map((type) => TYPES[type]).join(' or ');
      return `must be ${wanted}, is ${describe(data)}${typeHint(types, data)}`;
    }
    case 'minimum':
    case 'maximum':
      return schema.maximum === undefined
        ? `must be at least ${schema.minimum}, is ${data}`
        : `must be between ${schema.minimum} and ${schema.maximum}, is ${data}`;
    case 'enum': {
      const values = (schema.enum as unknown[]).map(String).filter((one) => one !== '');
      if (values.includes(String(data))) return `must be ${data}, is ${describe(data)}; remove the quotes`;
      const meant = closest(String(data), values);
      const help = meant === undefined ? '' : `; did you mean ${quote(meant)}?`;
      return `must be one of ${values.join(', ')}, is ${describe(data)}${help}`;
    }
    case 'format':
      return FORMATS[params.format as string]!.explain(data as string);
    case 'maxItems':
      return `must have at most ${schema.maxItems} items, has ${(data as unknown[]).length}`;
    case 'minItems':
      return `must not be empty${EMPTY[instancePath.split('/').at(-1)!] ?? ''}`;
    default:
      return message!;
  }
}

/** The message about a duration that is only a number; its unit is most likely that of the default. */
function unitHint({ format, default: value = 's' }: Schema, data: unknown): string | undefined {
  if (format !== 'duration' && format !== 'go-duration') return undefined;
  if (!/^\d+(\.\d+)?$/.test(String(data))) return undefined;
  return `must have a unit, is ${describe(data)}; write ${data}${/[a-z]+$/.exec(String(value))![0]}`;
}

/** Why YAML read something else than what was meant. */
function typeHint(wanted: readonly string[], data: unknown): string {
  if (wanted.includes('string')) {
    if (typeof data === 'number' || typeof data === 'boolean') return '; put it in quotes';
    // `- fd00::` is a key without a value.
    const map = typeof data === 'object' && data !== null && !Array.isArray(data);
    return map && Object.keys(data).length <= 1 ? '; quote a value that ends with a colon' : '';
  }
  if (typeof data !== 'string') return '';
  if (wanted.includes('boolean') && /^(true|false)$/i.test(data)) return '; remove the quotes';
  return wanted.includes('integer') && /^\d+$/.test(data) ? '; remove the quotes' : '';
}

/** The segments of a JSON pointer; those that lead into a list are numbers. */
function pointerPath(pointer: string, root: unknown): (string | number)[] {
  const path: (string | number)[] = [];
  let value = root;
  for (const part of pointer.split('/').slice(1)) {
    const segment = part.replaceAll('~1', '/').replaceAll('~0', '~');
    path.push(Array.isArray(value) ? Number(segment) : segment);
    value = (value as Record<string, unknown>)[segment];
  }
  return path;
}

function remove(root: unknown, path: Path): void {
  let parent = root;
  for (const segment of path.slice(0, -1)) {
    if (typeof parent !== 'object' || parent === null) return;
    parent = (parent as Record<string, unknown>)[segment];
  }
  if (typeof parent === 'object' && parent !== null) delete (parent as Record<string, unknown>)[path.at(-1)!];
}
