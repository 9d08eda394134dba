/**
 * The JSON Schemas of the documents that a policy directory may hold, by apiVersion and kind. Pure.
 *
 * They say which fields there are, of which type, form and range; what one field means for another is with
 * the translators. An unknown field is always an error: a misspelt field that is silently ignored is a policy
 * that is not obeyed.
 */

import { DECKHOUSE_KINDS } from './deckhouse/schema.ts';
import { MOST_BANDWIDTH } from './formats.ts';
import {
  anyList,
  anyObject,
  count,
  document,
  flag,
  formatted,
  INT32_MAX,
  integer,
  type Kind,
  labelSelector,
  list,
  object,
  oneOf,
  type Schema,
  text,
  textMap,
  texts,
  withDefault,
} from './json-schema.ts';
import { KUBE_OVN, KUBE_OVN_NAT_KINDS } from './kube-ovn/nat-schema.ts';
import { CORE_KINDS } from './kubernetes/schema.ts';
import { SPIDERNET_KINDS } from './spidernet/schema.ts';

export const BFD_AUTH_TYPES = [
  'simple-password',
  'keyed-md5',
  'meticulous-keyed-md5',
  'keyed-sha1',
  'meticulous-keyed-sha1',
] as const;

const side = (where: string, more: Record<string, Schema> = {}): Schema =>
  object(
    {
      interface: formatted('interface-name', 'The interface; found by itself when absent.'),
      gateways: {
        ...list(formatted('host-address'), `The next hop ${where}, at most one a family.`),
        minItems: 1,
      },
      ...more,
    },
    ['gateways'],
    `The side of the gateway pod that faces ${where}.`,
  );

const portRanges = list(
  object({ start: integer(0, 65535, 'The first port.'), end: integer(0, 65535, 'The last port.') }, [
    'start',
    'end',
  ]),
  'Ports, any of these ranges; empty: any.',
);
const tupleFilter = (description: string): Schema =>
  object(
    {
      sourceCIDRs: list(formatted('prefix'), 'Sources; empty: any.'),
      destinationCIDRs: list(formatted('prefix'), 'Destinations; empty: any.'),
      sourcePorts: portRanges,
      destinationPorts: portRanges,
    },
    [],
    description,
  );
const translationFilter = object({
  addressFamilies: list(oneOf(['ipv4', 'ipv6']), 'Address families; empty: both.'),
  protocols: list(oneOf(['tcp', 'udp', 'sctp', 'icmp', 'icmpv6', 'other']), 'Protocols; empty: all.'),
  natTypes: list(oneOf(['snat', 'dnat', 'snat_dnat']), 'Kinds of translation; empty: all.'),
  original: tupleFilter('The addresses and ports before the translation.'),
  translated: tupleFilter('The addresses and ports after it.'),
});

/** The log of translations, in the words of Kube-OVN's `observability.conntrack.log`. */
const translationLog = object(
  {
    enabled: withDefault(flag('Write a record of each translation.'), false),
    events: withDefault(list(oneOf(['start', 'end']), 'Which records.'), ['start', 'end']),
    rateLimit: object(
      {
        recordsPerSecond: withDefault(integer(1, 100_000, 'Sustained.'), 100),
        burst: withDefault(integer(1, 1_000_000, 'At once.'), 1000),
      },
      [],
      'Records beyond it are counted, not written.',
    ),
    filters: object(
      {
        include: list(translationFilter, 'Only what one of these matches; empty: all.'),
        exclude: list(translationFilter, 'Not what one of these matches; takes precedence.'),
      },
      [],
      'Which translations are recorded.',
    ),
  },
  [],
  'Who was behind which address and port, as records in the log.',
);

const owner = text('The pod or node that holds the address; every one when absent.');
const cidrs = (description: string): Schema => list(formatted('prefix'), description);
const ports: Schema = {
  type: ['integer', 'string'],
  minimum: 1,
  maximum: 65535,
  format: 'port-range',
  description: 'A port, or a range of as many ports on both sides: "8000-8010".',
};

