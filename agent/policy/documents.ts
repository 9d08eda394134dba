/**
 * The documents of a set of policy files: read, checked against their schemas, each able to place an error
 * in its text. The translators check references between documents. Pure.
 */

import { MAX_FILE_SIZE, MAX_SET_SIZE, SMALL_SET } from './bounds.ts';
import { MAX_MISFITS } from './format-tests.ts';
import { KINDS, type Kind, POD } from './kinds.ts';
import { type Pod, podOf } from './kubernetes/pods.ts';
import type { FilePlace, Origin, PolicyError, PolicyFile } from './model.ts';
import { isPassedOver, refusal } from './other-kinds.ts';
import type { Budget, Path } from './parse.ts';
import { type FilePart, readParts } from './parts.ts';
import { describe, formatPath, quote } from './quote.ts';
import { sieve } from './sieve.ts';
import { validate } from './validate.ts';

/**
 * A document of a known kind. `value` has the shape of its kind; what was wrong in it has been reported and
 * taken out, so every field may be absent and every list may have holes.
 */
export interface PolicyDocument<Value = unknown> {
  apiVersion: string;
  kind: string;
  /** `metadata.name`, after `metadata.namespace/` for namespaced kinds; empty when it is missing or wrong. */
  name: string;
  origin: Origin;
  value: Value;
  /** False when something was removed from `value`: an absent field may be in the document. */
  sound: boolean;
  /** Reports an error at a field of this document. */
  fail(path: Path, message: string, at?: 'key' | 'value'): void;
  /** Where a field of this document is written; of one that is not there, what it would be in. */
  place(path: Path): FilePlace;
}

export interface DocumentSet {
  documents: PolicyDocument[];
  /** The `Pod` documents, of which there may be thousands: what selectors need of them. */
  pods: Pod[];
  /** True when a document could not be read at all: whatever seems to be missing may be in it. */
  incomplete: boolean;
}

/** Reads every document of the files; adds errors to `errors`. */
export function readDocuments(
  files: readonly PolicyFile[],
  errors: PolicyError[],
  budget: Budget,
): DocumentSet {
  const set: DocumentSet = { documents: [], pods: [], incomplete: false };
  const refuse = (file: string, message: string, line = 1, col = 1) => {
    errors.push({ file, line, col, path: '', message });
    set.incomplete = true;
  };
  const counts = new Map<string, number>();
  budget.holds = () => [...counts].map(([kind, count]) => `${count} ${kind}`).join(', ');
  const taken = withoutUnread(files.filter(({ ignored }) => !ignored));
  const total = taken.reduce((sum, file) => sum + sizeOf(file), 0);
  const tooMuch =
    total > MAX_SET_SIZE &&
    `the files together hold ${mebibytes(total)}, more than ${mebibytes(MAX_SET_SIZE)}`;
  for (const file of taken) {
    const size = sizeOf(file);
    if (size > MAX_FILE_SIZE) {
      refuse(file.name, `holds ${mebibytes(size)}, more than ${mebibytes(MAX_FILE_SIZE)}`);
      continue;
    }
    if (file.problem !== undefined) {
      refuse(file.name, file.problem);
      continue;
    }
    if (tooMuch) {
      refuse(file.name, tooMuch);
      break;
    }
    // No YAML has it (1.2.2, 5.1), and every second octet of UTF-16 is it.
    if (file.text.includes('\0')) {
      refuse(file.name, 'is not UTF-8 text; save it as UTF-8');
      continue;
    }
    let empty = true;
    for (const part of readParts(file.text, file.cuts ?? [], budget)) {
      empty = false;
      if ('errors' in part)
        for (const { message, line, col } of part.errors) refuse(file.name, message, line, col);
      else new Reader(file.name, part, errors, set, counts).read(part.value, []);
    }
    if (empty) refuse(file.name, 'no YAML document');
    // The budget is used up, and its error is reported.
    if (budget.tokens < 0) break;
  }
  return set;
}

/** Small sets of files as they are; larger ones without unused fields. */
function withoutUnread(files: readonly PolicyFile[]): readonly PolicyFile[] {
  const total = files.reduce((sum, file) => sum + sizeOf(file), 0);
  if (total <= SMALL_SET && files.every(({ cuts }) => cuts === undefined)) return files;
  return files.map((file) => (file.cuts === undefined ? { ...file, ...sieve(file.text) } : file));
}

const sizeOf = (file: PolicyFile): number => file.size ?? file.text.length;
const mebibytes = (octets: number): string => `${Math.ceil((octets / (1 << 20)) * 100) / 100} MiB`;

type Fields = Record<string, unknown>;

/** Takes the resources out of one YAML document: itself, or the items of a `List`. */
class Reader {
  readonly #file: string;
  readonly #locate: FilePart['locate'];
  readonly #items: FilePart['items'];
  readonly #errors: PolicyError[];
  readonly #set: DocumentSet;
  /** How many resources of each kind were read. */
  readonly #counts: Map<string, number>;
  /** The place of the part in its file. */
  readonly #prefix: Path;

  constructor(
    file: string,
    parsed: FilePart,
    errors: PolicyError[],
    set: DocumentSet,
    counts: Map<string, number>,
    prefix: Path = [],
  ) {
    this.#file = file;
    // Not all of it: the value must not outlive its use.
    this.#locate = parsed.locate;
    this.#items = parsed.items;
    this.#errors = errors;
    this.#set = set;
    this.#counts = counts;
    this.#prefix = prefix;
  }

