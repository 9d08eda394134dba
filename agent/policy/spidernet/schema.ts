/** The schemas of Spidernet's egress resources (egressgateway.spidernet.io/v1beta1). Pure. */
import {
  document,
  flag,
  formatted,
  integer,
  type Kind,
  labelSelector,
  list,
  object,
  oneOf,
  type Schema,
  text,
  texts,
} from '../json-schema.ts';

export const SPIDERNET = 'egressgateway.spidernet.io/v1beta1';

const count = integer(0, 2 ** 31 - 1);
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
    ipUsage: object({ ipv4Free: count, ipv4Total: count, ipv6Free: count, ipv6Total: count }),
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
        priority: integer(0, 2 ** 31 - 1),
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

interface Endpoint {
  ipv4?: string[];
  ipv6?: string[];
}

/** All addresses of a slice as those of one endpoint. */
function condenseSlice({ endpoints, ...rest }: Record<string, unknown>): Record<string, unknown> {
  if (!Array.isArray(endpoints)) return rest;
  const all = (family: keyof Endpoint) => (endpoints as Endpoint[]).flatMap((one) => one?.[family] ?? []);
  return { ...rest, endpoints: [{ ipv4: all('ipv4'), ipv6: all('ipv6') }] };
}

const kind = (name: string, namespaced: boolean, schema: Schema): Kind => ({
  apiVersion: SPIDERNET,
  kind: name,
  namespaced,
  schema,
  emptyIsAbsent: true,
});

export const SPIDERNET_KINDS: readonly Kind[] = [
  kind('EgressGateway', false, gateway),
  kind('EgressPolicy', true, policy('EgressPolicy', true)),
  kind('EgressClusterPolicy', false, policy('EgressClusterPolicy', false)),
  ...[true, false].map((namespaced) => {
    const name = namespaced ? 'EgressEndpointSlice' : 'EgressClusterEndpointSlice';
    return { ...kind(name, namespaced, slice(name, namespaced)), condense: condenseSlice };
  }),
];