/** `GatewayPolicy`, the resource of our own: `docs/gateway-policy.schema.json` is this value. */
export const GATEWAY_POLICY_SCHEMA: Schema = {
  $schema: 'http://json-schema.org/draft-07/schema#',
  $id: 'https://veg-agent.io/schemas/v1alpha1/gateway-policy.json',
  title: 'GatewayPolicy',
  description:
    'What one VPC egress gateway does: where its two sides are, what it translates, whom it tells.',
  ...document('veg-agent.io/v1alpha1', 'GatewayPolicy', true, {
    spec: object(
      {
        internal: side('the VPC'),
        external: side('the outside', {
          gatewayMACs: list(
            formatted('mac'),
            'The Ethernet addresses that the gateways may answer from; empty: any.',
          ),
        }),
        bfd: object(
          {
            enabled: withDefault(flag('Answer BFD. Sessions are Up only while the gateway works.'), false),
            peers: list(formatted('host-address'), 'The peers, of either family; needed when enabled.'),
            minTX: withDefault(integer(1, 60000, 'Desired Min TX Interval, milliseconds.'), 1000),
            minRX: withDefault(integer(1, 60000, 'Required Min RX Interval, milliseconds.'), 1000),
            multiplier: withDefault(integer(1, 255, 'Detect Mult.'), 3),
            mode: withDefault(oneOf(['passive', 'active'], 'Whether to speak first.'), 'passive'),
            minTTL: withDefault(integer(1, 255, 'The smallest TTL or Hop Limit that is accepted.'), 254),
            adoptDiscriminator: withDefault(
              flag('Adopt the discriminator that a configured peer still remembers.'),
              true,
            ),
            anySource: withDefault(
              flag('Take packets of a peer behind the internal gateway from every Ethernet address.'),
              false,
            ),
            auth: object(
              {
                type: oneOf(BFD_AUTH_TYPES, 'The authentication type of RFC 5880.'),
                keyID: integer(0, 255, 'Auth Key ID.'),
                keyFile: formatted('absolute-path', 'The file that holds the key.'),
              },
              ['type', 'keyID', 'keyFile'],
              'Authentication; none when absent.',
            ),
          },
          [],
          'Bidirectional Forwarding Detection.',
        ),
        policies: list(
          object({
            name: formatted('policy-name', 'Its name in metrics; "policy-<index>" when absent.'),
            snat: withDefault(flag('false: forwarded unchanged, in both directions.'), true),
            ipBlocks: cidrs('Sources, addresses or CIDRs; empty: any.'),
            destinationCIDRs: cidrs('Destinations; empty: any.'),
            excludedCIDRs: cidrs('Destinations that are excepted.'),
            priority: withDefault(integer(0, INT32_MAX, 'The lower wins; then the order.'), 1000),
            egressIP: object(
              {
                address: {
                  ...list(formatted('host-address'), 'The addresses that sources get.'),
                  minItems: 1,
                },
                announce: withDefault(flag('Hold and announce the addresses (ARP, NDP).'), true),
                owner,
              },
              ['address'],
              'The address that sources get; absent: that of the external interface.',
            ),
            portBlockSize: withDefault(integer(0, 64512, 'Ports for each source; 0: no blocks.'), 0),
          }),
          'What happens to which sources. The first match decides.',
        ),
        defaultAction: withDefault(
          oneOf(['masquerade', 'forward', 'drop'], 'What happens to all other packets from the VPC.'),
          'masquerade',
        ),
        eips: list(
          object(
            {
              externalIP: formatted('host-address', 'The address outside.'),
              internalIP: formatted('host-address', 'The address that it belongs to.'),
              owner,
            },
            ['externalIP', 'internalIP'],
          ),
          'External addresses that belong wholly to an internal one, in both directions.',
        ),
        dnats: list(
          object(
            {
              externalIP: formatted('host-address', 'The address outside.'),
              protocol: oneOf(['tcp', 'udp', 'sctp'], 'The protocol.'),
              externalPort: ports,
              internalIP: formatted('host-address', 'The address that it leads to.'),
              internalPort: ports,
              preserveClientIP: withDefault(
                flag('Do not translate the source of inbound connections.'),
                false,
              ),
              owner,
            },
            ['externalIP', 'protocol', 'externalPort', 'internalIP', 'internalPort'],
          ),
          'Ports of external addresses that lead inside.',
        ),
        inbound: withDefault(
          oneOf(
            ['forwarded', 'any'],
            'Where connections from outside may come to: what is forwarded, EIPs and DNATs, or everything inside.',
          ),
          'forwarded',
        ),
        limits: object(
          {
            connectionsPerSource: withDefault(
              integer(0, INT32_MAX, 'Connections that each source inside may have at once; 0: any number.'),
              0,
            ),
          },
          [],
          'What one source may take of the gateway.',
        ),
        mssClamp: withDefault(flag('Clamp the MSS of TCP to the path MTU.'), false),
        uplink: object(
          {
            probe: withDefault(
              oneOf(['arp', 'icmp', 'none'], 'How the external gateways are probed.'),
              'arp',
            ),
            interval: withDefault(formatted('duration', 'Between two probes, 10ms to 60s.'), '200ms'),
            failures: withDefault(integer(1, 100, 'Lost probes that make the uplink down.'), 3),
            targets: list(
              formatted('host-address'),
              'Further addresses to probe with ICMP; of those of a family one must answer.',
            ),
            recovery: withDefault(
              formatted(
                'duration',
                'How long all must work after a failure before BFD comes back, 0s to 10m.',
              ),
              '1s',
            ),
          },
          [],
          'What must work outside for BFD to be Up.',
        ),
        translationLog,
      },
      ['internal', 'external'],
    ),
  }),
};

