/**
 * The shape of the Kubernetes resources that `render` writes, after the API reference of Kubernetes 1.31 and of
 * Prometheus' operator: every field that is used, and no other. A field that is misspelt or of the wrong type fails.
 */
import { Ajv, type ValidateFunction } from 'ajv';

type Schema = Record<string, unknown>;

const text: Schema = { type: 'string', minLength: 1 };
const flag: Schema = { type: 'boolean' };
const count: Schema = { type: 'integer', minimum: 0 };
const list = (items: Schema): Schema => ({ type: 'array', items, minItems: 1 });
const map = (values: Schema): Schema => ({ type: 'object', additionalProperties: values, minProperties: 1 });
const object = (properties: Record<string, Schema>, required: string[] = []): Schema => ({
  type: 'object',
  properties,
  required,
  additionalProperties: false,
});

/** RFC 1123 label. */
const label: Schema = { type: 'string', pattern: '^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$' };
/** RFC 1035 label. */
const letterLabel: Schema = { type: 'string', pattern: '^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$' };
const SUBDOMAIN = '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*';
/** RFC 1123 subdomain. */
const subdomain = (max = 253): Schema => ({ type: 'string', maxLength: max, pattern: `^${SUBDOMAIN}$` });
/** The key of a label or an annotation: a prefix that is a subdomain, and a name. */
const QUALIFIED = `^(?=[^/]{1,253}/|[^/]+$)(${SUBDOMAIN}/)?[A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?$`;
const labelValue: Schema = { type: 'string', pattern: '^([A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?)?$' };
/** The name of a port: RFC 6335. */
const portName: Schema = { type: 'string', pattern: '^(?=.*[a-z])[a-z0-9](-?[a-z0-9]){0,14}$' };
const quantity: Schema = { type: 'string', pattern: '^\\d+(\\.\\d+)?(m|Ki|Mi|Gi|k|M|G)?$' };
const absolutePath: Schema = { type: 'string', pattern: '^/' };

/** What is under keys that are those of labels or annotations. */
const keyed = (values: Schema): Schema => ({
  ...map(values),
  propertyNames: { type: 'string', pattern: QUALIFIED },
});
const labels = keyed(labelValue);

const metadata = (name: Schema): Schema => object({ name, namespace: label, labels }, ['name', 'namespace']);
const selector = object({ matchLabels: labels }, ['matchLabels']);
const requirement = object(
  {
    key: { type: 'string', pattern: QUALIFIED },
    operator: { enum: ['In', 'NotIn', 'Exists', 'DoesNotExist', 'Gt', 'Lt'] },
    values: list(text),
  },
  ['key', 'operator'],
);
const fieldRef = object({ fieldPath: text }, ['fieldPath']);
const execAction = object({ command: list(text) }, ['command']);
const probe = {
  ...object({
    httpGet: object({ path: absolutePath, port: portName }, ['port']),
    exec: execAction,
    periodSeconds: count,
    timeoutSeconds: count,
    failureThreshold: count,
  }),
  oneOf: [{ required: ['httpGet'] }, { required: ['exec'] }],
};
const podAffinityTerm = object(
  { labelSelector: selector, topologyKey: { type: 'string', pattern: QUALIFIED } },
  ['topologyKey'],
);

const container = object(
  {
    name: label,
    image: text,
    command: list(text),
    env: list(object({ name: text, valueFrom: object({ fieldRef }) }, ['name'])),
    ports: list(
      object({ name: portName, containerPort: count, protocol: { const: 'TCP' } }, ['containerPort']),
    ),
    startupProbe: probe,
    livenessProbe: probe,
    readinessProbe: probe,
    lifecycle: object({ preStop: object({ exec: execAction }) }),
    resources: object({ requests: map(quantity), limits: map(quantity) }),
    securityContext: object({
      privileged: flag,
      runAsUser: count,
      runAsGroup: count,
      runAsNonRoot: flag,
      readOnlyRootFilesystem: flag,
      allowPrivilegeEscalation: flag,
      capabilities: object({ add: list(text), drop: list(text) }),
    }),
    volumeMounts: list(
      object({ name: label, mountPath: absolutePath, readOnly: flag }, ['name', 'mountPath']),
    ),
  },
  ['name', 'image'],
);

