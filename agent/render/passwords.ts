/** The documents of a policy directory without the passwords of BgpConf documents: a ConfigMap is no place for them. Pure. */
import { type Document, isMap, isSeq, type ParsedNode, parseAllDocuments, type YAMLMap } from 'yaml';
import type { PolicyFile } from '../policy/model.ts';

const KIND = 'BgpConf';

/**
 * Removes `spec.password` of every BgpConf, and its annotations and managed fields, in which kubectl keeps a copy of the
 * document. A file without a BgpConf stays as it is. The files have been found valid.
 */
export const withoutPasswords = (files: readonly PolicyFile[]): PolicyFile[] =>
  files.map((file) => (file.text.includes(KIND) ? without(file) : file));

function without(file: PolicyFile): PolicyFile {
  const documents = parseAllDocuments(file.text) as Document.Parsed<ParsedNode>[];
  let removed = false;
  for (const { contents } of documents) {
    if (!isMap(contents)) continue;
    const items = contents.get('items', true);
    // The items of a `BgpConfList` have no kind.
    const kind = String(contents.get('kind')).replace(/List$/, '');
    for (const map of isSeq(items) ? items.items : [contents]) {
      if (isMap(map) && (map.get('kind') ?? kind) === KIND) removed = remove(map) || removed;
    }
  }
  if (!removed) return file;
  const text = file.name.endsWith('.json')
    ? documents.map((document) => `${JSON.stringify(document.toJS(), undefined, 2)}\n`).join('')
    : documents.map((document) => document.toString({ lineWidth: 0 })).join('');
  return { ...file, text };
}

/** Whether there was anything to remove. */
function remove(document: YAMLMap): boolean {
  const paths = [
    ['spec', 'password'],
    ['metadata', 'annotations'],
    ['metadata', 'managedFields'],
  ];
  return paths.map((path) => document.hasIn(path) && document.deleteIn(path)).some(Boolean);
}