const requirement = object(
  { key: text(), operator: oneOf(['In', 'NotIn', 'Exists', 'DoesNotExist', 'Gt', 'Lt']), values: texts },
  ['key', 'operator'],
);

const quantities: Schema = {
  type: 'object',
  additionalProperties: { type: ['integer', 'string'], format: 'quantity' },
};
const resources = object({ limits: quantities, requests: quantities, claims: anyList });
const bandwidth: Schema = {
  type: ['integer', 'string'],
  minimum: 0,
  maximum: MOST_BANDWIDTH,
  format: 'bandwidth',
};

const VPC_EGRESS_GATEWAY_SCHEMA = document(KUBE_OVN, 'VpcEgressGateway', true, {
  spec: object(
    {
      vpc: text(),
      internalSubnet: text(),
      externalSubnet: { type: 'string', minLength: 1 },
      internalIPs: list(formatted('address-pair')),
      internalIPPool: text(),
      externalIPs: list(formatted('address-pair')),
      externalIPPool: text(),
      bfd: object({
        enabled: flag(),
        minRX: integer(1, 3_600_000),
        minTX: integer(1, 3_600_000),
        multiplier: integer(1, 255),
      }),
      policies: list(object({ snat: flag(), ipBlocks: list(formatted('prefix')), subnets: texts })),
      selectors: list(object({ namespaceSelector: labelSelector, podSelector: labelSelector })),
      replicas: integer(0, 10),
      prefix: formatted('name-prefix'),
      image: text(),
      bgpConf: text(),
      evpnConf: text(),
      nodeSelector: list(
        object({ matchLabels: textMap, matchExpressions: list(requirement), matchFields: list(requirement) }),
      ),
      podAntiAffinity: oneOf(['Required', 'Preferred']),
      tolerations: list(
        object({
          key: text(),
          operator: oneOf(['Exists', 'Equal', 'Lt', 'Gt', '']),
          value: text(),
          effect: oneOf(['NoSchedule', 'PreferNoSchedule', 'NoExecute', '']),
          tolerationSeconds: { type: 'integer' },
        }),
      ),
      trafficPolicy: oneOf(['Cluster', 'Local']),
      resources,
      bandwidth: object({ ingress: bandwidth, egress: bandwidth }),
      observability: object({
        resources,
        interfaceMetrics: object({ enabled: flag() }),
        conntrack: object({ metrics: object({ enabled: flag() }), log: translationLog }),
        serviceMonitor: object({ labels: textMap, annotations: textMap }),
      }),
    },
    ['externalSubnet'],
  ),
  status: anyObject,
});