const podSpec = object(
  {
    automountServiceAccountToken: flag,
    enableServiceLinks: flag,
    terminationGracePeriodSeconds: count,
    securityContext: object({
      seccompProfile: object({ type: { const: 'RuntimeDefault' } }, ['type']),
      fsGroup: count,
    }),
    affinity: object({
      podAntiAffinity: object({
        requiredDuringSchedulingIgnoredDuringExecution: list(podAffinityTerm),
        preferredDuringSchedulingIgnoredDuringExecution: list(
          object({ weight: { type: 'integer', minimum: 1, maximum: 100 }, podAffinityTerm }, [
            'weight',
            'podAffinityTerm',
          ]),
        ),
      }),
      nodeAffinity: object({
        requiredDuringSchedulingIgnoredDuringExecution: object(
          {
            nodeSelectorTerms: list(
              object({ matchExpressions: list(requirement), matchFields: list(requirement) }),
            ),
          },
          ['nodeSelectorTerms'],
        ),
      }),
    }),
    tolerations: list(
      object({
        key: text,
        operator: { enum: ['Exists', 'Equal'] },
        value: text,
        effect: { enum: ['NoSchedule', 'PreferNoSchedule', 'NoExecute'] },
        tolerationSeconds: { type: 'integer' },
      }),
    ),
    initContainers: list(container),
    containers: list(container),
    volumes: list({
      ...object(
        {
          name: label,
          configMap: object({ name: subdomain() }, ['name']),
          emptyDir: object({ medium: { const: 'Memory' }, sizeLimit: quantity }),
          secret: object(
            {
              secretName: subdomain(),
              defaultMode: count,
              items: list(object({ key: text, path: text }, ['key', 'path'])),
            },
            ['secretName'],
          ),
          downwardAPI: object({ items: list(object({ path: text, fieldRef }, ['path', 'fieldRef'])) }),
        },
        ['name'],
      ),
      minProperties: 2,
      maxProperties: 2,
    }),
  },
  ['containers'],
);

const resource = (
  apiVersion: string,
  kind: string,
  rest: Record<string, Schema>,
  name: Schema = subdomain(),
): Schema =>
  object({ apiVersion: { const: apiVersion }, kind: { const: kind }, metadata: metadata(name), ...rest }, [
    'apiVersion',
    'kind',
    'metadata',
    ...Object.keys(rest),
  ]);

const SCHEMAS: Record<string, Schema> = {
  ConfigMap: resource('v1', 'ConfigMap', {
    data: {
      ...map({ type: 'string' }),
      propertyNames: { type: 'string', maxLength: 253, pattern: '^(?!\\.\\.)[-._a-zA-Z0-9]+$' },
    },
  }),
  Secret: resource('v1', 'Secret', { type: { const: 'Opaque' }, stringData: map(text) }),
  // Its ReplicaSets have a dash and ten characters more.
  Deployment: resource(
    'apps/v1',
    'Deployment',
    {
      spec: object(
        {
          replicas: count,
          selector,
          strategy: object({
            type: { const: 'RollingUpdate' },
            rollingUpdate: object({ maxUnavailable: count, maxSurge: count }),
          }),
          minReadySeconds: count,
          template: object(
            { metadata: object({ labels, annotations: keyed(text) }, ['labels']), spec: podSpec },
            ['metadata', 'spec'],
          ),
        },
        ['selector', 'template'],
      ),
    },
    subdomain(253 - 11),
  ),
  PodDisruptionBudget: resource('policy/v1', 'PodDisruptionBudget', {
    spec: object({ maxUnavailable: count, selector }, ['selector']),
  }),
  Service: resource(
    'v1',
    'Service',
    {
      spec: object({
        clusterIP: { const: 'None' },
        publishNotReadyAddresses: flag,
        selector: labels,
        ports: list(object({ name: label, port: count, targetPort: portName }, ['port'])),
      }),
    },
    letterLabel,
  ),
  ServiceMonitor: resource('monitoring.coreos.com/v1', 'ServiceMonitor', {
    spec: object(
      {
        selector,
        endpoints: list(
          object({ port: text, path: absolutePath, interval: { type: 'string', pattern: '^\\d+s$' } }),
        ),
      },
      ['selector', 'endpoints'],
    ),
  }),
};

const ajv = new Ajv({ allErrors: true, strict: true, strictRequired: false, strictTypes: false });
const validators = new Map<string, ValidateFunction>(
  Object.entries(SCHEMAS).map(([kind, schema]) => [kind, ajv.compile(schema)]),
);

/** What is wrong with a resource; empty when it is sound. */
export function faults(value: { kind: string }): string[] {
  const validate = validators.get(value.kind);
  if (validate === undefined) return [`unknown kind ${value.kind}`];
  validate(value);
  return (validate.errors ?? []).map(
    ({ instancePath, message, params }) => `${instancePath} ${message} ${JSON.stringify(params)}`,
  );
}
