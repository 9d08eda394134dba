/** One VpcEgressGateway out of the documents of several, as `kubectl get veg,vpc,subnet -A -o yaml` prints them. Pure. */
import { type Document, isMap, isSeq, type ParsedNode, parseAllDocuments } from 'yaml';
import type { DocumentSet } from '../policy/documents.ts';
import type { PolicyFile } from '../policy/model.ts';
import { RenderError } from './gateway.ts';

const KIND = 'VpcEgressGateway';
/** Of these there is one in a policy directory. */
const GATEWAYS = [KIND, 'GatewayPolicy'];

/**
 * The name of the chosen gateway, `NAMESPACE/NAME`; undefined when none is chosen and there is at most one. Throws
 * `RenderError` with the names that there are when the choice is missing or wrong.
 */
export function chooseGateway(set: DocumentSet, chosen: string | undefined): string | undefined {
  const names = set.documents.filter(({ kind }) => kind === KIND).map(({ name }) => name);
  if (chosen === undefined) {
    if (names.length <= 1) return undefined;
    throw new RenderError(`there are ${names.join(', ')}: choose one with --gateway NAMESPACE/NAME`);
  }
  if (names.includes(chosen) || set.incomplete) return chosen;
  throw new RenderError(
    `no VpcEgressGateway ${chosen} (NAMESPACE/NAME); found: ${names.join(', ') || 'none'}`,
  );
}

/** The files without the other gateways; one that holds no other stays as it is. They have been found valid. */
export const withoutOthers = (files: readonly PolicyFile[], chosen: string): PolicyFile[] =>
  files.flatMap((file) => without(file, chosen));

function without(file: PolicyFile, chosen: string): PolicyFile[] {
  const isOther = (value: unknown): boolean => {
    const { kind, metadata } = (value ?? {}) as { kind?: string; metadata?: Record<string, unknown> };
    const isChosen = kind === KIND && `${metadata?.namespace || 'default'}/${metadata?.name}` === chosen;
    return GATEWAYS.includes(kind ?? '') && !isChosen;
  };
  const documents = parseAllDocuments(file.text) as Document.Parsed<ParsedNode>[];
  let others = 0;
  const kept = documents.filter((document) => {
    const value: unknown = document.toJS();
    if (isOther(value)) {
      others++;
      return false;
    }
    const items = isMap(document.contents) ? document.contents.get('items', true) : undefined;
    if (!isSeq(items)) return value !== null;
    // The items of a `VpcEgressGatewayList` have no kind.
    const kind = String((value as { kind?: unknown }).kind).replace(/List$/, '');
    const before = items.items.length;
    items.items = items.items.filter((item) => {
      const fields = item as unknown as { toJS(document: Document): unknown };
      const inner = fields.toJS(document) as object;
      return !isOther(GATEWAYS.includes(kind) ? { ...inner, kind } : inner);
    });
    others += before - items.items.length;
    return items.items.length > 0;
  });
  if (others === 0) return [file];
  if (kept.length === 0) return [];
  for (const { directives } of kept) directives.docStart = null;
  const text = file.name.endsWith('.json')
    ? kept.map((document) => `${JSON.stringify(document.toJS(), undefined, 2)}\n`).join('')
    : kept.map((document) => document.toString({ lineWidth: 0 })).join('---\n');
  return [{ name: file.name, text }];
}
