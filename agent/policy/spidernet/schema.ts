/** The schemas of Spidernet's egress resources (egressgateway.spidernet.io/v1beta1). Pure. */
import {
  count,
  document,
  flag,
  formatted,
  labelSelector,
  list,
  object,
  oneOf,
  type Schema,
  type Schemas,
  statusCount,
  text,
  texts,
} from '../json-schema.ts';
import { SPIDERNET } from '../kinds.ts';

const addressPair = object({ ipv4: formatted('ipv4-or-empty'), ipv6: formatted('ipv6-or-empty') });

const gateway = document(SPIDERNET, 'EgressGateway', false, {
  spec: object(
    {
      clusterDefault: flag(),
      ippools: object({
        ipv4: texts,
        ipv6: texts,
        ipv4DefaultEIP: formatted('ipv4-or-empty'),
        ipv6DefaultEIP: formatted('ipv6-or-empty'),
      }),
      nodeSelector: object({ selector: labelSelector, policy: text() }, ['selector']),
    },
    ['nodeSelector'],
  ),
  status: object({
    nodeList: list(
      object({
        name: text(),
        status: text(),
        eips: list(
          object({
            ipv4: formatted('ipv4-or-empty'),
            ipv6: formatted('ipv6-or-empty'),
            policies: list(object({ name: text(), namespace: text() })),
          }),
        ),
      }),
    ),
    ipUsage: object({
      ...{ ipv4Free: statusCount, ipv4Total: statusCount },
      ...{ ipv6Free: statusCount, ipv6Total: statusCount },
    }),
  }),
});

const policy = (kind: string, namespaced: boolean): Schema =>
  document(SPIDERNET, kind, namespaced, {
    spec: object(
      {
        egressGatewayName: text(),
        egressIP: object({
          ipv4: formatted('ipv4-or-empty'),
          ipv6: formatted('ipv6-or-empty'),
          useNodeIP: flag(),
          allocatorPolicy: oneOf(['default', 'rr']),
        }),
        appliedTo: object({
          podSelector: labelSelector,
          podSubnet: list(formatted('prefix')),
          ...(!namespaced && { namespaceSelector: labelSelector }),
        }),
        destSubnet: list(formatted('cidr')),
        priority: count,
      },
      ['appliedTo'],
    ),
    status: object({ eip: addressPair, node: text() }),
  });

const slice = (kind: string, namespaced: boolean): Schema =>
  document(
    SPIDERNET,
    kind,
    namespaced,
    {
      endpoints: {
        ...list(
          object({
            ns: text(),
            pod: text(),
            ipv4: list(formatted('ipv4')),
            ipv6: list(formatted('ipv6')),
            node: text(),
          }),
        ),
        maxItems: 100,
      },
    },
    [],
  );

export const SPIDERNET_SCHEMAS: Schemas = {
  EgressGateway: gateway,
  EgressPolicy: policy('EgressPolicy', true),
  EgressClusterPolicy: policy('EgressClusterPolicy', false),
  EgressEndpointSlice: slice('EgressEndpointSlice', true),
  EgressClusterEndpointSlice: slice('EgressClusterEndpointSlice', false),
};
