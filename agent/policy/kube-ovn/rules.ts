/**
 * What the API server (by Kube-OVN's CRD, and by the rules for the Deployment that the gateway becomes) and Kube-OVN's
 * controller refuse of a `VpcEgressGateway`, beyond the types and ranges of the schema. Pure.
 */
import type { PolicyDocument } from '../documents.ts';
import { quantityOf } from '../formats.ts';
import { checkLabelKey, checkLabels, checkLabelValue, type LabelSelector } from '../kubernetes/selectors.ts';
import type { Path } from '../parse.ts';
import { quote } from '../quote.ts';
import { each } from '../resolve.ts';

type Operator = 'In' | 'NotIn' | 'Exists' | 'DoesNotExist' | 'Gt' | 'Lt';

interface Requirement {
  key?: string;
  operator?: Operator;
  values?: string[];
}

interface Resources {
  limits?: Record<string, string | number>;
  requests?: Record<string, string | number>;
  claims?: { name?: string }[];
}

/** The fields that only Kube-OVN and Kubernetes act on; all of it is optional, see `PolicyDocument`. */
export interface WorkloadSpec {
  internalIPs?: string[];
  externalIPs?: string[];
  policies?: { ipBlocks?: string[]; subnets?: string[] }[];
  selectors?: { namespaceSelector?: LabelSelector; podSelector?: LabelSelector }[];
  nodeSelector?: {
    matchLabels?: Record<string, string>;
    matchExpressions?: Requirement[];
    matchFields?: Requirement[];
  }[];
  tolerations?: {
    key?: string;
    operator?: string;
    value?: string;
    effect?: string;
    tolerationSeconds?: number;
  }[];
  resources?: Resources;
  observability?: { resources?: Resources; conntrack?: { log?: object } };
}

/** The most items of a list in the filters of `observability.conntrack.log`. */
const MOST_FILTERS = 64;

/** Reports what the cluster refuses and would be a valid policy here. */
export function checkWorkload(gateway: PolicyDocument, spec: WorkloadSpec): void {
  if (gateway.sound && !spec.policies?.length && !spec.selectors?.length) {
    gateway.fail(['spec'], 'needs at least one of policies and selectors', 'key');
  }
  for (const field of ['internalIPs', 'externalIPs'] as const) {
    checkSet(gateway, ['spec', field], spec[field]);
  }
  each(spec.policies, ({ ipBlocks, subnets }, i) => {
    checkSet(gateway, ['spec', 'policies', i, 'ipBlocks'], ipBlocks);
    checkSet(gateway, ['spec', 'policies', i, 'subnets'], subnets);
  });
  each(spec.selectors, (selector, i) => {
    for (const field of ['namespaceSelector', 'podSelector'] as const) {
      const { matchLabels, matchExpressions } = selector[field] ?? { matchLabels: {} };
      if (!gateway.sound || matchLabels !== undefined || matchExpressions !== undefined) continue;
      const says = `needs matchLabels or matchExpressions; to select everything leave out ${field}`;
      gateway.fail(['spec', 'selectors', i, field], says);
    }
  });
  each(spec.nodeSelector, ({ matchLabels, matchExpressions, matchFields }, i) => {
    const path = ['spec', 'nodeSelector', i];
    checkLabels(gateway, [...path, 'matchLabels'], matchLabels);
    each(matchExpressions, (one, j) => checkRequirement(gateway, [...path, 'matchExpressions', j], one));
    each(matchFields, (one, j) => checkField(gateway, [...path, 'matchFields', j], one));
  });
  each(spec.tolerations, (one, i) => checkToleration(gateway, ['spec', 'tolerations', i], one));
  checkResources(gateway, ['spec', 'resources'], spec.resources);
  checkResources(gateway, ['spec', 'observability', 'resources'], spec.observability?.resources);
  checkLists(gateway, ['spec', 'observability', 'conntrack', 'log'], spec.observability?.conntrack?.log);
}

/** Reports duplicates in a list of texts. */
function checkSet(gateway: PolicyDocument, path: Path, items: readonly string[] | undefined): void {
  const seen = new Set<string>();
  each(items, (item, i) => {
    if (seen.has(item)) gateway.fail([...path, i], `duplicate ${quote(item)}`);
    seen.add(item);
  });
}

