/**
 * Label selectors, resolved to the addresses of pods by the `Pod` and `Namespace` documents of the directory. Pure.
 */
import type { Prefix } from '../../../lib/prefix.ts';
import type { DocumentSet, PolicyDocument } from '../documents.ts';
import { FORMATS } from '../formats.ts';
import type { Path } from '../parse.ts';
import { each } from '../resolve.ts';
import type { Labels, Pod } from './pods.ts';

/** A `LabelSelector` of the Kubernetes API; its parts are ANDed, and an empty one matches everything. */
export interface LabelSelector {
  matchLabels?: Labels;
  matchExpressions?: { key?: string; operator?: LabelOperator; values?: string[] }[];
}

type LabelOperator = 'In' | 'NotIn' | 'Exists' | 'DoesNotExist';

interface NamespaceResource {
  metadata?: { name?: string; labels?: Labels };
}

/** The pods of a directory with the labels of their namespaces. */
export class Pods {
  readonly #pods: readonly Pod[];
  readonly #namespaces = new Map<string, Labels>();

  constructor(set: DocumentSet) {
    this.#pods = set.pods;
    for (const document of set.documents) {
      if (document.kind === 'Namespace') this.#addNamespace(document as PolicyDocument<NamespaceResource>);
    }
  }

  /** Whether there is a pod at all: without one, no selector can be resolved. */
  get known(): boolean {
    return this.#pods.length > 0;
  }

  /** The labels of a namespace; every namespace has its name as one (kubernetes.io/metadata.name). */
  namespaceLabels(name: string): Labels {
    return { 'kubernetes.io/metadata.name': name, ...this.#namespaces.get(name) };
  }

  /** The addresses of the pods that `matches` accepts, in the order of the documents, each once. */
  addresses(matches: (pod: { namespace: string; labels: Labels }) => boolean): Prefix[] {
    return [...new Set(this.#pods.filter(matches).flatMap(({ addresses }) => addresses))];
  }

  #addNamespace({ value: { metadata } }: PolicyDocument<NamespaceResource>): void {
    if (metadata?.name) this.#namespaces.set(metadata.name, metadata.labels ?? {});
  }
}

/** Whether the labels are what a selector asks for. */
export function selects({ matchLabels, matchExpressions }: LabelSelector, labels: Labels): boolean {
  return (
    Object.entries(matchLabels ?? {}).every(([key, value]) => labels[key] === value) &&
    each(matchExpressions, ({ key = '', operator, values = [] }) => {
      const value = Object.hasOwn(labels, key) ? labels[key] : undefined;
      switch (operator) {
        case 'In':
          return value !== undefined && values.includes(value);
        case 'NotIn':
          return value === undefined || !values.includes(value);
        case 'Exists':
          return value !== undefined;
        default:
          return value === undefined;
      }
    }).every(Boolean)
  );
}

/** Reports what is wrong with a selector, as the API server does. */
export function checkSelector(
  document: PolicyDocument,
  path: Path,
  selector: LabelSelector | undefined,
): void {
  checkLabels(document, [...path, 'matchLabels'], selector?.matchLabels);
  each(selector?.matchExpressions, ({ key, operator, values }, i) => {
    const at = [...path, 'matchExpressions', i];
    if (key !== undefined) checkLabelKey(document, [...at, 'key'], key);
    each(values, (value, j) => checkLabelValue(document, [...at, 'values', j], value));
    const needed = operator === 'In' || operator === 'NotIn';
    const given = (values?.length ?? 0) > 0;
    if (operator === undefined || needed === given) return;
    const problem = needed ? 'needs at least one value' : 'takes no values';
    document.fail([...at, 'values'], `${operator} ${problem}`, 'key');
  });
}

/** Reports labels that no object can have. */
export function checkLabels(document: PolicyDocument, path: Path, labels: Labels = {}): void {
  for (const [key, value] of Object.entries(labels)) {
    checkLabelKey(document, [...path, key], key, 'key');
    checkLabelValue(document, [...path, key], value);
  }
}

export const checkLabelKey = (
  document: PolicyDocument,
  path: Path,
  text: string,
  at: 'key' | 'value' = 'value',
): void => checkFormat('label-key', document, path, text, at);

export const checkLabelValue = (document: PolicyDocument, path: Path, text: string): void =>
  checkFormat('label-value', document, path, text, 'value');

function checkFormat(
  format: 'label-key' | 'label-value',
  document: PolicyDocument,
  path: Path,
  text: string,
  at: 'key' | 'value',
): void {
  const { test, explain } = FORMATS[format]!;
  if (!test(text)) document.fail(path, explain(text), at);
}
