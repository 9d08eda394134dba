/**
 * The schemas of the core documents that selectors are resolved with (of `Pod` only the fields that are read), and of
 * Multus' networks, which are ignored. Pure.
 */
import {
  anyObject,
  document,
  flag,
  formatted,
  list,
  openObject,
  type Schemas,
  text,
} from '../json-schema.ts';
import { MULTUS } from '../kinds.ts';

const pod = document(
  'v1',
  'Pod',
  true,
  {
    spec: openObject({ nodeName: text(), hostNetwork: flag() }),
    status: openObject({
      phase: text(),
      podIP: formatted('address'),
      podIPs: list(openObject({ ip: formatted('address') })),
    }),
  },
  [],
);

const namespace = document('v1', 'Namespace', false, { spec: anyObject, status: anyObject }, []);

/** Multus' networks: the pod's interfaces are there when the policy is read. */
const network = document(MULTUS, 'NetworkAttachmentDefinition', true, { spec: anyObject }, []);

export const CORE_SCHEMAS: Schemas = { Pod: pod, Namespace: namespace };
export const MULTUS_SCHEMAS: Schemas = { NetworkAttachmentDefinition: network };