  /** Reads the resource at `base`; `typed` is the kind that the list around it gives. */
  read(value: unknown, base: Path, typed?: ItemKind): void {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      this.#refuse(base, `must be a map of fields with apiVersion and kind, is ${describe(value)}`);
      return;
    }
    const fields = value as Fields;
    const listed = listKind(fields);
    if (listed !== undefined && base.length + this.#prefix.length === 0) {
      this.#readList(fields, listed.of);
      return;
    }
    if (typed !== undefined) {
      fields.apiVersion ??= typed.apiVersion;
      fields.kind ??= typed.kind;
    }
    const kind = this.#kindOf(fields, base);
    if (kind !== undefined) this.#readResource(kind, fields, base);
  }

  #readList(list: Fields, of: ItemKind | undefined): void {
    const items = list.items;
    if (!Array.isArray(items)) {
      this.#refuse(['items'], `must be a list, is ${describe(items)}`);
      return;
    }
    for (const field of Object.keys(list)) {
      if (!['apiVersion', 'kind', 'metadata', 'items'].includes(field)) {
        this.#fail([field], `unknown field ${quote(field)}; a list has metadata and items`, 'key');
      }
    }
    for (const [i, item] of items.entries()) this.read(item, ['items', i], of);
    let i = 0;
    for (const item of this.#items?.() ?? []) {
      const prefix = ['items', i];
      if ('errors' in item) {
        for (const { message, ...place } of item.errors) {
          this.#errors.push({ file: this.#file, ...place, path: '', message });
        }
        this.#set.incomplete = true;
      } else {
        const reader = new Reader(this.#file, item, this.#errors, this.#set, this.#counts, prefix);
        reader.read(item.value, [], of);
      }
      i++;
    }
  }

  #kindOf(fields: Fields, base: Path): Kind | undefined {
    const { apiVersion, kind } = fields;
    for (const field of ['apiVersion', 'kind']) {
      if (typeof fields[field] === 'string') continue;
      if (fields[field] === undefined) this.#refuse([...base, field], 'this field is required', base, 'key');
      else this.#refuse([...base, field], `must be a string, is ${describe(fields[field])}`);
    }
    if (typeof apiVersion !== 'string' || typeof kind !== 'string') return undefined;
    const found = KINDS.find((known) => known.kind === kind && known.apiVersion === apiVersion);
    if (found !== undefined || isPassedOver(apiVersion, kind)) return found;
    const { field, message } = refusal(apiVersion, kind);
    this.#refuse([...base, field], message);
    return undefined;
  }

  #readResource(kind: Kind, fields: Fields, base: Path): void {
    this.#counts.set(kind.kind, (this.#counts.get(kind.kind) ?? 0) + 1);
    dropEmpty(kind.emptyIsAbsent ? fields : fields.metadata);
    const violations = validate(kind, fields);
    for (const { path, where, at, message } of violations) {
      this.#fail([...base, ...path], message, at, where && [...base, ...where]);
    }
    if (violations.length >= MAX_MISFITS) {
      this.#set.incomplete = true;
      return;
    }
    if (kind === POD) {
      this.#set.pods.push(podOf(fields));
      return;
    }
    const { name, namespace } = (fields.metadata ?? {}) as { name?: string; namespace?: string };
    const fullName = kind.namespaced && name ? `${namespace ?? 'default'}/${name}` : (name ?? '');
    this.#set.documents.push({
      apiVersion: kind.apiVersion,
      kind: kind.kind,
      name: fullName,
      origin: { file: this.#file, kind: kind.kind, name: fullName },
      value: kind.condense?.(fields) ?? fields,
      sound: violations.length === 0,
      fail: (path, message, at = 'value') => this.#fail([...base, ...path], message, at),
      place: (path) => ({ file: this.#file, ...this.#locate([...base, ...path], 'key') }),
    });
    // Nothing can refer to a resource whose name is not known.
    if (name === undefined) this.#set.incomplete = true;
  }

  /** Reports that a document cannot be used at all. */
  #refuse(path: Path, message: string, where: Path = path, at: 'key' | 'value' = 'value'): void {
    this.#fail(path, message, at, where);
    this.#set.incomplete = true;
  }

  #fail(path: Path, message: string, at: 'key' | 'value', where: Path = path): void {
    const { line, col } = this.#locate(where, at);
    this.#errors.push({ file: this.#file, line, col, path: formatPath([...this.#prefix, ...path]), message });
  }
}

/** The kind of a list's items, where the list has it. */
type ItemKind = Pick<Kind, 'apiVersion' | 'kind'>;

/** `List` of anything, or `SubnetList` and its like, as the API prints them; undefined for anything else. */
function listKind({ apiVersion, kind }: Fields): { of: ItemKind | undefined } | undefined {
  if (apiVersion === 'v1' && kind === 'List') return { of: undefined };
  if (typeof apiVersion !== 'string' || typeof kind !== 'string' || !kind.endsWith('List')) return undefined;
  const item = kind.slice(0, -'List'.length);
  const isKnown = KINDS.some((known) => known.apiVersion === apiVersion && known.kind === item);
  return isKnown || isPassedOver(apiVersion, item) ? { of: { apiVersion, kind: item } } : undefined;
}

/** Takes the fields without a value out of a tree of maps. */
function dropEmpty(tree: unknown): void {
  if (Array.isArray(tree)) {
    for (const item of tree) dropEmpty(item);
  } else if (typeof tree === 'object' && tree !== null) {
    for (const [key, value] of Object.entries(tree)) {
      if (value === null) delete (tree as Fields)[key];
      else dropEmpty(value);
    }
  }
}
