/**
 * What the schemas allow and the agent does not obey yet. It is refused, because a policy that is read and
 * not obeyed is worse than one that is refused. A feature that lands deletes its entry here.
 */
import type { PolicyDocument } from './documents.ts';
import type { Path } from './parse.ts';

interface Unsupported {
  /** The field; `[]` stands for every item of a list. */
  field: string;
  /** Whether a value asks for nothing beyond what happens anyway. */
  harmless?(value: unknown): boolean;
}

const is = (wanted: unknown) => (value: unknown) => value === wanted;

export const UNSUPPORTED: Readonly<Record<string, readonly Unsupported[]>> = {
  GatewayPolicy: [{ field: 'spec.policies[].portBlockSize', harmless: is(0) }],
};

/** Reports every field of a document that asks for what is not there yet. */
export function refuseUnsupported(document: PolicyDocument): void {
  for (const { field, harmless } of UNSUPPORTED[document.kind] ?? []) {
    for (const [path, value] of select(document.value, field)) {
      if (!harmless?.(value)) document.fail(path, 'not supported by this version of veg-agent', 'key');
    }
  }
}

/** The values that are there at a field pattern, with their paths. */
function select(root: unknown, field: string): [Path, unknown][] {
  let found: [Path, unknown][] = [[[], root]];
  for (const step of field.split('.')) {
    const name = step.replace('[]', '');
    found = found
      .map(([path, value]): [Path, unknown] => [[...path, name], (value as Record<string, unknown>)[name]])
      .filter(([, value]) => value !== undefined);
    if (!step.endsWith('[]')) continue;
    found = found.flatMap(([path, list]) =>
      (list as unknown[]).flatMap((item, i): [Path, unknown][] => [[[...path, i], item]]),
    );
  }
  return found;
}
