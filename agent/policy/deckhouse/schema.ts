/** The schemas of Deckhouse's `EgressGateway` and `EgressGatewayPolicy` (network.deckhouse.io/v1alpha1). Pure. */
import {
  anyList,
  document,
  formatted,
  labelSelector,
  list,
  object,
  oneOf,
  type Schemas,
  statusCount,
  text,
  textMap,
} from '../json-schema.ts';
import { DECKHOUSE } from '../kinds.ts';

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
    readyNodes: statusCount,
    observedGeneration: statusCount,
    conditions: anyList,
  }),
});

const policy = document(DECKHOUSE, 'EgressGatewayPolicy', false, {
  spec: object(
    {
      egressGatewayName: formatted('non-empty'),
      destinationCIDRs: list(formatted('prefix')),
      excludedCIDRs: list(formatted('prefix')),
      selectors: list(object({ podSelector: labelSelector }, ['podSelector'])),
    },
    ['egressGatewayName'],
  ),
});

export const DECKHOUSE_SCHEMAS: Schemas = { EgressGateway: gateway, EgressGatewayPolicy: policy };
