/**
 * The schemas of the core documents that selectors are resolved with: of `Pod` only what is read of it. And what
 * stands in manifests beside a gateway and says nothing to it. Pure.
 */
import { anyObject, document, flag, formatted, type Kind, list, openObject, text } from '../json-schema.ts';

const MULTUS = 'k8s.cni.cncf.io/v1';

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

export const POD: Kind = {
  apiVersion: 'v1',
  kind: 'Pod',
  namespaced: true,
  schema: pod,
  emptyIsAbsent: true,
};

export const CORE_KINDS: readonly Kind[] = [
  POD,
  { apiVersion: 'v1', kind: 'Namespace', namespaced: false, schema: namespace, emptyIsAbsent: true },
  {
    apiVersion: MULTUS,
    kind: 'NetworkAttachmentDefinition',
    namespaced: true,
    schema: network,
    emptyIsAbsent: true,
  },
];
