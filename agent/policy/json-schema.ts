/** The words that the schemas of policy documents are written in. `format` names are those of formats.ts. Pure. */

/** A JSON Schema (draft-07), as a plain value. */
export type Schema = { readonly [keyword: string]: unknown };

export const described = (schema: Schema, description?: string): Schema =>
  description === undefined ? schema : { ...schema, description };

export const text = (description?: string): Schema => described({ type: 'string' }, description);
export const flag = (description?: string): Schema => described({ type: 'boolean' }, description);
export const formatted = (format: string, description?: string): Schema =>
  described({ type: 'string', format }, description);
export const integer = (minimum: number, maximum: number, description?: string): Schema =>
  described({ type: 'integer', minimum, maximum }, description);
export const oneOf = (values: readonly string[], description?: string): Schema =>
  described({ type: 'string', enum: values }, description);
export const list = (items: Schema, description?: string): Schema =>
  described({ type: 'array', items }, description);
export const object = (
  properties: Record<string, Schema>,
  required: readonly string[] = [],
  description?: string,
): Schema => described({ type: 'object', additionalProperties: false, required, properties }, description);
/** A map of which only some fields are read. */
export const openObject = (properties: Record<string, Schema>): Schema => ({
  type: 'object',
  additionalProperties: true,
  properties,
});
export const withDefault = (schema: Schema, value: unknown): Schema => ({ ...schema, default: value });

/** A number that the cluster writes: as large as it likes. */
export const statusCount: Schema = { type: 'number' };

/** A map of any keys to text, as labels are. */
export const textMap: Schema = { type: 'object', additionalProperties: { type: 'string' } };
/** A part that belongs to the control plane and means nothing in the pod. */
export const anyObject: Schema = { type: 'object' };
export const anyList: Schema = { type: 'array', items: anyObject };
export const texts = list(text());

export const INT32_MAX = 2 ** 31 - 1;
export const count = integer(0, INT32_MAX);

/** ObjectMeta, as `kubectl get -o yaml` prints it too. */
const metadata = (namespaced: boolean): Schema =>
  object(
    {
      name: formatted('resource-name', 'The name of the resource.'),
      // Of a kind that has none it is ignored, as the API server does.
      namespace: formatted('namespace', namespaced ? 'Its namespace; "default" when absent.' : undefined),
      labels: textMap,
      annotations: textMap,
      creationTimestamp: text(),
      deletionGracePeriodSeconds: count,
      deletionTimestamp: text(),
      finalizers: texts,
      generateName: text(),
      generation: { type: 'integer' },
      managedFields: anyList,
      ownerReferences: anyList,
      resourceVersion: text(),
      selfLink: text(),
      uid: text(),
    },
    ['name'],
  );

export const document = (
  apiVersion: string,
  kind: string,
  namespaced: boolean,
  parts: Record<string, Schema>,
  required: readonly string[] = ['spec'],
): Schema =>
  object(
    { apiVersion: { const: apiVersion }, kind: { const: kind }, metadata: metadata(namespaced), ...parts },
    ['apiVersion', 'kind', 'metadata', ...required],
  );

const labelRequirement = object(
  { key: text(), operator: oneOf(['In', 'NotIn', 'Exists', 'DoesNotExist']), values: texts },
  ['key', 'operator'],
);
export const labelSelector = object({ matchLabels: textMap, matchExpressions: list(labelRequirement) });

/** The schemas of one apiVersion, by kind. */
export type Schemas = Readonly<Record<string, Schema>>;