/** Every list below a value is bounded, and a set where it holds texts. */
function checkLists(gateway: PolicyDocument, path: Path, value: unknown): void {
  if (typeof value !== 'object' || value === null) return;
  if (!Array.isArray(value)) {
    for (const [key, field] of Object.entries(value)) checkLists(gateway, [...path, key], field);
    return;
  }
  if (value.length > MOST_FILTERS) {
    gateway.fail(path, `must have at most ${MOST_FILTERS} items, has ${value.length}`, 'key');
  }
  checkSet(gateway, path, value);
  each(value, (item, i) => checkLists(gateway, [...path, i], item));
}

function checkRequirement(gateway: PolicyDocument, path: Path, { key, operator, values }: Requirement): void {
  if (key !== undefined) checkLabelKey(gateway, [...path, 'key'], key);
  if (operator === undefined) return;
  const count = values?.length ?? 0;
  const refuse = (says: string) => gateway.fail([...path, 'values'], `${operator} ${says}`, 'key');
  if (operator === 'In' || operator === 'NotIn') {
    if (count === 0) refuse('needs at least one value');
  } else if (operator === 'Exists' || operator === 'DoesNotExist') {
    if (count > 0) refuse('takes no values');
  } else if (count !== 1 || !/^[+-]?\d+$/.test(values?.[0] ?? '')) refuse('needs one value, a whole number');
}

function checkField(gateway: PolicyDocument, path: Path, { key, operator, values }: Requirement): void {
  if (key !== undefined && key !== 'metadata.name') {
    gateway.fail([...path, 'key'], `a node can be chosen by metadata.name only, is ${quote(key)}`);
  }
  if (operator === undefined) return;
  if (operator !== 'In' && operator !== 'NotIn') {
    gateway.fail([...path, 'operator'], `must be In or NotIn of a field, is ${operator}`);
  } else if (values?.length !== 1) gateway.fail([...path, 'values'], `${operator} needs one value`, 'key');
}

function checkToleration(
  gateway: PolicyDocument,
  path: Path,
  {
    key = '',
    operator = '',
    value = '',
    effect,
    tolerationSeconds,
  }: NonNullable<WorkloadSpec['tolerations']>[0],
): void {
  if (key !== '') checkLabelKey(gateway, [...path, 'key'], key);
  else if (gateway.sound && operator !== 'Exists') {
    gateway.fail([...path, 'operator'], 'must be Exists where there is no key', 'key');
  }
  if (operator === 'Exists' && value !== '') {
    gateway.fail([...path, 'value'], 'must be empty with the operator Exists');
  }
  if (operator === '' || operator === 'Equal') checkLabelValue(gateway, [...path, 'value'], value);
  if (gateway.sound && tolerationSeconds !== undefined && effect !== 'NoExecute') {
    gateway.fail([...path, 'tolerationSeconds'], 'requires the effect NoExecute', 'key');
  }
}

/** What a container can have: of Kubernetes' own resources these, and others with their domain. */
const RESOURCE_NAME = /^(cpu|memory|ephemeral-storage|hugepages-.+|[^/]+\/[^/]+)$/;

function checkResources(gateway: PolicyDocument, path: Path, resources: Resources = {}): void {
  if (resources.claims?.length) {
    const message =
      'the pods of a gateway have no resourceClaims, so the API server refuses them with claims';
    gateway.fail([...path, 'claims'], message, 'key');
  }
  for (const field of ['limits', 'requests'] as const) {
    for (const [name, quantity] of Object.entries(resources[field] ?? {})) {
      const at = [...path, field, name];
      if (!RESOURCE_NAME.test(name)) {
        const names = 'cpu, memory, ephemeral-storage, hugepages-SIZE, or DOMAIN/NAME';
        gateway.fail(at, `${quote(name)} is not a container resource: ${names}`, 'key');
      }
      const amount = quantityOf(quantity);
      const limit = resources.limits?.[name];
      if (amount < 0) gateway.fail(at, 'must not be negative');
      else if (field === 'requests' && limit !== undefined && amount > quantityOf(limit)) {
        gateway.fail(at, `is more than the limit, ${limit}`);
      }
    }
  }
}
