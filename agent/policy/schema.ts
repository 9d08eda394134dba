/**
 * The JSON Schemas of all documents that a policy directory may hold. Pure.
 *
 * The schemas define the fields, their types, forms and ranges; what one field means for another is checked by the
 * translators. An unknown field is always an error: a misspelt field that is silently ignored is a policy that is not
 * obeyed.
 *
 * The built programs do not load them: validators.ts.
 */
import { DECKHOUSE_SCHEMAS } from './deckhouse/schema.ts';
import { GATEWAY_POLICY_SCHEMAS } from './gateway-policy/schema.ts';
import type { Schema, Schemas } from './json-schema.ts';
import { DECKHOUSE, type Kind, KUBE_OVN, MULTUS, SPIDERNET, VEG_AGENT } from './kinds.ts';
import { KUBE_OVN_SCHEMAS } from './kube-ovn/schema.ts';
import { CORE_SCHEMAS, MULTUS_SCHEMAS } from './kubernetes/schema.ts';
import { SPIDERNET_SCHEMAS } from './spidernet/schema.ts';

const SCHEMAS: Readonly<Record<string, Schemas>> = {
  [VEG_AGENT]: GATEWAY_POLICY_SCHEMAS,
  [KUBE_OVN]: KUBE_OVN_SCHEMAS,
  [DECKHOUSE]: DECKHOUSE_SCHEMAS,
  [SPIDERNET]: SPIDERNET_SCHEMAS,
  [MULTUS]: MULTUS_SCHEMAS,
  v1: CORE_SCHEMAS,
};

/** The schema of a kind of `KINDS`. */
export const schemaOf = ({ apiVersion, kind }: Kind): Schema => SCHEMAS[apiVersion]![kind]!;
