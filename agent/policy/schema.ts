/**
 * The kinds of documents that a policy directory may hold, each with its JSON Schema. Pure.
 *
 * The schemas define the fields, their types, forms and ranges; what one field means for another is checked by the
 * translators. An unknown field is always an error: a misspelt field that is silently ignored is a policy that is not
 * obeyed.
 */
import { DECKHOUSE_KINDS } from './deckhouse/schema.ts';
import { GATEWAY_POLICY_KINDS } from './gateway-policy/schema.ts';
import type { Kind } from './json-schema.ts';
import { KUBE_OVN_KINDS } from './kube-ovn/schema.ts';
import { CORE_KINDS } from './kubernetes/schema.ts';
import { SPIDERNET_KINDS } from './spidernet/schema.ts';

export const KINDS: readonly Kind[] = [
  ...GATEWAY_POLICY_KINDS,
  ...KUBE_OVN_KINDS,
  ...DECKHOUSE_KINDS,
  ...SPIDERNET_KINDS,
  ...CORE_KINDS,
];
