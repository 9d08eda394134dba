/** Where what a warning is about was written. Pure. */
import type { DocumentSet, PolicyDocument } from './documents.ts';
import type { About, FilePlace } from './model.ts';
import type { Path } from './parse.ts';

/** The kinds of the documents that policies are named after, by the first part of the name. */
const KINDS: Record<string, readonly string[]> = {
  deckhouse: ['EgressGatewayPolicy'],
  spidernet: ['EgressPolicy', 'EgressClusterPolicy'],
  'kube-ovn': ['IptablesSnatRule', 'IptablesEIP'],
};

/** The place; undefined where it is not known. */
export function warningPlace(
  { document, policy, path }: About,
  gateway: PolicyDocument,
  set: DocumentSet,
): FilePlace | undefined {
  if (document !== undefined) return document.place(path);
  if (policy === undefined) return gateway.place(path);
  const [, system = '', name = ''] = /^([^/]+)\/(.*)$/.exec(policy) ?? [];
  const other = set.documents.find((one) => KINDS[system]?.includes(one.kind) && one.name === name);
  if (other !== undefined) return other.place(['metadata', 'name']);
  const own = pathOf(policy, gateway);
  return own && gateway.place([...own, ...path]);
}

/** The path of one of the gateway's own policies. */
function pathOf(policy: string, { value }: PolicyDocument): Path | undefined {
  const { policies = [] } = (value as { spec?: { policies?: { name?: string }[] } }).spec ?? {};
  const named = policies.findIndex(({ name }) => name === policy);
  if (named >= 0) return ['spec', 'policies', named];
  const [, list, i] = /^(policy|selector)-(\d+)$/.exec(policy) ?? [];
  if (list === undefined) return undefined;
  return ['spec', list === 'policy' ? 'policies' : 'selectors', Number(i)];
}
