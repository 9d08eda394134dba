/** The schemas of Deckhouse's `EgressGateway` and `EgressGatewayPolicy` (network.deckhouse.io/v1alpha1). Pure. */
import {
  anyList,
  document,
  formatted,
  integer,
  type Kind,
  labelSelector,
  list,
  object,
  oneOf,
  text,
  textMap,
} from '../json-schema.ts';

export const DECKHOUSE = 'network.deckhouse.io/v1alpha1';

const gateway = document(DECKHOUSE, 'EgressGateway', false, {
  spec: object({
    nodeSelector: textMap,
    sourceIP: object(
      {
        mode: oneOf(['VirtualIPAddress', 'PrimaryIPFromEgressGatewayNodeInterface']),
        virtualIPAddress: object(
          { ip: formatted('host-address'), interfaces: list(formatted('interface-name')) },
          ['ip'],
        ),
        primaryIPFromEgressGatewayNodeInterface: object({ interfaceName: formatted('interface-name') }, [
          'interfaceName',
        ]),
      },
      ['mode'],
    ),
  }),
  status: object({
    activeNodeName: text(),
    readyNodes: integer(0, 2 ** 31 - 1),
    observedGeneration: { type: 'integer' },
    conditions: anyList,
  }),
});

const policy = document(DECKHOUSE, 'EgressGatewayPolicy', false, {
  spec: object(
    {
      egressGatewayName: { ...text(), minLength: 1 },
      destinationCIDRs: list(formatted('prefix')),
      excludedCIDRs: list(formatted('prefix')),
      selectors: list(object({ podSelector: labelSelector }, ['podSelector'])),
    },
    ['egressGatewayName'],
  ),
});

export const DECKHOUSE_KINDS: readonly Kind[] = [
  { apiVersion: DECKHOUSE, kind: 'EgressGateway', namespaced: false, schema: gateway, emptyIsAbsent: true },
  {
    apiVersion: DECKHOUSE,
    kind: 'EgressGatewayPolicy',
    namespaced: false,
    schema: policy,
    emptyIsAbsent: true,
  },
];