const SUBNET_SCHEMA = document(KUBE_OVN, 'Subnet', false, {
  spec: object({
    // A network without addresses: nothing of a gateway is there.
    protocol: oneOf(['IPv4', 'IPv6', 'Dual', 'Mac']),
    cidrBlock: formatted('cidr-pair'),
    gateway: formatted('host-address-pair'),
    provider: text(),
    vpc: text(),
    excludeIps: texts,
    acls: anyList,
    allowEWTraffic: flag(),
    allowSubnets: texts,
    default: flag(),
    dhcpV4Options: text(),
    dhcpV6Options: text(),
    disableGatewayCheck: flag(),
    disableInterConnection: flag(),
    enableDHCP: flag(),
    enableEcmp: flag(),
    enableExternalLBAddress: flag(),
    enableIPv6RA: flag(),
    enableLb: flag(),
    enableMulticastSnoop: flag(),
    externalEgressGateway: text(),
    gatewayNode: text(),
    gatewayNodeSelectors: list(labelSelector),
    gatewayType: text(),
    ipv6RAConfigs: text(),
    logicalGateway: flag(),
    mtu: count,
    namespaceSelectors: list(labelSelector),
    namespaces: texts,
    natOutgoing: flag(),
    natOutgoingPolicyRules: anyList,
    nodeNetwork: text(),
    policyRoutingPriority: count,
    policyRoutingTableID: count,
    private: flag(),
    routeTable: text(),
    u2oFeatures: anyObject,
    u2oInterconnection: flag(),
    u2oInterconnectionIP: text(),
    vips: texts,
    vlan: text(),
  }),
  status: anyObject,
});

const VPC_SCHEMA = document(
  KUBE_OVN,
  'Vpc',
  false,
  {
    spec: object({
      bfdPort: object({ enabled: flag(), ip: formatted('host-address-pair'), nodeSelector: labelSelector }),
      defaultSubnet: text(),
      dynamicRouting: anyObject,
      enableBfd: flag(),
      enableExternal: flag(),
      extraExternalSubnets: texts,
      namespaces: texts,
      policyRoutes: anyList,
      staticRoutes: anyList,
      vpcPeerings: anyList,
    }),
    status: anyObject,
  },
  [],
);

const kubeOvn = (kind: string, namespaced: boolean, schema: Schema): Kind => ({
  apiVersion: KUBE_OVN,
  kind,
  namespaced,
  schema,
  emptyIsAbsent: true,
});

export const KINDS: readonly Kind[] = [
  {
    apiVersion: 'veg-agent.io/v1alpha1',
    kind: 'GatewayPolicy',
    namespaced: true,
    schema: GATEWAY_POLICY_SCHEMA,
    // Blocks that were all commented out must not come to mean "any source".
    emptyIsAbsent: false,
  },
  kubeOvn('VpcEgressGateway', true, VPC_EGRESS_GATEWAY_SCHEMA),
  kubeOvn('Subnet', false, SUBNET_SCHEMA),
  kubeOvn('Vpc', false, VPC_SCHEMA),
  ...KUBE_OVN_NAT_KINDS,
  ...DECKHOUSE_KINDS,
  ...SPIDERNET_KINDS,
  ...CORE_KINDS,
];
